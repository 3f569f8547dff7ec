"""Cancelling: a job that waits never runs, wherever it waits; one that runs is told."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest

from final import (
    DuplicateJob,
    Job,
    JobQueue,
    Priority,
    Status,
    TokenBucket,
    UnknownJob,
    current_job,
)
from final.engine import flight
from final.job import Task
from final.workers.batch import Batch
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    HeldUp,
    OpenQueue,
    child,
    eventually,
    in_file,
    learn_that_jobs_are_quick,
    next_line,
    nothing,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

NEVER = TokenBucket(1 / 86_400, burst=1)


@pytest.fixture
def batches_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed out behind a slow job is not taken back after 10 ms, while a test looks."""
    monkeypatch.setattr(flight, "OVERDUE_SECONDS", math.inf)


def cancelled(queue: JobQueue, job_id: str, attempts: int = 0) -> bool:
    """Whether the job is, by all that the queue says of it."""
    record, counts = queue.get(job_id), queue.metrics()
    of_each = [counts.queued, counts.scheduled, counts.processing, counts.retrying]
    of_each += [counts.completed, counts.failed, counts.cancelled, counts.dropped]
    return (
        (record.status, record.attempts) == (Status.CANCELLED, attempts)
        and record.ended_at is not None
        and queue.wait(job_id, 0) == record
        and counts.cancelled == 1
        and min(of_each) >= 0
        and sum(of_each) == counts.accepted
    )


