"""Step 3: a full queue blocks its producers.

The lock and its two conditions are what ``queue.Queue`` is made of. Here they are our own,
because the steps to come need more of them than it has.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

log = logging.getLogger("improved")


# Unique in this process, and no job outlives it.
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Job:
    """One piece of work: ``id`` names it, ``payload`` is what the handler works on."""

    id: str = field(default_factory=lambda: f"job-{next(_numbers)}")
    payload: object = None


Handler = Callable[[Job], object]


def _require_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _require_timeout(timeout: object) -> None:
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number, not {timeout!r}.")
        if not 0 <= timeout <= threading.TIMEOUT_MAX:  # what a lock can wait; NaN fails too
            raise ValueError("timeout must be a number of at least 0, and not endless.")


class QueueFull(queue.Full):
    """The queue stayed full for the whole timeout; the job was not accepted."""


class JobQueue:
    """Run ``handler(job)`` for every enqueued job on one of ``workers`` threads.

    ``capacity`` is how many jobs may wait.
    Leaving the ``with`` block closes the queue.

    Raises TypeError or ValueError, naming the option, for one that makes no sense.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        workers: int = 4,
        capacity: int = 1000,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be callable as handler(job), not {handler!r}.")
        _require_int("workers", workers, 1)
        _require_int("capacity", capacity, 1)
        self._handler = handler
        self._capacity = capacity
        self._closed = False

        # One lock guards everything here. Each condition says who waits on it, and for what.
        self._mutex = threading.Lock()
        # Workers: a queued job.
        self._runnable = threading.Condition(self._mutex)
        # Producers: room for one more.
        self._room = threading.Condition(self._mutex)

        # FLAW N3: memory only. When the process ends, so do the jobs.
        self._jobs: deque[Job] = deque()

        self._workers = [
            threading.Thread(target=self._work, name=f"improved-worker-{n}", daemon=True)
            for n in range(workers)
        ]
        for worker in self._workers:
            worker.start()
        # FLAW N7: nothing to look at. No metrics, no status: how far are we, did it work?

    def enqueue(self, job: Job, timeout: float | None = None) -> None:
        """Add ``job`` to the end of the queue; wait while it is full.

        Waits at most ``timeout`` seconds (None: as long as it takes; 0: not at all).
        Raises QueueFull when the time is up. A handler that enqueues should pass a
        timeout: if every worker waits for room, nobody is left to make any.
        """
        if not isinstance(job, Job):
            raise TypeError(f"enqueue takes a Job, not {type(job).__name__}.")
        _require_timeout(timeout)
        with self._mutex:
            # wait_for looks again after every wake-up: between the wake-up and the lock
            # another producer may have taken the room.
            if not self._room.wait_for(lambda: len(self._jobs) < self._capacity, timeout):
                raise QueueFull(
                    f"The queue still held {len(self._jobs)} jobs after "
                    f"{timeout} s; enqueue again later, or raise capacity={self._capacity}."
                )
            # FLAW N2: first in, first out only. An urgent job waits behind everything.
            self._jobs.append(job)
            self._runnable.notify()

    def close(self) -> None:
        """Tell the workers to stop."""
        # FLAW N4: returns at once. What is queued is dropped, what is in flight dies with the
        # process. A later job is taken without a word, and runs only if a worker was idle.
        self._closed = True

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        """What each worker thread does: take a job, run it, repeat."""
        while not self._closed:
            job = self._take()
            try:
                self._handler(job)  # outside the lock: it may take its time
            except BaseException as error:
                # Also SystemExit and KeyboardInterrupt: a handler ends its job, not its worker.
                # FLAW N5: no retry. A job that fails once is lost.
                log.warning("Job %s failed: %r", job.id, error)

    def _take(self) -> Job:
        """The next job; waits until there is one."""
        with self._mutex:
            while not self._jobs:
                self._runnable.wait()
            job = self._jobs.popleft()
            self._room.notify()
            return job
