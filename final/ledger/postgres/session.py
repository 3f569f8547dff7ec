"""The connection of the dispatcher's thread: connect, ask, and find out what a lost one has done.

A statement is sent in a *trip*: a pipeline, whose statements go out together and whose answers come
back together. Nothing here outlives a transaction, so that a pooler may stand between.

What is asked is in ``statements.py``, and what for in ``turn.py``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from final.errors import StorageError
from final.ledger.postgres import statements as sql
from final.ledger.postgres.address import Address
from final.ledger.postgres.arrays import with_arrays
from final.ledger.postgres.migrate import in_schema

T = TypeVar("T")
CONNECT_SECONDS = 5
# Unless the address says otherwise. Kept alive by the kernel; libpq gives up what is not answered
# for as long.
_USUAL: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}


def connect(address: Address, dsn: str | None = None) -> psycopg.Connection:
    """A connection without transactions of its own. Raises psycopg.Error."""
    name = f"{address.schema} {socket.gethostname()}:{os.getpid()}"
    said = _USUAL | {"application_name": name} | conninfo_to_dict(dsn or address.dsn)
    connection = psycopg.connect(
        autocommit=True,
        prepare_threshold=None if address.pooler else 5,
        **said | {"client_encoding": "utf8"},
    )
    # Whatever the server's default is: who has waited for a lock reads what was written meanwhile.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


class Session:
    """Used by one thread, except for ``break_off_if_stuck``."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sql: dict[str, bytes] = {}
        self._connection = connect(address)
        self.version = self._connection.info.server_version
        self._since: float | None = None  # when the trip began that is under way

    @property
    def connection(self) -> psycopg.Connection:
        return self._connection

    @property
    def is_lost(self) -> bool:
        return self._connection.broken or self._connection.closed

    def reconnect(self) -> None:
        self._connection.close()
        self._connection = connect(self.address)

    def persist(self, step: Callable[[], T]) -> T:
        """What it returns; once more, on another connection, if this one is lost on the way."""
        try:
            return step()
        except psycopg.OperationalError:
            if not self.is_lost:
                raise
            self.reconnect()
            return step()

    def ask(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Its answer is there at once; in a trip, when that has ended."""
        query = self._sql.get(statement)
        if query is None:
            query = self._sql[statement] = in_schema(statement, self.address.schema)
        cursor = self._connection.cursor(binary=True)
        with self._watched():
            return cursor.execute(query, with_arrays(values), prepare=not self.address.pooler)

    def one(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> tuple[Any, ...]:
        """The row of a statement that always has one."""
        row = self.ask(statement, values).fetchone()
        assert row is not None
        return row

    @contextlib.contextmanager
    def trip(self) -> Iterator[None]:
        """All that is asked in the block goes out together. Raises psycopg.Error."""
        with self._watched(), self._connection.pipeline():
            yield

    @contextlib.contextmanager
    def waiting_at_most(self, milliseconds: int) -> Iterator[None]:
        """For each lock of the block, in a turn, and not as long as usual. 0: there is no limit."""
        self.ask(sql.WAIT_FOR_LOCKS, (str(milliseconds),))
        yield
        self.ask(sql.WAIT_FOR_LOCKS, (str(sql.LOCK_MILLISECONDS),))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """For what is seldom asked, and needs its answers in between.

        The server ends that of a process that is stopped half-way: others wait for its locks.
        """
        with self._watched(), self._connection.transaction():
            self.ask(sql.END_IF_IDLE, (str(int(self.address.lease / 3 * 1000)),))
            yield

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """No answer may ever come: then another thread breaks it off."""
        if self._since is not None:  # as a part of something longer
            yield
            return
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def roll_back(self) -> bool:
        """Undo what was begun; whether the connection still works."""
        if self.is_lost:
            return False
        with contextlib.suppress(psycopg.Error):
            self.ask("ROLLBACK")
            return not self.is_lost
        return False

    def break_off_if_stuck(self, seconds: float) -> None:
        """End a trip that has gone on for so long: no answer will come. From another thread."""
        since = self._since
        if since is not None and time.monotonic() - since > seconds:
            break_off(self._connection)

    def close(self) -> None:
        self._connection.close()


def break_off(connection: psycopg.Connection) -> None:
    """Whoever waits for an answer on it gets an OperationalError at once."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)


def explained(address: Address, error: psycopg.Error) -> StorageError:
    """What it means for a user, and what to do."""
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    if advice is None:
        is_lost = isinstance(error, psycopg.OperationalError)
        advice = "An open queue goes on by itself when the database does." if is_lost else ""
    what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    told = StorageError(f"Cannot use {address.shown}: {what.rstrip('.')}. {advice}".rstrip())
    told.__cause__ = error
    return told


_ADVICE: dict[type[psycopg.Error], str] = {
    errors.DiskFull: "Free some space there: then an open queue goes on by itself.",
    errors.UndefinedTable: "`jobqueue migrate --db URL` makes its tables, if they were dropped. "
    "(A connection= of yours has to be to the same database.)",
    errors.InFailedSqlTransaction: "A statement before has failed: roll back, and try again.",
    errors.SerializationFailure: "Roll back, and try the whole transaction again.",
    errors.InsufficientPrivilege: "Grant this user the schema, its tables and its sequences.",
    errors.ReadOnlySqlTransaction: "If it is a standby: name the primary (target_session_attrs).",
    errors.LockNotAvailable: "A transaction that is open elsewhere has such a job, or one with the "
    "same id: try again when it has ended.",
    errors.QueryCanceled: "It took too long: is a transaction held open, or the server overloaded?",
    errors.InvalidPassword: "Check the user and the password.",
    errors.InvalidCatalogName: "Make the database first: createdb.",
}
