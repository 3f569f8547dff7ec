"""Overflow: what a full lane does with one job too many, and that no count loses sight of it."""

from __future__ import annotations

import logging

import pytest

from final import DuplicateJob, Job, JobQueue, Priority, QueueFull, Status
from tests.final.helpers import HeldUp, OpenQueue, in_file, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal

HIGH, MEDIUM, LOW = Priority
CAPACITY = 3
MODES = ("block", "reject", "drop-newest", "drop-oldest")


@pytest.fixture
def held_up(held_up: HeldUp, path: str) -> OpenQueue:
    """The queue alone, on a file, with lanes that are soon full."""

    def open_held_up(**options: object) -> JobQueue:
        queue, _ = held_up(path=path, capacity=CAPACITY, **options)
        return queue

    return open_held_up


def jobs(*names: str, priority: Priority = MEDIUM) -> list[Job]:
    return [Job(name, priority=priority) for name in names]


def ids(queue: JobQueue, status: Status) -> list[str]:
    """The jobs of that status, oldest first."""
    return [record.id for record in reversed(queue.jobs(status))]


def adds_up(queue: JobQueue) -> bool:
    counts = queue.metrics()
    return all(
        c.accepted
        == sum([c.queued, c.scheduled, c.processing, c.retrying])
        + sum([c.completed, c.failed, c.cancelled, c.dropped])
        for c in (counts, *counts.by_priority.values())
    )


class TestBlock:
    def test_the_producer_waits_for_room(self, held_up: OpenQueue, gate: Gate) -> None:
        queue = held_up(overflow="block")
        queue.enqueue_many(jobs("a", "b", "c"))
        producer = Background(queue.enqueue, Job("d"))
        with pytest.raises(QueueFull):  # somebody who came later and gave up: no room so far
            queue.enqueue(Job("e"), timeout=0.01)
        gate.open()
        assert producer.result() == "d"
        queue.join(DEADLINE)
        assert ids(queue, Status.COMPLETED) == ["holder", "a", "b", "c", "d"]

    def test_more_jobs_than_fit_go_in_bit_by_bit(self, held_up: OpenQueue, gate: Gate) -> None:
        queue = held_up(overflow="block")
        producer = Background(queue.enqueue_many, [Job() for _ in range(10 * CAPACITY)])
        gate.open()
        assert len(producer.result()) == 10 * CAPACITY
        queue.join(DEADLINE)
        assert queue.metrics().completed == 10 * CAPACITY + 1


