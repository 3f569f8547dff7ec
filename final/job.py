"""The words of this package: Job, Priority, Status, JobRecord, and what goes in and out as payload.

A ``Job`` is what a client hands in and a handler receives; a ``JobRecord`` is what
the queue knows about it; a ``Task`` is the same job on its way through the engine.

But: nothing here does anything. No threads, no I/O.
"""

from __future__ import annotations

import enum
import os
import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from final.options import require_number
from final.payload import Stored

LONGEST_TEXT = 1_000  # characters of an id or a kind: they are names, and stand in an index


class Priority(enum.StrEnum):
    """The lanes, most urgent first: the order of these lines is the order of service."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Status(enum.StrEnum):
    """Where a job is in its life. ``docs`` call FAILED a dead letter: it is not tried again."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"  # its run_at lies ahead
    PROCESSING = "processing"
    RETRYING = "retrying"  # an attempt failed; waits out its backoff, holds no worker
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DROPPED = "dropped"  # by overflow="drop-newest" or "drop-oldest"

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

    Raises TypeError or ValueError, naming the field, for an id or kind that is not
    text, is empty or longer than 1,000 characters, an unknown priority, a datetime
    without a time zone, or a number that makes no sense.
    """

    id: str = field(default_factory=new_id)
    payload: Any = None
    priority: Priority = Priority.MEDIUM
    kind: str = "default"
    run_at: datetime | float | None = None
    timeout: float | None = None

    if TYPE_CHECKING:  # what goes in as text comes out as a Priority

        def __init__(
            self,
            id: str = ...,  # noqa: A002
            payload: Any = None,
            priority: Priority | str = Priority.MEDIUM,
            kind: str = "default",
            run_at: datetime | float | None = None,
            timeout: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        require_text("Job.id", self.id)
        require_text("Job.kind", self.kind)
        if type(self.priority) is not Priority:
            object.__setattr__(self, "priority", _priority(self.priority))
        if self.timeout is not None:
            require_number("Job.timeout", self.timeout, above=0)
        if self.run_at is not None:
            _require_run_at(self.run_at)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the queue knows about a job. Times are Unix seconds (UTC), None where not reached.

    attempts: how many were started, the running one included.
    due_at: when a scheduled or retrying job runs.
    run_at and timeout of its Job are due_at and timeout here.
    error: the last failure as one line; for a completed job, why its result was not kept.
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


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that failed. Times are Unix seconds; ``traceback`` is text, maybe empty."""

    number: int
    started_at: float
    ended_at: float
    error: str
    traceback: str


@dataclass(slots=True, eq=False)
class Task:
    """A job inside the engine. The ledger makes and changes it; a worker reads it while it runs.

    payload: in stored form (see payload.py); None while it is in the file only. size: its bytes.
    due_at: Unix seconds, while it waits for its time. by_clock: it is a time of the wall clock (a
        datetime), and holds whoever sets that; else it is the end of a delay.
    job: as it was enqueued, if a handler may see just that: its payload cannot change and it
        had no ``run_at``. Else the handler's job is made from the above.
    seq: its number in order of acceptance.
    key: what it waits for: its place in line, a new one each time that it goes to the back; or the
        moment when it is due.
    status: None for a job that is not in the file (yet).
    token: the fencing token of the latest attempt: it only grows, and an outcome that carries
        an older one is dropped.
    alone: it was claimed with no other job beside it, so a crash is charged to it.
    interrupted: how many times in a row the process has ended while it was claimed.
    queued_at: monotonic; when it last became ready to run.
    cancelled: while it ran; it is not tried again.
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
    enqueued_at: float = 0.0
    queued_at: float = 0.0
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class Outcome:
    """How one attempt ended. No ``error``: well.

    seconds: how long the handler took. waited: how long the job was ready and had not started.
    ended_at: Unix seconds; None as long as nobody has looked. result: what it returned, in stored
    form; None where there is nothing to keep. note: why a result was not kept. error: the
    failure as one line.
    permanent: it is not to be tried again. closed: it ended with QueueClosed.
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
    delay: float | None = None
    waited: float = 0.0
    ended_at: float | None = None


def require_text(name: str, value: object) -> None:
    """Raise unless ``value`` is non-empty text that can be stored (UTF-8, no lone surrogate)."""
    if type(value) is not str:
        raise TypeError(f"{name} must be text (str), not {type(value).__name__}.")
    if not value:
        raise ValueError(f"{name} must not be empty.")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} has {len(value):,} characters, more than {LONGEST_TEXT:,}.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} cannot be stored as UTF-8: {error.reason}.") from None
    if "\0" in value:
        raise ValueError(f"{name} must not contain a NUL character.")


def _require_run_at(value: object) -> None:
    if isinstance(value, datetime):
        if value.utcoffset() is None:  # also that of a tzinfo which does not know
            raise ValueError(
                "Job.run_at must be an aware datetime: say which time zone, for example "
                "datetime.now(timezone.utc) + timedelta(minutes=5)."
            )
        if value.timestamp() >= _YEAR_10000:
            raise ValueError(f"Job.run_at, {value}, is too far away: the year 9999 has to hold it.")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Job.run_at must be a datetime or a delay in seconds, not {value!r}.")
    else:
        require_number("Job.run_at, a delay in seconds,", value, most=_LONGEST_DELAY)


# What is accepted can be shown: no datetime goes beyond. (Unix seconds as a float are rounded, so
# that the last microseconds before it are it.)
_YEAR_10000 = 253_402_300_800.0
_LONGEST_DELAY = 1_000 * 365 * 86_400.0


def _priority(value: object) -> Priority:
    try:
        return Priority(value)  # type: ignore[arg-type]
    except ValueError:
        choices = ", ".join(priority.value for priority in Priority)
        raise ValueError(f"Job.priority must be one of {choices}, not {value!r}.") from None
