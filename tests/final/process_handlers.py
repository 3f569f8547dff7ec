"""Handlers for ``executor="process"``: another process imports them from here."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psutil
from opentelemetry import trace

from final import CallNext, Job, Snooze, current_job


def echo(job: Job) -> object:
    return job.payload


def type_of_its_job(job: Job) -> str:
    return type(job).__name__


def process_id(job: Job) -> int:
    return os.getpid()


def give_back(job: Job) -> object:
    """What it was given; or a failure."""
    if job.payload == "fails":
        raise ValueError("as it was told")
    return job.payload


class ReadyBy:
    """A handler whose process is not ready before whoever listens at ``address`` hangs up."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def __setstate__(self, state: dict[str, Any]) -> None:
        with socket.create_connection(state["address"]) as line:
            line.recv(1)

    def __call__(self, job: Job) -> None:
        """Nothing to do."""


def meta(job: Job) -> object:
    return dict(job.meta)


def parents(job: Job) -> object:
    return current_job().parents


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
    if job.payload == "write into all sockets":
        for number in range(3, 256):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, b"\0\0\0\5hello")
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


def snooze_at_first(job: Job) -> str:
    """The payload names a file that says whether it has been here."""
    note = Path(str(job.payload))
    if not note.exists():
        note.touch()
        raise Snooze(0.01)
    return f"attempt {current_job().attempt}"


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def note_tenant(job: Job, call_next: CallNext) -> object:
    """A middleware."""
    tenant.set(f"of {job.id}")
    return call_next(job)


def shout(job: Job, call_next: CallNext) -> object:
    """A middleware."""
    return str(call_next(job)).upper()


def tenant_of(job: Job) -> str:
    return tenant.get()


def trace_id(job: Job) -> str:
    """Of the span that the handler is in."""
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


def say_how_far(job: Job) -> None:
    """Half-way it waits for a file "go" beside the one that the payload names."""
    current_job().progress(0.5, "from a process")
    while not Path(str(job.payload)).with_name("go").exists():
        time.sleep(0.01)  # its work
    thread = threading.Thread(target=current_job().progress, args=(1, "from a thread of it"))
    thread.start()
    thread.join()


def attempt_and_time(job: Job) -> list[float | None]:
    """Of the attempt that the payload names; those before it fail."""
    me = current_job()
    if me.attempt < int(str(job.payload)):
        raise ValueError("another one")
    assert me.deadline is not None
    return [me.attempt, me.remaining(), me.deadline - time.monotonic()]


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
