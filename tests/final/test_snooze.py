"""Snooze: a handler puts its job off. That is no failure, costs no attempt, and holds no worker."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from final import (
    Backoff,
    Job,
    JobQueue,
    Priority,
    Snooze,
    Status,
    Transition,
    Unique,
    current_job,
)
from tests.final import process_handlers as handlers
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    child,
    eventually,
    fall_due,
    next_line,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

A_DAY = 86_400
LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine


def in_a_day() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


class Sleeper:
    """A handler that puts its job off by what ``until`` says, so many times; then it is done."""

    def __init__(self, until: Callable[[], Any], times: int = 1) -> None:
        self.runs = Journal()
        self._until = until
        self._times = times

    def __call__(self, job: Job) -> str:
        if self.runs.write(job.id) <= self._times:
            raise Snooze(self._until())
        return f"attempt {current_job().attempt}"


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        (lambda: 0, 0),
        (lambda: 0.05, 0.05),
        (lambda: timedelta(milliseconds=50), 0.05),
        (lambda: datetime.now(UTC) + timedelta(milliseconds=50), 0.05),
        (lambda: datetime.now(UTC) - timedelta(days=1), 0),
    ],
    ids=["at once", "seconds", "timedelta", "datetime", "a datetime that has passed"],
)
def test_it_runs_again_then_and_is_charged_nothing(
    open_queue: OpenQueue, until: Callable[[], Any], seconds: float
) -> None:
    queue = open_queue(Sleeper(until), max_retries=0)
    began = time.monotonic()
    record = queue.wait(queue.enqueue(Job()), DEADLINE)
    assert (record.status, record.result) == (Status.COMPLETED, "attempt 1")
    assert (record.attempts, record.snoozes, record.error) == (1, 1, None)
    assert time.monotonic() - began >= seconds * 0.99


def test_until_a_moment_that_has_passed_it_has_not_waited(open_queue: OpenQueue) -> None:
    """It is ready from now on: not since that moment, when it may not have been there at all."""
    queue = open_queue(Sleeper(lambda: datetime.now(UTC) - timedelta(days=1)))
    queue.wait(queue.enqueue(Job()), DEADLINE)
    assert queue.metrics().waits.total < A_DAY / 2


def test_meanwhile_it_is_scheduled_and_no_failure(
    open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Transition] = []
    queue = open_queue(Sleeper(lambda: A_DAY))
    queue.subscribe(told.append)
    queue.enqueue(Job("later"))
    reaches(queue, "later", Status.SCHEDULED)
    record, now = queue.get("later"), time.time()
    assert (record.attempts, record.snoozes, record.error) == (0, 1, None)
    assert record.due_at is not None
    assert record.due_at == pytest.approx(now + A_DAY, abs=DEADLINE)
    assert record.started_at is not None
    assert queue.attempts("later") == []
    metrics = queue.metrics()
    assert (metrics.scheduled, metrics.retrying, metrics.failed, metrics.accepted) == (1, 0, 0, 1)
    eventually(lambda: len(told) >= 3, "three transitions")
    assert [(t.status, t.attempts, t.error) for t in told] == [
        (Status.QUEUED, 0, None),
        (Status.PROCESSING, 1, None),
        (Status.SCHEDULED, 0, None),
    ]
    assert "failed" not in caplog.text


def test_it_holds_no_worker_and_nobody_waits_for_it(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> None:
        if job.payload == "later":
            raise Snooze(A_DAY)

    queue = open_queue(handler, workers=1)
    queue.enqueue(Job("later", "later"))
    reaches(queue, "later", Status.SCHEDULED)
    assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED
    queue.join(DEADLINE)
    assert queue.status("later") is Status.SCHEDULED


def test_it_comes_back_at_the_end_of_its_lane(open_queue: OpenQueue, gate: Gate) -> None:
    ran = Journal()

    def handler(job: Job) -> None:
        if ran.write(job.id) == 1 and job.id == "first":
            gate.wait()
            raise Snooze(0)

    queue = open_queue(handler, workers=1)
    queue.enqueue(Job("first"))
    ran.wait_for("first")
    queue.enqueue_many([Job("second"), Job("third")])
    gate.open()
    ran.wait_for_count(4)
    assert ran.entries == ["first", "second", "third", "first"]


def test_attempts_that_failed_are_as_they_were(open_queue: OpenQueue) -> None:
    """It fails, is put off, fails, is put off, and fails: three attempts."""
    runs = Journal()

    def handler(job: Job) -> None:
        runs.write((current_job().attempt, job.id))
        if len(runs.entries) % 2 == 0:
            raise Snooze(0)
        raise ValueError("no")

    queue = open_queue(handler, max_retries=2, backoff=AT_ONCE)
    record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
    assert (record.status, record.attempts, record.snoozes) == (Status.FAILED, 3, 2)
    assert [attempt for attempt, _ in runs.entries] == [1, 2, 2, 3, 3]
    assert [attempt.number for attempt in queue.attempts("x")] == [1, 2, 3]


def test_the_error_of_an_earlier_attempt_stays(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> None:
        if current_job().attempt == 1:
            raise ValueError("the first")
        raise Snooze(A_DAY)

    queue = open_queue(handler, backoff=AT_ONCE)
    queue.enqueue(Job("x"))
    reaches(queue, "x", Status.SCHEDULED)
    record = queue.get("x")
    assert (record.attempts, record.error) == (1, "ValueError: the first")


class TestHowItIsRaised:
    def test_by_a_coroutine(self, open_queue: OpenQueue) -> None:
        runs = Journal()

        async def handler(job: Job) -> int:
            await asyncio.sleep(0)
            if runs.write(job.id) == 1:
                raise Snooze(0.01)
            return current_job().attempt

        queue = open_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.result, record.snoozes) == (1, 1)

    def test_in_a_process(self, open_queue: OpenQueue, tmp_path: Any) -> None:
        queue = open_queue(handlers.snooze_at_first, executor="process", max_retries=0, workers=1)
        record = queue.wait(queue.enqueue(Job(payload=str(tmp_path / "note"))), LONG)
        assert (record.result, record.snoozes) == ("attempt 1", 1)

    def test_by_all_tasks_of_a_group_the_latest_counts(self, open_queue: OpenQueue) -> None:
        async def later(until: Any) -> None:
            await asyncio.sleep(0)
            raise Snooze(until)

        async def handler(job: Job) -> None:
            async with asyncio.TaskGroup() as group:
                for until in (1, in_a_day(), 60):
                    group.create_task(later(until))

        queue = open_queue(handler)
        queue.enqueue(Job("x"))
        reaches(queue, "x", Status.SCHEDULED)
        due_at = queue.get("x").due_at
        assert due_at == pytest.approx(time.time() + A_DAY, abs=DEADLINE)

    def test_beside_an_error_the_error_counts(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            raise ExceptionGroup("both", [Snooze(1), ValueError("no")])

        queue = open_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.status, record.snoozes) == (Status.FAILED, 0)

    def test_a_class_of_ones_own(self, open_queue: OpenQueue) -> None:
        class NotReady(Snooze):
            def __init__(self) -> None:
                super().__init__(A_DAY)

        class Forgetful(Snooze):
            def __init__(self) -> None:
                """And not that of Snooze: at once."""

        def handler(job: Job) -> None:
            raise NotReady if queue.get(job.id).snoozes else Forgetful

        queue: JobQueue = open_queue(handler)
        queue.enqueue(Job("x"))
        eventually(lambda: queue.get("x").snoozes == 2, "two snoozes")
        assert queue.status("x") is Status.SCHEDULED

    def test_it_can_be_sent_elsewhere(self) -> None:
        for until in (60, timedelta(minutes=1), in_a_day()):
            assert pickle.loads(pickle.dumps(Snooze(until))).again == Snooze(until).again


@pytest.mark.parametrize(
    ("until", "words"),
    [
        (-1, "ValueError: Snooze, a delay in seconds, must be a number from 0"),
        (timedelta(seconds=-1), "ValueError: Snooze, a delay in seconds, must be a number from 0"),
        (math.nan, "ValueError: Snooze, a delay in seconds, must be a number from 0"),
        (math.inf, "ValueError: Snooze, a delay in seconds, must be a number from 0"),
        (1e12, "ValueError: Snooze, a delay in seconds, must be a number from 0"),
        (timedelta.max, "ValueError: Snooze, a delay in seconds, must be a number from 0"),
        (datetime(2030, 1, 1), "ValueError: Snooze must be an aware datetime"),
        (datetime.max.replace(tzinfo=UTC), "ValueError: Snooze, .*, is too far away"),
        ("60", "TypeError: Snooze must be a datetime or a delay in seconds, not '60'"),
        (True, "TypeError: Snooze must be a datetime or a delay in seconds, not True"),
        (None, "TypeError: Snooze must be a datetime or a delay in seconds, not None"),
    ],
    ids=str,
)
def test_what_makes_no_sense_fails_the_attempt(
    open_queue: OpenQueue, until: Any, words: str
) -> None:
    def handler(job: Job) -> None:
        raise Snooze(until)

    queue = open_queue(handler, max_retries=0)
    record = queue.wait(queue.enqueue(Job()), DEADLINE)
    assert (record.status, record.attempts) == (Status.FAILED, 1)
    with pytest.raises((TypeError, ValueError), match=words.partition(": ")[2]):
        Snooze(until)
    assert record.error is not None
    assert record.error.startswith(words.partition(",")[0])


class TestTogetherWith:
    def test_a_time_out_that_was_reached_is_a_failure(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        def handler(job: Job) -> None:
            current_job().sleep(LONG)
            raise Snooze(0)

        queue = open_queue(handler, timeout=0.03, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.status, record.snoozes) == (Status.FAILED, 0)
        assert record.error == "TimeoutError: the attempt took longer than 0.03 s."

    def test_a_cancel_it_does_not_run_again(self, open_queue: OpenQueue) -> None:
        started = threading.Event()

        def handler(job: Job) -> None:
            started.set()
            current_job().sleep(LONG)
            raise Snooze(0)

        queue = open_queue(handler)
        queue.enqueue(Job("x"))
        assert started.wait(DEADLINE)
        assert queue.cancel("x")
        record = queue.wait("x", DEADLINE)
        assert (record.status, record.attempts, record.snoozes) == (Status.CANCELLED, 1, 0)

    def test_a_cancel_while_it_waits(self, open_queue: OpenQueue) -> None:
        queue = open_queue(Sleeper(lambda: A_DAY))
        queue.enqueue(Job("x"))
        reaches(queue, "x", Status.SCHEDULED)
        assert queue.cancel("x")
        assert queue.status("x") is Status.CANCELLED

    def test_a_unique_key_it_stays_held(self, open_queue: OpenQueue) -> None:
        queue = open_queue(Sleeper(lambda: A_DAY))
        queue.enqueue(Job("x", unique=Unique("report")))
        reaches(queue, "x", Status.SCHEDULED)
        assert queue.enqueue(Job("y", unique=Unique("report"))) == "x"

    def test_a_unique_key_who_replaces_it_says_when(self, open_queue: OpenQueue) -> None:
        """Also where its key is held until the first attempt: it has had none."""
        sleeper = Sleeper(lambda: A_DAY)
        queue = open_queue(sleeper)
        queue.enqueue(Job("x", 1, unique=Unique("report", then="replace")))
        reaches(queue, "x", Status.SCHEDULED)
        assert queue.enqueue(Job("y", 2, unique=Unique("report", then="replace"))) == "x"
        record = queue.wait("x", DEADLINE)
        assert (record.status, record.payload) == (Status.COMPLETED, 2)
        assert sleeper.runs.entries == ["x", "x"]

    def test_children_they_wait_on(self, open_queue: OpenQueue, gate: Gate) -> None:
        runs, meanwhile = Journal(), Journal()

        def handler(job: Job) -> None:
            if runs.write(job.id) == 1 and job.id == "parent":
                raise Snooze(0.05)
            meanwhile.write(queue.status("child"))

        queue: JobQueue = open_queue(handler)
        queue.enqueue_many([Job("parent"), Job("child", after=["parent"])])
        assert queue.wait("child", DEADLINE).status is Status.COMPLETED
        assert runs.entries == ["parent", "parent", "child"]
        assert meanwhile.entries == [Status.WAITING, Status.PROCESSING]

    def test_a_limit_of_its_group_the_next_one_runs(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            if job.payload:
                raise Snooze(job.payload)

        queue = open_queue(handler, group_limit=1)
        queue.enqueue_many([Job("x", A_DAY, group="a"), Job("y", group="a")])
        assert queue.wait("y", DEADLINE).status is Status.COMPLETED
        assert queue.status("x") is Status.SCHEDULED
        assert queue.get("x").group == "a"

    def test_another_lane_it_keeps_its_own(self, open_queue: OpenQueue) -> None:
        queue = open_queue(Sleeper(lambda: 0))
        record = queue.wait(queue.enqueue(Job(priority=Priority.LOW)), DEADLINE)
        assert (record.status, record.priority) == (Status.COMPLETED, Priority.LOW)

    def test_the_end_of_the_queue_it_stays_for_the_next_start(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue(Sleeper(lambda: A_DAY), path=path) as queue:
            queue.enqueue(Job("x", payload="kept"))
            reaches(queue, "x", Status.SCHEDULED)
        record = queue.get("x")
        assert (record.status, record.attempts) == (Status.SCHEDULED, 0)
        fall_due(path)
        again = open_queue(lambda job: job.payload, path=path)
        record = again.wait("x", DEADLINE)
        assert (record.result, record.attempts, record.snoozes) == ("kept", 1, 1)


def test_a_queue_in_memory_that_ends_says_that_it_is_lost(open_queue: OpenQueue) -> None:
    queue = JobQueue(Sleeper(lambda: A_DAY), path=":memory:")
    queue.enqueue(Job("x"))
    reaches(queue, "x", Status.SCHEDULED)
    assert Background(queue.close).result() is False


def test_kill_9_takes_nothing_of_it(open_queue: OpenQueue, path: str) -> None:
    with child("snoozes", path) as process:
        assert next_line(process) == "scheduled"
    queue = open_queue(lambda job: current_job().attempt, path=path)
    record = queue.wait("x", DEADLINE)
    assert (record.status, record.result) == (Status.COMPLETED, 1)
    assert (record.attempts, record.snoozes) == (1, 1)


def test_a_suspect_that_was_put_off_is_none_any_more(open_queue: OpenQueue, path: str) -> None:
    """A crash has interrupted it; then its handler came to an end."""
    for _ in range(2):
        with child("busy", path) as process:
            assert next_line(process) == "busy"
    sleeper = Sleeper(partial(float, 0))
    queue = open_queue(sleeper, path=path, backoff=NOT_TODAY, max_retries=3)
    assert queue.wait("in flight", DEADLINE).status is Status.COMPLETED
    assert sleeper.runs.entries.count("in flight") == 2


def test_a_backoff_has_no_say(open_queue: OpenQueue) -> None:
    class Refuses(Backoff):
        def delay(self, retry: int) -> float:
            raise AssertionError("nothing has failed")

    queue = open_queue(Sleeper(lambda: 0), backoff=Refuses())
    assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED
