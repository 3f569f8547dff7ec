"""Time-outs: a late attempt has failed, its worker is replaced, and what it does later is void."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest

from final import CurrentJob, Job, JobQueue, Priority, Status, current_job
from final.job import Task
from tests.final import inside
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    completes,
    fall_due,
    learn_that_jobs_are_quick,
    nothing,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

SOON = 0.03  # seconds; a time-out that is meant to strike
LATE = 60.0  # one that is not


class TestWhoListens:
    def test_a_handler_that_sleeps_by_its_job_is_woken_at_its_deadline(
        self, open_queue: OpenQueue
    ) -> None:
        slept = Journal()

        def handler(job: Job) -> None:
            current = current_job()
            slept.write(current.sleep(LATE))
            slept.write(current.cancelled)

        queue = open_queue(handler, timeout=SOON, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 1)
        slept.wait_for_count(2)
        assert slept.entries == [False, True]

    def test_it_may_sleep_for_ever(self, open_queue: OpenQueue, journal: Journal) -> None:
        def sleep(job: Job) -> bool:
            journal.write(job.id)
            return current_job().sleep(math.inf)

        queue = open_queue(sleep, timeout=SOON, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.error == f"TimeoutError: the attempt took longer than {SOON:g} s."
        queue = open_queue(sleep)
        job_id = queue.enqueue(Job())
        journal.wait_for(job_id)  # one that has not begun would not see its cancel
        assert queue.cancel(job_id)
        assert queue.wait(job_id, DEADLINE).result is False

    def test_it_sleeps_no_longer_than_to_its_deadline_though_nobody_wakes_it(self) -> None:
        """The dispatcher does so, when it comes to it; it may be busy."""
        task, now = Task("x", "null", Priority.LOW, "default"), time.monotonic()
        current = CurrentJob(task, attempt=1, token=1, deadline=now + SOON, batch=None)
        assert Background(current.sleep, LATE).result() is False

    def test_to_return_in_time_is_to_complete(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> bool:
            return current_job().sleep(0.001)

        queue = open_queue(handler, timeout=LATE)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.status, record.attempts, record.result) == (Status.COMPLETED, 1, True)

    def test_to_return_at_the_deadline_is_too_late(self, open_queue: OpenQueue) -> None:
        """Not now so and now so, as the threads happen to run."""

        def handler(job: Job) -> str:
            deadline = current_job().deadline
            assert deadline is not None
            while time.monotonic() < deadline:
                pass
            return "just"

        queue = open_queue(handler, timeout=0.002, max_retries=0, workers=2)
        ids = queue.enqueue_many([Job() for _ in range(40)])
        assert {queue.wait(job_id, DEADLINE).status for job_id in ids} == {Status.FAILED}
        assert {queue.get(job_id).result for job_id in ids} == {None}

    def test_nor_is_it_told_that_such_a_job_has_completed(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of a result that cannot be kept the log says so, and of what completed alone."""

        def handler(job: Job) -> set[str]:
            deadline = current_job().deadline
            assert deadline is not None
            while time.monotonic() < deadline:
                pass
            return {"just"}

        queue = open_queue(handler, timeout=0.002, max_retries=0, workers=2)
        queue.enqueue_many([Job() for _ in range(40)])
        queue.close()
        assert "took longer than 0.002 s" in caplog.text
        assert "completed" not in caplog.text

    def test_without_a_timeout_there_is_no_deadline(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: current_job().deadline is None)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).result is True


