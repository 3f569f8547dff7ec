"""The queries for operators run, on a queue with jobs in all states; and find what they are for."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from final import Backoff, Job, JobQueue
from tests import postgres_server
from tests.docs import pages
from tests.helpers import DEADLINE, Broken

PAGE = pages.ROOT / "docs" / "operations-postgres.md"
QUERIES = [block.text for block in pages.code(PAGE, "sql")]

pytestmark = pytest.mark.skipif(not postgres_server.is_there(), reason=postgres_server.MISSING)


@pytest.fixture(scope="module")
def schema() -> Iterator[str]:
    """That of a queue which has jobs, and is open."""
    dsn, name = postgres_server.dsn(), f"t{uuid.uuid4().hex[:20]}"

    def handler(job: Job) -> None:
        if job.payload == "bad":
            raise Broken

    options: dict[str, Any] = {"max_retries": 0, "backoff": Backoff(base=0)}
    address = f"{dsn}{'&' if '?' in dsn else '?'}queue={name}"
    with JobQueue({"mail": handler}, path=address, **options) as queue:
        ids = [queue.enqueue(Job(kind="mail", payload=text)) for text in ("good", "bad")]
        queue.enqueue(Job(kind="mail", run_at=600))
        for job_id in ids:
            queue.wait(job_id, DEADLINE)
        yield f"jobqueue_{name}"


def run(query: str, schema: str) -> list[tuple[Any, ...]]:
    import psycopg

    query = re.sub(r"\bjobqueue\.|'jobqueue'", lambda at: at[0].replace("jobqueue", schema), query)
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("query", QUERIES)
def test_it_runs(query: str, schema: str) -> None:
    run(query, schema)


@pytest.mark.parametrize(
    ("level", "query"),
    [
        ("REPEATABLE READ", "SELECT 'lunch'"),
        ("READ COMMITTED", "SELECT pg_current_xact_id()"),  # as a write would give it
    ],
)
def test_who_holds_the_oldest_snapshot_is_named(schema: str, level: str, query: str) -> None:
    import psycopg

    from final.ledger.postgres.statements import OLDEST_VIEW

    with psycopg.connect(postgres_server.dsn()) as forgotten:
        forgotten.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        forgotten.execute(query.encode())
        pid = str(forgotten.info.backend_pid)
        holders = {name: (state, text) for _, name, state, _, _, text in run(QUERIES[0], schema)}
        assert holders[pid] == ("idle in transaction", query)
        # The metric's query is one of its own, and names the first alone.
        views = run(OLDEST_VIEW.replace("LIMIT 1", ""), schema)
        assert any(holder.endswith(f"pid {pid}") for _, _, holder in views)


def test_processes_and_their_leases_are_shown(schema: str) -> None:
    (query,) = (query for query in QUERIES if "AS lease" in query)
    ((_, name, workers, lease, runs),) = run(query, schema)
    assert (":" in name, workers, runs) == (True, 4, 0)
    assert lease.total_seconds() > 0


def test_nobody_has_lost_a_job(schema: str) -> None:
    (query,) = (query for query in QUERIES if "NOT EXISTS" in query)
    assert run(query, schema) == [(0,)]
