"""Coroutines: what handlers return to be awaited, on one event loop for all of them.

The worker waits for its end, so never more than ``workers`` of them are under way. One that
is told to stop is cancelled, once, and may clean up for ``GRACE_SECONDS``. If it goes on after
that it is left behind, as a thread is, and its worker is free.

But: one that blocks the loop holds up every other one: with ``time.sleep``,
``current_job().sleep``, or a call that waits (``enqueue`` into a full lane, ``wait``, ``map``:
these are refused). Instead there are ``await asyncio.sleep(seconds)`` and
``await asyncio.to_thread(queue.enqueue, job)``. A loop that is blocked for ``GRACE_SECONDS``
is left to those that have begun on it; the others get a fresh one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from final.errors import PermanentFailure
from final.workers.attempts import Runner
from final.workers.current import enter_coroutine
from final.workers.undone import discard

# How long a coroutine that was cancelled may clean up, and how long one waits to begin.
GRACE_SECONDS = 5.0
# How long the end of a queue waits for what is still on its loops.
CLOSE_SECONDS = 1.0


class CoroutineRunner(Runner):
    """For coroutine functions: all their work is on the loop, so it can always be stopped."""

    can_stop = True


class EventLoops:
    """The event loop of a queue, and former ones that a coroutine has blocked."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # guards _closed and changes of _loops
        self._closed = False
        self._loops: list[EventLoop] = []  # the last one is where coroutines begin

    def start(self) -> EventLoop:
        """The loop where coroutines begin; started for the first of them."""
        with self._mutex:
            if self._closed:
                raise RuntimeError("The queue is closed.")
            if not self._loops:
                self._loops = [EventLoop()]
            return self._loops[-1]

    def wait_for(self, awaitable: object) -> object:
        """Wait for its end, and return or raise what it does. For a worker, inside an attempt."""
        batch, task, told = enter_coroutine()
        run = _Run(awaitable)

        def stop() -> None:
            if batch.told is task:  # and not another job of this batch
                told.set()
                run.cancel()

        batch.stop, batch.on_loop = stop, True
        stop()  # it may have been told before it could be heard
        try:
            self._begin(run)
            run.news.wait()
            if not run.ended.wait(GRACE_SECONDS):
                self._leave_behind(run)
        finally:
            batch.stop, batch.on_loop = None, False
        return run.result()

    def _begin(self, run: _Run) -> None:
        """Let it begin, on a fresh loop if a coroutine blocks the one that there is."""
        try:
            while True:
                loop = self.start()
                loop.call(run.begin, loop)
                if run.news.wait(GRACE_SECONDS) or run.has_begun():
                    return
                self._replace(loop)
        except BaseException:  # the queue has closed, or there is no thread for a loop
            run.cancel()
            raise

    def _leave_behind(self, run: _Run) -> None:
        if not run.heard and run.loop is not None:
            self._replace(run.loop)
        raise RuntimeError(
            f"The coroutine was told to stop and went on for {GRACE_SECONDS:g} s: left behind."
        )

    def _replace(self, blocked: EventLoop) -> None:
        """Let what has begun there end there, and the next coroutines begin elsewhere."""
        with self._mutex:
            if not self._closed and self._loops[-1] is blocked:
                fresh = EventLoop()
                blocked.retire()
                self._loops = [loop for loop in self._loops if loop.is_alive()] + [fresh]

    def is_current_thread(self) -> bool:
        """Whether the caller is a coroutine of these."""
        return any(loop.is_current_thread() for loop in self._loops)

    def close(self) -> None:
        """Cancel what still runs, and end the threads. May be called again, from any thread."""
        with self._mutex:
            self._closed = True
            for loop in self._loops:
                loop.leave()
        for loop in self._loops:
            loop.join()


