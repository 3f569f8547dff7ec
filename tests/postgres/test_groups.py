"""Groups, where several processes bring and run their jobs."""

from __future__ import annotations

import math
import random
import subprocess
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from final import Job, JobQueue, Kind, LeakyBucket, Status, Unique
from final.ledger.picking import BATCH_SECONDS
from final.ledger.postgres import housekeeping, window
from final.ledger.postgres.address import parse
from final.ledger.postgres.statements import GROUPS
from tests import postgres_server
from tests.final.helpers import eventually, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, ledger, sql


def test_groups_take_turns_whoever_brings_them(open_queue: OpenQueue) -> None:
    gate, started = Gate(), Journal()

    def handler(job: Job) -> None:
        gate.wait()
        started.write(job.group)

    queue = open_queue(handler, workers=1)
    other = open_queue(None, workers=0)
    queue.enqueue_many([Job(group="a") for _ in range(20)])
    other.enqueue_many([Job(group=group) for group in "bbbbcc"])
    gate.open()
    queue.join(DEADLINE)
    # The first few of "a" may have been claimed before the others came.
    order = "".join(started.entries).lstrip("a")
    assert order[:6].count("b") == 2
    assert order[:6].count("c") == 2
    assert len(started.entries) == 26


def test_groups_take_turns_where_a_turn_claims_several(open_queue: OpenQueue) -> None:
    may_end, started = threading.Semaphore(0), Journal()

    def handler(job: Job) -> None:
        started.write(job.group)
        may_end.acquire(timeout=DEADLINE)
        time.sleep(BATCH_SECONDS)  # so that a worker gets one at a time

    producer = open_queue(None, workers=0)
    producer.enqueue_many([Job(group=group) for group in "aaaaaabbbccc"])
    queue = open_queue(handler, workers=4)
    started.wait_for_count(4)  # a, b, c, a
    may_end.release(4)
    started.wait_for_count(8)  # b, c, a, b
    assert Counter(started.entries) == {"a": 3, "b": 3, "c": 2}
    may_end.release(8)
    queue.join(DEADLINE)


def test_the_order_within_a_group_is_that_of_its_jobs(open_queue: OpenQueue) -> None:
    ran = Journal()
    queue = open_queue(lambda job: ran.write((job.group, job.payload)), workers=1)
    queue.enqueue_many([Job(payload=n, group="ab"[n % 2]) for n in range(200)])
    queue.join(DEADLINE)
    for group in "ab":
        numbers = [number for of, number in ran.entries if of == group]
        assert numbers == sorted(numbers)


def test_a_limit_holds_for_all_processes_together(open_queue: OpenQueue) -> None:
    lock, running, most = threading.Lock(), Counter[str](), Counter[str]()

    def handler(job: Job) -> None:
        with lock:
            running[job.group or ""] += 1
            most[job.group or ""] = max(most[job.group or ""], running[job.group or ""])
        with lock:
            running[job.group or ""] -= 1

    queues = [open_queue(handler, workers=4, group_limit=2) for _ in range(3)]
    for queue in queues:
        queue.enqueue_many([Job(group=f"tenant-{n % 5}") for n in range(100)])
    for queue in queues:
        queue.join(DEADLINE)
    assert queues[0].metrics().completed == 300
    assert max(most.values()) <= 2


