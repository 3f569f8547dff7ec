"""Who holds which unique key, as it was promised: at most one job that is there.

It reads what has become of a job in its ``Entry``; what moves it there, the model says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from final.beyond.unique import Unique

WAITS = ("queued", "scheduled", "retrying")
LIVES = (*WAITS, "processing")
LETS_GO = ("cancelled", "dropped")


class Job(Protocol):
    """Of an ``Entry``. key: of its Unique; "" for none."""

    status: str
    attempts: int
    key: str


@dataclass(slots=True)
class Held:
    """By whom it was taken last. until: "started", "ended"; or else expires_at, Unix seconds."""

    job_id: str
    by: Job
    until: str | None
    expires_at: float | None

    def counts(self, wall: float) -> bool:
        if self.by.status in LETS_GO:
            return False
        if self.expires_at is not None:
            return wall < self.expires_at
        if self.until == "started":
            return self.by.status in WAITS and not self.by.attempts
        return self.by.status in LIVES


class HeldKeys:
    """By key. doubtful: ids of jobs whose time was over when the clock was set back: who knows."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self.doubtful: set[str] = set()

    def now(self, wall: float) -> dict[str, Held]:
        """Those that are held at this moment."""
        return {key: held for key, held in self._held.items() if held.counts(wall)}

    def take(self, job_id: str, job: Job, unique: Unique, wall: float) -> None:
        """A new job has come in with it."""
        expires_at = None if unique.within is None else wall + unique.within
        self._held[unique.key] = Held(job_id, job, unique.until, expires_at)

    def clock_is_set(self, wall: float) -> None:
        """wall: what it said until now."""
        for key, held in list(self._held.items()):
            if held.expires_at is not None and held.expires_at <= wall:
                self.doubtful.add(held.job_id)
                del self._held[key]

    def may_take_again(self, job: Job, wall: float) -> bool:
        """Whether this dead letter may start over."""
        held = self._held.get(job.key)
        if held is None or held.by is job:
            return True
        return held.by.status not in LIVES or not held.counts(wall)

    def take_again(self, job_id: str, job: Job, wall: float) -> None:
        """It starts over: its key is held, until the same as before, for as long as it takes."""
        held = self._held.get(job.key)
        if held and held.by.status in LETS_GO:
            held = None
        if held is None or held.expires_at is None or held.expires_at <= wall:
            until = held.until if held and held.until else "ended"
            self._held[job.key] = Held(job_id, job, until, None)
