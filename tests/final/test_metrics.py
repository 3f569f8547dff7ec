"""Metrics: percentiles as one would work them out by hand, and counts that always add up."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from final import Counts, Histogram, Job, Metrics, Percentiles, Priority, Status
from final.engine.metrics import RATE_WINDOW, SAMPLES, SECONDS, Recorder
from final.job import Outcome, Task
from final.ledger.base import Move
from tests.final.helpers import AT_ONCE, NOT_TODAY, OpenQueue, comes_true, eventually, nothing
from tests.helpers import DEADLINE, Background, Broken, Gate, Journal

HIGH, MEDIUM, LOW = Priority


def adds_up(counts: Counts) -> bool:
    of_each: list[int] = [getattr(counts, status) for status in Status]
    return min(of_each) >= 0 and sum(of_each) == counts.accepted


class TestPercentiles:
    @pytest.mark.parametrize(
        ("samples", "expected"),
        [
            ([], (0.0, 0.0, 0.0)),
            ([7.0], (7, 7, 7)),
            ([2.0, 1.0], (1, 2, 2)),
            ([3.0, 1.0, 2.0], (2, 3, 3)),
            ([1.0, 2.0, 3.0, 4.0], (2, 4, 4)),
            ([15.0, 20.0, 35.0, 40.0, 50.0], (35, 50, 50)),
            ([float(n) for n in range(1, 21)], (10, 19, 20)),
            ([float(n) for n in range(100, 0, -1)], (50, 95, 99)),
            ([float(n) for n in range(1, 102)], (51, 96, 100)),
            ([float(n) for n in range(1, 1_001)], (500, 950, 990)),
        ],
        ids=lambda value: f"{len(value)} samples" if isinstance(value, list) else "",
    )
    def test_by_nearest_rank(
        self, samples: list[float], expected: tuple[float, float, float]
    ) -> None:
        found = Percentiles.of(samples)
        assert (found.p50, found.p95, found.p99) == expected

    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
    def test_each_is_the_smallest_sample_with_its_share_at_or_below(
        self, samples: list[float]
    ) -> None:
        found = Percentiles.of(samples)
        for percent, value in ((50, found.p50), (95, found.p95), (99, found.p99)):
            assert value in samples
            assert 100 * sum(s <= value for s in samples) >= percent * len(samples)
            assert 100 * sum(s < value for s in samples) < percent * len(samples)


def task(priority: Priority) -> Task:
    return Task("x", "null", priority, "default")


def accept(recorder: Recorder, tasks: list[Task], status: Status) -> None:
    recorder.moved([Move(tasks, None, status)], now=0.0)


def end(
    recorder: Recorder, outcomes: list[Outcome], status: Status = Status.COMPLETED, now: float = 0.0
) -> None:
    tasks = [outcome.task for outcome in outcomes]
    recorder.moved([Move(tasks, Status.PROCESSING, status, outcomes=outcomes)], now)


class TestRecorder:
    """The arithmetic, with a clock of its own."""

    @pytest.fixture
    def recorder(self) -> Recorder:
        return Recorder(now=0.0)

    @staticmethod
    def look(recorder: Recorder, now: float = 1.0) -> Metrics:
        metrics = recorder.snapshot(now, {}, [], None, 0).metrics()
        assert adds_up(metrics)
        assert all(adds_up(lane) for lane in metrics.by_priority.values())
        return metrics

    def test_nothing_has_happened_yet(self, recorder: Recorder) -> None:
        metrics = self.look(recorder, now=0.0)
        nothing = Histogram(SECONDS, (0,) * (len(SECONDS) + 1))
        lane = Counts(waits=nothing, runs=nothing)
        assert metrics.by_priority == dict.fromkeys(Priority, lane)
        assert (metrics.accepted, metrics.throughput, metrics.utilisation) == (0, 0, 0)

    def test_a_job_is_counted_in_its_lane_and_in_the_total(self, recorder: Recorder) -> None:
        accept(recorder, [task(LOW), task(LOW), task(HIGH)], Status.QUEUED)
        metrics = self.look(recorder)
        assert (metrics.accepted, metrics.queued) == (3, 3)
        assert [metrics.by_priority[p].queued for p in Priority] == [1, 0, 2]

    def test_a_job_moves_from_one_status_to_the_next(self, recorder: Recorder) -> None:
        accept(recorder, [task(LOW)], Status.QUEUED)
        recorder.moved([Move([task(LOW)], Status.QUEUED, Status.PROCESSING)], now=1.0)
        assert self.look(recorder, 1.0).processing == 1
        end(recorder, [Outcome(task(LOW), 0.5, error="no")], Status.RETRYING, now=2.0)
        assert self.look(recorder, 2.0).retrying == 1
        recorder.moved([Move([task(LOW)], Status.RETRYING, Status.QUEUED)], now=3.0)
        assert self.look(recorder, 3.0).queued == 1
        recorder.moved([Move([task(LOW)], Status.QUEUED, Status.PROCESSING)], now=4.0)
        end(recorder, [Outcome(task(LOW), 0.5)], now=5.0)
        metrics = self.look(recorder, 5.0)
        assert (metrics.accepted, metrics.completed, metrics.queued) == (1, 1, 0)
        assert metrics.by_priority[LOW].completed == 1

    def test_what_was_found_in_the_file_counts_as_it_stands(self, recorder: Recorder) -> None:
        recorder.found(HIGH, Status.COMPLETED, 5)
        recorder.found(LOW, Status.QUEUED, 2)
        metrics = self.look(recorder)
        assert (metrics.accepted, metrics.completed, metrics.queued) == (7, 5, 2)
        assert metrics.throughput == 0  # they did not end now

    def test_waits_and_runs_are_kept_by_lane(self, recorder: Recorder) -> None:
        accept(recorder, [task(HIGH), task(LOW)], Status.PROCESSING)
        quick, slow = Outcome(task(HIGH), 0.25, waited=1.0), Outcome(task(LOW), 0.75, waited=5.0)
        end(recorder, [quick, slow])
        metrics = self.look(recorder)
        assert metrics.by_priority[HIGH].wait == Percentiles(1, 1, 1)
        assert metrics.by_priority[LOW].wait == Percentiles(5, 5, 5)
        assert metrics.by_priority[MEDIUM].wait == Percentiles(0, 0, 0)
        assert metrics.by_priority[HIGH].run == Percentiles(0.25, 0.25, 0.25)
        assert metrics.wait == Percentiles(1, 5, 5)
        assert metrics.run == Percentiles(0.25, 0.75, 0.75)

    def test_percentiles_are_of_the_latest_jobs(self, recorder: Recorder) -> None:
        recorder.found(LOW, Status.PROCESSING, 2 * SAMPLES)
        for seconds in [9.0] * SAMPLES + [1.0] * SAMPLES:
            end(recorder, [Outcome(task(LOW), seconds)])
        assert self.look(recorder).run == Percentiles(1, 1, 1)

    def test_of_many_jobs_that_end_at_once_some_are_samples(self, recorder: Recorder) -> None:
        """From the first to the last of them, so that none of the turn's times is missed out."""
        recorder.found(LOW, Status.PROCESSING, 500)
        end(recorder, [Outcome(task(LOW), float(n)) for n in range(500)])
        metrics = self.look(recorder)
        assert metrics.completed == 500
        assert metrics.run.p50 == pytest.approx(250, abs=500 / 16)
        assert metrics.run.p99 == pytest.approx(495, abs=500 / 16)

    def test_histograms_count_every_job_in_its_lane(self, recorder: Recorder) -> None:
        """Also when a thousand of each end in one turn, of which only some are looked at."""
        for priority, waited in ((HIGH, 0.002), (LOW, 20.0)):
            outcomes = [Outcome(task(priority), 0.0, waited=waited)] * 1_000
            accept(recorder, [outcome.task for outcome in outcomes], Status.PROCESSING)
            end(recorder, outcomes)
        by_priority = self.look(recorder).by_priority
        for priority, bound in ((HIGH, 0.005), (LOW, 30)):
            waits = by_priority[priority].waits
            assert dict(zip(waits.bounds, waits.counts, strict=False))[bound] == 1_000
            assert sum(waits.counts) == 1_000
        assert by_priority[LOW].waits.total == pytest.approx(20_000)
        assert sum(by_priority[MEDIUM].waits.counts) == 0
        assert sum(self.look(recorder).waits.counts) == 2_000

    @pytest.mark.parametrize(("seconds", "place"), [(0.001, 0), (0.0011, 1), (9e9, -1)])
    def test_a_value_counts_up_to_its_bound(
        self, recorder: Recorder, seconds: float, place: int
    ) -> None:
        recorder.found(LOW, Status.PROCESSING, 1)
        end(recorder, [Outcome(task(LOW), seconds)])
        assert self.look(recorder).runs.counts[place] == 1

    def test_throughput_is_what_ended_per_second(self, recorder: Recorder) -> None:
        recorder.found(LOW, Status.PROCESSING, 6)
        end(recorder, [Outcome(task(LOW), 0.1)] * 4)
        end(recorder, [Outcome(task(LOW), 0.1)], Status.FAILED)
        end(recorder, [Outcome(task(LOW), 0.1)], Status.RETRYING)  # this one has not ended
        assert self.look(recorder, now=2.0).throughput == 2.5

    def test_utilisation_is_the_busy_share_of_the_workers_time(self, recorder: Recorder) -> None:
        recorder.busy(2, 2, 1.0)  # both from 1 to 3
        recorder.busy(1, 2, 3.0)  # one from 3 to 4
        assert self.look(recorder, now=4.0).utilisation == (2 * 2 + 1 * 1) / (4 * 2)
        assert self.look(recorder, now=8.0).utilisation == (2 * 2 + 1 * 5) / (8 * 2)

    def test_rates_are_of_the_last_ten_seconds(self, recorder: Recorder) -> None:
        recorder.found(LOW, Status.PROCESSING, 100)
        end(recorder, [Outcome(task(LOW), 0.1)] * 100)
        for second in range(1, 41):  # a quiet time
            recorder.busy(2 if second <= 20 else 0, 2, float(second))
        metrics = self.look(recorder, now=40.0)
        assert RATE_WINDOW == 10.0
        assert (metrics.throughput, metrics.utilisation) == (0.0, 0.0)

    def test_they_are_so_too_where_nothing_happened_for_long(self, recorder: Recorder) -> None:
        recorder.found(LOW, Status.PROCESSING, 2)
        recorder.busy(1, 2, 1.0)
        end(recorder, [Outcome(task(LOW), 0.1)], now=1.0)
        recorder.busy(2, 2, 1.0)  # for an hour
        assert self.look(recorder, now=3_590.0).throughput == 0.0
        assert self.look(recorder, now=3_600.0).utilisation == 1.0
        end(recorder, [Outcome(task(LOW), 3_599.0)], now=3_600.0)
        recorder.busy(1, 2, 3_600.0)
        assert self.look(recorder, now=3_605.0).throughput == pytest.approx(0.1)
        assert self.look(recorder, now=3_605.0).utilisation == pytest.approx(0.75)


