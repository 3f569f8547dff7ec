"""The SQLite store: one file, one writing connection, one transaction a turn.

Three things make it fast, and each is a statement you can read below:

- a turn is one transaction, so its sync is shared by everyone in it (group commit);
- a batch is one statement: a multi-row INSERT, or an UPDATE whose rows come from
  ``json_each``. ``executemany`` would take and release the GIL once for each row;
- job ids are ordered in time, so the id index grows at its end instead of all over.

Durability, in the words of SQLite's documentation of WAL mode: with ``synchronous``
FULL a commit survives a power cut; with NORMAL it survives the end of the process,
and after a power cut the latest commits may be gone, but the file is consistent.

But: one process at a time (``owner.py``), and of its connections only one ever writes or
checkpoints, which also keeps clear of the WAL-reset bug that SQLite has documented for
releases before 3.51.3.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from final.errors import QueueClosed, StorageError
from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.payload import Stored, decode
from final.stores.base import Changes, DuplicateIds, Recovered, Unfinished
from final.stores.owner import WAL_LIMIT, Owner

log = logging.getLogger("final")

APPLICATION_ID = 0x4A4F4251  # "JOBQ": tells our files from other SQLite databases
SCHEMA_VERSION = 2

# How many ended jobs are not in the file any more, so that counts stay what they were.
FORGOTTEN = """
CREATE TABLE forgotten (
    priority    TEXT NOT NULL,
    status      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (priority, status)
) WITHOUT ROWID
"""

# Columns without a type keep what they are given: BLOB for bytes, TEXT for JSON.
SCHEMA = (
    """
CREATE TABLE job (
    seq         INTEGER PRIMARY KEY,   -- the order of acceptance
    id          TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL,
    priority    TEXT NOT NULL,
    payload     NOT NULL,
    status      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,      -- started so far, the running one included
    token       INTEGER NOT NULL,      -- fencing token of the latest attempt
    place       INTEGER,               -- number in line of a job that came back; else seq
    interrupted INTEGER NOT NULL,      -- times in a row that the process ended while it ran;
                                       -- -1: it was cancelled while it ran, so it is not to again
    enqueued_at REAL NOT NULL,         -- all times are Unix seconds
    started_at  REAL,
    ended_at    REAL,
    due_at      REAL,                  -- when it is or became ready to run; NULL: at once
    timeout     REAL,                  -- seconds per attempt
    result,
    error       TEXT,
    alone       INTEGER NOT NULL DEFAULT 1  -- in its latest claim, so a crash is charged to it
)
""",
    """
-- Attempts that failed: the price of the details is paid by those jobs alone.
CREATE TABLE failure (
    seq         INTEGER NOT NULL,      -- of the job
    token       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    started_at  REAL NOT NULL,
    ended_at    REAL NOT NULL,
    error       TEXT NOT NULL,
    traceback   TEXT NOT NULL,
    PRIMARY KEY (seq, token)
) WITHOUT ROWID
""",
    """
