"""Completed means that the work was done: not that a call returned a coroutine or a generator.

Without that a decorator that knows nothing of ``async`` is enough for a queue to say
"completed" of thousands of mails that nobody sent.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any
from unittest import mock

import pytest

from final import Job, JobQueue, PermanentFailure, Status, current_job
from tests.final import process_handlers
from tests.final.helpers import AT_ONCE, OpenQueue, completes
from tests.helpers import DEADLINE, Background, Broken, Gate, Journal


async def send(job: Job) -> str:
    """The work: done only if somebody awaits it."""
    await asyncio.sleep(0)
    return f"sent {job.id}"


async def fail(job: Job) -> None:
    await asyncio.sleep(0)
    raise Broken("no such address")


def logged(function: Callable[[Job], Any]) -> Callable[[Job], Any]:
    """An everyday decorator, which knows nothing of coroutines."""

    @functools.wraps(function)
    def wrapper(job: Job) -> Any:
        return function(job)

    return wrapper


class Mailer:
    """Its call returns a coroutine, though it is no coroutine function."""

    def __call__(self, job: Job) -> Any:
        return send(job)

    def method(self, job: Job) -> Any:
        return send(job)


class Reply:
    """Neither coroutine nor future, but it can be awaited."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, None, str]:
        return send(self._job).__await__()


class Words(str):
    """A result that can be awaited, and would pass for text."""

    def __await__(self) -> Generator[Any, None, str]:
        return send(Job(str(self))).__await__()


async def forgets_to_await(job: Job) -> Any:
    return send(job)


def future_of_a_pool(job: Job) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: f"sent {job.id}")


AWAITABLE: dict[str, Callable[[Job], Any]] = {
    "a lambda": lambda job: send(job),
    "a decorator": logged(send),
    "a partial": functools.partial(lambda address, job: send(job), "a@example.org"),
    "an object": Mailer(),
    "a bound method": Mailer().method,
    "a partial of an object": functools.partial(Mailer()),
    "an object with __await__": Reply,
    "text with __await__": lambda job: Words(job.id),
    "a future of a pool": future_of_a_pool,
    "a coroutine that returns one": forgets_to_await,
    "an AsyncMock": mock.AsyncMock(side_effect=send),
}


class TestWhatCanBeAwaited:
    @pytest.mark.parametrize("handler", AWAITABLE.values(), ids=AWAITABLE.keys())
    def test_is_run_to_its_end(self, open_queue: OpenQueue, handler: Any) -> None:
        queue = open_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.result, record.error) == (Status.COMPLETED, "sent x", None)

    def test_fails_and_is_tried_again_like_any_other(self, open_queue: OpenQueue) -> None:
        queue = open_queue(logged(fail), max_retries=2, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 3)
        assert record.error == "tests.helpers.Broken: no such address"
        assert "in fail" in queue.attempts("x")[0].traceback

    def test_knows_its_job(self, open_queue: OpenQueue) -> None:
        async def handler(job: Job) -> str:
            await asyncio.sleep(0)
            return current_job().id

        queue = open_queue(logged(handler))
        assert queue.wait(queue.enqueue(Job("x")), DEADLINE).result == "x"

    @pytest.mark.parametrize("how", ["a time-out", "cancel"])
    def test_is_cancelled_and_its_worker_is_free(self, open_queue: OpenQueue, how: str) -> None:
        seen = Journal()

        async def handler(job: Job) -> None:
            if job.payload == "hangs":
                seen.write("started")
                try:
                    await asyncio.Event().wait()
                finally:
                    seen.write("cancelled")

        queue = open_queue(logged(handler), workers=1, max_retries=0)
        queue.enqueue(Job("x", "hangs", timeout=0.5 if how == "a time-out" else None))
        seen.wait_for("started")
        if how == "cancel":
            assert queue.cancel("x")
        record = queue.wait("x", DEADLINE)
        assert record.status is (Status.FAILED if how == "a time-out" else Status.CANCELLED)
        seen.wait_for("cancelled")
        assert completes(queue)

    def test_in_a_batch_a_timeout_ends_that_job_and_the_next_late_one(
        self, open_queue: OpenQueue
    ) -> None:
        async def handler(job: Job) -> None:
            if job.payload == "hangs":
                await asyncio.Event().wait()

        queue = open_queue(lambda job: handler(job), workers=1, max_retries=0, timeout=0.005)
        hanging = [Job(payload="hangs") for _ in range(5)]
        quick = [Job(timeout=DEADLINE) for _ in range(20)]
        for _ in range(100):  # to learn that these jobs are quick
            queue.enqueue(Job(timeout=DEADLINE))
        queue.join(DEADLINE)
        queue.enqueue_many([*quick[:10], *hanging, *quick[10:]])
        queue.join(DEADLINE)
        assert {queue.status(job.id) for job in hanging} == {Status.FAILED}
        assert {queue.status(job.id) for job in quick} == {Status.COMPLETED}

    def test_closing_ends_the_loop_that_it_needed(self, open_queue: OpenQueue) -> None:
        queue = open_queue(logged(send))
        assert completes(queue)
        assert Background(queue.close).result() is True
        assert Background(queue.close).result() is True


