"""Fork and exit: a forked child cannot do harm, and a program that just ends loses nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from tests.final.helpers import OpenQueue, eventually, in_file, nothing, run_child
from tests.helpers import DEADLINE

# There is no fork on Windows.
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")

SENTENCE = "This queue belongs to the process that opened it, and this is a fork of that"


@forks
class TestFork:
    def test_every_method_refuses_in_the_child(self, path: str) -> None:
        code, lines, errors = run_child("fork", path, "by using it")
        tried, rest = lines[:-5], lines[-5:]
        assert [line for line in tried if f": {SENTENCE}" not in line] == []
        assert len(tried) == 17
        assert rest[0] == "the child ended with 0"
        assert (code, errors) == (0, "")

    @pytest.mark.parametrize(
        "how",
        ["by using it", "by closing it", "by letting go of it", "by os._exit", "by sys.exit"],
    )
    def test_the_parent_does_not_notice(self, path: str, how: str) -> None:
        """Its file stays locked, its job runs on, nothing is lost; and the child says no word."""
        code, lines, errors = run_child("fork", path, how)
        *_, child, parent, stranger, closed, end = lines
        assert (child, parent) == ("the child ended with 0", "the parent has processing, queued")
        assert f"{path} is in use by process" in stranger
        assert (closed, end) == ("the parent closes: True", "and has completed, completed")
        assert (code, errors) == (0, "")
        assert in_file(path, "status, attempts") == [("completed", 1)] * 2

    @pytest.mark.parametrize("kind", ["thread", "coroutine"])
    @pytest.mark.parametrize(("how", "ended"), [("return", 0), ("sys.exit", 3), ("raise", 1)])
    def test_one_that_comes_back_from_a_handler_ends(
        self, path: str, kind: str, how: str, ended: int
    ) -> None:
        """Or it would be a worker for ever, and the handler that waits for it, too."""
        code, lines, errors = run_child("fork_in_a_handler", path, kind, how)
        assert (code, lines) == (0, [f"the fork ended with {ended}"])
        assert ("ValueError: in the fork" in errors) == (how == "raise")
        assert in_file(path, "status, attempts") == [("completed", 1)]

    def test_one_that_would_be_awaited_ends(self, path: str) -> None:
        """The event loop is not there."""
        code, lines, errors = run_child("fork_in_a_handler", path, "before a coroutine", "return")
        assert (code, lines) == (0, ["the fork ended with 1"])
        assert "RuntimeError: A fork that comes back from a handler has no event loop" in errors

    @pytest.mark.parametrize(("how", "ended"), [("return", 0), ("raise", 1)])
    def test_one_that_comes_back_from_a_subscriber_ends(
        self, path: str, how: str, ended: int
    ) -> None:
        code, lines, errors = run_child("fork_in_a_subscriber", path, how)
        assert (code, lines) == (0, [f"the fork ended with {ended}"])
        assert ("ValueError: in the fork" in errors) == (how == "raise")

    def test_nor_do_the_processes_of_its_workers(self, path: str) -> None:
        code, lines, errors = run_child("fork_beside_processes", path)
        assert lines == ["the fork ended with 0", "the process is the same: True"]
        assert (code, errors) == (0, "")


class TestExit:
    @pytest.mark.parametrize(
        "what", ["thread", "coroutine", "coroutine in a thread", "process", "subscriber"]
    )
    def test_a_program_that_just_ends_ends(
        self, open_queue: OpenQueue, path: str, what: str
    ) -> None:
        began = time.monotonic()
        code, lines, errors = run_child("leave", path, what)
        assert (code, lines, errors) == (0, ["leaving"], "")
        assert time.monotonic() - began < DEADLINE
        stored = {job_id: rest for job_id, *rest in in_file(path, "id, status, attempts")}
        assert stored["running"] == ["queued", 0], "Its attempt was charged."
        assert stored["queued"] == ["queued", 0]
        assert stored["later"] == ["scheduled", 0]
        if what == "thread":
            assert stored["failing"] == ["retrying", 1]

        if what == "process":
            pid = int(Path(path + ".pid").read_text())
            eventually(lambda: not psutil.pid_exists(pid), "the handler's process to end")
        left = {file.name for file in Path(path).parent.iterdir()}
        assert left - {"jobs.db.lock", "jobs.db.pid"} == {"jobs.db"}, "The file is not whole."

        queue = open_queue(nothing, path=path)
        assert queue.wait("running", DEADLINE).attempts == 1
        assert queue.wait("queued", DEADLINE).attempts == 1

    def test_so_does_a_process_of_the_programs_own(self, path: str) -> None:
        assert run_child("leave_processes_behind", path) == (0, ["it ended with 0"], "")

    @pytest.mark.parametrize(("what", "code"), [("exception", 1), ("sys.exit", 3)])
    def test_however_it_ends(self, path: str, what: str, code: int) -> None:
        assert run_child("leave", path, what)[0] == code
        assert dict(in_file(path, "id, attempts"))["running"] == 0

    def test_threads_that_still_work_are_waited_for(self, path: str) -> None:
        """As Python does: it ends when the last thread that is no daemon has ended."""
        assert run_child("leave_with_threads", path) == (0, ["10"], "")
        assert in_file(path, "status") == ["completed"] * 10
