"""Unique jobs on PostgreSQL: what holds on a file, and processes that bring one key at a time."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any

import psycopg
import pytest

from final import Job, JobQueue, QueueFull, Status, Unique
from final.engine.producers import OFFERED_AT_ONCE
from final.ledger.base import Given, Offer
from final.ledger.postgres import holders
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

    def test_nor_do_others_wait_until_it_is_looked_for_again(
        self, open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue, unique = open_queue(), Unique("report")
        monkeypatch.setattr(holders, "LOOK_AGAIN_SECONDS", A_DAY)
        with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
            queue.enqueue(Job(run_at=A_DAY, unique=unique), connection=connection)
            more = [Job() for _ in range(OFFERED_AT_ONCE)]  # as much as a turn offers of a line
            Background(queue.enqueue_many, [Job(unique=unique), *more])
            becomes(lambda: queue._dispatcher._producers)
            for other in (None, Unique("other")):
                queue.enqueue(Job(unique=other), timeout=DEADLINE / 2)
            with pytest.raises(QueueFull, match="key 'report'"):
                queue.enqueue(Job(unique=unique), timeout=0)

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


@pytest.mark.parametrize("how", ["history", "purge"])
def test_a_job_whose_key_a_caller_is_taking_goes_later_and_nobody_waits_for_that(
    address: str, open_queue: OpenQueue, how: str
) -> None:
    """Were it gone, nothing would say after a rollback that it did not hold its key any more."""
    queue, keys = open_queue(), (Unique("end"), Unique("day", within=A_DAY))
    let_go: Any = functools.partial(queue.purge, status=None)
    if how == "history":
        let_go = functools.partial(open_queue, None, workers=0, history=0)
    queue.enqueue_many([Job(unique.key, run_at=A_DAY, unique=unique) for unique in keys])
    queue.cancel_all()
    queue.wait(queue.enqueue(Job("other")), DEADLINE)
    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        queue.enqueue_many([Job(unique=unique) for unique in keys], connection=connection)
        Background(let_go).result()
        becomes(lambda: [job.id for job in queue.jobs()] == ["day", "end"])
        connection.rollback()
    let_go()
    becomes(lambda: not queue.jobs())
    again = [Job(f"new {unique.key}", unique=unique) for unique in keys]
    assert queue.enqueue_many(again) == ["new end", "new day"]


def watch_exchanges(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> list[Offer]:
    """From now on; it grows."""
    offers: list[Offer] = []
    exchange = queue._ledger.exchange

    def watched(offer: Offer) -> Given:
        offers.append(offer)
        return exchange(offer)

    monkeypatch.setattr(queue._ledger, "exchange", watched)
    return offers


def test_nobody_spins_while_what_is_due_is_locked(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue()
    unique = Unique("key", then="replace")
    scheduled = queue.enqueue(Job(run_at=0.3, unique=unique))
    offers = watch_exchanges(queue, monkeypatch)
    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        queue.enqueue(Job(payload="new", run_at=0.3, unique=unique), connection=connection)
        with pytest.raises(TimeoutError):
            queue.wait(scheduled, 1.0)
        connection.commit()
    assert queue.wait(scheduled, DEADLINE).result == "new"
    assert len(offers) < 200


def test_who_gives_up_waiting_for_a_key_leaves_nobody_looking(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(path=address.replace("lease=1", "lease=10"))
    other = queue.enqueue(Job(run_at=A_DAY))
    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        queue.enqueue(Job(unique=Unique("a"), run_at=A_DAY), connection=connection)
        with pytest.raises(QueueFull):
            queue.enqueue(Job(unique=Unique("a")), timeout=0.1)
        offers = watch_exchanges(queue, monkeypatch)
        with pytest.raises(TimeoutError):
            queue.wait(other, 1.0)
    assert len(offers) < 50


@pytest.mark.parametrize("then", ["skip", "replace"])
def test_the_last_change_of_a_transaction_is_seen(
    open_queue: OpenQueue, address: str, then: Any
) -> None:
    """By the job that has the key, and was about to start: nobody else would look."""
    seen, unique = [], Unique("stock", until="started", then=then)
    queue = open_queue(lambda job: seen.append(sql(address, "TABLE jobqueue.stock")[0]))
    sql(address, "CREATE TABLE jobqueue.stock AS SELECT 1 AS number")
    queue.pause()
    only = queue.enqueue(Job(unique=unique))
    with contextlib.closing(psycopg.connect(parse(address).dsn)) as connection:
        statement = f"UPDATE {parse(address).schema}.stock SET number = 2"
        connection.execute(statement.encode())
        assert queue.enqueue(Job(unique=unique), connection=connection) == only
        queue.resume()
        with pytest.raises(TimeoutError):
            queue.wait(only, 0.5)
        connection.commit()
    queue.wait(only, DEADLINE)
    assert seen == [(2,)]
