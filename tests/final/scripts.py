"""Programs that leave without ``close``, fork, or are killed: ``python -m tests.final.scripts``.

Like ``tests/final/children.py``: each function is one; it prints lines for the test to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from final import Job, JobQueue, StorageError
from tests.final.helpers import NOT_TODAY, ROOT, nothing
from tests.final.process_handlers import hang_at_first
from tests.helpers import DEADLINE, Gate, Journal


@contextlib.contextmanager
def script(scenario: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``scenario`` of this file; killed at the end."""
    command = [sys.executable, "-m", "tests.final.scripts", scenario, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # SIGKILL; on Windows TerminateProcess, which is as sudden


def run_script(scenario: str, *arguments: object) -> tuple[int, list[str], str]:
    """Let a script run to its end: its exit code, its lines, and what it said on stderr."""
    with script(scenario, *arguments) as process:
        output, errors = process.communicate(timeout=3 * DEADLINE)
    return process.returncode, output.splitlines(), errors


def say(line: object) -> None:
    print(line, flush=True)


def hang(path: str, *ids: str) -> None:
    """Works on these jobs at once, until it is killed; they are there from the second time on."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        Journal().wait_for("the end")

    # Recovered jobs that were interrupted twice run one at a time, those of one time side by side.
    queue = JobQueue(handler, path=path, workers=len(ids))
    if not queue.jobs():
        queue.enqueue_many([Job(job_id) for job_id in ids])
    started.wait_for_count(len(ids))
    say("all hang")
    Journal().wait_for("the end")


def schedule(path: str) -> None:
    """Schedules a job for soon, and is killed."""
    queue = JobQueue(nothing, path=path)
    queue.enqueue(Job("x", run_at=1.0))
    say(queue.get("x").due_at)
    Journal().wait_for("the end")


def fork(path: str, how: str) -> None:
    """Forks while a job runs; the child tries everything, and leaves in one of several ways."""
    started, gate = Journal(), Gate()

    def handler(job: Job) -> None:
        started.write(job.id)
        gate.wait()

    queue = JobQueue(handler, path=path, workers=1)
    queue.enqueue_many([Job("running"), Job("queued")])
    started.wait_for("running")
    warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, from 3.12 on
    if (child := os.fork()) == 0:
        if how == "by using it":
            use_everything(queue)
        if how == "by closing it":
            with contextlib.suppress(RuntimeError), queue:
                pass
        if how == "by letting go of it":
            del queue, handler
            gc.collect()
        if how == "by os._exit":
            os._exit(0)
        sys.exit()  # all that Python does at the end, in the child
    say(f"the child ended with {os.waitpid(child, 0)[1]}")
    say(f"the parent has {queue.status('running')}, {queue.status('queued')}")
    say(f"a stranger is told: {run_script('open_it', path)[1]}")
    gate.open()
    say(f"the parent closes: {queue.close()}")
    say(f"and has {queue.status('running')}, {queue.status('queued')}")


def open_it(path: str) -> None:
    """Says what comes of opening a file."""
    try:
        JobQueue(nothing, path=path)
    except StorageError as error:
        say(error)
    else:
        say("It could be opened.")


def use_everything(queue: JobQueue) -> None:
    calls: list[tuple[str, Callable[[], object]]] = [
        ("enqueue", lambda: queue.enqueue(Job())),
        ("enqueue_many", lambda: queue.enqueue_many([Job()])),
        ("map", lambda: list(queue.map([1]))),
        ("cancel", lambda: queue.cancel("queued")),
        ("retry", lambda: queue.retry("queued")),
        ("retry_all", queue.retry_all),
        ("purge", queue.purge),
        ("status", lambda: queue.status("queued")),
        ("get", lambda: queue.get("queued")),
        ("jobs", queue.jobs),
        ("attempts", lambda: queue.attempts("queued")),
        ("dead_letters", queue.dead_letters),
        ("wait", lambda: queue.wait("queued")),
        ("join", queue.join),
        ("metrics", queue.metrics),
        ("close", queue.close),
        ("leaving the block", lambda: queue.__exit__(None, None, None)),
    ]
    for name, call in calls:
        try:
            call()
        except RuntimeError as error:
            say(f"{name}: {error}")
        else:
            say(f"{name} worked in the child")


def leave(path: str, what: str) -> None:
    """Ends without ``close``, with jobs in all states."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        if job.id == "failing":
            raise ValueError("no")
        if job.id == "running":
            threading.Event().wait()

    async def coroutine(job: Job) -> None:
        started.write(job.id)
        if job.id == "running":
            await asyncio.sleep(3600)

    logging.disable()
    options: dict[str, Any] = {"path": path, "workers": 1, "backoff": NOT_TODAY}
    if what == "process":
        queue = JobQueue(hang_at_first, executor="process", **options)
    else:
        queue = JobQueue(coroutine if what == "coroutine" else handler, **options)
    if what == "subscriber":
        queue.subscribe(lambda transition: threading.Event().wait())
    note = path + ".pid"
    if what != "process":
        queue.wait(queue.enqueue(Job("done")), DEADLINE)
    if what == "thread":
        queue.enqueue(Job("failing"))
        started.wait_for("failing")
    queue.enqueue_many([Job("running", payload=note), Job("queued"), Job("later", run_at=3600)])
    if what == "process":
        while not os.path.exists(note) or not os.path.getsize(note):
            pass
    else:
        started.wait_for("running")
    if what == "exception":
        raise ZeroDivisionError("on purpose")
    if what == "sys.exit":
        sys.exit(3)
    say("leaving")


def leave_with_threads(path: str) -> None:
    """The main thread ends first; another one, which is no daemon, still has work to hand in."""
    queue = JobQueue(nothing, path=path)

    def produce() -> None:
        threading.main_thread().join()
        queue.enqueue_many([Job(str(n)) for n in range(10)])
        queue.join(DEADLINE)
        say(queue.metrics().completed)

    threading.Thread(target=produce).start()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
