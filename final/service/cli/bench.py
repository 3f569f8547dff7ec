"""How fast this disk takes durable jobs, beside the plain way: a commit for every row.

But: a few seconds to see what this machine is like. ``make bench`` measures with rounds, medians
and peers.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from final import Job, JobQueue

PRODUCERS = 32
BATCH = 500


class Measurement(NamedTuple):
    """ratio: how many times as fast as the first measurement."""

    ratio: float
    what: str
    jobs_per_second: float


def measure(seconds: float) -> Iterator[Measurement]:
    """One measurement after the other, each about ``seconds`` long."""
    floor = 0.0
    # Not in /tmp, which is often no disk at all.
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as folder:
        for number, (what, enqueue) in enumerate(WAYS.items()):
            speed = enqueue(Path(folder) / f"{number}.db", seconds)
            floor = floor or speed
            yield Measurement(speed / floor, what, speed)


def _plain(path: Path, seconds: float) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, payload TEXT)")

        def insert() -> int:
            connection.execute("INSERT INTO job (payload) VALUES ('{}')")
            return 1

        return _repeated(insert, seconds)


def _one_by_one(path: Path, seconds: float) -> float:
    with _queue(path) as queue:
        return _repeated(lambda: _enqueue(queue, 1), seconds)


def _at_the_same_time(path: Path, seconds: float) -> float:
    with _queue(path) as queue, ThreadPoolExecutor(PRODUCERS) as threads:
        together = threading.Barrier(PRODUCERS)

        def produce(_: int) -> float:
            together.wait()
            return _repeated(lambda: _enqueue(queue, 1), seconds)

        return sum(threads.map(produce, range(PRODUCERS)))


def _in_batches(path: Path, seconds: float) -> float:
    with _queue(path) as queue:
        return _repeated(lambda: _enqueue(queue, BATCH), seconds)


WAYS: dict[str, Callable[[Path, float], float]] = {
    "SQLite, a commit for each row": _plain,
    "final, one producer": _one_by_one,
    f"final, {PRODUCERS} producers (group commit)": _at_the_same_time,
    f"final, enqueue_many of {BATCH}": _in_batches,
}


def _queue(path: Path) -> JobQueue:
    """Its workers run the jobs meanwhile: they are accepted by a queue at work."""
    return JobQueue(lambda job: None, path=path, capacity=100_000)


def _enqueue(queue: JobQueue, count: int) -> int:
    return len(queue.enqueue_many([Job() for _ in range(count)]))


def _repeated(step: Callable[[], int], seconds: float) -> float:
    """Jobs per second."""
    began = time.perf_counter()
    jobs = 0
    while (passed := time.perf_counter() - began) < seconds:
        jobs += step()
    return jobs / passed
