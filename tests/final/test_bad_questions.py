"""One odd value, wherever it comes in, is the error of that call or the outcome of that job.

Without that a row number where a kind is meant ends the queue for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from final import Job, JobQueue, Status, UnknownJob
from tests.final.helpers import OpenQueue, completes, nothing
from tests.helpers import DEADLINE, Background

Call = Callable[[JobQueue], object]


class Hostile(str):
    """Text that raises whenever somebody looks at it as more than text."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("looked at")

    def __hash__(self) -> int:
        raise ZeroDivisionError("looked at")

    def __conform__(self, protocol: object) -> object:
        raise ZeroDivisionError("asked by sqlite3")


class Unclear:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError("neither")


class Number(int):
    """A number that cannot be compared."""

    def __lt__(self, other: object) -> bool:
        raise ZeroDivisionError("compared")

    __le__ = __gt__ = __ge__ = __lt__


class Seconds(float):
    """A time that cannot be added."""

    def __radd__(self, other: object) -> float:
        raise ZeroDivisionError("added")

    __add__ = __radd__


ODD = [2**63, -(2**63) - 1, 10**5000, 1.5, True, b"bytes", [], {}, object(), lambda: None]


@pytest.fixture
def queue(open_queue: OpenQueue) -> JobQueue:
    """With a completed job "done", and a dead letter "dead"."""

    def handler(job: Job) -> None:
        if job.id == "dead":
            raise ValueError("no")

    queue = open_queue(handler, max_retries=0)
    queue.wait(queue.enqueue(Job("done")), DEADLINE)
    queue.wait(queue.enqueue(Job("dead")), DEADLINE)
    return queue


CALLS: dict[str, Callable[[JobQueue, Any], object]] = {
    "get": lambda queue, value: queue.get(value),
    "status": lambda queue, value: queue.status(value),
    "attempts": lambda queue, value: queue.attempts(value),
    "cancel": lambda queue, value: queue.cancel(value),
    "retry": lambda queue, value: queue.retry(value),
    "wait": lambda queue, value: queue.wait(value, 0),
    "wait, timeout": lambda queue, value: queue.wait("done", [value]),  # type: ignore[arg-type]
    "retry_all": lambda queue, value: queue.retry_all(value),
    "purge": lambda queue, value: queue.purge(value),
    "jobs, kind": lambda queue, value: queue.jobs(kind=value),
    "jobs, before": lambda queue, value: queue.jobs(before=value),
    "jobs, status": lambda queue, value: queue.jobs(value),
    "jobs, priority": lambda queue, value: queue.jobs(priority=value),
    "jobs, limit": lambda queue, value: queue.jobs(limit=value),
    "set_fairness": lambda queue, value: queue.set_fairness(value),
    "subscribe": lambda queue, value: queue.subscribe([value]),  # type: ignore[arg-type]
}


class TestValuesOfTheWrongType:
    @pytest.mark.parametrize("name", CALLS)
    def test_are_refused_in_a_sentence_and_the_queue_goes_on(
        self, queue: JobQueue, name: str
    ) -> None:
        for value in ODD:
            if name == "set_fairness" and value in (2**63, 10**5000):
                continue  # that is a fairness, if a strange one
            with pytest.raises((TypeError, ValueError)) as refused:
                CALLS[name](queue, value)
            assert len(str(refused.value).split()) > 3
            assert "SQLite" not in str(refused.value)
        assert completes(queue)
        assert queue.status("dead") is Status.FAILED


