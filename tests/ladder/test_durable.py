"""Step 13, the durable file: its flaws are there, and what the suite does not ask for holds.

The flaws are those of docs/ladder.md, each marked ``FLAW`` in the file.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DEADLINE, Background, Gate, Journal
from tests.ladder.solutions import step13_durable as durable
from tests.ladder.solutions.step13_durable import Backoff, Job, JobQueue
from tests.ladder.steps import ROOT

# Takes the job of the file in PATH, and dies of it. So it does each time that it is started.
POISON = """
import os, sys, threading
from tests.ladder.solutions.step13_durable import Job, JobQueue
def handler(job):
    print("ran", flush=True)
    os._exit(9)
queue = JobQueue(handler, path=sys.argv[1], workers=1, max_retries=2)
try:
    queue.enqueue(Job(id="poison"))
except ValueError:
    pass
queue.close()
"""


class TestFlaws:
    def test_each_is_marked_in_the_file_and_tabled_in_the_document(self) -> None:
        page = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
        source = Path(durable.__file__).read_text(encoding="utf-8")
        marked = re.findall(r"# FLAW (D\d):", source)
        assert sorted(marked) == re.findall(r"^\| (D\d) \|", page, re.M)

    def test_d1_three_commits_for_each_job(self, path: str) -> None:
        commits: list[str] = []
        queue = JobQueue(lambda job: None, path=path)
        queue._db.set_trace_callback(commits.append)
        for _ in range(10):
            queue.enqueue(Job())
        queue.close()
        assert (
            sum(text.startswith(("INSERT", "UPDATE")) for text in commits) == 31
        )  # and one to close

    def test_d2_a_look_waits_for_whoever_writes(self, path: str, gate: Gate) -> None:
        queue = JobQueue(lambda job: None, path=path, workers=1)
        write, writing = queue._write, threading.Event()

        def slow(statement: str, values: tuple[object, ...] = ()) -> None:
            writing.set()
            gate.wait()  # a disk that takes its time
            write(statement, values)

        queue._write = slow  # type: ignore[method-assign]
        producer = Background(queue.enqueue, Job(id="a"))
        assert writing.wait(DEADLINE)
        look = Background(queue.metrics)
        with pytest.raises(AssertionError, match="had not returned"):
            look.result(0.05)
        gate.open()
        producer.result()
        look.result()
        queue.close()

    def test_d3_a_disk_that_fails_once_ends_a_worker(self, path: str, journal: Journal) -> None:
        ran = Journal()
        queue = JobQueue(lambda job: ran.write(job.id), path=path, workers=1)
        write = queue._write

        def fails_once(statement: str, values: tuple[object, ...] = ()) -> None:
            if statement.startswith("UPDATE"):
                raise sqlite3.OperationalError("disk I/O error")
            write(statement, values)

        queue._write = fails_once  # type: ignore[method-assign]
        queue.enqueue(Job())
        journal.wait_for("a worker died")
        queue._write = write  # type: ignore[method-assign]
        assert queue.close(timeout=0) is False
        assert ran.entries == []  # and the file keeps it

    def test_d4_what_has_ended_stays_in_the_file(self, path: str) -> None:
        with JobQueue(lambda job: None, path=path) as queue:
            for _ in range(20):
                queue.enqueue(Job())
        assert len(rows(path)) == 20

    def test_d5_a_closed_queue_cannot_be_asked(self, path: str) -> None:
        with JobQueue(lambda job: None, path=path) as queue:
            queue.enqueue(Job(id="a"))
        with pytest.raises(durable.QueueClosed):
            queue.status("a")


class TestPromises:
    """What a durable queue owes, and the shared suite does not ask."""

    def test_a_job_that_kills_its_process_runs_out_of_attempts(self, path: str) -> None:
        lives = [
            subprocess.run(
                [sys.executable, "-c", POISON, path],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=60,
            )
            for _ in range(4)
        ]
        assert [life.stdout.count("ran") for life in lives] == [1, 1, 1, 0]
        assert rows(path) == {"poison": ("failed", 3)}

    def test_a_job_that_close_interrupted_is_not_charged(self, path: str, gate: Gate) -> None:
        started, again = Journal(), Journal()

        def hold(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = JobQueue(hold, path=path, workers=1, max_retries=0)
        queue.enqueue(Job(id="a"))
        started.wait_for("a")
        assert queue.close(timeout=0) is False
        with JobQueue(lambda job: again.write(job.id), path=path, max_retries=0):
            again.wait_for("a")
            gate.open()  # the late outcome of the first owner is not for this file
        assert rows(path) == {"a": ("completed", 1)}

    def test_a_second_owner_is_turned_away(self, path: str) -> None:
        with (
            JobQueue(lambda job: None, path=path),
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            JobQueue(lambda job: None, path=path)

    def test_a_refused_job_passes_its_wake_up_on(self, path: str, gate: Gate) -> None:
        """One producer is woken for a place that it does not take: another must hear of it."""
        started, blocked = Journal(), Gate()

        def handler(job: Job) -> None:
            started.write(job.id)
            (gate if job.id == "held" else blocked).wait()

        queue = JobQueue(handler, path=path, workers=1, capacity=1)
        queue.enqueue(Job(id="held"))
        started.wait_for("held")
        queue.enqueue(Job(id="taken"))
        lane = queue._lanes[durable.Priority.MEDIUM]
        producers = []
        for n, job_id in enumerate(
            ("taken", "good"), start=1
        ):  # woken in the order of their waiting
            producers.append(Background(queue.enqueue, Job(id=job_id)))
            while len(lane.room._waiters) < n:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
        gate.open()
        producers[1].result()  # and the worker is held in "taken": no further place comes
        with pytest.raises(durable.DuplicateJob, match="taken"):
            producers[0].result()
        blocked.open()
        queue.close()

    def test_a_retry_stays_behind_its_peers_over_a_restart(self, path: str, gate: Gate) -> None:
        started, order, all_are_there = Journal(), Journal(), Gate()

        def handler(job: Job) -> None:
            attempt = started.write(job.id)
            if job.id == "first":
                all_are_there.wait()
            if job.id == "flaky" and attempt == 1:
                raise RuntimeError
            if job.id == "b":
                gate.wait()

        backoff = Backoff(base=0, jitter=0)
        queue = JobQueue(handler, path=path, workers=1, backoff=backoff)
        for job_id in ("first", "flaky", "a", "b", "c", "d"):
            queue.enqueue(Job(id=job_id))
        all_are_there.open()
        started.wait_for("b")
        queue.close(timeout=0)
        with JobQueue(lambda job: order.write(job.id), path=path, workers=1):
            pass
        gate.open()
        assert order.entries == ["b", "c", "d", "flaky"]

    def test_the_payload_is_a_copy(self, path: str, gate: Gate) -> None:
        got: list[Any] = []

        def handler(job: Job) -> None:
            gate.wait()
            got.append(job.payload)

        box = {"n": 1}
        with JobQueue(handler, path=path, workers=1) as queue:
            queue.enqueue(Job(payload=box))
            box["n"] = 2
            gate.open()
        assert got == [{"n": 1}]

    @pytest.mark.parametrize(
        "bad", [(1, 2), {1: 2}, float("nan"), {1}, object()], ids=lambda bad: type(bad).__name__
    )
    def test_what_the_file_would_change_is_refused(self, bad: object) -> None:
        with JobQueue(lambda job: None) as queue, pytest.raises((TypeError, ValueError)):
            queue.enqueue(Job(payload=bad))

    def test_close_tells_those_who_wait_for_a_job(self, path: str, gate: Gate) -> None:
        queue = JobQueue(lambda job: gate.wait(), path=path, workers=1)
        queue.enqueue(Job(id="a"))
        with pytest.raises(TimeoutError):
            queue.wait("a", timeout=0.01)
        waiting = Background(queue.wait, "a")
        while not queue._awaited:
            threading.Event().wait(0.001)
        queue.close(timeout=0)
        with pytest.raises(durable.QueueClosed):
            waiting.result()


def rows(path: str) -> dict[str, tuple[str, int]]:
    """Status and attempts by id, as the file has them."""
    db = sqlite3.connect(path)
    try:
        found = db.execute("SELECT id, status, attempts FROM job").fetchall()
    finally:
        db.close()
    return {job_id: (status, attempts) for job_id, status, attempts in found}
