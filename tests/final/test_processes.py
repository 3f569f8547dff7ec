"""Processes: a handler that crashes, hangs or is killed costs its own attempt, and no other."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import final.workers.child_process
from final import Job, JobQueue, Kind, Status
from final.workers.child_process import Process
from tests.final import inside
from tests.final import process_handlers as handlers
from tests.final.helpers import AT_ONCE, POSIX, ROOT, OpenQueue, child, eventually, next_line
from tests.final.process_handlers import echo
from tests.helpers import DEADLINE, Background, Gate, Journal

LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine

posix = pytest.mark.skipif(not POSIX, reason="This system has no such signals, and no fork.")


@pytest.fixture
def open_process_queue(open_queue: OpenQueue) -> OpenQueue:
    def open_process_queue(handler: Any, **options: Any) -> JobQueue:
        options = {"workers": 1, "backoff": AT_ONCE} | options
        return open_queue(handler, executor="process", **options)

    return open_process_queue


def children(program: int | None = None) -> set[int]:
    """The handlers' processes, of this program by default.

    (Not the tracker that multiprocessing keeps beside them.)
    """

    def is_handlers(child: psutil.Process) -> bool:
        try:
            return "spawn_main" in " ".join(child.cmdline())
        except psutil.NoSuchProcess:  # it ended between the list and the question
            return False

    return {child.pid for child in psutil.Process(program).children() if is_handlers(child)}


def test_jobs_go_there_and_results_come_back(open_process_queue: OpenQueue) -> None:
    queue = open_process_queue(echo, workers=2)
    payloads = [None, 0, "text", b"\x00bytes", {"a": [1, 2.5, None]}, *range(50)]
    assert list(queue.map(payloads, timeout=LONG)) == payloads


def test_a_job_of_a_class_of_ones_own_comes_as_a_job(open_process_queue: OpenQueue) -> None:
    """That class need not be there, and may not even have a way to get there."""

    class Mail(Job):
        pass

    class Seconds(float):
        pass

    queue = open_process_queue(handlers.type_of_its_job)
    for job in (Mail("mail"), Job("seconds", timeout=Seconds(LONG))):
        record = queue.wait(queue.enqueue(job), LONG)
        assert (record.result, record.attempts) == ("Job", 1)


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


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Path]:
    """Where a process that may be left over writes its number; it is gone after the test."""
    note = tmp_path / "note"
    yield note
    if note.exists():
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(int(note.read_text())).kill()


# A module that does something when it is imported, but not here.
Module = Callable[[str], Any]


@pytest.fixture
def module_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    def module_that(statements: str) -> Any:
        source = "import multiprocessing, os, threading\nfrom final import JobQueue\n"
        source += f"if multiprocessing.parent_process(): {statements}\ndef handler(job): pass\n"
        name = f"does_{abs(hash(statements))}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(name)

    return module_that


class TestCrashes:
    @pytest.mark.parametrize("how", ["exit", "kill", "close all files", "write into all sockets"])
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


class TestBeforeTheHandlerBegins:
    """No attempt is charged for what happens then, and what keeps it from beginning is named."""

    @pytest.mark.parametrize("how", ["killed", "stopped", "killed as its job comes"])
    def test_a_process_that_died_idle_is_replaced(
        self, open_process_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        queue = open_process_queue(handlers.process_id, max_retries=0)
        pid: Any = queue.wait(queue.enqueue(Job()), LONG).result
        idle = psutil.Process(pid)
        if how == "stopped":
            monkeypatch.setattr(final.workers.child_process, "ANSWER_SECONDS", 0.1)
            idle.suspend()
        else:
            idle.kill()
        if how == "killed as its job comes":
            monkeypatch.setattr(Process, "answers", lambda self: True)
        record = queue.wait(queue.enqueue(Job()), LONG)
        assert (record.status, record.attempts, record.error) == (Status.COMPLETED, 1, None)
        assert record.result != idle.pid
        assert gone(idle.pid)

    @pytest.mark.parametrize(
        ("statements", "error"),
        [
            ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
            (
                "os._exit(0)",
                "ProcessDied: the process of a worker ended with exit code 0 while it",
            ),
            ("os.abort()", "ProcessDied: 3 processes in a row ended before the handler had begun"),
            (
                "JobQueue(print, executor='process')",
                "RuntimeError: A module with handlers opens a queue when it is imported",
            ),
        ],
    )
    def test_what_happens_at_the_import_is_the_error(
        self, open_process_queue: OpenQueue, module_that: Module, statements: str, error: str
    ) -> None:
        queue = open_process_queue(module_that(statements).handler, max_retries=0, timeout=DEADLINE)
        record = queue.wait(queue.enqueue(Job("x")), LONG)
        assert str(record.error).startswith(error)
        if "Process" not in error:
            assert statements in queue.attempts("x")[0].traceback

    def test_a_start_that_hangs_is_bounded_by_a_time_of_its_own(
        self,
        open_process_queue: OpenQueue,
        module_that: Module,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before = children()
        monkeypatch.setattr(final.workers.child_process, "START_SECONDS", 0.5)
        handler = module_that("threading.Event().wait()").handler
        queue = open_process_queue(handler, timeout=0.01, max_retries=0)
        record = queue.wait(queue.enqueue(Job()), LONG)
        assert str(record.error).startswith(
            "TimeoutError: the process for the handler was not ready after 0.5 s"
        )
        assert children() == before

    def test_closing_does_not_wait_for_one_that_hangs(
        self, open_process_queue: OpenQueue, module_that: Module, note: Path
    ) -> None:
        before = children()
        statements = f"open({str(note)!r}, 'w').write(str(os.getpid())); threading.Event().wait()"
        queue = open_process_queue(module_that(statements).handler)
        queue.enqueue(Job("x"))
        eventually(note.exists, "the import to begin")
        assert Background(queue.close, True, 0).result() is False
        assert children() == before
        assert queue.get("x").attempts == 0

    def test_a_program_without_its_guard_is_told_so_and_runs_no_job_twice(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "program.py").write_text(
            "from final import Job, JobQueue\n"
            "open('runs', 'a').write('x')\n"
            "def handler(job): pass\n"
            "with JobQueue(handler, executor='process', workers=1) as queue:\n"
            "    ids = queue.enqueue_many([Job() for _ in range(3)])\n"
            "    for job_id in ids:\n"
            "        record = queue.wait(job_id)\n"
            "        print(record.attempts, record.error)\n",
            encoding="utf-8",
        )
        program = subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=LONG,
        )
        lines = program.stdout.splitlines()
        assert len(lines) == 3
        for line in lines:
            assert line.startswith("1 RuntimeError: executor='process' needs `if __name__ == \"__m")
        assert "Traceback" not in program.stderr
        assert (tmp_path / "runs").read_text() == "xx"  # once, and once to find the handlers


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
        queue = open_process_queue(handlers.hang_at_first, timeout=0.5, max_retries=100)
        record = queue.wait(queue.enqueue(Job("x", payload=str(note))), LONG)
        # The second, unless the machine is so busy that it is late as well.
        assert (record.status, record.attempts >= 2) == (Status.COMPLETED, True)
        assert record.result == f"attempt {record.attempts}"
        errors = {attempt.error for attempt in queue.attempts("x")}
        assert errors == {"TimeoutError: the attempt took longer than 0.5 s."}
        eventually(lambda: not psutil.pid_exists(int(note.read_text())), "the process to end")

    def test_the_start_of_the_process_takes_nothing_of_a_jobs_time(
        self, open_process_queue: OpenQueue, module_that: Module
    ) -> None:
        """Or a job with less time than a start takes would never succeed."""
        handler = module_that("__import__('time').sleep(1.1)").handler
        queue = open_process_queue(handler, max_retries=0)
        record = queue.wait(queue.enqueue(Job(timeout=1.0)), LONG)
        assert (record.status, record.error) == (Status.COMPLETED, None)

    def test_cancel_kills_for_real(self, open_process_queue: OpenQueue, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        queue = open_process_queue(handlers.hang_at_first)
        queue.enqueue(Job("x", payload=str(note)))
        eventually(lambda: note.exists() and note.read_text() != "", "the handler to start")
        assert queue.cancel("x") is True
        assert queue.wait("x", LONG).status is Status.CANCELLED
        eventually(lambda: not psutil.pid_exists(int(note.read_text())), "the process to end")

    def test_one_that_is_cancelled_while_its_process_starts_is_not_charged(
        self, open_process_queue: OpenQueue
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            queue = open_process_queue(handlers.ReadyBy(server.getsockname()))
            queue.enqueue(Job("x"))
            server.settimeout(LONG)
            line, _ = server.accept()
            assert queue.cancel("x") is True
            line.close()
        record = queue.wait("x", LONG)
        assert (record.status, record.attempts) == (Status.CANCELLED, 0)

    def test_one_that_is_told_before_it_could_be_heard_is_killed(
        self, open_process_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, gate: Gate
    ) -> None:
        """The worker stands still where it has the job, and nothing yet to stop it with."""
        there, enter = Journal(), Process.enter_attempt

        def enter_slowly(process: Process) -> Callable[[], None]:
            there.write("there")
            gate.wait()
            return enter(process)

        monkeypatch.setattr(Process, "enter_attempt", enter_slowly)
        queue = open_process_queue(handlers.hang_for_ever)
        queue.enqueue(Job("x"))
        there.wait_for("there")
        assert queue.cancel("x") is True
        gate.open()
        assert queue.wait("x", LONG).status is Status.CANCELLED


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


class TestKills:
    def test_a_kill_that_comes_late_ends_no_other_attempt(self) -> None:
        """Step by step, what a time-out or a cancel does that comes as its attempt ends."""
        process = Process(1000)
        try:
            assert process.meet(pickle.dumps({"": echo})) is None
            late = process.enter_attempt()
            assert process.leave_attempt() is True
            late()
            in_time = process.enter_attempt()
            late()
            assert process.answers()
            in_time()
            assert process.leave_attempt() is False, "It serves nobody else."
            assert not process.answers()
        finally:
            process.end()

    def test_no_job_pays_for_the_one_before(self, open_process_queue: OpenQueue) -> None:
        """Cancels at every moment of short jobs, with a job behind each."""
        queue = open_process_queue(echo, max_retries=0)
        queue.wait(queue.enqueue(Job()), LONG)
        for n in range(8):
            queue.enqueue_many([Job(f"{n}"), Job(f"{n} next")])
            for _ in range(n):
                queue.status(f"{n}")  # takes a moment
            queue.cancel(f"{n}")
            record = queue.wait(f"{n} next", LONG)
            assert (record.status, record.attempts) == (Status.COMPLETED, 1), record.error
            assert queue.wait(f"{n}", LONG).status in (Status.COMPLETED, Status.CANCELLED)


@posix
class TestSignals:
    def test_those_for_the_group_reach_the_program_alone(self, path: str, note: Path) -> None:
        """Ctrl-C, and the SIGTERM of whoever stops a service, while a process starts and works."""
        both = (signal.SIGINT, signal.SIGTERM)
        seen: set[int] = set()

        def has_begun() -> bool:
            for process in children(program.pid):
                seen.add(process)
                for number in both:
                    os.kill(process, number)
            return note.exists()

        with child("in_a_group", path, note, stderr=subprocess.PIPE) as program:
            assert next_line(program) == "enqueued"
            eventually(has_begun, "the handler to begin")
            assert len(seen) == 1
            for number in both:
                os.killpg(program.pid, number)
                assert next_line(program) == f"signal {number:d}"
            (note.parent / "go").touch()
            output, errors = program.communicate("end\n", timeout=LONG)
        assert output == "completed, attempt 1, None\n"
        assert (program.returncode, errors) == (0, "")

    def test_processes_end_with_the_program_however_it_ends(self, path: str, note: Path) -> None:
        with child("with_processes", path, note) as program:
            idle = int(next_line(program))
            eventually(note.exists, "the handler to begin")
            program.kill()
        for number in (idle, int(note.read_text())):
            eventually(partial(gone, number), "the process to end")

    def test_a_crash_is_seen_whatever_the_handler_has_forked(
        self, open_process_queue: OpenQueue, note: Path
    ) -> None:
        queue = open_process_queue({"crash": handlers.fork_and_crash, "fine": echo}, max_retries=0)
        crash = queue.enqueue(Job(payload=str(note), kind="crash"))
        assert str(queue.wait(crash, LONG).error).startswith("ProcessDied")
        assert queue.wait(queue.enqueue(Job(kind="fine")), LONG).status is Status.COMPLETED

    def test_a_fork_is_nobodys_process(self, open_process_queue: OpenQueue) -> None:
        queue = open_process_queue(
            {"return": handlers.fork_and_return, "terminate": handlers.fork_and_terminate}
        )
        returned = queue.wait(queue.enqueue(Job(kind="return")), LONG)
        assert (returned.result, returned.attempts) == ("from the process", 1)
        ended = queue.wait(queue.enqueue(Job(kind="terminate")), LONG)
        assert ended.result == [-signal.SIGTERM] * 20


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

    def test_that_of_a_worker_that_was_given_up_ends_with_it(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        before = children()
        late = Kind(lambda job: gate.wait(), timeout=0.1, max_retries=0)
        both = {"late": late, "here": Kind(echo, executor="process")}
        queue = open_queue(both, workers=1)
        queue.wait(queue.enqueue(Job(kind="here")), LONG)
        assert children() > before
        assert queue.wait(queue.enqueue(Job(kind="late")), LONG).status is Status.FAILED
        gate.open()
        eventually(lambda: children() == before, "its process to end")
        eventually(lambda: not inside.processes(queue), "it to be forgotten")

    def test_what_a_process_does_at_its_end_is_done(
        self, open_process_queue: OpenQueue, tmp_path: Path
    ) -> None:
        queue = open_process_queue(handlers.leave_at_exit)
        queue.enqueue(Job(payload=str(tmp_path / "done")))
        assert Background(queue.close).result(LONG) is True
        assert (tmp_path / "done").exists()

    def test_a_thread_that_a_handler_has_left_is_not_waited_for_for_ever(
        self, open_process_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = children()
        monkeypatch.setattr(final.workers.child_process, "GRACE_SECONDS", 0.1)
        queue = open_process_queue(handlers.leave_a_thread)
        queue.enqueue(Job())
        assert Background(queue.close).result(LONG) is True
        assert children() == before