class EventLoop:
    """One asyncio event loop in a thread of its own, which outlives whatever is raised there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._leaving = False
        self._ending: asyncio.Task[None] | None = None  # held here, since a loop holds none
        self._thread = threading.Thread(target=self._run, name="final-asyncio", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call it on the loop, soon: not before a coroutine that blocks it goes on."""
        with contextlib.suppress(RuntimeError):  # it has just been closed
            self._loop.call_soon_threadsafe(callback, *arguments)

    def retire(self) -> None:
        """End when all that has begun here has ended."""
        self.call(self._start_ending)

    def leave(self) -> None:
        """Cancel what still runs, and end. Not for two threads at a time."""
        if not self._leaving:
            self._leaving = True
            self.call(self._loop.stop)

    def join(self) -> None:
        """Wait until it has ended, but not for a coroutine that blocks it: this is a daemon."""
        self._thread.join(timeout=2 * CLOSE_SECONDS)

    def _run(self) -> None:
        # A task that a handler has started may raise SystemExit, or stop the loop.
        while not self._leaving:
            with contextlib.suppress(BaseException):
                self._loop.run_forever()
        with contextlib.suppress(BaseException):
            self._loop.run_until_complete(_cancel_all())
        self._loop.close()

    def _start_ending(self) -> None:
        self._ending = self._loop.create_task(self._end_when_idle())

    async def _end_when_idle(self) -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        self._leaving = True
        self._loop.stop()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        if not task.cancelling():  # else it is cleaning up
            task.cancel()
    if others:
        await asyncio.wait(others, timeout=CLOSE_SECONDS)


class _Run:
    """One awaitable on its way. Waited on by its worker: ``news``, then ``ended``.

    news: it has ended, or was told to stop. heard: whether its loop has taken that in.
    loop: where it has begun.
    """

    def __init__(self, awaitable: object) -> None:
        self.news = threading.Event()
        self.ended = threading.Event()
        self.heard = False
        self.loop: EventLoop | None = None
        self._awaitable = awaitable
        self._claim = threading.Lock()  # never released: taken by who begins it, or calls it off
        self._task: asyncio.Task[None] | None = None
        self._told = False
        self._value: object = None
        self._error: BaseException | None = None

    # ---- for the worker and the dispatcher -------------------------------------------------

    def has_begun(self) -> bool:
        return self._claim.locked()

    def cancel(self) -> None:
        """Tell it to stop; if it has not begun, it never will."""
        self._told = True  # first this, then the look at the loop: `begin` does the reverse
        if self._claim.acquire(blocking=False):
            discard(self._awaitable)
            self._end(asyncio.CancelledError())
        elif self.loop is not None:
            self.loop.call(self._hear)
        self.news.set()

    def result(self) -> object:
        if self._error is not None:
            raise self._error
        return self._value

    # ---- on the loop -----------------------------------------------------------------------

    def begin(self, loop: EventLoop) -> None:
        if self._claim.acquire(blocking=False):
            self._task = asyncio.get_running_loop().create_task(self._to_its_end())
            self.loop = loop
            if self._told:
                loop.call(self._hear)

    def _hear(self) -> None:
        """Cancel it, once: a second time would end its cleaning up."""
        if not self.heard and self._task is not None:
            self.heard = True
            self._task.cancel()

    async def _to_its_end(self) -> None:
        # Whatever it raises ends here. Of SystemExit and KeyboardInterrupt the loop would end.
        try:
            self._value = await awaited(self._awaitable)
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self.ended.set()
        self.news.set()


def awaited(value: Any) -> Any:
    """What can be awaited on this loop for ``value``."""
    if isinstance(value, concurrent.futures.Future):
        return asyncio.wrap_future(value)
    home = value.get_loop() if asyncio.isfuture(value) and not value.done() else None
    if home not in (None, asyncio.get_running_loop()):
        raise PermanentFailure(
            f"The handler returned a {type(value).__name__} of another event loop: return the "
            "coroutine itself, and the queue's own loop runs it."
        )
    return value