def test_nobody_is_left_behind(open_queue: OpenQueue) -> None:
    """Jobs come, wait for their time, are cancelled, fail and come back, in two processes."""
    failed: set[str] = set()

    def handler(job: Job) -> None:
        if job.payload == "fails once" and job.id not in failed:
            failed.add(job.id)
            raise ValueError("once")

    queues = [open_queue(handler, workers=2, group_limit=1) for _ in range(2)]

    def produce(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(150):
            job = Job(
                payload=chance.choice(["runs", "fails once"]),
                group=chance.choice("abc"),
                priority=chance.choice(["high", "low"]),
                run_at=chance.choice([None, None, 0.05]),
            )
            queues[seed].enqueue(job)
            if number % 3 == 0:
                queues[1 - seed].cancel(job.id)

    for producer in [Background(produce, seed) for seed in range(2)]:
        producer.result(3 * DEADLINE)

    def has_all_ended() -> bool:
        metrics = queues[0].metrics()
        return metrics.completed + metrics.cancelled == 300

    eventually(has_all_ended, "all jobs to end")


def test_whose_jobs_wait_is_seen_by_all(open_queue: OpenQueue, address: str) -> None:
    gate, began = Gate(), Journal()

    def handler(job: Job) -> None:
        began.write(job.id)
        gate.wait()

    # On a busy machine a short lease runs out, and then "runs" waits once more.
    patient = address.replace("lease=1", "lease=60")
    queue = open_queue(handler, path=patient, workers=1, group_limit=1)
    other = open_queue(None, path=patient, workers=0)
    queue.enqueue(Job("runs", group="a"))
    began.wait_for("runs")
    other.enqueue_many([Job(group=group) for group in "bbaaccc"] + [Job()])
    other.enqueue(Job(group="later", run_at=3600))
    found = [(group.name, group.queued, group.running) for group in other.groups()]
    assert found == [("c", 3, 0), ("a", 2, 1), ("b", 2, 0)]
    assert [group.name for group in other.groups(limit=2)] == ["c", "a"]
    sql(address, "UPDATE jobqueue.job SET ready_at = ready_at - interval '1 hour' WHERE grp = 'b'")
    ages = {group.name: group.oldest_queued for group in queue.groups()}
    assert 3600 <= ages["b"] < 3600 + DEADLINE
    assert 0 < ages["c"] < DEADLINE
    gate.open()
    queue.join(DEADLINE)
    assert queue.groups() == []


def test_to_look_at_groups_reads_two_indexes(open_queue: OpenQueue, address: str) -> None:
    open_queue(None, workers=0)
    place = parse(address)
    query = f"EXPLAIN {GROUPS}".replace("jobqueue.", f"{place.schema}.")
    with psycopg.connect(place.dsn) as connection:
        connection.execute("SET enable_seqscan = off")  # the table is empty
        plan = "\n".join(row[0] for row in connection.execute(query.encode(), [10]))
    assert "job_of_group" in plan
    assert "job_behind" in plan
    assert "Seq Scan" not in plan


def test_in_the_callers_transaction_too(open_queue: OpenQueue, address: str) -> None:
    from tests import postgres_server

    ran = Journal()
    queue = open_queue(lambda job: ran.write(job.group), workers=1, group_limit=1)
    with psycopg.connect(postgres_server.dsn()) as connection:
        for _ in range(3):
            queue.enqueue(Job(group="a"), connection=connection)
    ran.wait_for_count(3)


def test_the_next_one_comes_forward_where_a_callers_transaction_drops_the_first(
    open_queue: OpenQueue,
) -> None:
    bringer = open_queue(None, workers=0, capacity=2, overflow="drop-oldest")
    for job_id in ("first", "next"):
        bringer.enqueue(Job(job_id, group="a"))
    with psycopg.connect(postgres_server.dsn()) as connection:
        bringer.enqueue(Job("other"), connection=connection)
    assert bringer.status("first") is Status.DROPPED
    assert open_queue().wait("next", DEADLINE).status is Status.COMPLETED


def test_the_next_one_comes_forward_where_a_callers_transaction_had_it_locked(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "GROUPS_AT_ONCE", 1)
    bringer, key = open_queue(None, workers=0), Unique("key", then="replace")
    bringer.enqueue_many([Job("first", group="b"), Job("next", group="b", unique=key)])
    with psycopg.connect(postgres_server.dsn()) as connection:
        bringer.enqueue(Job("instead", group="b", unique=key), connection=connection)
        queue = open_queue()
        queue.wait("first", DEADLINE)
        connection.rollback()
    # And other groups are looked at before and after it.
    bringer.pause(group="a")
    bringer.pause(group="c")
    bringer.enqueue_many([Job(group=group) for group in "aacc"])
    assert queue.wait("next", DEADLINE).status is Status.COMPLETED


def test_a_suspect_of_a_full_group_waits_and_nobody_asks_for_it_all_the_time(
    open_queue: OpenQueue, address: str
) -> None:
    gate, started = Gate(), Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        gate.wait()

    queue = open_queue(handler, workers=4, group_limit=1)
    queue.enqueue(Job("first", group="a"))
    started.wait_for("first")
    queue.enqueue_many([Job("suspect", group="a"), Job("next", group="a")])
    # As after two crashes while it was alone.
    sql(address, "UPDATE jobqueue.job SET suspect = true, interrupted = 2 WHERE id = 'suspect'")
    before = tokens(address)
    queue.enqueue(Job("of another group", group="b"))
    started.wait_for("of another group")
    renewed: set[object] = set()

    def five_times() -> bool:
        renewed.update(sql(address, "SELECT expires_at FROM jobqueue.owner"))
        return len(renewed) >= 5

    becomes(five_times)
    assert tokens(address) - before < 50, "a turn takes a token"
    assert started.entries == ["first", "of another group"]
    gate.open()
    queue.join(DEADLINE)
    assert set(started.entries) == {"first", "of another group", "suspect", "next"}


def test_a_suspect_that_waits_lets_the_others_of_its_group_pass(
    open_queue: OpenQueue, address: str
) -> None:
    gate = Gate()
    bringer = open_queue(None, workers=0)
    bringer.enqueue_many([Job("runs"), Job("waits", group="a")])
    # As after two crashes: one of them runs at a time.
    sql(address, "UPDATE jobqueue.job SET suspect = true, interrupted = 2, behind = false")
    bringer.enqueue_many([Job("next", group="a"), Job("last", group="a")])
    queue = open_queue(lambda job: gate.wait() if job.id == "runs" else None, workers=3)
    assert queue.wait("last", DEADLINE).status is Status.COMPLETED
    assert queue.status("waits") is Status.QUEUED
    gate.open()
    queue.join(DEADLINE)


def tokens(address: str) -> int:
    ((number,),) = sql(address, "SELECT last_value FROM jobqueue.token")
    return int(number)


@pytest.mark.skipif(postgres_server.programs() is None, reason="no server of our own here")
def test_where_the_numbers_of_tables_are_high() -> None:
    """After some billions of objects: beyond what half of an advisory lock's key holds."""
    server = postgres_server.Server()
    try:
        binaries = postgres_server.programs()
        assert binaries is not None
        command = [str(binaries / "pg_resetwal"), "-o", "3000000000", "-D", str(server.data)]
        ordinary = postgres_server.as_ordinary_user()
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=True, cwd=server.folder, stdout=quiet, **ordinary)
        server.start()
        with JobQueue(lambda job: job.payload, path=server.dsn, group_limit=1) as queue:
            ids = queue.enqueue_many([Job(payload=n, group="a") for n in range(3)])
            assert [queue.wait(job_id, DEADLINE).result for job_id in ids] == [0, 1, 2]
    finally:
        server.remove()


