"""Unique jobs on PostgreSQL: what holds on a file, and processes that bring one key at a time."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import psycopg
import pytest

from final import Job, QueueFull, Status, Unique
from final.ledger.base import Given, Offer
from final.ledger.postgres.address import parse
from tests.final.conftest import gate, held_up  # noqa: F401  (fixtures)
from tests.final.helpers import eventually
from tests.final.test_unique import (  # noqa: F401  (here they run on a database)
    TestAfterwards,
    TestDebounce,
    TestFullLanes,
    TestOneCall,
    TestReplace,
    test_a_retry_has_started_and_has_not_ended,
    test_a_retry_of_a_unique_job_is_the_same_job,
    test_one_that_runs_holds_its_key_until_the_end_or_has_let_go_of_it,
    test_while_a_job_has_not_ended_another_one_with_its_key_does_not_come_in,
    test_within_a_time_whether_it_has_ended_or_not,
)
from tests.helpers import DEADLINE, Background, Broken
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql

A_DAY = 86_400


@pytest.fixture
def path(address: str) -> str:
    return address


@pytest.mark.parametrize("then", ["skip", "replace"])
def test_of_processes_at_once_one_wins(open_queue: OpenQueue, then: Any) -> None:
    queues = [open_queue(workers=0) for _ in range(4)]
    barrier = threading.Barrier(len(queues))
    rounds = 25

    def produce(number: int) -> list[str]:
        ids = []
        for key in range(rounds):
            barrier.wait(DEADLINE)
            job = Job(payload=number, run_at=A_DAY, unique=Unique(str(key), then=then))
            ids.append(queues[number].enqueue(job))
        return ids

    producers = [Background(produce, number) for number in range(len(queues))]
    assert len({tuple(producer.result()) for producer in producers}) == 1
    assert len(queues[0].jobs(Status.SCHEDULED)) == rounds


def test_many_keys_of_many_processes_in_any_order(open_queue: OpenQueue) -> None:
    queues = [open_queue(workers=2, capacity=5_000) for _ in range(3)]
    keys = [str(n) for n in range(600)]

    def produce(number: int) -> list[str]:
        order = keys if number % 2 else keys[::-1]
        ids = queues[number].enqueue_many(
            [Job(unique=Unique(key, within=A_DAY)) for key in order], timeout=DEADLINE
        )
        return ids if number % 2 else ids[::-1]

    producers = [Background(produce, number) for number in range(len(queues))]
    assert len({tuple(producer.result()) for producer in producers}) == 1
    queues[0].join(DEADLINE)
    assert queues[0].metrics().accepted == len(keys)


class TestWithinATransaction:
    def test_a_key_is_held_by_the_job_that_commits(
        self, open_queue: OpenQueue, address: str
    ) -> None:
        queue = open_queue(workers=0)
        with psycopg.connect(parse(address).dsn, autocommit=True) as connection:
            unique = Unique("report")
            with connection.transaction():
                assert queue.enqueue(Job("first", unique=unique), connection=connection) == "first"
                ids = queue.enqueue_many(
                    [Job("second", unique=unique), Job("other")], connection=connection
                )
                assert ids == ["first", "other"]
            assert queue.enqueue(Job("third", unique=unique)) == "first"
            with connection.transaction() as transaction:
                new = Job("fourth", 4, unique=Unique("report", then="replace"))
                assert queue.enqueue(new, connection=connection) == "first"
                raise psycopg.Rollback(transaction)
            assert queue.get("first").payload is None
            queue.cancel("first")
            with connection.transaction() as transaction:
                queue.enqueue(Job("fifth", unique=unique), connection=connection)
                raise psycopg.Rollback(transaction)
            assert queue.enqueue(Job("sixth", unique=unique)) == "sixth"

    def test_while_it_is_open_who_brings_the_same_key_waits_and_nobody_else_does(
        self, open_queue: OpenQueue, address: str
    ) -> None:
        queue = open_queue()
        unique = Unique("report")
        with psycopg.connect(parse(address).dsn, autocommit=True) as connection:
            with connection.transaction():
                later = Job("first", run_at=A_DAY, unique=unique)
                queue.enqueue(later, connection=connection)
                with pytest.raises(QueueFull):
                    queue.enqueue(Job("impatient", unique=unique), timeout=0.2)
                waiting = Background(queue.enqueue, Job("second", unique=unique))
                for n in range(20):
                    assert queue.wait(queue.enqueue(Job(payload=n)), DEADLINE).result == n
                with pytest.raises(AssertionError, match="had not returned"):
                    waiting.result(deadline=0.05)
            assert waiting.result() == "first"

    def test_nor_does_who_would_replace_the_job_that_it_has_replaced(
        self, open_queue: OpenQueue, address: str
    ) -> None:
        queue, unique = open_queue(), Unique("report", then="replace")
        queue.enqueue(Job("first", run_at=A_DAY, unique=unique))
        with psycopg.connect(parse(address).dsn) as connection:
            later = Job("second", 2, run_at=A_DAY, unique=unique)
            assert queue.enqueue(later, connection=connection) == "first"
            waiting = Background(queue.enqueue, Job("third", 3, unique=unique))
            for n in range(20):
                assert queue.wait(queue.enqueue(Job(payload=n)), DEADLINE).result == n
            with pytest.raises(AssertionError, match="had not returned"):
                waiting.result(deadline=0.05)
        assert waiting.result() == "first"
        assert queue.wait("first", DEADLINE).result == 3


def test_a_dead_letter_and_a_new_job_do_not_both_come_in(
    open_queue: OpenQueue, address: str
) -> None:
    def fails(job: Job) -> None:
        raise ValueError("no")

    keys = [f"key-{n}" for n in range(15)]
    with open_queue(fails, max_retries=0) as queue:
        queue.enqueue_many([Job(key, unique=Unique(key)) for key in keys])
        queue.join(DEADLINE)
    one, other = open_queue(workers=0), open_queue(workers=0)
    barrier = threading.Barrier(2)

    def retry() -> None:
        for key in keys:
            barrier.wait(DEADLINE)
            with contextlib.suppress(ValueError):
                one.retry(key)

    def enqueue() -> None:
        for key in keys:
            barrier.wait(DEADLINE)
            other.enqueue(Job(unique=Unique(key)))

    for race in [Background(retry), Background(enqueue)]:
        race.result()
    live = "SELECT unique_key FROM jobqueue.job WHERE ended_at IS NULL ORDER BY unique_key"
    assert sql(address, live) == [(key,) for key in sorted(keys)]


def test_keys_go_with_their_jobs_or_when_their_time_is_over(
    open_queue: OpenQueue, address: str
) -> None:
    queue = open_queue(history=0)
    keys = (Unique("day", within=A_DAY), Unique("moment", within=0.05), Unique("end"))
    for unique in keys:
        queue.enqueue(Job(unique.key, unique=unique))
    queue.join(DEADLINE)
    becomes(lambda: sql(address, "SELECT key FROM jobqueue.holder") == [("day",)])
    assert queue.enqueue(Job(unique=Unique("day"))) == "day"
    eventually(lambda: queue.jobs() == [], "the history to be empty")


def test_of_two_with_a_key_a_dead_letter_stays_one_while_nobody_knows_of_the_other(
    address: str, open_queue: OpenQueue
) -> None:
    def fails(job: Job) -> None:
        raise Broken

    queue = open_queue(fails, max_retries=0)
    unique = Unique("key")
    letter = queue.enqueue(Job(unique=unique))
    queue.wait(letter, DEADLINE)
    queue.pause()
    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        other = queue.enqueue(Job(unique=unique), connection=connection)
        with pytest.raises(ValueError, match="key"):
            queue.retry(letter)
        assert queue.retry_all() == 0
        connection.commit()
    assert queue.status(letter) is Status.FAILED
    assert queue.status(other) is Status.QUEUED


def test_nobody_spins_while_what_is_due_is_locked(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue()
    unique = Unique("key", then="replace")
    scheduled = queue.enqueue(Job(run_at=0.3, unique=unique))
    ledger, exchanges = queue._ledger, 0
    exchange = ledger.exchange

    def count(offer: Offer) -> Given:
        nonlocal exchanges
        exchanges += 1
        return exchange(offer)

    monkeypatch.setattr(ledger, "exchange", count)
    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        queue.enqueue(Job(payload="new", run_at=0.3, unique=unique), connection=connection)
        with pytest.raises(TimeoutError):
            queue.wait(scheduled, 1.0)
        connection.commit()
    assert queue.wait(scheduled, DEADLINE).result == "new"
    assert exchanges < 200
