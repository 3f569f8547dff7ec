"""The log: one line per transition at DEBUG, one per failure at WARNING, and nothing when off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from final import Job, Status
from final.engine.events import lines_of
from final.ledger.base import Move
from tests.final.helpers import AT_ONCE, OpenQueue, completes, in_file, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal


def fails_once() -> object:
    attempts: list[str] = []

    def handler(job: Job) -> None:
        attempts.append(job.id)
        if len(attempts) == 1:
            raise ValueError("not yet")

    return handler


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == level]


class TestTransitions:
    def test_one_line_each_in_the_order_of_a_jobs_life(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "final")
        with open_queue(fails_once(), backoff=AT_ONCE) as queue:
            queue.enqueue(Job("x"))
        transitions = [line for line in lines(caplog, logging.DEBUG) if "traceback" not in line]
        assert [line.split(",")[0] for line in transitions] == [
            "job x queued",
            "job x processing",
            "job x retrying",
            "job x queued",
            "job x processing",
            "job x completed",
        ]
        assert transitions[-1] == "job x completed, attempts 2"

    def test_a_dead_letter_and_its_second_chance(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "final")
        with open_queue(fails_once(), max_retries=0) as queue:
            queue.wait(queue.enqueue(Job("x")), DEADLINE)
            queue.retry("x")
        transitions = [line for line in lines(caplog, logging.DEBUG) if "traceback" not in line]
        assert [line.split(",")[0].removeprefix("job x ") for line in transitions] == [
            *("queued", "processing", "failed"),
            *("queued", "processing", "completed"),
        ]

    def test_a_job_that_goes_back_at_the_end(
        self, open_queue: OpenQueue, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler)
        queue.enqueue(Job("x"))
        started.wait_for("x")
        queue.metrics()  # the turn that has started it is over: it has told of that
        caplog.set_level(logging.DEBUG, "final")
        Background(queue.close, True, 0).result()
        assert lines(caplog, logging.DEBUG) == ["job x queued, attempts 0"]

    def test_every_transition_of_many_jobs_is_there(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "final")
        with open_queue(nothing, workers=1) as queue:
            queue.enqueue_many([Job() for _ in range(200)])
        # Some may have been taken back, and are told of again when they are handed out again.
        assert len(set(lines(caplog, logging.DEBUG))) == 600


class TestFailures:
    def test_a_failure_is_one_warning_with_what_comes_next(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no such address")

        with open_queue(handler, max_retries=1, backoff=AT_ONCE) as queue:
            queue.enqueue(Job("x"))
        assert lines(caplog, logging.WARNING) == [
            "job x failed, attempt 1, again in 0.0 s: ValueError: no such address",
            "job x failed, attempt 2, no attempts left: ValueError: no such address",
        ]

    def test_the_traceback_is_logged_at_debug(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no such address")

        caplog.set_level(logging.DEBUG, "final")
        with open_queue(handler, max_retries=0) as queue:
            queue.enqueue(Job("x"))
        [traceback] = [line for line in lines(caplog, logging.DEBUG) if "traceback" in line]
        assert traceback.startswith("job x traceback:\nTraceback (most recent call last):\n")
        assert "in handler\n    raise ValueError" in traceback
        assert traceback.rstrip().endswith("ValueError: no such address")

    def test_a_success_is_no_warning(
        self, open_queue: OpenQueue, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with open_queue(lambda job: "result", path=path) as queue:
            queue.enqueue_many([Job() for _ in range(10)])
        assert in_file(path, "status") == ["completed"] * 10
        assert caplog.records == []


class TestOff:
    """A record is made before it is formatted: where none is made, nothing is spent."""

    @pytest.fixture
    def made(self) -> Iterator[list[str]]:
        """The messages of all log records that are made."""
        made: list[str] = []
        factory = logging.getLogRecordFactory()

        def note(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = factory(*args, **kwargs)
            made.append(record.getMessage())
            return record

        logging.setLogRecordFactory(note)
        yield made
        logging.setLogRecordFactory(factory)

    def test_at_debug_there_are_records(
        self, open_queue: OpenQueue, made: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "final")
        with open_queue(nothing, workers=1) as queue:
            queue.enqueue_many([Job() for _ in range(20)])
        assert len(set(made)) == 60  # one that was taken back is told of again

    def test_at_info_there_is_none_of_what_goes_well(
        self, open_queue: OpenQueue, made: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "final")
        with open_queue(nothing) as queue:
            queue.enqueue_many([Job() for _ in range(20)])
        assert queue.metrics().completed == 20
        assert made == []

    def test_at_info_nobody_even_looks_at_the_jobs(self, caplog: pytest.LogCaptureFixture) -> None:
        class Untouchable(list[Any]):
            def __iter__(self) -> Iterator[Any]:
                raise AssertionError("Somebody has looked.")

        move = Move(Untouchable(), Status.QUEUED, Status.PROCESSING)
        caplog.set_level(logging.INFO, "final")
        assert list(lines_of([move], 0.0)) == []
        caplog.set_level(logging.DEBUG, "final")
        with pytest.raises(AssertionError, match="Somebody has looked"):
            list(lines_of([move], 0.0))

    def test_whoever_configures_the_log_may_ask_the_queue(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As a handler does that ``dictConfig`` makes, under a lock of ``logging``."""
        queue = open_queue(nothing)
        caplog.set_level(logging.INFO, "final")  # what was known of levels is forgotten
        lock = getattr(logging, "_lock")  # noqa: B009
        with lock:
            asked = Background(lambda: [completes(queue), completes(queue)])
            assert asked.result() == [True, True]

    def test_at_critical_there_is_none_of_a_failure_either(
        self, open_queue: OpenQueue, made: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no")

        caplog.set_level(logging.CRITICAL, "final")
        with open_queue(handler, max_retries=1, backoff=AT_ONCE) as queue:
            queue.enqueue(Job())
        assert queue.metrics().failed == 1
        assert made == []