class TestText:
    @pytest.mark.parametrize("text", ["\ud800", "a\udce9b", "\0", "", "x" * 10**6], ids=ascii)
    def test_that_no_id_can_be_is_an_unknown_job(self, queue: JobQueue, text: str) -> None:
        calls: list[Callable[[str], object]] = [queue.get, queue.cancel, queue.retry, queue.wait]
        calls.append(lambda text: queue.jobs(before=text))
        for call in calls:
            with pytest.raises(UnknownJob):
                call(text)
        assert queue.attempts(text) == []
        assert completes(queue)

    @pytest.mark.parametrize("text", ["\ud800", "a\udce9b"], ids=ascii)
    def test_that_no_kind_can_be_is_refused(self, queue: JobQueue, text: str) -> None:
        for call in (queue.purge, queue.retry_all):
            with pytest.raises(ValueError, match=r"^No kind is called .*: surrogates not"):
                call(text)
        assert completes(queue)

    def test_with_a_will_of_its_own_is_taken_as_the_text_that_it_is(
        self, queue: JobQueue, open_queue: OpenQueue
    ) -> None:
        assert queue.wait(Hostile("done"), DEADLINE).id == "done"
        assert queue.cancel(Hostile("done")) is False
        assert [record.id for record in queue.jobs(before=Hostile("dead"))] == ["done"]
        queue.retry(Hostile("dead"))
        queue.join(DEADLINE)
        assert queue.retry_all(Hostile("default")) == 1
        queue.join(DEADLINE)
        assert queue.purge(Hostile("default")) == 1
        assert completes(queue)

    @pytest.mark.parametrize("field", ["id", "kind"])
    def test_of_more_than_a_thousand_characters_is_no_name(
        self, queue: JobQueue, field: str
    ) -> None:
        fields: dict[str, Any] = {field: "x" * 1_000}
        assert completes(queue, Job(**fields))
        with pytest.raises(ValueError, match=rf"Job.{field} has 1,001 characters, more than 1,000"):
            Job(**{**fields, field: "x" * 1_001})


class TestNumbers:
    def test_that_cannot_be_calculated_with_are_taken_as_what_they_are(
        self, queue: JobQueue
    ) -> None:
        assert completes(queue, Job(timeout=Seconds(DEADLINE)))
        with pytest.raises(ZeroDivisionError):
            queue.set_fairness(Number(3))
        assert completes(queue)

    def test_a_payload_or_a_result_has_to_fit_into_a_row_of_sqlite(self) -> None:
        with pytest.raises(ValueError, match="max_payload must be at most 268,435,456, not"):
            JobQueue(nothing, max_payload=256 * 1024 * 1024 + 1)


def test_who_closes_and_does_not_say_whether_to_drain_hears_it(queue: JobQueue) -> None:
    with pytest.raises(ZeroDivisionError):
        queue.close(Unclear())  # type: ignore[arg-type]
    assert completes(queue)


class Indescribable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no words")

    __repr__ = __str__


class Misnamed(Exception):
    pass


Misnamed.__qualname__ = "Caf\udce9"


class Unlookable(dict[str, object]):
    """A result that raises an error when it is looked at."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(a=1)
        self._error = error

    def items(self) -> Any:
        raise self._error


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


OUTCOMES: dict[str, Callable[[], object]] = {
    "an error with a lone surrogate": raising(ValueError("no file caf\udce9")),
    "an error whose name has one": raising(Misnamed("no")),
    "an error with a NUL": raising(ValueError("a\0b")),
    "an error without end": raising(ValueError("x" * 10**7)),
    "an error without a text": raising(Indescribable()),
    "a result that raises when looked at": lambda: Unlookable(ValueError("no column caf\udce9")),
    "one that raises what cannot be described": lambda: Unlookable(Indescribable()),
    "one that wants out": lambda: Unlookable(SystemExit(1)),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_a_handler_comes_up_with_is_the_outcome_of_its_job(
    open_queue: OpenQueue, name: str
) -> None:
    queue = open_queue(
        lambda job: OUTCOMES[name]() if job.id == "odd" else None, workers=1, max_retries=0
    )
    record = queue.wait(queue.enqueue(Job("odd")), DEADLINE)
    assert record.status.ended
    assert record.error
    assert len(record.error) < 3_000
    assert all(len(attempt.traceback) < 20_000 for attempt in queue.attempts("odd"))
    assert completes(queue)  # the only worker has survived
    assert Background(queue.close).result() is True