-- One row. token: no forgotten job had a higher one. So tokens grow, whatever is forgotten.
-- epoch: how many owners the file has had; each adds one, so a former owner finds another number.
CREATE TABLE fence (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    token       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL DEFAULT 0
)
""",
    "INSERT INTO fence VALUES (1, 0, 0)",
    FORGOTTEN,
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# What makes a file of a schema one of the next. (An older release refuses a file of a newer one.)
MIGRATIONS = {
    1: (
        "ALTER TABLE job ADD COLUMN alone INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE fence ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
        "INSERT OR IGNORE INTO fence VALUES (1, 0, 0)",
        FORGOTTEN,
    ),
}

RECORD_COLUMNS = (
    "id, payload, priority, kind, status, attempts, "
    "enqueued_at, started_at, ended_at, "
    "CASE WHEN status IN ('scheduled', 'retrying') THEN due_at END AS due_at, "
    "result, error, timeout"
)
TASK_COLUMNS = (
    "id, payload, priority, kind, timeout, seq, coalesce(place, seq) AS line, "
    "attempts, token, alone, interrupted, enqueued_at"
)
PRIORITIES = ", ".join(f"'{priority}'" for priority in Priority)
STATUSES = ", ".join(f"'{status}'" for status in Status)
UNFINISHED = ", ".join(f"'{status}'" for status in Status if not status.ended)
# What this package has written. Another program may have put anything into a row: that one then
# is as good as not there, and the others are what they are.
SOUND = (
    f"priority IN ({PRIORITIES}) AND status IN ({STATUSES}) AND typeof(payload) IN ('text', 'blob')"
    " AND typeof(coalesce(result, '')) IN ('text', 'blob')"
    " AND typeof(id) = 'text' AND typeof(kind) = 'text' AND typeof(enqueued_at) = 'real'"
    " AND typeof(coalesce(due_at, 0.0)) = 'real' AND typeof(coalesce(started_at, 0.0)) = 'real'"
    " AND typeof(coalesce(timeout, 0.0)) = 'real'"
    " AND typeof(attempts) = 'integer' AND typeof(token) = 'integer'"
    " AND typeof(interrupted) = 'integer' AND typeof(coalesce(place, 0)) = 'integer'"
)


LOOK_UP = f"SELECT {RECORD_COLUMNS} FROM job WHERE {SOUND}"


class SqliteStore:
    """See ``Store`` for the methods.

    path: the database file, made when it is not there; ":memory:" keeps nothing.
    durability: "full" or "normal", as described at the top of this file.

    Raises StorageError, in a sentence, for a path that cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        self._path = os.fspath(path)  # as the caller knows it, for errors
        self.lasting = self._path != ":memory:"
        self._durability = durability
        # Guards _reader and _closed; who has it may look again, in a signal handler or a finalizer.
        self._mutex = threading.RLock()
        self._closed = False
        self._owner = Owner(self._path) if self.lasting else None
        try:
            with _translated(f"Cannot open {self._path}"):
                self._writer = self._connect()
                self._prepare()
                # Look-ups come from any thread and never wait for a commit: WAL readers see
                # the last one. A database in memory exists in its connection alone, so there
                # they share it, and the mutex keeps them apart.
                self._reader = (
                    self._writer if self._owner is None else self._connect(read_only=True)
                )
            if self._owner is not None:
                self._owner.remember()
        except BaseException:
            self._release()
            raise

    def recover(self) -> Recovered:
        with _translated(f"Cannot read {self._path}"):
            rows = self._writer.execute(
                f"SELECT {TASK_COLUMNS}, status, due_at, started_at, seq, {SOUND}"
                f" FROM job WHERE status IN ({UNFINISHED}) ORDER BY line"
            )
            unfinished, broken = [], []
            for *columns, status, due_at, started_at, seq, sound in rows:
                if sound:
                    task = _task(*columns)
                    unfinished.append(Unfinished(task, Status(status), due_at, started_at))
                else:
                    broken.append(seq)
            counts = {
                (Priority(priority), Status(status)): count
                for priority, status, count in self._writer.execute(
                    "SELECT priority, status, sum(count) FROM ("
                    "SELECT priority, status, count(*) AS count FROM job GROUP BY priority, status"
                    " UNION ALL SELECT * FROM forgotten) GROUP BY priority, status"
                    f" HAVING priority IN ({PRIORITIES}) AND status IN ({STATUSES})"
                )
            }
            ended = [
                seq
                for (seq,) in self._writer.execute(
                    "SELECT seq FROM job WHERE status IN ('completed', 'cancelled', 'dropped')"
                )
            ]
            last_number, last_token = self._writer.execute(
                "SELECT coalesce(max(max(seq, CAST(coalesce(place, 0) AS INTEGER))), 0),"
                " max(coalesce(max(CAST(token AS INTEGER)), 0),"
                " coalesce((SELECT token FROM fence), 0)) FROM job"
            ).fetchone()
        if broken:
            log.warning("%s: rows that make no sense are left alone: %s.", self._path, broken)
        return Recovered(unfinished, ended, counts, last_number, last_token)

    def commit(self, changes: Changes) -> None:
        with self._transaction():
            self._write(changes)

    def probe(self) -> None:
        with self._transaction():
            self._stamp()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what the block writes, or nothing."""
        self._require_files()
        with self._mutex if self._owner is None else contextlib.nullcontext():
            try:
                with _translated(f"Cannot write {self._path}"):
                    self._writer.execute("BEGIN IMMEDIATE")
                    self._require_epoch()
                    yield
                    self._writer.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back by itself.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _require_epoch(self) -> None:
        """Whoever finds another one here has been taken for dead, and writes nothing more."""
        if self._writer.execute("SELECT epoch FROM fence").fetchone() != (self._epoch,):
            raise _taken_over(self._path)

    def _require_files(self) -> None:
        """SQLite would go on to write into files that nobody will find when it is closed."""
        if self._owner is None or self._owner.finds_all():
            return
        if not self._owner.keeps_lock_file():
            raise _taken_over(self._path)
        self._open_again()

    def _open_again(self) -> None:
        """The journal was removed or replaced, or a file was cut off: save what can be saved.

        SQLite has the journal that it opened, name or no name, and moves all of it into the
        database. Then both connections start anew; nothing but the database is needed for that.
        """
        assert self._owner is not None
        try:
            with self._mutex, _translated(f"Cannot read {self._path}"):
                checkpoint = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
                _, in_journal, moved = checkpoint.fetchone()
                if moved == in_journal:
                    self._reader.close()
                    self._writer.close()
                    self._writer = self._connect()
                    self._require_health()
                    self._require_epoch()
                    self._set_modes()
                    self._stamp()  # the first write makes the journal
                    self._reader = self._connect(read_only=True)
                    self._owner.remember()
        except StorageError as error:
            raise QueueClosed(
                f"Somebody changed {self._path} or its journal, and what was accepted cannot all "
                f"be read any more: {error.__cause__ or error}"
            ) from error
        if moved < in_journal:
            raise StorageError(
                f"Somebody changed {self._path} or its journal, and another program reads the "
                "file: close that; the queue goes on by itself."
            )

    def _write(self, changes: Changes) -> None:
        execute, executemany = self._writer.execute, self._writer.executemany
        now = changes.now
        if changes.completed:
            plain = [o.task for o in changes.completed if o.result is None and o.note is None]
            if plain:
                execute(
                    "UPDATE job SET status = 'completed', ended_at = ?, error = NULL"
                    " WHERE seq IN (SELECT value FROM json_each(?))",
                    (now, _seqs(plain)),
                )
            if len(plain) < len(changes.completed):
                executemany(
                    "UPDATE job SET status = 'completed', ended_at = ?, result = ?, error = ?"
                    " WHERE seq = ?",
                    [
                        (now, o.result, o.note, o.task.seq)
                        for o in changes.completed
                        if o.result is not None or o.note is not None
                    ],
                )
        if changes.failed:
            executemany(
                "UPDATE job SET status = ?, ended_at = ?, due_at = ?, error = ?, interrupted = 0"
                " WHERE seq = ?",
                [
                    ("failed", now, None, outcome.error, outcome.task.seq)
                    if due_at is None
                    else ("retrying", None, due_at, outcome.error, outcome.task.seq)
                    for outcome, due_at in changes.failed
                ],
            )
        if changes.interrupted:
            executemany(
                "UPDATE job SET status = 'queued', interrupted = ?, attempts = ?, due_at = ?"
                " WHERE seq = ?",
                [(task.interrupted, task.attempts, now, task.seq) for task in changes.interrupted],
            )
        if changes.crashed:
            executemany(
                "UPDATE job SET error = ? WHERE seq = ?",
                [(outcome.error, outcome.task.seq) for outcome in changes.crashed],
            )
        if failures := [outcome for outcome, _ in changes.failed] + changes.crashed:
            executemany(
                "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_failure_row(outcome, now) for outcome in failures],
            )
        if changes.returned:
            execute(
                "UPDATE job SET status = 'queued', attempts = attempts - 1, started_at = NULL"
                " WHERE seq IN (SELECT value FROM json_each(?))",
                (_seqs(changes.returned),),
            )
        if changes.requeued:
            executemany(
                "UPDATE job SET status = 'queued', place = ? WHERE seq = ?",
                [(task.place, task.seq) for task in changes.requeued],
            )
        if changes.revived:
            executemany(
                "UPDATE job SET status = 'queued', attempts = 0, ended_at = NULL, place = ?,"
                " due_at = ? WHERE seq = ?",
                [(task.place, now, task.seq) for task in changes.revived],
            )
        if changes.inserted:
            self._insert(changes.inserted, now)
        if changes.turned_away:
            self._insert(changes.turned_away, now)
            self._end_as("dropped", changes.turned_away, now)
        for alone in (False, True):
            if claimed := [task for task in changes.claimed if task.alone is alone]:
                execute(
                    "UPDATE job SET status = 'processing', attempts = attempts + 1, token = ?,"
                    " alone = ?, started_at = ? WHERE seq IN (SELECT value FROM json_each(?))",
                    (changes.token, alone, now, _seqs(claimed)),
                )
        if changes.cancelling:
            execute(
                "UPDATE job SET interrupted = -1 WHERE seq IN (SELECT value FROM json_each(?))",
                (_seqs(changes.cancelling),),
            )
        if changes.cancelled:
            self._end_as("cancelled", changes.cancelled, now)
        if changes.dropped:
            self._end_as("dropped", changes.dropped, now)
        if changes.forgotten:
            execute(  # dead letters go only when they are purged, and that is no end of theirs
                "INSERT INTO forgotten SELECT priority, status, count(*) FROM job"
                " WHERE status != 'failed' AND seq IN (SELECT value FROM json_each(?))"
                " GROUP BY priority, status"
                " ON CONFLICT (priority, status) DO UPDATE SET count = count + excluded.count",
                (str(changes.forgotten),),
            )
            for table in ("job", "failure"):
                execute(
                    f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))",
                    (str(changes.forgotten),),
                )
            execute("UPDATE fence SET token = ?", (changes.token,))

    def _end_as(self, status: str, tasks: list[Task], now: float) -> None:
        self._writer.execute(
            "UPDATE job SET status = ?, ended_at = ?, due_at = NULL"
            " WHERE seq IN (SELECT value FROM json_each(?))",
            (status, now, _seqs(tasks)),
        )

    def _insert(self, tasks: list[Task], now: float) -> None:
        """New rows, with no more values for each than differ from row to row."""
        queued = [task for task in tasks if task.due_at is None]
        scheduled = [task for task in tasks if task.due_at is not None]
        try:
            for group, statement in ((queued, _insert_queued), (scheduled, _insert_scheduled)):
                start = 0
                # Sizes are powers of two, so that a handful of prepared statements is enough.
                while start < len(group):
                    size = min(512, 1 << (len(group) - start).bit_length() - 1)
                    values: list[object] = []
                    for task in group[start : start + size]:
                        priority = _PLAIN[task.priority]
                        values += (task.seq, task.id, task.kind, priority, task.payload, now)
                        values += (
                            (task.timeout,) if group is queued else (task.timeout, task.due_at)
                        )
                    self._writer.execute(statement(size), values)
                    start += size
        except sqlite3.IntegrityError:
            self._writer.execute("ROLLBACK")
            raise DuplicateIds(self.taken([task.id for task in tasks])) from None

    def taken(self, job_ids: list[str]) -> set[str]:
        with _translated(f"Cannot read {self._path}"):
            rows = self._writer.execute(
                "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(job_ids),),
            )
            return {job_id for (job_id,) in rows}

    def dead_letters(self, job_id: str | None, kind: str | None) -> list[Task]:
        with _translated(f"Cannot read {self._path}"):
            rows = self._writer.execute(
                f"SELECT {TASK_COLUMNS} FROM job WHERE status = 'failed' AND {SOUND}"
                " AND id = coalesce(?, id) AND kind = coalesce(?, kind) ORDER BY seq",
                (job_id, kind),
            )
            return [_task(*row) for row in rows]

    def get(self, job_id: str) -> JobRecord | None:
        records = self._look_up("id = ?", (job_id,))
        return records[0] if records else None

    def jobs(
        self,
        status: Status | None,
        limit: int,
        kind: str | None = None,
        priority: Priority | None = None,
        before: str | None = None,
    ) -> list[JobRecord]:
        wanted = {"status = ?": status, "kind = ?": kind, "priority = ?": priority}
        wanted["seq < (SELECT seq FROM job WHERE id = ?)"] = before
        conditions = [condition for condition, value in wanted.items() if value is not None]
        values = [value for value in wanted.values() if value is not None]
        wanted_all = " AND ".join(conditions) or "true"
        return self._look_up(f"{wanted_all} ORDER BY seq DESC LIMIT ?", (*values, limit))

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        with self._mutex, _translated(f"Cannot read {self._path}"), self._reading() as reader:
            rows = reader.execute(
                "SELECT number, failure.started_at, failure.ended_at, failure.error, traceback"
                " FROM failure JOIN job USING (seq) WHERE job.id = ? ORDER BY failure.token",
                (job_id,),
            ).fetchall()
        return [AttemptRecord(*row) for row in rows]

    def _look_up(self, clause: str, values: Sequence[object]) -> list[JobRecord]:
        with self._mutex, _translated(f"Cannot read {self._path}"), self._reading() as reader:
            rows = reader.execute(f"{LOOK_UP} AND {clause}", values).fetchall()
        return [_record(*row) for row in rows]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The reading connection; after ``close`` one of its own for each look-up."""
        if self._owner is None or not self._closed:
            yield self._reader
        else:
            self._owner.require_database()
            with contextlib.closing(self._connect(read_only=True)) as reader:
                yield reader

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            if self._owner is None:
                weakref.finalize(self, self._writer.close)  # until then look-ups go on
                return
            self._release()

    def _release(self) -> None:
        for name in ("_reader", "_writer"):  # the last one to leave moves the WAL into the file
            with contextlib.suppress(AttributeError):  # it may never have been opened
                getattr(self, name).close()
        if self._owner is not None:
            self._owner.release()

    # ---- opening -----------------------------------------------------------------------------

    def _connect(self, read_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path if self._owner is None else self._owner.place,
            isolation_level=None,  # transactions are ours: BEGIN and COMMIT stand in the code
            check_same_thread=False,  # opened by the caller, used by the dispatcher's thread
            cached_statements=64,
        )
        # Where the root is read-only, there may be no folder for temporary files.
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def _require_health(self) -> None:
        (verdict,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StorageError(_DAMAGED.format(self._path, " ".join(verdict.split())))

    def _prepare(self) -> None:
        """Check that the file is one of ours and whole, bring it up to date, and take it over."""
        (application_id,) = self._writer.execute("PRAGMA application_id").fetchone()
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application_id != APPLICATION_ID:
            raise StorageError(
                f"{self._path} is a SQLite database of something else: choose another path."
            )
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} was written by a newer release (schema {version}, this one knows "
                f"{SCHEMA_VERSION}): upgrade, or choose another path."
            )
        self._require_health()
        if not tables:
            self._change_schema(SCHEMA)
        elif version < SCHEMA_VERSION:
            older = range(max(version, 1), SCHEMA_VERSION)  # the first release could leave a 0
            self._change_schema(itertools.chain.from_iterable(MIGRATIONS[v] for v in older))
        self._set_modes()
        self._take_over()

    def _change_schema(self, statements: Iterable[str]) -> None:
        """All of it or nothing, so that a process may end at any moment."""
        self._writer.execute("BEGIN EXCLUSIVE")
        for statement in statements:
            self._writer.execute(statement)
        self._stamp()
        self._writer.execute("COMMIT")

    def _set_modes(self) -> None:
        pragma = self._writer.execute
        pragma("PRAGMA journal_mode = WAL")
        pragma(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        pragma(f"PRAGMA synchronous = {self._durability}")
        # On macOS a plain fsync stops at the drive's cache; this one goes through. (No other
        # system knows the difference.)
        pragma(f"PRAGMA fullfsync = {int(self._durability == 'full')}")

    def _take_over(self) -> None:
        """From here on every other owner is a former one. (A read-only file is found out here.)"""
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.execute("UPDATE fence SET epoch = epoch + 1")
        (self._epoch,) = self._writer.execute("SELECT epoch FROM fence").fetchone()
        self._writer.execute("COMMIT")

    def _stamp(self) -> None:
        """Nothing new, but it is written."""
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _taken_over(path: str) -> QueueClosed:
    return QueueClosed(
        f"{path} was taken over by another process, which runs what is in it from now on; this "
        "queue has stopped. Was its lock file removed? Leave that to the queue."
    )


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn SQLite's errors into a StorageError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        advice = next(
            (text for prefix, text in _ADVICE.items() if name.startswith(prefix)),
            "See the cause above.",
        )
        raise StorageError(f"{what}: {error}. {advice}") from error


