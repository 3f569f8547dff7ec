"""Runners: how one attempt is made. In the worker's thread, as a coroutine, or in a process.

``Handlers`` finds the runner for a kind of job. Every runner gives back an ``Ending``,
whatever the handler does: an exception, also SystemExit or KeyboardInterrupt, ends the
attempt and not the worker.

But: processes are started with ``spawn``, since a fork of a program with threads may
inherit a lock that nobody will release. So a handler must be importable, and a script
needs its ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Literal, NamedTuple

from final.current import CurrentJob, current_job, enter_job
from final.errors import PermanentFailure
from final.job import Job, Task
from final.messages import Batch
from final.payload import Stored, decode, encode

Handler = Callable[[Job], object]


class Ending(NamedTuple):
    """How an attempt ended; the fields are those of ``Outcome``."""

    result: Stored | None = None
    note: str | None = None
    error: str | None = None
    traceback: str = ""
    permanent: bool = False


class Runner:
    """Runs the handler in the worker's thread. ``max_result``: bytes that a result may take.

    can_stop: whether ``batch.stop()`` frees the worker, whatever the handler does.
    """

    can_stop = False

    def __init__(self, handler: Handler, max_result: int) -> None:
        self._handler = handler
        self._max_result = max_result

    def prepare(self) -> None:
        """Get ready: the attempt's time has not begun."""

    def run(self, batch: Batch, task: Task) -> Ending:
        return attempt(self._handler, task, self._max_result)

    def close(self) -> None:
        """The queue has closed."""


class CoroutineRunner(Runner):
    """Runs the handler on the queue's event loop; the worker waits for it.

    But: there is one loop for all. A handler that blocks it holds up every other one: with
    ``time.sleep``, ``current_job().sleep``, or ``enqueue``, which is refused if the lane is full.
    Instead there are ``await asyncio.sleep(seconds)`` and
    ``await asyncio.to_thread(queue.enqueue, job)``.
    """

    can_stop = True

    def __init__(self, handler: Handler, max_result: int, loop: EventLoop) -> None:
        super().__init__(handler, max_result)
        self._loop = loop

    def run(self, batch: Batch, task: Task) -> Ending:
        def call(job: Job) -> object:
            # The coroutine inherits it, and may outlast this batch: a `finally:` takes its time.
            enter_job(current_job())
            coroutine: Any = self._handler(job)
            future = self._loop.submit(coroutine)
            batch.stop = future.cancel
            if batch.told is task:  # told before it could be heard
                future.cancel()
            return future.result()

        return attempt(call, task, self._max_result)

    def close(self) -> None:
        self._loop.close()


class ProcessRunner(Runner):
    """Runs the handler in a process that belongs to the calling worker, one job at a time.

    A process of its own for each worker, so that one that crashes takes no other job along.
    It is started for the worker's first job and again after a crash or a time-out.
    """

    can_stop = True

    def __init__(self, handler: Handler, max_result: int, processes: Processes) -> None:
        super().__init__(handler, max_result)
        self._processes = processes

    def prepare(self) -> None:
        with contextlib.suppress(Exception):  # `run` meets it again, and reports it
            self._processes.mine()

    def run(self, batch: Batch, task: Task) -> Ending:
        try:
            executor, kill = self._processes.mine()
            batch.stop = kill
            if batch.told is task:
                kill()
            current = current_job()
            job = CurrentJob(task, current.attempt, current.token, current.deadline, None)
            future = executor.submit(
                _attempt_in_process, self._handler, task, job, self._max_result
            )
            return future.result()
        except BrokenProcessPool:
            self._processes.discard()
            return Ending(
                error="ProcessDied: the handler's process ended before the handler did "
                "(a crash, os._exit, out of memory, or killed for its time-out)."
            )
        except BaseException as error:
            return _failure(error)

    def close(self) -> None:
        self._processes.close()


def attempt(handler: Handler, task: Task, max_result: int) -> Ending:
    """Call the handler, and turn whatever comes of it into an Ending."""
    try:
        value = handler(_job(task))
    except BaseException as error:
        return _failure(error)
    if value is None:
        return NOTHING_TO_KEEP
    try:
        return Ending(result=encode("The result", value, max_result))
    except (TypeError, ValueError) as error:
        # The work is done and must not be done again, so the job completes without it.
        return Ending(note=f"{error} The job completed; its result is not kept.")


NOTHING_TO_KEEP = Ending()


def _attempt_in_process(handler: Handler, task: Task, job: CurrentJob, max_result: int) -> Ending:
    enter_job(job)
    return attempt(handler, task, max_result)


def _job(task: Task) -> Job:
    """What the handler gets: the very Job that was enqueued, if nobody can have changed it."""
    return task.job or Job(
        task.id, decode(task.payload), task.priority, task.kind, None, task.timeout
    )


def _failure(error: BaseException) -> Ending:
    try:
        # The first of these is the error itself, also one whose text cannot be had; after it
        # come its notes. (A SyntaxError has its message last.)
        lines = traceback.format_exception_only(error)
        line = lines[-1 if isinstance(error, SyntaxError) else 0]
        trace = "".join(traceback.format_exception(error))
    except BaseException as trouble:  # code of the error's own, which ran to describe it
        line, trace = f"{type(error).__name__}: {type(trouble).__name__} in describing it", ""
    return Ending(
        error=_storable(" ".join(line.split())),
        traceback=_storable(trace),
        permanent=isinstance(error, PermanentFailure),
    )


def _storable(text: str) -> str:
    """Without the lone surrogates that a file name may bring along."""
    return text.encode("utf-8", "backslashreplace").decode()


