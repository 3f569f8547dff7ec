"""A handler may do what it likes: its job ends, its worker and the queue live on.

Without that one bad job is the end of a worker, or of the whole queue: code that nobody
expected to raise is what takes a service down.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

import improved
from final import Job, JobQueue, Priority, QueueFull, Status
from tests.final.helpers import AT_ONCE, OpenQueue, comes_true, completes, nested, reaches
from tests.helpers import DEADLINE, Background, Journal


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Indescribable(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise RuntimeError("ask somebody else")


class Unlookable(dict[str, int]):
    """Passes for a dict until somebody looks inside."""

    def items(self) -> Any:
        raise ZeroDivisionError


class Untellable(Unlookable):
    """Its error is of a class that is looked for, and cannot be told."""

    def __init__(self, base: type[Exception]) -> None:
        super().__init__(a=1)
        self._error = type("Untold", (base,), {"__str__": self._tell})

    def items(self) -> Any:
        raise self._error

    def _tell(self, *_: object) -> NoReturn:
        raise self._error


def raise_at_length(job: Job) -> None:
    raise ValueError("x" * int(str(job.payload)) + " the end")


def with_note(error: Exception) -> Exception:
    error.add_note("while delivering to example.org")
    return error


def deep_group() -> Exception:
    error: Exception = ValueError("x")
    for _ in range(5_000):
        error = ExceptionGroup("and so on", [error])
    return error


class Secretive(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> NoReturn:
        raise RuntimeError("this concerns nobody")


class NobodysName(type):
    @property
    def __name__(cls) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("nor is this")


class Nameless(Indescribable, metaclass=NobodysName):
    """Cannot be described, and its class does not even say what it is called."""


def circle() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


RAISED: dict[str, tuple[BaseException, str]] = {
    "SystemExit": (SystemExit(3), "SystemExit: 3"),
    "KeyboardInterrupt": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit"),
    "StopIteration": (StopIteration(5), "StopIteration: 5"),
    "a group": (
        BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("x")]),
        "BaseExceptionGroup: both (2 sub-exceptions)",
    ),
    "no text to be had": (
        Unprintable(),
        "tests.final.test_bad_handlers.Unprintable: <exception str() failed>",
    ),
    "with a note": (with_note(ValueError("no such address")), "ValueError: no such address"),
}

RAISED_HERE: dict[str, tuple[BaseException, str]] = {
    **RAISED,
    "a group of great depth": (deep_group(), "ExceptionGroup: RecursionError in describing it"),
    "a group that cannot be looked at": (
        Secretive("both", [ValueError("x")]),
        "Secretive: RuntimeError in describing it",
    ),
    "a class without a name": (
        Nameless(),
        "Nameless: RuntimeError in describing it"
        if sys.version_info < (3, 13)  # which asks the class itself
        else "tests.final.test_bad_handlers.Nameless",
    ),
}


class TestRaising:
    @pytest.mark.parametrize(("error", "line"), RAISED_HERE.values(), ids=RAISED_HERE.keys())
    def test_any_exception_is_a_failed_attempt(
        self, open_queue: OpenQueue, error: BaseException, line: str
    ) -> None:
        def handler(job: Job) -> None:
            if job.id == "bad":
                raise error

        queue = open_queue(handler, workers=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job("bad")), DEADLINE)
        assert (record.status, record.error) == (Status.FAILED, line)
        assert completes(queue)  # the only worker has survived

    @pytest.mark.parametrize("error", [e for e, _ in RAISED.values()], ids=RAISED.keys())
    def test_any_exception_is_a_failed_attempt_in_improved_too(self, error: BaseException) -> None:
        ran = Journal()

        def handler(job: improved.Job) -> None:
            ran.write(job.id)
            if job.id == "bad":
                raise error

        queue = improved.JobQueue(handler, workers=1, max_retries=0)
        queue.enqueue(improved.Job("bad"))
        queue.enqueue(improved.Job("good"))
        ran.wait_for("good")
        assert queue.close(timeout=DEADLINE)
        assert (queue.metrics().failed, queue.metrics().completed) == (1, 1)

    def test_a_file_name_that_is_no_utf_8_may_be_in_the_error(self, open_queue: OpenQueue) -> None:
        """Python spells it with a lone surrogate, and that cannot be stored as it stands."""

        def handler(job: Job) -> None:
            if job.id == "bad":
                raise ValueError("cannot open caf\udce9.txt")

        queue = open_queue(handler, workers=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job("bad")), DEADLINE)
        assert record.error
        assert record.error.startswith("ValueError: cannot open caf")
        assert completes(queue)

    def test_one_that_raises_when_it_is_described_is_a_failed_attempt_too(
        self, open_queue: OpenQueue
    ) -> None:
        def handler(job: Job) -> None:
            if job.id == "bad":
                raise Indescribable

        queue = open_queue(handler, workers=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job("bad")), DEADLINE)
        assert record.status is Status.FAILED
        assert record.error
        assert "Indescribable" in record.error
        assert completes(queue)  # the only worker has survived

    def test_the_record_holds_one_line_of_the_error(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            raise ValueError("the first line\nand a second\n\nand more")

        queue = open_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.error
        assert record.error.startswith("ValueError: the first line")
        assert "\n" not in record.error

    @pytest.mark.parametrize("executor", ["thread", "process"])
    def test_a_very_long_error_is_cut_and_says_so(
        self, open_queue: OpenQueue, executor: str
    ) -> None:
        """Its head says where it was raised and what it is, its tail how the message ends."""
        queue = open_queue(raise_at_length, executor=executor, workers=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job(payload=1_000_000)), DEADLINE)
        [attempt] = queue.attempts(record.id)
        assert record.error == attempt.error
        for text, limit in ((attempt.error, 4_000), (attempt.traceback, 20_000)):
            assert len(text) < limit
            assert re.search(r"\[\.\.\. 9\d\d,\d\d\d characters cut \.\.\.\]", text)
            assert text.rstrip().endswith("xxx the end")
        assert attempt.error.startswith("ValueError: xxx")
        assert attempt.traceback.startswith("Traceback ")
        assert "in raise_at_length" in attempt.traceback

    def test_so_is_the_note_of_a_result_that_is_not_kept(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: {"x" * 1_000_000: {1: 2}})
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.error
        assert len(record.error) < 4_000
        assert record.error.startswith("The result has the key 1 at ['xxx")
        assert " characters cut " in record.error
        assert record.error.endswith(" The job completed; its result is not kept.")


UNSTORABLE: dict[str, tuple[Callable[[], object], str]] = {
    "an object": (object, "object"),
    "a set": (lambda: {1, 2}, "set"),
    "a tuple": (lambda: (1, 2), "tuple"),
    "a number as key": (lambda: {1: 2}, "the key 1"),
    "NaN": (lambda: float("nan"), "JSON"),
    "lone surrogate": (lambda: "caf\udce9", "lone surrogate"),
    "a circle": (circle, "[Cc]ircular"),
    "101 levels": (lambda: nested(101), "nested too deeply: 100 levels"),
    "100,000 levels": (lambda: nested(100_000), "nested too deeply: 100 levels"),
    "an iterator": (lambda: iter([1]), "list_iterator"),
    "too large": (lambda: b"x" * 101, "101 bytes, more than the limit of 100"),
    "raises when looked at": (lambda: Unlookable(a=1), "Unlookable|ZeroDivisionError"),
    "raises an untold TypeError": (lambda: Untellable(TypeError), "Untold"),
    "raises an untold ValueError": (lambda: Untellable(ValueError), "Untold"),
}


class TestReturning:
    @pytest.mark.parametrize(("make", "words"), UNSTORABLE.values(), ids=UNSTORABLE.keys())
    def test_a_result_that_cannot_be_stored_is_not_kept_and_the_job_completes(
        self,
        open_queue: OpenQueue,
        caplog: pytest.LogCaptureFixture,
        make: Callable[[], object],
        words: str,
    ) -> None:
        """The work is done, so it must not be done again only because of what it returned."""
        ran = Journal()

        def handler(job: Job) -> object:
            ran.write(job.id)
            return make() if job.id == "bad" else None

        queue = open_queue(handler, workers=1, max_payload=100)
        record = queue.wait(queue.enqueue(Job("bad")), DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, None)
        assert record.error
        assert record.error.startswith("The result ")
        assert record.error.endswith(" The job completed; its result is not kept.")
        assert re.search(words, record.error)
        assert completes(queue)  # the only worker has survived
        assert ran.entries.count("bad") == 1
        assert Background(queue.close).result() is True  # the log has been written by then
        [warning] = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert warning.getMessage() == f"job bad: {record.error}"

    @pytest.mark.parametrize(
        "result",
        [b"", b"\x00\xff", "", "text", 0, False, [], {}, {"a": [1, None, "ä"]}, 1.5, nested(100)],
        ids=lambda result: repr(result)[:30],
    )
    def test_bytes_and_json_values_are_kept_as_the_result(
        self, open_queue: OpenQueue, result: object
    ) -> None:
        queue = open_queue(lambda job: result)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.result == result == queue.jobs()[0].result
        assert type(record.result) is type(result)
        assert record.error is None

    def test_a_retry_that_works_leaves_no_error_behind(self, open_queue: OpenQueue) -> None:
        """``error`` of a completed job says why its result was not kept, and nothing else."""
        attempts: list[str] = []

        def handler(job: Job) -> str:
            attempts.append(job.id)
            if len(attempts) == 1:
                raise ValueError("not yet")
            return "done"

        queue = open_queue(handler, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.attempts, record.result, record.error) == (2, "done", None)


class Seen(list[str]):
    """A handler that is a list, and so as good as False while it is empty."""

    def __call__(self, job: Job) -> None:
        self.append(job.id)


def test_a_handler_may_be_anything_that_can_be_called(open_queue: OpenQueue) -> None:
    seen = Seen()
    queue = open_queue(seen, max_retries=0)
    assert completes(queue, Job("x"))
    assert seen == ["x"]


Asked = Callable[[Callable[[JobQueue], object]], object]


class TestUsingItsOwnQueue:
    @pytest.fixture
    def asked(self, open_queue: OpenQueue) -> Asked:
        """Does something with the queue inside a handler of it; returns what came of that."""

        def asked(work: Callable[[JobQueue], object]) -> object:
            def handler(job: Job) -> object:
                return work(queue) if job.id == "asker" else None

            queue = open_queue(handler, workers=2)
            record = queue.wait(queue.enqueue(Job("asker")), DEADLINE)
            queue.join(DEADLINE)
            assert queue.metrics().accepted == queue.metrics().completed
            return record.result

        return asked

    def test_a_handler_may_enqueue(self, asked: Asked) -> None:
        assert asked(lambda queue: queue.enqueue(Job("child"))) == "child"

    def test_a_handler_may_enqueue_many(self, asked: Asked) -> None:
        children = [f"child-{n}" for n in range(20)]
        assert asked(lambda queue: queue.enqueue_many(map(Job, children))) == children

    def test_a_handler_may_look_at_the_metrics(self, asked: Asked) -> None:
        assert asked(lambda queue: queue.metrics().processing) == 1

    def test_a_handler_may_look_at_its_own_job(self, asked: Asked) -> None:
        assert asked(lambda queue: queue.status("asker")) == "processing"
        assert asked(lambda queue: queue.get("asker").attempts) == 1
        assert asked(lambda queue: len(queue.jobs())) == 1

    def test_a_handler_may_wait_for_another_job(self, asked: Asked) -> None:
        assert asked(lambda queue: queue.wait(queue.enqueue(Job()), DEADLINE).status) == "completed"

    def test_a_handler_may_retry_a_dead_letter(self, open_queue: OpenQueue) -> None:
        healed: list[str] = []

        def handler(job: Job) -> None:
            if job.id == "doctor":
                healed.append("patient")
                queue.retry("patient")
            elif not healed:
                raise ValueError("ill")

        queue = open_queue(handler, workers=1, max_retries=0)
        queue.enqueue_many([Job("patient"), Job("doctor")])
        queue.join(DEADLINE)
        assert queue.status("patient") is Status.COMPLETED

    def test_handlers_that_all_wait_for_room_get_queue_full_instead_of_a_deadlock(
        self, open_queue: OpenQueue
    ) -> None:
        errors: list[QueueFull] = []
        both_run = threading.Barrier(2)

        def handler(job: Job) -> None:
            if job.payload == "parent":
                both_run.wait(DEADLINE)
                try:
                    queue.enqueue_many([Job(payload="child") for _ in range(4)])
                except QueueFull as error:
                    errors.append(error)
                    raise

        queue = open_queue(handler, workers=2, capacity=1, max_retries=0)
        parents = [queue.enqueue(Job(payload="parent"), timeout=DEADLINE) for _ in range(2)]
        queue.join(DEADLINE)
        counts = queue.metrics()
        assert counts.accepted == counts.completed + counts.failed
        failed = [record for record in queue.dead_letters() if record.id in parents]
        assert 1 <= len(failed) == counts.failed == len(errors)
        assert all("All 2 workers wait to enqueue into full lanes" in str(e) for e in errors)
        # Whoever was turned away knows what was accepted before: each of these jobs ran.
        for error in errors:
            assert all(queue.status(job_id) is Status.COMPLETED for job_id in error.accepted)

    def test_who_does_not_wait_for_room_is_no_reason_to_turn_away_who_does(
        self, open_queue: OpenQueue
    ) -> None:
        """It is about to go on, and then there will be room."""

        def handler(job: Job) -> None:
            if job.id == "patient":
                queue.enqueue_many([Job(priority=Priority.LOW) for _ in range(3)])
            elif job.id == "impatient":
                comes_true(queue, lambda: queue.metrics().accepted == 3, "the other one to wait")
                for _ in range(3):
                    with pytest.raises(QueueFull, match="had no room in time"):
                        queue.enqueue_many([Job(), Job()], timeout=0)

        queue = open_queue(handler, workers=2, capacity=1, max_retries=0)
        queue.enqueue(Job("impatient"))
        reaches(queue, "impatient", Status.PROCESSING)
        queue.enqueue(Job("patient"))
        queue.join(DEADLINE)
        assert queue.dead_letters() == []


class TestClosingItsOwnQueue:
    def test_close_returns_at_once_and_the_queue_drains(self, open_queue: OpenQueue) -> None:
        returned: list[bool] = []

        def handler(job: Job) -> None:
            if job.id == "closer":
                returned.append(queue.close())
                queue.enqueue(Job("follow-up"))  # part of the work to be drained

        queue = open_queue(handler, workers=1)
        queue.enqueue_many([Job("closer"), *(Job() for _ in range(10))])
        assert Background(queue.close).result() is True
        assert returned == [False]
        assert queue.metrics().completed == 12

    def test_close_without_drain_leaves_the_others_in_the_file(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def handler(job: Job) -> None:
            queue.close(drain=False)

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue_many([Job("closer"), Job("left"), Job("too")])
        assert Background(queue.close).result() is False  # it was to drain, and did not
        assert [queue.status(job_id) for job_id in ("closer", "left", "too")] == [
            Status.COMPLETED,
            Status.QUEUED,
            Status.QUEUED,
        ]

    def test_all_handlers_may_close_at_once(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            assert queue.close() is False

        queue = open_queue(handler, workers=4, max_retries=0)
        queue.enqueue_many([Job() for _ in range(20)])
        assert Background(queue.close).result() is True
        assert queue.metrics().completed == 20
