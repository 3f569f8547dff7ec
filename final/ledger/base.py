"""The seam between what is alive and what is accepted: ``exchange(offer) -> given``.

A turn of the dispatcher is an ``Offer``: what has come back from the workers, what is ordered, who
wants to come in, how many workers are idle. The ledger makes it durable in one transaction, and
gives what came of it. What it refuses (an id that is taken, a lane that is full) it returns; it
does not raise. A refusal undoes nothing; only a write that fails does.

What an exchange did is a list of ``Move``: the counts, the log and the events all read that one
list. A file is written from it, too; on PostgreSQL the list is made from the SQL's answers.

But: no request, no thread and no worker is known on this side. A second engine is another class
with the methods of ``Ledger``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from final.beyond.control import Pause
from final.beyond.filters import Filter
from final.beyond.periodic import Entry
from final.beyond.progress import Progress
from final.errors import EnqueueError, UnknownJob
from final.job import AttemptRecord, GroupRecord, JobRecord, Outcome, Priority, Status, Task

# Where many jobs are due, ordered or forgotten, a step moves or makes at most this many in one
# exchange; the rest wait for the next, so that others get their turn.
AT_ONCE = 500
# And about how many bytes of payloads or results it takes in; one that is larger comes alone.
BYTES_AT_ONCE = 8 << 20


class Move(NamedTuple):
    """Jobs that went the same way, in order. source None: they are new; target None: deleted.

    token: of the claim that has ended, where source is PROCESSING: the fence; 0 where it was
    compared before. outcomes: of these jobs, if they have run. What else is new about a job stands
    in its Task.
    """

    tasks: Sequence[Task]
    source: Status | None
    target: Status | None
    token: int = 0
    outcomes: Sequence[Outcome] = ()


class Said(NamedTuple):
    """What a handler has said of how far it is. token: of its attempt, the fence."""

    task: Task
    token: int
    progress: Progress


class Cancel(NamedTuple):
    """Answered with True, or False for a job that has ended."""

    job_id: str


class Retry(NamedTuple):
    """A dead letter starts over. Answered with 1."""

    job_id: str


# Orders for many jobs name them by their numbers (``seq``), AT_ONCE at most, and are carried out
# for those that still are what was wanted. Answered with how many that were.


class CancelAll(NamedTuple):
    """As by Cancel for each."""

    numbers: Sequence[int]
    wanted: Filter


class RetryAll(NamedTuple):
    """As by Retry for each that can be."""

    numbers: Sequence[int]
    wanted: Filter


class Purge(NamedTuple):
    """Those that have ended are deleted."""

    numbers: Sequence[int]
    wanted: Filter


class SetFairness(NamedTuple):
    """Pick by this rule from now on."""

    fairness: int | None


class SetPaused(NamedTuple):
    """Nothing of this starts from now on, or it may again."""

    pause: Pause
    paused: bool


class SetWorkers(NamedTuple):
    """So many workers from now on; None for what the option says. Answered with how many."""

    number: int | None


class ChangePeriodic(NamedTuple):
    """What is periodic changes. Answered with whether all of these were as ``how`` needs it.

    "declare": whether it is there or not; "add": unless it is there. "resume": also the schedule is
    the one that its ``next`` was reckoned from. All others: if it is there.
    """

    how: Literal["declare", "add", "change", "pause", "resume", "remove"]
    entries: Sequence[Entry]


Order = (
    Cancel
    | Retry
    | CancelAll
    | RetryAll
    | Purge
    | SetFairness
    | SetPaused
    | SetWorkers
    | ChangePeriodic
)


class Change(NamedTuple):
    """A job that another process has moved. status: the one that it has now."""

    job_id: str
    status: Status
    attempts: int
    priority: Priority
    kind: str
    error: str | None


class Told(NamedTuple):
    """What another process says: look, something may be new; where it says what, ``changes``.

    stop: a job that may run here is cancelled.
    """

    changes: Sequence[Change] = ()
    stop: bool = False


class ProcessRecord(NamedTuple):
    """A process on a shared ledger, as it said when it last renewed its lease.

    name: host:process. lease: seconds that are left of it; below 0 it counts as gone, and its jobs
    are taken over soon. started_at: Unix seconds. running: how many jobs it has claimed, by kind.
    here: it is this one.
    """

    id: int
    name: str
    workers: int
    started_at: float
    lease: float
    running: Mapping[str, int]
    here: bool


class SharedFigures(NamedTuple):
    """What is worth watching where several processes share a ledger (docs/many-hosts.md).

    oldest_age: of the oldest transaction whose view of the rows is still needed, in transactions;
    oldest_seconds: how long it has been open; oldest_holder: who holds it. As far as this user may
    see. dead_rows and bytes: by table.
    Of this process, since it opened the queue: leases_expired: of others, whose jobs it took over;
    fenced: outcomes that came too late to count; found_untold: polls that found what no
    notification had told.
    """

    processes: Sequence[ProcessRecord]
    oldest_age: int
    oldest_seconds: float
    oldest_holder: str
    dead_rows: Mapping[str, int]
    bytes: Mapping[str, int]
    leases_expired: int
    fenced: int
    found_untold: int


@dataclass(slots=True)
class Offer:
    """What one turn wants. now: monotonic seconds. wall: the same instant in Unix seconds.

    outcomes and unstarted: what has come back from workers, by the token it was claimed with.
    aside: the same as unstarted, but not to run before the next start.
    new: the jobs of one producer each; they are accepted from the left until one is refused.
    idle: how many workers wait. cost: seconds that a job of a kind takes, so far as is known.
    curious: somebody here waits for what other processes do. count: ``Given.live`` is needed.
    Both only matter where the ledger is ``shared``. said: how far jobs are, as they say.
    closing: no periodic job comes in any more.
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
    curious: bool = False
    count: bool = False
    said: Sequence[Said] = ()
    closing: bool = False


