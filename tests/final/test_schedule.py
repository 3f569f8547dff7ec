"""Scheduled jobs: not before their time, not lost, and whatever somebody does to the clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from final import Job, JobQueue, Priority, QueueFull, Status
from final.engine.messages import Message
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from final.workers.batch import Batch
from tests.final import inside
from tests.final.engine import Engine, jobs, report
from tests.final.helpers import (
    HeldUp,
    OpenQueue,
    child,
    completes,
    fall_due,
    in_file,
    next_line,
    nothing,
)
from tests.helpers import DEADLINE, Background, Gate

SOON = 0.05  # seconds
HOUR = 3600.0


class TestWhen:
    def test_a_delay_is_in_seconds(self, open_queue: OpenQueue) -> None:
        started: list[float] = []
        queue = open_queue(lambda job: started.append(time.monotonic()))
        began = time.monotonic()
        queue.wait(queue.enqueue(Job(run_at=SOON)), DEADLINE)
        assert started[0] - began >= SOON - 0.005  # two clocks: wall and monotonic

    @pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7))])
    def test_a_datetime_means_what_it_says_wherever_it_is(
        self, open_queue: OpenQueue, zone: timezone
    ) -> None:
        queue = open_queue(nothing)
        at = datetime.now(zone) + timedelta(hours=1)
        queue.enqueue(Job("x", run_at=at))
        assert queue.get("x").due_at == pytest.approx(at.timestamp())
        assert queue.status("x") is Status.SCHEDULED

    def test_it_runs_when_a_datetime_has_come(self, open_queue: OpenQueue) -> None:
        started: list[float] = []
        queue = open_queue(lambda job: started.append(time.time()))
        at = datetime.now(UTC) + timedelta(seconds=SOON)
        queue.wait(queue.enqueue(Job(run_at=at)), DEADLINE)
        assert started[0] >= at.timestamp() - 0.005

    @pytest.mark.parametrize(
        "past", [0, 0.0, datetime(1970, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC)]
    )
    def test_a_time_that_has_passed_means_at_once(self, open_queue: OpenQueue, past: Any) -> None:
        queue = open_queue(nothing)
        record = queue.wait(queue.enqueue(Job(run_at=past)), DEADLINE)
        assert (record.status, record.due_at) == (Status.COMPLETED, None)

    def test_and_then_it_needs_room(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1, capacity=1)
        queue.enqueue_many([Job("runs"), Job("waits")])
        with pytest.raises(QueueFull):
            queue.enqueue(Job(run_at=0), timeout=0)

    @pytest.mark.parametrize(
        "far",
        [
            datetime(9999, 12, 31, 23, 59, 59, 999_900, UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=12))),
            1_000 * 365 * 24 * HOUR,
        ],
    )
    def test_a_time_that_will_never_come_stops_nothing(
        self, open_queue: OpenQueue, far: Any
    ) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("x", run_at=far))
        assert completes(queue)
        record = queue.get("x")
        assert record.status is Status.SCHEDULED
        assert record.due_at
        assert datetime.fromtimestamp(record.due_at, UTC) > datetime(2500, 1, 1, tzinfo=UTC)

    def test_the_soonest_runs_first(self, open_queue: OpenQueue) -> None:
        ran: list[str] = []
        queue = open_queue(lambda job: ran.append(job.id), workers=1)
        delays = {"third": 3 * SOON, "first": SOON, "second": 2 * SOON}
        queue.enqueue_many([Job(name, run_at=delay) for name, delay in delays.items()])
        queue.wait("third", DEADLINE)
        assert ran == ["first", "second", "third"]


class TestWhenTheClockIsSet:
    """The same as in TestClockJumps, in a queue with threads."""

    @pytest.fixture
    def ahead(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """By how many seconds the wall clock is."""
        ahead, time_of_the_machine = [0.0], time.time
        monkeypatch.setattr(time, "time", lambda: time_of_the_machine() + ahead[0])
        return ahead

    def test_forward_over_the_time_of_a_job(
        self, open_queue: OpenQueue, ahead: list[float]
    ) -> None:
        queue = open_queue(nothing)
        nine = datetime.now(UTC) + timedelta(hours=8)
        queue.enqueue_many([Job("at nine", run_at=nine), Job("in 8 hours", run_at=8 * HOUR)])
        ahead[0] += 9 * HOUR
        assert queue.wait("at nine", DEADLINE).status is Status.COMPLETED
        assert queue.status("in 8 hours") is Status.SCHEDULED

    def test_back_before_the_time_of_a_job(self, open_queue: OpenQueue, ahead: list[float]) -> None:
        queue = open_queue(nothing)

        def set_back(moves: Sequence[Move]) -> None:
            if any(move.target is Status.SCHEDULED for move in moves):  # before any of them is due
                ahead[0] -= HOUR

        inside.before_each_commit(queue, set_back)
        soon = datetime.now(UTC) + timedelta(seconds=10 * SOON)
        queue.enqueue_many([Job("at", run_at=soon), Job("in", run_at=11 * SOON)])
        assert queue.wait("in", DEADLINE).status is Status.COMPLETED
        assert queue.status("at") is Status.SCHEDULED


class TestBadValues:
    def test_a_datetime_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Job.run_at must be an aware datetime: say which "):
            Job(run_at=datetime(2030, 1, 1))

    def test_nor_does_a_zone_help_that_does_not_know(self) -> None:
        class Nowhere(tzinfo):
            def utcoffset(self, when: datetime | None) -> None:
                return None

            tzname = dst = utcoffset

        with pytest.raises(ValueError, match=r"Job.run_at must be an aware datetime: say which "):
            Job(run_at=datetime(2030, 1, 1, tzinfo=Nowhere()))

    @pytest.mark.parametrize(
        "far",
        [
            datetime.max.replace(tzinfo=UTC),
            datetime.max.replace(microsecond=999_990, tzinfo=UTC),
            datetime.max.replace(hour=12, tzinfo=timezone(timedelta(hours=-12))),
        ],
        ids=str,
    )
    def test_what_no_record_could_show_is_refused(self, far: datetime) -> None:
        with pytest.raises(ValueError, match=r"Job.run_at, 9999-12-31 .*, is too far away: "):
            Job(run_at=far)

    @pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("inf"), 1e11, 1e300])
    def test_a_delay_that_makes_no_sense_is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"Job.run_at, a delay in seconds, must be"):
            Job(run_at=value)

    @pytest.mark.parametrize("value", ["tomorrow", True, timedelta(1), datetime.now(UTC).date()])
    def test_what_is_no_time_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match=r"Job.run_at must be a datetime or a delay in seconds"):
            Job(run_at=value)


class TestMeanwhile:
    def test_it_is_scheduled_and_counted_so(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue_many([Job("a", run_at=HOUR), Job("b", run_at=HOUR), Job("c")])
        queue.wait("c", DEADLINE)
        counts = queue.metrics()
        assert (counts.scheduled, counts.queued, counts.accepted) == (2, 0, 3)
        assert [record.id for record in queue.jobs(Status.SCHEDULED)] == ["b", "a"]

    def test_nobody_waits_for_it(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path)
        queue.enqueue_many([Job("x", run_at=HOUR), Job("y")])
        queue.join(DEADLINE)
        assert queue.status("y") is Status.COMPLETED
        assert Background(queue.close).result() is True
        assert in_file(path, "id, status") == [("x", "scheduled"), ("y", "completed")]

    def test_it_takes_no_room_and_comes_into_a_full_lane(self, held_up: HeldUp, gate: Gate) -> None:
        queue, _ = held_up(capacity=2, overflow="reject")
        queue.enqueue_many([Job("a"), Job("b"), *(Job(run_at=0.001) for _ in range(5))])
        while (counts := queue.metrics()).scheduled:
            pass
        assert (counts.queued, counts.scheduled) == (7, 0)
        gate.open()
        queue.join(DEADLINE)
        assert queue.metrics().completed == 8

    def test_it_comes_to_the_back_of_its_lane(self, held_up: HeldUp, gate: Gate) -> None:
        queue, ran = held_up()
        queue.enqueue_many([Job("x", run_at=0.001), Job("y")])
        while queue.metrics().scheduled:
            pass
        gate.open()
        queue.join(DEADLINE)
        assert ran.entries == ["holder", "y", "x"]


class TestWhatTheHandlerSees:
    @pytest.mark.parametrize("payload", ["text", ["a list"]])
    def test_a_job_without_a_time_fresh_or_recovered(
        self, open_queue: OpenQueue, path: str, payload: object
    ) -> None:
        """Whether or not it is the very object that was enqueued."""
        seen: list[Job] = []
        job = Job("fresh", payload, Priority.HIGH, run_at=0.001, timeout=HOUR)
        other = replace(job, id="recovered", run_at=0.5)
        with open_queue(seen.append, path=path) as queue:
            queue.enqueue_many([job, other])
            queue.wait("fresh", DEADLINE)
            queue.close(drain=False)
        open_queue(seen.append, path=path).wait("recovered", DEADLINE)
        assert seen == [replace(job, run_at=None), replace(other, run_at=None)]


class TestAfterARestart:
    def test_it_keeps_its_time(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("x", run_at=HOUR))
            due_at = queue.get("x").due_at
        queue = open_queue(nothing, path=path)
        assert completes(queue)
        record = queue.get("x")
        assert (record.status, record.due_at) == (Status.SCHEDULED, due_at)
        assert queue.metrics().scheduled == 1

    def test_one_whose_time_came_meanwhile_runs_at_once(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue({"other": nothing}, path=path) as queue:
            queue.enqueue(Job("x", kind="other", run_at=0.001))
            queue.close(drain=False)
        queue = open_queue({"other": nothing}, path=path)
        assert queue.wait("x", DEADLINE).attempts == 1

    def test_a_file_that_takes_long_to_open_makes_nothing_early(
        self, open_queue: OpenQueue, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("x", run_at=HOUR))
        fall_due(path, 0.4)
        [due_at] = in_file(path, "due_at")
        take_over = SqliteFile._take_over

        def slowly(file: SqliteFile) -> None:
            time.sleep(0.2)  # checking a large file
            take_over(file)

        monkeypatch.setattr(SqliteFile, "_take_over", slowly)
        started: list[float] = []
        queue = open_queue(lambda job: started.append(time.time()), path=path)
        queue.wait("x", DEADLINE)
        assert started[0] >= due_at - 0.005

    def test_kill_9_does_not_lose_it(self, open_queue: OpenQueue, path: str) -> None:
        with child("schedule", path) as process:
            due_at = float(next_line(process))
        queue = open_queue(nothing, path=path)
        assert queue.get("x").due_at == due_at
        assert queue.wait("x", DEADLINE).started_at is not None
        started_at = queue.get("x").started_at
        assert started_at is not None
        assert started_at >= due_at - 0.005


class Clocks(Engine):
    """An engine whose jobs take no time, in a world with two clocks."""

    def __init__(self, path: str) -> None:
        self.ran: list[tuple[str, float]] = []
        self.fails = False
        super().__init__(path)

    def deliver(self, batch: Batch) -> None:
        super().deliver(batch)
        self.ran += [(task.id, self.now) for task in batch.claimed]

    def turn(self, *messages: Message, later: float = 0.0) -> None:
        """A turn, and others for as long as they have work."""
        super().turn(*messages, later=later)
        while self.batches or self.dispatcher._again:
            reports = [report(batch, failed=self.fails) for batch in self.batches]
            self.batches.clear()
            super().turn(*reports)

    def schedule(self, job_id: str, delay: float, by_clock: bool = False) -> None:
        """by_clock: as a datetime."""
        request = jobs(job_id)
        [task] = request.tasks
        task.due_at, task.by_clock = self.wall + delay, by_clock
        self.turn(request)


@pytest.fixture
def clocks(path: str) -> Iterator[Clocks]:
    clocks = Clocks(path)
    yield clocks
    clocks.crash()


class TestClockJumps:
    @pytest.mark.parametrize("jump", [-10 * 365 * 24 * HOUR, -HOUR, -1.0, 1.0, HOUR, 24 * HOUR])
    def test_a_job_runs_after_its_delay_whatever_the_wall_clock_does(
        self, clocks: Clocks, jump: float
    ) -> None:
        clocks.schedule("x", 100.0)
        clocks.turn(later=50.0)
        clocks.ahead += jump
        clocks.turn()
        clocks.turn(later=49.0)
        assert clocks.ran == []
        assert clocks.sleeps() == pytest.approx(1.0)
        clocks.turn(later=1.0)
        assert clocks.ran == [("x", 100.0)]

    @pytest.mark.parametrize("jump", [-10 * 365 * 24 * HOUR, -HOUR, -0.01, 0.01, 30.0])
    def test_a_datetime_is_a_time_of_the_wall_clock_whatever_that_does(
        self, clocks: Clocks, jump: float
    ) -> None:
        clocks.schedule("x", 100.0, by_clock=True)
        clocks.turn(later=50.0)
        clocks.ahead += jump
        clocks.turn(later=50.0 - jump - 0.001)
        assert clocks.ran == []
        assert clocks.sleeps() == pytest.approx(0.001, rel=0.01)
        clocks.turn(later=0.002)
        assert [job_id for job_id, _ in clocks.ran] == ["x"]

    @pytest.mark.parametrize("datetime_first", [False, True])
    def test_those_that_are_due_in_one_turn_run_in_the_order_of_their_times(
        self, clocks: Clocks, datetime_first: bool
    ) -> None:
        clocks.schedule("a datetime", 9.0 if datetime_first else 10.0, by_clock=True)
        clocks.schedule("a delay", 10.0 if datetime_first else 9.0)
        clocks.turn(later=11.0)
        order = ["a delay", "a datetime"]
        assert [job_id for job_id, _ in clocks.ran] == order[:: -1 if datetime_first else 1]

    def test_one_that_the_clock_jumps_over_runs_within_a_second(self, clocks: Clocks) -> None:
        """A machine that was suspended: its monotonic clock stood still, and nobody tells us."""
        clocks.schedule("x", 8 * HOUR, by_clock=True)
        assert clocks.sleeps() == 1.0
        clocks.ahead += 9 * HOUR
        clocks.turn(later=1.0)
        assert clocks.ran == [("x", 1.0)]
        assert clocks.sleeps() is None  # and only while such a job waits

    def test_it_keeps_the_time_that_it_was_asked_for_in_the_next_process_too(
        self, clocks: Clocks
    ) -> None:
        clocks.schedule("x", 100.0, by_clock=True)
        clocks.crash()
        clocks.open()
        clocks.ahead -= 50.0
        clocks.turn(later=149.0)
        assert clocks.ran == []
        clocks.turn(later=1.0)
        assert clocks.ran == [("x", 150.0)]

    def test_its_retries_wait_for_as_long_as_any(self, clocks: Clocks) -> None:
        clocks.schedule("x", 100.0, by_clock=True)
        clocks.fails = True
        clocks.turn(later=100.0)
        clocks.ahead += HOUR
        clocks.turn(later=0.5)
        assert len(clocks.ran) == 1
        assert clocks.sleeps() == pytest.approx(0.5)
        clocks.turn(later=0.5)
        assert len(clocks.ran) == 2

    def test_a_clock_that_jumps_all_the_time_loses_and_repeats_nothing(
        self, clocks: Clocks
    ) -> None:
        jumps = itertools.cycle([HOUR, -2 * HOUR, 17.0, -0.5, HOUR])
        for n in range(50):
            clocks.schedule(str(n), 1.0 + n % 7, by_clock=n % 2 == 0)
            clocks.ahead += next(jumps)
            clocks.turn(later=0.25)
        clocks.turn(later=3 * HOUR)
        assert sorted(job_id for job_id, _ in clocks.ran) == sorted(str(n) for n in range(50))
        counts = clocks.metrics()
        assert (counts.completed, counts.scheduled) == (50, 0)

    def test_a_clock_that_was_set_back_between_two_starts_delays_and_loses_nothing(
        self, clocks: Clocks
    ) -> None:
        """All that is stored is wall time: a job keeps the hour that it was asked for."""
        clocks.schedule("x", 100.0)
        clocks.crash()
        clocks.ahead -= 50.0
        clocks.open()
        clocks.turn(later=149.0)
        assert clocks.ran == []
        clocks.turn(later=1.0)
        assert [job_id for job_id, _ in clocks.ran] == ["x"]

    def test_one_that_was_set_forward_between_two_starts_runs_it_at_once(
        self, clocks: Clocks
    ) -> None:
        clocks.schedule("x", 100.0)
        clocks.crash()
        clocks.ahead += HOUR
        clocks.open()
        clocks.turn()
        assert [job_id for job_id, _ in clocks.ran] == ["x"]


def test_metrics_never_show_a_job_twice_or_not_at_all(open_queue: OpenQueue) -> None:
    queue: JobQueue = open_queue(nothing)
    queue.enqueue_many([Job(run_at=n / 1000) for n in range(100)])
    while True:
        counts = queue.metrics()
        parts = (counts.queued, counts.scheduled, counts.processing, counts.completed)
        assert min(parts) >= 0
        assert sum(parts) == counts.accepted == 100
        if counts.completed == 100:
            break
