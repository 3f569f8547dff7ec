"""Closing: what runs, what stays in the file, who is woken, and that nothing is left behind.

Every deploy closes a queue. Whatever hangs, leaks or gets lost here happens at each of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from final import Job, JobQueue, Priority, QueueClosed, QueueFull, Status
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    completes,
    eventually,
    in_file,
    learn_that_jobs_are_quick,
    nothing,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

both_places = pytest.mark.parametrize("place", ["file", ":memory:"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, path: str) -> str:
    """Where the queue of the test lives."""
    return path if request.param == "file" else ":memory:"


def refuses(queue: JobQueue) -> bool:
    """Whether ``queue``, whose lane is full, refuses a job because it is closing."""
    try:
        queue.enqueue(Job(), timeout=0)
    except QueueFull:
        return False
    except QueueClosed:
        return True
    raise AssertionError("There was room.")


class TestWhatRuns:
    def test_closing_runs_what_was_accepted(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path, workers=2)
        queue.enqueue_many([Job() for _ in range(100)])
        assert Background(queue.close).result() is True
        assert set(in_file(path, "status")) == {"completed"}

    def test_closing_runs_retries_too(self, open_queue: OpenQueue, path: str) -> None:
        def handler(job: Job) -> None:
            raise ValueError("never")

        queue = open_queue(handler, path=path, max_retries=2, backoff=AT_ONCE)
        queue.enqueue(Job())
        assert Background(queue.close).result() is True
        assert in_file(path, "status, attempts") == [("failed", 3)]

    def test_without_drain_only_what_is_in_flight_is_finished(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> str:
            started.write(job.id)
            gate.wait()
            return "finished"

        queue = open_queue(handler, path=path, workers=1, capacity=2)
        queue.enqueue_many([Job("in flight"), Job("queued"), Job("too")])
        started.wait_for("in flight")
        closing = Background(queue.close, False)
        eventually(lambda: refuses(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "id, status, attempts, result") == [
            ("in flight", "completed", 1, '"finished"'),
            ("queued", "queued", 0, None),
            ("too", "queued", 0, None),
        ]

    def test_without_drain_a_retry_stays_in_the_file_with_its_due_time(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("not today")

        queue = open_queue(handler, path=path, backoff=NOT_TODAY)
        queue.enqueue(Job())
        eventually(lambda: queue.metrics().retrying == 1, "the failure")
        assert Background(queue.close, False).result() is True
        [(status, attempts, due_at)] = in_file(path, "status, attempts, due_at")
        assert (status, attempts) == ("retrying", 1)
        assert 86_000 < due_at - time.time() <= 86_400

    def test_jobs_behind_a_job_in_flight_go_back_uncharged(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """Quick jobs are handed out many at a time; closing takes back what has not started."""
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "slow":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, path=path, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("slow"), *(Job(f"quick-{n}") for n in range(20))])
        started.wait_for("slow")
        assert queue.metrics().processing > 1, "The job was handed out alone."
        closing = Background(queue.close, False)
        eventually(lambda: queue.status("quick-0") is Status.QUEUED, "the others to go back")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "id, status, attempts")[-21:] == [
            ("slow", "completed", 1),
            *((f"quick-{n}", "queued", 0) for n in range(20)),
        ]


class TestOutOfTime:
    @pytest.fixture
    def stuck(self, open_queue: OpenQueue, path: str, gate: Gate) -> JobQueue:
        """A queue with one job that does not end and one behind it."""
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue_many([Job("stuck"), Job("behind")])
        started.wait_for("stuck")
        return queue

    def test_a_job_that_does_not_end_goes_back_uncharged(
        self, stuck: JobQueue, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert Background(stuck.close, True, 0).result() is False
        assert in_file(path, "id, status, attempts, started_at") == [
            ("stuck", "queued", 0, None),
            ("behind", "queued", 0, None),
        ]
        assert caplog.messages[-1:] == [
            "Closed with 1 jobs interrupted and 1 waiting: they run at the next start."
        ]

    def test_it_runs_at_the_next_start_before_those_behind_it(
        self, stuck: JobQueue, open_queue: OpenQueue, path: str
    ) -> None:
        Background(stuck.close, True, 0).result()
        ran = Journal()
        queue = open_queue(lambda job: ran.write(job.id), path=path, workers=1)
        queue.join(DEADLINE)
        assert ran.entries == ["stuck", "behind"]
        assert queue.get("stuck").attempts == 1

    def test_the_end_of_its_old_attempt_changes_nothing(
        self, stuck: JobQueue, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        [worker] = stuck._pool._threads
        Background(stuck.close, True, 0).result()
        queue = open_queue({"another": nothing}, path=path)  # so it stays queued
        gate.open()
        worker.join(DEADLINE)  # its old worker is through and has left
        assert not worker.is_alive()
        assert queue.get("stuck").status is Status.QUEUED
        assert stuck.get("stuck").status is Status.QUEUED

    def test_what_a_worker_had_finished_before_it_got_stuck_is_recorded(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """Quick jobs are handed out many at a time. Those that have run need not run again."""
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "stuck":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, path=path, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("quick"), Job("stuck"), Job("behind")])
        started.wait_for("stuck")
        Background(queue.close, True, 0).result()
        assert in_file(path, "id, status, attempts")[-3:] == [
            ("quick", "completed", 1),
            ("stuck", "queued", 0),
            ("behind", "queued", 0),
        ]

    def test_the_default_is_shutdown_timeout(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        with open_queue(handler, path=path, shutdown_timeout=0.05) as queue:
            queue.enqueue(Job("stuck"))
            started.wait_for("stuck")
        assert in_file(path, "status, attempts") == [("queued", 0)]

    def test_closing_again_says_the_same_at_once(self, stuck: JobQueue) -> None:
        assert Background(stuck.close, True, 0).result() is False
        assert Background(stuck.close).result() is False
        assert Background(stuck.close, True, 60).result() is False

    def test_whoever_waits_longer_is_told_that_it_was_cut_short(self, stuck: JobQueue) -> None:
        patient = Background(stuck.close, True, 60)
        assert Background(stuck.close, True, 0).result() is False
        assert patient.result() is False

    def test_nothing_starts_any_more(self, stuck: JobQueue, path: str, gate: Gate) -> None:
        [worker] = stuck._pool._threads
        Background(stuck.close, True, 0).result()
        gate.open()
        worker.join(DEADLINE)
        assert not worker.is_alive()
        assert in_file(path, "attempts") == [0, 0]


class TestAgainAndTogether:
    def test_closing_twice_is_harmless(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        assert queue.close() is True
        assert Background(queue.close).result() is True
        assert Background(queue.close, False, 0).result() is True

    @both_places
    def test_many_threads_may_close_at_once(self, open_queue: OpenQueue, place: str) -> None:
        queue = open_queue(nothing, path=place)
        queue.enqueue_many([Job() for _ in range(50)])
        start = threading.Barrier(4)

        def close() -> bool:
            start.wait(DEADLINE)
            return queue.close()

        assert [c.result() for c in [Background(close) for _ in range(4)]] == [True] * 4
        assert queue.metrics().completed == 50

    @both_places
    def test_inside_a_handler_it_begins_and_does_not_wait_for_itself(
        self, open_queue: OpenQueue, place: str
    ) -> None:
        closed = []

        def handler(job: Job) -> None:
            closed.append(queue.close())

        queue = open_queue(handler, path=place)
        queue.enqueue(Job("closes"))
        queue._thread.join(DEADLINE)  # nobody else closes it
        assert closed == [False]
        with pytest.raises(QueueClosed):
            queue.enqueue(Job())
        assert queue.get("closes").status is Status.COMPLETED

    def test_leaving_the_block_closes(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job())
        assert in_file(path, "status") == ["completed"]
        with pytest.raises(QueueClosed):
            queue.enqueue(Job())

    def test_an_exception_in_the_block_closes_too_and_goes_on(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def work() -> None:
            with open_queue(nothing, path=path) as queue:
                queue.enqueue(Job())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        assert in_file(path, "status") == ["completed"]


class TestWhoIsWoken:
    def test_blocked_producers_get_queue_closed(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1, capacity=1)
        queue.enqueue(Job("holder"))
        # Two jobs each: one place per lane, so each producer is blocked at its second.
        producers = [
            Background(queue.enqueue_many, [Job(priority=lane), Job(priority=lane)])
            for lane in Priority
        ]
        eventually(lambda: queue.metrics().queued == 3, "each producer's first job")
        closing = Background(queue.close)
        for producer in producers:
            with pytest.raises(QueueClosed, match="closed") as refused:
                producer.result()
            assert len(refused.value.accepted) == 1
        gate.open()
        assert closing.result() is True
        assert queue.metrics().completed == queue.metrics().accepted == 4

    def test_whoever_waits_for_a_job_that_does_not_end_gets_queue_closed(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue(Job("stuck"))
        waiting = [Background(queue.wait, "stuck") for _ in range(3)]
        joining = [Background(queue.join) for _ in range(3)]
        Background(queue.close, True, 0).result()
        for call in (*waiting, *joining):
            with pytest.raises(QueueClosed):
                call.result()

    def test_whoever_waits_for_a_job_that_ends_in_time_gets_its_record(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue_many([Job("first"), Job("last")])
        waiting = [Background(queue.wait, job_id) for job_id in ("first", "last")]
        closing = Background(queue.close)
        gate.open()
        assert closing.result() is True
        # Whether they asked before the end or after it: the jobs have ended.
        assert [call.result().status for call in waiting] == [Status.COMPLETED] * 2

    def test_whoever_asks_at_that_moment_is_answered(self, open_queue: OpenQueue) -> None:
        """Between the last look into the inbox and the end nobody may be forgotten."""
        for _ in range(20):
            queue = open_queue(nothing, workers=1)
            start = threading.Barrier(5)

            def ask(queue: JobQueue = queue, start: threading.Barrier = start) -> None:
                start.wait(DEADLINE)
                with contextlib.suppress(QueueClosed):
                    while True:
                        queue.enqueue(Job())
                        queue.metrics()
                        queue.join(DEADLINE)

            asking = [Background(ask) for _ in range(4)]
            start.wait(DEADLINE)
            assert Background(queue.close).result() is True
            for thread in asking:
                thread.result()
            counts = queue.metrics()
            assert counts.completed == counts.accepted


class TestAfterwards:
    @both_places
    def test_no_job_is_accepted(self, open_queue: OpenQueue, place: str) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no")

        queue = open_queue(handler, path=place, max_retries=0)
        queue.enqueue(Job("dead"))
        queue.join(DEADLINE)
        queue.close()
        with pytest.raises(QueueClosed, match="closed"):
            queue.enqueue(Job())
        with pytest.raises(QueueClosed, match="closed"):
            queue.enqueue_many([Job()], timeout=0)
        with pytest.raises(QueueClosed, match="closed"):
            queue.retry("dead")
        assert queue.metrics().accepted == 1

    @both_places
    def test_everything_can_still_be_looked_at(self, open_queue: OpenQueue, place: str) -> None:
        queue = open_queue(lambda job: job.payload, path=place)
        queue.enqueue_many([Job("a", payload=1), Job("b", payload=2)])
        queue.close()
        counts = queue.metrics()
        assert (counts.accepted, counts.completed) == (2, 2)
        assert queue.status("a") is Status.COMPLETED
        assert queue.get("b").result == 2
        assert [record.id for record in queue.jobs(Status.COMPLETED)] == ["b", "a"]
        assert queue.dead_letters() == []
        assert queue.wait("a").result == 1

    def test_but_nothing_can_be_asked_for(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("a", run_at=3600))
        queue.close(drain=False)
        for ask in (queue.join, queue.purge, lambda: queue.wait("a"), lambda: queue.cancel("a")):
            with pytest.raises(QueueClosed, match=r"^The queue is closed\.$"):
                ask()

    @both_places
    def test_no_thread_is_left(self, open_queue: OpenQueue, place: str) -> None:
        before = set(threading.enumerate())
        queue = open_queue(nothing, path=place, workers=8)
        ours = set(threading.enumerate()) - before
        workers = {f"final-worker-{n}" for n in range(8)}
        assert {thread.name for thread in ours} == {"final-dispatcher", "final-log", *workers}
        assert all(thread.daemon for thread in ours)  # a program may end without close
        queue.enqueue_many([Job() for _ in range(20)])
        queue.close()
        assert set(threading.enumerate()) <= before

    def test_no_file_is_left_open(self, open_queue: OpenQueue, path: str) -> None:
        def ours() -> list[str]:
            folder = os.path.realpath(Path(path).parent)
            return [f.path for f in psutil.Process().open_files() if f.path.startswith(folder)]

        queue = open_queue(nothing, path=path)
        completes(queue)
        assert ours() != []
        queue.close()
        queue.get(queue.jobs()[0].id)  # a look afterwards leaves nothing open either
        assert ours() == []

    def test_the_file_can_be_opened_again(self, open_queue: OpenQueue, path: str) -> None:
        for n in range(3):
            with open_queue(nothing, path=path) as queue:
                assert queue.metrics().completed == n
                assert completes(queue)

    def test_everything_is_in_the_one_file(self, open_queue: OpenQueue, path: str) -> None:
        """So it can be copied: the write-ahead log is gone."""
        with open_queue(nothing, path=path) as queue:
            completes(queue)
        left = {p.name for p in Path(path).parent.iterdir()}
        assert left - {"jobs.db.lock"} == {"jobs.db"}

    def test_a_queue_that_could_not_open_leaves_no_thread(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        before = set(threading.enumerate())
        with pytest.raises(OSError, match="is a folder"):
            open_queue(nothing, path=Path(path).parent)
        assert set(threading.enumerate()) <= before
