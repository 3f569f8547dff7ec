"""Processes for tests that need one of their own: ``python -m tests.final.children NAME ...``.

Each function below is one: it prints lines for the test to read, and whoever wants it
to go on or to end says so on its standard input, or kills it. ``child`` and ``run_child``
of ``tests/final/helpers.py`` start them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import psutil

import final.engine.dispatcher
from final import (
    Every,
    Job,
    JobQueue,
    Kind,
    Snooze,
    Status,
    StorageError,
    Transition,
    current_job,
)
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.final import inside
from tests.final.helpers import AT_ONCE, NOT_TODAY, eventually, nothing, run_child
from tests.final.process_handlers import compute, hang_at_first, process_id, until_told
from tests.helpers import DEADLINE, Gate, Journal


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")  # one write: print() makes two, and workers get in between
    sys.stdout.flush()


def wait_for_parent() -> None:
    """Until the parent writes a line, or ends."""
    sys.stdin.readline()


def open_it(path: str) -> None:
    """Says what comes of opening a file."""
    try:
        JobQueue(nothing, path=path)
    except StorageError as error:
        say(error)
    else:
        say("It could be opened.")


def own(path: str) -> None:
    """Opens a file and keeps it."""
    with JobQueue(nothing, path=path) as queue:
        queue.wait(queue.enqueue(Job("mine")), DEADLINE)
        say("open")
        wait_for_parent()


def periodic(path: str) -> None:
    """Has a job every 50 ms, and makes up for all that were missed; says which it runs."""
    every = Every(0.05, Job(), name="often", missed="all")
    with JobQueue(lambda job: say(job.id), path=path, periodic=[every]):
        wait_for_parent()


def unprivileged(path: str) -> None:
    """Opens a file without the rights of root, for whom everything is writable."""
    with tempfile.TemporaryDirectory() as folder, JobQueue(nothing, path=f"{folder}/jobs.db"):
        pass  # now all modules are loaded: "nobody" may not read where they are installed
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)  # "nobody", nearly everywhere; in any case not root
    open_it(path)


def busy(path: str) -> None:
    """Works on a job that does not end, with others behind it."""
    started = threading.Event()

    def handler(job: Job) -> None:
        started.set()
        threading.Event().wait()  # for ever

    queue = JobQueue(handler, path=path, workers=1)
    if not queue.jobs():
        queue.enqueue_many([Job("in flight"), Job("queued"), Job("too")])
    started.wait(DEADLINE)
    say("busy")
    wait_for_parent()
    os._exit(1)


def snoozes(path: str) -> None:
    """Runs a job that is put off, and says so."""

    def handler(job: Job) -> None:
        raise Snooze(0.5)

    queue = JobQueue(handler, path=path, workers=1)
    queue.enqueue(Job("x"))
    eventually(lambda: queue.status("x") is Status.SCHEDULED, "the job to be put off")
    say("scheduled")
    wait_for_parent()


def says_how_far(path: str) -> None:
    """Runs a job that says how far it is, and never ends."""

    def handler(job: Job) -> None:
        current_job().progress(0.4, "page 4")
        threading.Event().wait()  # for ever

    queue = JobQueue(handler, path=path, workers=1)
    queue.enqueue(Job("x"))
    eventually(lambda: queue.get("x").progress is not None, "the progress")
    say("kept")
    wait_for_parent()


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


def crash_by_kind(path: str) -> None:
    """Runs two jobs that end the process, one after the other; to be started until it ends."""

    def kill(job: Job) -> None:
        say(job.kind)
        psutil.Process().kill()

    kinds = {"delicate": Kind(kill, max_retries=0), "sturdy": Kind(kill, max_retries=3)}
    queue = JobQueue(kinds, path=path, workers=1, max_retries=1)
    if not queue.jobs():
        queue.enqueue_many([Job(kind, kind=kind) for kind in kinds])
    queue.join(DEADLINE)
    queue.close()


def runs_a_kind(path: str) -> None:
    """Says when its one job has started, which never ends."""

    def hang(job: Job) -> None:
        say("started")
        wait_for_parent()

    queue = JobQueue({"mine": Kind(hang, max_retries=5)}, path=path, workers=1)
    if not queue.jobs():
        queue.enqueue(Job(kind="mine"))
    queue.join(DEADLINE)


def crash_in_company(path: str) -> None:
    """Works on quick jobs, one of which ends the process; to be started until it ends."""

    def handler(job: Job) -> None:
        if job.id == "killer":
            psutil.Process().kill()

    queue = JobQueue(handler, path=path, workers=2, max_retries=0)
    if not queue.jobs():
        for _ in range(50):  # so that it learns that they are quick
            queue.wait(queue.enqueue(Job()), DEADLINE)
        queue.enqueue_many([Job("killer" if n == 200 else str(n)) for n in range(400)])
    queue.join(2 * DEADLINE)  # else the test would take it for one more crash
    queue.close()


def parent_of_many(path: str, exchanges: str) -> None:
    """Ends in the middle of letting children go on: after so many exchanges from the parent's."""
    left = int(exchanges)
    write = SqliteFile.write

    def counted(file: SqliteFile, moves: Sequence[Move], wall: float) -> None:
        nonlocal left
        write(file, moves, wall)
        if any(move.source is Status.WAITING for move in moves):
            left -= 1
            if not left:
                psutil.Process().kill()

    SqliteFile.write = counted  # type: ignore
    gate = Gate()
    queue = JobQueue(lambda job: gate.wait(), path=path, workers=1, capacity=10_000)
    queue.enqueue(Job("parent"))
    queue.enqueue_many([Job(str(n), after=["parent"]) for n in range(5_000)])
    gate.open()
    wait_for_parent()


