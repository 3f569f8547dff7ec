"""Looking at jobs: status, record, lists, waiting, joining, and dead letters' second chance."""

from __future__ import annotations

import pickle
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from final import (
    DuplicateJob,
    Job,
    JobFailed,
    JobQueue,
    JobQueueError,
    JobRecord,
    PeriodicExists,
    Priority,
    QueueFull,
    Status,
    UnknownJob,
    UnknownPeriodic,
)
from tests.final import inside
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    eventually,
    learn_that_jobs_are_quick,
    nothing,
    plain,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal


def work(job: Job) -> object:
    """What the queues of this file do: the payload says what becomes of a job."""
    if job.payload == "fails":
        raise ValueError("it was to fail")
    return job.payload


class TestRecord:
    def test_a_completed_job(self, open_queue: OpenQueue) -> None:
        queue = open_queue({"email": work})
        before = time.time()
        queue.enqueue(Job("x", {"to": "a@example.org"}, Priority.HIGH, "email", timeout=DEADLINE))
        record = queue.wait("x", DEADLINE)
        after = time.time()
        assert record == JobRecord(
            id="x",
            payload={"to": "a@example.org"},
            priority=Priority.HIGH,
            kind="email",
            status=Status.COMPLETED,
            attempts=1,
            enqueued_at=record.enqueued_at,
            started_at=record.started_at,
            ended_at=record.ended_at,
            due_at=None,
            result={"to": "a@example.org"},
            error=None,
            timeout=DEADLINE,
            seq=record.seq,
        )
        assert record.started_at is not None
        assert record.ended_at is not None
        assert before <= record.enqueued_at <= record.started_at <= record.ended_at <= after

    def test_a_queued_job(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue_many([Job(), Job("x")])
        record = queue.get("x")
        assert (record.status, record.attempts, record.result) == (Status.QUEUED, 0, None)
        assert (record.started_at, record.ended_at, record.due_at) == (None, None, None)

    def test_a_job_in_flight(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait())
        queue.enqueue(Job("x"))
        reaches(queue, "x", Status.PROCESSING)
        record = queue.get("x")
        assert (record.attempts, record.ended_at) == (1, None)
        assert record.started_at is not None

    def test_a_retrying_job(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, backoff=NOT_TODAY)
        queue.enqueue(Job("x", "fails"))
        reaches(queue, "x", Status.RETRYING)
        record = queue.get("x")
        assert (record.attempts, record.error) == (1, "ValueError: it was to fail")
        assert (record.ended_at, record.result) == (None, None)
        assert record.due_at is not None
        assert record.due_at - time.time() == pytest.approx(86_400, abs=60)

    def test_a_dead_letter(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, max_retries=2, backoff=AT_ONCE)
        queue.enqueue(Job("x", "fails"))
        record = queue.wait("x", DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 3)
        assert record.error == "ValueError: it was to fail"
        assert (record.due_at, record.result) == (None, None)
        assert record.ended_at is not None


class TestUnknownIds:
    @pytest.mark.parametrize("job_id", ["unknown", "", "Ä", "x\0y", "\ud800"], ids=plain)
    @pytest.mark.parametrize("method", ["status", "get", "wait", "retry"])
    def test_an_unknown_id_is_an_error_in_a_sentence(
        self, open_queue: OpenQueue, method: str, job_id: str
    ) -> None:
        queue = open_queue(nothing)
        with pytest.raises(UnknownJob) as error:
            getattr(queue, method)(job_id)
        assert str(error.value).startswith(f"No job {job_id!r} in this queue: ")
        assert str(error.value).endswith(".")
        assert error.value.id == job_id

    def test_it_is_a_key_error_and_an_error_of_this_package(self) -> None:
        assert issubclass(UnknownJob, KeyError)
        assert issubclass(UnknownJob, JobQueueError)

    def test_like_each_error_of_this_package_it_can_be_sent_to_another_process(
        self, open_queue: OpenQueue
    ) -> None:
        """As what a ProcessPoolExecutor runs raises is: where it could not, the pool broke."""
        queue = open_queue(nothing)
        record = queue.wait(queue.enqueue(Job(meta={"user": "7"})), DEADLINE)
        for error in (
            *(UnknownJob("x", ["y"]), DuplicateJob(["x"], ["y"]), QueueFull("no room", ["y"])),
            *(JobFailed(record), UnknownPeriodic("nightly"), PeriodicExists("nightly")),
        ):
            error.add_note("while importing")
            sent = pickle.loads(pickle.dumps(error))
            assert (type(sent), str(sent), vars(sent)) == (type(error), str(error), vars(error))

    @pytest.mark.parametrize("job_id", [5, None, b"5"], ids=repr)
    @pytest.mark.parametrize("method", ["status", "get", "wait", "retry"])
    def test_what_is_no_text_is_no_id(
        self, open_queue: OpenQueue, method: str, job_id: Any
    ) -> None:
        """Not even where the text of it is one: SQLite would take 5 for "5"."""
        queue = open_queue(nothing)
        queue.enqueue(Job("5"))
        error = f"A job's id is text (str), not {type(job_id).__name__}."
        with pytest.raises(TypeError, match=re.escape(error)):
            getattr(queue, method)(job_id)


class TestLists:
    @pytest.fixture
    def queue(self, open_queue: OpenQueue) -> JobQueue:
        """Three jobs completed (c), two failed (f), in turns."""
        queue = open_queue(work, workers=1, max_retries=0)
        for job_id in ("c0", "f0", "c1", "f1", "c2"):
            queue.enqueue(Job(job_id, "fails" if job_id.startswith("f") else None))
        queue.join(DEADLINE)
        return queue

    def test_the_newest_come_first(self, queue: JobQueue) -> None:
        assert [job.id for job in queue.jobs()] == ["c2", "f1", "c1", "f0", "c0"]

    @pytest.mark.parametrize("status", [Status.COMPLETED, "completed"])
    def test_of_one_status_if_given(self, queue: JobQueue, status: Status | str) -> None:
        assert [job.id for job in queue.jobs(status)] == ["c2", "c1", "c0"]

    def test_there_may_be_none(self, queue: JobQueue) -> None:
        assert queue.jobs(Status.RETRYING) == []

    def test_without_payloads_and_results_if_nobody_wants_them(self, queue: JobQueue) -> None:
        whole, short = queue.jobs(), queue.jobs(payloads=False)
        assert [job.payload for job in whole].count("fails") == 2
        assert short == [replace(job, payload=None, result=None) for job in whole]

    @pytest.mark.parametrize("limit", [1, 2, 5, 100])
    def test_at_most_so_many(self, queue: JobQueue, limit: int) -> None:
        assert [job.id for job in queue.jobs(limit=limit)] == ["c2", "f1", "c1", "f0", "c0"][:limit]
        assert [job.id for job in queue.jobs("completed", limit)] == ["c2", "c1", "c0"][:limit]

    @pytest.mark.parametrize("status", ["done", "", "QUEUED", 5], ids=repr)
    def test_an_unknown_status_is_refused(self, queue: JobQueue, status: Any) -> None:
        with pytest.raises(ValueError, match=f"{status!r} is not a valid Status"):
            queue.jobs(status)

    def test_of_one_kind_and_priority_if_given(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, workers=1)
        for number, priority in enumerate(["high", "low", "high", "low"]):
            queue.enqueue(Job(f"j{number}", kind="ab"[number // 2], priority=Priority(priority)))
        assert [job.id for job in queue.jobs(kind="a")] == ["j1", "j0"]
        assert [job.id for job in queue.jobs(priority="low")] == ["j3", "j1"]
        assert [job.id for job in queue.jobs(kind="b", priority=Priority.HIGH)] == ["j2"]
        assert queue.jobs(kind="c") == []
        assert queue.jobs(kind="\ud800") == []  # no stored kind can have it

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    @pytest.mark.parametrize("status", [None, "completed"])
    def test_page_by_page_each_is_seen_once(
        self, queue: JobQueue, size: int, status: str | None
    ) -> None:
        expected = [job.id for job in queue.jobs(status)]
        seen = [job.id for job in queue.jobs(status, size)]
        while page := queue.jobs(status, size, before=seen[-1]):
            seen += [job.id for job in page]
            queue.enqueue(Job(f"new-{len(seen)}"))  # comes before the first page
            queue.join(DEADLINE)
        assert seen == expected

    def test_a_page_goes_on_where_the_last_one_has_been_let_go_of(self, queue: JobQueue) -> None:
        last = queue.jobs("failed", 1)[0]
        queue.purge()
        assert [job.id for job in queue.jobs(before=last.seq)] == ["c1", "c0"]
        with pytest.raises(UnknownJob):
            queue.jobs(before=last.id)

    @pytest.mark.parametrize("before", ["nobody", "", "\ud800"], ids=plain)
    def test_before_an_unknown_job_is_an_error(self, queue: JobQueue, before: str) -> None:
        with pytest.raises(UnknownJob):
            queue.jobs(before=before)

    def test_an_unknown_priority_is_refused(self, queue: JobQueue) -> None:
        with pytest.raises(ValueError, match="'urgent' is not a valid Priority"):
            queue.jobs(priority="urgent")

    def test_dead_letters_are_the_failed_ones(self, queue: JobQueue) -> None:
        assert [job.id for job in queue.dead_letters()] == ["f1", "f0"]
        assert queue.dead_letters() == queue.jobs(Status.FAILED)

    def test_all_dead_letters_are_listed_however_many(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, max_retries=0)
        queue.enqueue_many([Job(payload="fails") for _ in range(150)])
        queue.join(DEADLINE)
        assert len(queue.dead_letters()) == 150
        assert len(queue.jobs()) == 100  # the default limit

    def test_a_long_look_holds_up_nobody_but_those_who_look(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """For one who waits the queue looks, too: it has a connection of its own for that."""
        queue = open_queue(lambda job: gate.wait(), path=path)
        mapped = Background(list, queue.map([1, 2, 3]))
        eventually(lambda: len(inside.watched(queue)) == 3, "three jobs to be waited for")
        with inside.long_look(queue):
            gate.open()
            assert mapped.result() == [None, None, None]
            assert Background(queue.enqueue, Job("next")).result() == "next"

    def test_looking_from_many_threads_disturbs_nobody(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(work, path=path, workers=2)
        queue.enqueue(Job("first"))

        def look() -> int:
            looks = 0
            while looks == 0 or queue.metrics().completed < 302:
                assert queue.get("first").id == "first"
                assert queue.jobs(limit=1) != []
                looks += 1
            return looks

        queue.enqueue(Job("last", priority=Priority.LOW))
        threads = [Background(look) for _ in range(4)]
        queue.enqueue_many([Job() for _ in range(300)])
        assert sum(thread.result() for thread in threads) > 0


class TestWaiting:
    def test_for_a_job_that_has_ended(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work)
        queue.enqueue(Job("x", "result"))
        assert queue.wait("x", DEADLINE) == queue.wait("x") == queue.wait("x", 0) == queue.get("x")

    def test_for_a_job_that_is_still_queued(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue_many([Job(), Job("x")])
        waiting = [Background(queue.wait, "x") for _ in range(5)]
        gate.open()
        assert [w.result().status for w in waiting] == [Status.COMPLETED] * 5

    def test_for_a_job_whose_worker_goes_on_with_a_slow_one(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """Quick jobs are handed out many at a time; each has ended when it has ended."""
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "slow":
                started.write("slow")
                gate.wait()

        queue = open_queue(handler, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("quick"), Job("slow")])
        started.wait_for("slow")
        assert queue.wait("quick", DEADLINE / 2).status is Status.COMPLETED

    def test_for_a_job_that_ends_as_a_dead_letter(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, max_retries=1, backoff=AT_ONCE)
        queue.enqueue(Job("x", "fails"))
        assert queue.wait("x", DEADLINE).status is Status.FAILED

    @pytest.mark.parametrize("timeout", [0, 0.001])
    def test_no_longer_than_the_timeout(
        self, open_queue: OpenQueue, gate: Gate, timeout: float
    ) -> None:
        queue = open_queue(lambda job: gate.wait())
        queue.enqueue(Job("x"))
        patient = Background(queue.wait, "x")
        for _ in range(3):
            with pytest.raises(TimeoutError, match=r"Job x has not ended in time\."):
                queue.wait("x", timeout)
        gate.open()
        assert patient.result().status is Status.COMPLETED  # the others' giving up is no matter


class TestJoining:
    def test_returns_at_once_where_nothing_is(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.join(timeout=0)
        queue.enqueue(Job())
        queue.join(DEADLINE)
        queue.join(timeout=0)

    def test_waits_for_queued_processing_and_retrying_jobs(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            if job.id == "retrying" and started.entries.count("retrying") < 3:
                raise ValueError("not yet")
            if job.id == "slow":
                gate.wait()

        queue = open_queue(handler, workers=1, backoff=AT_ONCE)
        queue.enqueue_many([Job("slow"), Job("retrying"), Job("queued")])
        started.wait_for("slow")
        with pytest.raises(TimeoutError, match=r"unfinished jobs"):
            queue.join(timeout=0)
        joining = [Background(queue.join) for _ in range(3)]
        gate.open()
        for join in joining:
            join.result()
        counts = queue.metrics()
        assert counts.completed == counts.accepted == 3

    def test_a_retry_of_tomorrow_is_waited_for_too(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, backoff=NOT_TODAY)
        queue.enqueue(Job("x", "fails"))
        reaches(queue, "x", Status.RETRYING)
        with pytest.raises(TimeoutError):
            queue.join(timeout=0)

    def test_dead_letters_are_not_waited_for(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, max_retries=0)
        queue.enqueue(Job(payload="fails"))
        queue.join(DEADLINE)
        assert queue.metrics().failed == 1


class TestSecondChances:
    def test_a_retried_dead_letter_has_all_its_attempts_again(self, open_queue: OpenQueue) -> None:
        ran = Journal()

        def handler(job: Job) -> str:
            if ran.write(job.id) < 5:  # fails twice as a first chance, twice as a second
                raise ValueError("not yet")
            return "at last"

        queue = open_queue(handler, max_retries=1, backoff=AT_ONCE)
        queue.enqueue(Job("x"))
        for attempts in (2, 4):
            assert queue.wait("x", DEADLINE).status is Status.FAILED
            assert len(ran.entries) == attempts
            queue.retry("x")
        record = queue.wait("x", DEADLINE)
        assert (record.status, record.attempts) == (Status.COMPLETED, 1)
        assert (record.result, record.error) == ("at last", None)
        assert queue.dead_letters() == []

    def test_it_is_counted_as_one_job(self, open_queue: OpenQueue) -> None:
        queue = open_queue(work, max_retries=0)
        queue.enqueue(Job("x", "fails"))
        for _ in range(3):
            queue.join(DEADLINE)
            assert (queue.metrics().accepted, queue.metrics().failed) == (1, 1)
            queue.retry("x")
        queue.join(DEADLINE)
        assert (queue.metrics().accepted, queue.metrics().failed) == (1, 1)

    def test_it_finds_room_in_a_full_lane(self, open_queue: OpenQueue, gate: Gate) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "x" and "x" not in started.entries:
                started.write("x")
                raise ValueError("no")
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1, capacity=1, max_retries=0)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        queue.enqueue(Job("holder"))
        started.wait_for("holder")
        queue.enqueue(Job("filler"))
        queue.retry("x")  # it was accepted before
        assert queue.metrics().queued == 2
        gate.open()
        assert queue.wait("x", DEADLINE).status is Status.COMPLETED

    @pytest.mark.parametrize("status", ["completed", "processing", "queued", "retrying"])
    def test_only_a_dead_letter_can_be_retried(
        self, open_queue: OpenQueue, gate: Gate, status: str
    ) -> None:
        def handler(job: Job) -> None:
            if job.id == "processing":
                gate.wait()
            if job.id == "retrying":
                raise ValueError("not today")

        queue = open_queue(handler, workers=1, backoff=NOT_TODAY)
        for job_id in ("completed", "retrying", "processing", "queued"):
            queue.enqueue(Job(job_id))
            eventually(lambda i=job_id: queue.status(i) == i, f"a job to be {job_id}")  # type: ignore[misc]
        with pytest.raises(ValueError, match=f"Job {status} is {status}: only a failed job can be"):
            queue.retry(status)

    def test_of_many_threads_that_retry_it_one_is_enough(self, open_queue: OpenQueue) -> None:
        ran = Journal()

        def handler(job: Job) -> None:
            if ran.write(job.id) == 1:
                raise ValueError("no")

        queue = open_queue(handler, max_retries=0)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        done = 0
        for retrying in [Background(queue.retry, "x") for _ in range(8)]:
            try:
                retrying.result()
                done += 1
            except ValueError:
                pass  # it is not a dead letter any more
        queue.join(DEADLINE)
        assert done == 1
        assert ran.entries == ["x", "x"]
        counts = queue.metrics()
        assert (counts.accepted, counts.completed, counts.failed) == (1, 1, 0)


def test_a_path_may_be_a_path(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue(work, path=tmp_path / "jobs.db")
    assert queue.wait(queue.enqueue(Job(payload="ä")), DEADLINE).result == "ä"
