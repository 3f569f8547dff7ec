"""The server of the tests ends with whoever started it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from tests import postgres_server
from tests.postgres.test_processes import becomes
from tests.processes import Program


@pytest.mark.skipif(postgres_server.programs() is None, reason="no server of our own here")
def test_a_killed_process_leaves_no_server(tmp_path: Path) -> None:
    with Program(tmp_path, "tests.postgres_server") as program:
        program.read_until("postgresql://")
        dsn = program.output.strip().splitlines()[-1]
        with psycopg.connect(dsn, autocommit=True) as connection:
            program.kill()

            def is_gone() -> bool:
                try:
                    connection.execute("SELECT 1")
                except psycopg.OperationalError:
                    return True
                return False

            becomes(is_gone)
        if "host" in (query := parse_qs(urlsplit(dsn).query)):
            folder = Path(query["host"][0])
            becomes(lambda: not folder.exists())
