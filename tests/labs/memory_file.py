"""A file in plain dictionaries: what ``SqliteFile`` does, a hundred times as fast.

The simulation runs on it, under the real ``LocalLedger``. It outlives its ledger as a disk outlives
a process, so a crash is nothing but a new ledger on the same file. A transaction that does not come
to its end leaves no trace. That it does what SQLite does is tested: the same seeds have the same
histories on both.

But: it keeps nothing beyond this process.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.ledger.base import Move
from final.payload import Stored, decode

WAITING = (Status.SCHEDULED, Status.RETRYING)
PRUNED = (Status.COMPLETED, Status.CANCELLED, Status.DROPPED)


@dataclass(slots=True)
class Row:
    """A row of the table ``job`` in ledger/schema.py, where the columns are described.

    With what stands in the other tables of the same job.
    """

    seq: int
    id: str
    kind: str
    priority: Priority
    payload: Stored
    size: int
    enqueued_at: float
    timeout: float | None
    due_at: float | None
    status: Status
    attempts: int
    token: int
    alone: bool
    started_at: float | None = None
    ended_at: float | None = None
    interrupted: int = 0
    cancelled: bool = False
    place: float | None = None
    result: Stored | None = None
    error: str | None = None
    failures: list[AttemptRecord] = field(default_factory=list)

    def task(self) -> Task:
        """A copy for the ledger: what it changes there is not on the disk."""
        return Task(
            self.id,
            None,
            self.priority,
            self.kind,
            self.timeout,
            self.due_at if self.status in WAITING else None,
            size=self.size,
            seq=self.seq,
            key=self.in_line(),
            status=self.status,
            attempts=self.attempts,
            token=self.token,
            alone=self.alone,
            interrupted=self.interrupted,
            enqueued_at=self.enqueued_at,
            cancelled=self.cancelled,
        )

    def in_line(self) -> float:
        return self.seq if self.place is None else self.place

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
            due_at=self.due_at if self.status in WAITING else None,
            result=None if self.result is None else decode(self.result),
            error=self.error,
            timeout=self.timeout,
        )


class MemoryFile:
    """See ``SqliteFile`` for the methods."""

    lasting = True  # as far as its ledgers know

    def __init__(self) -> None:
        self.epoch = 0
        self._rows: dict[int, Row] = {}  # by seq
        self._by_id: dict[str, Row] = {}
        self._forgotten: Counter[tuple[Priority, Status]] = Counter()
        # How it was before the transaction, as far as that has changed it.
        self._rows_before: dict[int, Row | None] = {}
        self._forgotten_before = self._forgotten

    def take_over(self) -> None:
        """Another process opens it."""
        self.epoch += 1

    # ---- writing ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._rows_before, self._forgotten_before = {}, self._forgotten.copy()
        try:
            yield
        except BaseException:
            for seq in self._rows_before:
                self._remove(seq)
            for row in filter(None, self._rows_before.values()):
                self._put(row)
            self._forgotten = self._forgotten_before
            raise

    def write(self, moves: Sequence[Move], wall: float) -> None:
        new = {task for move in moves if move.source is None for task in move.tasks}
        for task in new:
            self._insert(task, wall)
        for tasks, source, target, token, outcomes in moves:
            of_task = {outcome.task: outcome for outcome in outcomes}
            for task in tasks:
                if task in new:
                    pass  # it was written as it is at the end
                elif target is None:
                    self.delete([task.seq])
                else:
                    self._move(task, source, target, token, of_task.get(task), wall)

    def _insert(self, task: Task, wall: float) -> None:
        assert task.status is not None
        assert task.payload is not None
        assert task.id not in self._by_id, f"{task.id} is inserted twice."
        self._rows_before.setdefault(task.seq, None)
        self._put(
            Row(
                seq=task.seq,
                id=task.id,
                kind=task.kind,
                priority=task.priority,
                payload=task.payload,
                size=task.size,
                enqueued_at=task.enqueued_at,
                timeout=task.timeout,
                due_at=task.due_at,
                status=task.status,
                attempts=task.attempts,
                token=task.token,
                alone=task.alone,
                started_at=wall if task.status is Status.PROCESSING else None,
                ended_at=wall if task.status is Status.DROPPED else None,
            )
        )

    def _move(
        self,
        task: Task,
        source: Status | None,
        target: Status,
        token: int,
        outcome: Outcome | None,
        wall: float,
    ) -> None:
        row = self._row(task, token)
        match source, target:
            case Status.QUEUED, Status.PROCESSING:
                row.attempts += 1
                row.token, row.alone, row.started_at = task.token, task.alone, wall
            case Status.PROCESSING, Status.COMPLETED:
                assert outcome is not None
                row.ended_at, row.token = wall, 0
                row.result, row.error = outcome.result, outcome.note
            case Status.PROCESSING, Status.FAILED | Status.RETRYING:
                assert outcome is not None
                dead = target is Status.FAILED
                row.token, row.interrupted = 0, 0
                row.ended_at, row.due_at = (wall, None) if dead else (None, task.due_at)
                self._note_failure(row, outcome, wall)
            case Status.PROCESSING, Status.QUEUED:
                row.attempts -= 1
                row.token, row.started_at = 0, None
            case Status.FAILED, Status.QUEUED:
                assert row.status is Status.FAILED, f"{task.id} starts over, and is {row.status}."
                row.place, row.due_at, row.ended_at, row.attempts = task.key, wall, None, 0
            case _, Status.QUEUED:
                row.place = task.key
            case _:  # cancelled or dropped
                row.ended_at, row.token, row.due_at = wall, 0, None
        row.status = target

    def _note_failure(self, row: Row, outcome: Outcome, wall: float) -> None:
        ended_at = wall if outcome.ended_at is None else outcome.ended_at
        row.error = outcome.error
        row.failures.append(
            AttemptRecord(
                number=outcome.task.attempts,
                started_at=ended_at - outcome.seconds,
                ended_at=ended_at,
                error=outcome.error or "",
                traceback=outcome.traceback,
            )
        )

    def write_interrupted(self, crash: Outcome, charged: bool, wall: float) -> None:
        task = crash.task
        row = self._row(task, task.token)
        if charged:
            self._note_failure(row, crash, wall)
        row.status, row.due_at, row.token, row.started_at = Status.QUEUED, wall, 0, None
        row.attempts, row.interrupted = task.attempts, task.interrupted

    def write_cancelled(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._row(task, task.token).cancelled = True

    def forget(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            self._forgotten[self._rows[seq].priority, self._rows[seq].status] += 1
        self.delete(seqs)

    def delete(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            self._rows_before.setdefault(seq, self._rows[seq])
            self._remove(seq)

    def probe(self) -> None:
        """It works."""

    def _row(self, task: Task, token: int) -> Row:
        """To be changed; how it was stays known until the transaction ends."""
        row = self._rows.get(task.seq)
        assert row, f"{task.id} is to be changed, and has no row any more."
        assert row.token == token, f"{task.id} is changed with token {token}; it has {row.token}."
        if task.seq not in self._rows_before:
            self._rows_before[task.seq] = replace(row, failures=list(row.failures))
        return row

    def _put(self, row: Row) -> None:
        self._rows[row.seq] = self._by_id[row.id] = row

    def _remove(self, seq: int) -> None:
        row = self._rows.pop(seq, None)
        if row is not None:
            del self._by_id[row.id]

    # ---- reading, for the dispatcher's thread ----------------------------------------------

    def unsound(self) -> list[int]:
        return []  # no other program writes here

    def interrupted(self) -> list[tuple[Task, float]]:
        running = [row for row in self._in_order() if row.status is Status.PROCESSING]
        return [(row.task(), row.started_at or 0.0) for row in running]

    def waiting(self) -> Iterator[tuple[Task, float]]:
        live = (Status.QUEUED, *WAITING)
        rows = [row for row in self._rows.values() if row.status in live]
        for row in sorted(rows, key=Row.in_line):
            yield row.task(), row.enqueued_at if row.due_at is None else row.due_at

    def find(self, job_id: str) -> Task | None:
        row = self._by_id.get(job_id)
        return row.task() if row else None

    def rows(self, tasks: Iterable[Task]) -> list[Task]:
        return [self._rows[task.seq].task() for task in tasks if task.seq in self._rows]

    def dead_letters(
        self, job_id: str | None, kind: str | None, after: int, limit: int
    ) -> list[Task]:
        dead = [row for row in self._in_order() if row.status is Status.FAILED]
        if job_id is not None:
            return [row.task() for row in dead if row.id == job_id]
        letters = [row.task() for row in dead if row.seq > after and kind in (None, row.kind)]
        return letters[:limit]

    def payloads(self, tasks: Iterable[Task]) -> dict[int, Stored]:
        return {task.seq: self._rows[task.seq].payload for task in tasks}

    def taken(self, job_ids: Sequence[str]) -> set[str]:
        return {job_id for job_id in job_ids if job_id in self._by_id}

    def ended(self) -> Iterator[int]:
        for row in self._in_order():
            if row.status in PRUNED:
                yield row.seq

    def last_number(self) -> int:
        return int(max((max(row.seq, row.in_line()) for row in self._rows.values()), default=0))

    def _in_order(self) -> list[Row]:
        return [row for _, row in sorted(self._rows.items())]

    # ---- look-ups --------------------------------------------------------------------------

    def counts(self) -> dict[tuple[Priority, Status], int]:
        kept = Counter((row.priority, row.status) for row in self._rows.values())
        return dict(kept + self._forgotten)

    def get(self, job_id: str) -> JobRecord | None:
        row = self._by_id.get(job_id)
        return row.record() if row else None

    def jobs(
        self,
        status: Status | None,
        limit: int,
        kind: str | None,
        priority: Priority | None,
        before: str | None,
        payloads: bool,
    ) -> list[JobRecord]:
        end: float = math.inf
        if before is not None:
            end = self._by_id[before].seq if before in self._by_id else -1
        rows = [
            row
            for row in reversed(self._in_order())
            if row.seq < end
            and status in (None, row.status)
            and kind in (None, row.kind)
            and priority in (None, row.priority)
        ]
        records = [row.record() for row in rows[: None if limit < 0 else limit]]
        return records if payloads else [replace(record, payload=None) for record in records]

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        row = self._by_id.get(job_id)
        return list(row.failures) if row else []

    def close(self) -> None:
        """Nothing to let go of."""
