"""Handlers for ``executor="process"``: another process imports them from here."""

from __future__ import annotations

import os
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