class TestWhoIgnores:
    @pytest.fixture
    def stuck(self, open_queue: OpenQueue, gate: Gate) -> JobQueue:
        """A queue with one worker; the first attempt at "stuck" hangs at the gate.

        On a busy machine the second attempt may take too long as well, and the third ...
        """
        self.ended, self.attempts = Journal(), Journal()

        def handler(job: Job) -> str:
            attempt = current_job().attempt
            self.attempts.write((job.id, attempt))
            if (job.id, attempt) == ("stuck", 1):
                gate.wait()
                self.ended.write("the first attempt")
                return "late"
            return f"attempt {attempt}"

        return open_queue(handler, workers=1, timeout=LATE, max_retries=100, backoff=AT_ONCE)

    def test_the_next_job_runs_while_the_first_still_hangs(self, stuck: JobQueue) -> None:
        stuck.enqueue_many([Job("stuck", timeout=SOON), Job("next")])
        assert stuck.wait("next", DEADLINE).status is Status.COMPLETED
        assert self.ended.entries == []

    def test_the_result_is_that_of_the_retry_whatever_the_first_attempt_returns(
        self, stuck: JobQueue, gate: Gate
    ) -> None:
        stuck.enqueue(Job("stuck", timeout=SOON))
        record = stuck.wait("stuck", DEADLINE)
        assert record.status is Status.COMPLETED
        assert record.result == f"attempt {record.attempts}" != "attempt 1"
        gate.open()
        self.ended.wait_for("the first attempt")
        assert completes(stuck)  # by now its report would have been taken in
        assert stuck.get("stuck") == record
        assert stuck.metrics().completed == 2

    def test_an_attempt_that_ends_late_does_not_end_the_running_one(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """The fence, seen while the second attempt still runs."""
        started, ended, second = Journal(), Journal(), Gate()

        def handler(job: Job) -> str:
            attempt = current_job().attempt
            started.write(attempt)
            (gate if attempt == 1 else second).wait()
            ended.write(attempt)
            return f"attempt {attempt}"

        # On a slow machine the second attempt may time out too: then all this is about the third.
        queue = open_queue(
            {"slow": handler, "other": nothing}, workers=2, max_retries=100, backoff=AT_ONCE
        )
        queue.enqueue(Job("slow", kind="slow", timeout=0.5))
        started.wait_for(2)
        gate.open()
        ended.wait_for(1)
        assert completes(queue, Job(kind="other"))
        assert queue.status("slow") is not Status.COMPLETED
        second.open()
        record = queue.wait("slow", DEADLINE)
        assert (record.status, record.result != "attempt 1") == (Status.COMPLETED, True)

    def test_what_it_asks_of_its_job_afterwards_is_about_its_own_attempt(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """Above all the token: another system refuses what an older attempt sends late."""
        answers = Journal()

        def handler(job: Job) -> None:
            first = current_job()
            seen = (first.attempt, first.token)
            if first.attempt == 1:
                gate.wait()
            again = current_job()
            answers.write((seen, (again.attempt, again.token), again.cancelled))

        queue = open_queue(handler, max_retries=100, backoff=AT_ONCE)
        queue.enqueue(Job("stuck", timeout=SOON))
        attempts = queue.wait("stuck", DEADLINE).attempts
        assert attempts >= 2  # more, if the second one, too, took too long on a busy machine
        gate.open()
        answers.wait_for_count(attempts)
        by_attempt = {seen[0]: (seen, again, stop) for seen, again, stop in answers.entries}
        for seen, again, _ in by_attempt.values():
            assert seen == again
        assert by_attempt[1][2] is True
        assert by_attempt[1][0][1] < by_attempt[2][0][1]

    def test_the_number_of_workers_stays_what_it_was(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        before = set(threading.enumerate())

        def handler(job: Job) -> None:
            if job.payload == "stuck":
                gate.wait()

        queue = open_queue(handler, workers=2, max_retries=0)
        normal = len(set(threading.enumerate()) - before)
        ids = queue.enqueue_many([Job(payload="stuck", timeout=SOON) for _ in range(6)])
        assert {queue.wait(job_id, DEADLINE).status for job_id in ids} == {Status.FAILED}
        counts = queue.metrics()
        assert (counts.failed, counts.processing) == (6, 0)
        abandoned = set(threading.enumerate()) - before
        assert len(abandoned) == normal + 6  # they hang at the gate, and harm nobody
        gate.open()
        for thread in abandoned - set(inside.workers(queue)):
            if thread.name.startswith("final-worker"):
                thread.join(DEADLINE)
        assert len(set(threading.enumerate()) - before) == normal
        assert Background(queue.close).result() is True
        assert set(threading.enumerate()) <= before

    def test_closing_does_not_wait_for_it(self, stuck: JobQueue) -> None:
        stuck.enqueue(Job("stuck", timeout=SOON))
        assert stuck.wait("stuck", DEADLINE).result != "late"
        assert Background(stuck.close).result() is True
        assert self.ended.entries == []

    def test_jobs_behind_it_in_a_batch_go_to_the_others_uncharged(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        def handler(job: Job) -> None:
            if job.id == "stuck":
                gate.wait()

        queue = open_queue(handler, workers=1, max_retries=0)
        learn_that_jobs_are_quick(queue)
        quick = [Job() for _ in range(20)]
        queue.enqueue_many([*quick[:10], Job("stuck", timeout=SOON), *quick[10:]])
        queue.join(DEADLINE)
        assert [queue.get(job.id).attempts for job in quick] == [1] * 20
        assert queue.status("stuck") is Status.FAILED


class TestAsAFailure:
    @pytest.fixture
    def hanging(self, gate: Gate) -> Any:
        return lambda job: gate.wait()

    def test_it_is_an_attempt_with_a_sentence(self, open_queue: OpenQueue, hanging: Any) -> None:
        queue = open_queue(hanging, timeout=SOON, max_retries=2, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 3)
        assert record.error == "TimeoutError: the attempt took longer than 0.03 s."
        assert [a.number for a in queue.attempts("x")] == [1, 2, 3]
        for attempt in queue.attempts("x"):
            assert attempt.error == record.error
            assert SOON * 0.9 <= attempt.ended_at - attempt.started_at < DEADLINE
        assert [letter.id for letter in queue.dead_letters()] == ["x"]

    def test_it_waits_for_its_retry_like_any_other(
        self, open_queue: OpenQueue, hanging: Any
    ) -> None:
        queue = open_queue(hanging, timeout=SOON, backoff=NOT_TODAY)
        queue.enqueue(Job("x"))
        reaches(queue, "x", Status.RETRYING)
        counts = queue.metrics()
        assert (counts.retrying, counts.processing) == (1, 0)

    def test_a_jobs_own_timeout_wins_over_the_queues(
        self, open_queue: OpenQueue, hanging: Any
    ) -> None:
        queue = open_queue(hanging, timeout=LATE, max_retries=0)
        assert queue.wait(queue.enqueue(Job(timeout=SOON)), DEADLINE).status is Status.FAILED

        queue = open_queue(lambda job: current_job().deadline, timeout=SOON, max_retries=0)
        record = queue.wait(queue.enqueue(Job(timeout=LATE)), DEADLINE)
        assert record.timeout == LATE
        assert isinstance(record.result, float)
        assert record.result > time.monotonic() + LATE / 2

    def test_a_jobs_own_timeout_survives_a_restart(
        self, open_queue: OpenQueue, path: str, hanging: Any
    ) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("x", timeout=SOON, run_at=3600))
        fall_due(path)
        queue = open_queue(hanging, path=path, max_retries=0)
        assert queue.wait("x", DEADLINE).status is Status.FAILED

    def test_a_quick_job_with_a_timeout_completes(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, timeout=LATE)
        ids = queue.enqueue_many([Job(timeout=LATE if n % 2 else None) for n in range(200)])
        queue.join(DEADLINE)
        assert {(r.status, r.attempts) for r in map(queue.get, ids)} == {(Status.COMPLETED, 1)}

    @pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "1", True])
    def test_a_timeout_that_makes_no_sense_is_refused(self, timeout: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="timeout must be a number"):
            JobQueue(nothing, timeout=timeout)
        with pytest.raises((ValueError, TypeError), match=r"Job.timeout must be a number"):
            Job(timeout=timeout)


class TestCurrentJob:
    def test_it_says_which_attempt_of_which_job(self, open_queue: OpenQueue) -> None:
        seen: list[CurrentJob] = []
        began = time.monotonic()

        def handler(job: Job) -> None:
            seen.append(current_job())
            if len(seen) < 4:
                raise ValueError("not yet")

        queue = open_queue(handler, timeout=LATE, backoff=AT_ONCE)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert [(current.id, current.attempt) for current in seen] == [
            ("x", attempt) for attempt in (1, 2, 3, 4)
        ]
        deadlines = [current.deadline or 0.0 for current in seen]
        assert deadlines == sorted(deadlines)
        assert began + LATE <= deadlines[0] <= deadlines[-1] <= time.monotonic() + LATE
        tokens = [current.token for current in seen]
        assert tokens == sorted(set(tokens)), "Tokens must grow."

    def test_tokens_grow_after_a_restart_too(self, open_queue: OpenQueue, path: str) -> None:
        tokens: list[int] = []
        for _ in range(3):
            with open_queue(lambda job: tokens.append(current_job().token), path=path) as queue:
                queue.wait(queue.enqueue(Job()), DEADLINE)
        assert tokens == sorted(set(tokens))

    def test_each_of_a_batch_is_its_own(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: current_job().id)
        ids = queue.enqueue_many([Job() for _ in range(300)])
        queue.join(DEADLINE)
        assert [queue.get(job_id).result for job_id in ids] == ids

    def test_outside_of_a_handler_there_is_none(self) -> None:
        with pytest.raises(RuntimeError, match="for handlers: no job runs in this thread"):
            current_job()

    def test_nor_in_a_thread_that_a_handler_started(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            with pytest.raises(RuntimeError, match="for handlers: no job runs in this thread"):
                Background(current_job).result()

        assert completes(open_queue(handler))

    def test_when_closing_runs_out_of_time_a_sleeping_handler_is_woken(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        started, woken = Journal(), Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            woken.write(current_job().sleep(LATE))

        queue = open_queue(handler, path=path)
        queue.enqueue(Job("x"))
        started.wait_for("x")
        assert Background(queue.close, True, 0).result() is False
        woken.wait_for(False)
        assert queue.get("x").attempts == 0  # uncharged, for the next start
