"""Coroutine handlers: one event loop for all of them, ``workers`` at a time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from final import (
    Backoff,
    CurrentJob,
    Job,
    JobQueue,
    Kind,
    QueueFull,
    Status,
    StorageError,
    current_job,
)
from tests.final import inside
from tests.final.helpers import AT_ONCE, OpenQueue, completes, nothing, reaches
from tests.helpers import DEADLINE, Background, Gate, Journal, eventually

SOON = 0.03  # seconds; a time-out that is meant to strike
BEGUN = 0.5  # one that is meant to strike a coroutine that has begun, on a busy machine, too
EVER = 3600.0


async def echo(job: Job) -> object:
    await asyncio.sleep(0)
    return job.payload


class Client:
    """An object with an async ``__call__``, as one writes it to keep a connection."""

    async def __call__(self, job: Job) -> str:
        await asyncio.sleep(0)
        return f"sent {job.payload}"


class TestRunning:
    def test_a_coroutine_function_is_a_handler(self, open_queue: OpenQueue) -> None:
        queue = open_queue(echo)
        assert list(queue.map(range(50), timeout=DEADLINE)) == list(range(50))

    def test_so_is_an_object_with_an_async_call(self, open_queue: OpenQueue) -> None:
        queue = open_queue(Client())
        assert list(queue.map("ab", timeout=DEADLINE)) == ["sent a", "sent b"]

    def test_and_a_partial_of_one(self, open_queue: OpenQueue) -> None:
        async def greet(greeting: str, job: Job) -> str:
            return f"{greeting}, {job.payload}"

        queue = open_queue(functools.partial(greet, "Hello"))
        assert list(queue.map(["Ada"], timeout=DEADLINE)) == ["Hello, Ada"]

    def test_all_run_on_one_loop_in_one_thread(self, open_queue: OpenQueue) -> None:
        seen: set[tuple[int, int]] = set()

        async def handler(job: Job) -> None:
            seen.add((threading.get_ident(), id(asyncio.get_running_loop())))

        queue = open_queue({"a": handler, "b": handler}, workers=8)
        queue.enqueue_many([Job(kind="ab"[n % 2]) for n in range(100)])
        queue.join(DEADLINE)
        assert len(seen) == 1
        assert threading.get_ident() not in {thread for thread, _ in seen}

    def test_one_waits_for_room_in_another_thread_while_others_make_it(
        self, open_queue: OpenQueue
    ) -> None:
        async def handler(job: Job) -> None:
            for n in range(5 if job.id == "parent" else 0):
                await asyncio.to_thread(queue.enqueue, Job(f"child-{n}"), DEADLINE)

        queue = open_queue(handler, workers=2, capacity=1, max_retries=0)
        queue.enqueue(Job("parent"))
        queue.join(DEADLINE)
        assert queue.metrics().completed == 6

    def test_however_many_wait_in_other_threads_none_waits_for_a_thread(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        """asyncio's own pool has 32 at most: parents that wait there would keep their children
        from coming in.
        """
        waiting = Journal()

        def wait() -> None:
            waiting.write("waits")
            gate.wait()

        async def handler(job: Job) -> None:
            await asyncio.to_thread(wait)

        queue = open_queue(handler, workers=40)
        queue.enqueue_many([Job() for _ in range(40)])
        waiting.wait_for_count(40)

    def test_if_all_wait_for_room_in_other_threads_the_last_one_is_refused(
        self, open_queue: OpenQueue
    ) -> None:
        both = asyncio.Barrier(2)

        async def handler(job: Job) -> None:
            if job.kind == "parent":
                await asyncio.wait_for(both.wait(), DEADLINE)
                for _ in range(2):
                    await asyncio.to_thread(queue.enqueue, Job())

        queue = open_queue(handler, workers=2, capacity=1, max_retries=0)
        queue.enqueue_many([Job("one", kind="parent"), Job("other", kind="parent")])
        queue.join(DEADLINE)
        (dead,) = queue.dead_letters()
        assert dead.error
        assert dead.error.startswith("final.errors.QueueFull: All 2 workers wait to enqueue")

    def test_one_that_closes_the_queue_in_another_thread_is_not_waited_for(
        self, open_queue: OpenQueue
    ) -> None:
        async def handler(job: Job) -> bool:
            return await asyncio.to_thread(queue.close)

        queue = open_queue(handler)
        job_id = queue.enqueue(Job())
        Background(queue.close).result()
        assert queue.get(job_id).result is False

    def test_one_that_would_wait_for_room_on_the_loop_is_refused_at_once(
        self, open_queue: OpenQueue
    ) -> None:
        accepted: list[str] = []

        async def handler(job: Job) -> None:
            if job.id == "parent":
                try:
                    queue.enqueue_many([Job(f"child-{n}") for n in range(100)])
                except QueueFull as full:
                    accepted.extend(full.accepted)
                    raise

        queue = open_queue(handler, workers=2, capacity=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job("parent")), DEADLINE)
        assert accepted == [f"child-{n}" for n in range(len(accepted))]
        assert accepted
        assert record.error
        assert record.error.startswith("final.errors.QueueFull: The medium lane had no room")
        assert record.error.endswith("await asyncio.to_thread(queue.enqueue, job).")
        queue.join(DEADLINE)
        assert completes(queue)  # the loop is free

    def test_two_hundred_are_under_way_at_once(self, open_queue: OpenQueue) -> None:
        under_way = 0
        everybody: list[asyncio.Event] = []

        async def handler(job: Job) -> int:
            nonlocal under_way
            if not everybody:
                everybody.append(asyncio.Event())
            under_way += 1
            if under_way == 200:
                everybody[0].set()
            await asyncio.wait_for(everybody[0].wait(), DEADLINE)  # for all of them to be here
            return under_way

        queue = open_queue(handler, workers=200, max_retries=0)
        queue.enqueue_many([Job() for _ in range(200)])
        queue.join(DEADLINE)
        assert queue.metrics().completed == 200
        assert {record.result for record in queue.jobs(limit=200)} == {200}

    def test_a_worker_gets_one_at_a_time_however_quick_they_are(
        self, open_queue: OpenQueue
    ) -> None:
        """A batch is stopped as a whole: a time-out would cancel whatever it is on by then."""
        tokens = []

        async def handler(job: Job) -> None:
            tokens.append(current_job().token)

        queue = open_queue(handler, workers=1)
        queue.enqueue_many([Job() for _ in range(100)])
        queue.join(DEADLINE)
        assert len(set(tokens)) == 100  # the jobs of a batch share one

    def test_never_more_than_workers(self, open_queue: OpenQueue) -> None:
        under_way, most = 0, 0

        async def handler(job: Job) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            for _ in range(3):
                await asyncio.sleep(0)
            under_way -= 1

        queue = open_queue(handler, workers=3)
        queue.enqueue_many([Job() for _ in range(100)])
        queue.join(DEADLINE)
        assert most <= 3

    def test_an_exception_fails_the_attempt(self, open_queue: OpenQueue) -> None:
        async def handler(job: Job) -> str:
            if current_job().attempt < 3:
                raise ValueError("not yet")
            return "third"

        queue = open_queue(handler, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job("x")), DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, "third")
        assert [a.error for a in queue.attempts("x")] == ["ValueError: not yet"] * 2
        assert "in handler" in queue.attempts("x")[0].traceback

    def test_plain_and_coroutine_kinds_run_side_by_side(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def plain(job: Job) -> str:
            started.write("plain")
            gate.wait()
            return threading.current_thread().name

        async def coroutine(job: Job) -> str:
            return threading.current_thread().name

        queue = open_queue({"plain": plain, "coroutine": coroutine}, workers=2)
        queue.enqueue(Job("p", kind="plain"))
        started.wait_for("plain")
        queue.enqueue(Job("c", kind="coroutine"))
        assert queue.wait("c", DEADLINE).result == "final-asyncio"
        gate.open()
        assert str(queue.wait("p", DEADLINE).result).startswith("final-worker-")


class Crowd:
    """A handler of which all wait for one event, on the loop."""

    def __init__(self, size: int) -> None:
        self.under_way = self.most = 0
        self._size = size
        self._arrived = threading.Semaphore(0)
        self._may_go: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, job: Job) -> str:
        if self._may_go is None:
            self._may_go, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self._arrived.release()
        try:
            await self._may_go.wait()
        finally:
            self.under_way -= 1
        return "went"

    def gather(self) -> None:
        """Returns when so many have arrived."""
        for number in range(self._size):
            assert self._arrived.acquire(timeout=DEADLINE), number

    def let_go(self) -> None:
        assert self._may_go
        assert self._loop
        self._loop.call_soon_threadsafe(self._may_go.set)


class TestThreads:
    """What waits on the loop holds no thread."""

    @pytest.mark.slow
    def test_ten_thousand_wait_at_once_in_a_handful_of_threads(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        crowd, before = Crowd(10_000), threading.active_count()
        queue = open_queue(crowd, path=path, workers=10_000, capacity=10_000)
        queue.enqueue_many([Job() for _ in range(10_000)])
        crowd.gather()
        assert threading.active_count() - before < 10
        assert len(queue.metrics().running) == 10_000
        crowd.let_go()
        queue.join(DEADLINE)
        assert queue.metrics().completed == 10_000

    def test_nor_do_those_of_a_kind_beside_plain_ones(self, open_queue: OpenQueue) -> None:
        crowd = Crowd(50)
        kinds = {"plain": Kind(nothing, workers=3), "crowd": crowd}
        queue = open_queue(kinds, workers=100)
        assert len(inside.workers(queue)) == 4
        queue.enqueue_many([Job(kind="crowd") for _ in range(50)])
        crowd.gather()
        assert completes(queue, Job(kind="plain"))
        crowd.let_go()
        queue.join(DEADLINE)
        assert queue.metrics().completed == 51

    def test_plain_ones_that_all_wait_for_a_coroutine_leave_it_a_thread(
        self, open_queue: OpenQueue
    ) -> None:
        def ask(job: Job) -> object:
            return queue.wait(
                queue.enqueue(Job(kind="answer", payload=job.payload)), DEADLINE
            ).result

        queue = open_queue({"ask": Kind(ask, workers=2), "answer": echo}, workers=10)
        assert list(queue.map(range(20), kind="ask", timeout=DEADLINE)) == list(range(20))

    def test_with_middleware_around_it_each_holds_its_own(self, open_queue: OpenQueue) -> None:
        crowd = Crowd(5)
        queue = open_queue(crowd, workers=5, middleware=[lambda job, call_next: call_next(job)])
        assert len(inside.workers(queue)) == 5
        queue.enqueue_many([Job() for _ in range(5)])
        crowd.gather()
        crowd.let_go()
        queue.join(DEADLINE)

    def test_set_workers_says_how_many_wait_at_once(self, open_queue: OpenQueue) -> None:
        crowd = Crowd(400)
        queue = open_queue(crowd, workers=1)
        queue.enqueue_many([Job() for _ in range(500)])
        assert queue.set_workers(400) == 400
        crowd.gather()
        assert len(inside.workers(queue)) == 1
        assert queue.set_workers(2) == 2
        crowd.let_go()
        queue.join(DEADLINE)
        assert (crowd.most, queue.metrics().completed) == (400, 500)
        assert completes(queue)

    def test_one_whose_thread_has_left_may_still_close_its_queue(
        self, open_queue: OpenQueue
    ) -> None:
        """From a thread of its own; it would wait for itself."""
        began, may_close = Journal(), threading.Event()

        async def handler(job: Job) -> bool:
            began.write(job.id)
            await asyncio.to_thread(may_close.wait, DEADLINE)
            return await asyncio.to_thread(queue.close)

        queue = open_queue({"plain": nothing, "closes": handler}, workers=2)
        old = inside.workers(queue)
        queue.enqueue(Job("x", kind="closes"))
        began.wait_for("x")

        def have_left() -> bool:
            queue.set_workers(1)
            queue.set_workers(2)
            return not any(thread.is_alive() for thread in old)

        eventually(have_left, "other threads")
        may_close.set()
        assert Background(queue.close).result() is True
        assert queue.get("x").result is False

    def test_what_is_called_after_its_end_is_called_in_a_worker(
        self, open_queue: OpenQueue
    ) -> None:
        """Code of the program's own may take its time, and the loop is for all of them."""
        threads = Journal()

        class Noting(Backoff):
            def delay(self, attempt: int) -> float:
                threads.write(threading.current_thread().name)
                return 0.0

        async def handler(job: Job) -> None:
            await asyncio.sleep(0)
            raise ValueError("no")

        queue = open_queue(handler, backoff=Noting(), max_retries=2)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.FAILED
        assert len(threads.entries) == 2
        assert all(name.startswith("final-worker-") for name in threads.entries)

    def test_what_its_coroutine_returns_may_be_awaited_in_turn(self, open_queue: OpenQueue) -> None:
        async def inner(job: Job) -> str:
            await asyncio.sleep(0)
            return f"{current_job().id} {job.payload}"

        async def handler(job: Job) -> Awaitable[str]:
            return inner(job)

        queue = open_queue(handler, workers=100)
        assert queue.wait(queue.enqueue(Job("x", "y")), DEADLINE).result == "x y"
        assert len(inside.workers(queue)) == 1

    def test_one_that_is_cancelled_or_late_leaves_the_others_alone(
        self, open_queue: OpenQueue
    ) -> None:
        crowd = Crowd(300)
        queue = open_queue(crowd, workers=300, max_retries=0)
        ids = queue.enqueue_many([Job() for _ in range(298)])
        queue.enqueue(Job("late", timeout=SOON))
        assert queue.wait("late", DEADLINE).status is Status.FAILED
        queue.enqueue_many([Job(f"more-{n}") for n in range(2)])
        crowd.gather()
        assert queue.cancel(ids[7])
        assert queue.wait(ids[7], DEADLINE).status is Status.CANCELLED
        crowd.let_go()
        queue.join(DEADLINE)
        assert queue.metrics().completed == 299

    def test_closing_late_gives_all_of_them_back(self, open_queue: OpenQueue, path: str) -> None:
        before, crowd = set(threading.enumerate()), Crowd(1000)
        queue = open_queue(crowd, path=path, workers=1000)
        ids = queue.enqueue_many([Job() for _ in range(1000)])
        crowd.gather()
        assert Background(queue.close, False, 0).result() is False
        assert crowd.under_way == 0
        eventually(lambda: set(threading.enumerate()) <= before, "its threads to leave")
        again = open_queue(echo, path=path, workers=1000)
        assert {again.wait(job_id, DEADLINE).attempts for job_id in ids} == {1}

    def test_closing_without_drain_waits_for_those_that_have_begun(
        self, open_queue: OpenQueue
    ) -> None:
        crowd = Crowd(200)
        queue = open_queue(crowd, workers=200)
        queue.enqueue_many([Job() for _ in range(200)])
        crowd.gather()
        closing = Background(queue.close, False)
        crowd.let_go()
        assert closing.result() is True
        assert queue.metrics().completed == 200


