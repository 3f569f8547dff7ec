"""The words of this package: Job, Priority, Status, JobRecord, and Task.

A ``Job`` is what a client hands in and a handler receives; a ``JobRecord`` is what
the queue knows about it; a ``Task`` is the same job on its way through the engine.
"""

from __future__ import annotations

import enum
import os
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from final.beyond.meta import NO_META, Meta, frozen
from final.beyond.progress import Progress
from final.beyond.snooze import Again
from final.beyond.unique import Unique
from final.options import require_choice, require_moment, require_number, require_text
from final.payload import Stored


class Priority(enum.StrEnum):
    """The lanes, most urgent first: the order of these lines is the order of service."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Status(enum.StrEnum):
    """Where a job is in its life. A FAILED one is a dead letter: it is not tried again."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"  # its run_at lies ahead
    PROCESSING = "processing"
    RETRYING = "retrying"  # an attempt failed; waits out its backoff, holds no worker
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DROPPED = "dropped"  # by overflow="drop-newest" or "drop-oldest"
    WAITING = "waiting"  # for the jobs in its ``after``

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job by itself."""
        return self in _ENDED


_ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.DROPPED})


# Ids are unique, not secret. Our own generator, so that random.seed() in a program does not
# make it repeat them; and a forked child must not go on with the same numbers.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A UUIDv7 (RFC 9562): a millisecond clock, 12 bits of finer clock, 62 random bits.

    Ids made later sort later, so they land at the right-hand edge of the id index. With
    random UUIDv4 keys each insert touches a page of its own, at 5 to 10 times the cost.
    (Python 3.14 has uuid.uuid7; until that is the oldest version supported, this is it.)
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    finer_clock = (nanoseconds << 12) // 1_000_000
    number = milliseconds << 80 | (0x7000 | finer_clock) << 64 | 0b10 << 62
    number |= _random.getrandbits(62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work, as a client hands it in and a handler receives it.

    id: text, unique in its file; a time-ordered UUIDv7 by default. Enqueueing the same
        id again is how a client retries safely: DuplicateJob means "it is in".
    payload: bytes or any JSON value; what comes out equals what went in.
    priority: a Priority or its text ("high").
    kind: which handler runs it, where the queue has several.
    run_at: not before then: an aware datetime, or a delay in seconds from when it is enqueued,
        a thousand years at most.
        A handler sees None: the time has come, and is kept no longer.
    timeout: seconds that one attempt may take; None for the queue's own.
    group: whose it is, say a tenant's: within a lane groups take turns, and ``group_limit`` bounds
        how many of one run at a time. None for none.
    unique: a key that no other job has meanwhile, see Unique; None for no such key, and in what a
        handler sees.
    after: ids of jobs that have to end first, its parents; any iterable, kept as a tuple. They are
        in the queue already, or come with the same ``enqueue_many``. None for none. A handler
        sees None, and has ``current_job().parents``.
    if_failed: what becomes of it if a parent fails, is cancelled or dropped. "cancel" (the default
        where there are parents): it is cancelled, too. "run": it runs all the same.
    meta: what it is about, as {"user": "7"}; ``jobs(meta=...)`` finds it by that. At most 20 names,
        of 100 characters and without ":" and "=", with values of 500. A copy, which cannot be
        changed; empty for none.

    Raises TypeError or ValueError, naming the field, for an id, kind or group that is not
    text, is empty or longer than 1,000 characters or 2,600 bytes, an unknown priority, a datetime
    without a time zone, a number that makes no sense, a job that is to come after itself,
    ``if_failed`` without ``after``, or a ``meta`` beyond its limits.
    """

    id: str = field(default_factory=new_id)
    payload: Any = None
    priority: Priority = Priority.MEDIUM
    kind: str = "default"
    run_at: datetime | float | None = None
    timeout: float | None = None
    group: str | None = None
    unique: Unique | None = None
    after: tuple[str, ...] | None = None
    if_failed: Literal["cancel", "run"] | None = None
    meta: Mapping[str, str] = NO_META

    if TYPE_CHECKING:  # what goes in as text comes out as a Priority, and a list as a tuple

        def __init__(
            self,
            id: str = ...,  # noqa: A002
            payload: Any = None,
            priority: Priority | str = Priority.MEDIUM,
            kind: str = "default",
            run_at: datetime | float | None = None,
            timeout: float | None = None,
            group: str | None = None,
            unique: Unique | None = None,
            after: Iterable[str] | None = None,
            if_failed: Literal["cancel", "run"] | None = None,
            meta: Mapping[str, str] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        require_text("Job.id", self.id)
        require_text("Job.kind", self.kind)
        if type(self.priority) is not Priority:
            object.__setattr__(self, "priority", _priority(self.priority))
        if self.timeout is not None:
            require_number("Job.timeout", self.timeout, above=0)
        if self.run_at is not None:
            require_moment("Job.run_at", self.run_at)
        if self.group is not None:
            require_text("Job.group", self.group)
        if self.unique is not None and not isinstance(self.unique, Unique):
            raise TypeError(f"Job.unique must be a Unique, not {type(self.unique).__name__}.")
        if self.after is not None:
            object.__setattr__(self, "after", _parents(self.id, self.after))
            if self.if_failed is None:
                object.__setattr__(self, "if_failed", "cancel")
            require_choice("Job.if_failed", self.if_failed, ("cancel", "run"))
            if self.unique is not None:
                raise ValueError("Job.unique is not for a job that comes after others (Job.after).")
        elif self.if_failed is not None:
            raise ValueError("Job.if_failed says what a failed parent means: name some in after=.")
        if self.meta is not NO_META:
            object.__setattr__(self, "meta", frozen("Job.meta", self.meta))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the queue knows about a job. Times are Unix seconds (UTC), None where not reached.

    attempts: how many were started, the running one included.
    due_at: when a scheduled or retrying job runs.
    run_at and timeout of its Job are due_at and timeout here.
    error: the last failure as one line; for a completed job, why its result was not kept; for one
        that a parent has taken with it, which.
    seq: its number, in the order of acceptance.
    unique: the key of its Unique.
    after: the ids of its parents; empty for none.
    meta: of its Job; empty for none.
    snoozes: how often its handler has put it off (``Snooze``).
    progress: what a handler has said last, in any attempt; None where none has said anything.
    """

    id: str
    payload: Any
    priority: Priority
    kind: str
    status: Status
    attempts: int
    enqueued_at: float
    started_at: float | None
    ended_at: float | None
    due_at: float | None
    result: Any
    error: str | None
    timeout: float | None
    seq: int
    group: str | None = None
    unique: str | None = None
    after: tuple[str, ...] = ()
    meta: Mapping[str, str] = NO_META
    snoozes: int = 0
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that failed. Times are Unix seconds; ``traceback`` is text, maybe empty."""

    number: int
    started_at: float
    ended_at: float
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """How many jobs of a group wait, and how many run.

    oldest_queued: seconds that the one which waits longest has been ready to run; 0.0 if none.
    """

    name: str
    queued: int
    running: int
    oldest_queued: float


@dataclass(slots=True, eq=False)
class Task:
    """A job inside the engine. The ledger makes and changes it; a worker reads it while it runs.

    payload: in stored form (see payload.py); None while it is in the file only. size: its bytes.
    due_at: Unix seconds, while it waits for its time. by_clock: it is a time of the wall clock (a
        datetime), and holds whoever sets that; else it is the end of a delay.
    job: as it was enqueued, if a handler may see just that: its payload cannot change, and it had
        no ``run_at``, key or parents. Else the handler's job is made from the above.
    seq: its number in order of acceptance.
    key: what orders it among those that wait (no ``Unique.key``): its place in line, a new one each
        time that it goes to the back; or the moment when it is due.
    status: None for a job that is not in the file (yet).
    token: the fencing token of the latest claim, one number for all claims of an exchange: it only
        grows, and an outcome that carries an older one is dropped.
    alone: it was claimed with no other job beside it, so a crash is charged to it.
    interrupted: how many times in a row the process has ended while it was claimed.
    queued_at: monotonic; when it last became ready to run.
    cancelled: while it ran; it is not tried again.
    group: "" for none.
    unique: on its way in; what is in has its key in the file.
    after and if_failed: of its Job, while it is new; then the ledger has them.
    meta: of its Job; empty while it is in the file only, as the payload then is.
    """

    id: str
    payload: Stored | None
    priority: Priority
    kind: str
    timeout: float | None = None
    due_at: float | None = None
    by_clock: bool = False
    job: Job | None = None
    size: int = 0
    seq: int = 0
    key: float = 0
    status: Status | None = None
    attempts: int = 0
    token: int = 0
    alone: bool = False
    interrupted: int = 0
    queued_at: float = 0.0
    cancelled: bool = False
    group: str = ""
    unique: Unique | None = None
    after: tuple[str, ...] = ()
    if_failed: str = "cancel"
    meta: Meta = NO_META

    def is_claimed_with(self, token: int) -> bool:
        """The fence: what comes back of an attempt that was given up does not count."""
        return self.token == token and self.status is Status.PROCESSING


@dataclass(slots=True, eq=False)
class Outcome:
    """How one attempt ended. No ``error`` and no ``again``: well.

    seconds: how long the handler took. waited: how long the job was ready and had not started.
    ended_at: Unix seconds, of one that did not go well: when the ledger first tried to write it.
    result: what it returned, in stored form; None where there is nothing to keep. note: why a
    result was not kept. error: the failure as one line.
    permanent: it is not to be tried again. closed: it ended with QueueClosed.
    again: it ended with Snooze, and is to be run again then.
    delay: seconds until it is tried again, once that is known.
    """

    task: Task
    seconds: float
    result: Stored | None = None
    note: str | None = None
    error: str | None = None
    traceback: str = ""
    permanent: bool = False
    closed: bool = False
    again: Again | None = None
    delay: float | None = None
    waited: float = 0.0
    ended_at: float | None = None


def _parents(job_id: str, after: object) -> tuple[str, ...]:
    """Each once, in the order given."""
    if isinstance(after, (str, bytes)) or not isinstance(after, Iterable):
        raise TypeError(f"Job.after is a list of ids, as after=[job_id], not {after!r}.")
    parents = tuple(after)
    for parent in parents:
        require_text("An id in Job.after", parent)
    if job_id in parents:
        raise ValueError(f"A job cannot come after itself: {job_id} -> {job_id}.")
    return tuple(dict.fromkeys(parents))


def _priority(value: object) -> Priority:
    try:
        return Priority(value)  # type: ignore[arg-type]
    except ValueError:
        choices = ", ".join(priority.value for priority in Priority)
        raise ValueError(f"Job.priority must be one of {choices}, not {value!r}.") from None
