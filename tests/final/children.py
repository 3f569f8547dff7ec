"""Processes for tests that need one of their own: ``python -m tests.final.children NAME ...``.

Each function below is one: it prints lines for the test to read, and whoever wants it
to go on or to end says so on its standard input, or kills it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time

import psutil

from final import Job, JobQueue, StorageError
from tests.final.helpers import AT_ONCE, nothing
from tests.helpers import DEADLINE


def say(line: object) -> None:
    print(line, flush=True)


def wait_for_parent() -> None:
    """Until the parent writes a line, or ends."""
    sys.stdin.readline()


def own(path: str) -> None:
    """Opens a file and keeps it."""
    with JobQueue(nothing, path=path) as queue:
        queue.wait(queue.enqueue(Job("mine")), DEADLINE)
        say("open")
        wait_for_parent()


def unprivileged(path: str) -> None:
    """Opens a file without the rights of root, for whom everything is writable."""
    with tempfile.TemporaryDirectory() as folder, JobQueue(nothing, path=f"{folder}/jobs.db"):
        pass  # now all modules are loaded: "nobody" may not read where they are installed
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)  # "nobody", nearly everywhere; in any case not root
    try:
        JobQueue(nothing, path=path)
    except StorageError as error:
        say(error)
    else:
        say("It could be opened.")


def busy(path: str) -> None:
    """Works on a job that does not end, with others behind it."""
    started = threading.Event()

    def handler(job: Job) -> None:
        started.set()
        threading.Event().wait()  # for ever

    queue = JobQueue(handler, path=path, workers=1)
    queue.enqueue_many([Job("in flight"), Job("queued"), Job("too")])
    started.wait(DEADLINE)
    say("busy")
    wait_for_parent()
    os._exit(1)


def crash(path: str, killers: str) -> None:
    """Works on eight jobs at once, of which some end the process; to be started until it ends."""

    def handler(job: Job) -> None:
        if job.payload == "killer":
            psutil.Process().kill()
        time.sleep(0.05)  # its work; the killers are quicker

    queue = JobQueue(handler, path=path, workers=8, max_retries=3, backoff=AT_ONCE)
    if not queue.jobs():
        names = ["killer"] * int(killers) + ["innocent"] * (8 - int(killers))
        queue.enqueue_many([Job(f"{name}-{n}", payload=name) for n, name in enumerate(names)])
    queue.join(DEADLINE)
    queue.close()


def full_disk(path: str) -> None:
    """Works on a file that cannot grow for a while: the system refuses every longer write.

    There is room again when it reads a line.
    """
    import resource  # not on Windows

    started, gate, ran = threading.Event(), threading.Event(), []

    def handler(job: Job) -> str:
        ran.append(job.id)
        if job.id == "in flight":
            started.set()
            gate.wait(DEADLINE)
        return "done"

    queue = JobQueue(handler, path=path, workers=2)
    queue.wait(queue.enqueue(Job("before")), DEADLINE)
    queue.enqueue(Job("in flight"))
    started.wait(DEADLINE)
    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = os.path.getsize(path + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, no_limit[1]))  # no write beyond this

    gate.set()  # its outcome cannot be recorded
    for job_id in ("refused", "refused too"):
        try:
            queue.enqueue(Job(job_id))
        except StorageError as error:
            say(error)
    counts = queue.metrics()
    say(counts.storage_error)
    say(f"{counts.accepted} accepted, {counts.completed} completed")
    say(queue.status("in flight"))
    wait_for_parent()
    resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
    say(queue.wait("in flight", DEADLINE).status)
    say(queue.metrics().storage_error)
    queue.enqueue(Job("refused"))
    say(queue.wait("refused", DEADLINE).status)
    say(queue.close())
    say(" ".join(ran))


def no_disk(path: str) -> None:
    """Opens a file where not a byte can be written."""
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        JobQueue(nothing, path=path)
    except StorageError as error:
        say(error)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
