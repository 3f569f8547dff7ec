"""Which place a command line means: a service, on this machine or another, a file, a database."""

from __future__ import annotations

import os
from pathlib import Path

from final.ledger.postgres.address import is_address
from final.service.cli.local import File
from final.service.cli.places import Misuse, Place, Unreachable
from final.service.cli.remote import Remote, answers

DB = "jobs.db"


def find(url: str | None, db: str | None, token: str | None, create: bool = False) -> Place:
    """The place that a command line means; ``create``: whether --db may name a new file.

    The token is for a service that was named. Whatever else answers here may be anybody's.
    """
    token = token or os.environ.get("JOBQUEUE_TOKEN") or None
    if url is not None and db is not None:
        raise Misuse("--url names a service and --db a file: give one of them.")
    if db is not None and is_address(db):
        from final.service.cli.database import SharedDatabase  # here, because it needs psycopg

        return SharedDatabase(db)
    if db == ":memory:":
        raise Misuse("A database in memory ends with its process: give --db a file.")
    if db is not None:
        return File(db, create)
    if url is None:
        url = os.environ.get("JOBQUEUE_URL") or None
    if url is not None:
        return Remote(url, token)
    port = os.environ.get("PORT", "8080")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise Misuse(
            f"PORT is {port!r}: give a number from 0 to 65535, or name the place with --url or "
            "--db."
        )
    here = f"http://127.0.0.1:{port}"
    if answers(here):
        return Remote(here, None, withheld=token is not None)
    if not Path(DB).exists():
        raise Unreachable(
            f"No service answers at {here}, and there is no {DB} in this folder: "
            "start one with `python -m final serve`, or name the place with --url or --db."
        )
    return File(DB)
