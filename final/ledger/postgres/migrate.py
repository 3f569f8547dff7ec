"""Bring the tables of a queue up to date: the numbered files in ``migrations/``, each once.

Whoever comes first holds a lock of the database, and the others wait; all of it or nothing. The
files only ever add: a process of the release before goes on beside one of this release.

To change a table it has to be locked, and while that is waited for, behind somebody's transaction,
all others wait, too. So each try waits for a moment only, and then lets them go first.

But: it takes nothing back. A database of a newer release is refused by an older one only where a
migration says so, by the name of its file (``0007_breaking_...``).
"""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import psycopg
from psycopg import errors

from final.errors import StorageError
from final.ledger.postgres import statements as sql
from final.ledger.postgres.address import Address

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x4A4F4251  # "JOBQ"
OLDEST_SERVER = 140000
PATIENCE = 60.0  # seconds in which others have to let go of the tables
HOLDS_A_TABLE = """SELECT pid, coalesce(nullif(application_name, ''), usename, backend_type)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace(%s))
    ORDER BY xact_start LIMIT 1"""


def migrations() -> list[Path]:
    """In the order of their numbers."""
    return sorted(FOLDER.glob("[0-9]*.sql"))


def migrate(connection: psycopg.Connection, address: Address) -> list[str]:
    """Bring it up to date; returns the names of what was carried out now.

    Raises StorageError for a server that is too old, a database that cannot keep all text, tables
    of a newer release, or a transaction that was in the way for ``PATIENCE``; it names that.
    """
    if connection.info.server_version < OLDEST_SERVER:
        version = connection.info.server_version // 10000
        raise StorageError(f"{address.shown} is PostgreSQL {version}: it takes 14 or newer.")
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        raise StorageError(
            f"{address.shown} keeps text as {encoding}, which not all text fits in: make a "
            "database for the queue with createdb --encoding=UTF8 --template=template0."
        )
    if not _missing(connection, address):
        return []  # without a lock, and with no more rights than to read
    until = time.monotonic() + PATIENCE
    # Half of what a statement of a turn may take. (Autovacuum gives way after a second.)
    moment = min(2.0, address.lease / 8)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        connection.execute(sql.WAIT_FOR_LOCKS, (str(int(moment * 1000)),))
        while True:
            with contextlib.suppress(errors.LockNotAvailable, errors.DeadlockDetected):
                return _carry_out(connection, address)
            if time.monotonic() > until:
                raise _in_the_way(connection, address)
            time.sleep(moment)


def _carry_out(connection: psycopg.Connection, address: Address) -> list[str]:
    """In the transaction under way; should it fail, it has let go of all that it has locked."""
    with connection.transaction():
        # To make one that is there takes the right to make others.
        if connection.execute("SELECT to_regnamespace(%s)", (address.schema,)).fetchone() == (
            None,
        ):
            connection.execute(f"CREATE SCHEMA {address.schema}".encode())
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {address.schema}.migration (name text PRIMARY KEY,"
            " done_at timestamptz NOT NULL DEFAULT clock_timestamp())".encode()
        )
        missing = _missing(connection, address)
        for file in missing:
            connection.execute(in_schema(file.read_text("utf-8"), address.schema))
            connection.execute(
                f"INSERT INTO {address.schema}.migration VALUES (%s)".encode(), (file.name,)
            )
        return [file.name for file in missing]


def _in_the_way(connection: psycopg.Connection, address: Address) -> StorageError:
    """Whose transaction it is: of those that have locked one of the tables, the oldest."""
    found = connection.execute(HOLDS_A_TABLE, (address.schema,)).fetchone()
    pid, name = found or ("?", "gone by now")
    return StorageError(
        f"{address.shown} cannot be brought up to date: for {PATIENCE:g} seconds its tables were in"
        f" use, longest by server process {pid} ({name}). End its transaction, and try again."
    )


def _missing(connection: psycopg.Connection, address: Address) -> list[Path]:
    files, done = migrations(), _done(connection, address)
    if newer := [name for name in done if name > files[-1].name and "breaking" in name]:
        raise StorageError(
            f"{address.shown} was migrated by a newer release ({newer[-1]}): upgrade."
        )
    return [file for file in files if file.name not in done]


def _done(connection: psycopg.Connection, address: Address) -> list[str]:
    found = connection.execute("SELECT to_regclass(%s)", (f"{address.schema}.migration",))
    if found.fetchone() == (None,):
        return []
    query = f"SELECT name FROM {address.schema}.migration ORDER BY name"
    return [name for (name,) in connection.execute(query.encode())]


def in_schema(text: str, schema: str) -> bytes:
    """The same statements for a queue of another name."""
    return re.sub(r"\bjobqueue\.", f"{schema}.", text).encode()