def steps(job: Job) -> Iterator[int]:
    yield 1


async def async_steps(job: Job) -> AsyncIterator[int]:
    yield 1


UNDONE: dict[str, Callable[[Job], Any]] = {
    "a generator": steps,
    "a lambda with a generator": lambda job: (n for n in range(3)),
    "an async generator": async_steps,
    "a map": lambda job: map(print, [1]),
    "a filter": lambda job: filter(print, [1]),
    "a function": lambda job: lambda: None,
    "a coroutine function": lambda job: send,
    "a method": lambda job: Mailer().method,
    "a partial": lambda job: functools.partial(send, job),
    "coroutines in a list": lambda job: [send(job), send(job)],
    "coroutines in a tuple": lambda job: (send(job),),
    "coroutines in a dict": lambda job: {"a": send(job)},
    "a generator out of a coroutine": logged(mock.AsyncMock(side_effect=steps)),
}


class TestWhatCannot:
    @pytest.mark.parametrize("handler", UNDONE.values(), ids=UNDONE.keys())
    def test_fails_the_job_for_good(self, open_queue: OpenQueue, handler: Any) -> None:
        queue = open_queue(handler, workers=1, max_retries=5, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 1)
        assert record.error
        assert "The handler returned work that is not done (" in record.error

    def test_a_future_of_another_loop_fails_it_too(self, open_queue: OpenQueue) -> None:
        elsewhere = asyncio.new_event_loop()
        queue = open_queue(lambda job: elsewhere.create_future(), backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        elsewhere.close()
        assert (record.status, record.attempts) == (Status.FAILED, 1)
        assert "of another event loop" in str(record.error)

    def test_a_future_that_nobody_fulfils_can_be_cancelled(self, open_queue: OpenQueue) -> None:
        made = Journal()

        def handler(job: Job) -> Any:
            made.write(future := concurrent.futures.Future[None]())
            return future

        queue = open_queue(handler, workers=1)
        queue.enqueue(Job("x"))
        made.wait_for_count(1)
        assert queue.cancel("x")
        assert queue.wait("x", DEADLINE).status is Status.CANCELLED
        with pytest.raises(concurrent.futures.CancelledError):
            made.entries[0].result(DEADLINE)

    def test_in_a_process_nothing_is_awaited(self, open_queue: OpenQueue) -> None:
        handlers = {"plain": process_handlers.send_later, "steps": process_handlers.steps}
        queue: JobQueue = open_queue(handlers, executor="process", workers=1, backoff=AT_ONCE)
        for kind in handlers:
            record = queue.wait(queue.enqueue(Job(kind=kind)), 3 * DEADLINE)
            assert (record.status, record.attempts) == (Status.FAILED, 1)
            assert "The handler returned work that is not done (" in str(record.error)


def test_a_permanent_failure_inside_a_coroutine_is_one(open_queue: OpenQueue, gate: Gate) -> None:
    async def handler(job: Job) -> None:
        raise PermanentFailure("no such customer")

    queue = open_queue(logged(handler), backoff=AT_ONCE)
    record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
    assert (record.status, record.attempts) == (Status.FAILED, 1)
