"""Where the time of the bulk workload goes, thread by thread: ``make profile``.

    python -m tests.benchmarks.profile           full durability
    python -m tests.benchmarks.profile normal    or normal, or memory

Stopwatches stand at the doors between the rooms of final: around a turn and each step of its
exchange, around every SQL statement, around a batch of a worker. Each passes once for hundreds
of jobs, so they cost next to nothing (the first line says how much), which a profiler
that counts every call cannot say.

CPU is the time that a thread computed; wall also counts what it waited, for the disk, for
another thread or for the GIL. Of Python code one thread runs at a time, so the CPU of all
threads together, less what SQLite does with the GIL released, is the least that a job can take.

But: it does not look inside a function. For that, put cProfile around it.
"""

from __future__ import annotations

import argparse
import functools
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from rich import box
from rich.console import Console
from rich.table import Table

from final.engine.dispatcher import Dispatcher
from final.engine.flight import Flight
from final.engine.metrics import Recorder
from final.job_queue import JobQueue
from final.ledger.local import LocalLedger
from final.ledger.sqlite import SqliteFile
from final.workers.pool import WorkerPool
from tests.benchmarks.measure import BATCH, throughput
from tests.benchmarks.ours import Final
from tests.benchmarks.report import terminal

# The doors: whose, which method, and what is done behind it. What has a door of its own
# does not count for the room around it.
DOORS: list[tuple[type, str, str, str]] = [
    (Final, "put", "producer", "make 500 jobs, ids too"),
    (JobQueue, "enqueue_many", "producer", "check them, encode payloads"),
    (JobQueue, "_ask", "producer", "wait until they are durable"),
    (JobQueue, "_run", "dispatcher", "dispatcher.py, the rest of a turn"),
    (Dispatcher, "_receive", "dispatcher", "wait for messages"),
    (Flight, "hand_in", "dispatcher", "flight.py, take in outcomes"),
    (LocalLedger, "exchange", "dispatcher", "local.py, the rest of an exchange"),
    (LocalLedger, "_end_attempts", "dispatcher", "exchange: outcomes"),
    (LocalLedger, "_admit", "dispatcher", "exchange: new jobs, lanes.add"),
    (LocalLedger, "_claim", "dispatcher", "exchange: claims, lanes.pick"),
    (LocalLedger, "_written", "dispatcher", "exchange: history"),
    (SqliteFile, "write", "dispatcher", "sqlite.py, build the values"),
    (Dispatcher, "_answer_producers", "dispatcher", "act: answers"),
    (Flight, "hand_out", "dispatcher", "act: hand over batches"),
    (Dispatcher, "_announce", "dispatcher", "act: events, who waits"),
    (Recorder, "moved", "dispatcher", "metrics.py"),
    (WorkerPool, "_work", "workers", "run handlers, wait for batches"),
]

# The first words of a statement, and its name in the table.
STATEMENTS = {
    "BEGIN": "SQLite: begin",
    "SELECT": "SQLite: look for the owner, and for taken ids",
    "INSERT": "SQLite: insert",
    "UPDATE job SET status = 'processing'": "SQLite: claim",
    "UPDATE job SET status = 'completed'": "SQLite: complete",
    "COMMIT": "SQLite: commit, with the sync",
}


