"""Rows on their way into the database: a list for each column, as ``unnest`` takes them apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from final.job import Outcome, Priority, Status, Task
from final.ledger.base import Said
from final.payload import Stored

LANES = list(Priority)  # a lane is stored as its index


class Candidate(NamedTuple):
    """A job that waits, as a look at its lane finds it.

    is_suspect: likely the cause of a crash. is_behind: another one of its group stands in the lane.
    running: how many of its group run, where that is limited.
    """

    task: Task
    is_suspect: bool
    is_behind: bool
    running: int | None


def candidate_of(row: tuple[Any, ...]) -> Candidate:
    seq, lane, kind, attempts, place, interrupted, size, timeout, *others = row
    is_suspect, group, is_behind, running = others
    task = Task("", None, LANES[lane], kind, timeout, size=size, seq=seq, key=place)
    task.status, task.attempts, task.interrupted = Status.QUEUED, attempts, interrupted
    task.group = group or ""
    return Candidate(task, is_suspect, is_behind, running)


def new_columns(
    jobs: Iterable[tuple[Task, Status, float]], wait_behind: bool = True
) -> list[list[Any]]:
    """For INSERT: each job, as what it comes in, and the Unix time by which its delay counts.

    wait_behind: those of groups do not stand in their lanes yet.
    """
    return columns(
        _new(task, status, wall, wait_behind and status is Status.QUEUED)
        for task, status, wall in jobs
    )


# Of outcomes, each with the token of its claim.


def kept_columns(outcomes: Iterable[tuple[int, Outcome]]) -> list[list[Any]]:
    return columns(
        (outcome.task.seq, token, *halves(outcome.result), storable(outcome.note))
        for token, outcome in outcomes
    )


def failed_columns(outcomes: Iterable[tuple[int, Outcome]], wall: float) -> list[list[Any]]:
    return columns(_failed(token, outcome, wall) for token, outcome in outcomes)


def snoozed_columns(outcomes: Iterable[tuple[int, Outcome]]) -> list[list[Any]]:
    return columns(_snoozed(token, outcome) for token, outcome in outcomes)


def progress_columns(said: Sequence[Said], wall: float) -> list[list[Any]]:
    return columns(
        (each.task.seq, each.token, fraction, storable(message), max(0.0, wall - at))
        for each in said
        for fraction, message, at in [each.progress]
    )


def _snoozed(token: int, outcome: Outcome) -> tuple[Any, ...]:
    assert outcome.again is not None, "only such are put off"
    seconds, by_clock = outcome.again
    return outcome.task.seq, token, *((None, seconds) if by_clock else (seconds, None))


def _new(task: Task, status: Status, wall: float, waits_behind: bool) -> tuple[Any, ...]:
    delay = due = None
    if task.due_at is not None:
        delay, due = (None, task.due_at) if task.by_clock else (task.due_at - wall, None)
    if status is Status.WAITING:
        delay, due = None, math.inf
    names = (task.id, task.kind, LANES.index(task.priority), task.size, task.timeout)
    of_group = (task.group or None, bool(task.group and waits_behind))
    return (*names, *halves(task.payload), status.value, task.alone, delay, due, *of_group)


def _failed(token: int, outcome: Outcome, wall: float) -> tuple[Any, ...]:
    if outcome.ended_at is None:  # at the first try to write it
        outcome.ended_at = wall
    ago = max(0.0, wall - outcome.ended_at)
    texts = (storable(outcome.error), storable(outcome.traceback))
    return outcome.task.seq, token, outcome.delay, *texts, ago, outcome.seconds


def columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def halves(stored: Stored | None) -> tuple[str | None, bytes | None]:
    """JSON is kept as text, to be read by people; bytes are bytes."""
    return (None, stored) if isinstance(stored, bytes) else (stored, None)


def storable(text: str | None) -> str | None:
    """PostgreSQL refuses NUL in text, and with it the whole transaction, each time."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()
