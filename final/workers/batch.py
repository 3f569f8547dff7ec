"""A batch: jobs that a worker has at a time, and what becomes of them meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from final.beyond.progress import Progress
from final.job import Outcome, Task


class Batch:
    """Jobs for one worker, who takes them from the left while the dispatcher may take them back.

    It takes from the right: both ends of a deque may be popped from different threads at the
    same time, and each job is popped once.

    tasks: what the worker has not taken yet. claimed: all, less what the dispatcher has seen end or
        has taken back.
    token: the fencing token of these attempts.
    overdue_at: when the dispatcher looks after a batch of several jobs that is still out
        (monotonic); infinity for never.
    check_at: when it looks whether a running job is out of time; infinity for never.
    running, attempt, started: the job that the worker is on, which attempt that is,
        and since when (monotonic).
    outcomes: of the jobs that it is through with, until somebody collects them.
    late: the job whose attempt has had its time, and may still clean up.
    told: the job that was told to stop. stop: what wakes or ends its handler, where there is
        a way. on_loop: whether a coroutine is waited for, so that this frees the worker.
    sleepers: what wakes the threads of handlers that are in ``CurrentJob.sleep``.
    withdraw: takes the running job back where its coroutine has not begun; None: it has.
    awaited: what that is, where no thread waits for it; then the batch comes back to its pool.
    pool, worker, name: whose it is, the thread that had it last, and what that was called then.
    said: the job of it that has said last how far it is, and what.
    """

    __slots__ = (
        "_seized",
        "attempt",
        "awaited",
        "check_at",
        "claimed",
        "late",
        "name",
        "on_loop",
        "outcomes",
        "overdue_at",
        "pool",
        "running",
        "said",
        "sleepers",
        "started",
        "stop",
        "tasks",
        "token",
        "told",
        "withdraw",
        "worker",
    )

    def __init__(self, tasks: list[Task], token: int, overdue_at: float, check_at: float) -> None:
        self.claimed = tasks
        self.tasks = deque(tasks)
        self.token = token
        self.overdue_at = overdue_at
        self.check_at = check_at
        self.running: Task | None = None
        self.attempt = 0
        self.started = 0.0
        self.outcomes: deque[Outcome] = deque()
        self.stop: Callable[[], object] | None = None
        self.late: Task | None = None
        self.told: Task | None = None
        self.sleepers: set[threading.Event] = set()
        self.on_loop = False
        self.withdraw: Callable[[], Task | None] = _has_begun
        self.awaited: object = None
        self.pool: Pool | None = None
        self.worker: threading.Thread | None = None
        self.name = ""
        self.said: tuple[Task, Progress] | None = None
        self._seized = threading.Lock()

    def seize(self) -> bool:
        """Whoever calls first gets True, and with it the end of the batch.

        That is the worker that is through with it, to report it, or the dispatcher, to give
        that worker up. So no batch ends both ways, or neither.
        """
        return self._seized.acquire(blocking=False)

    def is_seized(self) -> bool:
        return self._seized.locked()


def _has_begun() -> None:
    """As every handler has, but for coroutines that wait for their loop."""


class Pool(Protocol):
    def deliver(self, batch: Batch) -> None:
        """Let a worker take it."""


class Report(NamedTuple):
    """A worker is through with its batch and is idle again."""

    batch: Batch
