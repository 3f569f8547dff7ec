"""Closing: what runs, what stays in the file, who is woken, and that nothing is left behind.

Every deploy closes a queue. Whatever hangs, leaks or gets lost here happens at each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from final import Job, JobQueue, JobRecord, Kind, Priority, QueueClosed, QueueFull, Status
from final.workers.child_process import Process
from final.workers.event_loop import EventLoop
from tests.final import inside, process_handlers
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    comes_true,
    completes,
    eventually,
    in_file,
    is_closing,
    learn_that_jobs_are_quick,
    nothing,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

# Makes a Family: see the fixture ``open_family``.
OpenFamily = Callable[..., "Family"]

both_places = pytest.mark.parametrize("place", ["file", ":memory:"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, path: str) -> str:
    """Where the queue of the test lives."""
    return path if request.param == "file" else ":memory:"


def refuses(queue: JobQueue) -> bool:
    """Whether ``queue``, whose lane is full, refuses a job because it is closing."""
    try:
        queue.enqueue(Job(), timeout=0)
    except QueueFull:
        return False
    except QueueClosed:
        return True
    raise AssertionError("There was room.")


class TestWhatRuns:
    def test_closing_runs_what_was_accepted(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path, workers=2)
        queue.enqueue_many([Job() for _ in range(100)])
        assert Background(queue.close).result() is True
        assert set(in_file(path, "status")) == {"completed"}

    def test_closing_runs_retries_too(self, open_queue: OpenQueue, path: str) -> None:
        def handler(job: Job) -> None:
            raise ValueError("never")

        queue = open_queue(handler, path=path, max_retries=2, backoff=AT_ONCE)
        queue.enqueue(Job())
        assert Background(queue.close).result() is True
        assert in_file(path, "status, attempts") == [("failed", 3)]

    def test_without_drain_only_what_is_in_flight_is_finished(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> str:
            started.write(job.id)
            gate.wait()
            return "finished"

        queue = open_queue(handler, path=path, workers=1, capacity=2)
        queue.enqueue_many([Job("in flight"), Job("queued"), Job("too")])
        started.wait_for("in flight")
        closing = Background(queue.close, False)
        eventually(lambda: refuses(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "id, status, attempts, result") == [
            ("in flight", "completed", 1, '"finished"'),
            ("queued", "queued", 0, None),
            ("too", "queued", 0, None),
        ]

    def test_without_drain_a_retry_stays_in_the_file_with_its_due_time(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("not today")

        queue = open_queue(handler, path=path, backoff=NOT_TODAY)
        queue.enqueue(Job())
        comes_true(queue, lambda: queue.metrics().retrying == 1, "the failure")
        assert Background(queue.close, False).result() is True
        [(status, attempts, due_at)] = in_file(path, "status, attempts, due_at")
        assert (status, attempts) == ("retrying", 1)
        assert 86_000 < due_at - time.time() <= 86_400

    def test_jobs_behind_a_job_in_flight_go_back_uncharged(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """Quick jobs are handed out many at a time; what has not started is taken back."""
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "slow":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, path=path, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("slow"), *(Job(f"quick-{n}") for n in range(20))])
        started.wait_for("slow")
        closing = Background(queue.close, False)
        # Behind a slow job they go back in any case, and would be handed out again.
        eventually(lambda: is_closing(queue), "the closing to begin")
        reaches(queue, "quick-0", Status.QUEUED)
        gate.open()
        assert closing.result() is True
        assert in_file(path, "id, status, attempts")[-21:] == [
            ("slow", "completed", 1),
            *((f"quick-{n}", "queued", 0) for n in range(20)),
        ]


class Family:
    """Handlers of the kinds "parent", which enqueues a "child" when it may, and "child".

    how: from which thread it does so, and as what the handler runs.
    """

    def __init__(self, how: str, gate: Gate) -> None:
        self.queue: JobQueue
        self.started = Journal()
        self._gate = gate
        self.handlers = {"parent": getattr(self, f"_{how}"), "child": nothing}

    def _in_the_workers_thread(self, job: Job) -> None:
        self._wait_for_the_gate()
        self._enqueue()

    async def _on_the_event_loop(self, job: Job) -> None:
        await asyncio.to_thread(self._wait_for_the_gate)
        self._enqueue()

    async def _beside_the_event_loop(self, job: Job) -> None:
        await asyncio.to_thread(self._wait_for_the_gate)
        await asyncio.to_thread(self._enqueue)

    async def _in_a_task_group(self, job: Job) -> None:
        await asyncio.to_thread(self._wait_for_the_gate)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(self._enqueue))

    async def _where_nobody_knows_its_job(self, job: Job) -> None:
        await asyncio.to_thread(self._wait_for_the_gate)
        await asyncio.get_running_loop().run_in_executor(None, self._enqueue)

    def _wait_for_the_gate(self) -> None:
        self.started.write("parent")
        self._gate.wait()

    def _enqueue(self) -> None:
        self.queue.enqueue(Job("child", kind="child"))


THREADS = [
    "in_the_workers_thread",
    "on_the_event_loop",
    "beside_the_event_loop",
    "in_a_task_group",
]


class TestHandlersThatEnqueue:
    @pytest.fixture
    def open_family(self, open_queue: OpenQueue, path: str, gate: Gate) -> OpenFamily:
        """Makes a family whose parent runs and waits at the gate; it has no retry."""

        def open_family(how: str, **options: Any) -> Family:
            family = Family(how, gate)
            family.queue = open_queue(family.handlers, path=path, max_retries=0, **options)
            family.queue.enqueue(Job("parent", kind="parent"))
            family.started.wait_for("parent")
            return family

        return open_family

    @pytest.mark.parametrize("how", THREADS)
    def test_while_draining_what_they_enqueue_runs_too(
        self, open_family: OpenFamily, path: str, gate: Gate, how: str
    ) -> None:
        queue = open_family(how).queue
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        with pytest.raises(QueueClosed):
            queue.enqueue(Job("outsider", kind="child"))
        gate.open()
        assert closing.result() is True
        assert in_file(path, "id, status") == [("parent", "completed"), ("child", "completed")]

    @pytest.mark.parametrize("how", THREADS)
    def test_without_drain_that_attempt_never_was(
        self, open_family: OpenFamily, open_queue: OpenQueue, path: str, gate: Gate, how: str
    ) -> None:
        family = open_family(how)
        closing = Background(family.queue.close, False)
        eventually(lambda: is_closing(family.queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "id, status, attempts, error") == [("parent", "queued", 0, None)]
        with open_queue(nothing, path=path) as queue:
            assert queue.attempts("parent") == []
        assert in_file(path, "status, attempts") == [("completed", 1)]

    def test_where_nobody_knows_its_job_it_waits_for_the_next_start(
        self, open_family: OpenFamily, path: str, gate: Gate
    ) -> None:
        """It would only be turned away again, so it does not run again while draining either."""
        family = open_family("where_nobody_knows_its_job")
        closing = Background(family.queue.close)
        eventually(lambda: is_closing(family.queue), "the closing to begin")
        gate.open()
        assert closing.result() is False
        assert family.started.entries == ["parent"]
        assert in_file(path, "id, status, attempts, error") == [("parent", "queued", 0, None)]

    def test_generation_after_generation(self, open_queue: OpenQueue, gate: Gate) -> None:
        def handler(job: Job) -> None:
            gate.wait()
            if job.payload:
                queue.enqueue(Job(payload=int(str(job.payload)) - 1))

        queue = open_queue(handler, workers=2)
        queue.enqueue_many([Job(payload=5) for _ in range(3)])
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert queue.metrics().completed == queue.metrics().accepted == 18

    def test_whoever_catches_it_has_completed_its_job(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> str:
            started.write(job.id)
            gate.wait()
            try:
                queue.enqueue(Job())
            except QueueClosed:
                return "another time"
            return "enqueued"

        queue = open_queue(handler, path=path)
        queue.enqueue(Job("polite"))
        started.wait_for("polite")
        closing = Background(queue.close, False)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "status, attempts, result") == [("completed", 1, '"another time"')]

    def test_they_may_wait_for_room_that_the_others_make(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "parent":
                started.write(job.id)
                gate.wait()
                queue.enqueue_many([Job() for _ in range(20)])

        queue = open_queue(handler, workers=2, capacity=1)
        queue.enqueue(Job("parent"))
        started.wait_for("parent")
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert queue.metrics().completed == 21

    @pytest.fixture
    def blocked(self, open_queue: OpenQueue, path: str, gate: Gate) -> tuple[JobQueue, Journal]:
        """A queue of two workers: one waits at the gate, the other to enqueue its third job.

        With the queue comes a journal of what becomes of that.
        """
        said = Journal()

        def handler(job: Job) -> None:
            if job.id != "enqueues":
                gate.wait()
                return
            try:
                queue.enqueue_many([Job(name) for name in "abc"])
            except QueueClosed as error:
                said.write(error.accepted)
                raise
            said.write("all")

        queue = open_queue(handler, path=path, workers=2, capacity=1)
        queue.enqueue(Job("waits"))
        queue.enqueue(Job("enqueues"))
        eventually(lambda: queue.metrics().accepted == 3, "the lane to be full")
        return queue, said

    @pytest.mark.parametrize(("drain", "timeout"), [(False, None), (True, 0)])
    def test_one_that_waits_for_room_is_told_what_came_in(
        self,
        blocked: tuple[JobQueue, Journal],
        path: str,
        gate: Gate,
        drain: bool,
        timeout: float | None,
    ) -> None:
        """By a close without drain, and by one that runs out of time."""
        queue, said = blocked
        closing = Background(queue.close, drain, timeout)
        said.wait_for(["a"])
        gate.open()
        assert closing.result() is not drain
        assert in_file(path, "id, attempts")[1:] == [("enqueues", 0), ("a", 0)]
        assert queue.dead_letters() == []

    def test_one_that_waits_for_room_goes_on_waiting_while_draining(
        self, blocked: tuple[JobQueue, Journal], path: str, gate: Gate
    ) -> None:
        queue, said = blocked
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        assert said.entries == []
        gate.open()
        assert closing.result() is True
        assert said.entries == ["all"]
        assert set(in_file(path, "status")) == {"completed"}

    def test_where_no_room_would_ever_come_they_are_told(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        said = Journal()

        def handler(job: Job) -> None:
            if job.id == "parent":
                said.write("started")
                gate.wait()
                with pytest.raises(QueueFull) as refused:
                    queue.enqueue_many([Job("a"), Job("b")])
                said.write(refused.value.accepted)

        queue = open_queue(handler, workers=1, capacity=1)
        queue.enqueue(Job("parent"))
        said.wait_for("started")
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert said.entries == ["started", ["a"]]
        assert queue.metrics().completed == 2

    @pytest.mark.parametrize("drain", [True, False])
    def test_one_that_waits_for_others(
        self, open_queue: OpenQueue, path: str, gate: Gate, drain: bool
    ) -> None:
        """While draining they run. Otherwise they do not, so it would wait for ever."""
        started = Journal()

        def handler(job: Job) -> object:
            if job.id == "maps":
                return len(list(queue.map(range(40))))
            started.write(job.payload)
            gate.wait()
            return job.payload

        queue = open_queue(handler, path=path, workers=2, max_retries=0)
        queue.enqueue(Job("maps"))
        started.wait_for(0)
        closing = Background(queue.close, drain, None)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        maps, *others = in_file(path, "status, attempts, result")
        assert maps == (("completed", 1, "40") if drain else ("queued", 0, None))
        assert {status for status, *_ in others} <= {"completed", "cancelled", "queued"}

    def test_one_that_was_given_up_is_an_outsider(self, open_queue: OpenQueue, gate: Gate) -> None:
        said, hold = Journal(), Gate()

        def handler(job: Job) -> None:
            if job.id == "in time":
                hold.wait()
                return
            gate.wait()
            try:
                queue.enqueue(Job())
            except QueueClosed:
                said.write("closed")

        queue = open_queue(handler, workers=2, max_retries=0)
        queue.enqueue_many([Job("in time"), Job("late", timeout=0.001)])
        assert queue.wait("late", DEADLINE).status is Status.FAILED
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        said.wait_for("closed")
        hold.open()
        assert closing.result() is True
        assert queue.metrics().accepted == 2

    def test_while_draining_they_may_revive_a_dead_letter(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        attempts = Journal()

        def handler(job: Job) -> None:
            if job.id == "reviver":
                gate.wait()
                queue.retry("dead")
            elif attempts.write(job.id) == 1:
                raise ValueError("not the first time")

        queue = open_queue(handler, path=path, max_retries=0)
        queue.enqueue(Job("dead"))
        assert queue.wait("dead", DEADLINE).status is Status.FAILED
        queue.enqueue(Job("reviver"))
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "status") == ["completed", "completed"]


class TestOutOfTime:
    @pytest.fixture
    def stuck(self, open_queue: OpenQueue, path: str, gate: Gate) -> JobQueue:
        """A queue with one job that does not end and one behind it."""
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue_many([Job("stuck"), Job("behind")])
        started.wait_for("stuck")
        return queue

    def test_a_job_that_does_not_end_goes_back_uncharged(
        self, stuck: JobQueue, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert Background(stuck.close, True, 0).result() is False
        assert in_file(path, "id, status, attempts, started_at") == [
            ("stuck", "queued", 0, None),
            ("behind", "queued", 0, None),
        ]
        assert caplog.messages[-1:] == [
            "Closed with 1 jobs interrupted and 1 waiting: they run at the next start."
        ]

    def test_it_runs_at_the_next_start_before_those_behind_it(
        self, stuck: JobQueue, open_queue: OpenQueue, path: str
    ) -> None:
        Background(stuck.close, True, 0).result()
        ran = Journal()
        queue = open_queue(lambda job: ran.write(job.id), path=path, workers=1)
        queue.join(DEADLINE)
        assert ran.entries == ["stuck", "behind"]
        assert queue.get("stuck").attempts == 1

    def test_the_end_of_its_old_attempt_changes_nothing(
        self, stuck: JobQueue, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        [worker] = inside.workers(stuck)
        Background(stuck.close, True, 0).result()
        queue = open_queue({"another": nothing}, path=path)  # so it stays queued
        gate.open()
        worker.join(DEADLINE)  # its old worker is through and has left
        assert not worker.is_alive()
        assert queue.get("stuck").status is Status.QUEUED
        assert stuck.get("stuck").status is Status.QUEUED

    def test_what_a_worker_had_finished_before_it_got_stuck_is_recorded(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """Quick jobs are handed out many at a time. Those that have run need not run again."""
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "stuck":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, path=path, workers=1)
        learn_that_jobs_are_quick(queue)
        queue.enqueue_many([Job("quick"), Job("stuck"), Job("behind")])
        started.wait_for("stuck")
        Background(queue.close, True, 0).result()
        assert in_file(path, "id, status, attempts")[-3:] == [
            ("quick", "completed", 1),
            ("stuck", "queued", 0),
            ("behind", "queued", 0),
        ]

    def test_the_default_is_shutdown_timeout(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        with open_queue(handler, path=path, shutdown_timeout=0.05) as queue:
            queue.enqueue(Job("stuck"))
            started.wait_for("stuck")
        assert in_file(path, "status, attempts") == [("queued", 0)]

    def test_none_is_as_long_as_it_takes(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """As it is everywhere else; the option is the default, and not what None stands for."""
        queue = open_queue(lambda job: gate.wait(), path=path, shutdown_timeout=0)
        queue.enqueue(Job())
        closing = Background(queue.close, True, None)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        assert in_file(path, "status") == ["completed"]

    def test_closing_again_says_the_same_at_once(self, stuck: JobQueue) -> None:
        assert Background(stuck.close, True, 0).result() is False
        assert Background(stuck.close).result() is False
        assert Background(stuck.close, True, 60).result() is False

    def test_whoever_waits_longer_is_told_that_it_was_cut_short(self, stuck: JobQueue) -> None:
        patient = Background(stuck.close, True, 60)
        assert Background(stuck.close, True, 0).result() is False
        assert patient.result() is False

    def test_nothing_starts_any_more(self, stuck: JobQueue, path: str, gate: Gate) -> None:
        [worker] = inside.workers(stuck)
        Background(stuck.close, True, 0).result()
        gate.open()
        worker.join(DEADLINE)
        assert not worker.is_alive()
        assert in_file(path, "attempts") == [0, 0]


LOST = "were in memory alone and are lost. Give the queue a path to keep such jobs"


class TestWhatIsLost:
    """A queue in memory has no next start."""

    @pytest.mark.parametrize("drain", [True, False])
    @both_places
    def test_scheduled_jobs(
        self, open_queue: OpenQueue, place: str, drain: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = open_queue(nothing, path=place)
        queue.enqueue_many([Job(), Job(run_at=3600), Job(run_at=7200)])
        queue.join(DEADLINE)
        in_memory = place == ":memory:"
        assert Background(queue.close, drain).result() is not in_memory
        assert Background(queue.close, drain).result() is not in_memory
        assert [message for message in caplog.messages if LOST in message] == (
            [f"Closed with 2 jobs that have not ended: they {LOST}."] if in_memory else []
        )

    @both_places
    def test_retries_that_are_not_waited_for(
        self, open_queue: OpenQueue, place: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def handler(job: Job) -> None:
            raise ValueError("not today")

        queue = open_queue(handler, path=place, backoff=NOT_TODAY)
        queue.enqueue(Job())
        comes_true(queue, lambda: queue.metrics().retrying == 1, "the failure")
        in_memory = place == ":memory:"
        assert Background(queue.close, False).result() is not in_memory
        assert sum(LOST in message for message in caplog.messages) == in_memory

    def test_what_runs_and_waits_when_time_is_up(
        self, open_queue: OpenQueue, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue_many([Job(), Job(), Job(run_at=3600)])
        comes_true(queue, lambda: queue.metrics().processing == 1, "the first to start")
        assert Background(queue.close, True, 0).result() is False
        [message] = caplog.messages
        assert "3 jobs" in message
        assert LOST in message

    def test_nothing(self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture) -> None:
        queue = open_queue(nothing)
        queue.enqueue_many([Job(), Job()])
        assert Background(queue.close).result() is True
        assert caplog.messages == []


class TestAgainAndTogether:
    @pytest.fixture
    def holding(self, open_queue: OpenQueue, path: str) -> tuple[JobQueue, Journal]:
        """A queue whose only worker goes on when the queue closes without draining.

        With the queue comes a journal of the jobs that have started.
        """
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            eventually(lambda: is_closing(queue), "its jobs to be refused as well")

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue(Job("holder"))
        started.wait_for("holder")
        return queue, started

    def test_each_is_told_what_is_true_for_it(
        self, holding: tuple[JobQueue, Journal], path: str
    ) -> None:
        """The one that does not drain speeds up the other."""
        queue, started = holding
        queue.enqueue_many([Job("behind"), Job("too")])
        draining = [Background(queue.close) for _ in range(2)]
        eventually(lambda: is_closing(queue), "the closing to begin")
        assert Background(queue.close, False).result() is True
        assert [close.result() for close in draining] == [False, False]
        assert started.entries == ["holder"]
        assert in_file(path, "status") == ["completed", "queued", "queued"]
        # And so it stays, whoever asks again.
        assert Background(queue.close, False).result() is True
        assert Background(queue.close).result() is False

    def test_where_all_has_run_both_are_told_so(self, holding: tuple[JobQueue, Journal]) -> None:
        queue, _ = holding
        closes = [Background(queue.close, drain) for drain in (True, False)]
        assert [close.result() for close in closes] == [True, True]

    def test_a_handler_that_does_not_drain_speeds_up_another_thread_too(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        def handler(job: Job) -> None:
            if job.id == "closes":
                gate.wait()
                queue.close(drain=False)

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue_many([Job("closes", timeout=60), Job("behind")])
        closing = Background(queue.close)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is False
        assert in_file(path, "id, status") == [("closes", "completed"), ("behind", "queued")]

    def test_closing_twice_is_harmless(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        assert queue.close() is True
        assert Background(queue.close).result() is True
        assert Background(queue.close, False, 0).result() is True

    @pytest.mark.parametrize(
        "where", [(EventLoop, "leave"), (Process, "_kill")], ids=["loop", "process"]
    )
    def test_a_signal_handler_may_close_in_the_middle_of_a_close(
        self, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
    ) -> None:
        async def coroutine(job: Job) -> None: ...

        in_process = Kind(process_handlers.hang_for_ever, executor="process")
        queue = open_queue({"coroutine": coroutine, "process": in_process})
        queue.enqueue(Job("x", kind="process"))
        reaches(queue, "x", Status.PROCESSING)
        eventually(lambda: bool(inside.processes(queue)), "the process to be there")
        closed: list[bool] = []
        as_ever: Callable[[object], None] = getattr(*where)

        def interrupted(one: object) -> None:
            monkeypatch.setattr(*where, as_ever)
            closed.append(queue.close(False, 0))
            as_ever(one)

        monkeypatch.setattr(*where, interrupted)
        assert Background(queue.close, False, 0).result() is False
        assert closed == [False]

    @both_places
    def test_many_threads_may_close_at_once(self, open_queue: OpenQueue, place: str) -> None:
        queue = open_queue(nothing, path=place)
        queue.enqueue_many([Job() for _ in range(50)])
        start = threading.Barrier(4)

        def close() -> bool:
            start.wait(DEADLINE)
            return queue.close()

        assert [c.result() for c in [Background(close) for _ in range(4)]] == [True] * 4
        assert queue.metrics().completed == 50

    @both_places
    def test_inside_a_handler_it_begins_and_does_not_wait_for_itself(
        self, open_queue: OpenQueue, place: str
    ) -> None:
        closed = []

        def handler(job: Job) -> None:
            closed.append(queue.close())

        queue = open_queue(handler, path=place)
        queue.enqueue(Job("closes"))
        inside.dispatcher(queue).join(DEADLINE)  # nobody else closes it
        assert closed == [False]
        with pytest.raises(QueueClosed):
            queue.enqueue(Job())
        assert queue.get("closes").status is Status.COMPLETED

    def test_leaving_the_block_closes(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job())
        assert in_file(path, "status") == ["completed"]
        with pytest.raises(QueueClosed):
            queue.enqueue(Job())

    def test_an_exception_in_the_block_closes_too_and_goes_on(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def work() -> None:
            with open_queue(nothing, path=path) as queue:
                queue.enqueue(Job())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        assert in_file(path, "status") == ["completed"]


class TestWhoIsWoken:
    def test_blocked_producers_get_queue_closed(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1, capacity=1)
        queue.enqueue(Job("holder"))
        # Two jobs each: one place per lane, so each producer is blocked at its second.
        producers = [
            Background(queue.enqueue_many, [Job(priority=lane), Job(priority=lane)])
            for lane in Priority
        ]
        comes_true(queue, lambda: queue.metrics().queued == 3, "each producer's first job")
        closing = Background(queue.close)
        for producer in producers:
            with pytest.raises(QueueClosed, match="closed") as refused:
                producer.result()
            assert len(refused.value.accepted) == 1
        gate.open()
        assert closing.result() is True
        assert queue.metrics().completed == queue.metrics().accepted == 4

    def test_whoever_waits_for_a_job_that_does_not_end_gets_queue_closed(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue(Job("stuck"))
        waiting = [Background(queue.wait, "stuck") for _ in range(3)]
        joining = [Background(queue.join) for _ in range(3)]
        Background(queue.close, True, 0).result()
        for call in (*waiting, *joining):
            with pytest.raises(QueueClosed):
                call.result()

    def test_whoever_comes_too_late_to_wait_gets_the_record_of_a_job_that_has_ended(
        self, open_queue: OpenQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = open_queue(lambda job: gate.wait())
        queue.enqueue(Job("last"))
        look = queue.get

        def look_and_close(job_id: str) -> JobRecord:
            record = look(job_id)
            gate.open()
            queue.close()
            return record

        monkeypatch.setattr(queue, "get", look_and_close)
        assert queue.wait("last").status is Status.COMPLETED

    def test_one_whose_time_was_up_does_not_cut_the_close_short(
        self, open_queue: OpenQueue
    ) -> None:
        async def handler(job: Job) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise QueueClosed("too late to enqueue one more") from None

        queue = open_queue(handler, timeout=0.05, max_retries=0)
        queue.enqueue(Job("late"))
        assert Background(queue.close).result() is True
        assert queue.status("late") is Status.FAILED

    def test_join_does_not_say_that_a_job_has_run_which_closing_sent_back(
        self, open_queue: OpenQueue, gate: Gate, path: str
    ) -> None:
        def handler(job: Job) -> None:
            gate.wait()
            raise QueueClosed("it wanted to enqueue one more")

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue(Job("sent back"))
        joining = Background(queue.join)
        closing = Background(queue.close, False)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert closing.result() is True
        with pytest.raises(QueueClosed):
            joining.result()
        assert queue.status("sent back") is Status.QUEUED

    def test_whoever_waits_for_a_job_that_ends_in_time_gets_its_record(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1)
        queue.enqueue_many([Job("first"), Job("last")])
        waiting = [Background(queue.wait, job_id) for job_id in ("first", "last")]
        closing = Background(queue.close)
        gate.open()
        assert closing.result() is True
        # Whether they asked before the end or after it: the jobs have ended.
        assert [call.result().status for call in waiting] == [Status.COMPLETED] * 2

    def test_whoever_asks_at_that_moment_is_answered(self, open_queue: OpenQueue) -> None:
        """Between the last look into the inbox and the end nobody may be forgotten."""
        for _ in range(20):
            queue = open_queue(nothing, workers=1)
            start = threading.Barrier(5)

            def ask(queue: JobQueue = queue, start: threading.Barrier = start) -> None:
                start.wait(DEADLINE)
                with contextlib.suppress(QueueClosed):
                    while True:
                        queue.enqueue(Job())
                        queue.metrics()
                        queue.join(DEADLINE)

            asking = [Background(ask) for _ in range(4)]
            start.wait(DEADLINE)
            assert Background(queue.close).result() is True
            for thread in asking:
                thread.result()
            counts = queue.metrics()
            assert counts.completed == counts.accepted


class TestAfterwards:
    @both_places
    def test_no_job_is_accepted(self, open_queue: OpenQueue, place: str) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no")

        queue = open_queue(handler, path=place, max_retries=0)
        queue.enqueue(Job("dead"))
        queue.join(DEADLINE)
        queue.close()
        with pytest.raises(QueueClosed, match="closed"):
            queue.enqueue(Job())
        with pytest.raises(QueueClosed, match="closed"):
            queue.enqueue_many([Job()], timeout=0)
        with pytest.raises(QueueClosed, match="closed"):
            queue.retry("dead")
        assert queue.metrics().accepted == 1

    @both_places
    def test_everything_can_still_be_looked_at(self, open_queue: OpenQueue, place: str) -> None:
        queue = open_queue(lambda job: job.payload, path=place)
        queue.enqueue_many([Job("a", payload=1), Job("b", payload=2)])
        queue.close()
        counts = queue.metrics()
        assert (counts.accepted, counts.completed) == (2, 2)
        assert queue.status("a") is Status.COMPLETED
        assert queue.get("b").result == 2
        assert [record.id for record in queue.jobs(Status.COMPLETED)] == ["b", "a"]
        assert queue.dead_letters() == []
        assert queue.wait("a").result == 1

    def test_but_nothing_can_be_asked_for(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("a", run_at=3600))
        queue.close(drain=False)
        for ask in (queue.join, queue.purge, lambda: queue.wait("a"), lambda: queue.cancel("a")):
            with pytest.raises(QueueClosed, match=r"^The queue is closed\.$"):
                ask()

    @both_places
    def test_no_thread_is_left(self, open_queue: OpenQueue, place: str) -> None:
        before = set(threading.enumerate())
        queue = open_queue(nothing, path=place, workers=8)
        ours = set(threading.enumerate()) - before
        workers = {f"final-worker-{n}" for n in range(8)}
        assert {thread.name for thread in ours} == {"final-dispatcher", "final-log", *workers}
        assert all(thread.daemon for thread in ours)  # a program may end without close
        queue.enqueue_many([Job() for _ in range(20)])
        queue.close()
        assert set(threading.enumerate()) <= before

    def test_no_thread_is_left_by_a_close_that_ctrl_c_has_broken_off(
        self, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def coroutine(job: Job) -> None: ...

        before = set(threading.enumerate())
        queue = open_queue(coroutine)
        as_ever = EventLoop.call

        def interrupted(loop: EventLoop, callback: Callable[..., object], *_: object) -> None:
            monkeypatch.setattr(EventLoop, "call", as_ever)
            raise KeyboardInterrupt

        monkeypatch.setattr(EventLoop, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.close()
        assert queue.close() is True
        assert set(threading.enumerate()) <= before

    def test_no_file_is_left_open(self, open_queue: OpenQueue, path: str) -> None:
        def ours() -> list[str]:
            folder = os.path.realpath(Path(path).parent)
            return [f.path for f in psutil.Process().open_files() if f.path.startswith(folder)]

        queue = open_queue(nothing, path=path)
        completes(queue)
        assert ours() != []
        queue.close()
        queue.get(queue.jobs()[0].id)  # a look afterwards leaves nothing open either
        assert ours() == []

    def test_the_file_can_be_opened_again(self, open_queue: OpenQueue, path: str) -> None:
        for n in range(3):
            with open_queue(nothing, path=path) as queue:
                assert queue.metrics().completed == n
                assert completes(queue)

    def test_everything_is_in_the_one_file(self, open_queue: OpenQueue, path: str) -> None:
        """So it can be copied: the write-ahead log is gone."""
        with open_queue(nothing, path=path) as queue:
            completes(queue)
        left = {p.name for p in Path(path).parent.iterdir()}
        assert left - {"jobs.db.lock"} == {"jobs.db"}

    def test_a_queue_that_could_not_open_leaves_no_thread(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        before = set(threading.enumerate())
        with pytest.raises(OSError, match="is a folder"):
            open_queue(nothing, path=Path(path).parent)
        assert set(threading.enumerate()) <= before
