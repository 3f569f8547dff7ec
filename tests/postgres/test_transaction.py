"""A job that comes in within the caller's transaction ends with it, whatever came first."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import pytest

from final import DuplicateJob, Job, Status, StorageError, Unique, UnknownJob
from final.ledger.base import Given, Offer
from final.ledger.postgres.address import parse
from tests.helpers import DEADLINE, Background, Gate, Journal
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


def test_a_key_whose_job_makes_room_is_held_until_the_commit(
    address: str, open_queue: OpenQueue
) -> None:
    queue = open_queue(None, workers=0, capacity=1, overflow="drop-oldest")
    queue.enqueue(Job("there", unique=Unique("k")))
    with psycopg.connect(parse(address).dsn) as connection:
        jobs = [Job("a"), Job("b", unique=Unique("k"))]
        assert queue.enqueue_many(jobs, connection=connection) == ["a", "there"]
    assert queue.enqueue(Job("c", unique=Unique("k"))) == "c"
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


@pytest.mark.parametrize(
    "wants",
    [
        lambda queue: queue.enqueue(Job("c")),  # the same id
        lambda queue: queue.enqueue(Job(after=["a"])),
        lambda queue: queue.enqueue(Job(unique=Unique("k", then="replace"))),
        lambda queue: queue.cancel("a"),
        lambda queue: queue.cancel_all(),
    ],
)
def test_who_wants_a_job_that_an_open_transaction_has_is_refused_and_nobody_else_is(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, wants: Any
) -> None:
    path = address.replace("lease=1", "lease=10")  # a statement may take a quarter of it
    queue = open_queue(None, path=path, workers=0, capacity=2, overflow="drop-oldest")
    queue.enqueue_many([Job("a", unique=Unique("k")), Job("b")])
    gate, turns, exchange = Gate(), Journal(), queue._ledger.exchange

    def held_up(offer: Offer) -> Given:
        if offer.new:  # and not one that has only looked around
            turns.write("turn")
            gate.wait()
        return exchange(offer)

    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        queue.enqueue(Job("c"), connection=connection)  # drops the first
        monkeypatch.setattr(queue._ledger, "exchange", held_up)
        others = [Background(queue.enqueue, Job("x", run_at=3600))]
        turns.wait_for("turn")
        refused = Background(wants, queue)
        others += [Background(queue.enqueue, Job("y", run_at=3600)), Background(queue.cancel, "b")]
        becomes(lambda: queue._dispatcher.inbox.qsize() == 3)  # all in one turn
        gate.open()
        assert [other.result() for other in others] == ["x", "y", True]
        with pytest.raises(StorageError, match="open elsewhere"):
            refused.result()
        assert queue.status("y") is Status.SCHEDULED
    wants(queue)
