"""What goes over the wire: requests that are checked, answers that are documented.

But: no rules of the queue. Whether a type has a handler or a lane has room, it says itself.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from final import (
    AttemptRecord,
    Every,
    GroupRecord,
    Job,
    JobRecord,
    Pause,
    PeriodicRecord,
    Priority,
    ProcessRecord,
    Progress,
    Running,
    Status,
    Transition,
    Unique,
)
from final.beyond.meta import MOST_ENTRIES

SERVICE = "three-stage-job-queue"  # what answers, in /health
LONGEST_DELAY = 10 * 365 * 86_400.0  # seconds
BATCH_LIMIT = 1_000
FLOOD_LIMIT = 1_000
MOST_FIELDS = 30  # that are looked at
MOST_PARENTS = 10_000
MOST_WORKERS = 1_000  # each is a thread

# ---- requests ------------------------------------------------------------------------------


class Body(BaseModel):
    """Strict: the text "1" is no number, and an unknown field is a mistake to be told."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: object) -> object:
        """Of very many unknown fields the first are enough to refuse it."""
        if not isinstance(value, dict) or len(value) <= MOST_FIELDS:
            return value
        known = {name: value[name] for name in cls.model_fields if name in value}
        return dict(itertools.islice(value.items(), MOST_FIELDS)) | known


JobId = Annotated[str, Field(min_length=1, max_length=1_000)]


class UniqueKey(Body):
    """As ``final.Unique``: what is wrong with it, that says."""

    key: Annotated[str, Field(min_length=1, max_length=1_000, examples=["report-42"])]
    within: float | None = Field(default=None, gt=0, le=LONGEST_DELAY, allow_inf_nan=False)
    until: Literal["started", "ended"] | None = None
    then: Literal["skip", "replace"] = "skip"
    max_wait: float | None = Field(default=None, gt=0, le=LONGEST_DELAY, allow_inf_nan=False)

    @model_validator(mode="after")
    def _make(self) -> Self:
        self.unique()
        return self

    def unique(self) -> Unique:
        return Unique(self.key, self.within, self.until, self.then, self.max_wait)


class NewJob(Body):
    type: Annotated[str, Field(min_length=1, max_length=100, examples=["email"])]
    payload: object = Field(default=None, examples=[{"to": "ada@example.com"}])
    priority: Annotated[Priority, Field(strict=False)] = Priority.MEDIUM
    # What may stand in an address as it is: no slash, and not dots alone.
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9\-_.:@+~]{0,199}$")
    run_at: datetime | Annotated[float, Field(ge=0, le=LONGEST_DELAY)] | None = None
    timeout: float | None = Field(default=None, gt=0, le=LONGEST_DELAY, allow_inf_nan=False)
    group: str | None = Field(default=None, min_length=1, max_length=200, examples=["tenant-7"])
    after: Annotated[list[JobId] | None, FailFast(), Field(max_length=MOST_PARENTS)] = None
    if_failed: Literal["cancel", "run"] | None = None
    unique: UniqueKey | None = None
    meta: dict[str, str] | None = Field(
        default=None, max_length=MOST_ENTRIES, examples=[{"user": "7", "source": "web"}]
    )

    @field_validator("run_at", mode="before")
    @classmethod
    def _read_time(cls, value: object) -> object:
        """All that can be wrong with it is said here: else both kinds of it would complain."""
        if isinstance(value, str):
            return read_time(value)
        if value is None or isinstance(value, datetime):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError("It is a time like 2030-01-31T08:00:00Z, or seconds from now.")
        if not 0 <= value <= LONGEST_DELAY:
            raise ValueError(f"Seconds from now are 0 to {LONGEST_DELAY:,.0f} (ten years).")
        return value

    def job(self) -> Job:
        """The same for the queue; raises TypeError or ValueError where it cannot be stored."""
        named: dict[str, Any] = {} if self.id is None else {"id": self.id}
        return Job(
            payload=self.payload,
            priority=self.priority,
            kind=self.type,
            run_at=self.run_at,
            timeout=self.timeout,
            group=self.group,
            after=self.after,
            if_failed=self.if_failed,
            unique=None if self.unique is None else self.unique.unique(),
            meta=self.meta,
            **named,
        )


