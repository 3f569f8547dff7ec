"""The tables of a file, and what makes a file of an older release one of this release."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable

from final.errors import StorageError
from final.ledger.owner import WAL_LIMIT
from final.ledger.trouble import DAMAGED

APPLICATION_ID = 0x4A4F4251  # "JOBQ": tells our files from other SQLite databases
SCHEMA_VERSION = 7

# How many ended jobs are not in the file any more, so that counts stay what they were.
FORGOTTEN = """
CREATE TABLE forgotten (
    priority    TEXT NOT NULL,
    status      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (priority, status)
) WITHOUT ROWID
"""

# Jobs of the other statuses are looked for among many; who runs once and completes is in none of
# them, and pays nothing. A query says that it means such, in these words, or SQLite would not use
# the index. (Each comparison is made for each row that is written: the one that ends most comes
# first. Six of them with OR took 0.4 us more of each job.)
COMMON = ("completed", "processing", "queued")
IS_UNCOMMON = " AND ".join([f"status <> '{status}'" for status in COMMON])
UNCOMMON = f"CREATE INDEX uncommon ON job (status, seq) WHERE {IS_UNCOMMON}"

# Which job had a key last (keys.py says whether it still holds it). It may outlive the job.
HOLDER = """
CREATE TABLE holder (
    key         TEXT PRIMARY KEY,
    seq         INTEGER NOT NULL,
    id          TEXT NOT NULL,
    until       TEXT,                  -- 'started' or 'ended'; or else
    expires_at  REAL
) WITHOUT ROWID
"""
HOLDER_BY_JOB = "CREATE INDEX holder_job ON holder (seq)"
HOLDER_BY_TIME = "CREATE INDEX holder_time ON holder (expires_at) WHERE expires_at IS NOT NULL"
# What jobs are about: found by name and value, and forgotten by job.
META = """
CREATE TABLE meta (
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    seq         INTEGER NOT NULL,      -- of the job
    PRIMARY KEY (name, value, seq),
    CHECK (typeof(name) = 'text' AND typeof(value) = 'text')
) WITHOUT ROWID
"""
META_BY_JOB = "CREATE INDEX meta_job ON meta (seq)"
# Each parent of a job that comes after others; and parents whose end has to count for children,
# up to the one with the seq ``upto`` (``dependencies.py``).
DEPENDENCIES = (
    """
CREATE TABLE dependency (
    child       INTEGER NOT NULL,      -- its seq
    number      INTEGER NOT NULL,      -- which of its parents
    parent      TEXT NOT NULL,         -- its id
    if_failed   TEXT NOT NULL,         -- "cancel" or "run"
    state       INTEGER NOT NULL DEFAULT 0,  -- 0: waits for it; 1: it has ended; 2: the child, too
    PRIMARY KEY (child, number)
) WITHOUT ROWID
""",
    "CREATE INDEX children ON dependency (parent, state, child)",
    "CREATE INDEX waits ON dependency (child) WHERE state = 0",
    """
CREATE TABLE release (
    line        INTEGER PRIMARY KEY,
    parent      TEXT NOT NULL,
    became      TEXT NOT NULL,         -- the status that it ended with
    upto        INTEGER NOT NULL
)
""",
)

# What a handler has said last of how far its job is.
PROGRESS = """
CREATE TABLE progress (
    seq         INTEGER PRIMARY KEY,   -- of the job
    fraction    REAL NOT NULL,         -- 0 to 1
    message     TEXT NOT NULL,
    at          REAL NOT NULL
)
"""

# What an operator has set (``controls.py``).
CONTROLS = (
    """
CREATE TABLE pause (
    sort        TEXT NOT NULL,         -- 'queue', 'kind', 'priority' or 'group'
    name        TEXT NOT NULL,         -- of which one
    PRIMARY KEY (sort, name)
) WITHOUT ROWID
""",
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)

# What is enqueued again and again (``periodic.py``).
PERIODIC = """
CREATE TABLE periodic (
    name        TEXT PRIMARY KEY,
    schedule    TEXT NOT NULL,         -- cron text, or like 'every 60 s'
    timezone    TEXT NOT NULL,
    missed      TEXT NOT NULL,         -- 'once', 'all' or 'skip'
    job         TEXT NOT NULL,         -- JSON: all of it but its payload
    payload     NOT NULL,
    paused      INTEGER NOT NULL,
    last_tick   REAL,                  -- the latest that has counted
    next_tick   REAL                   -- NULL: it is paused, or none comes
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
    size        INTEGER NOT NULL,      -- bytes of the payload
    status      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,      -- started so far, the running one included
    token       INTEGER NOT NULL,      -- of the claim that it is with; 0 while with nobody
    alone       INTEGER NOT NULL,      -- in its latest claim, so a crash is charged to it
    interrupted INTEGER NOT NULL DEFAULT 0,  -- times in a row that a process ended meanwhile
    cancelled   INTEGER NOT NULL DEFAULT 0,  -- while it ran; it is not tried again
    place       INTEGER,               -- number in line of a job that came back; else seq
    enqueued_at REAL NOT NULL,         -- all times are Unix seconds
    started_at  REAL,
    ended_at    REAL,
    due_at      REAL,                  -- when it is or became ready to run; NULL: at once
    timeout     REAL,                  -- seconds per attempt
    grp         TEXT,                  -- its group
    result,
    error       TEXT,
    unique_key  TEXT,                  -- of its Unique
    snoozes     INTEGER NOT NULL DEFAULT 0  -- how often its handler has put it off
)
""",
    # What is said once stands apart, so that claims and ends do not write it again.
    "CREATE TABLE payload (seq INTEGER PRIMARY KEY, payload NOT NULL)",
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
    UNCOMMON,
    """