class TestReject:
    def test_a_full_lane_refuses_at_once_whatever_the_timeout(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="reject")
        queue.enqueue_many(jobs("a", "b", "c"))
        with pytest.raises(QueueFull, match=r"medium lane had no room .*\(capacity 3\)") as refused:
            Background(queue.enqueue, Job("d"), DEADLINE * 100).result()
        assert refused.value.accepted == []
        assert queue.metrics().accepted == 4

    def test_more_jobs_than_fit_are_refused_from_the_first_without_room(
        self, held_up: OpenQueue
    ) -> None:
        queue = held_up(overflow="reject")
        with pytest.raises(QueueFull) as refused:
            queue.enqueue_many(jobs("a", "b", "c", "d", "e"))
        assert refused.value.accepted == ["a", "b", "c"]
        assert ids(queue, Status.QUEUED) == ["a", "b", "c"]

    def test_more_jobs_than_a_turn_takes_are_refused_for_room_alone(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(nothing, overflow="reject", capacity=1_700)
        queue.pause()
        assert len(queue.enqueue_many([Job() for _ in range(1_200)])) == 1_200
        with pytest.raises(QueueFull) as refused:
            queue.enqueue_many([Job() for _ in range(1_200)])
        assert len(refused.value.accepted) == 500
        assert len(queue.enqueue_many([Job(run_at=3600.0) for _ in range(1_200)])) == 1_200

    def test_so_do_many_producers_at_once(self, open_queue: OpenQueue) -> None:
        """They share the turns; nobody has the room of another."""
        queue = open_queue(nothing, overflow="reject", capacity=8_000)
        queue.pause()
        producers = [
            Background(queue.enqueue_many, [Job() for _ in range(1_000)]) for _ in range(8)
        ]
        assert [len(producer.result()) for producer in producers] == [1_000] * 8

    def test_the_other_lanes_still_have_room(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="reject")
        queue.enqueue_many(jobs("a", "b", "c"))
        assert queue.enqueue(Job("urgent", priority=HIGH)) == "urgent"

    def test_nothing_is_dropped(self, held_up: OpenQueue, gate: Gate) -> None:
        queue = held_up(overflow="reject")
        with pytest.raises(QueueFull):
            queue.enqueue_many(jobs("a", "b", "c", "d"))
        gate.open()
        queue.join(DEADLINE)
        assert (queue.metrics().completed, queue.metrics().dropped) == (4, 0)


class TestDropNewest:
    def test_what_finds_no_room_is_dropped_and_its_status_says_so(
        self, held_up: OpenQueue, gate: Gate
    ) -> None:
        queue = held_up(overflow="drop-newest")
        assert queue.enqueue_many(jobs("a", "b", "c", "d", "e")) == ["a", "b", "c", "d", "e"]
        assert ids(queue, Status.DROPPED) == ["d", "e"]
        record = queue.get("d")
        assert (record.status, record.attempts, record.started_at) == (Status.DROPPED, 0, None)
        assert record.ended_at is not None
        gate.open()
        queue.join(DEADLINE)
        assert ids(queue, Status.COMPLETED) == ["holder", "a", "b", "c"]

    def test_a_job_behind_a_dropped_one_may_fit_into_another_lane(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-newest")
        queue.enqueue_many(jobs("a", "b", "c", "d") + jobs("urgent", priority=HIGH) + jobs("e"))
        assert ids(queue, Status.QUEUED) == ["a", "b", "c", "urgent"]
        assert ids(queue, Status.DROPPED) == ["d", "e"]

    def test_its_id_is_taken(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-newest")
        queue.enqueue_many(jobs("a", "b", "c", "d"))
        for job_id in ("a", "d"):  # one that waits, and one that was dropped
            with pytest.raises(DuplicateJob, match=f"Already in the queue: {job_id}"):
                queue.enqueue(Job(job_id))
        assert queue.metrics().dropped == 1


class TestDropOldest:
    def test_the_oldest_jobs_make_room_for_new_ones(self, held_up: OpenQueue, gate: Gate) -> None:
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many(jobs("a", "b", "c"))
        assert queue.enqueue_many(jobs("d", "e")) == ["d", "e"]
        assert ids(queue, Status.DROPPED) == ["a", "b"]
        gate.open()
        queue.join(DEADLINE)
        assert ids(queue, Status.COMPLETED) == ["holder", "c", "d", "e"]

    def test_a_dropped_job_has_ended_without_a_start(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many(jobs("a", "b", "c", "d"))
        record = queue.get("a")
        assert record.started_at is None
        assert record.ended_at is not None
        assert record.ended_at >= record.enqueued_at

    def test_only_jobs_of_the_same_lane_are_dropped(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many(jobs("low", "low too", "low again", priority=LOW))
        queue.enqueue_many(jobs("a", "b", "c"))
        queue.enqueue(Job("d"))
        assert ids(queue, Status.DROPPED) == ["a"]

    def test_of_more_jobs_than_fit_the_last_ones_stay(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-oldest")
        names = [str(n) for n in range(4 * CAPACITY)]
        assert queue.enqueue_many(jobs(*names)) == names
        assert ids(queue, Status.QUEUED) == names[-CAPACITY:]
        assert ids(queue, Status.DROPPED) == names[:-CAPACITY]

    def test_nobody_waits_whatever_the_timeout(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-oldest")
        names = [str(n) for n in range(4 * CAPACITY)]
        assert queue.enqueue_many(jobs(*names), timeout=0) == names

    def test_a_running_job_is_not_dropped(self, held_up: OpenQueue, gate: Gate) -> None:
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many([Job() for _ in range(4 * CAPACITY)])
        assert queue.status("holder") is Status.PROCESSING
        gate.open()
        assert queue.wait("holder", DEADLINE).status is Status.COMPLETED

    def test_a_scheduled_job_needs_no_room_and_drops_nothing(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many(jobs("a", "b", "c"))
        queue.enqueue_many([Job("d"), Job("later", run_at=3600), Job("even later", run_at=7200)])
        assert ids(queue, Status.DROPPED) == ["a"]
        assert ids(queue, Status.SCHEDULED) == ["later", "even later"]

    @pytest.mark.parametrize("again", ["a", "c", "holder"])
    def test_a_job_that_is_refused_drops_nothing(self, held_up: OpenQueue, again: str) -> None:
        """Enqueueing an id again is how a client retries safely: it must not cost a job."""
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many(jobs("a", "b", "c"))
        with pytest.raises(DuplicateJob):
            queue.enqueue(Job(again))
        assert ids(queue, Status.QUEUED) == ["a", "b", "c"]
        assert queue.metrics().dropped == 0


class TestCounting:
    @pytest.mark.parametrize("overflow", MODES)
    def test_the_counts_add_up_in_every_lane(
        self, held_up: OpenQueue, overflow: str, gate: Gate
    ) -> None:
        queue = held_up(overflow=overflow)
        for n in range(20):
            lane = list(Priority)[n % 3]
            try:
                queue.enqueue_many([Job(priority=lane), Job(priority=lane)], timeout=0)
            except QueueFull:
                assert overflow in ("block", "reject")
            assert adds_up(queue)
        gate.open()
        queue.join(DEADLINE)
        counts = queue.metrics()
        assert adds_up(queue)
        assert counts.completed == 3 * CAPACITY + 1
        assert counts.dropped == (40 - 3 * CAPACITY if overflow.startswith("drop") else 0)

    @pytest.mark.parametrize("overflow", ["drop-newest", "drop-oldest"])
    def test_drops_are_counted_by_priority(self, held_up: OpenQueue, overflow: str) -> None:
        queue = held_up(overflow=overflow)
        for lane, excess in ((HIGH, 1), (MEDIUM, 2), (LOW, 5)):
            queue.enqueue_many([Job(priority=lane) for _ in range(CAPACITY + excess)])
        by_priority = queue.metrics().by_priority
        assert [by_priority[lane].dropped for lane in Priority] == [1, 2, 5]
        assert queue.metrics().dropped == 8

    @pytest.mark.parametrize("overflow", ["drop-newest", "drop-oldest"])
    def test_drops_are_logged(
        self, held_up: OpenQueue, overflow: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = held_up(overflow=overflow)
        queue.enqueue_many(jobs("a", "b", "c"))
        queue.enqueue_many(jobs("d", "e"))
        Background(queue.close, False, 0).result()  # then all of the log is written
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert [line for line in warnings if "dropped" in line] == ["2 jobs dropped: no room"]


class TestAfterwards:
    def test_waiting_for_a_job_that_is_dropped_ends(self, held_up: OpenQueue) -> None:
        queue = held_up(overflow="drop-oldest")
        queue.enqueue_many(jobs("a", "b", "c"))
        waiting = Background(queue.wait, "a")
        queue.enqueue(Job("d"))
        assert waiting.result().status is Status.DROPPED
        assert queue.wait("a", 0).status is Status.DROPPED

    @pytest.mark.parametrize("overflow", ["drop-newest", "drop-oldest"])
    def test_dropped_jobs_stay_dropped_after_a_restart(
        self, held_up: OpenQueue, open_queue: OpenQueue, path: str, overflow: str, gate: Gate
    ) -> None:
        queue = held_up(overflow=overflow)
        queue.enqueue_many([Job() for _ in range(CAPACITY + 2)])
        dropped = ids(queue, Status.DROPPED)
        assert len(dropped) == 2
        gate.open()
        assert Background(queue.close).result() is True

        queue = open_queue(nothing, path=path)
        queue.join(DEADLINE)
        assert ids(queue, Status.DROPPED) == dropped
        assert queue.metrics().dropped == 2
        assert adds_up(queue)
        queue.close()
        assert in_file(path, "status").count("dropped") == 2

    def test_a_lane_over_its_capacity_makes_room_too(
        self, held_up: OpenQueue, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """Recovered jobs come on top of the capacity: then more than one has to go."""
        queue = held_up()
        queue.enqueue_many(jobs("a", "b", "c"))
        Background(queue.close, False, 0).result()
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path, workers=1, capacity=1, overflow="drop-oldest")
        started.wait_for("holder")
        queue.enqueue(Job("d"))
        assert ids(queue, Status.DROPPED) == ["a", "b", "c"]
        assert ids(queue, Status.QUEUED) == ["d"]


def test_an_unknown_policy_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        ValueError,
        match=r"overflow must be one of block, reject, drop-newest, drop-oldest, not 'drop'\.",
    ):
        JobQueue(nothing, overflow="drop")  # type: ignore[arg-type]
