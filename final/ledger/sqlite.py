"""The rows of a queue's file, as SQL: what an exchange has moved, and what it reads.

- A job is two rows: what is said once (``payload``), and what each claim and each end rewrites
  (``job``).
- A move is a few statements for all of its jobs. ``executemany`` would take and release the GIL
  once for each.
- Claims and ends carry the fence: an attempt ends where the token of its claim still stands, and
  a job is claimed where none does. Whoever finds fewer rows than it moved is not the owner any
  more.
- Job ids are ordered in time, so the id index grows at its end instead of all over.

But: it decides nothing. What a commit is worth, and whose the file is, is in ``database.py``.
"""

from __future__ import annotations

import functools
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from final.beyond.filters import Filter
from final.job import Outcome, Status, Task
from final.ledger.base import Move
from final.ledger.database import Database
from final.ledger.lookups import SqliteLookups
from final.ledger.matching import still_meant
from final.ledger.rows import PLAIN, SOUND, TASK_COLUMNS, failure_row, task_of
from final.ledger.trouble import taken_over, translated
from final.payload import Stored

# Of many jobs; ``_among`` fills it in. (PLAIN in rows.py is the text of each status and priority.)
THESE = "seq IN ({})"

# Moves whose jobs all get the same values, by where these go. The first is for what has not run.
GIVEN_BACK = (
    "UPDATE job SET status = 'queued', attempts = attempts - 1, token = 0, started_at = NULL"
    f" WHERE token = ? AND {THESE}"
)
COMPLETED = (
    "UPDATE job SET status = 'completed', ended_at = ?, token = 0, error = NULL"
    f" WHERE token = ? AND {THESE}"
)
ENDED = (
    f"UPDATE job SET status = ?, ended_at = ?, token = 0, due_at = NULL WHERE token = ? AND {THESE}"
)
CLAIMED = (
    "UPDATE job SET status = 'processing', attempts = attempts + 1, token = ?, alone = ?,"
    f" started_at = ? WHERE token = 0 AND {THESE}"
)
# And those where each job has values of its own: a row of VALUES for each, whose columns SQLite
# names column1, column2, ... (FAILED is also for those that are tried again.)
KEPT = (
    "UPDATE job SET status = 'completed', ended_at = ?, token = 0, result = column2,"
    " error = column3 FROM (VALUES {}) WHERE seq = column1 AND token = ?"
)
FAILED = (
    "UPDATE job SET status = ?, ended_at = ?, token = 0, interrupted = 0, due_at = column2,"
    " error = column3 FROM (VALUES {}) WHERE seq = column1 AND token = ?"
)
SNOOZED = (
    "UPDATE job SET status = 'scheduled', attempts = attempts - 1, token = 0, interrupted = 0,"
    " due_at = column2, snoozes = snoozes + 1 FROM (VALUES {}) WHERE seq = column1 AND token = ?"
)
DUE = (
    "UPDATE job SET status = 'queued', place = column2 FROM (VALUES {})"
    " WHERE seq = column1 AND token = 0"
)
RETRIED = (
    "UPDATE job SET status = 'queued', place = column2, due_at = ?, ended_at = NULL, attempts = 0"
    " FROM (VALUES {}) WHERE seq = column1 AND status = 'failed'"
)
RELEASED = (
    "UPDATE job SET status = ?, place = column2, due_at = column3 FROM (VALUES {})"
    " WHERE seq = column1 AND status = 'waiting'"
)
INTERRUPTED = (
    "UPDATE job SET status = 'queued', attempts = ?, interrupted = ?, due_at = ?, token = 0,"
    " started_at = NULL WHERE seq = ?"
)
INSERT = (
    "INSERT INTO job (status, attempts, token, alone, started_at, ended_at, enqueued_at,"
    " interrupted, seq, id, kind, priority, size) SELECT ?, ?, ?, ?, ?, ?, ?, 0,"
    " column1, column2, column3, column4, column5 FROM (VALUES {})"
)
INSERT_IN_FULL = INSERT.replace("size)", "size, timeout, due_at, grp)").replace(
    "column5", "column5, column6, column7, column8"
)
FORGET = (
    f"INSERT INTO forgotten SELECT priority, status, count(*) FROM job WHERE {THESE}"
    " GROUP BY priority, status"
    " ON CONFLICT (priority, status) DO UPDATE SET count = count + excluded.count"
)
INSERT_PAYLOAD = "INSERT INTO payload VALUES {}"
INSERT_FAILURE = "INSERT INTO failure VALUES {}"

