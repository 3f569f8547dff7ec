"""Results: kept with the job, handed out by ``get`` and ``wait``, and by ``map`` in order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator
from typing import Any, cast

import pytest

from final import (
    Job,
    JobFailed,
    JobQueue,
    Priority,
    QueueClosed,
    QueueFull,
    Status,
    TokenBucket,
    current_job,
)
from tests.final import inside
from tests.final.helpers import (
    AT_ONCE,
    OpenQueue,
    comes_true,
    completes,
    eventually,
    in_file,
    nothing,
    plain,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

VALUES = [
    *(b"", b"\x00\xff bytes", "", "text with ü and 語", 0, -1, 10**30, 1.5, True, False),
    *([], {}, [1, [2, {"a": None}]], {"nested": {"list": [1.25, "x"]}}),
]


class TestKept:
    @pytest.mark.parametrize("value", VALUES, ids=plain)
    def test_what_comes_out_equals_what_was_returned(
        self, open_queue: OpenQueue, path: str, value: object
    ) -> None:
        with open_queue(lambda job: value, path=path) as queue:
            record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
            assert (record.result, type(record.result)) == (value, type(value))
            assert queue.get("x") == record
        assert open_queue(nothing, path=path).get("x").result == value  # after a restart too

    def test_none_takes_no_room(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            assert queue.wait(queue.enqueue(Job()), DEADLINE).result is None
        assert in_file(path, "result") == [None]

    @pytest.mark.parametrize("value", [object(), {1: 2}, (1, 2), float("nan"), {"a"}])
    def test_what_cannot_be_kept_does_not_undo_the_work(
        self, open_queue: OpenQueue, value: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = open_queue(lambda job: value, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.attempts, record.result) == (Status.COMPLETED, 1, None)
        assert str(record.error).startswith("The result ")
        assert str(record.error).endswith("The job completed; its result is not kept.")
        assert Background(queue.close).result() is True  # then all of the log is written
        assert caplog.messages == [f"job x: {record.error}"]

    def test_nor_does_one_that_is_too_large(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: b"x" * int(str(job.payload)), max_payload=100)
        assert queue.wait(queue.enqueue(Job(payload=100)), DEADLINE).result == b"x" * 100
        record = queue.wait(queue.enqueue(Job(payload=101)), DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, None)
        assert "The result takes 101 bytes, more than the limit of 100" in str(record.error)

    @pytest.mark.parametrize("value", [None, "fine"])
    def test_an_error_of_an_earlier_attempt_is_not_that_of_a_completed_job(
        self, open_queue: OpenQueue, value: object
    ) -> None:
        def handler(job: Job) -> object:
            if current_job().attempt == 1:
                raise ValueError("not yet")
            return value

        queue = open_queue(handler, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.result, record.error) == (Status.COMPLETED, value, None)
        assert [attempt.error for attempt in queue.attempts("x")] == ["ValueError: not yet"]


class TestOrder:
    def test_results_come_in_the_order_of_the_payloads(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """However late the first one is: it is waited for, and the others wait in the file."""
        ended = Journal()

        def handler(job: Job) -> object:
            if job.payload == 0:
                gate.wait()
            ended.write(job.payload)
            return job.payload

        queue = open_queue(handler, workers=4)
        results = Background(lambda: list(queue.map(range(100))))
        ended.wait_for(50)
        assert 0 not in ended.entries
        gate.open()
        assert results.result() == list(range(100))

    def test_nothing_in_nothing_out(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        assert list(queue.map([])) == []
        assert queue.metrics().accepted == 0

    def test_kind_and_priority_are_those_of_the_jobs(self, open_queue: OpenQueue) -> None:
        queue = open_queue({"a": nothing, "b": lambda job: [job.kind, job.priority]})
        assert list(queue.map([1], kind="b", priority=Priority.HIGH)) == [["b", "high"]]

    def test_two_maps_do_not_mix(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload)
        even, odd = queue.map(range(0, 100, 2)), queue.map(range(1, 100, 2))
        assert [*itertools.chain(*zip(even, odd, strict=True))] == list(range(100))


class TestWindow:
    @pytest.fixture
    def taken(self) -> list[int]:
        return []

    @pytest.fixture
    def endless(self, taken: list[int]) -> Iterator[int]:
        """All the numbers; ``taken`` says which ones somebody has asked for."""

        def take(n: int) -> int:
            taken.append(n)
            return n

        return map(take, itertools.count())

    def test_payloads_may_be_endless(self, open_queue: OpenQueue, endless: Iterator[int]) -> None:
        queue = open_queue(lambda job: job.payload)
        assert list(itertools.islice(queue.map(endless), 500)) == list(range(500))

    def test_nothing_is_asked_for_before_the_first_result_is(
        self, open_queue: OpenQueue, endless: Iterator[int], taken: list[int]
    ) -> None:
        queue = open_queue(nothing)
        queue.map(endless)
        assert taken == []

    def test_a_small_lane_keeps_no_worker_from_taking_part(self, open_queue: OpenQueue) -> None:
        together = threading.Barrier(4)
        queue = open_queue(lambda job: together.wait(DEADLINE) >= 0, workers=4, capacity=1)
        assert Background(lambda: list(queue.map(range(8)))).result() == [True] * 8

    def test_in_a_small_lane_no_result_is_waited_for_longer(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1, capacity=4)

        def first_result() -> None:
            with pytest.raises(TimeoutError):
                next(iter(queue.map(range(16), timeout=0)))

        Background(first_result).result()
        gate.open()

    def test_it_never_runs_far_ahead(
        self, open_queue: OpenQueue, endless: Iterator[int], taken: list[int]
    ) -> None:
        workers = 2
        queue = open_queue(lambda job: job.payload, workers=workers)
        results = itertools.islice(queue.map(endless), 300)
        ahead = [len(taken) - n for n, _ in enumerate(results)]
        assert max(ahead) <= 16 * workers
        assert queue.metrics().accepted <= 300 + 16 * workers

    def test_a_window_may_be_larger_than_a_lane(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload, workers=2, capacity=3)
        assert list(queue.map(range(100), timeout=DEADLINE)) == list(range(100))


class TestFailure:
    def test_the_first_failure_is_raised_in_its_place(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> object:
            if job.payload in (3, 5):
                raise ValueError(f"no {job.payload}")
            return job.payload

        queue = open_queue(handler, max_retries=0)
        results = queue.map(range(10))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(JobFailed, match="is failed: ValueError: no 3") as failure:
            next(results)
        record = failure.value.record
        assert (record.payload, record.status) == (3, Status.FAILED)
        assert queue.get(record.id) == record
        assert list(results) == []

    def test_a_retry_is_no_failure(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            if current_job().attempt == 1:
                raise ValueError("not yet")

        queue = open_queue(handler, backoff=AT_ONCE)
        assert list(queue.map(range(10), timeout=DEADLINE)) == [None] * 10

    def test_a_result_that_was_not_kept_is_one(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: {1, 2})
        with pytest.raises(JobFailed, match="is completed: The result must be bytes or a JSON"):
            list(queue.map([1]))

    def test_so_is_a_job_that_somebody_cancels(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, rate_limit={"default": TokenBucket(1 / 86_400)})
        results = Background(lambda: list(queue.map(range(3))))
        comes_true(
            queue,
            lambda: (queue.metrics().completed, queue.metrics().queued) == (1, 2),
            "the one that may run to be through",
        )
        assert queue.cancel(queue.jobs(Status.QUEUED)[-1].id) is True
        with pytest.raises(JobFailed, match="is cancelled: no result"):
            results.result()

    def test_a_payload_that_cannot_be_stored_is_named(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        with pytest.raises(TypeError, match=r"Job.payload must be bytes or a JSON value"):
            list(queue.map([1, object()]))

    def test_payloads_that_raise_are_heard(self, open_queue: OpenQueue) -> None:
        def payloads() -> Iterator[int]:
            yield from range(100)
            raise ZeroDivisionError

        results = open_queue(lambda job: job.payload).map(payloads())
        with pytest.raises(ZeroDivisionError):
            list(results)


class TestStopping:
    @pytest.fixture
    def slow(self, open_queue: OpenQueue, gate: Gate) -> JobQueue:
        """A queue with one worker, held at the gate by every job but the first."""
        self.ran = Journal()

        def handler(job: Job) -> object:
            self.ran.write(job.payload)
            if job.payload != 0:
                gate.wait()
            return job.payload

        return open_queue(handler, workers=1)

    def test_whoever_stops_early_cancels_what_waits(self, slow: JobQueue, gate: Gate) -> None:
        for result in slow.map(range(16), timeout=DEADLINE):
            assert result == 0
            self.ran.wait_for(1)
            break
        gate.open()
        slow.join(DEADLINE)
        assert self.ran.entries == [0, 1]
        counts = slow.metrics()
        assert (counts.accepted, counts.completed, counts.cancelled) == (16, 2, 14)

    def test_jobs_that_the_history_has_let_go_of_are_no_trouble(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(nothing, workers=1, history=16)
        results = cast("Generator[object, None, None]", queue.map(range(16), timeout=DEADLINE))
        next(results)
        others = queue.enqueue_many([Job() for _ in range(16)])
        eventually(
            lambda: [record.id for record in queue.jobs()] == others[::-1], "the others to be left"
        )
        results.close()  # would cancel what waits

    def test_a_result_that_takes_too_long_does_so_too(self, slow: JobQueue, gate: Gate) -> None:
        results = slow.map(range(1, 17), timeout=0.05)
        with pytest.raises(TimeoutError, match="has not ended in time"):
            next(results)
        gate.open()
        slow.join(DEADLINE)
        assert slow.metrics().cancelled >= 15
        assert list(results) == []

    def test_a_failure_does_so_too(self, open_queue: OpenQueue, gate: Gate) -> None:
        def handler(job: Job) -> None:
            if job.payload == 0:
                raise ValueError("no")
            gate.wait()

        queue = open_queue(handler, workers=1, max_retries=0)
        with pytest.raises(JobFailed):
            next(queue.map(range(16), timeout=DEADLINE))
        gate.open()
        queue.join(DEADLINE)
        assert queue.metrics().cancelled >= 14

    def test_jobs_that_came_in_before_a_full_lane_do_not_stay(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1, capacity=3, overflow="reject")
        queue.enqueue(Job("runs"))
        reaches(queue, "runs", Status.PROCESSING)
        queue.enqueue(Job("waits"))
        with pytest.raises(QueueFull):
            next(queue.map(range(16)))
        counts = queue.metrics()
        assert (counts.queued, counts.cancelled) == (1, 2)

    @pytest.mark.parametrize("overflow", ["block", "reject", "drop-newest", "drop-oldest"])
    def test_a_small_lane_is_no_trouble(self, open_queue: OpenQueue, overflow: Any) -> None:
        queue = open_queue(lambda job: job.payload, capacity=3, overflow=overflow)
        assert list(queue.map(range(100), timeout=DEADLINE)) == list(range(100))

    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    def test_to_stop_after_closing_is_quiet(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload)
        results = queue.map(range(100))
        assert next(results) == 0
        assert queue.close() is True
        results.close()  # type: ignore[attr-defined]

    def test_closing_is_heard_by_whoever_waits(self, slow: JobQueue) -> None:
        results = Background(lambda: list(slow.map(range(16))))
        self.ran.wait_for(1)
        Background(slow.close, True, 0).result()
        with pytest.raises(QueueClosed):
            results.result()


def test_many_threads_may_map_at_once(open_queue: OpenQueue) -> None:
    queue = open_queue(lambda job: job.payload)
    start = threading.Barrier(4)

    def consume(first: int) -> list[Any]:
        start.wait(DEADLINE)
        return list(queue.map(range(first, first + 200)))

    calls = [Background(consume, 1000 * n) for n in range(4)]
    for n, call in enumerate(calls):
        assert call.result() == list(range(1000 * n, 1000 * n + 200))
    assert completes(queue)


def test_a_wait_may_be_longer_than_a_lock_can_wait_at_a_time(
    open_queue: OpenQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows that is 49 days."""
    queue = open_queue(lambda job: gate.wait(), workers=1)
    job_id = queue.enqueue(Job())
    with monkeypatch.context() as patch:
        patch.setattr("threading.TIMEOUT_MAX", 0.001)
        with pytest.raises(TimeoutError):
            queue.wait(job_id, timeout=0.01)
        waiting = Background(queue.wait, job_id, DEADLINE)
        eventually(lambda: job_id in inside.watched(queue), "somebody to wait")
        gate.open()
        assert waiting.result().status is Status.COMPLETED
