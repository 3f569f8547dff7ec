"""Unique jobs: who holds a key, for how long, and what becomes of one that comes with the same."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from final import (
    CallNext,
    DuplicateJob,
    Job,
    JobQueue,
    PermanentFailure,
    Priority,
    QueueFull,
    Status,
    Unique,
)
from final.ledger.base import Offer
from tests.final import inside
from tests.final.engine import START, Engine, jobs
from tests.final.helpers import AT_ONCE, NOT_TODAY, HeldUp, OpenQueue, eventually, nothing, reaches
from tests.helpers import DEADLINE, Background, Journal

A_DAY = 86_400


def test_while_a_job_has_not_ended_another_one_with_its_key_does_not_come_in(
    held_up: HeldUp, gate: Any
) -> None:
    queue, started = held_up()
    assert queue.enqueue(Job("first", unique=Unique("report"))) == "first"
    assert queue.enqueue(Job("second", unique=Unique("report"))) == "first"
    assert queue.enqueue(Job("other", unique=Unique("invoice"))) == "other"
    assert queue.metrics().accepted == 3  # with the one that holds the worker
    gate.open()
    queue.join(DEADLINE)
    assert queue.enqueue(Job("third", unique=Unique("report"))) == "third"
    queue.join(DEADLINE)
    assert started.entries == ["holder", "first", "other", "third"]
    assert queue.get("first").unique == "report"
    assert queue.get("holder").unique is None


@pytest.mark.parametrize(("until", "kept"), [("ended", "first"), ("started", "second")])
def test_one_that_runs_holds_its_key_until_the_end_or_has_let_go_of_it(
    open_queue: OpenQueue, gate: Any, until: Any, kept: str
) -> None:
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        gate.wait()

    queue = open_queue(handler, workers=2)
    queue.enqueue(Job("first", unique=Unique("report", until=until)))
    started.wait_for("first")
    assert queue.enqueue(Job("second", unique=Unique("report", until=until))) == kept


def test_a_retry_has_started_and_has_not_ended(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> None:
        raise ValueError("no")

    queue = open_queue(handler, backoff=NOT_TODAY)
    for until in ("started", "ended"):
        queue.enqueue(Job(f"{until} 1", unique=Unique(until, until=until)))
        reaches(queue, f"{until} 1", Status.RETRYING)
    assert queue.enqueue(Job("started 2", unique=Unique("started", until="started"))) == "started 2"
    assert queue.enqueue(Job("ended 2", unique=Unique("ended"))) == "ended 1"


def test_within_a_time_whether_it_has_ended_or_not(open_queue: OpenQueue) -> None:
    queue = open_queue(nothing)
    began = time.time()
    queue.enqueue(Job("first", unique=Unique("mail", within=0.2)))
    queue.wait("first", DEADLINE)
    queue.enqueue(Job("long", unique=Unique("long", within=A_DAY)))
    queue.wait("long", DEADLINE)
    eventually(
        lambda: queue.enqueue(Job(unique=Unique("mail", within=A_DAY))) != "first",
        "the key to be free",
    )
    assert time.time() - began >= 0.199
    assert queue.enqueue(Job(unique=Unique("long", within=A_DAY))) == "long"


class TestReplace:
    def test_one_that_waits_becomes_the_new_one_under_its_own_id(
        self, held_up: HeldUp, gate: Any
    ) -> None:
        seen = Journal()
        queue, _ = held_up()
        first = Job("first", {"version": 1}, "low", unique=Unique("page"))
        queue.enqueue_many([first, Job("beside", priority="low")])
        second = Job(
            "second", {"version": 2}, "low", timeout=5, unique=Unique("page", then="replace")
        )
        assert queue.enqueue(second) == "first"
        record = queue.get("first")
        assert (record.payload, record.timeout) == ({"version": 2}, 5.0)
        third = Job("third", {"version": 3}, "high", unique=Unique("page", then="replace"))
        assert queue.enqueue(third) == "first"
        metrics = queue.metrics()
        lanes = {p: (n.queued, n.accepted) for p, n in metrics.by_priority.items()}
        assert lanes[Priority.HIGH] == (1, 1)
        assert lanes[Priority.LOW] == (1, 1)
        queue.subscribe(lambda t: seen.write(t.job_id) if t.status is Status.PROCESSING else None)
        gate.open()
        queue.join(DEADLINE)
        seen.wait_for_count(2)
        assert seen.entries == ["first", "beside"]
        assert queue.get("first").payload == {"version": 3}
        assert queue.metrics().accepted == 3

    def test_it_keeps_its_place_in_line(self, held_up: HeldUp, gate: Any) -> None:
        queue, started = held_up()
        queue.enqueue_many([Job("first", unique=Unique("page")), Job("beside")])
        queue.enqueue(Job(payload=2, unique=Unique("page", then="replace")))
        gate.open()
        queue.join(DEADLINE)
        assert started.entries == ["holder", "first", "beside"]

    def test_one_of_a_group_keeps_its_turn(self, held_up: HeldUp, gate: Any) -> None:
        """However often it is replaced: else it would wait for as long as somebody changes it."""
        queue, started = held_up()
        queue.enqueue_many([Job("page", group="a", unique=Unique("page")), Job("b-1", group="b")])
        for payload in range(3):
            new = Job(payload=payload, group="a", unique=Unique("page", then="replace"))
            assert queue.enqueue(new) == "page"
        queue.enqueue(Job("b-2", group="b"))
        gate.open()
        queue.join(DEADLINE)
        assert started.entries == ["holder", "page", "b-1", "b-2"]
        assert queue.get("page").payload == 2

    def test_in_another_group_it_is_the_last_of_that(self, held_up: HeldUp, gate: Any) -> None:
        queue, started = held_up(group_limit=1)
        first = Job("page", group="a", unique=Unique("page"))
        queue.enqueue_many([first, Job("a-1", group="a"), Job("b-1", group="b")])
        queue.enqueue(Job(group="b", unique=Unique("page", then="replace")))
        assert queue.get("page").group == "b"
        gate.open()
        queue.join(DEADLINE)
        assert started.entries.index("b-1") < started.entries.index("page")

    def test_one_call_may_move_it_from_lane_to_lane(self, held_up: HeldUp) -> None:
        queue, _ = held_up()
        queue.enqueue(Job("page", priority="low", unique=Unique("page")))
        again = Unique("page", then="replace")
        queue.enqueue_many([Job(priority=p, unique=again) for p in ("high", "low", "high")])
        lanes = queue.metrics().by_priority
        assert [lanes[p].queued for p in Priority] == [1, 0, 0]
        queue.enqueue_many([Job(priority=p, unique=again) for p in ("medium", "high")])
        lanes = queue.metrics().by_priority
        assert [lanes[p].queued for p in Priority] == [1, 0, 0]

    def test_one_that_falls_due_at_that_moment_is_counted_once(self) -> None:
        engine = Engine()
        engine.turn(jobs("holder"))
        first, new = jobs("page", priority=Priority.LOW), jobs("new", priority=Priority.HIGH)
        first.tasks[0].unique, first.tasks[0].due_at = Unique("page"), engine.wall + 1.0
        engine.turn(first)
        new.tasks[0].unique = Unique("page", then="replace")
        engine.turn(new, later=1.0)
        assert new.result() == ["page"]
        lanes = engine.metrics().by_priority
        assert [(lanes[p].scheduled, lanes[p].queued) for p in Priority] == [(0, 1), (0, 0), (0, 0)]

    @pytest.mark.parametrize("priority", [Priority.MEDIUM, Priority.LOW])
    @pytest.mark.parametrize("failures", [0, 1])
    def test_one_that_is_set_aside_at_that_moment_is_given_back_once(
        self, failures: int, priority: Priority
    ) -> None:
        """By a handler that was turned away while the queue closes."""
        engine = Engine()
        first, new = jobs("page"), jobs("new", priority=priority)
        first.tasks[0].unique = Unique("page")
        new.tasks[0].unique = Unique("page", then="replace")
        engine.turn(first)
        [batch] = engine.batches
        offer = Offer(0.0, START, aside=[(batch.token, batch.claimed)], new=[new.tasks])
        for engine.file.failures in (failures, 0):
            given = engine.ledger.exchange(offer)
            if given.error:
                assert given.live[Status.PROCESSING] == 1
        assert engine.status("page") == ("queued", 0)
        assert (given.live[Status.PROCESSING], given.live[Status.QUEUED]) == (0, 1)
        assert engine.waiting(priority) == ["page"]
        assert engine.ledger.exchange(Offer(1.0, START, idle=1)).error is None
        assert engine.status("page") == ("processing", 1)

    def test_by_default_one_that_runs_stays_as_it_is_and_the_new_one_runs_after_it(
        self, open_queue: OpenQueue, gate: Any
    ) -> None:
        seen = Journal()

        def handler(job: Job) -> None:
            seen.write(job.payload)
            gate.wait()

        queue = open_queue(handler, workers=1)
        for version in (1, 2, 3):
            queue.enqueue(Job(payload=version, unique=Unique("page", then="replace")))
            seen.wait_for(1)
        gate.open()
        queue.join(DEADLINE)
        assert seen.entries == [1, 3]

    def test_until_the_end_one_that_runs_is_left_alone(
        self, open_queue: OpenQueue, gate: Any
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.payload)
            gate.wait()

        queue = open_queue(handler, workers=1)
        unique = Unique("page", until="ended", then="replace")
        first = queue.enqueue(Job(payload=1, unique=unique))
        started.wait_for(1)
        assert queue.enqueue(Job(payload=2, unique=unique)) == first
        gate.open()
        queue.join(DEADLINE)
        assert started.entries == [1]

    def test_one_that_waits_for_another_attempt_keeps_its_backoff(
        self, open_queue: OpenQueue
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no")

        queue = open_queue(handler, backoff=NOT_TODAY)
        queue.enqueue(Job("first", 1, unique=Unique("page")))
        reaches(queue, "first", Status.RETRYING)
        before = queue.get("first")
        unique = Unique("page", until="ended", then="replace")
        assert queue.enqueue(Job(payload=2, run_at=5, unique=unique)) == "first"
        record = queue.get("first")
        assert record.payload == 2
        assert (record.status, record.attempts) == (Status.RETRYING, 1)
        assert record.due_at == before.due_at
        assert len(queue.attempts("first")) == 1

    def test_a_handler_that_waits_for_it_waits_once(self, open_queue: OpenQueue) -> None:
        """Closing turns it away, as nobody resumes what is paused: a second time was the end."""
        queue: JobQueue = open_queue(lambda job: queue.wait("page"), workers=2)
        queue.enqueue(Job("page", run_at=A_DAY, unique=Unique("page", then="replace")))
        queue.enqueue(Job("waits"))
        eventually(lambda: "page" in inside.watched(queue), "the handler to wait")
        new = Job(priority="high", run_at=A_DAY, unique=Unique("page", then="replace"))
        assert queue.enqueue(new) == "page"
        queue.pause()
        Background(queue.close, True, None).result()
        assert queue.metrics().by_priority[Priority.HIGH].scheduled == 1

    def test_from_lane_to_lane_it_is_told_of_as_within_one(self, open_queue: OpenQueue) -> None:
        told = Journal()
        queue = open_queue(nothing)
        queue.subscribe(lambda transition: told.write((transition.job_id, transition.status)))
        for job_id, priority in [("page", "low"), ("again", "low"), ("urgent", "high")]:
            unique = Unique("page", then="replace")
            queue.enqueue(Job(job_id, priority=priority, run_at=A_DAY, unique=unique))
        queue.wait(queue.enqueue(Job("last")), DEADLINE)
        told.wait_for(("last", Status.COMPLETED))
        assert told.entries.count(("page", Status.SCHEDULED)) == 3
        assert queue.metrics().commits.total == queue.metrics().accepted == 2

    def test_a_scheduled_one_that_is_needed_now_runs_now(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload)
        queue.enqueue(Job("later", 1, run_at=A_DAY, unique=Unique("page")))
        queue.enqueue(Job(payload=2, unique=Unique("page", then="replace")))
        assert queue.wait("later", DEADLINE).result == 2

    def test_one_of_a_kind_that_nobody_handles_any_more_becomes_one_of_a_kind_that_is(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue({"old": nothing}, path=path) as queue:
            queue.enqueue(Job("first", kind="old", run_at=A_DAY, unique=Unique("page")))
        queue = open_queue({"new": lambda job: job.payload}, path=path)
        new = Job(payload=2, kind="new", unique=Unique("page", then="replace"))
        assert queue.enqueue(new) == "first"
        assert queue.wait("first", DEADLINE).result == 2
        queue.join(DEADLINE)


class TestDebounce:
    def test_each_new_one_puts_it_off_but_not_for_ever(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        unique = Unique("index", then="replace", max_wait=A_DAY)
        first = queue.enqueue(Job(payload=0, run_at=3_600, unique=unique))
        enqueued_at = queue.get(first).enqueued_at
        due = [queue.get(first).due_at or 0.0]
        for delay in (7_200, 50_000, 2 * A_DAY, 3 * A_DAY):
            assert queue.enqueue(Job(payload=delay, run_at=delay, unique=unique)) == first
            due.append(queue.get(first).due_at or 0.0)
        assert due[:4] == sorted(due[:4])
        assert due[2] - enqueued_at == pytest.approx(50_000, abs=60)
        assert due[3:] == pytest.approx([enqueued_at + A_DAY] * 2, abs=1)
        assert queue.get(first).payload == 3 * A_DAY

    def test_a_time_of_the_clock_is_bounded_as_well(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        unique = Unique("index", then="replace", max_wait=60)
        job = queue.enqueue(Job(run_at=tomorrow, unique=unique))
        record = queue.get(job)
        assert record.due_at == pytest.approx(record.enqueued_at + 60, abs=1)

    def test_it_runs_in_the_end_while_others_still_come(self, open_queue: OpenQueue) -> None:
        """Without a sleep: who waits for the first one does not see how many came."""
        queue = open_queue(lambda job: job.payload)
        unique = Unique("index", then="replace", max_wait=0.3)
        ids: set[str] = set()
        count = 0
        began = time.monotonic()
        while len(ids) < 2 and time.monotonic() - began < DEADLINE:
            count += 1
            ids.add(queue.enqueue(Job(payload=count, run_at=60, unique=unique)))
        assert len(ids) == 2
        assert time.monotonic() - began >= 0.29
        record = queue.wait(min(ids), DEADLINE)
        assert record.result == count - 1


class TestOneCall:
    def test_of_two_with_one_key_the_first_comes_in(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        jobs = [Job(f"job-{n}", n, unique=Unique(f"key-{n % 2}", within=A_DAY)) for n in range(4)]
        assert queue.enqueue_many([*jobs, Job("plain")]) == [
            *("job-0", "job-1", "job-0", "job-1"),
            "plain",
        ]
        queue.join(DEADLINE)
        assert queue.metrics().accepted == 3

    def test_of_two_the_second_replaces_the_first(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload, capacity=2)
        unique = Unique("page", then="replace")
        jobs = [
            Job("first", 1, run_at=A_DAY, unique=unique),
            Job("second", 2, unique=unique),
            Job("third", 3, "high", unique=unique),
        ]
        assert queue.enqueue_many(jobs) == ["first"] * 3
        assert queue.wait("first", DEADLINE).result == 3
        assert queue.metrics().accepted == 1

    def test_more_than_a_turn_takes(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, capacity=50)
        jobs = [Job(f"job-{n}", unique=Unique(str(n % 700), within=A_DAY)) for n in range(1_500)]
        assert queue.enqueue_many(jobs) == [f"job-{n % 700}" for n in range(1_500)]
        queue.join(DEADLINE)
        assert queue.metrics().completed == 700

    def test_an_id_that_is_taken_is_refused_all_the_same(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("first", unique=Unique("page", within=A_DAY)))
        with pytest.raises(DuplicateJob, match="first"):
            queue.enqueue(Job("first", unique=Unique("page", within=A_DAY)))

    def test_producers_at_once(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path)
        barrier = threading.Barrier(8)

        def produce() -> list[str]:
            barrier.wait(DEADLINE)
            return [queue.enqueue(Job(unique=Unique(str(n), within=A_DAY))) for n in range(20)]

        producers = [Background(produce) for _ in range(8)]
        answers = {tuple(producer.result()) for producer in producers}
        assert len(answers) == 1
        queue.join(DEADLINE)
        assert queue.metrics().accepted == 20


class TestFullLanes:
    def test_what_is_dropped_at_the_door_holds_nothing(self, held_up: HeldUp) -> None:
        queue, _ = held_up(capacity=1, overflow="drop-newest")
        queue.enqueue(Job("waits"))
        assert queue.enqueue(Job("dropped", unique=Unique("page", within=A_DAY))) == "dropped"
        assert queue.status("dropped") is Status.DROPPED
        assert queue.enqueue(Job("high", priority="high", unique=Unique("page"))) == "high"
        assert queue.status("high") is Status.QUEUED

    def test_what_is_dropped_for_another_one_holds_nothing(self, held_up: HeldUp) -> None:
        queue, _ = held_up(capacity=1, overflow="drop-oldest")
        queue.enqueue(Job("dropped", unique=Unique("page", within=A_DAY)))
        queue.enqueue(Job("waits"))
        assert queue.status("dropped") is Status.DROPPED
        assert queue.enqueue(Job("again", unique=Unique("page"))) == "again"

    @pytest.mark.parametrize("then", ["skip", "replace"])
    def test_nor_if_both_come_in_one_call(self, held_up: HeldUp, then: Any) -> None:
        queue, _ = held_up(capacity=1, overflow="drop-oldest")
        unique = Unique("page", until="ended", then=then)
        queue.enqueue(Job("there", unique=unique))
        jobs = [Job("a"), Job("b", unique=unique), Job("c"), Job("once more", unique=unique)]
        assert queue.enqueue_many(jobs) == [job.id for job in jobs]
        assert [record.id for record in queue.jobs(Status.QUEUED)] == ["once more"]

    def test_no_producer_waits_for_the_end_of_what_others_drop(self) -> None:
        engine = Engine(capacity=1, overflow="drop-oldest")
        engine.turn(jobs("runs"))
        low, again = jobs("low", priority=Priority.LOW), jobs("again", priority=Priority.LOW)
        low.tasks[0].unique = again.tasks[0].unique = Unique("page")
        engine.turn(low)
        flood = jobs(*(f"high-{n}" for n in range(2_000)), priority=Priority.HIGH)
        engine.turn(flood, again)
        assert not flood.answered
        assert again.answered
        assert again.result() == ["low"]

    def test_a_blocked_producer_learns_when_there_is_room(self, held_up: HeldUp, gate: Any) -> None:
        queue, _ = held_up(capacity=1)
        queue.enqueue(Job("waits"))
        with pytest.raises(QueueFull):
            queue.enqueue(Job(unique=Unique("page")), timeout=0)
        jobs = [Job(f"job-{n}", unique=Unique("page", within=A_DAY)) for n in range(3)]
        producers = [Background(queue.enqueue, job) for job in jobs]
        gate.open()
        assert len({producer.result() for producer in producers}) == 1

    def test_one_that_is_replaced_goes_to_the_lane_of_the_new_one(self, held_up: HeldUp) -> None:
        queue, _ = held_up(capacity=1)
        queue.enqueue(Job("page", priority="low", unique=Unique("page")))
        new = Job(priority="medium", unique=Unique("page", then="replace"))
        assert queue.enqueue(new, timeout=DEADLINE) == "page"
        lanes = queue.metrics().by_priority
        assert (lanes[Priority.MEDIUM].queued, lanes[Priority.LOW].queued) == (1, 0)
        assert queue.enqueue(Job("low", priority="low"), timeout=DEADLINE) == "low"


class TestAfterwards:
    def test_what_is_cancelled_holds_nothing(self, held_up: HeldUp) -> None:
        queue, _ = held_up()
        queue.enqueue(Job("first", unique=Unique("page", within=A_DAY)))
        queue.cancel("first")
        assert queue.enqueue(Job("second", unique=Unique("page"))) == "second"

    def test_a_dead_letter_is_not_retried_beside_one_that_has_its_key(
        self, open_queue: OpenQueue, gate: Any
    ) -> None:
        def handler(job: Job) -> None:
            if job.id.startswith("dead"):
                raise PermanentFailure("no")
            gate.wait()

        queue = open_queue(handler)
        for n in range(2):
            queue.enqueue(Job(f"dead-{n}", unique=Unique("page")))
            reaches(queue, f"dead-{n}", Status.FAILED)
        queue.enqueue(Job("dead-other"))
        reaches(queue, "dead-other", Status.FAILED)
        queue.enqueue(Job("new", unique=Unique("page")))
        with pytest.raises(ValueError, match=r"dead-0 is not retried: another job with its unique"):
            queue.retry("dead-0")
        assert queue.retry_all() == 1
        gate.open()
        queue.wait("new", DEADLINE)
        reaches(queue, "dead-other", Status.FAILED)
        assert queue.retry_all() == 2  # one of the two with the key, and the other one
        queue.join(DEADLINE)

    def test_a_dead_letter_that_is_retried_holds_its_key_again(
        self, open_queue: OpenQueue, gate: Any
    ) -> None:
        attempts = Journal()

        def handler(job: Job) -> None:
            attempts.write(job.id)
            if attempts.entries.count("first") == 1:
                raise PermanentFailure("no")
            if job.id == "first":
                gate.wait()

        queue = open_queue(handler, history=0)  # of the second one nothing is left
        queue.enqueue(Job("first", unique=Unique("page")))
        reaches(queue, "first", Status.FAILED)
        queue.enqueue(Job("second", unique=Unique("page")))
        queue.join(DEADLINE)
        queue.retry("first")
        assert queue.enqueue(Job("third", unique=Unique("page"))) == "first"

    def test_also_one_that_a_cancelled_job_had_for_a_time(self, open_queue: OpenQueue) -> None:
        def fail(job: Job) -> None:
            raise PermanentFailure("no")

        queue = open_queue(fail)
        queue.enqueue(Job("first", unique=Unique("page")))
        reaches(queue, "first", Status.FAILED)
        queue.pause()
        queue.enqueue(Job("second", unique=Unique("page", within=A_DAY)))
        queue.cancel("second")
        queue.retry("first")
        assert queue.enqueue(Job("third", unique=Unique("page"))) == "first"

    @pytest.mark.parametrize("then", ["skip", "replace"])
    def test_keys_survive_the_end_of_the_process(
        self, open_queue: OpenQueue, path: str, then: Any
    ) -> None:
        unique = Unique("page", within=A_DAY, then=then)
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("first", 1, run_at=A_DAY, unique=unique))
        queue = open_queue(nothing, path=path)
        assert queue.enqueue(Job(payload=2, run_at=3_600, unique=unique)) == "first"
        assert queue.get("first").payload == (1 if then == "skip" else 2)

    def test_map_and_wait_go_by_the_id_that_is_returned(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload)
        ids = [queue.enqueue(Job(payload=n, unique=Unique("page", within=A_DAY))) for n in range(3)]
        assert [queue.wait(job_id, DEADLINE).result for job_id in ids] == [0, 0, 0]
        assert list(queue.map([1, 2])) == [1, 2]


def test_a_retry_of_a_unique_job_is_the_same_job(open_queue: OpenQueue) -> None:
    seen = Journal()

    def handler(job: Job) -> None:
        seen.write(job)
        if len(seen.entries) == 1:
            raise ValueError("no")

    queue: JobQueue = open_queue(handler, backoff=AT_ONCE)
    queue.wait(queue.enqueue(Job("first", "text", unique=Unique("page"))), DEADLINE)
    assert seen.entries == [Job("first", "text"), Job("first", "text")]


def test_a_key_that_is_held_for_a_time_outlives_its_job(open_queue: OpenQueue, path: str) -> None:
    queue = open_queue(nothing, path=path, history=0)
    queue.enqueue_many(
        [
            Job("day", unique=Unique("day", within=A_DAY)),
            Job("moment", unique=Unique("moment", within=0.05)),
            Job("end", unique=Unique("end")),
        ]
    )
    queue.join(DEADLINE)

    def rows() -> list[Any]:
        queue.enqueue(Job())
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT key FROM holder").fetchall()

    eventually(lambda: rows() == [("day",)], "the others to be gone")
    assert queue.enqueue(Job(unique=Unique("day"))) == "day"


def test_keys_whose_time_is_over_go_though_the_clock_was_set_back(path: str) -> None:
    engine = Engine(path)
    for key, set_back in (("hour", 0.0), ("moment", 3_600.0)):
        engine.ahead -= set_back
        new = jobs(key)
        new.tasks[0].unique = Unique(key, within=0.05)
        engine.turn(new)
    for n in range(2):
        engine.turn(jobs(f"later-{n}"), later=1.1)
    assert engine.file.execute("SELECT key FROM holder").fetchall() == [("hour",)]


def test_one_may_be_replaced_though_the_disk_was_full_the_first_time(path: str) -> None:
    """Nobody handled its kind: it left its lane again, and comes back there as another Task."""
    engine = Engine(path)
    first = jobs("page")
    first.tasks[0].kind, first.tasks[0].unique = "old", Unique("page")
    engine.turn(jobs("holder"))
    engine.turn(first, jobs("other"))
    engine.crash()
    engine = Engine(path, handles=lambda kind: kind != "old")
    engine.turn()
    for engine.file.failures in (1, 0):
        new = jobs("new")
        new.tasks[0].unique = Unique("page", then="replace")
        engine.turn(new, later=1.0)
    assert new.result() == ["page"]
    assert engine.waiting() == ["other", "page"]


def test_one_that_was_replaced_in_vain_keeps_its_delay_whoever_sets_the_clock() -> None:
    engine = Engine()
    first, new = jobs("page"), jobs("new")
    first.tasks[0].unique, first.tasks[0].due_at = Unique("page"), engine.wall + 2.0
    new.tasks[0].unique, new.tasks[0].due_at = Unique("page", then="replace"), engine.wall + 1.0
    engine.turn(first)
    engine.file.failures = 1
    engine.turn(new)
    engine.file.failures = 0
    engine.ahead += 3600.0
    engine.turn(later=1.5)
    assert engine.status("page") == ("scheduled", 0)
    engine.turn(later=0.5)
    assert engine.status("page") == ("processing", 1)


class TestBadKeys:
    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"key": ""}, ValueError, r"^Unique\.key must not be empty"),
            ({"key": 1}, TypeError, r"^Unique\.key must be text"),
            ({"key": "k" * 1001}, ValueError, r"^Unique\.key has 1,001 characters"),
            (
                {"key": "k", "within": 60, "until": "ended"},
                ValueError,
                "within= or until=, not both",
            ),
            ({"key": "k", "within": 0}, ValueError, r"^Unique\.within must be a number above 0"),
            ({"key": "k", "within": "60"}, TypeError, r"^Unique\.within must be a number"),
            ({"key": "k", "within": float("nan")}, ValueError, r"^Unique\.within"),
            ({"key": "k", "until": "never"}, ValueError, r"^Unique\.until must be one of started,"),
            ({"key": "k", "then": "drop"}, ValueError, r"^Unique\.then must be one of skip, rep"),
            ({"key": "k", "max_wait": 5}, ValueError, r'^Unique\.max_wait is for then="replace"'),
            (
                {"key": "k", "then": "replace", "max_wait": -1},
                ValueError,
                r"^Unique\.max_wait must",
            ),
        ],
    )
    def test_what_makes_no_sense(self, arguments: Any, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            Unique(**arguments)

    def test_a_key_is_given_as_a_unique(self) -> None:
        with pytest.raises(TypeError, match=r"^Job\.unique must be a Unique, not str"):
            Job(unique="page")  # type: ignore[arg-type]

    def test_for_how_long_by_default(self) -> None:
        assert Unique("k").until == "ended"
        assert Unique("k", then="replace").until == "started"
        assert Unique("k", within=1).until is None


class KeyedByPayload:
    """As middleware: of jobs with the same payload one is enough."""

    def __call__(self, job: Job, call_next: CallNext) -> object:
        return call_next(job)

    def before_enqueue(self, job: Job) -> Job:
        return dataclasses.replace(job, unique=Unique(str(job.payload), within=A_DAY))


class TestMap:
    """Its jobs may have keys, by ``before_enqueue``: what is there already has the result."""

    def test_each_payload_gets_the_result_of_the_job_with_its_key(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(lambda job: job.payload * 10, middleware=[KeyedByPayload()])
        queue.wait(queue.enqueue(Job(payload=3)), DEADLINE)
        results = queue.map([1, 2, 1, 3, 1], timeout=DEADLINE)
        assert list(results) == [10, 20, 10, 30, 10]
        assert queue.metrics().accepted == 3

    def test_who_stops_early_cancels_no_job_of_others(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload, middleware=[KeyedByPayload()])
        queue.pause(kind="theirs")
        theirs = queue.enqueue(Job(payload=2, kind="theirs"))
        results = queue.map([1, 2, 3], timeout=DEADLINE)
        assert next(iter(results)) == 1
        results.close()  # type: ignore[attr-defined]
        assert queue.status(theirs) is Status.QUEUED