# Rows in a statement, at most. (Twice as many take more time for each.)
ROWS = 256
FEW_ROWS = 8


class SqliteFile(Database, SqliteLookups):
    """The rows of a queue's file. ``Database`` opens it; ``SqliteLookups`` is for who asks."""

    # ---- writing ---------------------------------------------------------------------------

    def write(self, moves: Sequence[Move], wall: float) -> None:
        """Write what an exchange has moved. New jobs are written once, as they are at its end."""
        inserted = [task for move in moves if move.source is None for task in move.tasks]
        if inserted:
            self._insert(inserted, wall)
        new = set(inserted)
        for tasks, source, target, token, outcomes in moves:
            if source is None:
                continue
            if new:
                tasks = [task for task in tasks if task not in new]
            match source, target:
                case _, None:
                    self.delete([task.seq for task in tasks])
                case Status.QUEUED, Status.PROCESSING:
                    for alone in (False, True):
                        some = [task for task in tasks if task.alone is alone]
                        if some:
                            self._update(CLAIMED, (some[0].token, alone, wall), some)
                case Status.PROCESSING, Status.COMPLETED:
                    self._write_completed(outcomes, token, wall)
                case Status.PROCESSING, Status.FAILED | Status.RETRYING:
                    self._write_failed(outcomes, target, token, wall)
                case Status.PROCESSING, Status.SCHEDULED:
                    self._each(SNOOZED, [(t.seq, t.due_at) for t in tasks], after=(token,))
                case Status.PROCESSING, Status.QUEUED:
                    self._update(GIVEN_BACK, (token,), tasks)
                case Status.FAILED, Status.QUEUED:
                    self._each(RETRIED, [(t.seq, t.key) for t in tasks], before=(wall,))
                case Status.WAITING, Status.QUEUED | Status.SCHEDULED:
                    queued = target is Status.QUEUED
                    rows = [(t.seq, t.key if queued else None, t.due_at or wall) for t in tasks]
                    self._each(RELEASED, rows, before=(PLAIN[target],))
                case _, Status.SCHEDULED:
                    pass  # it was replaced: features/holders.py writes that afterwards
                case _, Status.QUEUED:
                    self._each(DUE, [(task.seq, task.key) for task in tasks])
                case _, _:  # cancelled or dropped
                    self._update(ENDED, (PLAIN[target], wall, token), tasks)

    def _update(self, statement: str, values: tuple[object, ...], tasks: Sequence[Task]) -> None:
        """One statement for many jobs, with the same values for all."""
        if tasks:
            self._fence(self._among(statement, _seqs(tasks), values), len(tasks))

    def _each(
        self,
        statement: str,
        rows: Sequence[tuple[object, ...]],
        before: tuple[object, ...] = (),
        after: tuple[object, ...] = (),
    ) -> None:
        """One statement for many rows, each with its own values; before and after: those of all.

        Sizes are few or powers of two: so some prepared statements do.
        """
        start = 0
        while start < len(rows):
            left = len(rows) - start
            size = left if left <= FEW_ROWS else min(ROWS, 1 << (left.bit_length() - 1))
            some = rows[start : start + size]
            values = (*before, *itertools.chain.from_iterable(some), *after)
            cursor = self._writer.execute(_with_rows(statement, size, len(some[0])), values)
            self._fence(cursor, size)
            start += size

    def _among(
        self, statement: str, members: Sequence[object], before: Sequence[object] = ()
    ) -> sqlite3.Cursor:
        """One statement for the rows that are among these, where it says ``IN ({})``."""
        if len(members) > FEW_ROWS:
            listed = statement.format("SELECT value FROM json_each(?)")
            return self._writer.execute(listed, (*before, json.dumps(members)))
        # For a few json_each is not worth the ten microseconds that it takes to begin.
        listed = _with_members(statement, len(members))
        return self._writer.execute(listed, (*before, *members))

    def _fence(self, cursor: sqlite3.Cursor, expected: int) -> None:
        """Raises QueueClosed where somebody else has changed one of these rows."""
        if cursor.rowcount != expected:
            raise taken_over(self._path)

    def _insert(self, tasks: Sequence[Task], wall: float) -> None:
        """New rows, with no more values for each than differ from row to row."""
        alike: dict[tuple[Status | None, int, bool, bool], list[Task]] = {}
        for task in tasks:
            has_more = task.timeout is not None or task.due_at is not None or task.group != ""
            key = (task.status, task.token, task.alone, has_more)
            alike.setdefault(key, []).append(task)
        for (status, token, alone, has_more), some in alike.items():
            started_at = wall if status is Status.PROCESSING else None
            ended_at = wall if status is Status.DROPPED else None
            rows: list[tuple[object, ...]] = [
                (t.seq, t.id, t.kind, PLAIN[t.priority], t.size) for t in some
            ]
            if has_more:
                more = [(t.timeout, t.due_at, t.group or None) for t in some]
                rows = [(*row, *others) for row, others in zip(rows, more, strict=True)]
            same = (PLAIN[status], some[0].attempts, token, alone, started_at, ended_at, wall)
            self._each(INSERT_IN_FULL if has_more else INSERT, rows, before=same)
        self._each(INSERT_PAYLOAD, [(task.seq, task.payload) for task in tasks])

    def _write_completed(self, outcomes: Sequence[Outcome], token: int, wall: float) -> None:
        plain, kept = [], []
        for outcome in outcomes:
            if outcome.result is None and outcome.note is None:
                plain.append(outcome.task)
            else:
                kept.append((outcome.task.seq, outcome.result, outcome.note))
        self._update(COMPLETED, (wall, token), plain)
        self._each(KEPT, kept, before=(wall,), after=(token,))

    def _write_failed(
        self, outcomes: Sequence[Outcome], target: Status, token: int, wall: float
    ) -> None:
        dead = target is Status.FAILED
        rows = [(o.task.seq, None if dead else o.task.due_at, o.error) for o in outcomes]
        ended_at = wall if dead else None
        self._each(FAILED, rows, before=(PLAIN[target], ended_at), after=(token,))
        self._write_failures(outcomes, token, wall)

    def _write_failures(self, outcomes: Sequence[Outcome], token: int, wall: float) -> None:
        """The details of attempts that failed: their price is paid by those jobs alone."""
        self._each(INSERT_FAILURE, [failure_row(outcome, token, wall) for outcome in outcomes])

    def write_interrupted(self, crash: Outcome, charged: bool, wall: float) -> None:
        """A job that ran when the last owner ended is queued again, ready from now on."""
        task = crash.task
        if charged:
            self._write_failures([crash], task.token, wall)
            self._writer.execute("UPDATE job SET error = ? WHERE seq = ?", (crash.error, task.seq))
        self._writer.execute(INTERRUPTED, (task.attempts, task.interrupted, wall, task.seq))

    def write_cancelled(self, tasks: Sequence[Task]) -> None:
        """Jobs that run: they are not tried again, not even if the process ends now."""
        if tasks:
            self._among(f"UPDATE job SET cancelled = 1 WHERE {THESE}", _seqs(tasks))

    def forget(self, seqs: Sequence[int]) -> None:
        """The history lets go of these. They stay counted."""
        self._among(FORGET, seqs)
        self.delete(seqs)

    def delete(self, seqs: Sequence[int]) -> None:
        """These jobs, but for what features have of them. Some may be gone already."""
        for table in ("job", "payload", "failure"):
            self._among(f"DELETE FROM {table} WHERE {THESE}", seqs)

    # ---- reading, for the dispatcher's thread ----------------------------------------------

    def unsound(self) -> list[int]:
        """Rows that another program has written, and that make no sense."""
        rows = self._writer.execute(f"SELECT seq FROM job WHERE NOT ({SOUND})")
        return [seq for (seq,) in rows]

    def interrupted(self) -> list[tuple[Task, float]]:
        """What ran when the last owner ended, and since when."""
        rows = self._writer.execute(
            f"SELECT {TASK_COLUMNS}, started_at FROM job"
            f" WHERE status = 'processing' AND {SOUND} ORDER BY seq"
        )
        return [(task_of(columns), started_at) for *columns, started_at in rows]

    def waiting(self) -> Iterator[tuple[Task, float]]:
        """All that wait, in the order of their lanes; and since when they are ready to run."""
        rows = self._writer.execute(
            f"SELECT {TASK_COLUMNS}, coalesce(due_at, enqueued_at) FROM job"
            f" WHERE status IN ('queued', 'scheduled', 'retrying', 'waiting') AND {SOUND}"
            " ORDER BY coalesce(place, seq)"
        )
        for *columns, ready_at in rows:
            yield task_of(columns), ready_at

    def find(self, job_id: str) -> Task | None:
        """The job with this id."""
        rows = self._writer.execute(f"SELECT {TASK_COLUMNS} FROM job WHERE id = ?", (job_id,))
        row = rows.fetchone()
        return row and task_of(row)

    def rows(self, tasks: Iterable[Task]) -> list[Task]:
        """What the file says of these, as far as it has them."""
        with translated(f"Cannot read {self._path}"):
            found = self._among(f"SELECT {TASK_COLUMNS} FROM job WHERE {THESE}", _seqs(tasks))
            return [task_of(row) for row in found]

    def meant(self, numbers: Sequence[int], wanted: Filter) -> list[Task]:
        """Of the jobs with these numbers the ones that are what is wanted, in order."""
        where, values = still_meant(wanted)
        query = f"SELECT {TASK_COLUMNS} FROM job WHERE {SOUND} AND {where} AND {THESE} ORDER BY seq"
        return [task_of(row) for row in self._among(query, numbers, values)]

    def payloads(self, tasks: Iterable[Task]) -> dict[int, Stored]:
        """By ``seq``."""
        statement = f"SELECT seq, payload FROM payload WHERE {THESE}"
        return dict(self._among(statement, _seqs(tasks)).fetchall())

    def taken(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these ids are there already."""
        return {row[0] for row in self._among("SELECT id FROM job WHERE id IN ({})", job_ids)}

    def forgettable(self) -> Iterator[int]:
        """What the history may let go of, oldest first."""
        for (seq,) in self._writer.execute(
            "SELECT seq FROM job WHERE status IN ('completed', 'cancelled', 'dropped')"
            " ORDER BY ended_at, seq"
        ):
            yield seq

    def last_number(self) -> int:
        """The highest number given to a job, or to a place in line."""
        (number,) = self._writer.execute(
            "SELECT coalesce(max(max(seq, CAST(coalesce(place, 0) AS INTEGER))), 0) FROM job"
        ).fetchone()
        return int(number)


@functools.cache
def _with_rows(statement: str, rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return statement.format(",".join([row] * rows))


@functools.cache
def _with_members(statement: str, members: int) -> str:
    return statement.format(",".join("?" * members))


def _seqs(tasks: Iterable[Task]) -> list[int]:
    return [task.seq for task in tasks]
