"""Several processes on one database: what is measured of a round, by the parent of them all.

The processes wait until all are there, then put their shares in and run what comes, whoever brought
it. The clock stops when as many jobs have run as went in. CPU of the server is that of its
processes, WAL how far its log has moved on.

But: a round in a fresh database, on a server that syncs. What is in the cache is not controlled.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_double, c_long
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import Synchronized
from typing import Any, NamedTuple

import psutil
import psycopg

from tests import postgres_server
from tests.benchmarks.measure import (
    BATCH,
    PATIENCE_SECONDS,
    WORKERS,
    percentile,
    run_side_by_side,
)
from tests.benchmarks.postgres_queues import SharedQueue

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "autovacuum_naptime": "10s",
}
SPAWN = multiprocessing.get_context("spawn")
DELAYS = 100_000  # at most, of one round
PACED = 16  # threads that keep a pace: one of them is back before its next turn


class Round(NamedTuple):
    """rate: jobs per second. server and clients: CPU seconds a job. wal: bytes a job."""

    rate: float
    server: float
    clients: float
    wal: float


class Database:
    """A fresh database on a server of our own; a context manager."""

    def __init__(self, server: postgres_server.Server) -> None:
        self._server = server
        self._name = f"bench_{time.monotonic_ns()}"
        self.dsn = server.dsn.replace("/postgres?", f"/{self._name}?")

    def __enter__(self) -> Database:
        self._ask(f"CREATE DATABASE {self._name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _ask(self, statement: str) -> None:
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def ask(self, statement: str) -> tuple[Any, ...]:
        """The first row of its answer."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return (cursor.fetchone() or ()) if cursor.description else ()

    def cpu(self) -> float:
        """Seconds, of all processes of the server that there are now."""
        return sum(map(_cpu, self._server.processes()))

    def wal(self) -> int:
        (place,) = self.ask("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        return int(place)


class Crew:
    """The processes of a contender on one database, all of them open; a context manager.

    workers: of each process; the first has none with ``producer_only``.
    """

    def __init__(
        self,
        contender: SharedQueue,
        database: Database,
        processes: int,
        workers: int = WORKERS,
        producer_only: bool = False,
    ) -> None:
        self._contender = contender
        self._database = database
        self._go = SPAWN.Event()
        self._end = SPAWN.Event()
        self._ran = SPAWN.Value(c_long, 0)
        self._delays = SPAWN.Array(c_double, DELAYS)
        self._pipes = []
        self._processes = []
        for number in range(processes):
            ours, theirs = SPAWN.Pipe()
            own_workers = 0 if producer_only and number == 0 else workers
            values = (contender, database.dsn, own_workers, theirs, self._ran, self._delays)
            process = SPAWN.Process(target=_work, args=values, daemon=True)
            process.start()
            theirs.close()  # so that its end is heard of
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Crew:
        for pipe in self._pipes:
            _hear(pipe)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(20)
            process.kill()

    def run(self, jobs: int, batch: int = BATCH, producers: int = 1, pace: float = 0.0) -> Round:
        """A round, of which each process brings its share. pace: jobs a second; 0 for at once.

        With a pace, the first process brings all.
        """
        clients = [psutil.Process(process.pid) for process in self._processes]
        before = self._ran.value
        server, ours = self._database.cpu(), sum(map(_cpu, clients))
        wal = self._database.wal()
        shares = [jobs // len(clients)] * len(clients)
        shares[0] += jobs - sum(shares)
        if pace:
            shares = [jobs] + [0] * (len(clients) - 1)
        began = time.perf_counter()
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send((share, batch, producers, pace))
        busy: list[Any] = list(self._pipes)
        while self._ran.value < before + jobs:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"{self._ran.value - before} of {jobs} jobs ran.")
            for done in wait(busy, timeout=0.001):
                _hear(done)
                busy.remove(done)
            if not busy:
                time.sleep(0.001)
        seconds = time.perf_counter() - began
        for pipe in busy:
            _hear(pipe)
        return Round(
            jobs / seconds,
            (self._database.cpu() - server) / jobs,
            (sum(map(_cpu, clients)) - ours) / jobs,
            (self._database.wal() - wal) / jobs,
        )

    def forget(self) -> None:
        """The rounds so far: for ``delays``."""
        self._ran.value = 0

    def delays(self) -> tuple[float, float]:
        """p50 and p99 of the seconds from when a job was due until it ran, with a pace."""
        delays = self._delays[: min(self._ran.value, DELAYS)]
        return percentile(delays, 50), percentile(delays, 99)


def _hear(pipe: Any) -> None:
    """Its next word; EOFError where the process has ended."""
    if not pipe.poll(PATIENCE_SECONDS):
        raise TimeoutError("A process does not answer.")
    told = pipe.recv()
    if isinstance(told, Exception):
        raise told


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)


# ---- in each of the processes -----------------------------------------------------------------


def _work(
    contender: SharedQueue,
    dsn: str,
    workers: int,
    pipe: Any,
    ran: Synchronized[int],
    delays: Any,
) -> None:
    def count(payload: str) -> None:
        with ran.get_lock():
            number = ran.value
            ran.value = number + 1
        if payload.startswith("@") and number < DELAYS:
            delays[number] = time.monotonic() - float(payload[1:])

    contender.open(dsn, workers, count)
    pipe.send("ready")
    while (plan := pipe.recv()) is not None:
        try:
            _produce(contender, *plan)
            pipe.send("done")
        except Exception as error:
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
    contender.close()


def _produce(contender: SharedQueue, share: int, batch: int, producers: int, pace: float) -> None:
    if not pace:
        contender.produce([f"{number:016d}" for number in range(share)], batch, producers)
        return
    began = time.monotonic() + 0.05

    def put(numbers: Sequence[int]) -> None:
        for number in numbers:
            due = began + number / pace
            time.sleep(max(0.0, due - time.monotonic()))
            contender.produce([f"@{due}"], 1, 1)

    run_side_by_side(put, [range(share)[first::PACED] for first in range(PACED)])


@contextmanager
def server() -> Iterator[Callable[[], Database]]:
    """Makes databases on a server of its own, which syncs as one that matters does."""
    one = postgres_server.Server(None, **SETTINGS)
    try:
        one.start()
        yield lambda: Database(one)
    finally:
        one.remove()


def median(rounds: Sequence[Round]) -> Round:
    """Of each column."""
    middle = len(rounds) // 2
    return Round(*(sorted(column)[middle] for column in zip(*rounds, strict=True)))
