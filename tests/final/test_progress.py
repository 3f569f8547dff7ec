"""Progress: what a handler says of how far it is, kept and shown; and what else it may ask."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

import final.engine.sayings
from final import Job, JobQueue, Progress, Status, StorageError, current_job
from final.engine.sayings import WRITE_SECONDS, Sayings
from final.job import Outcome, Priority, Task
from tests.final import inside
from tests.final import process_handlers as handlers
from tests.final.helpers import AT_ONCE, OpenQueue, child, eventually, in_file, next_line
from tests.helpers import DEADLINE, Background, Gate, Journal

LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine


def said(queue: JobQueue, job_id: str) -> tuple[float, str] | None:
    progress = queue.get(job_id).progress
    return None if progress is None else progress[:2]


def say_and_wait(gate: Gate) -> Any:
    def handler(job: Job) -> None:
        current_job().progress(0.4, "page 4")
        gate.wait()

    return handler


class TestKeptAndShown:
    def test_while_it_runs_in_a_thread(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(say_and_wait(gate))
        queue.enqueue(Job("x"))
        eventually(lambda: said(queue, "x") == (0.4, "page 4"), "the progress")
        [record] = queue.jobs(Status.PROCESSING, payloads=False)
        assert record.progress is not None
        assert record.progress.at == pytest.approx(time.time(), abs=DEADLINE)
        [running] = queue.metrics().running
        assert running.progress is not None
        assert running.progress.fraction == 0.4
        gate.open()
        assert queue.wait("x", DEADLINE).progress == record.progress

    def test_by_a_coroutine_and_by_its_threads(self, open_queue: OpenQueue) -> None:
        async def handler(job: Job) -> None:
            current_job().progress(0.1)
            await asyncio.to_thread(current_job().progress, 0.2, "in a thread")
            if job.payload:
                current_job().progress(0.3, "in the coroutine")

        queue = open_queue(handler)
        queue.enqueue_many([Job("x"), Job("y", payload=1)])
        for job_id, last in (("x", (0.2, "in a thread")), ("y", (0.3, "in the coroutine"))):
            queue.wait(job_id, DEADLINE)
            assert said(queue, job_id) == last

    def test_in_a_process_while_it_runs(self, open_queue: OpenQueue, tmp_path: Any) -> None:
        queue = open_queue(handlers.say_how_far, executor="process", workers=1)
        queue.enqueue(Job("x", payload=str(tmp_path / "note")))
        eventually(lambda: said(queue, "x") == (0.5, "from a process"), "the progress")
        [running] = queue.metrics().running
        assert running.progress is not None
        (tmp_path / "go").touch()
        assert queue.wait("x", LONG).status is Status.COMPLETED
        assert said(queue, "x") == (1.0, "from a thread of it")

    def test_the_last_word_is_kept_with_the_end(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            for page in range(1, 11):
                current_job().progress(page / 10, f"page {page}")
            if job.payload:
                raise ValueError("no")

        queue = open_queue(handler, max_retries=0)
        queue.enqueue_many([Job(f"well {n}") for n in range(20)])
        queue.enqueue_many([Job(f"failed {n}", payload=1) for n in range(20)])
        queue.join(DEADLINE)
        assert {said(queue, record.id) for record in queue.jobs()} == {(1.0, "page 10")}

    def test_who_says_nothing_has_none(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).progress is None

    def test_another_attempt_goes_on_from_it(self, open_queue: OpenQueue, gate: Gate) -> None:
        """And is not said to have come as far before it says so itself."""
        second = Journal()

        def handler(job: Job) -> None:
            if current_job().attempt == 1:
                current_job().progress(0.7, "first")
                raise ValueError("no")
            second.write("runs")
            gate.wait()
            current_job().progress(0.1, "second")

        queue = open_queue(handler, backoff=AT_ONCE)
        queue.enqueue(Job("x"))
        second.wait_for("runs")
        assert said(queue, "x") == (0.7, "first")
        [running] = queue.metrics().running
        assert running.progress is None
        gate.open()
        queue.wait("x", DEADLINE)
        assert said(queue, "x") == (0.1, "second")

    def test_over_kill_9(self, open_queue: OpenQueue, path: str, gate: Gate) -> None:
        with child("says_how_far", path) as process:
            assert next_line(process) == "kept"
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path)
        started.wait_for("x")
        assert said(queue, "x") == (0.4, "page 4")

    def test_a_full_disk_delays_it(self, open_queue: OpenQueue, path: str, gate: Gate) -> None:
        queue = open_queue(say_and_wait(gate), path=path)
        with fails_to_note(queue):
            queue.enqueue(Job("x"))
            eventually(lambda: queue.metrics().storage_error is not None, "the disk to be full")
            assert said(queue, "x") is None
        eventually(lambda: said(queue, "x") == (0.4, "page 4"), "the progress")

    def test_it_goes_with_its_job(self, path: str) -> None:
        def handler(job: Job) -> None:
            current_job().progress(1)
            if job.payload:
                raise ValueError("no")

        with JobQueue(handler, path=path, history=2, max_retries=0) as queue:
            queue.enqueue_many([Job() for _ in range(5)] + [Job(payload=1) for _ in range(5)])
            queue.join(DEADLINE)
            assert queue.purge() == 5
        assert len(in_file(path, "seq", "progress")) == 2


@contextlib.contextmanager
def fails_to_note(queue: JobQueue) -> Iterator[None]:
    """Meanwhile whatever is written of progress fails."""
    file = inside.file(queue)
    execute = file.execute

    def observed(statement: str, *values: Any) -> Any:
        if "progress" in statement:
            raise StorageError("The disk is full.")
        return execute(statement, *values)

    file.execute = observed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        file.execute = execute  # type: ignore[method-assign]


class TestHowOften:
    def test_a_handler_that_says_it_again_and_again_costs_no_exchange_each(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def handler(job: Job) -> float:
            began = time.monotonic()
            for n in range(20_000):
                current_job().progress(n / 20_000)
            return time.monotonic() - began

        queue = open_queue(handler, path=path)
        exchanges = inside.count_exchanges(queue)
        seconds = queue.wait(queue.enqueue(Job()), DEADLINE).result
        assert isinstance(seconds, float)
        assert exchanges() <= 5 + 2 * seconds / WRITE_SECONDS

    def test_once_a_second_and_with_the_end_of_the_attempt(self) -> None:
        one, other = (Task(name, "null", Priority.LOW, "default") for name in ("one", "other"))
        woken: list[str] = []
        sayings = Sayings(lambda: woken.append("woken"))
        assert sayings.due() == math.inf
        sayings.say(one, 1, Progress(0.1, "", 0))
        sayings.say(one, 1, Progress(0.2, "", 0))
        assert woken == ["woken"]
        assert sayings.due() <= 100
        [first] = sayings.take(100, ())
        assert (first.task, first.token, first.progress.fraction) == (one, 1, 0.2)
        sayings.say(one, 1, Progress(0.3, "", 0))  # while that is written
        sayings.written([first])
        assert sayings.due() == 100 + WRITE_SECONDS
        sayings.say(other, 2, Progress(0.9, "", 0))
        assert woken == ["woken"]
        assert sayings.take(100.1, ()) == []
        [ended] = sayings.take(100.2, [[Outcome(other, 0.1)]])
        assert ended.task is other
        sayings.written([ended])
        [rest] = sayings.take(100 + WRITE_SECONDS, ())
        assert rest.progress.fraction == 0.3
        sayings.written([rest])
        assert sayings.due() == math.inf
        sayings.say(one, 1, Progress(0.4, "", 0))
        assert woken == ["woken", "woken"]


def test_an_attempt_that_was_given_up_is_not_heard(open_queue: OpenQueue, gate: Gate) -> None:
    late = Journal()

    def handler(job: Job) -> None:
        me = current_job()
        if me.attempt == 1:
            gate.wait()
            me.progress(0.1, "too late")
            late.write("said")
            return
        me.progress(0.9, "in time")
        gate.open()
        late.wait_for("said")

    queue = open_queue(handler, timeout=1.0, backoff=AT_ONCE, workers=2)
    queue.enqueue(Job("x"))
    assert queue.wait("x", DEADLINE).status is Status.COMPLETED
    queue.wait(queue.enqueue(Job(timeout=DEADLINE)), DEADLINE)  # and whatever is left is written
    assert said(queue, "x") == (0.9, "in time")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-0.1,), "ValueError: progress: fraction must be a number from 0 to 1, not -0.1."),
        ((1.01,), "ValueError: progress: fraction must be a number from 0 to 1, not 1.01."),
        ((40,), "ValueError: progress: fraction must be a number from 0 to 1, not 40."),
        ((math.nan,), "ValueError: progress: fraction must be a number from 0 to 1, not nan."),
        (("0.4",), "TypeError: progress: fraction must be a number, not '0.4'."),
        ((True,), "TypeError: progress: fraction must be a number, not True."),
        ((0.4, 4), "TypeError: progress: message must be text (str), not int."),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_an_error(open_queue: OpenQueue, arguments: Any, error: str) -> None:
    queue = open_queue(lambda job: current_job().progress(*arguments), max_retries=0)
    record = queue.wait(queue.enqueue(Job()), DEADLINE)
    assert (record.status, record.error, record.progress) == (Status.FAILED, error, None)


@pytest.mark.parametrize(
    ("message", "kept"),
    [("é" * 200, "é" * 200), ("x" * 201, "x" * 197 + "..."), ("\udcff", "\\udcff"), ("", "")],
    ids=["200 characters", "201", "half a character", "none"],
)
def test_a_message_is_what_can_be_stored_and_shown(
    open_queue: OpenQueue, message: str, kept: str
) -> None:
    queue = open_queue(lambda job: current_job().progress(1, message))
    queue.wait(queue.enqueue(Job("x")), DEADLINE)
    assert said(queue, "x") == (1.0, kept)


class TestWhatElseAHandlerKnows:
    """The number of its attempt, and how much time it has, whatever runs it."""

    def test_in_a_thread_and_in_a_coroutine(self, open_queue: OpenQueue) -> None:
        async def coroutine(job: Job) -> Any:
            await asyncio.sleep(0)
            return handlers.attempt_and_time(job)

        kinds = {"thread": handlers.attempt_and_time, "coroutine": coroutine}
        queue = open_queue(kinds, backoff=AT_ONCE, timeout=LONG)
        for kind in kinds:
            self.require(queue, kind)

    def test_in_a_process(self, open_queue: OpenQueue) -> None:
        kinds = {"process": handlers.attempt_and_time}
        queue = open_queue(kinds, backoff=AT_ONCE, timeout=LONG, executor="process", workers=1)
        self.require(queue, "process")

    def require(self, queue: JobQueue, kind: str) -> None:
        record = queue.wait(queue.enqueue(Job(kind=kind, payload=2)), LONG)
        assert isinstance(record.result, list), record.error
        attempt, left, until_deadline = record.result
        assert attempt == 2
        assert 0 < left <= LONG
        assert left == pytest.approx(until_deadline, abs=DEADLINE)

    def test_without_a_time_out_nothing_runs_out(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: current_job().remaining())
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, None)

    def test_it_never_has_less_than_no_time(self, open_queue: OpenQueue) -> None:
        seen = Journal()

        def handler(job: Job) -> None:
            current_job().sleep(LONG)
            seen.write(current_job().remaining())

        queue = open_queue(handler, timeout=0.03, max_retries=0)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.FAILED
        seen.wait_for_count(1)
        assert seen.entries == [0.0]


def test_a_thread_that_a_handler_has_left_behind_says_nothing_more(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final.engine.sayings, "WRITE_SECONDS", 0.0)  # or it would be asked too soon
    left: list[Any] = []

    def handler(job: Job) -> None:
        current_job().progress(0.5)
        left.append(current_job())

    queue = open_queue(handler)
    queue.wait(queue.enqueue(Job("x")), DEADLINE)
    Background(left[0].progress, 0.1).result()
    queue.wait(queue.enqueue(Job()), DEADLINE)
    assert said(queue, "x") == (0.5, "")
