"""Who holds which key, and what becomes of a job whose key is held (see ``beyond/unique.py``).

A row of ``holder`` says which job had a key last. Whether it still holds it follows from what has
become of that job, so the start and the end of a job write nothing here. For how long, the job
that is there says; what then, the one that comes.

But: a plain data structure, the same on both engines. The rows are the business of ``holders.py``
and ``../postgres/holders.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from final.job import Status, Task

KEY_IS_TAKEN = "Job {} is not retried: another job with its unique key has not ended."


@dataclass(slots=True)
class Holder:
    """The job that had a key last.

    until: "started" or "ended"; or None, and ``expires_at`` in Unix seconds counts. status: None if
    it is not there any more. new: it comes in by this very exchange.
    """

    id: str
    seq: int
    until: str | None
    expires_at: float | None
    status: Status | None
    attempts: int
    enqueued_at: float
    group: str = ""
    new: Task | None = None

    @property
    def waits(self) -> bool:
        return self.status in (Status.QUEUED, Status.SCHEDULED, Status.RETRYING)

    def holds(self, wall: float) -> bool:
        if self.status in (Status.CANCELLED, Status.DROPPED):
            return False
        if self.expires_at is not None:
            return wall < self.expires_at
        return self.waits and not self.attempts if self.until == "started" else self.lives

    @property
    def lives(self) -> bool:
        return self.status is not None and not self.status.ended


class Keys:
    """The keys that the new jobs of an exchange come with.

    replaced: jobs that are in, with those that have come in their place. busy: keys of which nobody
    knows, because another transaction that goes on has to do with them.
    """

    def __init__(self, holders: Mapping[str, Holder], wall: float) -> None:
        self.holders = dict(holders)
        self.replaced: list[tuple[Holder, Task]] = []
        self.busy: set[str] = set()
        self._wall = wall

    def holder(self, task: Task) -> Holder | None:
        """Who holds its key, if anybody does."""
        assert task.unique is not None, "only such are asked about"
        holder = self.holders.get(task.unique.key)
        held = holder is not None and holder.holds(self._wall)
        self._put_off_no_longer(task, holder.enqueued_at if held and holder else self._wall)
        return holder if held else None

    def _put_off_no_longer(self, task: Task, since: float) -> None:
        """Than ``max_wait`` after the first was enqueued."""
        assert task.unique is not None, "only such are asked about"
        if task.due_at is None or task.unique.max_wait is None:
            return
        latest = since + task.unique.max_wait
        if latest < task.due_at:
            task.due_at, task.by_clock = (latest if latest > self._wall else None), False

    def take(self, task: Task, status: Status) -> None:
        """It comes in, and holds its key from now on."""
        assert task.unique is not None, "only such take one"
        unique = task.unique
        expires_at = None if unique.within is None else self._wall + unique.within
        self.holders[unique.key] = Holder(
            task.id, 0, unique.until, expires_at, status, 0, self._wall, task.group, task
        )

    def taken(self) -> list[tuple[str, Holder, Task]]:
        """Each key that a new job has now."""
        return [(key, h, h.new) for key, h in self.holders.items() if h.new is not None]


def become(task: Task, new: Task) -> None:
    """A job that waits is now what ``new`` says; when it runs, the ledger says."""
    for name in ("payload", "size", "priority", "kind", "timeout", "group", "meta"):
        setattr(task, name, getattr(new, name))
    task.job = None


def place_of(task: Task) -> tuple[object, ...]:
    """What says in which line it stands."""
    return task.priority, task.kind, task.group