@dataclass(slots=True)
class Given:
    """What came of it. With an ``error`` nothing was written, and what else counts then are the
    fields from ``live`` to ``not_before``.

    recounted: for the figures alone: who was replaced is counted in another lane.
    accepted: of each list in ``new``, how many. taken: by the index in ``new``, the ids that exist
    already. refused: by that index, why the next one cannot come in, as a parent that is not there.
    busy: the indices of those whose next one has a unique key that another transaction has. (Fewer
    accepted than offered, and none of these: the lane is full.) instead: of those that were
    accepted, the ones that are not in because another job holds their key: by the index in ``new``
    and then in that list, the id of that one.
    answers: to the orders. An exception refuses.
    stop: running jobs that were cancelled. claims: a batch for each idle worker, as far as there
    are jobs.

    live: how many jobs are in each status that has not ended, of kinds that run here. Where the
    ledger is shared: whether any has to run, as 1 in QUEUED, and only if that was asked for.
    helped: other processes run what waits.
    releasing: parents have ended, and their children do not all know yet.
    paused: what is. stalled: because of these pauses, nothing that waits can start until somebody
    resumes it. (Where the ledger is shared, only if that was asked for by ``count``.)
    left: what was set aside here has not ended yet elsewhere. (Only where it is shared, as before.)
    ready: how many could be claimed at once. next_start: when a rate limit lets more start.
    next_due: when an exchange is needed, whoever asks. (Both monotonic; infinity for never.)
    room: how many jobs each lane has room for. not_before: until then it makes no sense to offer
    again what was ``busy`` (monotonic).
    """

    moves: list[Move] = field(default_factory=list)
    recounted: list[Move] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    taken: dict[int, list[str]] = field(default_factory=dict)
    instead: dict[int, dict[int, str]] = field(default_factory=dict)
    refused: dict[int, EnqueueError | UnknownJob] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    answers: list[object] = field(default_factory=list)
    stop: list[Task] = field(default_factory=list)
    claims: list[list[Task]] = field(default_factory=list)
    error: str | None = None
    live: Mapping[Status, int] = field(default_factory=dict)
    helped: bool = False
    releasing: bool = False
    paused: frozenset[Pause] = frozenset()
    stalled: bool = False
    left: bool = False
    ready: int = 0
    next_start: float = 0.0
    next_due: float = 0.0
    room: Mapping[Priority, float] = field(default_factory=dict)
    not_before: float = 0.0

    def only(self, producers: int) -> None:
        """So many of the lists were theirs; what became of the others is told to nobody."""
        del self.accepted[producers:]
        for answers in (self.taken, self.refused, self.instead):
            for index in [index for index in answers if index >= producers]:
                del answers[index]

    def add(self, part: Given) -> None:
        """The next part of the same offer, that was carried out by itself."""
        first = len(self.accepted)
        self.taken |= {first + index: ids for index, ids in part.taken.items()}
        self.refused |= {first + index: error for index, error in part.refused.items()}
        self.busy |= {first + index for index in part.busy}
        self.instead |= {first + index: others for index, others in part.instead.items()}
        self.accepted += part.accepted
        self.answers += part.answers
        self.moves += part.moves
        self.recounted += part.recounted


