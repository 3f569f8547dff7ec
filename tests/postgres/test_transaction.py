"""A job that comes in within the caller's transaction ends with it, whatever came first."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from final import DuplicateJob, Job, Status, StorageError, Unique, UnknownJob
from final.ledger.postgres.address import parse
from tests.helpers import DEADLINE, Gate
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes


def test_the_first_thing_in_a_transaction(address: str, open_queue: OpenQueue) -> None:
    queue = open_queue()
    with psycopg.connect(parse(address).dsn) as connection:
        queue.enqueue(Job(id="a"), connection=connection)
        with pytest.raises(UnknownJob):
            queue.get("a")
        connection.rollback()
        queue.enqueue(Job(id="a"), connection=connection)
        with pytest.raises(DuplicateJob):
            queue.enqueue(Job(id="a"), connection=connection)
        queue.enqueue(Job(id="b"), connection=connection)  # a refusal takes nothing back
    assert queue.wait("a", DEADLINE)
    assert queue.wait("b", DEADLINE)
    assert queue.metrics().accepted == 2


def test_a_connection_that_commits_each_statement(address: str, open_queue: OpenQueue) -> None:
    queue = open_queue()
    with psycopg.connect(parse(address).dsn, autocommit=True) as connection:
        queue.enqueue(Job(id="a"), connection=connection)
        assert queue.wait("a", DEADLINE)


@pytest.mark.parametrize("sort", [psycopg.ClientCursor, psycopg.RawCursor])
def test_a_connection_with_cursors_of_another_sort(
    address: str, open_queue: OpenQueue, sort: type[psycopg.Cursor[Any]]
) -> None:
    queue = open_queue()
    with psycopg.connect(parse(address).dsn, cursor_factory=sort) as connection:
        queue.enqueue(Job(id="a", unique=Unique("k")), connection=connection)
    assert queue.wait("a", DEADLINE)


def test_a_connection_that_cannot_be_used_is_told_so(address: str, open_queue: OpenQueue) -> None:
    queue, dsn = open_queue(), parse(address).dsn

    def refusal(connection: psycopg.Connection) -> str:
        with pytest.raises(StorageError) as refused:
            queue.enqueue(Job(payload="漢"), connection=connection)
        return str(refused.value)

    with psycopg.connect(dsn, client_encoding="sql_ascii") as connection:
        assert "client_encoding='utf8'" in refusal(connection)
    assert "is closed" in refusal(connection)
    with psycopg.connect(dsn, dbname="template1") as connection:
        assert "to the same database" in refusal(connection)
    with psycopg.connect(dsn) as connection:
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1 / 0")
        assert "roll back" in refusal(connection)


def test_the_oldest_make_room(address: str, open_queue: OpenQueue) -> None:
    queue = open_queue(None, workers=0, capacity=2, overflow="drop-oldest")
    with psycopg.connect(parse(address).dsn) as connection:
        for n in range(4):
            queue.enqueue(Job(id=f"job-{n}"), connection=connection)
        jobs = [Job(id="low", priority="low"), Job(id="job-4"), Job(id="job-5")]
        queue.enqueue_many(jobs, connection=connection)
    waiting = [job.id for job in queue.jobs(status=Status.QUEUED)]
    assert waiting == ["job-5", "job-4", "low"]
    queue.close(drain=False)


def test_a_job_that_runs_can_end_while_another_one_wants_its_place(
    address: str, open_queue: OpenQueue, gate: Gate
) -> None:
    """The caller's transaction lasts, and does not hold up what it cannot replace."""
    queue = open_queue(lambda job: gate.wait() if job.id == "runs" else None)
    replaces = Unique("k", until="ended", then="replace")
    queue.enqueue(Job(id="runs", unique=replaces))
    becomes(lambda: queue.status("runs") is Status.PROCESSING)
    queue.enqueue(Job(id="waits", run_at=3600, unique=Unique("w")))
    with psycopg.connect(parse(address).dsn) as connection:
        jobs = [Job(unique=replaces), Job(run_at=3000, unique=Unique("w", then="replace"))]
        assert queue.enqueue_many(jobs, connection=connection) == ["runs", "waits"]
        gate.open()
        assert queue.wait("runs", DEADLINE)
        assert queue.wait(queue.enqueue(Job()), DEADLINE)
    queue.close(drain=False)
