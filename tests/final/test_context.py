"""The context (``contextvars``) that a handler finds is that of nobody else.

Without that the tenant or the request id that one job sets is there for the next job on that
thread: a row in the wrong account, a log line under the wrong name.
"""

from __future__ import annotations

import asyncio
import decimal
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from final import Job, current_job
from tests.final.helpers import AT_ONCE, OpenQueue, learn_that_jobs_are_quick
from tests.helpers import DEADLINE, Background, Gate

tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


def plain(job: Job) -> str | None:
    found = tenant.get()
    tenant.set(job.id)
    return found


async def coroutine(job: Job) -> str | None:
    await asyncio.sleep(0)
    return plain(job)


def both(job: Job) -> Any:
    """What the call sets is there for the coroutine that it returns, and for nobody else."""
    found = plain(job)

    async def rest() -> object:
        await asyncio.sleep(0)
        return found or tenant.get() == job.id or "lost"

    return rest()


HANDLERS: dict[str, tuple[Callable[[Job], Any], object]] = {
    "plain": (plain, None),
    "coroutine": (coroutine, None),
    "a call that returns a coroutine": (both, True),
}


@pytest.mark.parametrize(("handler", "found"), HANDLERS.values(), ids=HANDLERS.keys())
def test_a_job_finds_nothing_of_the_job_before(
    open_queue: OpenQueue, handler: Any, found: object
) -> None:
    queue = open_queue(handler, workers=1)
    assert list(queue.map([None] * 5, timeout=DEADLINE)) == [found] * 5


def test_nor_does_one_of_the_same_batch(open_queue: OpenQueue) -> None:
    queue = open_queue(plain, workers=1)
    learn_that_jobs_are_quick(queue)
    ids = queue.enqueue_many([Job() for _ in range(50)])
    queue.join(DEADLINE)
    assert {queue.get(job_id).result for job_id in ids} == {None}


def test_nor_does_a_retry(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> str | None:
        found = plain(job)
        if current_job().attempt < 3:
            raise ValueError("not yet")
        return found

    queue = open_queue(handler, workers=1, backoff=AT_ONCE)
    record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
    assert (record.attempts, record.result) == (3, None)


def test_nor_does_it_find_that_of_whoever_opened_or_enqueued(open_queue: OpenQueue) -> None:
    token = tenant.set("the caller's")
    try:
        queue = open_queue(plain, workers=1)
        assert list(queue.map([None], timeout=DEADLINE)) == [None]
    finally:
        tenant.reset(token)


def test_the_precision_of_decimals_is_a_jobs_own(open_queue: OpenQueue) -> None:
    """The standard library keeps its own things there, too."""

    def handler(job: Job) -> int:
        found = decimal.getcontext().prec
        decimal.getcontext().prec = 3
        return found

    queue = open_queue(handler, workers=1)
    first, second = queue.map([None, None], timeout=DEADLINE)
    assert first == second


def test_a_thread_that_a_handler_has_left_is_not_taken_for_the_next_job(
    open_queue: OpenQueue, gate: Gate
) -> None:
    left: list[Background] = []

    def ask() -> str:
        gate.wait()
        return current_job().id

    def handler(job: Job) -> None:
        if job.id == "leaves it":
            left.append(Background(copy_context().run, ask))
        elif job.id == "next":
            gate.open()
            with pytest.raises(RuntimeError, match="no job runs in this thread"):
                left[0].result()

    queue = open_queue(handler, workers=1)
    learn_that_jobs_are_quick(queue)
    for job_id in queue.enqueue_many([Job("leaves it"), Job("next")]):
        assert queue.wait(job_id, DEADLINE).error is None