class Stopwatch:
    """Seconds by (thread, place): CPU and wall, each without those of the places inside."""

    def __init__(self) -> None:
        self.cpu: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.wall: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._mutex = threading.Lock()
        self._inside = threading.local()  # CPU and wall of the places inside, so far

    @contextmanager
    def at(self, thread: str, place: str) -> Iterator[None]:
        outer = getattr(self._inside, "seconds", (0.0, 0.0))
        self._inside.seconds = (0.0, 0.0)
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            inner = self._inside.seconds
            self._inside.seconds = (outer[0] + cpu, outer[1] + wall)
            with self._mutex:
                self.cpu[thread, place] += cpu - inner[0]
                self.wall[thread, place] += wall - inner[1]

    def around(self, method: Callable[..., Any], thread: str, place: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.at(thread, place):
                return method(*arguments, **options)

        return timed


class TimedConnection:
    """Stands in front of the writing connection and takes the time of each statement."""

    def __init__(self, connection: sqlite3.Connection, watch: Stopwatch) -> None:
        self._connection = connection
        self._watch = watch

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        place = next((STATEMENTS[word] for word in STATEMENTS if sql.startswith(word)), "SQLite")
        with self._watch.at("dispatcher", place):
            return self._connection.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@contextmanager
def doors_watched(watch: Stopwatch) -> Iterator[None]:
    """Every door has a stopwatch, and every file that is opened meanwhile, too."""
    methods = [(owner, name, getattr(owner, name)) for owner, name, _, _ in DOORS]
    for owner, name, thread, place in DOORS:
        setattr(owner, name, watch.around(getattr(owner, name), thread, place))
    take_over = SqliteFile._take_over

    def take_over_and_watch(file: SqliteFile) -> None:
        take_over(file)
        file._writer = cast(sqlite3.Connection, TimedConnection(file._writer, watch))

    SqliteFile._take_over = take_over_and_watch  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        SqliteFile._take_over = take_over  # type: ignore[method-assign]
        for owner, name, method in methods:
            setattr(owner, name, method)


def profile(place: str, jobs: int, console: Console) -> Profile:
    """Run the workload without stopwatches, then with them, and show what they say."""

    def run() -> float:
        contender = Final("normal" if place == "normal" else "full", in_memory=place == "memory")
        return throughput(contender, jobs).rate

    run()  # to warm up
    plain = run()
    found = watched(jobs, run)
    console.print(
        f"{jobs:,} no-op jobs in batches of {BATCH}, {place}: {plain:,.0f} jobs/s, and "
        f"{found.rate:,.0f} with stopwatches. Microseconds per job, without the rooms inside:"
    )
    console.print(_table(found))
    console.print(
        f"  A job takes {1e6 / found.rate:.1f} us from the first to the last. All threads computed "
        f"{found.cpu * 1e6:.1f} us for it, {found.in_sqlite * 1e6:.1f} us of that inside SQLite, "
        f"where other threads may run; {(found.cpu - found.in_sqlite) * 1e6:.1f} us need the GIL."
    )
    return found


def watched(jobs: int, run: Callable[[], float]) -> Profile:
    """run: the workload, which returns its jobs a second."""
    watch = Stopwatch()
    with doors_watched(watch):
        rate = run()
    return Profile(watch, jobs, rate)


class Profile(NamedTuple):
    """What the stopwatches say of so many ``jobs``, done at this ``rate`` a second."""

    watch: Stopwatch
    jobs: int
    rate: float

    @property
    def cpu(self) -> float:
        """Seconds a job, of all threads."""
        return sum(self.watch.cpu.values()) / self.jobs

    @property
    def in_sqlite(self) -> float:
        """Seconds a job that need no GIL."""
        inside = [s for (_, what), s in self.watch.cpu.items() if what.startswith("SQLite")]
        return sum(inside) / self.jobs

    def rows(self, thread: str) -> list[list[str]]:
        """By place: its share of the CPU, microseconds a job of CPU and of wall, where."""
        cpu = self.watch.cpu
        places = [(seconds, place) for (who, place), seconds in cpu.items() if who == thread]
        return [
            [
                f"{seconds / self.jobs / self.cpu:.0%}",
                f"{seconds / self.jobs * 1e6:.2f}",
                f"{self.watch.wall[thread, place] / self.jobs * 1e6:.2f}",
                thread,
                place,
            ]
            for seconds, place in sorted(places, reverse=True)
        ]


COLUMNS = ["of all", "CPU", "wall", "thread", "where"]
THREADS = ("producer", "dispatcher", "workers")


def _table(found: Profile) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number < 3 else "left")
    for thread in THREADS:
        for row in found.rows(thread):
            table.add_row(*row)
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profile")
    parser.add_argument("place", nargs="?", choices=["full", "normal", "memory"], default="full")
    parser.add_argument("--jobs", type=int, default=100_000)
    arguments = parser.parse_args()
    profile(arguments.place, arguments.jobs, terminal())


if __name__ == "__main__":
    main()
