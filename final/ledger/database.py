"""A SQLite database that this process owns: its connections, its transactions, and its end.

One connection writes, and is the dispatcher's. Another one reads, for any thread, and never waits
for a commit.

Durability, in the words of SQLite's documentation of WAL mode: with ``synchronous``
FULL a commit survives a power cut; with NORMAL it survives the end of the process,
and after a power cut the latest commits may be gone, but the file is consistent.

Files that somebody removes or replaces while we have them are noticed before each transaction, and
what can be saved is saved.

One process has the file at a time (``owner.py``), and one of its connections alone writes and
checkpoints. That also keeps clear of the WAL-reset bug that SQLite has documented for releases
before 3.51.3.

But: what is in the tables is the business of ``sqlite.py``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from final.errors import QueueClosed, StorageError
from final.ledger.owner import Owner
from final.ledger.schema import SCHEMA_VERSION, bring_up_to_date, require_health, set_modes
from final.ledger.trouble import GOES_ON, OPEN_AGAIN, taken_over, translated

OLDEST_SQLITE = (3, 35)  # RETURNING
PATIENCE = 1.0  # seconds for a look of others, at the end


class Database:
    """path: the database file, made when it is not there; ":memory:" keeps nothing.

    durability: "full" or "normal", as described at the top of this file.

    Raises StorageError, in a sentence, for a path that cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        super().__init__()
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StorageError(
                f"This Python has SQLite {sqlite3.sqlite_version}; it takes 3.35 or newer: use "
                "another Python."
            )
        self._path = os.fspath(path)  # as the caller knows it, for errors
        self.lasting = self._path != ":memory:"
        self._durability = durability
        # Guards _reader and _closed; where the reader is the writer, also the transaction. No user
        # code runs under it; who has it may look again, in a signal handler or a finalizer.
        self._mutex = threading.RLock()
        self._closed = False
        self._then = OPEN_AGAIN  # so errors end until what an earlier owner left is recovered
        self._owner = Owner(self._path) if self.lasting else None
        try:
            with translated(f"Cannot open {self._path}", self._then):
                self._writer = self._connect()
                bring_up_to_date(self._writer, self._path)
                set_modes(self._writer, self._durability)
                self._take_over()
                # Look-ups come from any thread and never wait for a commit: WAL readers see
                # the last one. A database in memory exists in its connection alone, so there
                # they share it, and the mutex keeps them apart.
                self._reader = self._connect(read_only=True) if self._owner else self._writer
            if self._owner is not None:
                self._owner.remember()
        except BaseException:
            self._release()
            raise

    def _connect(self, read_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path if self._owner is None else self._owner.place,
            isolation_level=None,  # transactions are ours: BEGIN and COMMIT stand in the code
            check_same_thread=False,  # opened by the caller, used by the dispatcher's thread
            cached_statements=128,
        )
        # Where the root is read-only, there may be no folder for temporary files.
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def _take_over(self) -> None:
        """From here on every other owner is a former one. (A read-only file is found out here.)"""
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.execute("UPDATE fence SET epoch = epoch + 1")
        (self.epoch,) = self._writer.execute("SELECT epoch FROM fence").fetchone()
        self._writer.execute("COMMIT")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what the block writes, or nothing.

        Raises StorageError for a full or broken disk, and QueueClosed when the file has another
        owner: then nothing can be written ever again.
        """
        self._require_files()
        # A database in memory has no owner, and one connection, which look-ups use as well.
        with self._mutex if self._owner is None else contextlib.nullcontext():
            try:
                with translated(f"Cannot write {self._path}", self._then):
                    self._writer.execute("BEGIN IMMEDIATE")
                    self._require_epoch()
                    yield
                    self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # some errors have rolled back by themselves
                    self._writer.execute("ROLLBACK")
                raise

    def _require_epoch(self) -> None:
        """Whoever finds another one here has been taken for dead, and writes nothing more."""
        if self._writer.execute("SELECT epoch FROM fence").fetchone() != (self.epoch,):
            raise taken_over(self._path)

    def _require_files(self) -> None:
        """SQLite would go on to write into files that nobody will find when it is closed."""
        if self._owner is None or self._owner.finds_all():
            return
        if not self._owner.keeps_lock_file():
            raise taken_over(self._path)
        self._open_again()

    def _open_again(self) -> None:
        """The journal was removed or replaced, or a file was cut off: save what can be saved.

        SQLite has the journal that it opened, name or no name, and moves all of it into the
        database. Then both connections start anew; nothing but the database is needed for that.
        But while another program reads on in the old journal, a new one would go on where that
        ends, without its beginning, and after a crash none of it would be found.
        """
        assert self._owner is not None
        try:
            with self._mutex, translated(f"Cannot read {self._path}"):
                self._writer.execute("PRAGMA busy_timeout = 0")  # it is tried again in any case
                checkpoint = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                is_read, in_journal, moved = checkpoint.fetchone()
                saved = not is_read and moved == in_journal
                if saved:
                    self._reader.close()
                    self._writer.close()
                    self._writer = self._connect()
                    require_health(self._writer, self._path)
                    self._require_epoch()
                    set_modes(self._writer, self._durability)
                    self.probe()  # the first write makes the journal
                    self._reader = self._connect(read_only=True)
                    self._owner.remember()
        except StorageError as error:
            raise QueueClosed(
                f"Somebody changed {self._path} or its journal, and what was accepted cannot all "
                f"be read any more: {error.__cause__ or error}"
            ) from error
        if not saved:
            raise StorageError(
                f"Somebody changed {self._path} or its journal, and another program reads the "
                "file: close that; the queue goes on by itself."
            )

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """What a feature with tables of its own writes and reads, within a transaction."""
        return self._writer.execute(statement, values)

    def recovered(self) -> None:
        """From now on, a disk that is full or broken is waited for."""
        self._then = GOES_ON

    def probe(self) -> None:
        """Write something that changes nothing. (An UPDATE that does, SQLite does not write.)"""
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # ---- for look-ups, from any thread, also after ``close`` -------------------------------

    def _read(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._mutex, translated(f"Cannot read {self._path}"):
            if self._owner is None or not self._closed:
                return self._reader.execute(statement, values).fetchall()
            self._owner.require_database()
            with contextlib.closing(self._connect(read_only=True)) as reader:
                return reader.execute(statement, values).fetchall()

    def read_own(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """All rows of a query, for who writes: no long look of others holds it up.

        (In memory there is but one connection for all.)
        """
        if self._owner is None:
            return self._read(statement, values)
        with translated(f"Cannot read {self._path}"):
            return self._writer.execute(statement, values).fetchall()

    def hold_up_writing(self) -> bool:
        """In memory there is but one connection."""
        # (Only the lock knows at each moment whether this thread is in the middle of a look.)
        return self._owner is None and self._mutex._is_owned()  # type: ignore[attr-defined]

    def close(self) -> None:
        # Whoever waits for this may have interrupted a look of its own: then that goes on.
        nobody_looks = self._mutex.acquire(timeout=PATIENCE)
        try:
            self._closed = True
            if self._owner is None:
                weakref.finalize(self, self._writer.close)  # until then look-ups go on
                return
            if not nobody_looks:
                del self._reader
            self._release()
        finally:
            if nobody_looks:
                self._mutex.release()

    def _release(self) -> None:
        for name in ("_reader", "_writer"):  # the last one to leave moves the WAL into the file
            with contextlib.suppress(AttributeError):  # it may never have been opened
                getattr(self, name).close()
        if self._owner is not None:
            self._owner.release()
