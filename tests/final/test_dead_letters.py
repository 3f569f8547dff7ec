"""Dead letters: what failed for good is kept, with all that is known, for another chance."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from final import Handler, Job, JobQueue, PermanentFailure, Status, UnknownJob, current_job
from final.engine.messages import GiveOrder
from final.ledger.base import Retry
from tests.final import inside
from tests.final.helpers import (
    AT_ONCE,
    OpenQueue,
    completes,
    in_file,
    nothing,
)
from tests.helpers import DEADLINE, Background, Gate, Journal


class Repair:
    """Handlers that fail until they are repaired."""

    def __init__(self) -> None:
        self.repaired: set[str] = set()

    def __call__(self, job: Job) -> str:
        if job.kind not in self.repaired:
            raise ValueError(f"no {job.kind} today")
        return "at last"


@pytest.fixture
def repair() -> Repair:
    return Repair()


@pytest.fixture
def queue(open_queue: OpenQueue, repair: Repair, path: str) -> JobQueue:
    """A queue with three dead letters: two emails and an invoice."""
    queue = open_queue(
        {"email": repair, "invoice": repair}, path=path, max_retries=1, backoff=AT_ONCE
    )
    queue.enqueue_many(
        [Job("e1", kind="email"), Job("i1", kind="invoice"), Job("e2", kind="email")]
    )
    queue.join(DEADLINE)
    return queue


def letters(queue: JobQueue) -> list[str]:
    return [record.id for record in queue.dead_letters()]


class Gone(PermanentFailure):
    pass


def gone(job: Job) -> None:
    raise Gone("the account was deleted")


async def gone_too(job: Job) -> None:
    gone(job)


class TestFailingForGood:
    @pytest.mark.parametrize(
        ("handler", "options"),
        [(gone, {}), (gone_too, {}), (gone, {"executor": "process", "workers": 1})],
        ids=["thread", "coroutine", "process"],
    )
    def test_a_handler_may_say_that_no_retry_would_help(
        self, open_queue: OpenQueue, handler: Handler, options: dict[str, Any]
    ) -> None:
        queue = open_queue(handler, max_retries=3, backoff=AT_ONCE, **options)
        record = queue.wait(queue.enqueue(Job("x")), 3 * DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 1)
        assert record.error == "tests.final.test_dead_letters.Gone: the account was deleted"
        assert letters(queue) == ["x"]
        assert "in gone" in queue.attempts("x")[0].traceback

    def test_also_after_failures_that_were_worth_a_retry(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            if current_job().attempt == 2:
                raise PermanentFailure("now I know")
            raise ConnectionError("busy")

        queue = open_queue(handler, max_retries=3, backoff=AT_ONCE)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).attempts == 2

    def test_also_one_of_several_tasks(self, open_queue: OpenQueue) -> None:
        async def raises(error: Exception) -> None:
            raise error

        async def handler(job: Job) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(raises(ConnectionError("busy")))
                tasks.create_task(raises(PermanentFailure("no such address")))

        queue = open_queue(handler, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 1)

    def test_it_can_be_retried_by_hand(self, open_queue: OpenQueue, repair: Repair) -> None:
        def handler(job: Job) -> str:
            try:
                return repair(job)
            except ValueError as error:
                raise PermanentFailure("until somebody mends it") from error

        queue = open_queue(handler)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        repair.repaired.add("default")
        queue.retry("x")
        assert queue.wait("x", DEADLINE).result == "at last"

    def test_a_cancelled_job_is_cancelled_all_the_same(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()
            gone(job)

        queue = open_queue(handler)
        queue.enqueue(Job("x"))
        started.wait_for("x")
        assert queue.cancel("x")
        gate.open()
        assert queue.wait("x", DEADLINE).status is Status.CANCELLED

    def test_a_late_attempt_has_failed_for_its_time_alone(self, open_queue: OpenQueue) -> None:
        """Who notices first, the dispatcher or the worker, makes no difference."""

        def handler(job: Job) -> None:
            if current_job().attempt == 1:
                current_job().sleep(DEADLINE)
                gone(job)

        queue = open_queue(handler, max_retries=100, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job(timeout=0.05)), DEADLINE)
        # The second attempt completes it, unless the machine is so busy that it is late as well.
        assert (record.status, record.attempts >= 2) == (Status.COMPLETED, True)

    def test_the_log_says_why_there_is_no_retry(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = open_queue(gone)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert Background(queue.close).result() is True  # then all of the log is written
        assert caplog.messages == [
            "job x failed, attempt 1, for good: "
            "tests.final.test_dead_letters.Gone: the account was deleted"
        ]


class TestLooking:
    def test_they_are_listed_newest_first(self, queue: JobQueue) -> None:
        assert letters(queue) == ["e2", "i1", "e1"]
        assert {record.status for record in queue.dead_letters()} == {Status.FAILED}
        assert queue.metrics().failed == 3

    def test_all_of_them_however_many(self, open_queue: OpenQueue, repair: Repair) -> None:
        queue = open_queue(repair, max_retries=0)
        queue.enqueue_many([Job() for _ in range(300)])
        queue.join(DEADLINE)
        assert len(queue.dead_letters()) == 300

    def test_the_last_error_is_in_the_record(self, queue: JobQueue) -> None:
        assert [record.error for record in queue.dead_letters()] == [
            "ValueError: no email today",
            "ValueError: no invoice today",
            "ValueError: no email today",
        ]

    def test_each_attempt_is_there_with_its_times_and_traceback(self, queue: JobQueue) -> None:
        record, attempts = queue.get("i1"), queue.attempts("i1")
        assert [attempt.number for attempt in attempts] == [1, 2]
        for attempt in attempts:
            assert attempt.error == "ValueError: no invoice today"
            assert attempt.traceback.startswith("Traceback (most recent call last):")
            assert "in __call__" in attempt.traceback
            assert attempt.traceback.endswith("ValueError: no invoice today\n")
        times = [record.enqueued_at]
        for attempt in attempts:
            times += [attempt.started_at, attempt.ended_at]
        assert times == pytest.approx(sorted(times), abs=0.01)  # two clocks: wall and monotonic
        assert record.ended_at == attempts[-1].ended_at
        assert abs(times[-1] - time.time()) < 60

    def test_a_job_without_failures_has_no_attempts_to_show(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert queue.attempts("x") == []


class TestRetry:
    def test_one_gets_all_its_attempts_again(self, queue: JobQueue, repair: Repair) -> None:
        queue.retry("i1")
        queue.join(DEADLINE)
        record = queue.get("i1")
        assert (record.status, record.attempts) == (Status.FAILED, 2)
        assert [attempt.number for attempt in queue.attempts("i1")] == [1, 2, 1, 2]
        repair.repaired.add("invoice")
        queue.retry("i1")
        record = queue.wait("i1", DEADLINE)
        assert (record.status, record.attempts, record.result) == (Status.COMPLETED, 1, "at last")
        assert record.error is None
        assert letters(queue) == ["e2", "e1"]
        assert (queue.metrics().failed, queue.metrics().completed) == (2, 1)

    def test_only_a_dead_letter_can_be_retried(self, queue: JobQueue, repair: Repair) -> None:
        repair.repaired.add("email")
        queue.wait(queue.enqueue(Job("done", kind="email")), DEADLINE)
        with pytest.raises(ValueError, match="Job done is completed: only a failed job can be"):
            queue.retry("done")
        with pytest.raises(UnknownJob, match="No job 'nobody' in this queue"):
            queue.retry("nobody")

    def test_all_of_a_kind(self, queue: JobQueue, repair: Repair) -> None:
        repair.repaired |= {"email", "invoice"}
        assert queue.retry_all("email") == 2
        queue.join(DEADLINE)
        assert letters(queue) == ["i1"]
        assert queue.retry_all("email") == 0
        assert queue.retry_all("unknown kind") == 0

    def test_all_there_are(self, queue: JobQueue, repair: Repair) -> None:
        repair.repaired |= {"email", "invoice"}
        assert queue.retry_all() == 3
        queue.join(DEADLINE)
        assert letters(queue) == []
        counts = queue.metrics()
        assert (counts.completed, counts.failed, counts.accepted) == (3, 0, 3)

    def test_they_go_to_the_back_of_their_lane_oldest_first(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        ran = Journal()

        def handler(job: Job) -> None:
            if ran.write(job.id) == 1 and job.payload == "bad":
                raise ValueError("once")
            if job.id == "holder":
                gate.wait()

        queue = open_queue(handler, workers=1, max_retries=0, capacity=2)
        bad = [Job(f"bad-{n}", payload="bad") for n in range(5)]
        queue.enqueue_many(bad)
        queue.join(DEADLINE)
        queue.enqueue(Job("holder"))
        ran.wait_for("holder")
        queue.enqueue_many([Job("a"), Job("b")])
        assert queue.retry_all() == 5  # into a full lane: they were accepted before
        assert queue.metrics().queued == 7
        gate.open()
        queue.join(DEADLINE)
        assert ran.entries[6:] == ["a", "b", *(job.id for job in bad)]

    def test_those_without_a_handler_stay(
        self, queue: JobQueue, open_queue: OpenQueue, path: str
    ) -> None:
        queue.close()
        queue = open_queue({"email": nothing}, path=path)
        assert queue.retry_all() == 2
        queue.join(DEADLINE)
        assert letters(queue) == ["i1"]
        with pytest.raises(ValueError, match="'invoice'"):
            queue.retry("i1")

    def test_of_two_who_retry_at_once_one_does(self, queue: JobQueue) -> None:
        """The status is looked at first, but the dispatcher decides."""
        first, second = orders = [GiveOrder[int](Retry("i1")) for _ in range(2)]
        inside.ask_at_once(queue, orders)
        assert first.result() == 1
        with pytest.raises(ValueError, match="Job i1 is not a dead letter"):
            second.result()


class TestPurge:
    def test_all_of_a_kind(self, queue: JobQueue) -> None:
        assert queue.purge("email") == 2
        assert letters(queue) == ["i1"]
        assert queue.purge("email") == 0
        with pytest.raises(UnknownJob):
            queue.get("e1")

    def test_all_there_are_with_their_attempts(self, queue: JobQueue, path: str) -> None:
        assert queue.purge() == 3
        assert letters(queue) == []
        assert queue.attempts("i1") == []
        queue.close()
        assert in_file(path, "id") == []
        assert in_file(path, "seq", "failure") == []

    def test_nothing_else_goes(self, queue: JobQueue, repair: Repair) -> None:
        repair.repaired.add("email")
        queue.wait(queue.enqueue(Job("done", kind="email")), DEADLINE)
        queue.enqueue(Job("later", kind="email", run_at=3600))
        assert queue.purge() == 3
        assert [record.id for record in queue.jobs()] == ["later", "done"]
        counts = queue.metrics()
        assert (counts.failed, counts.completed, counts.scheduled) == (0, 1, 1)
        assert counts.accepted == 2

    def test_the_id_is_free_again(self, queue: JobQueue) -> None:
        queue.purge("invoice")
        assert queue.enqueue(Job("i1", kind="invoice")) == "i1"


class TestAfterARestart:
    def test_they_are_there_and_do_not_run(
        self, queue: JobQueue, open_queue: OpenQueue, path: str, repair: Repair
    ) -> None:
        before = queue.dead_letters(), queue.attempts("i1")
        queue.close()
        repair.repaired |= {"email", "invoice"}
        queue = open_queue({"email": repair, "invoice": repair}, path=path)
        assert completes(queue, Job(kind="email"))
        assert (queue.dead_letters(), queue.attempts("i1")) == before
        queue.retry("i1")
        assert queue.wait("i1", DEADLINE).status is Status.COMPLETED

    def test_a_second_chance_is_durable(
        self, queue: JobQueue, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        queue.close()
        held = Journal()

        def handler(job: Job) -> None:
            held.write(job.id)
            gate.wait()

        queue = open_queue({"email": handler, "invoice": handler}, path=path, workers=1)
        queue.retry_all()
        held.wait_for("e1")
        queue.close(timeout=0)
        queue = open_queue({"email": nothing, "invoice": nothing}, path=path)
        queue.join(DEADLINE)
        assert letters(queue) == []
        assert [(r.id, r.attempts) for r in queue.jobs()] == [("e2", 1), ("i1", 1), ("e1", 1)]

    def test_an_attempt_that_was_late_stays_beside_those_after_it(
        self, open_queue: OpenQueue, repair: Repair, path: str, gate: Gate
    ) -> None:
        """The late one is fenced off by a token, which the next process may give to the next."""
        options = {"path": path, "workers": 1, "max_retries": 0}
        with open_queue(lambda job: gate.wait(), timeout=0.01, **options) as queue:
            assert queue.wait(queue.enqueue(Job("x")), DEADLINE).status is Status.FAILED
            [late] = queue.attempts("x")
            gate.open()
        queue = open_queue(repair, **options)
        queue.retry("x")
        assert queue.wait("x", DEADLINE).status is Status.FAILED
        assert queue.attempts("x")[0] == late
        assert [attempt.error for attempt in queue.attempts("x")] == [
            late.error,
            "ValueError: no default today",
        ]
