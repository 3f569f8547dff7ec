"""Coroutines: what handlers return to be awaited, on one event loop for all of them.

No thread waits for what a coroutine function returns: its batch comes back to the pool with the
end, so ten thousand that wait are tasks of the loop, and nothing else. For what comes of another
function, or has middleware around it, its thread waits. Either way never more than ``workers`` of
them are under way. One that is told to stop is cancelled, once, and may clean up for
``GRACE_SECONDS``. If it goes on after that it is left behind, as a thread is, and its worker is
free.

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
import math
import queue
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from itertools import takewhile
from typing import Any

from final.errors import PermanentFailure
from final.job import Task
from final.workers import forks
from final.workers.attempts import LATER, Ending, Handler, Runner, failure, job_of, success
from final.workers.batch import Batch
from final.workers.current import enter_coroutine
from final.workers.event_loop import EventLoop
from final.workers.undone import discard, finish, is_awaitable

# How long a coroutine that was cancelled may clean up, and how long one waits to begin.
GRACE_SECONDS = 5.0


class CoroutineRunner(Runner):
    """For coroutine functions: all their work is on the loop, so it can always be stopped."""

    can_stop = True

    def __init__(self, handler: Handler, max_result: int, loops: EventLoops) -> None:
        super().__init__(handler, max_result)
        self._loops = loops

    def run(self, batch: Batch, task: Task) -> Ending:
        return copy_context().run(self._follow, lambda: self._handler(job_of(task)), False)

    def go_on(self, batch: Batch) -> Ending | None:
        run, batch.awaited = batch.awaited, None
        assert isinstance(run, _Run), "its end has brought the batch here"
        if run.withdrawn:
            return None
        return run.context.run(self._follow, run.result, True)

    def _follow(self, call: Callable[[], object], has_begun: bool) -> Ending:
        """What comes of the call: an end, or LATER if what it returns is to be awaited.

        So may be what comes of that: ``async def f(job): return g(job)``.
        """
        try:
            value = call()
            if is_awaitable(value):
                self._loops.begin(value, _come_back, has_begun)
                return LATER
            value = finish(value, None)
        except BaseException as error:
            return failure(error)
        return success(value, self._max_result)


def _come_back(run: _Run) -> None:
    batch = run.batch
    assert batch.pool is not None, "a worker had it"
    batch.awaited = run
    batch.pool.deliver(batch)


class EventLoops:
    """The event loop of a queue, and former ones that a coroutine has blocked.

    One thread watches over what is to begin, or to end, within ``GRACE_SECONDS``.
    """

    def __init__(self) -> None:
        # Guards _closed, _watched with `told` of each, and changes of _loops. Reentrant, since a
        # signal handler may close the queue in the middle of a close.
        self._mutex = threading.RLock()
        self._closed = False
        self._loops: list[EventLoop] = []  # the last one is where coroutines begin
        self._watched: dict[_Run, float] = {}  # until when (monotonic); the first is due first
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()
        self._depth = forks.depth  # in a fork there are none of these threads

    def start(self) -> None:
        """Start the loop where coroutines begin, if this is the first of them."""
        with self._mutex:
            self._start()

    def _start(self) -> EventLoop:
        if self._closed:
            raise RuntimeError("The queue is closed.")
        if not self._loops:
            self._loops = [EventLoop()]
        if self._watcher is None:
            name = "final-asyncio-watch"
            watcher = threading.Thread(target=self._watch, name=name, daemon=True)
            watcher.start()
            self._watcher = watcher
        return self._loops[-1]

    def wait_for(self, awaitable: object) -> object:
        """Wait for its end, and return or raise what it does. For a worker, inside an attempt."""
        if forks.depth != self._depth:
            discard(awaitable)
            raise RuntimeError(
                "A fork that comes back from a handler has no event loop to await on."
            )
        ended: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        self.begin(awaitable, ended.put)
        return ended.get().result()

    def begin(
        self, awaitable: object, on_end: Callable[[_Run], object], has_begun: bool = True
    ) -> None:
        """Let it begin, soon. For a worker, inside an attempt.

        ``on_end`` is called once, in any thread, maybe before this returns. ``has_begun``: the
        handler, of which this goes on; else it begins with this, and can be withdrawn until then.
        """
        batch, task = enter_coroutine()
        run = _Run(awaitable, batch, on_end, self)

        def stop() -> None:
            if batch.told is task:  # and not another job of this batch
                run.cancel()

        batch.stop, batch.on_loop = stop, True
        if not has_begun:
            batch.withdraw = lambda: task if run.withdraw() else None
        stop()  # it may have been told before it could be heard
        self._hand_over(run)

    def _hand_over(self, run: _Run) -> None:
        try:
            with self._mutex:
                loop = run.handed_to = self._start()
                self._watch_over(run)
            loop.call(run.begin, loop)
        except BaseException as error:  # the queue has closed, or there is no thread for a loop
            run.call_off(error)

    def is_current_thread(self) -> bool:
        """Whether the caller is a coroutine of these."""
        return any(loop.is_current_thread() for loop in self._loops)

    def close(self) -> None:
        """Cancel what still runs, and end the threads. May be called again, from any thread."""
        with self._mutex:
            self._closed = True
            for loop in self._loops:
                loop.leave()
        self._over.set()
        for loop in self._loops:
            loop.join()
        if self._watcher is not None:
            self._watcher.join()
        for run in list(self._watched):  # nobody else will end these
            if not run.call_off(RuntimeError("The queue is closed.")):
                self._leave_behind(run)

    # ---- watching --------------------------------------------------------------------------

    def told(self, run: _Run) -> None:
        """It was told to stop, for the first time."""
        with self._mutex:
            run.told = True
            self._watch_over(run)

    def begun(self, run: _Run) -> None:
        with self._mutex:
            if not run.told:
                self._watched.pop(run, None)

    def ended(self, run: _Run) -> None:
        with self._mutex:
            self._watched.pop(run, None)

    def _watch_over(self, run: _Run) -> None:
        self._watched.pop(run, None)
        if not run.has_ended():
            self._watched[run] = time.monotonic() + GRACE_SECONDS

    def _watch(self) -> None:
        """The thread that watches. What comes while it sleeps is not due before it wakes."""
        pause = GRACE_SECONDS
        while not self._over.wait(pause):
            now = time.monotonic()
            for run, was_told in self._take_due(now):
                if was_told:
                    self._leave_behind(run)
                else:
                    self._begin_elsewhere(run)
            with self._mutex:
                next_due = next(iter(self._watched.values()), math.inf)
            pause = max(0.0, min(GRACE_SECONDS, next_due - now))

    def _take_due(self, now: float) -> list[tuple[_Run, bool]]:
        """And whether they were told to stop. (Else they have not begun.)"""
        with self._mutex:
            due = list(takewhile(lambda run: self._watched[run] <= now, self._watched))
            for run in due:
                del self._watched[run]
            return [(run, run.told) for run in due]

    def _begin_elsewhere(self, run: _Run) -> None:
        """A coroutine blocks the loop that it was handed to, if it has not begun just now."""
        if run.has_begun():
            return
        try:
            self._replace(run.handed_to)
        except BaseException as error:  # there is no thread for a loop
            run.call_off(error)
        else:
            self._hand_over(run)

    def _leave_behind(self, run: _Run) -> None:
        if not run.heard:
            with contextlib.suppress(Exception):  # no thread for a loop: the next one may get it
                self._replace(run.loop)
        error = f"The coroutine was told to stop and went on for {GRACE_SECONDS:g} s: left behind."
        run.end(RuntimeError(error))

    def _replace(self, blocked: EventLoop | None) -> None:
        """Let what has begun there end there, and the next coroutines begin elsewhere."""
        with self._mutex:
            if not self._closed and self._loops[-1] is blocked:
                fresh = EventLoop()
                blocked.retire()
                self._loops = [loop for loop in self._loops if loop.is_alive()] + [fresh]


class _Run:
    """One awaitable on its way to its end. ``on_end`` gets it then: once, in any thread.

    context: that of its attempt. handed_to: the loop where it is to begin; loop: where it has
    begun. told: to stop. heard: whether its loop has taken that in. withdrawn: its job was taken
    back before it began.
    """

    __slots__ = (
        "_awaitable",
        "_claim",
        "_end",
        "_error",
        "_loops",
        "_on_end",
        "_task",
        "_value",
        "batch",
        "context",
        "handed_to",
        "heard",
        "loop",
        "told",
        "withdrawn",
    )

    def __init__(
        self,
        awaitable: object,
        batch: Batch,
        on_end: Callable[[_Run], object],
        loops: EventLoops,
    ) -> None:
        self.batch = batch
        self.context = copy_context()
        self.handed_to: EventLoop | None = None
        self.loop: EventLoop | None = None
        self.told = False
        self.heard = False
        self.withdrawn = False
        self._awaitable = awaitable
        self._on_end = on_end
        self._loops = loops
        # Never released: taken by who begins it, or calls it off; and by who ends it.
        self._claim = threading.Lock()
        self._end = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._value: object = None
        self._error: BaseException | None = None

    # ---- in any thread ---------------------------------------------------------------------

    def has_begun(self) -> bool:
        return self._claim.locked()

    def has_ended(self) -> bool:
        return self._end.locked()

    def cancel(self) -> None:
        """Tell it to stop; if it has not begun, it never will."""
        if self.told:
            return
        self._loops.told(self)  # first this, then the look at the loop: `begin` does the reverse
        if not self.call_off(asyncio.CancelledError()) and self.loop is not None:
            self.loop.call(self._hear)

    def withdraw(self) -> bool:
        """Take its job back before it begins; False if it has begun."""
        return self.call_off(asyncio.CancelledError(), withdrawn=True)

    def call_off(self, error: BaseException, withdrawn: bool = False) -> bool:
        """End it before it begins; False if it has begun."""
        if not self._claim.acquire(blocking=False):
            return False
        self.withdrawn = withdrawn
        discard(self._awaitable)
        self.end(error)
        return True

    def end(self, error: BaseException | None) -> None:
        if self._end.acquire(blocking=False):
            self._error = error
            self._loops.ended(self)
            self._on_end(self)

    def result(self) -> object:
        """For the worker that has the batch, after the end."""
        self.batch.stop, self.batch.on_loop = None, False
        if self._error is not None:
            raise self._error
        return self._value

    # ---- on the loop -----------------------------------------------------------------------

    def begin(self, loop: EventLoop) -> None:
        if self._claim.acquire(blocking=False):
            # A copy: this loop may be in it still, when the worker that is told of the end is.
            context = self.context.copy()
            here = asyncio.get_running_loop()
            # Not by ``create_task``: a handler may have set a task factory, which may do anything.
            self._task = asyncio.Task(self._to_its_end(), loop=here, context=context)
            self._task.add_done_callback(self._over)
            self.loop = loop
            self._loops.begun(self)
            if self.told:
                loop.call(self._hear)

    def _over(self, _: object) -> None:
        """It has ended itself, unless its task was cancelled (by another one) before it began."""
        if not self.has_ended():
            discard(self._awaitable)
            self.end(asyncio.CancelledError())

    def _hear(self) -> None:
        """Cancel it, once: a second time would end its cleaning up."""
        if not self.heard and self._task is not None:
            self.heard = True
            self._task.cancel()

    async def _to_its_end(self) -> None:
        # Whatever it raises ends here. Of SystemExit and KeyboardInterrupt the loop would end.
        try:
            with forks.ended():
                self._value = await awaited(self._awaitable)
        except BaseException as error:
            self.end(error)
        else:
            self.end(None)


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
