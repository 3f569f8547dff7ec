"""A store in plain dictionaries: what ``SqliteStore`` does, a hundred times as fast.

The simulation runs on it. It outlives its dispatcher as a disk outlives a process, so a crash
is nothing but a new dispatcher on the same store. That it does what SQLite does is tested:
the same seeds have the same histories on both.

But: it keeps nothing beyond this process.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.payload import Stored, decode
from final.stores.base import Changes, DuplicateIds, Recovered, Unfinished


@dataclass(slots=True)
class Row:
    """A row of the table ``job`` in stores/sqlite.py, where the columns are described."""

    seq: int
    id: str
    kind: str
    priority: Priority
    payload: Stored
    enqueued_at: float
    timeout: float | None
    due_at: float | None
    status: Status
    place: int
    attempts: int = 0
    token: int = 0
    alone: bool = False
    interrupted: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    result: Stored | None = None
    error: str | None = None

    def task(self) -> Task:
        """A copy for the engine: what it changes there is not on the disk."""
        return Task(
            self.id,
            self.payload,
            self.priority,
            self.kind,
            self.timeout,
            self.seq,
            self.place,
            self.attempts,
            self.token,
            self.alone,
            self.interrupted,
            self.enqueued_at,
        )

    def record(self) -> JobRecord:
        return JobRecord(
            id=self.id,
            payload=decode(self.payload),
            priority=self.priority,
            kind=self.kind,
            status=self.status,
            attempts=self.attempts,
            enqueued_at=self.enqueued_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            due_at=self.due_at,
            result=None if self.result is None else decode(self.result),
            error=self.error,
            timeout=self.timeout,
        )


class MemoryStore:
    """See ``Store`` for the methods."""

    lasting = True  # as far as its dispatchers know

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}  # by seq, oldest first
        self._by_id: dict[str, Row] = {}
        self._failures: dict[int, list[AttemptRecord]] = {}
        self._forgotten: Counter[tuple[Priority, Status]] = Counter()
        self._fence = 0  # no forgotten job had a higher token

    def recover(self) -> Recovered:
        rows = list(self._rows.values())
        unfinished = sorted(
            (row for row in rows if not row.status.ended), key=lambda row: row.place
        )
        return Recovered(
            [Unfinished(row.task(), row.status, row.due_at, row.started_at) for row in unfinished],
            [row.seq for row in rows if row.status.ended and row.status is not Status.FAILED],
            dict(Counter((row.priority, row.status) for row in rows) + self._forgotten),
            max((row.place for row in rows), default=0),
            max([self._fence, *(row.token for row in rows)]),
        )

    def probe(self) -> None:
        """It works."""

    def commit(self, changes: Changes) -> None:
        new = changes.inserted + changes.turned_away
        ids = [task.id for task in new]
        if taken := self.taken(ids):
            raise DuplicateIds(taken)
        if len(set(ids)) < len(ids):  # twice in one commit: none of them is there yet
            raise DuplicateIds(())
        now = changes.now
        for outcome in changes.completed:
            row = self._end(outcome.task, Status.COMPLETED, now)
            row.result, row.error = outcome.result, outcome.note
        for outcome, due_at in changes.failed:
            self._fail(outcome, due_at, now)
        for task in changes.interrupted:
            row = self._row(task)
            row.status = Status.QUEUED
            row.attempts, row.interrupted = task.attempts, task.interrupted
        for outcome in changes.crashed:
            self._note(outcome, now)
        for task in changes.returned:
            row = self._row(task)
            row.status, row.started_at = Status.QUEUED, None
            row.attempts -= 1
        for task in changes.requeued:
            row = self._row(task)
            row.status, row.due_at, row.place = Status.QUEUED, None, task.place
        for task in changes.revived:
            row = self._row(task)
            row.status, row.attempts, row.ended_at = Status.QUEUED, 0, None
            row.place = task.place
        for task in new:
            self._insert(task, now)
        for task in changes.claimed:
            row = self._row(task)
            row.status, row.token, row.started_at = Status.PROCESSING, changes.token, now
            row.attempts += 1
            row.alone = task.alone
        for task in changes.cancelling:
            self._rows[task.seq].interrupted = -1
        for task in changes.cancelled:
            self._end(task, Status.CANCELLED, now)
        for task in changes.dropped + changes.turned_away:
            self._end(task, Status.DROPPED, now)
        for seq in changes.forgotten:
            row = self._rows.pop(seq)
            del self._by_id[row.id]
            self._forgotten[row.priority, row.status] += row.status is not Status.FAILED
            self._failures.pop(seq, None)
            self._fence = changes.token

    def _row(self, task: Task) -> Row:
        assert task.seq in self._rows, f"{task.id} is to be changed, and has no row any more."
        return self._rows[task.seq]

    def _insert(self, task: Task, now: float) -> None:
        status = Status.QUEUED if task.due_at is None else Status.SCHEDULED
        self._rows[task.seq] = self._by_id[task.id] = Row(
            seq=task.seq,
            id=task.id,
            kind=task.kind,
            priority=task.priority,
            payload=task.payload,
            enqueued_at=now,
            timeout=task.timeout,
            due_at=task.due_at,
            status=status,
            place=task.seq,
        )

    def _fail(self, outcome: Outcome, due_at: float | None, now: float) -> None:
        row = self._row(outcome.task)
        row.status = Status.FAILED if due_at is None else Status.RETRYING
        row.ended_at = now if due_at is None else None
        row.due_at, row.interrupted = due_at, 0
        self._note(outcome, now)

    def _note(self, outcome: Outcome, now: float) -> None:
        row = self._rows[outcome.task.seq]
        row.error = outcome.error
        self._failures.setdefault(row.seq, []).append(
            AttemptRecord(
                number=outcome.task.attempts,
                started_at=now - outcome.seconds,
                ended_at=now,
                error=outcome.error or "",
                traceback=outcome.traceback,
            )
        )

    def _end(self, task: Task, status: Status, now: float) -> Row:
        row = self._row(task)
        row.status, row.ended_at, row.due_at = status, now, None
        return row

    def taken(self, job_ids: list[str]) -> set[str]:
        return {job_id for job_id in job_ids if job_id in self._by_id}

    def dead_letters(self, job_id: str | None, kind: str | None) -> list[Task]:
        return [
            row.task()
            for row in self._rows.values()
            if row.status is Status.FAILED and job_id in (None, row.id) and kind in (None, row.kind)
        ]

    def get(self, job_id: str) -> JobRecord | None:
        row = self._by_id.get(job_id)
        return row.record() if row else None

    def jobs(
        self,
        status: Status | None,
        limit: int,
        kind: str | None = None,
        priority: Priority | None = None,
        before: str | None = None,
    ) -> list[JobRecord]:
        end = math.inf
        if before is not None:
            end = self._by_id[before].seq if before in self._by_id else -1
        rows = [
            row
            for row in reversed(self._rows.values())
            if row.seq < end
            and status in (None, row.status)
            and kind in (None, row.kind)
            and priority in (None, row.priority)
        ]
        return [row.record() for row in rows[: None if limit < 0 else limit]]

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        row = self._by_id.get(job_id)
        return list(self._failures.get(row.seq, [])) if row else []

    def close(self) -> None:
        """Nothing to let go of."""
