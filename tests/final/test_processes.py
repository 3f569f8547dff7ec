"""Processes: a handler that crashes, hangs or is killed costs its own attempt, and no other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from final import Job, JobQueue, Status
from tests.final import process_handlers as handlers
from tests.final.helpers import AT_ONCE, OpenQueue, eventually
from tests.final.process_handlers import echo
from tests.helpers import DEADLINE, Background

LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine


@pytest.fixture
def open_process_queue(open_queue: OpenQueue) -> OpenQueue:
    def open_process_queue(handler: Any, **options: Any) -> JobQueue:
        options = {"workers": 1, "backoff": AT_ONCE} | options
        return open_queue(handler, executor="process", **options)

    return open_process_queue


def children() -> set[int]:
    """The handlers' processes (not the tracker that multiprocessing keeps beside them)."""

    def is_handlers(child: psutil.Process) -> bool:
        try:
            return "spawn_main" in " ".join(child.cmdline())
        except psutil.NoSuchProcess:  # it ended between the list and the question
            return False

    return {child.pid for child in psutil.Process().children() if is_handlers(child)}


def test_jobs_go_there_and_results_come_back(open_process_queue: OpenQueue) -> None:
    queue = open_process_queue(echo, workers=2)
    payloads = [None, 0, "text", b"\x00bytes", {"a": [1, 2.5, None]}, *range(50)]
    assert list(queue.map(payloads, timeout=LONG)) == payloads


def test_each_worker_has_one_process_for_all_its_jobs(open_process_queue: OpenQueue) -> None:
    queue = open_process_queue(handlers.process_id, workers=2)
    pids = set(queue.map(range(40), timeout=LONG))
    assert pids == children()
    assert os.getpid() not in pids
    assert len(pids) <= 2


def test_a_handler_can_ask_about_its_job(open_process_queue: OpenQueue) -> None:
    queue = open_process_queue(handlers.about_the_job, timeout=LONG)
    record = queue.wait(queue.enqueue(Job("x")), LONG)
    assert isinstance(record.result, list), record.error
    job_id, attempt, token, left, cancelled = record.result
    assert (job_id, attempt, cancelled) == ("x", 1, False)
    assert token > 0
    assert 0 < left <= LONG


class TestCrashes:
    @pytest.mark.parametrize("how", ["exit", "kill"])
    def test_a_crash_costs_that_attempt_alone(
        self, open_process_queue: OpenQueue, how: str
    ) -> None:
        queue = open_process_queue(handlers.misbehave, workers=2, max_retries=1)
        good = [Job() for _ in range(20)]
        queue.enqueue_many([*good[:10], Job("bad", payload=how), *good[10:]])
        queue.join(LONG)
        assert {(queue.get(j.id).result, queue.get(j.id).attempts) for j in good} == {("fine", 1)}
        record = queue.get("bad")
        assert (record.status, record.attempts) == (Status.FAILED, 2)
        assert str(record.error).startswith("ProcessDied: the handler's process ended before")

    def test_leaving_is_a_failure_and_no_crash(self, open_process_queue: OpenQueue) -> None:
        queue = open_process_queue(handlers.misbehave, max_retries=0)
        queue.wait(queue.enqueue(Job()), LONG)
        before = children()
        record = queue.wait(queue.enqueue(Job(payload="leave")), LONG)
        assert record.error == "SystemExit: leaving"
        assert children() == before


