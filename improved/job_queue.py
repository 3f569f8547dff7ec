"""Stage 2, improved: bounded, prioritised, retrying, and it closes politely.

Three bounded lanes (high, medium, low) share one lock with the workers. A full
lane blocks its producers, a failed job waits out a backoff without holding a
worker, and ``close`` drains what was accepted before it returns.

The invariant, true whenever the lock is free, for every lane and for the sum:

    accepted = queued + processing + retrying + completed + failed

But: everything lives in the memory of one process, and priority is strict. Four
flaws remain, marked ``FLAW``; ``final/`` mends them.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import queue
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType

log = logging.getLogger("improved")


class Priority(enum.StrEnum):
    """The lanes, most urgent first: the order of these lines is the order of service."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True)
class Job:
    """One piece of work: ``id`` names it, ``payload`` is what the handler works on.

    Raises ValueError for a priority that is none of ``Priority`` (or its text: "high").
    """

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    payload: object = None
    priority: Priority = Priority.MEDIUM

    def __post_init__(self) -> None:
        # Text becomes its Priority here; a typo is an error, never silently medium.
        if type(self.priority) is not Priority:
            object.__setattr__(self, "priority", Priority(self.priority))


Handler = Callable[[Job], object]


def _require_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _require_number(name: str, value: object, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not least <= value <= threading.TIMEOUT_MAX:  # what a lock can wait; NaN fails too
        raise ValueError(f"{name} must be a number of at least {least}, and not endless.")


def _require_timeout(timeout: object) -> None:
    if timeout is not None:
        _require_number("timeout", timeout, 0)


@dataclass(frozen=True)
class Backoff:
    """How long a failed job waits before its next attempt: exponential, capped, jittered.

    ``base`` seconds before the first retry, doubled for each further one, never more
    than ``maximum``. ``jitter`` (0 to 1) is the share of the delay that is drawn at
    random, so that jobs which failed together do not come back together.
    """

    base: float = 1.0
    maximum: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _require_number("Backoff base", self.base, 0)
        _require_number("Backoff maximum", self.maximum, 0)
        _require_number("Backoff jitter", self.jitter, 0)
        if self.jitter > 1:
            raise ValueError(f"Backoff jitter is a share from 0 to 1, not {self.jitter}.")

    def delay(self, retry: int) -> float:
        """Seconds to wait before retry number ``retry`` (1 is the first)."""
        # The exponent is capped because 2.0 ** 1024 overflows; `maximum` won long before.
        longest = min(self.maximum, self.base * 2.0 ** min(retry - 1, 1000))
        return random.uniform((1 - self.jitter) * longest, longest)


class QueueFull(queue.Full):
    """The job's lane stayed full for the whole timeout; the job was not accepted."""


class QueueClosed(RuntimeError):
    """The queue is closed, or was closed while this producer waited for room."""


@dataclass
class Counts:
    """Jobs by what became of them; see the invariant at the top of this file."""

    accepted: int = 0
    queued: int = 0
    processing: int = 0
    retrying: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def unfinished(self) -> int:
        return self.queued + self.processing + self.retrying


@dataclass
class Metrics(Counts):
    """The totals as attributes, and the same for each lane in ``by_priority``."""

    by_priority: dict[Priority, Counts] = field(default_factory=dict)


@dataclass
class _Task:
    """A job on its way through the queue, and how often it was tried."""

    job: Job
    attempts: int = 0


class _Lane:
    """The jobs of one priority: those that wait, how many there were, and who wants to add one."""

    def __init__(self, mutex: threading.Lock) -> None:
        self.tasks: deque[_Task] = deque()
        self.counts = Counts()
        # Waited on by producers: room for one more, or the end.
        self.room = threading.Condition(mutex)


class JobQueue:
    """Run ``handler(job)`` for every enqueued job on one of ``workers`` threads.

    A handler that raises fails that attempt; after ``max_retries`` further attempts,
    spaced by ``backoff``, the job has failed for good. ``capacity`` is per priority.
    Leaving the ``with`` block closes the queue.

    Raises TypeError or ValueError, naming the option, for one that makes no sense.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        workers: int = 4,
        capacity: int = 1000,
        max_retries: int = 3,
        backoff: Backoff = Backoff(),
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be callable as handler(job), not {handler!r}.")
        _require_int("workers", workers, 1)
        _require_int("capacity", capacity, 1)
        _require_int("max_retries", max_retries, 0)
        if not isinstance(backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff, not {backoff!r}.")
        self._handler = handler
        self._capacity = capacity
        self._max_retries = max_retries
        self._backoff = backoff
        self._closing = False  # no new jobs; the workers stop when all is done
        self._aborted = False  # close ran out of time: the workers stop after their job

        # One lock guards everything here. Each condition says who waits on it, and for what.
        self._mutex = threading.Lock()
        # Workers: a queued job, a retry that falls due, or the end.
        self._runnable = threading.Condition(self._mutex)
        # close(): nothing queued, processing or retrying.
        self._drained = threading.Condition(self._mutex)

        # FLAW I1: memory only. When the process ends, so do the jobs.
        self._lanes = {priority: _Lane(self._mutex) for priority in Priority}
        # FLAW I4: attempts and due times live here alone, and are lost on a restart.
        # The number breaks ties between equal due times: tasks do not compare.
        self._retries: list[tuple[float, int, _Task]] = []
        self._tie_breaker = itertools.count()

        self._workers = [
            threading.Thread(target=self._work, name=f"improved-worker-{n}", daemon=True)
            for n in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def enqueue(self, job: Job, timeout: float | None = None) -> None:
        """Add ``job`` to the end of its lane; wait while the lane is full.

        Waits at most ``timeout`` seconds (None: as long as it takes; 0: not at all).
        Raises QueueFull when the time is up, QueueClosed when the queue is closed,
        also while waiting. A handler that enqueues should pass a timeout: if every
        worker waits for room, nobody is left to make any.
        """
        if not isinstance(job, Job):
            raise TypeError(f"enqueue takes a Job, not {type(job).__name__}.")
        _require_timeout(timeout)
        lane = self._lanes[job.priority]
        with self._mutex:
            # wait_for looks again after every wake-up: between the wake-up and the lock
            # another producer may have taken the room, or close() may have come.
            has_room = lane.room.wait_for(
                lambda: self._closing or len(lane.tasks) < self._capacity, timeout
            )
            if self._closing:
                raise QueueClosed("The queue is closed and accepts no more jobs.")
            if not has_room:
                raise QueueFull(
                    f"The {job.priority.value} lane still held {len(lane.tasks)} jobs after "
                    f"{timeout} s; enqueue again later, or raise capacity={self._capacity}."
                )
            lane.tasks.append(_Task(job))
            lane.counts.accepted += 1
            lane.counts.queued += 1
            self._runnable.notify()

    # FLAW I3: no status by id. The totals say that two jobs failed, not which.
    def metrics(self) -> Metrics:
        """Counts at one instant: they always add up."""
        with self._mutex:
            lanes = {priority: replace(lane.counts) for priority, lane in self._lanes.items()}
        return Metrics(
            accepted=sum(c.accepted for c in lanes.values()),
            queued=sum(c.queued for c in lanes.values()),
            processing=sum(c.processing for c in lanes.values()),
            retrying=sum(c.retrying for c in lanes.values()),
            completed=sum(c.completed for c in lanes.values()),
            failed=sum(c.failed for c in lanes.values()),
            by_priority=lanes,
        )

    def close(self, timeout: float | None = None) -> bool:
        """Stop accepting, run what was accepted (retries too), then stop the workers.

        Waits at most ``timeout`` seconds (None: as long as it takes). Returns True when
        everything ran; False when time ran out: a warning says how many jobs are lost.
        May be called again, from any thread. Inside a handler it starts the shutdown
        and returns False at once, because it would wait for the very job that called it.
        """
        _require_timeout(timeout)
        with self._mutex:
            self._closing = True
            for lane in self._lanes.values():
                lane.room.notify_all()  # blocked producers leave with QueueClosed
            self._runnable.notify_all()  # idle workers leave, if all is done
            if threading.current_thread() in self._workers:
                return False
            if not self._drained.wait_for(self._stopping, timeout):
                # Out of time: each worker stops after the job it is on. It is a daemon, so
                # a handler that never returns does not keep the process alive.
                self._aborted = True
                self._drained.notify_all()
                self._runnable.notify_all()
            aborted, lost = self._aborted, self._unfinished()
        if aborted:
            log.warning("Closed after %s s with %d jobs unfinished: they are lost.", timeout, lost)
            return False
        # Nothing is left to run, so every worker is on its way out of _work.
        for worker in self._workers:
            worker.join()
        return True

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
        """What each worker thread does: take a task, run it, record what became of it."""
        while (task := self._take()) is not None:
            error: BaseException | None = None
            try:
                self._handler(task.job)  # outside the lock: it may take its time
            except BaseException as raised:
                # Also SystemExit and KeyboardInterrupt: a handler ends its attempt, not its worker.
                error = raised
            self._record(task, error)

    def _take(self) -> _Task | None:
        """The next task, counted as processing; None when it is time to stop."""
        with self._mutex:
            while not self._stopping():
                self._requeue_due_retries()
                # FLAW I2: strict priority. While HIGH is never empty, LOW never runs.
                for lane in self._lanes.values():
                    if lane.tasks:
                        task = lane.tasks.popleft()
                        task.attempts += 1
                        lane.counts.queued -= 1
                        lane.counts.processing += 1
                        lane.room.notify()
                        # Pass the baton: this worker may have been the one that waited
                        # for the next retry to fall due. Another takes over.
                        self._runnable.notify()
                        return task
                self._runnable.wait(self._until_next_retry())
            return None

    def _record(self, task: _Task, error: BaseException | None) -> None:
        """Count the outcome of an attempt; a failed one may have another."""
        counts = self._lanes[task.job.priority].counts
        with self._mutex:
            counts.processing -= 1
            if error is None:
                counts.completed += 1
            elif task.attempts <= self._max_retries:
                counts.retrying += 1
                due = time.monotonic() + self._backoff.delay(task.attempts)
                heapq.heappush(self._retries, (due, next(self._tie_breaker), task))
                self._runnable.notify()  # somebody must wake when it falls due
            else:
                counts.failed += 1
            if self._stopping():
                self._drained.notify_all()
                self._runnable.notify_all()
        if error is not None:  # logging may be slow, so not under the lock
            log.warning("Job %s failed, attempt %d: %r", task.job.id, task.attempts, error)

    def _requeue_due_retries(self) -> None:
        """Move due retries to the back of their lanes, even of full ones: they were accepted."""
        while self._retries and self._retries[0][0] <= time.monotonic():
            _, _, task = heapq.heappop(self._retries)
            lane = self._lanes[task.job.priority]
            lane.tasks.append(task)
            lane.counts.retrying -= 1
            lane.counts.queued += 1

    def _until_next_retry(self) -> float | None:
        """Seconds until a worker must look again by itself; None when nothing is waiting."""
        return self._retries[0][0] - time.monotonic() if self._retries else None

    def _stopping(self) -> bool:
        """Whether the workers should leave: closed with nothing left, or out of time."""
        return self._aborted or (self._closing and not self._unfinished())

    def _unfinished(self) -> int:
        return sum(lane.counts.unfinished for lane in self._lanes.values())
