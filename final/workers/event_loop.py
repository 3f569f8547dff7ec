"""An asyncio event loop in a thread of its own.

But: it knows nothing of jobs. What begins there, and what becomes of it, is ``coroutines.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

# How long the end of a queue waits for what is still on its loops.
CLOSE_SECONDS = 1.0


class _Threads(ThreadPoolExecutor):
    """For ``asyncio.to_thread``: a thread for each call.

    In a pool of so many the calls that wait for each other's jobs could fill it; and its threads
    are waited for when the program ends. Where the system has no thread left, a call waits for one
    of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mutex = threading.Lock()  # guards the next two
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._at_work = 0  # threads

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._mutex:
            self._calls.append((future, partial(call, *args, **kwargs)))
            try:
                threading.Thread(target=self._work, name="final-to-thread", daemon=True).start()
                self._at_work += 1
            except RuntimeError:
                if not self._at_work:  # nobody would ever take it
                    self._calls.pop()
                    raise
        return future

    def _work(self) -> None:
        while True:
            with self._mutex:
                if not self._calls:
                    self._at_work -= 1
                    return
                future, call = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                _carry_out(call, future)
            del future, call  # nobody else may need them any more


def _carry_out(call: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
        del future  # or the error would hold itself: its traceback has this frame


class EventLoop:
    """One that outlives whatever is raised there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Threads())
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
        """Cancel what still runs, and end. Asked again, it does nothing more."""
        self.call(self._stop)

    def join(self) -> None:
        """Wait until it has ended, but not for a coroutine that blocks it: this is a daemon."""
        self._thread.join(timeout=2 * CLOSE_SECONDS)

    def _run(self) -> None:
        # A task that a handler has started may raise SystemExit, or stop the loop.
        while not self._leaving:
            with contextlib.suppress(BaseException):
                self._loop.run_forever()
        with contextlib.suppress(BaseException):
            self._loop.set_task_factory(None)  # one that a handler has set
            self._loop.run_until_complete(_cancel_all())
        self._loop.close()

    def _start_ending(self) -> None:
        self._ending = asyncio.Task(self._end_when_idle(), loop=self._loop)

    async def _end_when_idle(self) -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        self._stop()

    def _stop(self) -> None:
        """On the loop, so whoever is interrupted in asking for it may ask again."""
        if not self._leaving:  # else it cancels already, and must not stop in that
            self._leaving = True
            self._loop.stop()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        if not task.cancelling():  # else it is cleaning up
            task.cancel()
    if others:
        await asyncio.wait(others, timeout=CLOSE_SECONDS)