_DAMAGED = "{} is damaged ({}): restore a copy, or save what is left with sqlite3's .recover."
_ADVICE = {
    "SQLITE_FULL": "Free some space; the queue goes on by itself.",
    "SQLITE_IOERR": "Check the disk; the queue goes on by itself when it works again.",
    "SQLITE_READONLY": "Make the file and its folder writable.",
    "SQLITE_CANTOPEN": "Make the file and its folder readable and writable.",
    "SQLITE_NOTADB": "It is no SQLite database: choose another path.",
    "SQLITE_CORRUPT": "It is damaged: restore a copy, or save what is left with .recover.",
    "SQLITE_BUSY": "Another program holds it open: close that first.",
    "SQLITE_LOCKED": "Another program holds it open: close that first.",
}


# sqlite3 binds plain text at once, but asks its adapters about a subclass, for every value.
_PLAIN = {priority: str(priority.value) for priority in Priority}


_INSERT = (
    "INSERT INTO job (seq, id, kind, priority, payload, enqueued_at, timeout, due_at, status,"
    " attempts, token, interrupted) VALUES "
)


@functools.cache
def _insert_queued(rows: int) -> str:
    return _INSERT + ", ".join(["(?,?,?,?,?,?,?,NULL,'queued',0,0,0)"] * rows)