class TestStopping:
    @pytest.fixture
    def seen(self) -> Journal:
        return Journal()

    @pytest.fixture
    def waiting(self, open_queue: OpenQueue, seen: Journal, path: str) -> JobQueue:
        """A queue whose handler waits for ever, and notes how it is stopped."""

        async def handler(job: Job) -> None:
            self.loop = threading.current_thread()
            seen.write("started")
            try:
                await asyncio.sleep(EVER)
            except asyncio.CancelledError:
                seen.write("cancelled")
                raise
            finally:
                seen.write(("at the end of", current_job().id, current_job().cancelled))

        return open_queue(handler, path=path, workers=1, max_retries=0)

    def test_a_timeout_cancels_the_task(self, waiting: JobQueue, seen: Journal) -> None:
        record = waiting.wait(waiting.enqueue(Job("x", timeout=BEGUN)), DEADLINE)
        assert record.status is Status.FAILED
        assert record.error == "TimeoutError: the attempt took longer than 0.5 s."
        seen.wait_for_count(3)
        assert seen.entries == ["started", "cancelled", ("at the end of", "x", True)]

    def test_no_worker_is_lost_to_timeouts(self, waiting: JobQueue) -> None:
        before = set(threading.enumerate())
        ids = waiting.enqueue_many([Job(timeout=SOON) for _ in range(5)])
        assert {waiting.wait(job_id, DEADLINE).status for job_id in ids} == {Status.FAILED}
        assert set(threading.enumerate()) <= before
        assert all(worker.is_alive() for worker in inside.workers(waiting))

    def test_cancel_cancels_the_task(self, waiting: JobQueue, seen: Journal) -> None:
        waiting.enqueue(Job("x"))
        seen.wait_for("started")
        assert waiting.cancel("x") is True
        assert waiting.wait("x", DEADLINE).status is Status.CANCELLED
        seen.wait_for_count(3)
        assert seen.entries == ["started", "cancelled", ("at the end of", "x", True)]

    def test_one_that_is_told_before_there_is_a_task_never_begins(
        self, open_queue: OpenQueue, seen: Journal, gate: Gate
    ) -> None:
        """A plain function may take its time to make a coroutine."""

        async def work() -> None:
            seen.write("begun")
            await asyncio.Event().wait()

        def handler(job: Job) -> Awaitable[None]:
            seen.write("called")
            gate.wait()
            return work()

        queue = open_queue(handler)
        queue.enqueue(Job("x"))
        seen.wait_for("called")
        assert queue.cancel("x") is True
        gate.open()
        assert queue.wait("x", DEADLINE).status is Status.CANCELLED
        assert seen.entries == ["called"]

    def test_closing_late_cancels_the_task_and_ends_the_loop(
        self, waiting: JobQueue, seen: Journal
    ) -> None:
        waiting.enqueue(Job("x"))
        seen.wait_for("started")
        assert Background(waiting.close, True, 0).result() is False
        assert "cancelled" in seen.entries
        assert waiting.get("x").attempts == 0
        assert not self.loop.is_alive()

    def test_a_task_that_will_not_be_cancelled_does_not_end_its_successor(
        self, open_queue: OpenQueue
    ) -> None:
        """A coroutine can refuse to be cancelled; what it returns then is void."""
        ended = Journal()

        async def handler(job: Job) -> str:
            attempt = current_job().attempt
            if (job.id, attempt) == ("x", 1):
                try:
                    await asyncio.sleep(EVER)
                except asyncio.CancelledError:
                    for _ in range(10):
                        await asyncio.sleep(0.001)
                    ended.write(current_job().attempt)
                    return "late"
            return f"attempt {attempt}"

        # On a busy machine the second attempt may be late as well: then this is about the third.
        queue = open_queue(handler, max_retries=100, backoff=AT_ONCE)
        queue.enqueue(Job("x", timeout=SOON))
        record = queue.wait("x", DEADLINE)
        assert record.result == f"attempt {record.attempts}" != "attempt 1"
        ended.wait_for_count(1)
        assert ended.entries == [1]
        assert completes(queue)
        assert queue.get("x") == record


