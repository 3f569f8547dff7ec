"""Handlers that compute: a process for each worker, so that they do not share one GIL.

A worker starts its process for its first job of these kinds, keeps it while it runs jobs of other
kinds in its thread, and starts a fresh one after a crash or a time-out.
It alone talks to it, and it sees its end before it leaves. ``child_process.py`` is one of them as
its worker sees it, ``child.py`` what runs there.

But: processes are started with ``spawn``, since a fork of a program with threads may
inherit a lock that nobody will release. So a handler must be importable, and a script
needs its ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from typing import Any

from final.beyond.progress import Progress
from final.job import Task
from final.workers.attempts import Ending, Handler, Runner, failure
from final.workers.batch import Batch
from final.workers.child import NO_GUARD
from final.workers.child_process import GRACE_SECONDS, Process, ProcessEnded
from final.workers.current import CurrentJob, current_job, pass_on

TRIES = 3  # so many processes in a row may end before a handler has begun


class ProcessRunner(Runner):
    """Runs the handler of ``kind`` in the process of the calling worker, one job at a time."""

    can_stop = True

    def __init__(self, kind: str, handler: Handler, max_result: int, processes: Processes) -> None:
        super().__init__(handler, max_result)
        self._kind = kind
        self._processes = processes

    def prepare(self) -> Ending | None:
        return self._processes.prepare()

    def run(self, batch: Batch, task: Task) -> Ending | None:
        process = self._processes.mine()
        current = current_job()
        job = CurrentJob(task, current.attempt, current.token, current.deadline, None)
        batch.stop = process.enter_attempt()
        if batch.told is task:  # told before it could be heard
            batch.stop()
        try:
            process.send((self._kind, task, job))
            process.receive()
        except ProcessEnded:
            ending = self._processes.lost()
            return DIED if batch.told is task else ending
        self._processes.begun()
        try:
            while not isinstance(ending := process.receive(), Ending):
                self._hear(process, current, ending)
        except ProcessEnded:
            ending = DIED
        if not process.leave_attempt() or ending is DIED:
            self._processes.discard()
        return ending

    def _hear(self, process: Process, current: CurrentJob, said: object) -> None:
        """What the handler says or asks while it runs."""
        if isinstance(said, Progress):
            pass_on(current, said)
        else:
            process.send(self._parents(current))

    def _parents(self, current: CurrentJob) -> dict[str, Any] | Exception:
        """For the handler, in its process; also an error, as one that can be sent there."""
        try:
            return current.parents
        except Exception as error:
            return RuntimeError(f"The parents of job {current.id} cannot be read: {error}")

    def leave(self) -> None:
        self._processes.leave()

    def close(self) -> None:
        self._processes.close()


DIED = Ending(
    error="ProcessDied: the handler's process ended before the handler did "
    "(a crash, os._exit, out of memory, or killed for its time-out)."
)


class Processes:
    """A process for each worker thread. They know the ``handlers``, by kind."""

    def __init__(self, handlers: Mapping[str, Handler], max_result: int) -> None:
        self._handlers = dict(handlers)
        self._max_result = max_result
        self._never: Ending | None = None  # why no process of this program can have handlers
        self._mine = _Mine()
        # Guards the next two; `close` waits on it until the workers have seen all processes end.
        self._changed = threading.Condition()
        self._all: set[Process] = set()
        self._closed = False

    def prepare(self) -> Ending | None:
        """Have a process ready for the caller's next job; an Ending where that cannot be."""
        process = self._mine.process
        if process is not None and not process.answers():
            self.discard()  # it died idle, or was stopped
        while self._mine.process is None:
            cannot = self._start()
            if cannot is not None:
                return cannot
        return None

    def _start(self) -> Ending | None:
        """A fresh process for the caller; none, or an Ending, if it ended before it was ready."""
        if self._never is not None:
            return self._never
        try:
            with self._changed:
                if self._closed:
                    raise RuntimeError("The queue is closed.")
                process = self._mine.process = Process(self._max_result)
                self._all.add(process)
            cannot = process.meet(pickle.dumps(self._handlers))
        except ProcessEnded:
            return self._ended_early(self.discard())
        except Exception as error:
            cannot = failure(error)
        if cannot is not None:
            self.discard()
        return cannot

    def _ended_early(self, exit_code: int | None) -> Ending | None:
        if exit_code == NO_GUARD:
            self._never = _without_guard()
            return self._never
        if exit_code is None or exit_code < 0:  # a signal: the next one may be luckier
            return self._count()
        return _ended_at_import(exit_code)

    def mine(self) -> Process:
        """The caller's process, after ``prepare``."""
        assert self._mine.process is not None
        return self._mine.process

    def begun(self) -> None:
        """The handler has begun in the caller's process."""
        self._mine.lost = 0

    def lost(self) -> Ending | None:
        """The caller's process ended before the handler had begun; an Ending for once too often."""
        self.discard()
        return self._count()

    def _count(self) -> Ending | None:
        self._mine.lost += 1
        if self._mine.lost < TRIES:
            return None
        self._mine.lost = 0
        return Ending(
            error=f"ProcessDied: {TRIES} processes in a row ended before the handler had begun "
            "(out of memory, or killed)."
        )

    def discard(self) -> int | None:
        """Kill the caller's process, if it lives; returns its exit code, if there was one."""
        process, self._mine.process = self._mine.process, None
        if process is None:
            return None
        code = process.end()
        with self._changed:
            self._all.discard(process)
            self._changed.notify_all()
        return code

    def leave(self) -> None:
        """The calling worker leaves, and its process before it: see ``child.py`` for why."""
        if self._mine.process is not None:
            self._mine.process.ask_to_leave()
            self.discard()

    def close(self) -> None:
        """Kill all processes that are left, busy ones and those that start. May be called again."""
        with self._changed:
            self._closed = True
            for process in self._all.copy():
                process.kill()
            self._changed.wait_for(lambda: not self._all, GRACE_SECONDS)


class _Mine(threading.local):
    """process: the worker's own. lost: how many in a row have ended before a handler began."""

    process: Process | None = None
    lost = 0


GUARD = 'if __name__ == "__main__":'


def _without_guard() -> Ending:
    return Ending(
        error=f"RuntimeError: executor='process' needs `{GUARD}` in the program. The process of a "
        "worker imports the program to find the handlers, and must not run it: put what opens the "
        "queue behind that line.",
        permanent=True,
    )


def _ended_at_import(exit_code: int) -> Ending:
    return Ending(
        error=f"ProcessDied: the process of a worker ended with exit code {exit_code} while it "
        "imported the program and its handlers; it may have said why on standard error. What only "
        f"the program itself should do belongs behind `{GUARD}`."
    )
