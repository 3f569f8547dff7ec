"""Events: subscribers hear of every change, in order; what they do harms nobody."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from final import Job, JobQueue, Priority, Status, Transition, current_job
from final.engine import courier
from tests.final.helpers import AT_ONCE, OpenQueue, completes, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal

QUEUED, PROCESSING = Status.QUEUED, Status.PROCESSING


class Listener(Journal):
    """A subscriber that keeps what it hears."""

    def __call__(self, transition: Transition) -> None:
        self.write(transition)

    def of(self, job_id: str) -> list[tuple[Status, int]]:
        """What it heard of a job: each status, and the attempts so far."""
        return [(t.status, t.attempts) for t in self.entries if t.job_id == job_id]


@pytest.fixture
def listener() -> Listener:
    return Listener()


def heard_all(queue: JobQueue) -> None:
    """Closing delivers what waits."""
    assert Background(queue.close).result() is True


class TestLives:
    def test_of_a_job_that_completes(self, open_queue: OpenQueue, listener: Listener) -> None:
        queue = open_queue({"mail": nothing})
        queue.subscribe(listener)
        before = time.time()
        queue.enqueue(Job("x", kind="mail", priority=Priority.HIGH))
        heard_all(queue)
        assert listener.of("x") == [(QUEUED, 0), (PROCESSING, 1), (Status.COMPLETED, 1)]
        for transition in listener.entries:
            assert (transition.kind, transition.priority) == ("mail", Priority.HIGH)
            assert transition.error is None
            assert before - 1 <= transition.at <= time.time() + 1

    def test_of_a_job_that_is_tried_again(self, open_queue: OpenQueue, listener: Listener) -> None:
        def handler(job: Job) -> None:
            raise ValueError(f"attempt {current_job().attempt}")

        queue = open_queue(handler, max_retries=1, backoff=AT_ONCE)
        queue.subscribe(listener)
        queue.enqueue(Job("x"))
        heard_all(queue)
        assert listener.of("x") == [
            *[(QUEUED, 0), (PROCESSING, 1), (Status.RETRYING, 1)],
            *[(QUEUED, 1), (PROCESSING, 2), (Status.FAILED, 2)],
        ]
        errors = [transition.error for transition in listener.entries]
        assert errors == [None, None, "ValueError: attempt 1", None, None, "ValueError: attempt 2"]

    def test_of_a_scheduled_and_of_a_cancelled_one(
        self, open_queue: OpenQueue, listener: Listener
    ) -> None:
        queue = open_queue(nothing)
        queue.subscribe(listener)
        queue.enqueue_many([Job("x", run_at=0.001), Job("y", run_at=3600)])
        queue.cancel("y")
        queue.wait("x", DEADLINE)
        heard_all(queue)
        assert listener.of("x") == [
            *[(Status.SCHEDULED, 0), (QUEUED, 0), (PROCESSING, 1), (Status.COMPLETED, 1)]
        ]
        assert listener.of("y") == [(Status.SCHEDULED, 0), (Status.CANCELLED, 0)]

    def test_of_a_dead_letter_with_another_chance(
        self, open_queue: OpenQueue, listener: Listener
    ) -> None:
        def handler(job: Job) -> None:
            if len(listener.of("x")) < 3:
                raise ValueError("once")

        queue = open_queue(handler, max_retries=0)
        queue.subscribe(listener)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        listener.wait_for_count(3)
        queue.retry("x")
        heard_all(queue)
        assert [status for status, _ in listener.of("x")] == [
            *[QUEUED, PROCESSING, Status.FAILED, QUEUED, PROCESSING, Status.COMPLETED]
        ]

    @pytest.mark.parametrize("overflow", ["drop-newest", "drop-oldest"])
    def test_of_dropped_ones(
        self, open_queue: OpenQueue, listener: Listener, overflow: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1, capacity=1, overflow=overflow)
        queue.enqueue(Job("holder"))
        started.wait_for("holder")
        queue.subscribe(listener)
        queue.enqueue(Job("a"))
        queue.enqueue(Job("b"))
        gate.open()
        heard_all(queue)
        old, new = [(QUEUED, 0), (Status.DROPPED, 0)], [(Status.DROPPED, 0)]
        dropped, expected = ("a", old) if overflow == "drop-oldest" else ("b", new)
        assert listener.of(dropped) == expected

    def test_of_many_jobs_nothing_is_missing_and_the_order_is_right(
        self, open_queue: OpenQueue, listener: Listener
    ) -> None:
        queue = open_queue(nothing)
        queue.subscribe(listener)
        ids = queue.enqueue_many([Job() for _ in range(500)])
        heard_all(queue)
        lives: dict[str, list[Status]] = {}
        for transition in listener.entries:
            lives.setdefault(transition.job_id, []).append(transition.status)
        assert list(lives) == ids
        for life in lives.values():
            # Handed back and out again, if its worker's batch took too long; else just these.
            assert life[:2] == [QUEUED, PROCESSING]
            assert life[-2:] == [PROCESSING, Status.COMPLETED]

    def test_what_is_heard_can_be_looked_up(self, open_queue: OpenQueue) -> None:
        """The news come after the change is durable, never before."""
        statuses = Journal()
        queue = open_queue(nothing)
        queue.subscribe(lambda t: statuses.write((t.status, queue.status(t.job_id))))
        queue.wait(queue.enqueue(Job()), DEADLINE)
        statuses.wait_for_count(3)
        order = [QUEUED, PROCESSING, Status.COMPLETED]
        for heard, found in statuses.entries:
            assert order.index(found) >= order.index(heard)


class TestBadSubscribers:
    def test_one_that_raises_is_logged_and_the_others_go_on(
        self, open_queue: OpenQueue, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(transition: Transition) -> None:
            raise ZeroDivisionError

        queue = open_queue(nothing)
        queue.subscribe(broken)
        queue.subscribe(listener)
        queue.enqueue(Job("x"))
        heard_all(queue)
        assert len(listener.of("x")) == 3
        errors = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert len(errors) == 3
        assert errors[0].getMessage().startswith("A subscriber raised on Transition(job_id='x'")
        assert errors[0].exc_info is not None

    def test_a_slow_one_holds_up_nothing(
        self, open_queue: OpenQueue, listener: Listener, gate: Gate
    ) -> None:
        def slow(transition: Transition) -> None:
            gate.wait()
            listener(transition)

        queue = open_queue(nothing)
        queue.subscribe(slow)
        queue.enqueue_many([Job() for _ in range(300)])
        queue.join(DEADLINE)
        assert queue.metrics().completed == 300
        assert listener.entries == []
        gate.open()
        heard_all(queue)
        assert len(listener.entries) >= 900
        assert queue.metrics().missed_events == 0

    def test_one_that_is_too_slow_misses_some_and_they_are_counted(
        self,
        open_queue: OpenQueue,
        listener: Listener,
        gate: Gate,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(courier, "BACKLOG", 2)
        reached = Journal()

        def slow(transition: Transition) -> None:
            reached.write("reached")
            gate.wait()
            listener(transition)

        queue = open_queue(nothing)
        queue.subscribe(slow)
        queue.enqueue(Job())
        reached.wait_for("reached")  # the first news is taken; from here on they pile up
        for _ in range(10):
            assert completes(queue)
        assert queue.metrics().missed_events > 0
        gate.open()
        heard_all(queue)
        assert len(listener.entries) + queue.metrics().missed_events == 33

    def test_one_that_hangs_does_not_hang_closing(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(nothing)
        queue.subscribe(lambda transition: gate.wait())
        queue.enqueue(Job())
        assert Background(queue.close).result() is True

    def test_one_may_use_the_queue(self, open_queue: OpenQueue) -> None:
        """Nothing waits for it, so it may wait for anything."""
        ran = Journal()

        def follow_up(transition: Transition) -> None:
            if (transition.job_id, transition.status) == ("first", Status.COMPLETED):
                queue.wait(queue.enqueue(Job("second")), DEADLINE)
                ran.write(queue.metrics().completed)

        queue = open_queue(nothing)
        queue.subscribe(follow_up)
        queue.enqueue(Job("first"))
        ran.wait_for(2)

    def test_one_may_even_close_the_queue(self, open_queue: OpenQueue) -> None:
        closed = Journal()
        queue = open_queue(nothing)
        queue.subscribe(lambda transition: closed.write(queue.close()))
        queue.enqueue(Job())
        closed.wait_for(True)

    @pytest.mark.parametrize("subscriber", [None, "print", 5])
    def test_what_cannot_be_called_is_refused(self, open_queue: OpenQueue, subscriber: Any) -> None:
        with pytest.raises(TypeError, match="A subscriber is called with a Transition; got "):
            open_queue(nothing).subscribe(subscriber)


class TestComingAndGoing:
    def test_whoever_unsubscribes_hears_no_more(
        self, open_queue: OpenQueue, listener: Listener
    ) -> None:
        other = Listener()
        queue = open_queue(nothing)
        queue.subscribe(other)
        unsubscribe = queue.subscribe(listener)
        assert completes(queue, Job("x"))
        listener.wait_for_count(3)
        unsubscribe()
        unsubscribe()  # which is harmless
        assert completes(queue, Job("y"))
        heard_all(queue)
        assert {t.job_id for t in listener.entries} == {"x"}
        assert {t.job_id for t in other.entries} == {"x", "y"}

    def test_one_that_listens_twice_may_end_the_first_time_twice(
        self, open_queue: OpenQueue, listener: Listener
    ) -> None:
        queue = open_queue(nothing)
        unsubscribe = queue.subscribe(listener)
        queue.subscribe(listener)
        unsubscribe()
        unsubscribe()
        queue.enqueue(Job("x"))
        heard_all(queue)
        assert listener.of("x") == [(QUEUED, 0), (PROCESSING, 1), (Status.COMPLETED, 1)]

    def test_what_was_before_is_not_heard(self, open_queue: OpenQueue, listener: Listener) -> None:
        queue = open_queue(nothing)
        assert completes(queue, Job("before"))
        queue.subscribe(listener)
        assert completes(queue, Job("after"))
        heard_all(queue)
        assert {t.job_id for t in listener.entries} == {"after"}

    def test_all_subscribers_share_one_thread(self, open_queue: OpenQueue) -> None:
        before = set(threading.enumerate())
        queue = open_queue(nothing, workers=1)
        quiet = len(set(threading.enumerate()) - before)
        for _ in range(5):
            queue.subscribe(lambda transition: None)
        assert len(set(threading.enumerate()) - before) == quiet + 1
        heard_all(queue)
        assert set(threading.enumerate()) <= before

    def test_who_comes_after_the_end_needs_none(
        self, open_queue: OpenQueue, listener: Listener
    ) -> None:
        queue = open_queue(nothing)
        heard_all(queue)
        before = set(threading.enumerate())
        queue.subscribe(listener)()
        assert set(threading.enumerate()) <= before

    def test_closing_delivers_the_rest(self, open_queue: OpenQueue, gate: Gate) -> None:
        listener, reached = Listener(), Journal()

        def slow(transition: Transition) -> None:
            reached.write(transition.job_id)
            gate.wait()
            listener(transition)

        queue = open_queue(nothing)
        queue.subscribe(slow)
        queue.enqueue_many([Job() for _ in range(50)])
        queue.join(DEADLINE)
        reached.wait_for_count(1)
        closing = Background(queue.close)
        gate.open()
        assert closing.result() is True
        assert sum(t.status is Status.COMPLETED for t in listener.entries) == 50
