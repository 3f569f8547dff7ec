"""final.testing: a queue for the tests of others, without threads, and with a clock to set."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from final import (
    AsyncJobQueue,
    CallNext,
    Job,
    JobQueue,
    Kind,
    QueueClosed,
    QueueFull,
    Snooze,
    Status,
    TokenBucket,
    Transition,
    Unique,
    current_job,
)
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from final.testing import InlineQueue, assert_enqueued, enqueued
from tests.final import inside
from tests.final.helpers import AT_ONCE, ROOT, eventually, nothing
from tests.helpers import Background, Gate, Journal

HOUR = 3600.0


class Here:
    """A handler that notes in which thread it has run what."""

    def __init__(self) -> None:
        self.payloads: list[object] = []
        self.threads: set[int] = set()

    def __call__(self, job: Job) -> object:
        self.payloads.append(job.payload)
        self.threads.add(threading.get_ident())
        if job.payload == "bad":
            raise ValueError("no")
        return job.payload


@pytest.fixture
def handler() -> Here:
    return Here()


@pytest.fixture(name="queue")
def an_inline_queue(handler: Here) -> Iterator[InlineQueue]:
    with InlineQueue(handler) as queue:
        yield queue


class TestRunning:
    def test_nothing_runs_before_drain_and_all_in_this_thread(
        self, queue: InlineQueue, handler: Here
    ) -> None:
        before = threading.enumerate()
        job_id = queue.enqueue(Job(payload=1))
        assert queue.status(job_id) is Status.QUEUED
        assert handler.payloads == []
        [record] = queue.drain()
        assert (record.id, record.status, record.result) == (job_id, Status.COMPLETED, 1)
        assert handler.threads == {threading.get_ident()}
        assert threading.enumerate() == before
        assert queue.drain() == []

    def test_it_is_a_job_queue_and_runs_in_the_order_of_one(
        self, queue: InlineQueue, handler: Here
    ) -> None:
        assert isinstance(queue, JobQueue)
        queue.enqueue_many([Job(payload=1, priority="low"), Job(payload=2, priority="high")])
        queue.drain()
        assert handler.payloads == [2, 1]

    def test_what_a_handler_enqueues_runs_too(self) -> None:
        def handler(job: Job) -> None:
            if job.payload:
                queue.enqueue(Job(payload=job.payload - 1))

        with InlineQueue(handler) as queue:
            queue.enqueue(Job(payload=3))
            assert [record.payload for record in queue.drain()] == [3, 2, 1, 0]

    def test_one_that_enqueues_itself_for_ever_has_an_end(self) -> None:
        with InlineQueue(lambda job: queue.enqueue(Job()) and None) as queue:
            queue.enqueue(Job())
            with pytest.raises(RuntimeError, match="does a job enqueue itself"):
                queue.drain(most=10)

    def test_waiting_runs_jobs(self, queue: InlineQueue) -> None:
        assert queue.wait(queue.enqueue(Job(payload=5))).result == 5
        assert list(queue.map(range(100))) == list(range(100))
        queue.enqueue(Job())
        queue.join()
        assert queue.metrics().completed == 102

    def test_a_full_lane_makes_room_by_running_jobs(self, handler: Here) -> None:
        with InlineQueue(handler, capacity=1) as queue:
            queue.enqueue(Job(payload=1))
            queue.enqueue(Job(payload=2))
            assert handler.payloads == [1]
            with pytest.raises(QueueFull):
                queue.enqueue(Job(), timeout=0)

    def test_a_handler_may_wait_for_another_job_while_there_are_workers(self) -> None:
        def handler(job: Job) -> object:
            if job.kind == "child":
                return current_job().id
            child = queue.enqueue(Job(kind="child"))
            return [queue.wait(child).result == child, current_job().id == job.id]

        with InlineQueue({"child": handler, "parent": handler}, workers=2) as queue:
            assert queue.wait(queue.enqueue(Job(kind="parent"))).result == [True, True]
        with InlineQueue({"child": handler, "parent": handler}, workers=1, max_retries=0) as queue:
            record = queue.wait(queue.enqueue(Job(kind="parent")))
            assert "All 1 workers wait" in str(record.error)

    def test_executor_process_runs_here(self) -> None:
        kinds = {"pid": Kind(own_thread, executor="process")}
        with InlineQueue(kinds) as queue:
            assert queue.wait(queue.enqueue(Job(kind="pid"))).result == threading.get_ident()

    def test_results_of_parents_are_there(self) -> None:
        def handler(job: Job) -> object:
            return current_job().parents if job.after or job.payload else "of the parent"

        with InlineQueue(handler) as queue:
            queue.enqueue_many([Job("child", payload=1, after=["parent"]), Job("parent")])
            queue.drain()
            assert queue.get("child").result == {"parent": "of the parent"}

    def test_keys_hold(self, queue: InlineQueue) -> None:
        first = queue.enqueue(Job(unique=Unique("report")))
        assert queue.enqueue(Job(unique=Unique("report"))) == first
        queue.drain()
        assert queue.enqueue(Job(unique=Unique("report"))) != first

    def test_a_job_is_cancelled_before_it_runs(self, queue: InlineQueue, handler: Here) -> None:
        job_id = queue.enqueue(Job(payload=1))
        assert queue.cancel(job_id) is True
        assert queue.drain() == []
        assert queue.status(job_id) is Status.CANCELLED
        assert handler.payloads == []

    def test_middleware_stands_around_plain_handlers_and_coroutines(self) -> None:
        seen: list[str] = []

        def note(job: Job, call_next: CallNext) -> object:
            seen.append(f"before {job.kind}")
            result = call_next(job)
            seen.append(f"after {job.kind}: {result}")
            return result

        async def coroutine(job: Job) -> str:
            await asyncio.sleep(0)
            return "awaited"

        kinds = {"plain": lambda job: "called", "coroutine": coroutine}
        with InlineQueue(kinds, middleware=[note]) as queue:
            queue.enqueue_many([Job(kind=kind) for kind in kinds])
            assert [record.result for record in queue.drain()] == ["called", "awaited"]
        assert seen == [
            *("before plain", "after plain: called"),
            *("before coroutine", "after coroutine: awaited"),
        ]

    def test_ctrl_c_is_for_the_program(self) -> None:
        def handler(job: Job) -> None:
            raise KeyboardInterrupt

        async def coroutine(job: Job) -> None:
            raise KeyboardInterrupt

        for one in (handler, coroutine):
            with InlineQueue(one, max_retries=0) as queue:
                job_id = queue.enqueue(Job())
                with pytest.raises(KeyboardInterrupt):
                    queue.drain()
                assert queue.status(job_id) is Status.FAILED


def own_thread(job: Job) -> int:
    return threading.get_ident()


class TestTime:
    def test_a_scheduled_job_is_due_when_the_clock_says_so(
        self, queue: InlineQueue, handler: Here
    ) -> None:
        queue.enqueue(Job(payload="delay", run_at=HOUR))
        queue.enqueue(Job(payload="date", run_at=datetime.now(UTC) + timedelta(hours=2)))
        assert queue.drain() == []
        queue.clock.advance(HOUR)
        queue.drain()
        assert handler.payloads == ["delay"]
        queue.enqueue(Job(payload="after that", run_at=HOUR / 2))
        queue.clock.advance(HOUR)
        queue.drain()
        assert handler.payloads == ["delay", "after that", "date"]

    def test_retries_are_due_after_their_backoff(self, queue: InlineQueue) -> None:
        job_id = queue.enqueue(Job(payload="bad"))
        for attempts in (1, 2, 3, 4):
            [record] = queue.drain()
            assert record.attempts == attempts
            queue.clock.advance(HOUR)
        assert queue.drain() == []
        assert queue.status(job_id) is Status.FAILED
        assert [failed.error for failed in queue.attempts(job_id)] == ["ValueError: no"] * 4
        queue.retry(job_id)
        assert len(queue.drain()) == 1

    def test_a_job_that_snoozes_and_says_how_far_it_is(self) -> None:
        def handler(job: Job) -> None:
            current_job().progress(0.5, "half")
            if not snoozed:
                snoozed.append(job.id)
                raise Snooze(HOUR)

        snoozed: list[str] = []
        with InlineQueue(handler) as queue:
            queue.enqueue(Job())
            [record] = queue.drain()
            assert (record.status, record.attempts) == (Status.SCHEDULED, 0)
            assert record.progress is not None
            assert record.progress.message == "half"
            queue.clock.advance(HOUR)
            [record] = queue.drain()
            assert record.status is Status.COMPLETED

    def test_a_retry_that_is_due_at_once_runs_in_the_same_drain(self, handler: Here) -> None:
        with InlineQueue(handler, backoff=AT_ONCE, max_retries=2) as queue:
            queue.enqueue(Job(payload="bad"))
            [record] = queue.drain()
            assert (record.status, record.attempts) == (Status.FAILED, 3)

    def test_a_rate_limit_holds_until_time_has_passed(self, handler: Here) -> None:
        with InlineQueue(handler, rate_limit=TokenBucket(1 / HOUR, burst=2)) as queue:
            queue.enqueue_many([Job(payload=n) for n in range(4)])
            assert len(queue.drain()) == 2
            queue.clock.advance(HOUR)
            assert len(queue.drain()) == 1

    def test_waiting_for_what_is_not_due_ends_at_once_and_says_what_to_do(
        self, queue: InlineQueue
    ) -> None:
        job_id = queue.enqueue(Job(run_at=HOUR))
        with pytest.raises(TimeoutError, match=r"clock\.advance"):
            queue.wait(job_id)
        queue.enqueue(Job(payload="bad"))
        with pytest.raises(TimeoutError, match="unfinished"):
            queue.join()
        with pytest.raises(TimeoutError, match=r"clock\.advance"):
            list(queue.map(["bad"]))
        with pytest.raises(ValueError, match="seconds"):
            queue.clock.advance(-1)

    def test_an_attempt_that_took_longer_than_its_timeout_has_failed(self) -> None:
        def handler(job: Job) -> object:
            queue.clock.advance(5)
            return current_job().cancelled

        with InlineQueue(handler, max_retries=0) as queue:
            queue.clock.advance(HOUR)
            late = queue.wait(queue.enqueue(Job(timeout=4)))
            assert late.error == "TimeoutError: the attempt took longer than 4 s."
            assert queue.wait(queue.enqueue(Job(timeout=6))).result is False

    def test_a_handler_has_its_deadline_by_the_clock_of_the_machine(self) -> None:
        import time

        with InlineQueue(lambda job: (current_job().deadline or 0) - time.monotonic()) as queue:
            queue.clock.advance(HOUR)
            left = queue.wait(queue.enqueue(Job(timeout=60))).result
            assert isinstance(left, float)
            assert 0 < left <= 60


class TestCoroutines:
    def test_they_run_on_one_loop_in_this_thread(self) -> None:
        loops = set()

        async def handler(job: Job) -> int:
            await asyncio.sleep(0)
            loops.add(asyncio.get_running_loop())
            return threading.get_ident()

        with InlineQueue(handler) as queue:
            assert set(queue.map(range(5))) == {threading.get_ident()}
        assert len(loops) == 1
        assert loops.pop().is_closed()

    def test_a_plain_handler_may_return_one(self) -> None:
        async def work() -> str:
            return current_job().id

        def handler(job: Job) -> Awaitable[str]:
            return work()

        with InlineQueue(handler) as queue:
            job_id = queue.enqueue(Job())
            assert queue.wait(job_id).result == job_id

    def test_one_that_waits_in_another_thread_is_served_there(self) -> None:
        async def handler(job: Job) -> object:
            if job.payload:
                child = await asyncio.to_thread(queue.enqueue, Job())
                return (await asyncio.to_thread(queue.wait, child)).result
            return "of the child"

        with InlineQueue(handler) as queue:
            assert queue.wait(queue.enqueue(Job(payload=1))).result == "of the child"

    def test_one_that_would_block_the_loop_is_refused(self) -> None:
        async def handler(job: Job) -> None:
            queue.wait(job.id)

        with InlineQueue(handler, max_retries=0) as queue:
            assert "block the event loop" in str(queue.wait(queue.enqueue(Job())).error)

    def test_its_timeout_ends_it(self) -> None:
        async def handler(job: Job) -> None:
            await asyncio.sleep(HOUR)

        with InlineQueue(handler, max_retries=0) as queue:
            record = queue.wait(queue.enqueue(Job(timeout=0.01)))
            assert record.error == "TimeoutError: the attempt took longer than 0.01 s."

    def test_inside_another_loop_it_says_what_to_do(self) -> None:
        async def handler(job: Job) -> str:
            return "ran"

        async def test() -> None:
            with InlineQueue(handler) as queue:
                queue.enqueue(Job())
                [record] = queue.drain()
                assert "await asyncio.to_thread(queue.drain)" in str(record.error)
                queue.enqueue(Job())
                [record] = await asyncio.to_thread(queue.drain)
                assert record.result == "ran"

        asyncio.run(test())

    def test_code_that_awaits_its_queue_gets_a_face_of_it(self, queue: InlineQueue) -> None:
        async def program(face: AsyncJobQueue) -> object:
            job_id = await face.enqueue(Job(payload="x"))
            assert await face.status(job_id) is Status.QUEUED
            await asyncio.to_thread(queue.drain)
            assert [result async for result in face.map("ab")] == ["a", "b"]
            return (await face.wait(job_id)).result

        assert asyncio.run(program(AsyncJobQueue.of(queue))) == "x"


class TestListening:
    def test_subscribers_are_told_here_and_may_use_the_queue(self, queue: InlineQueue) -> None:
        told: list[tuple[Status, Status]] = []

        def subscriber(transition: Transition) -> None:
            told.append((transition.status, queue.status(transition.job_id)))

        queue.subscribe(subscriber)
        queue.enqueue(Job())
        queue.drain()
        assert [status for status, _ in told] == ["queued", "processing", "completed"]
        assert told[-1] == (Status.COMPLETED, Status.COMPLETED)

    def test_the_log_is_written_here(
        self, queue: InlineQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue.enqueue(Job("x", payload="bad"))
        queue.drain()
        assert "job x failed, attempt 1, again in" in caplog.text


class TestTheEnd:
    def test_leaving_runs_nothing(self, handler: Here) -> None:
        with InlineQueue(handler) as queue:
            queue.enqueue(Job())
        assert handler.payloads == []
        with pytest.raises(QueueClosed):
            queue.enqueue(Job())
        with pytest.raises(QueueClosed):
            queue.drain()

    def test_closing_runs_what_is_due(self, queue: InlineQueue, handler: Here) -> None:
        queue.enqueue(Job(payload=1))
        assert queue.close() is True
        assert queue.close() is True
        assert handler.payloads == [1]
        assert queue.metrics().completed == 1

    def test_closing_says_what_is_left(self, queue: InlineQueue) -> None:
        queue.enqueue(Job(run_at=HOUR))
        queue.enqueue(Job(payload="bad"))
        assert queue.close() is False

    def test_a_handler_may_close_it(self) -> None:
        with InlineQueue(lambda job: queue.close()) as queue:
            ids = queue.enqueue_many([Job(), Job()])
            records = queue.drain()
            assert [record.id for record in records] == ids
            assert queue.close() is True

    def test_threads_take_turns(self, queue: InlineQueue) -> None:
        def produce() -> None:
            for _ in range(100):
                queue.enqueue(Job())

        producers = [Background(produce) for _ in range(4)]
        for producer in producers:
            producer.result()
        assert len(queue.drain()) == 400

    def test_who_waits_for_what_another_thread_runs_waits(self) -> None:
        """It had been told that nothing is left to run."""
        started, gate = Journal(), Gate()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        with InlineQueue(handler) as queue:
            queue.enqueue(Job("x"))
            first = Background(queue.wait, "x")
            started.wait_for("x")
            second = Background(queue.wait, "x")
            eventually(lambda: len(inside.watched(queue).get("x", ())) == 2, "both to wait")
            gate.open()
            for waiting in (first, second):
                assert waiting.result().status is Status.COMPLETED

    def test_tasks_that_each_wait_for_a_job_all_get_theirs(self) -> None:
        async def handler(job: Job) -> object:
            await asyncio.sleep(0.001)
            if job.payload != "all":
                return job.payload
            children = [queue.enqueue(Job(payload=n)) for n in range(5)]
            return [r.result for r in await asyncio.gather(*map(face.wait, children))]

        async def ask() -> object:
            ids = [await face.enqueue(Job(payload="all")) for _ in range(2)]
            return [r.result for r in await asyncio.gather(*map(face.wait, ids))]

        for _ in range(10):
            with InlineQueue(handler, workers=4) as queue:
                face = AsyncJobQueue.of(queue)
                assert asyncio.run(ask()) == [[0, 1, 2, 3, 4]] * 2

    def test_handlers_that_wait_in_vain_are_told_and_who_waits_for_them_is_not(self) -> None:
        async def handler(job: Job) -> None:
            await face.wait("never")

        async def ask() -> list[Status]:
            return [r.status for r in await asyncio.gather(*map(face.wait, "abc"))]

        with InlineQueue(handler, max_retries=0) as queue:
            face = AsyncJobQueue.of(queue)
            queue.enqueue_many([Job("never", run_at=HOUR), Job("a"), Job("b"), Job("c")])
            assert asyncio.run(ask()) == [Status.FAILED] * 3

    def test_a_log_handler_that_raises_ends_nothing(
        self, handler: Here, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
    ) -> None:
        """As in a JobQueue."""

        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise OSError("the log is full")

        broken, log = Broken(), logging.getLogger("final")
        log.addHandler(broken)
        request.addfinalizer(lambda: log.removeHandler(broken))
        with InlineQueue(handler, max_retries=0) as queue:
            queue.enqueue(Job(payload="bad"))
            assert [record.status for record in queue.drain()] == [Status.FAILED]
            queue.enqueue(Job(run_at=HOUR))
        assert capsys.readouterr().err.count("OSError: the log is full") == 2


class TestOptions:
    def test_they_are_those_of_a_queue_without_a_path(self) -> None:
        with pytest.raises(TypeError, match="takes no path"):
            InlineQueue(nothing, path="x.db")
        with pytest.raises(ValueError, match="workers must be at least 1"):
            InlineQueue(nothing, workers=0)
        with pytest.raises(TypeError, match="worker"):
            InlineQueue(nothing, worker=1)
        with pytest.raises(TypeError, match="must be callable"):
            InlineQueue(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="has none"):
            InlineQueue({"a": nothing}, rate_limit={"b": TokenBucket(1)})


class TestAsserting:
    def test_what_was_enqueued_is_found_whatever_became_of_it(self, queue: InlineQueue) -> None:
        queue.enqueue_many([Job(payload={"to": "a"}), Job(payload=None), Job(payload={"to": "a"})])
        queue.drain()
        queue.enqueue(Job(payload="later", run_at=HOUR))
        assert [r.payload for r in enqueued(queue)] == [{"to": "a"}, None, {"to": "a"}, "later"]
        assert len(assert_enqueued(queue, payload={"to": "a"}, count=2)) == 2
        assert_enqueued(queue, kind="default", payload=None)
        assert_enqueued(queue, kind="default", count=4)
        assert_enqueued(queue, payload="never", count=0)

    def test_a_failure_lists_what_there_is(self, queue: InlineQueue) -> None:
        with pytest.raises(AssertionError, match="None was enqueued at all"):
            assert_enqueued(queue)
        queue.enqueue(Job(payload={"to": "ada"}))
        queue.enqueue(Job(payload=7, run_at=HOUR))
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(queue, kind="default", payload={"to": "bob"})
        assert str(caught.value).splitlines() == [
            "0 jobs of kind 'default' with payload {'to': 'bob'} were enqueued, not 1.",
            "All that were enqueued:",
            "  'default' {'to': 'ada'} (queued)",
            "  'default' 7 (scheduled)",
        ]

    def test_it_asks_any_queue(self) -> None:
        with JobQueue(nothing) as queue:
            queue.enqueue(Job(payload=1))
            assert_enqueued(queue, payload=1)


class TestInAProjectOfSomebodyElse:
    def test_a_fixture_is_two_lines_in_a_conftest(self, tmp_path: Path) -> None:
        files = {
            "shop.py": """
                from final import Job

                def send(job):
                    return f"to {job.payload}"

                def sign_up(queue, name):
                    queue.enqueue(Job(kind="mail", payload=name))
                """,
            "conftest.py": """
                from final.testing import queue_fixture
                from shop import send

                job_queue = queue_fixture({"mail": send}, max_retries=0)
                """,
            "test_shop.py": """
                from final.testing import assert_enqueued
                from shop import sign_up

                def test_signing_up_sends_a_mail(job_queue):
                    sign_up(job_queue, "ada")
                    assert_enqueued(job_queue, kind="mail", payload="ada")
                    [record] = job_queue.drain()
                    assert record.result == "to ada"

                def test_each_test_has_its_own(job_queue):
                    assert_enqueued(job_queue, count=0)

                def test_a_failure_points_here(job_queue):
                    sign_up(job_queue, "bob")
                    assert_enqueued(job_queue, payload="ada")  # this line
                """,
        }
        for name, text in files.items():
            (tmp_path / name).write_text(dedent(text), encoding="utf-8")
        ran = python("-m", "pytest", "-q", "-p", "no:cacheprovider", ".", cwd=tmp_path)
        assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
        assert "1 failed" in ran.stdout
        assert '>       assert_enqueued(job_queue, payload="ada")  # this line' in ran.stdout
        assert "'mail' 'bob' (queued)" in ran.stdout

    def test_pytest_is_imported_for_the_fixture_alone(self) -> None:
        program = (
            "import sys, final.testing as t\n"
            "with t.InlineQueue(print) as queue: queue.drain()\n"
            "assert 'pytest' not in sys.modules\n"
        )
        ran = python("-c", program)
        assert ran.returncode == 0, ran.stderr


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_paused_is_not_run() -> None:
    with InlineQueue(nothing) as queue:
        queue.pause(kind="mail")
        held, free = queue.enqueue_many([Job(kind="mail"), Job()])
        assert [record.id for record in queue.drain()] == [free]
        queue.resume(kind="mail")
        assert [record.id for record in queue.drain()] == [held]
        assert queue.set_workers(3) == queue.metrics().workers == 3
        assert queue.set_workers(1) == 1


def test_what_ctrl_c_has_broken_off_does_not_come_in_later() -> None:
    def handler(job: Job) -> None:
        if job.id == "a":
            raise KeyboardInterrupt

    queue = InlineQueue(handler, capacity=1, max_retries=0)
    queue.enqueue(Job("a"))
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue_many([Job("b"), Job("c")])
    queue.drain()
    assert "c" not in {record.id for record in queue.jobs()}


def test_ctrl_c_leaves_no_turn_half_done(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = InlineQueue(nothing)
    as_ever = SqliteFile.write

    def interrupted(file: SqliteFile, moves: Sequence[Move], wall: float) -> None:
        monkeypatch.setattr(SqliteFile, "write", as_ever)
        signal.raise_signal(signal.SIGINT)
        as_ever(file, moves, wall)

    monkeypatch.setattr(SqliteFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue(Job("x"))
    assert [record.id for record in queue.drain()] == ["x"]
    assert queue.close() is True


def test_ctrl_c_in_the_first_turn_breaks_it_off_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = InlineQueue(nothing, capacity=1)
    queue.enqueue(Job("a"))
    queue.pause()
    as_ever = queue._turns.turn

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        as_ever(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(queue._turns, "turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue(Job("b"))
    queue.resume()
    assert [record.id for record in queue.drain()] == ["a"]
    assert inside.nobody_waits(queue)


def test_a_wait_ends_though_the_job_is_put_off_for_no_time() -> None:
    def handler(job: Job) -> None:
        raise Snooze(0)

    queue = InlineQueue(handler)
    queue.enqueue(Job("x"))
    with pytest.raises(TimeoutError):
        queue.wait("x", timeout=0.1)


def test_ctrl_c_while_it_closes_leaves_the_rest_to_the_next_close() -> None:
    def handler(job: Job) -> None:
        if job.id == "a":
            raise KeyboardInterrupt

    queue = InlineQueue(handler, max_retries=0)
    queue.enqueue_many([Job("a"), Job("b")])
    with pytest.raises(KeyboardInterrupt):
        queue.close()
    assert queue.close() is True
    assert queue.status("b") is Status.COMPLETED


def test_a_wait_for_what_another_thread_runs_ends_in_time(gate: Gate) -> None:
    ran = Journal()

    def handler(job: Job) -> None:
        ran.write(job.id)
        if job.id == "slow":
            gate.wait()
        else:
            time.sleep(2.0)

    queue = InlineQueue(handler)
    queue.enqueue(Job("slow"))
    draining = Background(queue.drain)
    ran.wait_for("slow")
    queue.enqueue(Job("quick"))
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        queue.wait("slow", timeout=2.2)
    assert time.monotonic() - begun < 4.0  # and not as long again
    gate.open()
    draining.result()


@pytest.mark.parametrize("unknown", ["wrkers", "shared"])
def test_an_option_that_there_is_not_is_named(unknown: str) -> None:
    options: dict[str, Any] = {unknown: 1}
    with pytest.raises(TypeError, match=f"JobQueue has no option '{unknown}'"):
        InlineQueue(nothing, **options)


def test_a_task_factory_that_a_coroutine_sets_harms_no_other() -> None:
    async def handler(job: Job) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))

    with InlineQueue(handler, max_retries=0) as queue:
        queue.enqueue_many([Job(), Job()])
        assert [record.error for record in queue.drain()] == [None, None]


class Unshowable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("there is nothing to see")


@pytest.mark.parametrize("raises", [True, False])
def test_a_coroutine_whose_end_cannot_be_shown_harms_no_other(raises: bool) -> None:
    async def handler(job: Job) -> object:
        if job.id == "fine":
            return 5
        if raises:
            raise Unshowable("and yet it moves")
        return Unshowable()

    with InlineQueue(handler, max_retries=0) as queue:
        queue.enqueue_many([Job("odd"), Job("fine")])
        odd, fine = queue.drain()
    assert odd.error is not None
    assert ("and yet it moves" if raises else "Unshowable is not JSON") in odd.error
    assert fine.result == 5
    asyncio.run(asyncio.sleep(0))  # nor the program's own
