"""Rows: what the columns of a file mean, as the words of ``final/job.py``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from final.beyond.meta import from_pairs
from final.beyond.progress import Progress
from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.payload import Stored, decode

TASK_COLUMNS = (
    "id, priority, kind, timeout, due_at, size, seq, coalesce(place, seq), status, attempts,"
    " token, alone, interrupted, cancelled, grp"
)
RECORD_COLUMNS = (
    "id, priority, kind, status, attempts, enqueued_at, started_at, ended_at, due_at, error,"
    " timeout, seq, grp, unique_key, (SELECT json_group_array(parent) FROM dependency"
    " WHERE child = job.seq), (SELECT json_group_object(name, value) FROM meta"
    " WHERE meta.seq = job.seq), snoozes, (SELECT json_array(fraction, message, at) FROM progress"
    " WHERE progress.seq = job.seq), result, payload"
)
# The same, of which neither payloads nor results are read.
SUMMARY_COLUMNS = RECORD_COLUMNS.replace("result, payload", "NULL, 'null'")
ATTEMPT_COLUMNS = "number, failure.started_at, failure.ended_at, failure.error, traceback"

# What this package has written. Another program may have put anything into a row: that one then
# is as good as not there, and the others are what they are.
_TYPES = {
    "text": ("id", "kind", "coalesce(grp, '')"),
    "integer": ("attempts", "token", "interrupted", "snoozes", "coalesce(place, 0)"),
    "real": (
        "enqueued_at",
        *(f"coalesce({name}, 0.0)" for name in ("due_at", "started_at", "timeout")),
    ),
}
_BYTES_OR_TEXT = "IN ('text', 'blob')"
SOUND = " AND ".join(
    [
        *(f"typeof({column}) = '{kind}'" for kind, columns in _TYPES.items() for column in columns),
        f"priority IN ({', '.join(repr(str(priority)) for priority in Priority)})",
        f"status IN ({', '.join(repr(str(status)) for status in Status)})",
        f"typeof(coalesce(result, '')) {_BYTES_OR_TEXT}",
        "EXISTS (SELECT 1 FROM payload"
        f" WHERE payload.seq = job.seq AND typeof(payload) {_BYTES_OR_TEXT})",
    ]
)

# sqlite3 binds plain text at once, but asks its adapters about a subclass, for every value.
PLAIN = {word: str(word.value) for word in (*Priority, *Status)}


# Where a job waits for its time. Elsewhere ``due_at`` says since when it has been ready to run.
_WAITING = (Status.SCHEDULED, Status.RETRYING, Status.WAITING)


def task_of(row: Sequence[Any]) -> Task:
    """From TASK_COLUMNS. Its payload stays in the file."""
    job_id, priority, kind, timeout, due_at, size, seq, place, status, *rest = row
    attempts, token, alone, interrupted, cancelled, group = rest
    return Task(
        job_id,
        None,
        Priority(priority),
        kind,
        timeout,
        due_at if status in _WAITING else None,
        size=size,
        seq=seq,
        key=place,
        status=Status(status),
        attempts=attempts,
        token=token,
        alone=bool(alone),
        interrupted=interrupted,
        cancelled=bool(cancelled),
        group=group or "",
    )


def record_of(row: Sequence[Any]) -> JobRecord:
    """From RECORD_COLUMNS."""
    job_id, priority, kind, status, attempts, *rest, result, payload = row
    enqueued_at, started_at, ended_at, due_at, error, timeout, seq, *others = rest
    group, unique, after, meta, snoozes, progress = others
    return JobRecord(
        job_id,
        _as_seen(payload),
        Priority(priority),
        kind,
        Status(status),
        attempts,
        enqueued_at,
        started_at,
        ended_at,
        due_at if status in _WAITING else None,
        None if result is None else _as_seen(result),
        error,
        timeout,
        seq,
        group,
        unique,
        tuple(json.loads(after)),
        from_pairs(meta),
        snoozes or 0,
        None if progress is None else Progress(*json.loads(progress)),
    )


def _as_seen(stored: Stored) -> object:
    """The value; where that is no JSON, what is stored: the others of a list can be shown."""
    try:
        return decode(stored)
    except ValueError:
        return stored


def attempt_of(row: Sequence[Any]) -> AttemptRecord:
    """From ATTEMPT_COLUMNS."""
    return AttemptRecord(*row)


def failure_row(outcome: Outcome, token: int, wall: float) -> tuple[object, ...]:
    """The values of a row of ``failure``."""
    task = outcome.task
    ended_at = wall if outcome.ended_at is None else outcome.ended_at
    times = (ended_at - outcome.seconds, ended_at)
    return task.seq, token, task.attempts, *times, outcome.error, outcome.traceback
