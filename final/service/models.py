"""What goes over the wire: requests that are checked, answers that are documented.

But: no rules of the queue. Whether a type has a handler or a lane has room, it says itself.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from final import AttemptRecord, Job, JobRecord, Priority, Running, Status, Transition
from final.payload import LEVELS, is_deeper

LONGEST_DELAY = 10 * 365 * 86_400.0  # seconds
BATCH_LIMIT = 1_000
FLOOD_LIMIT = 1_000

# ---- requests ------------------------------------------------------------------------------


class Request(BaseModel):
    """Strict: the text "1" is no number, and an unknown field is a mistake to be told."""

    model_config = ConfigDict(strict=True, extra="forbid")


class NewJob(Request):
    type: Annotated[str, Field(min_length=1, max_length=100, examples=["email"])]
    payload: object = Field(default=None, examples=[{"to": "ada@example.com"}])
    priority: Annotated[Priority, Field(strict=False)] = Priority.MEDIUM
    # What may stand in an address as it is: no slash, and not dots alone.
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9\-_.:@+~]{0,199}$")
    run_at: datetime | Annotated[float, Field(ge=0, le=LONGEST_DELAY)] | None = None
    timeout: float | None = Field(default=None, gt=0, le=LONGEST_DELAY)

    @field_validator("run_at", mode="before")
    @classmethod
    def _read_time(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("say which time zone, as in 2030-01-31T08:00:00Z")
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise ValueError("this is too far away") from None

    def job(self) -> Job:
        """The same for the queue; raises TypeError or ValueError where it cannot be stored."""
        named = {} if self.id is None else {"id": self.id}
        return Job(
            payload=self.payload,
            priority=self.priority,
            kind=self.type,
            run_at=self.run_at,
            timeout=self.timeout,
            **named,
        )


class NewBatch(Request):
    jobs: Annotated[list[NewJob], Field(min_length=1, max_length=BATCH_LIMIT)]


class Flood(Request):
    """How many demo jobs of each priority."""

    high: int = Field(default=400, ge=0, le=FLOOD_LIMIT)
    medium: int = Field(default=100, ge=0, le=FLOOD_LIMIT)
    low: int = Field(default=100, ge=0, le=FLOOD_LIMIT)


class Fairness(Request):
    """How often in a row a waiting lane may be passed over; null is strict priority."""

    fairness: int | None = Field(ge=1, le=1_000, examples=[10])


# ---- answers -------------------------------------------------------------------------------


class JobSummary(BaseModel):
    id: str
    type: str
    priority: Priority
    status: Status
    error: str | None
    attempts: int
    timeout: float | None
    enqueued_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None

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


class Created(BaseModel):
    """The ids of a batch, in its order."""

    ids: list[str]


class State(BaseModel):
    status: str


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

    @classmethod
    def of(cls, running: Running, now: float) -> Self:
        return cls(
            worker=int(running.worker.rpartition("-")[2]),  # a thread: final-worker-3
            id=running.job_id,
            type=running.kind,
            priority=running.priority,
            attempt=running.attempt,
            started_at=moment(now - running.seconds),
        )


class Stats(BaseModel):
    """Of one instant. Times without a date are seconds; rates are over the last ten."""

    at: datetime
    uptime: float
    demo: bool
    stopping: bool
    storage_error: str | None
    capacity: int
    fairness: int | None
    throughput: float
    utilisation: float
    totals: LaneStats
    lanes: dict[Priority, LaneStats]
    workers: int
    running: list[RunningJob]


# ---- how the one becomes the other -----------------------------------------------------------


def moment(seconds: float) -> datetime:
    """A time of the queue (Unix seconds) as one that people and JSON can read.

    The last one there is for what lies beyond, which a file of an earlier release may hold.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _fields(record: JobRecord) -> dict[str, Any]:
    def moment_or_none(seconds: float | None) -> datetime | None:
        return None if seconds is None else moment(seconds)

    return {
        "id": record.id,
        "type": record.kind,
        "priority": record.priority,
        "status": record.status,
        "error": record.error,
        "attempts": record.attempts,
        "timeout": record.timeout,
        "enqueued_at": moment(record.enqueued_at),
        "started_at": moment_or_none(record.started_at),
        "ended_at": moment_or_none(record.ended_at),
        "due_at": moment_or_none(record.due_at),
    }


def _value(value: object) -> object:
    """JSON has no bytes. And its readers give up where a file of an earlier release does not."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {"json": json.dumps(value)} if is_deeper(value, LEVELS) else value