class TestWhatCannotBePickled:
    def test_an_exception_fails_its_attempt_with_its_own_words(
        self, open_process_queue: OpenQueue
    ) -> None:
        queue = open_process_queue(handlers.misbehave, max_retries=0)
        queue.enqueue(Job("x", payload="exception that cannot be pickled"))
        assert str(queue.wait("x", LONG).error).endswith("Unpicklable: I am unpicklable")
        assert "in misbehave" in queue.attempts("x")[0].traceback

    def test_a_result_is_not_kept_and_the_job_completes(
        self, open_process_queue: OpenQueue
    ) -> None:
        queue = open_process_queue(handlers.misbehave)
        queue.enqueue(Job("x", payload="result that cannot be pickled"))
        record = queue.wait("x", LONG)
        assert (record.status, record.attempts, record.result) == (Status.COMPLETED, 1, None)
        assert "The job completed; its result is not kept." in str(record.error)

    def test_a_handler_is_refused_in_a_sentence(self) -> None:
        with pytest.raises(
            ValueError, match=r"handler cannot be sent to another process .*top level of a module"
        ):
            JobQueue(lambda job: None, executor="process")
        with pytest.raises(ValueError, match="handler of kind 'b' cannot be sent to another proce"):
            JobQueue({"a": echo, "b": lambda job: None}, executor="process")

    def test_a_coroutine_function_is_refused_in_a_sentence(self) -> None:
        async def handler(job: Job) -> None: ...

        with pytest.raises(ValueError, match="is a coroutine function: use executor='thread'"):
            JobQueue(handler, executor="process")

    def test_what_is_refused_leaves_no_process_behind(self) -> None:
        before = children()
        with pytest.raises(ValueError, match="cannot be sent"):
            JobQueue({"a": echo, "b": lambda job: None}, executor="process")
        assert children() == before


class TestTimeouts:
    def test_a_late_process_is_killed_and_its_job_tried_again(
        self, open_process_queue: OpenQueue, tmp_path: Path
    ) -> None:
        note = tmp_path / "pid"
        # Time enough for the first attempt to get as far as its note.
        queue = open_process_queue(handlers.hang_at_first, timeout=0.5)
        record = queue.wait(queue.enqueue(Job("x", payload=str(note))), LONG)
        assert (record.status, record.result) == (Status.COMPLETED, "attempt 2")
        [attempt] = queue.attempts("x")
        assert attempt.error == "TimeoutError: the attempt took longer than 0.5 s."
        eventually(lambda: not psutil.pid_exists(int(note.read_text())), "the process to end")

    def test_the_start_of_the_process_takes_nothing_of_a_jobs_time(
        self, open_process_queue: OpenQueue
    ) -> None:
        """Or a job with less time than a start takes would never succeed."""
        queue = open_process_queue(echo, max_retries=0)
        record = queue.wait(queue.enqueue(Job(payload="quick", timeout=0.1)), LONG)
        assert (record.status, record.result) == (Status.COMPLETED, "quick")

    def test_cancel_kills_for_real(self, open_process_queue: OpenQueue, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        queue = open_process_queue(handlers.hang_at_first)
        queue.enqueue(Job("x", payload=str(note)))
        eventually(lambda: note.exists() and note.read_text() != "", "the handler to start")
        assert queue.cancel("x") is True
        assert queue.wait("x", LONG).status is Status.CANCELLED
        eventually(lambda: not psutil.pid_exists(int(note.read_text())), "the process to end")


class TestTheEnd:
    def test_closing_ends_all_processes(self, open_process_queue: OpenQueue) -> None:
        before = children()
        queue = open_process_queue(echo, workers=2)
        list(queue.map(range(20), timeout=LONG))
        assert children() > before
        assert Background(queue.close).result() is True
        assert children() == before

    def test_closing_late_ends_busy_ones_too(
        self, open_process_queue: OpenQueue, tmp_path: Path
    ) -> None:
        before, note = children(), tmp_path / "pid"
        queue = open_process_queue(handlers.hang_at_first)
        queue.enqueue(Job("x", payload=str(note)))
        eventually(lambda: note.exists() and note.read_text() != "", "the handler to start")
        assert Background(queue.close, True, 0).result() is False
        assert children() == before
        assert queue.get("x").attempts == 0

    def test_closing_while_one_starts_leaves_none(self, open_process_queue: OpenQueue) -> None:
        before = children()
        queue = open_process_queue(echo)
        queue.enqueue(Job())
        eventually(lambda: children() > before, "a process to start")
        Background(queue.close, True, 0).result()
        eventually(lambda: children() == before, "the process to end")
