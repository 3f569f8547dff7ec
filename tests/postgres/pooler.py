"""A transaction pooler in front of PostgreSQL: PgBouncer itself, where it is installed.

A client has a server's connection for one transaction, and maybe another one for the next: nothing
that lives in a session (prepared statements, LISTEN, session locks, SET) can be relied on. There
are fewer connections than clients here, so that they do change.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import psycopg

from tests.postgres_server import as_ordinary_user, give_away

MISSING = "No PgBouncer here: `apt-get install pgbouncer` brings it."
CONNECTIONS = 2  # to the server

SETTINGS = """\
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
server_round_robin = 1
logfile = {folder}/log
"""


def program() -> str | None:
    """PgBouncer; None where it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Pooler:
    """In front of the server at ``dsn``; ``dsn`` is then its own address."""

    def __init__(self, dsn: str) -> None:
        query = parse_qs(urlsplit(dsn).query)
        self._folder = Path(tempfile.mkdtemp(prefix="jobqueue-pooler-"))
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            SETTINGS.format(
                host=query["host"][0],
                port=query.get("port", ["5432"])[0],
                folder=self._folder,
                connections=CONNECTIONS,
            )
        )
        give_away(self._folder)
        self.dsn = f"postgresql://postgres@/postgres?host={self._folder}&port=6432"
        self._process = subprocess.Popen(
            [str(program()), "-q", settings], stderr=subprocess.DEVNULL, **as_ordinary_user()
        )

    def __enter__(self) -> Self:
        until = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn).close()
                return self
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self._folder / "log").read_text()[-2000:]) from None
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
