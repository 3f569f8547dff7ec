"""What the tests of ``final`` share: fast retries, a look into the file, processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from final import Backoff, Job, JobQueue, QueueClosed, Status
from final.options import Options
from tests.final import inside
from tests.helpers import DEADLINE, Background, Journal
from tests.helpers import eventually as eventually  # for those who have the rest from here

ROOT = Path(__file__).parents[2]
POSIX = os.name == "posix"

# Makes a queue that is closed after the test: see the fixture of the same name.
OpenQueue = Callable[..., JobQueue]

# Makes one whose only worker is busy, and a journal of starts: see the fixture ``held_up``.
HeldUp = Callable[..., tuple[JobQueue, Journal]]

AT_ONCE = Backoff(base=0, jitter=0)
NOT_TODAY = Backoff(base=86_400, maximum=86_400, jitter=0)


def nothing(job: Job) -> None:
    """A handler with nothing to do."""


def completes(queue: JobQueue, job: Job | None = None) -> bool:
    """Whether a job that is enqueued now runs to its end: the queue works."""
    job_id = queue.enqueue(job or Job(), timeout=DEADLINE)
    return queue.wait(job_id, DEADLINE).status is Status.COMPLETED


def is_closing(queue: JobQueue) -> bool:
    """Whether ``queue`` has begun to close, so that it takes nothing from outside any more."""
    try:
        queue.retry_all("a kind that nothing has")  # a dead letter of the test stays one
    except QueueClosed:
        return True
    return False


def reaches(queue: JobQueue, job_id: str, status: Status) -> None:
    """Wait until the job has this status; ``JobQueue.wait`` waits for its end alone."""
    comes_true(queue, lambda: queue.status(job_id) is status, f"{job_id} to be {status}")


def comes_true(queue: JobQueue, condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds, which is looked at whenever a job of ``queue`` moves on."""
    moved = threading.Event()
    unsubscribe = queue.subscribe(lambda _: moved.set())
    try:
        while not condition():
            assert moved.wait(DEADLINE), f"Waited {DEADLINE:.0f} s for {what}."
            moved.clear()
    finally:
        unsubscribe()


def learn_that_jobs_are_quick(queue: JobQueue, payload: object = None) -> None:
    """Run jobs that take no time, until ``queue`` hands out many of them at a time."""
    deadline = time.monotonic() + DEADLINE
    while completes(queue, Job(payload=payload)) and inside.cost(queue) > 1e-4:
        assert time.monotonic() < deadline, f"{inside.cost(queue)} s for a job that does nothing"


def nested(levels: int) -> list[Any]:
    """Lists in lists."""
    inside: list[Any] = []
    for _ in range(levels - 1):
        inside = [inside]
    return inside


def plain(value: object) -> str:
    """A name for a parameter, without backslashes: not every tool hands those on as they are."""
    return ascii(value).replace("\\", "")


def in_file(path: str, columns: str, table: str = "job") -> list[Any]:
    """What the file of a closed queue says of its jobs, in the order they were accepted."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {columns} FROM {table} ORDER BY seq").fetchall()
    return [row[0] if len(row) == 1 else row for row in rows]


def fall_due(path: str, seconds: float = 0.0) -> None:
    """Let all scheduled jobs of a closed queue be due so many seconds from now."""
    if path.startswith("postgresql:"):
        import psycopg

        from final.ledger.postgres.address import parse

        place = parse(path)
        statement = f"UPDATE {place.schema}.job SET due_at = now() + %s * interval '1 second'"
        with psycopg.connect(place.dsn) as database:
            database.execute(f"{statement} WHERE status = 'scheduled'".encode(), (seconds,))
        return
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE job SET due_at = ? WHERE status = 'scheduled'", (time.time() + seconds,)
        )


@contextlib.contextmanager
def child(
    scenario: str, *arguments: object, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``scenario`` of ``tests/final/children.py``; killed at the end."""
    command = [sys.executable, "-m", "tests.final.children", scenario, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # SIGKILL; on Windows TerminateProcess, which is as sudden


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line that the child prints."""
    assert process.stdout
    line = Background(process.stdout.readline).result(3 * DEADLINE)
    assert line, "The child ended without another line."
    return str(line).rstrip("\n")


def run_child(scenario: str, *arguments: object) -> tuple[int, list[str], str]:
    """Let a child run to its end: its exit code, its lines, and what it said on stderr."""
    with child(scenario, *arguments, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=3 * DEADLINE)
    return process.returncode, output.splitlines(), errors


def options(**chosen: Any) -> Options:
    """The options of a JobQueue: what is chosen, and the defaults."""
    return Options(**{**_defaults(), **chosen})


@functools.cache
def _defaults() -> dict[str, Any]:
    signature = inspect.signature(JobQueue.__init__)
    known = {field.name for field in dataclasses.fields(Options)}
    return {n: p.default for n, p in signature.parameters.items() if n in known}