def test_the_next_of_a_group_that_was_full_is_found_however_many_have_passed_it(
    open_queue: OpenQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(job: Job) -> None:
        if job.group:
            gate.wait()

    monkeypatch.setattr(window, "MARGIN", 0)
    queue = open_queue(handler, workers=2, group_limit=1)
    monkeypatch.setattr(ledger(queue)._housekeeping, "_look_back_at", math.inf)
    *_, last = queue.enqueue_many([Job(group="full") for _ in range(2)])
    for job_id in queue.enqueue_many([Job() for _ in range(30)]):
        queue.wait(job_id, DEADLINE)
    gate.open()
    assert queue.wait(last, DEADLINE).status is Status.COMPLETED


def test_thousands_of_a_full_group_that_stand_in_the_lane_hold_up_nobody(
    open_queue: OpenQueue, address: str, gate: Gate
) -> None:
    def handler(job: Job) -> None:
        if job.group:
            gate.wait()

    bringer = open_queue(None, workers=0, capacity=10_000)
    with psycopg.connect(postgres_server.dsn()) as connection:
        bringer.enqueue(Job(group="full"), connection=connection)
    # As from as many transactions.
    sql(
        address,
        """INSERT INTO jobqueue.job (place, id, kind, lane, size, attempts, payload, status, grp)
        SELECT number, number, 'default', 1, 4, 0, 'null', 'queued', 'full'
        FROM generate_series(2, 5000) AS number""",
    )
    sql(address, "SELECT setval('jobqueue.job_seq_seq', 5000)")
    queue = open_queue(handler, workers=2, group_limit=1, capacity=10_000)
    becomes(lambda: queue.jobs(Status.PROCESSING))
    for _ in range(3):
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED


def test_nor_do_they_hold_up_each_other(open_queue: OpenQueue, address: str) -> None:
    """The first ends, and it is the turn of the next."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        time.sleep(BATCH_SECONDS)

    path = address.replace("lease=1", "lease=3")
    open_queue(None, path=path, workers=0).close()  # makes the tables
    sql(
        address,
        """INSERT INTO jobqueue.job (place, id, kind, lane, size, attempts, payload, status, grp)
        SELECT number, number, 'default', 1, 4, 0, 'null', 'queued', 'full'
        FROM generate_series(1, 5000) AS number""",
    )
    sql(address, "SELECT setval('jobqueue.job_seq_seq', 5000)")
    open_queue(handler, path=path, workers=1, group_limit=1, capacity=10_000)
    started.wait_for_count(20)
    assert started.entries[:20] == [str(number) for number in range(1, 21)]


def one_of_a_group_each(queue: JobQueue) -> list[str]:
    """The first is the head, of a kind that shall not start, and many like it are behind."""
    return queue.enqueue_many([Job(kind="mail", group="g") for _ in range(150)]) + (
        queue.enqueue_many([Job(kind="sms", group="g") for _ in range(3)])
    )


class TestOneThatMayNotStart:
    """It does not hold up the others of its group."""

    def test_it_is_paused(self, open_queue: OpenQueue) -> None:
        queue = open_queue({"mail": nothing, "sms": nothing})
        queue.pause(kind="mail")
        *mails, _, _, last = one_of_a_group_each(queue)
        assert queue.wait(last, DEADLINE).status is Status.COMPLETED
        queue.resume(kind="mail")
        queue.join(DEADLINE)
        assert {queue.status(mail) for mail in mails} == {Status.COMPLETED}

    def test_it_was_paused_when_it_stood_in_its_lane(self, open_queue: OpenQueue) -> None:
        queue = open_queue({"mail": nothing, "sms": nothing})
        queue.pause()
        *_, last = one_of_a_group_each(queue)
        queue.pause(kind="mail")
        queue.resume()
        assert queue.wait(last, DEADLINE).status is Status.COMPLETED

    def test_its_rate_limit_is_used_up(self, open_queue: OpenQueue) -> None:
        slowly = Kind(nothing, rate_limit=LeakyBucket(1 / 3600))
        queue = open_queue({"mail": slowly, "sms": nothing}, workers=1)
        first, second, *_, last = one_of_a_group_each(queue)
        assert queue.wait(last, DEADLINE).status is Status.COMPLETED
        assert queue.wait(first, DEADLINE).status is Status.COMPLETED
        assert queue.status(second) is Status.QUEUED

    def test_as_many_of_it_run_as_may(self, open_queue: OpenQueue, gate: Gate) -> None:
        one = Kind(lambda job: gate.wait(), workers=1)
        queue = open_queue({"mail": one, "sms": nothing}, workers=3)
        *_, last = one_of_a_group_each(queue)
        assert queue.wait(last, DEADLINE).status is Status.COMPLETED

    def test_it_is_run_by_others(self, open_queue: OpenQueue) -> None:
        bringer = open_queue(None, workers=0)
        *mails, _, _, last = one_of_a_group_each(bringer)
        queue = open_queue({"sms": nothing})
        queue.join(DEADLINE)
        assert bringer.status(last) is Status.COMPLETED
        assert {bringer.status(mail) for mail in mails} == {Status.QUEUED}
        assert open_queue({"mail": nothing}).close()
        assert {bringer.status(mail) for mail in mails} == {Status.COMPLETED}


class TestNoneThatMayStart:
    """Then the next of the group stands in the lane all the same, and nobody waits for a poll."""

    @pytest.fixture(autouse=True)
    def _no_polls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(housekeeping, "POLL_SECONDS", 3600)

    @pytest.mark.parametrize("policy", [{"rate_limit": LeakyBucket(200)}, {"workers": 1}])
    def test_a_limit_is_used_up(
        self, open_queue: OpenQueue, address: str, policy: dict[str, Any]
    ) -> None:
        path = address.replace("lease=1", "lease=600")
        queue = open_queue({"mail": Kind(nothing, **policy)}, path=path, workers=2)
        queue.enqueue_many([Job(kind="mail", group="g") for _ in range(20)])
        queue.join(DEADLINE)

    def test_it_is_paused(self, open_queue: OpenQueue, address: str) -> None:
        queue = open_queue({"mail": nothing}, path=address.replace("lease=1", "lease=600"))
        queue.pause(kind="mail")
        queue.enqueue_many([Job(kind="mail", group="g") for _ in range(3)])
        queue.resume(kind="mail")
        queue.join(DEADLINE)


def test_who_runs_the_next_of_a_full_group_is_told(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of a kind that does not run where the one before has ended."""
    monkeypatch.setattr(housekeeping, "POLL_SECONDS", 3600)
    path, gate = address.replace("lease=1", "lease=600"), Gate()
    one = open_queue({"first": lambda job: gate.wait()}, path=path, group_limit=1)
    other = open_queue({"next": nothing}, path=path, group_limit=1)
    first = one.enqueue(Job(kind="first", group="a"))
    becomes(lambda: one.get(first).status is Status.PROCESSING)
    following = other.enqueue(Job(kind="next", group="a"))
    becomes(lambda: not ledger(other)._memory.more)
    gate.open()
    assert other.wait(following, DEADLINE).status is Status.COMPLETED


def test_the_oldest_goes_where_more_wait_behind_than_the_lane_has_room_for(
    open_queue: OpenQueue, address: str
) -> None:
    """As after many have fallen due, which needs no room."""
    queue = open_queue(None, workers=0, capacity=2, overflow="drop-oldest")
    for group in "ba":  # the other way round than in the index
        queue.enqueue_many([Job(f"{group}{n}", group=group, run_at=0.01) for n in range(4)])
        becomes(lambda: not queue.jobs("scheduled"))
    in_line = """SELECT id FROM jobqueue.job WHERE grp IN ('a', 'b') AND status = 'queued'
        ORDER BY place"""
    for _ in range(2):
        before = sql(address, in_line)
        queue.enqueue(Job(priority="high"))  # another lane
        queue.enqueue(Job(group="c"))
        left = sql(address, in_line)
        assert len(left) < len(before)
        assert {*before[: len(before) - len(left)]}.isdisjoint(left)