class Alarm(BaseException):
    """Nothing that an ``except Exception`` would catch."""


RAISED: dict[str, BaseException] = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(),
    "StopIteration": StopIteration(5),
    "one of its own": Alarm(),
}


class TestRaising:
    @pytest.mark.parametrize("error", RAISED.values(), ids=RAISED.keys())
    def test_whatever_it_raises_ends_that_attempt_alone(
        self, open_queue: OpenQueue, error: BaseException
    ) -> None:
        bad_runs, loops = asyncio.Event(), set()

        async def handler(job: Job) -> str:
            loops.add(asyncio.get_running_loop())
            if job.id == "bad":
                bad_runs.set()
                raise error
            if job.id == "beside it":
                await bad_runs.wait()
            await asyncio.sleep(0)
            return "ran"

        queue = open_queue(handler, workers=2, max_retries=0)
        queue.enqueue_many([Job("beside it"), Job("bad")])
        record = queue.wait("bad", DEADLINE)
        assert record.status is Status.FAILED
        assert record.error
        assert queue.wait("beside it", DEADLINE).result == "ran"
        assert completes(queue)
        assert len(loops) == 1
        assert Background(queue.close).result() is True

    def test_a_task_that_it_has_started_may_exit_too(self, open_queue: OpenQueue) -> None:
        async def leave() -> None:
            raise SystemExit(3)

        async def handler(job: Job) -> None:
            if job.id == "bad":
                await asyncio.create_task(leave())

        queue = open_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job("bad")), DEADLINE)
        assert (record.status, record.error) == (Status.FAILED, "SystemExit: 3")
        assert completes(queue)

    def test_it_may_stop_the_loop_and_the_loop_goes_on(self, open_queue: OpenQueue) -> None:
        async def handler(job: Job) -> None:
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)

        queue = open_queue(handler, max_retries=0)
        assert completes(queue)
        assert completes(queue)

    @pytest.mark.parametrize("how", ["knows no context", "raises"])
    def test_a_task_factory_that_it_sets_harms_no_other(
        self, open_queue: OpenQueue, how: str
    ) -> None:
        def factory(loop: Any, coroutine: Any) -> Any:
            if how == "raises":
                raise SystemExit
            return asyncio.Task(coroutine, loop=loop)

        async def handler(job: Job) -> None:
            asyncio.get_running_loop().set_task_factory(factory)

        queue = open_queue(handler, workers=1)
        assert [completes(queue) for _ in range(3)] == [True] * 3
        assert Background(queue.close).result() is True

    def test_one_that_cancels_itself_has_failed(self, open_queue: OpenQueue) -> None:
        async def handler(job: Job) -> None:
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.sleep(0)

        queue = open_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.status is Status.FAILED
        assert "CancelledError" in str(record.error)

    @pytest.mark.filterwarnings("error")  # such as: the coroutine was never awaited
    def test_one_whose_task_another_one_cancels_before_it_begins_has_failed(
        self, open_queue: OpenQueue
    ) -> None:
        async def handler(job: Job) -> None:
            while job.id == "canceller":
                time.sleep(0.001)  # or a loop that never rests may keep the GIL to itself
                await asyncio.sleep(0)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()

        queue = open_queue(handler, workers=9, max_retries=0)
        queue.enqueue(Job("canceller"))
        reaches(queue, "canceller", Status.PROCESSING)
        ids = queue.enqueue_many([Job() for _ in range(100)])
        records = [queue.wait(job_id, DEADLINE) for job_id in ids]
        assert any("CancelledError" in (record.error or "") for record in records)
        queue.cancel("canceller")
        assert queue.close(timeout=DEADLINE)