class NewBatch(Body):
    """Of wrong jobs the first is told."""

    jobs: Annotated[list[NewJob], FailFast(), Field(min_length=1, max_length=BATCH_LIMIT)]


class NewPeriodic(Body):
    """As ``final.Every``: what is wrong with it, that says."""

    schedule: str | float = Field(examples=["0 3 * * *", 300])
    job: NewJob
    # Not dots alone, which do not stand in an address.
    name: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"[^.]")
    timezone: str = Field(default="UTC", max_length=100, examples=["Europe/Berlin"])
    missed: Literal["once", "all", "skip"] = "once"

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_schedule(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError("It is cron text like '0 3 * * *', or seconds.")
        if not isinstance(value, str) and not 1 <= value <= LONGEST_DELAY:
            raise ValueError(f"Seconds are 1 to {LONGEST_DELAY:,.0f} (ten years).")
        return value

    @model_validator(mode="after")
    def _make(self) -> Self:
        self.every()
        return self

    def every(self) -> Every:
        if self.job.id is not None:
            raise ValueError("job.id cannot be chosen: the id of a job is made of name and tick.")
        try:
            return Every(
                self.schedule,
                self.job.job(),
                name=self.name or "",
                timezone=self.timezone,
                missed=self.missed,
            )
        except ImportError as error:
            raise ValueError(str(error)) from None


def read_time(text: str) -> datetime:
    """Raises ValueError, in a sentence."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("It is no time: write it as 2030-01-31T08:00:00Z.") from None
    if moment.tzinfo is None:
        raise ValueError("Say which time zone, as in 2030-01-31T08:00:00Z.")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("This is too far away.") from None


Moment = Annotated[datetime | float | None, BeforeValidator(lambda value: _moment(value))]


class Meant(Body):
    """Which jobs: those of which all that is given holds. Times as in a job, or Unix seconds.

    ``dry_run``: only count them.
    """

    type: str | None = None
    priority: Annotated[Priority | None, Field(strict=False)] = None
    status: Annotated[Status | None, Field(strict=False)] = None
    group: str | None = None
    meta: dict[str, str] | None = Field(default=None, max_length=MOST_ENTRIES)
    enqueued_after: Moment = None
    enqueued_before: Moment = None
    ended_after: Moment = None
    ended_before: Moment = None
    dry_run: bool = False

    def which(self) -> dict[str, Any]:
        """As the methods of the queue take it."""
        given = {name: value for name, value in self if value is not None and name != "dry_run"}
        if "type" in given:
            given["kind"] = given.pop("type")
        return given


def _moment(value: object) -> object:
    if isinstance(value, str):
        return read_time(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, datetime, type(None))):
        raise ValueError("It is a time like 2030-01-31T08:00:00Z, or Unix seconds.")
    return value


class Flood(Body):
    """How many demo jobs of each priority."""

    high: int = Field(default=400, ge=0, le=FLOOD_LIMIT)
    medium: int = Field(default=100, ge=0, le=FLOOD_LIMIT)
    low: int = Field(default=100, ge=0, le=FLOOD_LIMIT)


class Fairness(Body):
    """How often in a row a waiting lane may be passed over; null is strict priority."""

    fairness: int | None = Field(ge=1, le=1_000, examples=[10])


class Part(Body):
    """What is paused or resumed: one of the three; with none of them the whole queue."""

    type: str | None = Field(default=None, min_length=1, max_length=1_000, examples=["email"])
    priority: Annotated[Priority | None, Field(strict=False)] = None
    group: str | None = Field(default=None, min_length=1, max_length=1_000)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.type, self.priority, self.group)) > 1:
            raise ValueError("Give one of type, priority and group, or none for the whole queue.")
        return self


class Workers(Body):
    """How many jobs run at a time; null is what the service was started with."""

    workers: int | None = Field(ge=0, le=MOST_WORKERS, examples=[8])


# ---- answers -------------------------------------------------------------------------------


class ProgressView(BaseModel):
    """What a handler has said last of how far its job is. ``fraction``: 0 to 1."""

    fraction: float
    message: str
    at: AwareDatetime

    @classmethod
    def of(cls, progress: Progress | None) -> Self | None:
        if progress is None:
            return None
        fraction, message, at = progress
        return cls(fraction=fraction, message=message, at=moment(at))


class JobSummary(BaseModel):
    id: str
    type: str
    priority: Priority
    status: Status
    error: str | None
    attempts: int
    timeout: float | None
    group: str | None
    enqueued_at: AwareDatetime
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    after: list[str]
    unique: str | None = None
    meta: dict[str, str] = {}
    snoozes: int = 0
    progress: ProgressView | None = None

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        return cls(**_fields(record))


class JobView(JobSummary):
    payload: Any
    result: Any

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        payload, result = _value(record.payload), _value(record.result)
        return cls(**_fields(record), payload=payload, result=result)


class Failure(BaseModel):
    number: int
    started_at: datetime
    ended_at: datetime
    error: str
    traceback: str


class JobDetails(JobView):
    failures: list[Failure] = []

    def with_failures(self, attempts: Sequence[AttemptRecord]) -> Self:
        self.failures = [
            Failure(
                number=attempt.number,
                started_at=moment(attempt.started_at),
                ended_at=moment(attempt.ended_at),
                error=attempt.error,
                traceback=attempt.traceback,
            )
            for attempt in attempts
        ]
        return self


class JobPage(BaseModel):
    """``next``: the address of the following page, null on the last one."""

    jobs: list[JobSummary]
    next: str | None


class PeriodicView(BaseModel):
    """``last`` and ``next``: its ticks. ``type``, ``priority`` and ``payload``: of its jobs."""

    name: str
    schedule: str
    timezone: str
    missed: str
    type: str
    priority: Priority
    payload: Any
    paused: bool
    last: datetime | None
    next: datetime | None

    @classmethod
    def of(cls, record: PeriodicRecord) -> Self:
        return cls(
            name=record.name,
            schedule=record.schedule,
            timezone=record.timezone,
            missed=record.missed,
            type=record.kind,
            priority=record.priority,
            payload=_value(record.payload),
            paused=record.paused,
            last=_moment_or_none(record.last),
            next=_moment_or_none(record.next),
        )


class PeriodicList(BaseModel):
    periodic: list[PeriodicView]


class GroupView(BaseModel):
    """``oldest_queued``: seconds that the one which waits longest has been ready to run."""

    group: str
    queued: int
    running: int
    oldest_queued: float

    @classmethod
    def of(cls, record: GroupRecord) -> Self:
        return cls(
            group=record.name,
            queued=record.queued,
            running=record.running,
            oldest_queued=record.oldest_queued,
        )


class GroupList(BaseModel):
    groups: list[GroupView]


class Created(BaseModel):
    """The ids of a batch, in its order. ``existing``: of these the ones that were there before."""

    ids: list[str]
    existing: list[str] = []


class Dealt(BaseModel):
    """How many jobs it was, or with ``dry_run`` would be."""

    jobs: int
    dry_run: bool


class State(BaseModel):
    status: str


class Health(State):
    """Says what answers, so that nobody takes something else for it."""

    service: str
    version: str


class Flooded(BaseModel):
    """How many jobs found room."""

    accepted: dict[Priority, int]


class TransitionView(BaseModel):
    id: str
    type: str
    priority: Priority
    status: Status
    attempts: int
    at: datetime
    error: str | None

    @classmethod
    def of(cls, transition: Transition) -> Self:
        return cls(
            id=transition.job_id,
            type=transition.kind,
            priority=transition.priority,
            status=transition.status,
            attempts=transition.attempts,
            at=moment(transition.at),
            error=transition.error,
        )


class Spread(BaseModel):
    """Seconds."""

    model_config = ConfigDict(from_attributes=True)

    p50: float
    p95: float
    p99: float


class LaneStats(BaseModel):
    """``oldest_queued``: seconds that the first in line has been ready to run."""

    model_config = ConfigDict(from_attributes=True)

    accepted: int
    queued: int
    scheduled: int
    processing: int
    retrying: int
    completed: int
    failed: int
    cancelled: int
    dropped: int
    waiting: int
    oldest_queued: float
    wait: Spread
    run: Spread


class RunningJob(BaseModel):
    worker: int
    id: str
    type: str
    priority: Priority
    attempt: int
    started_at: datetime
    progress: ProgressView | None = None

    @classmethod
    def of(cls, running: Running, now: float) -> Self:
        return cls(
            worker=int(running.worker.rpartition("-")[2]),  # a thread: final-worker-3
            id=running.job_id,
            type=running.kind,
            priority=running.priority,
            attempt=running.attempt,
            started_at=moment(now - running.seconds),
            progress=ProgressView.of(running.progress),
        )


class ProcessView(BaseModel):
    """A process on a database that several share. ``lease``: seconds that are left of it.

    ``alive``: it has renewed its lease in time. ``running``: how many jobs it has, by type, as it
    said then. ``here``: it is the one that answers.
    """

    id: int
    name: str
    alive: bool
    lease: float
    workers: int
    started_at: datetime
    running: dict[str, int]
    here: bool

    @classmethod
    def of(cls, process: ProcessRecord) -> Self:
        return cls(
            id=process.id,
            name=process.name,
            alive=process.lease > 0,
            lease=process.lease,
            workers=process.workers,
            started_at=moment(process.started_at),
            running=dict(process.running),
            here=process.here,
        )


class PauseView(BaseModel):
    """All null: the whole queue."""

    type: str | None
    priority: Priority | None
    group: str | None

    @classmethod
    def of(cls, pause: Pause) -> Self:
        return cls(type=pause.kind, priority=pause.priority, group=pause.group)


class Paused(BaseModel):
    paused: list[PauseView]


class Stats(BaseModel):
    """Of one instant. Times without a date are seconds; rates are over the last ten.

    ``limited``: jobs may wait for a limit of their type or group while others start.
    """

    at: datetime
    uptime: float
    demo: bool
    stopping: bool
    storage_error: str | None
    capacity: int
    fairness: int | None
    limited: bool = False
    throughput: float
    utilisation: float
    totals: LaneStats
    lanes: dict[Priority, LaneStats]
    workers: int
    paused: list[PauseView]
    running: list[RunningJob]
    processes: list[ProcessView]


# ---- how the one becomes the other -----------------------------------------------------------


def moment(seconds: float) -> datetime:
    """A time of the queue (Unix seconds) as one that people and JSON can read.

    The last one there is for what lies beyond, which a file of an earlier release may hold.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _moment_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def _fields(record: JobRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "type": record.kind,
        "priority": record.priority,
        "status": record.status,
        "error": None if record.error is None else str(record.error),
        "attempts": record.attempts,
        "timeout": record.timeout,
        "group": record.group,
        "after": list(record.after),
        "enqueued_at": moment(record.enqueued_at),
        "started_at": _moment_or_none(record.started_at),
        "ended_at": _moment_or_none(record.ended_at),
        "due_at": _moment_or_none(record.due_at),
        "unique": record.unique,
        "meta": dict(record.meta),
        "snoozes": record.snoozes,
        "progress": ProgressView.of(record.progress),
    }


def _value(value: object) -> object:
    """As JSON can have it: that has no bytes, and a file of somebody else may hold anything."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    try:
        to_json([[value]])  # as deep as it will stand in an answer
        return value
    except ValueError:  # too deep, or half a character
        return {"json": json.dumps(value)}
