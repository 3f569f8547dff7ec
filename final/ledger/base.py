"""The seam between what is alive and what is accepted: ``exchange(offer) -> given``.

A turn of the dispatcher is an ``Offer``: what has come back from the workers, what is ordered, who
wants to come in, how many workers are idle. The ledger makes it durable in one transaction, and
gives what came of it. What it refuses (an id that is taken, a lane that is full) it returns; it
does not raise. So nothing ever has to be planned twice, or undone.

What an exchange did is a list of ``Move``: the SQL, the counts, the log and the events all read
that one list.

But: no request, no thread and no worker is known on this side. A second engine is another class
with the methods of ``Ledger``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task


class Move(NamedTuple):
    """Jobs that went the same way, in order. source None: they are new; target None: deleted.

    token: of the claim that has ended, where source is PROCESSING: the fence. outcomes: of these
    jobs, if they have run. What else is new about a job stands in its Task.
    """

    tasks: Sequence[Task]
    source: Status | None
    target: Status | None
    token: int = 0
    outcomes: Sequence[Outcome] = ()


class Cancel(NamedTuple):
    """Answered with True, or False for a job that has ended."""

    job_id: str


class Retry(NamedTuple):
    """Dead letters start over: one, those of a kind, or all. Answered with how many.

    after and done: how far it has come, as seq and as a count: an exchange moves only so many.
    """

    job_id: str | None = None
    kind: str | None = None
    after: int = 0
    done: int = 0


class Purge(NamedTuple):
    """Dead letters are deleted, all or those of a kind. Answered with how many, as Retry."""

    kind: str | None = None
    after: int = 0
    done: int = 0


class SetFairness(NamedTuple):
    """Pick by this rule from now on."""

    fairness: int | None


Order = Cancel | Retry | Purge | SetFairness


@dataclass(slots=True)
class Offer:
    """What one turn wants. now: monotonic seconds. wall: the same instant in Unix seconds.

    outcomes and unstarted: what has come back from workers, by the token it was claimed with.
    aside: the same as unstarted, but not to run before the next start.
    new: the jobs of one producer each; they are accepted from the left until one is refused.
    idle: how many workers wait. cost: seconds that a job of a kind takes, so far as is known.
    """

    now: float
    wall: float
    outcomes: Sequence[tuple[int, Sequence[Outcome]]] = ()
    unstarted: Sequence[tuple[int, Sequence[Task]]] = ()
    aside: Sequence[tuple[int, Sequence[Task]]] = ()
    orders: Sequence[Order] = ()
    new: Sequence[Sequence[Task]] = ()
    idle: int = 0
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Given:
    """What came of it. With an ``error`` nothing was written, and only what follows it counts.

    accepted: of each list in ``new``, how many. taken: by the index in ``new``, the ids that exist
    already. (Fewer accepted than offered, and nothing taken: the lane is full.)
    answers: to the orders. An exception refuses; an order is to be offered again, to go on.
    stop: running jobs that were cancelled. claims: a batch for each idle worker, as far as there
    are jobs.

    live: how many jobs are in each status that has not ended, of kinds that run here.
    ready: how many could be claimed at once. next_start: when a rate limit lets more start.
    next_due: when an exchange is needed, whoever asks. (Both monotonic; infinity for never.)
    room: how many jobs each lane has room for.
    """

    moves: list[Move] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    taken: dict[int, list[str]] = field(default_factory=dict)
    answers: list[object] = field(default_factory=list)
    stop: list[Task] = field(default_factory=list)
    claims: list[list[Task]] = field(default_factory=list)
    error: str | None = None
    live: Mapping[Status, int] = field(default_factory=dict)
    ready: int = 0
    next_start: float = 0.0
    next_due: float = 0.0
    room: Mapping[Priority, float] = field(default_factory=dict)


class Ledger(Protocol):
    """The first four are for the dispatcher's thread, the others for any, also after ``close``.

    lasting: whether what it holds outlives the process. capacity: how many jobs a lane has room
    for.
    """

    lasting: bool
    capacity: int

    def open(self, now: float, wall: float) -> Given:
        """Take over what an earlier owner left behind."""

    def exchange(self, offer: Offer) -> Given:
        """One transaction, durable or nothing."""

    def ages(self, now: float) -> dict[Priority, float]:
        """Seconds that the first job of each lane has been ready to run."""

    def counts(self) -> dict[tuple[Priority, Status], int]:
        """How many jobs of each priority are in each status, ended ones too."""

    def get(self, job_id: str) -> JobRecord | None:
        """One job by its id."""

    def jobs(
        self,
        status: Status | None,
        limit: int,
        kind: str | None = None,
        priority: Priority | None = None,
        before: str | None = None,
        payloads: bool = True,
    ) -> list[JobRecord]:
        """The newest jobs, newest first; those of which all that is given holds.

        before: accepted before the job with this id; none are, if there is no such job.
        payloads: whether to read payloads and results, too.
        """

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """The failed attempts of a job, in order."""

    def close(self) -> None:
        """Let go of the file; another process may open it now."""