-- One row. epoch: how many owners the file has had. Tokens begin with it, so they grow over all.
CREATE TABLE fence (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    epoch       INTEGER NOT NULL DEFAULT 0
)
""",
    "INSERT INTO fence VALUES (1, 0)",
    FORGOTTEN,
    HOLDER,
    HOLDER_BY_JOB,
    HOLDER_BY_TIME,
    *DEPENDENCIES,
    META,
    META_BY_JOB,
    PROGRESS,
    *CONTROLS,
    PERIODIC,
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
    2: (
        "CREATE TABLE payload (seq INTEGER PRIMARY KEY, payload NOT NULL)",
        "INSERT INTO payload SELECT seq, payload FROM job",
        "ALTER TABLE job ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE job ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0",
        "UPDATE job SET size = length(CAST(payload AS BLOB)),"
        " token = CASE status WHEN 'processing' THEN token ELSE 0 END,"
        " cancelled = interrupted < 0, interrupted = max(interrupted, 0)",
        "ALTER TABLE job DROP COLUMN payload",
        "ALTER TABLE fence DROP COLUMN token",
        "CREATE INDEX dead_letter ON job (seq) WHERE status = 'failed'",
    ),
    3: ("DROP INDEX dead_letter", UNCOMMON),
    4: (
        "ALTER TABLE job ADD COLUMN grp TEXT",
        "ALTER TABLE job ADD COLUMN unique_key TEXT",
        HOLDER,
        HOLDER_BY_JOB,
        HOLDER_BY_TIME,
        "DROP INDEX uncommon",
        UNCOMMON,
        *DEPENDENCIES,
    ),
    5: (
        META,
        META_BY_JOB,
        "ALTER TABLE job ADD COLUMN snoozes INTEGER NOT NULL DEFAULT 0",
        PROGRESS,
        *CONTROLS,
        PERIODIC,
    ),
    6: ("DROP INDEX uncommon", UNCOMMON),
}


def bring_up_to_date(writer: sqlite3.Connection, path: str) -> None:
    """Check that the file is one of ours and whole, and give it the tables of this release."""
    (application_id,) = writer.execute("PRAGMA application_id").fetchone()
    (version,) = writer.execute("PRAGMA user_version").fetchone()
    (tables,) = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise StorageError(f"{path} is a SQLite database of something else: choose another path.")
    require_known(version, path)
    require_health(writer, path)
    if not tables:
        _change(writer, SCHEMA)
    elif version < SCHEMA_VERSION:
        older = range(max(version, 1), SCHEMA_VERSION)  # the first release could leave a 0
        _change(writer, itertools.chain.from_iterable(MIGRATIONS[v] for v in older))


def require_known(version: int, path: str) -> None:
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{path} was written by a newer release (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade, or choose another path."
        )


def _change(writer: sqlite3.Connection, statements: Iterable[str]) -> None:
    """All of it or nothing, so that a process may end at any moment."""
    writer.execute("BEGIN EXCLUSIVE")
    for statement in statements:
        writer.execute(statement)
    writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    writer.execute("COMMIT")


def require_health(writer: sqlite3.Connection, path: str) -> None:
    (verdict,) = writer.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageError(DAMAGED.format(path, " ".join(verdict.split())))


def set_modes(writer: sqlite3.Connection, durability: str) -> None:
    """Those that hold for a connection, and not for the file."""
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    writer.execute(f"PRAGMA synchronous = {durability}")
    # On macOS a plain fsync stops at the drive's cache; this one goes through. (No other
    # system knows the difference.)
    writer.execute(f"PRAGMA fullfsync = {int(durability == 'full')}")