class TestCleaningUp:
    """A coroutine that was told to stop still holds its worker, until it has ended."""

    def test_those_that_clean_up_count_as_under_way(self, open_queue: OpenQueue) -> None:
        under_way, most = 0, 0

        async def handler(job: Job) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                await asyncio.sleep(EVER)
            finally:
                await asyncio.sleep(2 * SOON)
                under_way -= 1

        queue = open_queue(handler, workers=2, timeout=SOON, max_retries=1, backoff=AT_ONCE)
        for job_id in queue.enqueue_many([Job() for _ in range(4)]):
            assert queue.wait(job_id, DEADLINE).attempts == 2
        assert most == 2

    def test_closing_waits_for_it(self, open_queue: OpenQueue) -> None:
        seen, may_end = Journal(), threading.Event()

        async def handler(job: Job) -> None:
            seen.write("started")
            try:
                await asyncio.sleep(EVER)
            finally:
                seen.write("cleaning up")
                await asyncio.to_thread(may_end.wait, DEADLINE)
                seen.write("cleaned up")

        queue = open_queue(handler, workers=1)
        queue.enqueue(Job("x"))
        seen.wait_for("started")
        assert queue.cancel("x")
        seen.wait_for("cleaning up")
        assert queue.cancel("x")  # a second time must not end its cleaning up
        closing = Background(queue.close)
        may_end.set()
        assert closing.result() is True
        assert seen.entries == ["started", "cleaning up", "cleaned up"]
        assert queue.status("x") is Status.CANCELLED

    def test_one_that_sleeps_by_its_job_in_a_thread_is_told_all_the_same(
        self, open_queue: OpenQueue
    ) -> None:
        slept = Journal()

        def sleep(job: CurrentJob, seconds: float) -> None:
            slept.write("sleeps")
            slept.write(job.sleep(seconds))

        async def handler(job: Job) -> None:
            await asyncio.to_thread(sleep, current_job(), 0)
            await asyncio.to_thread(sleep, current_job(), EVER if job.payload == "long" else 0)
            await asyncio.sleep(EVER)

        queue = open_queue(handler, workers=2)
        for payload, count in (("long", 3), ("short", 8)):
            queue.enqueue(Job(payload, payload))
            slept.wait_for_count(count)
            assert queue.cancel(payload)
            assert queue.wait(payload, DEADLINE).status is Status.CANCELLED
            slept.wait_for_count(4)
        assert slept.entries[:4] == ["sleeps", True, "sleeps", False]

    def test_one_that_returns_all_the_same_has_completed(self, open_queue: OpenQueue) -> None:
        """As ``cancel`` says, and as it is with a thread."""
        started = Journal()

        async def handler(job: Job) -> str:
            started.write(job.id)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(EVER)
            return "finished cleanly"

        queue = open_queue(handler, workers=1)
        queue.enqueue(Job("x"))
        started.wait_for("x")
        assert queue.cancel("x")
        record = queue.wait("x", DEADLINE)
        assert (record.status, record.result) == (Status.COMPLETED, "finished cleanly")

    @pytest.mark.parametrize("how", ["a time-out", "cancel"])
    def test_one_that_never_ends_is_left_behind(
        self, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr("final.workers.coroutines.GRACE_SECONDS", SOON)
        started, test_is_over = Journal(), threading.Event()

        async def handler(job: Job) -> None:
            started.write(job.id)
            while job.id == "stubborn" and not test_is_over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(SOON)

        queue = open_queue(handler, workers=1, max_retries=0)
        queue.enqueue(Job("stubborn", timeout=BEGUN if how == "a time-out" else None))
        started.wait_for("stubborn")
        if how == "cancel":
            assert queue.cancel("stubborn")
        ends = {"a time-out": Status.FAILED, "cancel": Status.CANCELLED}
        assert queue.wait("stubborn", DEADLINE).status is ends[how]
        assert completes(queue)  # the only worker is free
        test_is_over.set()


class TestBlockingTheLoop:
    @pytest.fixture
    def blocked(
        self, open_queue: OpenQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> JobQueue:
        """Two workers; the job "blocker" sleeps as a thread does, and blocks the loop of all."""
        monkeypatch.setattr("final.workers.coroutines.GRACE_SECONDS", 0.1)
        self.before, started = loop_threads(), Journal()

        async def handler(job: Job) -> str:
            if job.id == "blocker":
                started.write(threading.current_thread())
                gate.wait()
            return "ran"

        queue = open_queue(handler, workers=2, max_retries=0)
        queue.enqueue(Job("blocker"))
        started.wait_for_count(1)
        self.blocked_loop = started.entries[0]
        return queue

    def test_those_that_have_not_begun_begin_elsewhere(self, blocked: JobQueue, gate: Gate) -> None:
        assert list(blocked.map([None] * 5, timeout=DEADLINE)) == ["ran"] * 5
        assert blocked.status("blocker") is Status.PROCESSING
        gate.open()
        assert blocked.wait("blocker", DEADLINE).result == "ran"

    def test_after_a_pause_none_begins(
        self, blocked: JobQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was handed to the loop and has not begun there goes back, uncharged."""
        monkeypatch.setattr("final.workers.coroutines.GRACE_SECONDS", DEADLINE)
        blocked.enqueue(Job("mail"))
        eventually(lambda: inside.is_on_loop(blocked, "mail"), "it is handed to the loop")
        blocked.pause()
        gate.open()
        assert blocked.wait("blocker", DEADLINE).result == "ran"
        assert blocked.status("mail") is Status.QUEUED
        blocked.resume()
        record = blocked.wait("mail", DEADLINE)
        assert (record.result, record.attempts) == ("ran", 1)

    def test_one_that_is_cancelled_before_it_has_begun_is_not_charged(
        self, blocked: JobQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("final.workers.coroutines.GRACE_SECONDS", DEADLINE)
        blocked.enqueue(Job("mail"))
        eventually(lambda: inside.is_on_loop(blocked, "mail"), "it is handed to the loop")
        assert blocked.cancel("mail") is True
        record = blocked.wait("mail", DEADLINE)
        assert (record.status, record.attempts) == (Status.CANCELLED, 0)
        gate.open()
        assert completes(blocked)

    def test_the_blocker_is_left_behind_when_it_is_cancelled(self, blocked: JobQueue) -> None:
        assert blocked.cancel("blocker")
        assert blocked.wait("blocker", DEADLINE).status is Status.CANCELLED
        assert completes(blocked)

    def test_its_loop_ends_when_it_has_ended(self, blocked: JobQueue, gate: Gate) -> None:
        old = self.blocked_loop
        assert completes(blocked)
        assert len(loop_threads() - self.before) > 1
        gate.open()
        old.join(DEADLINE)
        assert not old.is_alive()
        assert Background(blocked.close).result() is True
        assert loop_threads() <= self.before


def loop_threads() -> set[threading.Thread]:
    """Those of other tests, which may be about to end, among them."""
    return {thread for thread in threading.enumerate() if thread.name == "final-asyncio"}


class TestTheEnd:
    def test_closing_runs_what_was_accepted_and_ends_the_loop(self, open_queue: OpenQueue) -> None:
        before = set(threading.enumerate())
        queue = open_queue(echo)
        queue.enqueue_many([Job() for _ in range(50)])
        assert Background(queue.close).result() is True
        assert queue.metrics().completed == 50
        assert set(threading.enumerate()) <= before

    def test_a_queue_that_could_not_open_leaves_no_loop(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        before = set(threading.enumerate())
        with pytest.raises(StorageError, match="is a folder"):
            open_queue(echo, path=Path(path).parent)
        with pytest.raises(TypeError, match="must be callable"):
            open_queue({"a": echo, "b": 5})
        assert set(threading.enumerate()) <= before

    def test_a_handler_may_close_its_queue(self, open_queue: OpenQueue) -> None:
        """It would wait for itself, so it is told at once that the closing goes on."""
        said = Journal()

        async def handler(job: Job) -> None:
            said.write(queue.close(timeout=DEADLINE))

        queue = open_queue(handler)
        queue.enqueue(Job())
        said.wait_for(False)
        assert Background(queue.close).result() is True

    def test_many_threads_may_close_at_once(self, open_queue: OpenQueue) -> None:
        """One of them ends the loop, which the others must not touch any more."""
        for _ in range(5):
            queue = open_queue(echo)
            assert completes(queue)
            together = threading.Barrier(4)

            def close(queue: JobQueue = queue, together: threading.Barrier = together) -> bool:
                together.wait(DEADLINE)
                return queue.close()

            closings = [Background(close) for _ in range(4)]
            assert [closing.result() for closing in closings] == [True] * 4

    def test_a_plain_queue_has_no_loop(self, open_queue: OpenQueue) -> None:
        before = loop_threads()
        assert completes(open_queue(nothing))
        assert loop_threads() <= before