class Lookups(Protocol):
    """What any thread may ask at any time, also after ``close``; no exchange waits for it.

    Answered by ``SqliteLookups`` and ``PostgresLookups``.
    """

    def counts(self) -> dict[tuple[Priority, Status], int]:
        """How many jobs of each priority are in each status, ended ones too."""

    def get(self, job_id: str) -> JobRecord | None:
        """One job by its id."""

    def jobs(
        self, wanted: Filter, limit: int, before: str | int | None = None, payloads: bool = True
    ) -> list[JobRecord]:
        """The newest of these jobs, newest first.

        before: accepted before the job with this id (none are, if there is no such job), or
            before this number.
        payloads: whether to read payloads and results, too.
        """

    def numbers(self, wanted: Filter, after: int, upto: int, limit: int) -> list[int]:
        """The first of these jobs beyond ``after``, up to ``upto``; all three as ``seq``."""

    def first_and_last(self) -> tuple[int, int]:
        """The lowest and the highest ``seq`` that is there; (1, 0) where there is no job."""

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """The failed attempts of a job, in order."""

    def known(self, job_ids: Collection[str]) -> set[str]:
        """Those of these ids that jobs have."""

    def parents(self, job_id: str) -> dict[str, Any]:
        """The results of the jobs that this one comes after, by id; None where there is none."""

    def periodic(self) -> list[Entry]:
        """Those entries that are stored, by name."""

    def groups(self, limit: int, wall: float) -> list[GroupRecord]:
        """Those of which jobs wait or run; of which most wait, first. wall: now, in Unix seconds.

        It looks at every job that is kept, or at those that wait or run.
        """

    def clock(self, wall: float) -> float:
        """The one that ticks go by, in Unix seconds. wall: that of this process."""

    def hold_up_writing(self) -> bool:
        """Whether the calling thread is in a look that nobody can write beside: in a signal handler
        or a finalizer, which has interrupted it.
        """


class Ledger(Protocol):
    """For the dispatcher's thread, but for what is said to be for any.

    lasting: whether what it holds outlives the process. shared: whether other processes change it
    at the same time. capacity: how many jobs a lane has room for. caps: how many jobs of a kind
    run at a time, where that is bounded; group_limit: and of each group. workers: how many were
    asked for last, where that is kept; None for what the option says.
    """

    lasting: bool
    shared: bool
    capacity: int
    caps: Mapping[str, int]
    group_limit: int | None

    @property
    def workers(self) -> int | None: ...

    @property
    def look_ups(self) -> Lookups: ...

    def open(self, now: float, wall: float) -> Given:
        """Take over what an earlier owner left behind."""

    def exchange(self, offer: Offer) -> Given:
        """One transaction, durable or nothing."""

    def get(self, job_id: str) -> JobRecord | None:
        """One job by its id, as ``Lookups.get``."""

    def listen(self, tell: Callable[[Told], object]) -> None:
        """Call ``tell``, in any thread, with what other processes say; from now until ``close``."""

    def enqueue_within(self, connection: object, tasks: Sequence[Task], wall: float) -> list[str]:
        """Accept jobs within the caller's own transaction, all or none; returns their ids.

        For any thread.
        """

    def ended_of(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Those of these jobs that have ended or are gone, as far as others may have done that."""

    def ages(self, now: float) -> dict[Priority, float]:
        """Seconds that the first job of each lane has been ready to run."""

    def counts(self) -> Mapping[tuple[Priority, Status], int]:
        """As ``Lookups.counts``."""

    def paused(self) -> frozenset[Pause]:
        """What is paused. For any thread."""

    def shared_figures(self) -> SharedFigures | None:
        """Of all processes; None where there is but one. For any thread."""

    def close(self) -> None:
        """Let go of the file; another process may open it now."""
