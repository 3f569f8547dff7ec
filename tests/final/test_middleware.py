"""Middleware: code around every attempt, in threads, coroutines and processes."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from final import (
    CallNext,
    Job,
    JobQueue,
    Kind,
    PermanentFailure,
    Snooze,
    Status,
    current_job,
)
from tests.final import inside
from tests.final import process_handlers as handlers
from tests.final.helpers import AT_ONCE, OpenQueue, completes, nothing
from tests.helpers import DEADLINE, Gate, Journal

LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def notes(journal: Journal, name: str) -> Any:
    def middleware(job: Job, call_next: CallNext) -> object:
        journal.write(f"{name} before {job.id}")
        try:
            return call_next(job)
        finally:
            journal.write(f"{name} after {job.id}")

    return middleware


async def coroutine(job: Job) -> object:
    await asyncio.sleep(0)
    return tenant.get()


def for_tenant(job: Job, call_next: CallNext) -> object:
    tenant.set(f"of {job.id}")
    return call_next(job)


class TestAround:
    @pytest.mark.parametrize("handler", [lambda job: tenant.get(), coroutine])
    def test_the_first_one_is_outermost_and_what_they_set_the_handler_sees(
        self, open_queue: OpenQueue, handler: Any
    ) -> None:
        journal = Journal()
        middleware = [notes(journal, "outer"), for_tenant, notes(journal, "inner")]
        queue = open_queue(handler, middleware=middleware, workers=1)
        for name in ("x", "y"):
            assert queue.wait(queue.enqueue(Job(name)), DEADLINE).result == f"of {name}"
        assert journal.entries == [
            *("outer before x", "inner before x", "inner after x", "outer after x"),
            *("outer before y", "inner before y", "inner after y", "outer after y"),
        ]
        assert tenant.get() == "nobody"

    def test_in_a_process(self, open_queue: OpenQueue) -> None:
        kinds: Any = {"work": handlers.tenant_of, "here": lambda job: "no process"}
        queue = open_queue(
            {"work": Kind(kinds["work"], executor="process"), "here": kinds["here"]},
            middleware=[handlers.note_tenant, handlers.shout],
            workers=1,
        )
        assert queue.wait(queue.enqueue(Job("x", kind="work")), LONG).result == "OF X"
        assert queue.wait(queue.enqueue(Job("y", kind="here")), LONG).result == "NO PROCESS"

    def test_around_what_a_plain_function_returns_to_be_awaited(
        self, open_queue: OpenQueue
    ) -> None:
        journal = Journal()
        queue = open_queue(lambda job: coroutine(job), middleware=[notes(journal, "m")])
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, "nobody")
        assert journal.entries == ["m before x", "m after x"]

    def test_each_attempt(self, open_queue: OpenQueue) -> None:
        attempts = Journal()

        def middleware(job: Job, call_next: CallNext) -> object:
            attempts.write(current_job().attempt)
            return call_next(job)

        def handler(job: Job) -> None:
            if current_job().attempt < 3:
                raise ValueError("no")

        queue = open_queue(handler, middleware=[middleware], backoff=AT_ONCE)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED
        assert attempts.entries == [1, 2, 3]

    def test_it_may_hand_on_another_job_and_return_another_result(
        self, open_queue: OpenQueue
    ) -> None:
        def decode(job: Job, call_next: CallNext) -> object:
            return [call_next(dataclasses.replace(job, payload=str(job.payload).upper()))]

        queue = open_queue(lambda job: job.payload, middleware=[decode])
        record = queue.wait(queue.enqueue(Job(payload="text")), DEADLINE)
        assert (record.result, record.payload) == (["TEXT"], "text")

    def test_it_may_leave_the_handler_out_or_call_it_again(self, open_queue: OpenQueue) -> None:
        calls = Journal()

        def middleware(job: Job, call_next: CallNext) -> object:
            if job.payload == "known":
                return "as before"
            call_next(job)
            return call_next(job)

        queue = open_queue(lambda job: calls.write(job.payload), middleware=[middleware])
        results = list(queue.map(["known", "new"], timeout=DEADLINE))
        assert results == ["as before", 2]
        assert calls.entries == ["new", "new"]


class TestWhatItRaises:
    @pytest.mark.parametrize("handler", [nothing, coroutine])
    def test_is_the_failure_of_the_attempt(self, open_queue: OpenQueue, handler: Any) -> None:
        def middleware(job: Job, call_next: CallNext) -> object:
            if job.payload == "before":
                raise ValueError("no session")
            call_next(job)
            raise KeyError("no commit")

        queue = open_queue(handler, middleware=[middleware], max_retries=0)
        ids = queue.enqueue_many([Job(payload="before"), Job(payload="after")])
        records = [queue.wait(job_id, DEADLINE) for job_id in ids]
        assert [(record.status, record.error) for record in records] == [
            (Status.FAILED, "ValueError: no session"),
            (Status.FAILED, "KeyError: 'no commit'"),
        ]
        [attempt] = queue.attempts(ids[1])
        assert "in middleware" in attempt.traceback

    def test_counts_as_if_the_handler_had_raised_it(self, open_queue: OpenQueue) -> None:
        def middleware(job: Job, call_next: CallNext) -> object:
            raise PermanentFailure("never") if job.payload else Snooze(86_400)

        queue: JobQueue = open_queue(nothing, middleware=[middleware])
        assert queue.wait(queue.enqueue(Job(payload=1)), DEADLINE).attempts == 1
        queue.enqueue(Job("later"))
        queue.join(DEADLINE)
        assert (queue.status("later"), queue.get("later").snoozes) == (Status.SCHEDULED, 1)

    def test_it_sees_what_the_handler_raises_and_may_make_something_else_of_it(
        self, open_queue: OpenQueue
    ) -> None:
        def not_found(job: Job, call_next: CallNext) -> object:
            try:
                return call_next(job)
            except FileNotFoundError as error:
                raise PermanentFailure(f"gone: {error}") from error

        async def handler(job: Job) -> None:
            raise FileNotFoundError("page 4")

        queue = open_queue(handler, middleware=[not_found], max_retries=5)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert (record.attempts, record.error) == (1, "final.errors.PermanentFailure: gone: page 4")


class TestTimeOuts:
    def test_a_coroutine_is_cancelled_and_what_is_around_it_cleans_up(
        self, open_queue: OpenQueue
    ) -> None:
        journal = Journal()

        async def hangs(job: Job) -> None:
            await asyncio.Event().wait()

        queue = open_queue(
            hangs, middleware=[notes(journal, "m")], timeout=0.05, max_retries=0, workers=1
        )
        queue.enqueue(Job("x"))
        assert queue.wait("x", DEADLINE).status is Status.FAILED
        journal.wait_for("m after x")

    def test_one_that_hangs_before_a_coroutine_does_not_hold_its_worker(
        self, open_queue: OpenQueue
    ) -> None:
        """Only the coroutine can be cancelled; the thread is given up."""
        over = threading.Event()

        def middleware(job: Job, call_next: CallNext) -> object:
            if job.payload == "hangs":
                over.wait(LONG)  # longer than anybody waits for the next job
            return call_next(job)

        queue = open_queue(
            coroutine, middleware=[middleware], timeout=0.05, max_retries=0, workers=1
        )
        queue.enqueue(Job("x", payload="hangs"))
        assert queue.wait("x", DEADLINE).status is Status.FAILED
        assert completes(queue, Job(timeout=DEADLINE))
        over.set()

    def test_nor_does_one_that_hangs_when_it_cleans_up_behind_one(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """A rollback, say, on a connection where nobody answers."""

        def cleans_up(job: Job, call_next: CallNext) -> object:
            try:
                return call_next(job)
            finally:
                if job.timeout:
                    gate.wait()

        async def handler(job: Job) -> None:
            if job.timeout:
                await asyncio.sleep(10 * DEADLINE)

        queue = open_queue(handler, workers=1, max_retries=0, middleware=[cleans_up])
        queue.enqueue_many([Job("late", timeout=0.1), Job("next")])
        assert queue.wait("late", DEADLINE).status is Status.FAILED
        assert queue.wait("next", DEADLINE).status is Status.COMPLETED


class TestWhatIsNone:
    @pytest.mark.parametrize(
        ("middleware", "words"),
        [
            (for_tenant, r"middleware is a list of functions m\(job, call_next\), as"),
            (None, "middleware is a list of functions"),
            (["timed"], r"middleware\[0\] must be callable as m\(job, call_next\), not 'timed'"),
            (
                [for_tenant, coroutine],
                r"middleware\[1\] is a coroutine function: write it with def",
            ),
        ],
        ids=["a function", "None", "text", "a coroutine function"],
    )
    def test_it_is_refused_at_once(
        self, open_queue: OpenQueue, middleware: Any, words: str
    ) -> None:
        with pytest.raises(TypeError, match=words):
            open_queue(nothing, middleware=middleware)

    def test_nor_is_what_cannot_be_sent_to_a_process(self, open_queue: OpenQueue) -> None:
        here = [lambda job, call_next: call_next(job)]
        with pytest.raises(ValueError, match=r"middleware\[0\] cannot be sent to another process"):
            open_queue(handlers.echo, middleware=here, executor="process")
        assert completes(open_queue(handlers.echo, middleware=here))

    @pytest.mark.parametrize("handler", [nothing, coroutine])
    def test_one_that_returns_a_coroutine(self, open_queue: OpenQueue, handler: Any) -> None:
        async def later(job: Job, call_next: CallNext) -> object:
            return call_next(job)

        queue = open_queue(handler, middleware=[lambda job, call_next: later(job, call_next)])
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.error is not None
        assert "A middleware returned work that is not done (coroutine)" in record.error
        assert (record.status, record.attempts) == (Status.FAILED, 1)


def test_without_any_the_handler_itself_is_called(open_queue: OpenQueue) -> None:
    assert inside.called_for_a_job(open_queue(nothing)) is nothing
    assert inside.called_for_a_job(open_queue(nothing, middleware=[for_tenant])) is not nothing


def test_what_a_middleware_holds_is_a_threads_own(open_queue: OpenQueue, gate: Gate) -> None:
    """Two attempts at a time, each in its context."""
    barrier = threading.Barrier(2)
    seen: dict[str, str] = {}

    def handler(job: Job) -> None:
        barrier.wait(DEADLINE)
        seen[job.id] = tenant.get()

    middleware: list[Callable[[Job, CallNext], object]] = [for_tenant]
    queue = open_queue(handler, middleware=middleware, workers=2)
    queue.enqueue_many([Job("x"), Job("y")])
    queue.join(DEADLINE)
    assert seen == {"x": "of x", "y": "of y"}