class TestInAQueue:
    def test_every_snapshot_adds_up_while_jobs_run(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            if job.payload % 7 == 0:
                raise Broken

        queue = open_queue(handler, workers=4, capacity=50, max_retries=1, backoff=AT_ONCE)
        over = threading.Event()
        start = threading.Barrier(5)

        def look() -> list[Metrics]:
            start.wait(DEADLINE)
            snapshots = []
            while not over.is_set():
                snapshots.append(queue.metrics())
            return snapshots

        def produce(lane: Priority) -> None:
            start.wait(DEADLINE)
            for n in range(300):
                queue.enqueue(Job(payload=n, priority=lane))

        looking = [Background(look) for _ in range(2)]
        for producer in [Background(produce, lane) for lane in Priority]:
            producer.result(3 * DEADLINE)
        queue.join(DEADLINE)
        over.set()
        snapshots = [snapshot for thread in looking for snapshot in thread.result()]

        assert any(0 < s.accepted < 900 for s in snapshots), "Nobody looked while jobs ran."
        for snapshot in snapshots:
            assert adds_up(snapshot)
            lanes = snapshot.by_priority.values()
            assert all(adds_up(lane) for lane in lanes)
            for name in ("accepted", *Status):
                assert getattr(snapshot, name) == sum(getattr(lane, name) for lane in lanes)
            assert snapshot.processing <= 4 * 64
            assert 0 <= snapshot.utilisation <= 1
        for thread in looking:  # what one thread sees never goes back
            totals = [(s.accepted, s.completed, s.failed) for s in thread.result()]
            accepted, completed, failed = zip(*totals, strict=True)
            assert accepted == tuple(sorted(accepted))
            assert completed == tuple(sorted(completed))
            assert failed == tuple(sorted(failed))
        last = queue.metrics()
        assert (last.completed, last.failed) == (3 * 257, 3 * 43)

    def test_utilisation_rises_with_the_work(self, open_queue: OpenQueue, gate: Gate) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=2)
        assert queue.metrics().utilisation == 0
        queue.enqueue(Job())
        started.wait_for_count(1)
        eventually(lambda: queue.metrics().utilisation > 0, "the time that has passed to count")
        one = queue.metrics().utilisation
        assert one <= 0.5
        queue.enqueue(Job())
        eventually(lambda: queue.metrics().utilisation > 0.5, "both workers to count")
        assert queue.metrics().utilisation <= 1

    def test_throughput_and_run_times_are_there_once_jobs_have_ended(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(lambda job: time.sleep(0.02), workers=1)
        assert queue.metrics().throughput == 0
        queue.enqueue_many([Job() for _ in range(3)])
        queue.join(DEADLINE)
        metrics = queue.metrics()
        assert 0 < metrics.throughput <= 50
        assert metrics.run.p50 >= 0.02
        assert metrics.wait.p99 >= 0.04  # the third waited for two others

    def test_oldest_queued_is_the_age_of_the_one_that_waits_longest(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        assert queue.metrics().oldest_queued == 0
        queue.enqueue(Job("holder"))
        comes_true(queue, lambda: queue.metrics().processing == 1, "the holder's start")
        assert queue.metrics().oldest_queued == 0
        before = time.monotonic()
        queue.enqueue(Job("oldest", priority=LOW))
        after = time.monotonic()
        eventually(lambda: time.monotonic() > after + 0.02, "the job to age")
        queue.enqueue(Job("younger", priority=HIGH))
        least = time.monotonic() - after
        oldest = queue.metrics().oldest_queued
        assert least <= oldest <= time.monotonic() - before
        gate.open()
        queue.join(DEADLINE)
        assert queue.metrics().oldest_queued == 0

    def test_a_recovered_job_is_as_old_as_it_was(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), path=path, workers=1)
        queue.enqueue_many([Job("holder"), Job("queued")])
        Background(queue.close, False, 0).result()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE job SET enqueued_at = enqueued_at - 3600")
            connection.commit()
        queue = open_queue(lambda job: gate.wait(), path=path, workers=1)
        comes_true(queue, lambda: queue.metrics().processing == 1, "the holder's start")
        assert 3_599 < queue.metrics().oldest_queued < 3_700

    @pytest.mark.parametrize("job_id", ["scheduled", "retried", "revived"])
    def test_it_is_as_old_as_it_is_ready_after_a_restart_too(
        self, open_queue: OpenQueue, path: str, gate: Gate, job_id: str
    ) -> None:
        """A job that came back to its lane has not waited there since it was enqueued."""
        held = Journal()

        def handler(job: Job) -> None:
            if job.id != "holder":
                raise Broken
            held.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path, workers=1, backoff=AT_ONCE, max_retries=1)
        if job_id == "revived":
            queue.wait(queue.enqueue(Job("revived")), DEADLINE)
        queue.enqueue_many([Job("retried"), Job("holder")])
        held.wait_for("holder")
        if job_id == "scheduled":
            queue.enqueue(Job("scheduled", run_at=0.001))
        if job_id == "revived":
            queue.retry("revived")
        comes_true(queue, lambda: queue.status(job_id) is Status.QUEUED, "the job to come back")
        Background(queue.close, False, 0).result()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM job WHERE id != ?", (job_id,))
            connection.execute("UPDATE job SET enqueued_at = enqueued_at - 3600")
            connection.commit()
        queue = open_queue(nothing, path=path)
        queue.wait(job_id, DEADLINE)
        assert queue.metrics().wait.p99 < 60

    def test_a_job_that_went_back_unstarted_has_waited_once(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """Its batch was stuck behind a slow one, and another batch took it."""
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "slow":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, workers=1)
        queue.enqueue_many([Job() for _ in range(500)])  # from which it learns that they are quick
        queue.join(DEADLINE)
        queue.enqueue_many([Job("slow"), *(Job() for _ in range(100))])
        started.wait_for("slow")
        comes_true(queue, lambda: queue.metrics().queued == 100, "those behind it to go back")
        gate.open()
        queue.join(DEADLINE)
        metrics = queue.metrics()
        assert sum(metrics.waits.counts) == sum(metrics.runs.counts) == metrics.completed == 601

    def test_a_late_coroutine_keeps_no_worker_busy(self, open_queue: OpenQueue) -> None:
        async def hang(job: Job) -> None:
            await asyncio.Event().wait()

        queue = open_queue(hang, workers=1, timeout=0.05, max_retries=1, backoff=NOT_TODAY)
        queue.enqueue(Job())
        comes_true(queue, lambda: queue.metrics().retrying == 1, "its time to be up")
        eventually(lambda: queue.metrics().utilisation < 0.5, "the worker to have been idle")

    def test_each_lane_has_an_oldest_of_its_own(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue(Job("holder"))
        comes_true(queue, lambda: queue.metrics().processing == 1, "the holder's start")
        queue.enqueue(Job(priority=LOW))
        eventually(lambda: queue.metrics().oldest_queued > 0.02, "the job to age")
        queue.enqueue(Job(priority=HIGH))
        metrics = queue.metrics()
        ages = [metrics.by_priority[priority].oldest_queued for priority in Priority]
        assert ages[0] < ages[2] == metrics.oldest_queued
        assert ages[1] == 0

    def test_group_commit_is_counted_by_its_size(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        queue.enqueue(Job())
        queue.enqueue_many([Job() for _ in range(100)])
        commits = queue.metrics().commits
        assert commits.total == 101
        assert (commits.counts[0], sum(commits.counts)) == (1, 2)

    def test_running_says_what_each_worker_is_on(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue({"slow": lambda job: gate.wait()}, workers=3)
        queue.enqueue_many([Job(name, kind="slow", priority=HIGH) for name in ("a", "b")])
        # No event tells this: a worker begins a moment after its job was started.
        eventually(lambda: len(queue.metrics().running) == 2, "both to start")
        first, second = queue.metrics().running
        assert {first.job_id, second.job_id} == {"a", "b"}
        assert first.worker != second.worker
        assert (first.kind, first.priority, first.attempt) == ("slow", HIGH, 1)
        eventually(lambda: queue.metrics().running[0].seconds > first.seconds, "time to pass")
        gate.open()
        queue.join(DEADLINE)
        assert not queue.metrics().running

    def test_metrics_do_not_change_afterwards(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        before = queue.metrics()
        queue.enqueue(Job())
        queue.join(DEADLINE)
        assert (before.accepted, before.completed) == (0, 0)
        with pytest.raises(AttributeError):
            before.completed = 5  # type: ignore[misc]