@functools.cache
def _insert_scheduled(rows: int) -> str:
    return _INSERT + ", ".join(["(?,?,?,?,?,?,?,?,'scheduled',0,0,0)"] * rows)


def _seqs(tasks: Sequence[Task]) -> str:
    """The numbers of these jobs as the JSON text that ``json_each`` takes apart."""
    return str([task.seq for task in tasks])  # a list of integers reads the same in both


def _failure_row(outcome: Outcome, now: float) -> tuple[object, ...]:
    ended_at = now if outcome.ended_at is None else outcome.ended_at
    times = (ended_at - outcome.seconds, ended_at)
    task, what = outcome.task, (outcome.error, outcome.traceback)
    return task.seq, outcome.token, task.attempts, *times, *what


def _task(job_id: str, payload: Stored, priority: str, *rest: Any) -> Task:
    """A Task from TASK_COLUMNS."""
    return Task(job_id, payload, Priority(priority), *rest)


def _record(
    job_id: str,
    payload: Any,
    priority: str,
    kind: str,
    status: str,
    attempts: int,
    enqueued_at: float,
    started_at: float | None,
    ended_at: float | None,
    due_at: float | None,
    result: Any,
    error: str | None,
    timeout: float | None,
) -> JobRecord:
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
        due_at,
        None if result is None else _as_seen(result),
        error,
        timeout,
    )


def _as_seen(stored: Stored) -> object:
    """The value; where that is no JSON, what is stored: the others of a list can be shown."""
    try:
        return decode(stored)
    except ValueError:
        return stored
