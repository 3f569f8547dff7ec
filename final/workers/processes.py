"""Handlers that compute: a process for each worker, so that they do not share one GIL.

But: processes are started with ``spawn``, since a fork of a program with threads may
inherit a lock that nobody will release. So a handler must be importable, and a script
needs its ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from final.job import Task
from final.messages import Batch
from final.workers.attempts import Ending, Handler, Runner, attempt, failure
from final.workers.current import CurrentJob, current_job, enter_job


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
            return failure(error)

    def close(self) -> None:
        self._processes.close()


def _attempt_in_process(handler: Handler, task: Task, job: CurrentJob, max_result: int) -> Ending:
    enter_job(job)
    return attempt(handler, task, max_result)


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
