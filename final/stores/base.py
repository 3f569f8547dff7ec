"""The seam between the engine and its storage: what a turn writes, and the ``Store`` protocol.

The dispatcher describes one turn as ``Changes``; a store makes all of it durable or
none of it. Another engine is another class with these few methods.

But: a store decides nothing. Which job is next and whether one is tried again is
the dispatcher's business.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task


class FailedAttempt(NamedTuple):
    """due_at: Unix seconds of the next attempt; None when there is none (a dead letter)."""

    outcome: Outcome
    due_at: float | None

    @property
    def task(self) -> Task:
        return self.outcome.task


@dataclass(slots=True)
class Changes:
    """What one turn writes, in one transaction, in the order of these lists.

    token: the fencing token of this turn's claims.
    now: the turn's time, Unix seconds.
    """

    token: int
    now: float
    completed: list[Outcome] = field(default_factory=list)
    failed: list[FailedAttempt] = field(default_factory=list)
    # Processing when the last process ended: back at their places.
    interrupted: list[Task] = field(default_factory=list)
    # How the attempts of some of those ended, which are charged for it.
    crashed: list[Outcome] = field(default_factory=list)
    # Claimed, but never started: back to the front of the lane, the attempt not charged.
    returned: list[Task] = field(default_factory=list)
    # Back into line, at the place that the job has now.
    requeued: list[Task] = field(default_factory=list)
    # Dead letters that start over: back to the end of the lane with all their attempts.
    revived: list[Task] = field(default_factory=list)
    inserted: list[Task] = field(default_factory=list)
    # New jobs that find no room and are written as dropped (overflow="drop-newest").
    turned_away: list[Task] = field(default_factory=list)
    claimed: list[Task] = field(default_factory=list)
    # While they run: they are not tried again, not even if the process ends now.
    cancelling: list[Task] = field(default_factory=list)
    cancelled: list[Task] = field(default_factory=list)
    dropped: list[Task] = field(default_factory=list)  # to make room for newer ones
    forgotten: list[int] = field(default_factory=list)  # ended jobs beyond the history, by seq

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        lists = (getattr(self, name) for name in self.__slots__ if name not in ("token", "now"))
        return any(lists)


class Unfinished(NamedTuple):
    """A job that has not ended. Status PROCESSING: the last process ended while it ran.

    due_at: Unix seconds, of one that is scheduled or waits for a retry; of one that did so or
        came back otherwise, since when it is ready to run again. started_at: of its latest attempt.
    """

    task: Task
    status: Status
    due_at: float | None
    started_at: float | None

    @property
    def ready_at(self) -> float:
        """Since when it is ready to run, if it is queued. Unix seconds."""
        return self.task.enqueued_at if self.due_at is None else self.due_at


class Recovered(NamedTuple):
    """What a store holds when it is opened.

    unfinished: every job that has not ended, in the order of its lane.
    ended: the numbers of completed, cancelled and dropped jobs, oldest first.
    counts: how many jobs of each priority are in each status, forgotten ones included.
    last_number: the highest number given to a job or a place in line.
    last_token: the highest fencing token.
    """

    unfinished: list[Unfinished]
    ended: list[int]
    counts: dict[tuple[Priority, Status], int]
    last_number: int
    last_token: int


class DuplicateIds(Exception):
    """A commit was refused because of ids that are there already; nothing was written."""

    def __init__(self, ids: Collection[str]) -> None:
        super().__init__(ids)
        self.ids = set(ids)


class Store(Protocol):
    """What the engine needs of a storage. All but the look-ups are for the dispatcher's thread.

    lasting: whether what it holds outlives the process.
    """

    lasting: bool

    def recover(self) -> Recovered:
        """Everything that an earlier process left."""

    def commit(self, changes: Changes) -> None:
        """Write all of it, durably, or nothing.

        Raises DuplicateIds for ids that are taken, StorageError for a full or broken disk, and
        QueueClosed when the file has another owner: then nothing can be written ever again.
        """

    def probe(self) -> None:
        """Write something that changes nothing; raises StorageError as ``commit`` would."""

    def taken(self, job_ids: list[str]) -> set[str]:
        """Which of these ids are there already."""

    def dead_letters(self, job_id: str | None, kind: str | None) -> list[Task]:
        """Jobs whose status is FAILED: the one, those of a kind, or all. Oldest first."""

    def get(self, job_id: str) -> JobRecord | None:
        """One job by its id. From any thread, also after ``close``."""

    def jobs(
        self,
        status: Status | None,
        limit: int,
        kind: str | None = None,
        priority: Priority | None = None,
        before: str | None = None,
    ) -> list[JobRecord]:
        """The newest jobs, newest first; those of which all that is given holds.

        before: accepted before the job with this id; none are, if there is no such job.
        From any thread, also after ``close``.
        """

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """The failed attempts of a job, in order. From any thread, also after ``close``."""

    def close(self) -> None:
        """Let go of the file; another process may open it now."""