def full_disk(path: str) -> None:
    """Works on a file that cannot grow for a while: the system refuses every longer write.

    There is room again when it reads a line.
    """
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
    free = fill_the_disk(path)

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
    free()
    say(queue.wait("in flight", DEADLINE).status)
    say(queue.metrics().storage_error)
    queue.enqueue(Job("refused"))
    say(queue.wait("refused", DEADLINE).status)
    say(queue.close())
    say(" ".join(ran))


def fill_the_disk(path: str) -> Callable[[], None]:
    """No file may grow from here on; returns what makes room again."""
    import resource  # not on Windows

    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path + "-wal"), no_limit[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)


def idle_full_disk(path: str) -> None:
    """Has nothing to write, but looks again and again whether it could."""
    final.engine.dispatcher.STORAGE_RETRY_SECONDS = 0.01
    queue = JobQueue(nothing, path=path)
    queue.wait(queue.enqueue(Job()), DEADLINE)
    free = fill_the_disk(path)
    try:
        queue.enqueue(Job())
    except StorageError as error:
        say(error)
    first = inside.next_look_at_the_disk(queue)
    eventually(lambda: inside.next_look_at_the_disk(queue) > first + 0.05, "it to look again")
    say(queue.metrics().storage_error)
    free()
    eventually(lambda: queue.metrics().storage_error is None, "it to see that there is room")


def no_disk(path: str) -> None:
    """Opens a file where not a byte can be written."""
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    open_it(path)


def hang(path: str, *ids: str) -> None:
    """Works on these jobs at once, until it is killed; they are there from the second time on."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        threading.Event().wait()  # for ever

    # Recovered jobs that were interrupted twice run one at a time, those of one time side by side.
    queue = JobQueue(handler, path=path, workers=len(ids))
    if not queue.jobs():
        queue.enqueue_many([Job(job_id) for job_id in ids])
    started.wait_for_count(len(ids))
    say("all hang")
    wait_for_parent()


def cancel(path: str) -> None:
    """Cancels a job that runs, whose handler does not listen, and is killed."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        threading.Event().wait()  # for ever

    queue = JobQueue(handler, path=path)
    queue.enqueue(Job("x"))
    started.wait_for("x")
    say(queue.cancel("x"))
    wait_for_parent()


