"""AsyncJobQueue: what it awaits, what a cancelled task leaves behind, and that no thread waits."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from final import (
    AsyncJobQueue,
    Job,
    JobFailed,
    JobQueue,
    Pause,
    QueueClosed,
    QueueFull,
    Status,
    StorageError,
    UnknownJob,
)
from tests.final import inside
from tests.final.helpers import AT_ONCE, NOT_TODAY, OpenQueue, completes, eventually, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal

MANY = 10_000
FEW_THREADS = 50  # those of asyncio.to_thread, and not one for each that waits

# A program on asyncio, which gets an open queue.
Program = Callable[[AsyncJobQueue], Awaitable[Any]]


def run(program: Program, handler: Any, deadline: float = 3 * DEADLINE, **options: Any) -> Any:
    """What ``program`` returns, run with a queue on an event loop."""

    async def main() -> Any:
        async with AsyncJobQueue(handler, **options) as queue:
            return await program(queue)

    return Background(asyncio.run, main()).result(deadline)


def echo(job: Job) -> object:
    return job.payload


async def holds(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(eventually, condition, what)


class TestAwaiting:
    def test_it_has_the_methods_of_a_queue(self) -> None:
        def methods(of: type) -> set[str]:
            return {
                name for name, _ in inspect.getmembers(of, inspect.isfunction) if name[0] != "_"
            }

        assert methods(AsyncJobQueue) == methods(JobQueue)

    def test_a_job_goes_in_and_its_result_comes_out(self, path: str) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            job_id = await queue.enqueue(Job(payload="x"))
            assert (await queue.wait(job_id, DEADLINE)).result == "x"
            assert await queue.status(job_id) is Status.COMPLETED
            assert (await queue.get(job_id)).id == job_id
            assert [r.id for r in await queue.jobs("completed", kind="default")] == [job_id]
            assert (await queue.metrics()).completed == 1
            assert await queue.cancel(job_id) is False
            assert await queue.shared_figures() is None
            assert await queue.groups() == []

        run(program, echo, path=path)

    def test_results_come_in_order(self) -> None:
        async def program(queue: AsyncJobQueue) -> list[object]:
            return [result async for result in queue.map(range(300), timeout=DEADLINE)]

        assert run(program, echo) == list(range(300))

    def test_a_failed_job_ends_map_and_what_waits_is_called_off(self, gate: Gate) -> None:
        def handler(job: Job) -> None:
            if job.payload == 0:
                raise ValueError("no")
            gate.wait()

        async def program(queue: AsyncJobQueue) -> None:
            with pytest.raises(JobFailed, match="no"):
                async for _ in queue.map(range(10)):
                    pass
            gate.open()
            await queue.join(DEADLINE)
            assert (await queue.metrics()).cancelled > 0

        run(program, handler, workers=1, max_retries=0)

    def test_dead_letters_are_retried(self) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            job_id = await queue.enqueue(Job())
            await queue.join(DEADLINE)
            assert [r.id for r in await queue.dead_letters()] == [job_id]
            assert len(await queue.attempts(job_id)) == 1
            await queue.retry(job_id)
            await queue.join(DEADLINE)
            assert await queue.retry_all() == 1
            await queue.join(DEADLINE)
            assert len(await queue.attempts(job_id)) == 3
            assert await queue.purge(dry_run=True) == 1
            assert await queue.purge() == 1
            assert await queue.cancel_all("nothing", meta={"user": "7"}) == 0

        def handler(job: Job) -> None:
            raise ValueError("no")

        run(program, handler, max_retries=0)

    def test_many_with_parents_among_them_keep_their_order(self) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            jobs = [Job("child", after=["parent"]), Job("parent")]
            assert await queue.enqueue_many(jobs) == ["child", "parent"]
            assert await queue.enqueue_many([]) == []
            assert (await queue.wait("child", DEADLINE)).status is Status.COMPLETED

        run(program, nothing)

    def test_subscribers_and_fairness(self) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            told = Journal()
            unsubscribe = queue.subscribe(lambda transition: told.write(transition.status))
            await queue.set_fairness(None)
            await queue.wait(await queue.enqueue(Job()), DEADLINE)
            await asyncio.to_thread(told.wait_for, Status.COMPLETED)
            unsubscribe()

        run(program, nothing)

    def test_pause_and_scale(self) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            await queue.pause(kind="default")
            held = await queue.enqueue(Job())
            assert await queue.paused() == [Pause(kind="default")]
            assert await queue.set_workers(2) == 2
            assert await queue.status(held) is Status.QUEUED
            await queue.resume(kind="default")
            assert (await queue.wait(held, DEADLINE)).status is Status.COMPLETED

        run(program, nothing)

    def test_errors_are_those_of_the_queue(self) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            with pytest.raises(UnknownJob, match="nobody"):
                await queue.wait("nobody")
            with pytest.raises(ValueError, match="timeout"):
                await queue.join(-1)
            with pytest.raises(TypeError, match="enqueue takes a Job"):
                await queue.enqueue("x")  # type: ignore[arg-type]
            with pytest.raises(UnknownJob, match="nobody"):
                await queue.enqueue(Job(after=["nobody"]))

        run(program, nothing)


class TestOpeningAndClosing:
    def test_leaving_runs_what_was_accepted(self) -> None:
        async def main() -> AsyncJobQueue:
            async with AsyncJobQueue(nothing) as queue:
                await queue.enqueue_many([Job() for _ in range(100)])
            return queue

        queue = asyncio.run(main())
        assert queue.sync.metrics().completed == 100

    def test_a_closed_queue_refuses(self) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            await queue.enqueue(Job("before"))
            assert await queue.close() is True
            with pytest.raises(QueueClosed):
                await queue.enqueue(Job())
            with pytest.raises(QueueClosed):
                await queue.join()

        run(program, nothing)

    def test_one_that_is_not_open_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="async with AsyncJobQueue"):
            asyncio.run(AsyncJobQueue(nothing).enqueue(Job()))

    def test_one_that_cannot_open_says_why(self, path: str, open_queue: OpenQueue) -> None:
        open_queue(nothing, path=path)
        with pytest.raises(StorageError, match="one process"):
            run(lambda queue: asyncio.sleep(0), nothing, path=path)
        with pytest.raises(ValueError, match="workers"):
            run(lambda queue: asyncio.sleep(0), nothing, workers=0)

    @pytest.mark.parametrize("times", [1, 2])
    def test_who_is_cancelled_while_it_opens_leaves_nothing_open(
        self, path: str, monkeypatch: pytest.MonkeyPatch, gate: Gate, times: int
    ) -> None:
        begun, init = Journal(), JobQueue.__init__

        def slowly(queue: JobQueue, *arguments: Any, **options: Any) -> None:
            begun.write("opening")
            gate.wait()
            init(queue, *arguments, **options)

        monkeypatch.setattr(JobQueue, "__init__", slowly)

        async def main() -> None:
            opening = asyncio.create_task(AsyncJobQueue(nothing, path=path).__aenter__())
            await asyncio.to_thread(begun.wait_for, "opening")
            for _ in range(times):
                opening.cancel()
                await asyncio.sleep(0.01)
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await opening

        Background(asyncio.run, main()).result()
        monkeypatch.undo()
        JobQueue(nothing, path=path).close()  # nobody has the file

    def test_tasks_that_enter_at_once_share_one_queue(self, path: str) -> None:
        async def main() -> None:
            queue = AsyncJobQueue(nothing, path=path)
            entering = [asyncio.create_task(queue.__aenter__()) for _ in range(3)]
            await asyncio.sleep(0)  # all have begun
            entering[0].cancel()  # which opens it; the next one does then
            ended = await asyncio.gather(*entering, return_exceptions=True)
            assert isinstance(ended[0], asyncio.CancelledError)
            assert ended[1:] == [queue, queue]
            await queue.enqueue(Job())
            await queue.close()

        Background(asyncio.run, main()).result()
        JobQueue(nothing, path=path).close()  # nobody has the file

    def test_a_queue_that_is_open_has_a_face(self, open_queue: OpenQueue) -> None:
        queue = open_queue(echo)

        async def main() -> object:
            face = AsyncJobQueue.of(queue)
            return (await face.wait(await face.enqueue(Job(payload=5)), DEADLINE)).result

        assert asyncio.run(main()) == 5

    def test_closing_does_not_block_the_loop(self, gate: Gate) -> None:
        async def program(queue: AsyncJobQueue) -> bool:
            await queue.enqueue(Job())
            closing = asyncio.create_task(queue.close())
            await holds(lambda: queue.sync._dispatcher._closes != [], "the closing")
            gate.open()  # nobody could, if it blocked
            return await closing

        assert run(program, lambda job: gate.wait()) is True


class TestGivingUp:
    def test_a_timeout_is_that_of_the_queue(self, gate: Gate) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            await queue.enqueue(Job("x"))
            with pytest.raises(TimeoutError, match="has not ended in time"):
                await queue.wait("x", 0.01)
            with pytest.raises(TimeoutError, match="unfinished"):
                await queue.join(0)
            gate.open()

        run(program, lambda job: gate.wait())

    def test_room_is_waited_for_as_long_as_it_is_said(self, gate: Gate) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            for _ in range(2):  # one is with the worker, one waits
                await queue.enqueue(Job(), DEADLINE)
            await holds(lambda: queue.sync.metrics().queued == 1, "a full lane")
            with pytest.raises(QueueFull):
                await queue.enqueue(Job(), 0.01)
            gate.open()

        run(program, lambda job: gate.wait(), workers=1, capacity=1)

    @pytest.mark.parametrize("overflow", ["reject", "drop-newest"])
    def test_a_queue_without_patience_answers_at_once(self, gate: Gate, overflow: str) -> None:
        async def program(queue: AsyncJobQueue) -> str:
            await queue.enqueue(Job())
            await holds(lambda: queue.sync.metrics().processing == 1, "a start")
            await queue.enqueue(Job())
            try:
                return await queue.status(await queue.enqueue(Job()))
            except QueueFull:
                return "full"
            finally:
                gate.open()

        expected = {"reject": "full", "drop-newest": "dropped"}
        options: dict[str, Any] = {"workers": 1, "capacity": 1, "overflow": overflow}
        assert run(program, lambda job: gate.wait(), **options) == expected[overflow]

    def test_a_task_that_is_cancelled_withdraws_what_it_asked_for(self, gate: Gate) -> None:
        async def program(queue: AsyncJobQueue) -> None:
            await queue.enqueue(Job("held"))
            await holds(lambda: queue.sync.metrics().processing == 1, "a start")
            await queue.enqueue(Job("fills the lane"))

            async def results() -> list[object]:
                return [result async for result in queue.map([1, 2])]

            for asks in (
                queue.wait("held"),
                queue.join(),
                queue.enqueue(Job("never")),
                results(),
            ):
                task = asyncio.create_task(asks)
                await holds(lambda: not inside.nobody_waits(queue.sync), "a request")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await holds(lambda: inside.nobody_waits(queue.sync), "the end of it")
            gate.open()
            await queue.join(DEADLINE)
            with pytest.raises(UnknownJob):
                await queue.status("never")

        run(program, lambda job: gate.wait(), workers=1, capacity=1)

    def test_a_loop_that_has_ended_does_not_matter_to_the_queue(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait())
        queue.enqueue(Job("x"))
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(AsyncJobQueue.of(queue).wait("x"))

        async def until_it_waits() -> None:
            await holds(lambda: not inside.nobody_waits(queue), "a request")

        loop.run_until_complete(until_it_waits())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()  # and the task is still there
        gate.open()
        assert queue.wait("x", DEADLINE).status is Status.COMPLETED
        assert completes(queue)
        assert not waiting.done()
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]


class TestHandlers:
    def test_a_coroutine_handler_awaits_the_queue_that_runs_it(self) -> None:
        face: list[AsyncJobQueue] = []

        async def handler(job: Job) -> object:
            if job.kind == "child":
                return 5
            child = await face[0].enqueue(Job(kind="child"))
            return (await face[0].wait(child)).result

        async def program(queue: AsyncJobQueue) -> object:
            face.append(queue)
            return (await queue.wait(await queue.enqueue(Job(kind="parent")), DEADLINE)).result

        assert run(program, {"parent": handler, "child": handler}, workers=2) == 5

    def test_it_is_refused_what_would_never_end(self) -> None:
        face: list[AsyncJobQueue] = []

        async def handler(job: Job) -> str:
            try:
                if job.kind == "joins":
                    await face[0].join()
                else:
                    await face[0].wait(job.id)
            except RuntimeError as error:
                return str(error)
            return "waited for itself"

        async def program(queue: AsyncJobQueue) -> list[object]:
            face.append(queue)
            ids = [await queue.enqueue(Job(kind=kind)) for kind in ("joins", "waits")]
            return [(await queue.wait(job_id, DEADLINE)).result for job_id in ids]

        joins, waits = run(program, {"joins": handler, "waits": handler})
        assert "join() in a handler" in joins
        assert "would never return" in waits

    def test_retries_are_as_ever(self) -> None:
        async def handler(job: Job) -> None:
            raise ValueError("no")

        async def program(queue: AsyncJobQueue) -> int:
            return (await queue.wait(await queue.enqueue(Job()), DEADLINE)).attempts

        assert run(program, handler, backoff=AT_ONCE, max_retries=2) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestMany:
    A_WHILE = 12 * DEADLINE

    def test_ten_thousand_wait_for_a_job_and_no_thread_does(self, gate: Gate) -> None:
        async def program(queue: AsyncJobQueue) -> int:
            await queue.enqueue(Job("x"))
            before = threading.active_count()
            waiting = [asyncio.create_task(queue.wait("x")) for _ in range(MANY)]
            waits = queue.sync._dispatcher._waits._by_id
            await holds(lambda: len(waits.get("x", ())) == MANY, "all of them")
            more = threading.active_count() - before
            gate.open()
            records = await asyncio.gather(*waiting)
            assert {record.status for record in records} == {Status.COMPLETED}
            return more

        assert run(program, lambda job: gate.wait(), self.A_WHILE) < FEW_THREADS

    def test_ten_thousand_wait_for_room_and_no_thread_does(self, gate: Gate) -> None:
        async def program(queue: AsyncJobQueue) -> int:
            before = threading.active_count()
            asking = [asyncio.create_task(queue.enqueue(Job())) for _ in range(MANY)]
            full = MANY - 10 - 1  # one is with the worker
            await holds(lambda: inside.producers_in_line(queue.sync) == full, "all of them")
            more = threading.active_count() - before
            gate.open()
            assert len(set(await asyncio.gather(*asking))) == MANY
            return more

        more = run(program, lambda job: gate.wait(), self.A_WHILE, workers=1, capacity=10)
        assert more < FEW_THREADS


def test_a_retry_that_waits_holds_up_the_end_of_join() -> None:
    """As in the sync queue: what is retried tomorrow is unfinished today."""

    def handler(job: Job) -> None:
        raise ValueError("no")

    async def program(queue: AsyncJobQueue) -> None:
        await queue.enqueue(Job("x"))
        with pytest.raises(TimeoutError):
            await queue.join(0.05)
        assert await queue.close(drain=False) is False

    run(program, handler, backoff=NOT_TODAY)
