"""Bring the tables of a queue up to date: the numbered files in ``migrations/``, each once.

Whoever comes first holds a lock of the database, and the others wait; all of it or nothing. The
files only ever add: a process of the release before goes on beside one of this release.

But: it takes nothing back. A database of a newer release is refused by an older one only where a
migration says so, by the name of its file (``0007_breaking_...``).
"""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from final.errors import StorageError
from final.ledger.postgres.address import Address

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x4A4F4251  # "JOBQ"
OLDEST_SERVER = 140000


def migrations() -> list[Path]:
    """In the order of their numbers."""
    return sorted(FOLDER.glob("[0-9]*.sql"))


def migrate(connection: psycopg.Connection, address: Address) -> list[str]:
    """Bring it up to date; returns the names of what was carried out now.

    Raises StorageError for a server that is too old, a database that cannot keep all text, or
    tables of a newer release.
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
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
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


def in_schema(sql: str, schema: str) -> bytes:
    """The same statements for a queue of another name."""
    return re.sub(r"\bjobqueue\.", f"{schema}.", sql).encode()