class TestWaiting:
    def test_in_its_lane(self, held_up: HeldUp, gate: Gate) -> None:
        queue, ran = held_up()
        queue.enqueue_many([Job("a"), Job("x"), Job("b")])
        assert queue.cancel("x") is True
        assert cancelled(queue, "x")
        gate.open()
        queue.join(DEADLINE)
        assert ran.entries == ["holder", "a", "b"]

    def test_its_place_is_free_for_a_producer_that_waits(self, held_up: HeldUp) -> None:
        queue, _ = held_up(capacity=1)
        queue.enqueue(Job("x"))
        producer = Background(queue.enqueue, Job("next"))
        assert queue.cancel("x") is True
        assert producer.result() == "next"

    def test_held_by_a_rate_limit(self, open_queue: OpenQueue) -> None:
        queue = open_queue({"limited": nothing, "free": nothing}, rate_limit={"limited": NEVER})
        queue.wait(queue.enqueue(Job(kind="limited")), DEADLINE)
        queue.enqueue_many([Job("x", kind="limited"), Job("free", kind="free")])
        queue.wait("free", DEADLINE)  # so "x" has been passed: it is held
        assert queue.cancel("x") is True
        assert cancelled(queue, "x")
        queue.join(DEADLINE)

    def test_scheduled(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue_many([Job("x", run_at=3600), Job("y", run_at=7200)])
        assert queue.cancel("x") is True
        assert cancelled(queue, "x")
        assert queue.get("x").due_at is None
        assert queue.metrics().scheduled == 1

    def test_retrying(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no")

        queue = open_queue(handler, backoff=NOT_TODAY)
        queue.enqueue(Job("x"))
        reaches(queue, "x", Status.RETRYING)
        assert queue.cancel("x") is True
        assert cancelled(queue, "x", attempts=1)
        queue.join(DEADLINE)  # it would wait for a retry
        assert len(queue.attempts("x")) == 1

    def test_of_a_kind_that_nobody_handles(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue({"old": nothing}, path=path) as queue:
            queue.enqueue(Job("x", kind="old", run_at=3_600))
            queue.close(drain=False)
        queue = open_queue({"new": nothing}, path=path)
        assert queue.cancel("x") is True
        assert cancelled(queue, "x")

    @pytest.mark.usefixtures("batches_stay_whole")
    def test_behind_a_slow_job_in_a_workers_batch(self, open_queue: OpenQueue, gate: Gate) -> None:
        ran = Journal()

        def handler(job: Job) -> None:
            if job.payload != "quick":
                ran.write(job.id)
            if job.id == "slow":
                gate.wait()
                ran.write(current_job().cancelled)

        queue = open_queue(handler, workers=1)
        learn_that_jobs_are_quick(queue, payload="quick")
        queue.enqueue_many([Job("slow"), Job("x"), Job("y")])
        ran.wait_for("slow")
        assert queue.status("x") is Status.PROCESSING, "It was not handed out with the others."
        assert queue.cancel("x") is True
        gate.open()
        assert queue.wait("x", DEADLINE).status is Status.CANCELLED
        queue.join(DEADLINE)
        assert ran.entries == ["slow", False, "y"]
        assert queue.metrics().cancelled == 1


class TestRunning:
    def test_a_handler_that_then_raises_has_cancelled_its_job(self, open_queue: OpenQueue) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            if not current_job().sleep(60):
                raise InterruptedError("told to stop")

        queue = open_queue(handler, backoff=AT_ONCE)
        queue.enqueue(Job("x"))
        started.wait_for("x")
        waiting = Background(queue.wait, "x")
        assert queue.cancel("x") is True
        assert waiting.result().status is Status.CANCELLED
        assert cancelled(queue, "x", attempts=1)
        queue.join(DEADLINE)
        assert started.entries == ["x"], "It was tried again."

    def test_a_handler_that_returns_has_completed_it(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> bool:
            started.write(job.id)
            gate.wait()
            return current_job().cancelled

        queue = open_queue(handler)
        queue.enqueue(Job("x"))
        started.wait_for("x")
        assert queue.cancel("x") is True
        assert queue.status("x") is Status.PROCESSING
        gate.open()
        record = queue.wait("x", DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, True)
        assert queue.metrics().cancelled == 0

    def test_only_that_job_is_told(self, open_queue: OpenQueue, gate: Gate) -> None:
        started = Journal()

        def handler(job: Job) -> bool:
            started.write(job.id)
            gate.wait()
            return current_job().cancelled

        queue = open_queue(handler, workers=3)
        queue.enqueue_many([Job("a"), Job("b"), Job("c")])
        started.wait_for_count(3)
        assert queue.cancel("b") is True
        gate.open()
        results = [queue.wait(job_id, DEADLINE).result for job_id in ("a", "b", "c")]
        assert results == [False, True, False]

    def test_all_its_threads_that_sleep_are_woken(self, open_queue: OpenQueue) -> None:
        sleeping, woken = Journal(), Journal()

        def handler(job: Job) -> None:
            me = current_job()

            def sleep() -> None:
                sleeping.write("sleeps")
                woken.write(me.sleep(3_600))

            threading.Thread(target=sleep, daemon=True).start()
            sleep()

        queue = open_queue(handler, workers=1)
        queue.enqueue(Job("x"))
        sleeping.wait_for_count(2)
        assert queue.cancel("x") is True
        woken.wait_for_count(2)
        assert woken.entries == [False, False]

    @pytest.mark.usefixtures("batches_stay_whole")
    def test_a_thread_of_the_job_before_sleeps_on(self, open_queue: OpenQueue) -> None:
        """All that sleep in a batch are woken. It looks, and must not look again and again."""
        sleeping, started, seconds = Journal(), Journal(), Journal()

        def handler(job: Job) -> None:
            me = current_job()

            def sleep() -> None:
                began = time.thread_time()
                sleeping.write("sleeps")
                me.sleep(1)
                seconds.write(time.thread_time() - began)

            if job.id == "x":
                threading.Thread(target=sleep, daemon=True).start()
                sleeping.wait_for_count(1)
            elif job.id == "y":
                started.write(job.id)
                me.sleep(3_600)

        queue = open_queue(handler, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("x"), Job("y")])
        started.wait_for("y")
        assert queue.cancel("y") is True
        seconds.wait_for_count(1)
        assert seconds.entries[0] < 0.1, "It has looked all the time."

    @pytest.mark.usefixtures("batches_stay_whole")
    def test_to_cancel_another_job_of_its_batch_takes_nothing_back(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started, told = Journal(), Journal()

        def handler(job: Job) -> None:
            if job.id == "x":
                started.write(job.id)
                gate.wait()
                told.write(current_job().cancelled)

        queue = open_queue(handler, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("x"), Job("y")])
        started.wait_for("x")
        assert queue.status("y") is Status.PROCESSING, "It was not handed out with the other."
        assert queue.cancel("x") is True
        assert queue.cancel("y") is True
        not_begun = queue.wait("y", DEADLINE)
        assert (not_begun.status, not_begun.attempts) == (Status.CANCELLED, 0)
        gate.open()
        told.wait_for(True)
        assert told.entries == [True]

    def test_one_that_times_out_all_the_same_is_cancelled(self, held_up: HeldUp) -> None:
        queue, started = held_up(backoff=AT_ONCE, timeout=0.5, max_retries=100)
        assert queue.cancel("holder") is True
        assert queue.wait("holder", DEADLINE).status is Status.CANCELLED
        before = started.entries  # one, unless half a second was over before the cancel
        queue.join(DEADLINE)
        assert started.entries == before

    def test_one_that_is_interrupted_by_closing_is_cancelled(
        self, held_up: HeldUp, path: str
    ) -> None:
        queue, _ = held_up(path=path)
        assert queue.cancel("holder") is True
        Background(queue.close, False, 0).result()
        assert in_file(path, "status") == ["cancelled"]


class Fleeting(Batch):
    """A batch whose worker takes ``stop`` away just after somebody has looked at it."""

    def __init__(self, task: Task) -> None:
        super().__init__([task], 1, math.inf, math.inf)
        self.running = task

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "stop":
            self.stop = None
        return found


def test_who_is_told_at_the_moment_of_its_end_ends_nobody_else() -> None:
    told: list[str] = []
    batch = Fleeting(Task("x", "null", Priority.MEDIUM, "default", size=4))
    batch.stop = lambda: told.append("x")
    assert batch.running
    with JobQueue(nothing) as queue:
        queue._pool.tell(batch, batch.running)
    assert told == ["x"]


class TestRecovered:
    def test_one_that_ran_when_the_process_died_does_not_run_again(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        """``cancel`` has said so. It needs no handler for that, and is no dead letter."""
        with child("cancel", path) as process:
            assert next_line(process) == "True"
        ran = Journal()
        queue = open_queue({"other": lambda job: ran.write(job.id)}, path=path, max_retries=0)
        assert cancelled(queue, "x", attempts=1)
        with pytest.raises(DuplicateJob):
            queue.enqueue(Job("x", kind="other"))
        queue.close()
        with open_queue(lambda job: ran.write(job.id), path=path, history=0) as queue:
            eventually(lambda: queue.jobs() == [], "it to be forgotten as others are")
        assert ran.entries == []

    def test_one_that_was_done_before_the_process_died_is_completed(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        with open_queue(handler, path=path) as queue:
            queue.enqueue(Job("x"))
            started.wait_for("x")
            assert queue.cancel("x") is True
            gate.open()
        assert open_queue(handler, path=path).status("x") is Status.COMPLETED

    def test_a_suspect_lets_the_next_one_run(self, open_queue: OpenQueue, path: str) -> None:
        """Jobs that were running when two processes died run one at a time, until each ends."""
        for _ in range(2):
            with child("hang", path, "one", "two") as process:
                assert next_line(process) == "all hang"
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            if job.id == "one" and not current_job().sleep(60):
                raise InterruptedError

        queue = open_queue(handler, path=path, max_retries=5)
        started.wait_for("one")
        assert queue.cancel("one") is True
        assert queue.wait("two", DEADLINE).status is Status.COMPLETED
        assert queue.wait("one", DEADLINE).status is Status.CANCELLED
        queue.join(DEADLINE)

    def test_a_suspect_that_waits_can_be_cancelled_too(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        for _ in range(2):
            with child("hang", path, "one", "two", "three") as process:
                assert next_line(process) == "all hang"
        ran = Journal()

        def handler(job: Job) -> None:
            ran.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path, max_retries=5)
        ran.wait_for("one")
        assert queue.cancel("two") is True
        assert cancelled(queue, "two", attempts=2)
        gate.open()
        queue.join(DEADLINE)
        assert ran.entries == ["one", "three"]


class TestAfterwards:
    def test_a_job_that_has_ended_cannot_be_cancelled(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            if job.payload == "bad":
                raise ValueError("no")

        queue = open_queue(handler, max_retries=0)
        queue.enqueue_many([Job("good"), Job("bad", payload="bad"), Job("x", run_at=3600)])
        queue.join(DEADLINE)
        assert queue.cancel("x") is True
        before = queue.jobs()
        assert [queue.cancel(job_id) for job_id in ("good", "bad", "x")] == [False] * 3
        assert queue.jobs() == before
        assert queue.metrics().cancelled == 1

    def test_nor_can_one_that_still_cleans_up_after_its_last_attempt(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        async def handler(job: Job) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.to_thread(gate.wait)

        queue = open_queue(handler, max_retries=0, timeout=0.03)
        assert queue.wait(queue.enqueue(Job("x")), DEADLINE).status is Status.FAILED
        assert queue.cancel("x") is False
        gate.open()
        queue.join(DEADLINE)
        assert queue.status("x") is Status.FAILED

    def test_an_unknown_id_is_an_error(self, open_queue: OpenQueue) -> None:
        with pytest.raises(UnknownJob, match="No job 'nobody' in this queue"):
            open_queue(nothing).cancel("nobody")

    def test_its_id_stays_taken(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("x", run_at=3600))
        queue.cancel("x")
        with pytest.raises(ValueError, match="Already in the queue: x"):
            queue.enqueue(Job("x"))

    def test_it_stays_cancelled_after_a_restart(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue_many([Job("x", run_at=0.001), Job("y", run_at=3600)])
            queue.cancel("y")
            queue.wait("x", DEADLINE)
        queue = open_queue(nothing, path=path)
        queue.join(DEADLINE)
        assert cancelled(queue, "y")
        assert queue.get("x").attempts == 1

    def test_whoever_waits_for_it_is_answered(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("x", run_at=3600))
        waiting = [Background(queue.wait, "x") for _ in range(3)]
        assert queue.cancel("x") is True
        assert [call.result().status for call in waiting] == [Status.CANCELLED] * 3

    def test_it_is_told_to_the_log(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "final")
        with open_queue(nothing) as queue:
            queue.enqueue(Job("x", run_at=3600))
            queue.cancel("x")
        assert "job x cancelled, attempts 0" in caplog.messages