class EventLoop:
    """One asyncio event loop in a thread of its own, started for the first coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="final-asyncio")
        self._thread.daemon = True
        self._thread.start()
        self._closing = threading.Lock()  # held by whoever closes; the next one finds it closed

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Any) -> concurrent.futures.Future[object]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel what still runs, and end the thread. May be called again, from any thread."""
        with self._closing:
            if self._loop.is_closed():
                return
            with contextlib.suppress(
                concurrent.futures.TimeoutError, concurrent.futures.CancelledError
            ):
                self.submit(_cancel_all()).result(timeout=1.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=1.0)
            if not self._thread.is_alive():  # else a coroutine blocks it: it is a daemon
                self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Processes:
    """A process for each worker thread, as executors of one. They know the ``handlers``."""

    def __init__(self, handlers: list[Handler]) -> None:
        self._handlers = handlers
        self._mine = threading.local()
        self._mutex = threading.Lock()  # guards _all and _closed
        self._closed = False
        self._all: dict[ProcessPoolExecutor, Callable[[], None]] = {}

    def mine(self) -> tuple[ProcessPoolExecutor, Callable[[], None]]:
        """The executor of the calling thread, and what kills its process."""
        executor: ProcessPoolExecutor | None = getattr(self._mine, "executor", None)
        if executor is None:
            executor = self._mine.executor = self._start()
        with self._mutex:
            self._check_open()
            return executor, self._all[executor]

    def _start(self) -> ProcessPoolExecutor:
        with self._mutex:
            self._check_open()
        executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        kill = partial(_kill, executor.submit(_meet, self._handlers).result())
        try:
            with self._mutex:
                self._check_open()  # again: a process takes its time to start
                self._all[executor] = kill
        except RuntimeError:
            kill()
            executor.shutdown(wait=False)
            raise
        return executor

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("The queue is closed.")

    def discard(self) -> None:
        """The process of the calling thread is gone; the next job gets a new one."""
        executor: ProcessPoolExecutor | None = getattr(self._mine, "executor", None)
        self._mine.executor = None
        if executor is not None:
            with self._mutex:
                self._all.pop(executor, None)
            executor.shutdown(wait=False)

    def close(self) -> None:
        """End all processes, busy ones too. May be called again."""
        with self._mutex:
            executors, self._all, self._closed = self._all, {}, True
        for executor, kill in executors.items():
            kill()
            executor.shutdown(wait=True)


def _meet(handlers: list[Handler]) -> int:
    """Called in a new process. To get there, the handlers' modules have been imported."""
    return os.getpid()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # Windows has no SIGKILL: there SIGTERM ends a process at once.
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


# Where one handler runs all kinds. No job is of this kind: that must not be empty.
FOR_ALL = ""


class Handlers:
    """The runners by kind of job: one handler for all kinds, or one for each.

    Raises TypeError or ValueError for what cannot be called, or cannot be sent to a process.
    """

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler],
        executor: Literal["thread", "process"],
        max_result: int,
    ) -> None:
        by_kind = handler if isinstance(handler, Mapping) else {FOR_ALL: handler}
        if isinstance(handler, Mapping) and FOR_ALL in handler:
            raise TypeError("The kinds of handlers are non-empty text, not ''.")
        if not by_kind:
            raise ValueError("handler is an empty mapping: give at least one kind a handler.")
        for kind, one in by_kind.items():
            _check(kind, one, executor)
        self._runners: dict[str, Runner] = {}
        self._loop: EventLoop | None = None
        processes = Processes(list(by_kind.values()))
        for kind, one in by_kind.items():
            if executor == "process":
                self._runners[kind] = ProcessRunner(one, max_result, processes)
            elif _is_coroutine_function(one):
                self._loop = self._loop or EventLoop()
                self._runners[kind] = CoroutineRunner(one, max_result, self._loop)
            else:
                self._runners[kind] = Runner(one, max_result)
        self._for_all = self._runners.get(FOR_ALL)
        # A batch is told to stop as a whole, so where that ends a handler it holds one job.
        self.one_at_a_time = any(runner.can_stop for runner in self._runners.values())

    def is_current_thread(self) -> bool:
        """Whether the caller is a coroutine of these."""
        return self._loop is not None and self._loop.is_current_thread()

    def handles(self, kind: str) -> bool:
        return self._for_all is not None or kind in self._runners

    def of(self, kind: str) -> Runner:
        return self._for_all or self._runners[kind]

    def kinds(self) -> list[str]:
        return sorted(kind for kind in self._runners if kind != FOR_ALL)

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()


def _check(kind: object, handler: object, executor: str) -> None:
    name = "handler" if kind is FOR_ALL else f"The handler of kind {kind!r}"
    if not isinstance(kind, str):
        raise TypeError(f"The kinds of handlers are non-empty text, not {kind!r}.")
    if not callable(handler):
        choice = ", or a mapping of kinds to such" if kind is FOR_ALL else ""
        raise TypeError(f"{name} must be callable as handler(job){choice}, not {handler!r}.")
    if executor == "process":
        if _is_coroutine_function(handler):
            raise ValueError(f"{name} is a coroutine function: use executor='thread' for it.")
        try:
            pickle.dumps(handler)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be sent to another process ({error}): define it with def at the "
                "top level of a module, or use executor='thread'."
            ) from None


def _is_coroutine_function(handler: object) -> bool:
    # The second for an object with an async __call__.
    return any(map(inspect.iscoroutinefunction, (handler, type(handler).__call__)))
