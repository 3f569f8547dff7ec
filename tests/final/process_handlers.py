"""Handlers for ``executor="process"``: another process imports them from here."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from final import Job, current_job


def echo(job: Job) -> object:
    return job.payload


def process_id(job: Job) -> int:
    return os.getpid()


def about_the_job(job: Job) -> object:
    current = current_job()
    assert current.deadline is not None
    left = current.deadline - time.monotonic()
    return [current.id, current.attempt, current.token, left, current.cancelled]


def misbehave(job: Job) -> object:
    """Does what the payload says."""
    if job.payload == "exit":
        os._exit(3)
    if job.payload == "kill":
        psutil.Process().kill()
    if job.payload == "leave":
        raise SystemExit("leaving")
    if job.payload == "close all files":
        os.closerange(3, 256)
    if job.payload == "exception that cannot be pickled":
        raise Unpicklable
    if job.payload == "result that cannot be pickled":
        return Unpicklable()
    return "fine"


async def send(job: Job) -> str:
    return "sent"


def send_later(job: Job) -> Any:
    return send(job)


def steps(job: Job) -> Iterator[int]:
    yield 1


class Unpicklable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("I will not be pickled")

    def __str__(self) -> str:
        return "I am unpicklable"


def hang_at_first(job: Job) -> str:
    """The first attempt leaves its process id in a file, and never ends."""
    attempt = current_job().attempt
    if attempt == 1:
        Path(str(job.payload)).write_text(str(os.getpid()), encoding="ascii")
        threading.Event().wait()
    return f"attempt {attempt}"


def note_process_id(job: Job) -> Path:
    """Into the file that the payload names."""
    note = Path(str(job.payload))
    part = note.with_suffix(".part")
    part.write_text(str(os.getpid()), encoding="ascii")
    part.replace(note)  # who sees the file sees all of it
    return note


def hang_for_ever(job: Job) -> None:
    threading.Event().wait()


def until_told(job: Job) -> str:
    """Ends when there is a file "go" beside its note."""
    go = note_process_id(job).with_name("go")
    while not go.exists():
        time.sleep(0.01)  # its work
    return "done"


def compute(job: Job) -> None:
    """Never ends, and, where the system knows a way all the same, never lets go of the GIL."""
    note_process_id(job)
    if sys.platform == "linux":
        sum(range(10**18))
    while True:
        pass


def leave_at_exit(job: Job) -> None:
    """Leaves a function to be called at the end of its process."""
    atexit.register(note_process_id, job)


def leave_a_thread(job: Job) -> None:
    threading.Thread(target=threading.Event().wait).start()


def fork_and_crash(job: Job) -> None:
    """A fork is left that never ends, with whatever it has inherited."""
    if os.fork() == 0:
        note_process_id(job)
        threading.Event().wait()
    while not Path(str(job.payload)).exists():
        pass
    os._exit(3)


def fork_and_return(job: Job) -> str:
    """Both return."""
    fork = os.fork()
    if fork == 0:
        return "from the fork"
    os.waitpid(fork, 0)
    return "from the process"


def fork_and_terminate(job: Job) -> list[int]:
    """As multiprocessing and others do, at once; returns how the forks ended."""
    ends = []
    for _ in range(20):
        fork = os.fork()
        if fork == 0:
            threading.Event().wait()
        os.kill(fork, signal.SIGTERM)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
    return ends
