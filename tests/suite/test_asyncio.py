"""Capability "asyncio": coroutines await the queue, and no thread waits for them.

A web server on asyncio serves thousands of requests in one thread. If each of them took a thread
to wait for room or for a result, there would be nothing left of that; or if each handler did.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.expectations import POSTGRES
from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("asyncio")

TASKS = 500
ROOM = 10
HANDLERS = 10_000
ON_POSTGRES = 500  # each end is a statement of its own there, and plans for new tables are poor


def test_coroutines_wait_for_room_and_for_the_end_of_their_jobs(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> Any:
        gate.wait()
        journal.write(job.payload)
        return job.payload

    async def ask(queue: Any, number: int) -> bool:
        job_id = await queue.enqueue(stage.job(payload=number))
        record = await queue.wait(job_id, DEADLINE)
        return bool(record.result == number)

    async def main() -> int:
        async with stage.async_queue(handler, workers=2, capacity=ROOM) as queue:
            before = threading.active_count()
            asking = [asyncio.create_task(ask(queue, number)) for number in range(TASKS)]
            async with asyncio.timeout(DEADLINE):
                while (await queue.metrics()).queued < ROOM:
                    await asyncio.sleep(0)
            while_they_wait = threading.active_count() - before
            gate.open()
            assert all(await asyncio.gather(*asking))
            return while_they_wait

    threads = asyncio.run(main())
    evidence(f"{TASKS} coroutines waited for room for {ROOM} jobs, in {threads} threads more")
    assert threads < 50, "They wait in the event loop, not in threads."
    assert sorted(journal.entries) == list(range(TASKS))


def test_thousands_of_handlers_wait_at_once(stage: Stage, evidence: Evidence) -> None:
    handlers = ON_POSTGRES if stage.name == POSTGRES else HANDLERS
    moved = threading.Semaphore(0)

    def all_have_moved() -> None:
        for number in range(handlers):
            assert moved.acquire(timeout=DEADLINE), number

    async def main() -> tuple[int, int]:
        may_end = asyncio.Event()
        loops = set()

        async def handler(job: Any) -> None:
            loops.add(asyncio.get_running_loop())
            moved.release()
            await may_end.wait()
            moved.release()

        before = threading.active_count()
        async with stage.async_queue(handler, workers=handlers, capacity=handlers) as queue:
            await queue.enqueue_many([stage.job() for _ in range(handlers)])
            await asyncio.to_thread(all_have_moved)
            threads = threading.active_count() - before
            (loop,) = loops
            loop.call_soon_threadsafe(may_end.set)
            await asyncio.to_thread(all_have_moved)
            await queue.join(DEADLINE)
            return threads, (await queue.metrics()).completed

    threads, completed = asyncio.run(main())
    evidence(f"{handlers:,} coroutine handlers waited at once, in {threads} threads more")
    assert threads < 50, "They wait in the event loop, not in threads."
    assert completed == handlers