def schedule(path: str) -> None:
    """Schedules a job for soon, and is killed."""
    queue = JobQueue(nothing, path=path)
    queue.enqueue(Job("x", run_at=1.0))
    say(queue.get("x").due_at)
    wait_for_parent()


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
    say(f"a stranger is told: {run_child('open_it', path)[1]}")
    gate.open()
    say(f"the parent closes: {queue.close()}")
    say(f"and has {queue.status('running')}, {queue.status('queued')}")


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
        if job.id == "running" and what == "coroutine":
            await asyncio.sleep(3600)
        if job.id == "running":
            await asyncio.to_thread(threading.Event().wait)

    logging.disable()
    options: dict[str, Any] = {"path": path, "workers": 1, "backoff": NOT_TODAY}
    if what == "process":
        queue = JobQueue(hang_at_first, executor="process", **options)
    else:
        queue = JobQueue(coroutine if "coroutine" in what else handler, **options)
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


def in_a_group(path: str, note: str) -> None:
    """Has a process at work, and a process group that hears of no signal but by itself."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: say(f"signal {number:d}"))
    with JobQueue(until_told, path=path, executor="process", workers=1, max_retries=0) as queue:
        queue.enqueue(Job("x", payload=note))
        say("enqueued")
        wait_for_parent()
        record = queue.wait("x", 3 * DEADLINE)
        say(f"{record.status}, attempt {record.attempts}, {record.error}")


def with_processes(path: str, note: str) -> None:
    """Has one process that is idle and one that computes, until it is killed."""
    handlers = {"idle": process_id, "busy": compute}
    queue = JobQueue(handlers, path=path, executor="process", workers=2)
    queue.enqueue(Job(payload=note, kind="busy"))
    say(queue.wait(queue.enqueue(Job(kind="idle")), 3 * DEADLINE).result)
    wait_for_parent()


def fork_in_a_handler(path: str, kind: str, how: str) -> None:
    """What a fork does that comes back from the handler; says with what it has ended."""

    def forks(job: Job) -> int:
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if how == "return":
            return 1
        raise SystemExit(3) if how == "sys.exit" else ValueError("in the fork")

    async def forks_as_a_coroutine(job: Job) -> int:
        return forks(job)

    def forks_before_a_coroutine(job: Job) -> Any:
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return forks_as_a_coroutine(job)

    handlers = {
        "thread": forks,
        "coroutine": forks_as_a_coroutine,
        "before a coroutine": forks_before_a_coroutine,
    }
    with JobQueue(handlers, path=path, max_retries=0) as queue:
        record = queue.wait(queue.enqueue(Job(kind=kind)), DEADLINE)
        say(f"the fork ended with {record.result}")


def fork_in_a_subscriber(path: str, how: str) -> None:
    """What a fork does that comes back from it; says with what it has ended."""
    ended: SimpleQueue[int] = SimpleQueue()

    def forks(transition: Transition) -> None:
        if transition.status is not Status.COMPLETED:
            return
        if pid := os.fork():
            ended.put(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        elif how == "raise":
            raise ValueError("in the fork")

    with JobQueue(nothing, path=path) as queue:
        queue.subscribe(forks)
        queue.enqueue(Job())
        say(f"the fork ended with {ended.get(timeout=DEADLINE)}")


def fork_beside_processes(path: str) -> None:
    """Forks while a process is idle; the fork ends as Python programs do."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, from 3.12 on
    queue = JobQueue(process_id, path=path, executor="process", workers=1)
    first = queue.wait(queue.enqueue(Job()), 3 * DEADLINE).result
    if (fork := os.fork()) == 0:
        sys.exit()
    say(f"the fork ended with {os.waitpid(fork, 0)[1]}")
    same = queue.wait(queue.enqueue(Job()), 3 * DEADLINE).result == first
    say(f"the process is the same: {same}")
    queue.close()


def leave_processes_behind(path: str) -> None:
    """A process of multiprocessing ends without ``close``: atexit is not for those."""
    process = multiprocessing.get_context("spawn").Process(target=use_processes, args=(path,))
    process.start()
    process.join(3 * DEADLINE)
    say(f"it ended with {process.exitcode}")
    process.kill()


def use_processes(path: str) -> None:
    queue = JobQueue(process_id, path=path, executor="process", workers=1)
    queue.wait(queue.enqueue(Job()), DEADLINE)


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
