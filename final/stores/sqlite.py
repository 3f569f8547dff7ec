"""The SQLite store: one file, one writing connection, one transaction a turn.

Three things make it fast, and each is a statement you can read below:

- a turn is one transaction, so its sync is shared by everyone in it (group commit);
- a batch is one statement: a multi-row INSERT, or an UPDATE whose rows come from
  ``json_each``. ``executemany`` would take and release the GIL once for each row;
- job ids are ordered in time, so the id index grows at its end instead of all over.

Durability, in the words of SQLite's documentation of WAL mode: with ``synchronous``
FULL a commit survives a power cut; with NORMAL it survives the end of the process,
and after a power cut the latest commits may be gone, but the file is consistent.

But: one process at a time. A lock file next to the database turns a second one away,
and only one connection ever writes or checkpoints, which also keeps clear of the
WAL-reset bug that SQLite has documented for releases before 3.51.3.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from final.errors import StorageError
from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.payload import Stored, decode
from final.stores.base import Changes, DuplicateIds, Recovered, Unfinished

APPLICATION_ID = 0x4A4F4251  # "JOBQ": tells our files from other SQLite databases
SCHEMA_VERSION = 2

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
    interrupted INTEGER NOT NULL,      -- times in a row that the process ended while it ran
    enqueued_at REAL NOT NULL,         -- all times are Unix seconds
    started_at  REAL,
    ended_at    REAL,
    due_at      REAL,
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
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# What makes a file of a schema one of the next. (An older release refuses a file of a newer one.)
MIGRATIONS = {
    1: (
        "ALTER TABLE job ADD COLUMN alone INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE fence ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
        "INSERT OR IGNORE INTO fence VALUES (1, 0, 0)",
    ),
}

RECORD_COLUMNS = (
    "id, payload, priority, kind, status, attempts, "
    "enqueued_at, started_at, ended_at, due_at, result, error, timeout"
)
TASK_COLUMNS = (
    "id, payload, priority, kind, timeout, seq, coalesce(place, seq) AS line, "
    "attempts, token, alone, interrupted, enqueued_at"
)
UNFINISHED = ", ".join(f"'{status}'" for status in Status if not status.ended)


class SqliteStore:
    """See ``Store`` for the methods.

    path: the database file, made when it is not there; ":memory:" keeps nothing.
    durability: "full" or "normal", as described at the top of this file.

    Raises StorageError, in a sentence, for a path that cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        self._path = os.fspath(path)  # as the caller knows it, for errors
        self._in_memory = self._path == ":memory:"
        self.lasting = not self._in_memory
        # Absolute, since a program may change its working directory.
        self._place = self._path if self._in_memory else os.path.abspath(self._path)
        self._lock = None if self._in_memory else _own(self._path)
        try:
            with _translated(f"Cannot open {self._path}"):
                self._writer = self._connect()
                self._prepare(durability)
                # Look-ups come from any thread and never wait for a commit: WAL readers see
                # the last one. A database in memory exists in its connection alone, so there
                # they share it, and the mutex keeps them apart.
                self._reader = self._writer if self._in_memory else self._connect(read_only=True)
            self._file = None if self._in_memory else os.stat(self._place)
        except BaseException:
            self._release()
            raise
        # Guards _reader and _closed; who has it may look again, in a signal handler or a finalizer.
        self._mutex = threading.RLock()
        self._closed = False

    def recover(self) -> Recovered:
        with _translated(f"Cannot read {self._path}"):
            rows = self._writer.execute(
                f"SELECT {TASK_COLUMNS}, status, due_at"
                f" FROM job WHERE status IN ({UNFINISHED}) ORDER BY line"
            )
            unfinished = [
                Unfinished(_task(*columns), Status(status), due_at)
                for *columns, status, due_at in rows
            ]
            counts = {
                (Priority(priority), Status(status)): count
                for priority, status, count in self._writer.execute(
                    "SELECT priority, status, count(*) FROM job GROUP BY priority, status"
                )
            }
            ended = [
                seq
                for (seq,) in self._writer.execute(
                    "SELECT seq FROM job WHERE status IN ('completed', 'cancelled', 'dropped')"
                )
            ]
            last_number, last_token = self._writer.execute(
                "SELECT coalesce(max(max(seq, coalesce(place, 0))), 0),"
                " max(coalesce(max(token), 0), coalesce((SELECT token FROM fence), 0)) FROM job"
            ).fetchone()
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
        self._require_file()
        with self._mutex if self._in_memory else contextlib.nullcontext():
            try:
                with _translated(f"Cannot write {self._path}"):
                    self._writer.execute("BEGIN IMMEDIATE")
                    yield
                    self._writer.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back by itself.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _require_file(self) -> None:
        """A deleted file takes all that is written to it, and is gone when it is closed.

        One that is opened under its name is a new one, and empty.
        """
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._place), self._file):
                return
        raise StorageError(
            f"{self._path} was deleted, moved or replaced in the meantime. Put it back; the "
            "queue goes on by itself."
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
            executemany(
                "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_failure_row(outcome, now) for outcome, _ in changes.failed],
            )
        if changes.interrupted:
            executemany(
                "UPDATE job SET status = 'queued', interrupted = ?, attempts = ? WHERE seq = ?",
                [(task.interrupted, task.attempts, task.seq) for task in changes.interrupted],
            )
        if changes.returned:
            execute(
                "UPDATE job SET status = 'queued', attempts = attempts - 1, started_at = NULL"
                " WHERE seq IN (SELECT value FROM json_each(?))",
                (_seqs(changes.returned),),
            )
        if changes.requeued:
            executemany(
                "UPDATE job SET status = 'queued', due_at = NULL, place = ? WHERE seq = ?",
                [(task.place, task.seq) for task in changes.requeued],
            )
        if changes.revived:
            executemany(
                "UPDATE job SET status = 'queued', attempts = 0, ended_at = NULL, place = ?"
                " WHERE seq = ?",
                [(task.place, task.seq) for task in changes.revived],
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
        if changes.cancelled:
            self._end_as("cancelled", changes.cancelled, now)
        if changes.dropped:
            self._end_as("dropped", changes.dropped, now)
        if changes.forgotten:
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
                f"SELECT {TASK_COLUMNS} FROM job WHERE status = 'failed'"
                " AND id = coalesce(?, id) AND kind = coalesce(?, kind) ORDER BY seq",
                (job_id, kind),
            )
            return [_task(*row) for row in rows]

    def get(self, job_id: str) -> JobRecord | None:
        records = self._look_up("WHERE id = ?", (job_id,))
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
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        return self._look_up(f"{where}ORDER BY seq DESC LIMIT ?", (*values, limit))

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
            rows = reader.execute(f"SELECT {RECORD_COLUMNS} FROM job {clause}", values).fetchall()
        return [_record(*row) for row in rows]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The reading connection; after ``close`` one of its own for each look-up."""
        if self._in_memory or not self._closed:
            yield self._reader
        else:
            self._require_file()
            with contextlib.closing(self._connect(read_only=True)) as reader:
                yield reader

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            if self._in_memory:
                weakref.finalize(self, self._writer.close)  # until then look-ups go on
                return
            self._reader.close()
            self._release()

    def _release(self) -> None:
        with contextlib.suppress(AttributeError):  # it may never have been opened
            self._writer.close()  # the last connection to leave moves the WAL into the file
        if self._lock is not None:
            self._lock.release()

    def _connect(self, read_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._place,
            isolation_level=None,  # transactions are ours: BEGIN and COMMIT stand in the code
            check_same_thread=False,  # opened by the caller, used by the dispatcher's thread
            cached_statements=64,
        )
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def _prepare(self, durability: str) -> None:
        """Check that the file is ours and whole, make the schema in a new one, set the modes."""
        pragma = self._writer.execute
        (application_id,) = pragma("PRAGMA application_id").fetchone()
        (version,) = pragma("PRAGMA user_version").fetchone()
        (tables,) = pragma("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application_id != APPLICATION_ID:
            raise StorageError(
                f"{self._path} is a SQLite database of something else: choose another path."
            )
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} was written by a newer release (schema {version}, this one knows "
                f"{SCHEMA_VERSION}): upgrade, or choose another path."
            )
        (verdict,) = pragma("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StorageError(_DAMAGED.format(self._path, " ".join(verdict.split())))
        if not tables:
            self._change_schema(SCHEMA)
        elif version < SCHEMA_VERSION:
            older = range(max(version, 1), SCHEMA_VERSION)  # the first release could leave a 0
            self._change_schema(itertools.chain.from_iterable(MIGRATIONS[v] for v in older))
        pragma("PRAGMA journal_mode = WAL")
        pragma(f"PRAGMA synchronous = {durability}")
        # On macOS a plain fsync stops at the drive's cache; this one goes through. (No other
        # system knows the difference.)
        pragma(f"PRAGMA fullfsync = {int(durability == 'full')}")
        self._stamp()  # a file that may only be read is found out here

    def _change_schema(self, statements: Iterable[str]) -> None:
        """All of it or nothing, so that a process may end at any moment."""
        self._writer.execute("BEGIN EXCLUSIVE")
        for statement in statements:
            self._writer.execute(statement)
        self._stamp()
        self._writer.execute("COMMIT")

    def _stamp(self) -> None:
        """Nothing new, but it is written."""
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _own(path: str) -> filelock.BaseFileLock:
    """Take the lock file next to the database, or say who has it."""
    if "\0" in path:
        raise StorageError(f"{path!r} has a null character: no file can have that name.")
    place = Path(path)
    if place.is_dir():
        raise StorageError(f"{path} is a folder: give the path of a file in it.")
    if not place.absolute().parent.is_dir():
        raise StorageError(f"The folder of {path} does not exist: create it first.")
    # The real path, so that a symbolic link does not lead around the lock.
    lock_path = os.path.realpath(path) + ".lock"
    lock = filelock.FileLock(lock_path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise StorageError(
            f"{path} is in use by {_owner(lock_path)}: one process owns a file. Close it there "
            "first, or choose another path."
        ) from None
    except OSError as error:
        lock.release()
        raise StorageError(
            f"Cannot write next to {path}: {error.strerror}. Choose a path you may write to."
        ) from None
    with contextlib.suppress(OSError):  # Windows lets nobody write a locked file, not even us
        Path(lock_path).write_text(str(os.getpid()), encoding="ascii")
    return lock


def _owner(lock_path: str) -> str:
    pid = ""
    with contextlib.suppress(OSError):  # nor read it
        pid = Path(lock_path).read_text(encoding="ascii")
    if not pid:
        return "another process"
    return f"process {pid}" + (" (this one)" if pid == str(os.getpid()) else "")


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
    task = outcome.task
    started_at = now - outcome.seconds
    error, trace = outcome.error, outcome.traceback
    return task.seq, task.token, task.attempts, started_at, now, error, trace


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
        decode(payload),
        Priority(priority),
        kind,
        Status(status),
        attempts,
        enqueued_at,
        started_at,
        ended_at,
        due_at,
        None if result is None else decode(result),
        error,
        timeout,
    )
