"""The stages as contenders, and what is measured of ``final`` alone.

But: the handlers do as little as can be. These figures are the cost of the queue.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import threading
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

import final
import improved
from final import Priority
from final.job import Outcome, Status, Task, new_id
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.benchmarks import measure
from tests.benchmarks.measure import (
    BATCH,
    WORKERS,
    Contender,
    Countdown,
    percentile,
    scratch,
)

PRIORITIES = list(Priority)
Durability = Literal["full", "normal"]


class Final(Contender):
    """One file (or memory), ``enqueue_many`` for a batch and ``enqueue`` for a single job.

    filled: a file with rows to start from, which is copied.
    """

    def __init__(
        self,
        durability: Durability = "full",
        *,
        in_memory: bool = False,
        workers: int = WORKERS,
        handler: final.Handler | Mapping[str, final.Handler] = lambda job: None,
        executor: Literal["thread", "process"] = "thread",
        timeout: float | None = None,
        filled: Path | None = None,
    ) -> None:
        place = ":memory:" if in_memory else durability
        self.name = f"final, {place}"
        self.sync = "" if in_memory else durability
        self._durability = durability
        self._in_memory = in_memory
        self._workers = workers
        self._handler = handler
        self._executor = executor
        self._timeout = timeout
        self._filled = filled

    def start(self, folder: Path, jobs: int) -> None:
        path = folder / "jobs.db"
        if self._filled is not None:
            shutil.copyfile(self._filled, path)
        self._queue = final.JobQueue(
            self._handler,
            path=":memory:" if self._in_memory else path,
            workers=self._workers,
            capacity=5000,
            durability=self._durability,
            executor=self._executor,
            timeout=self._timeout,
            history=100_000_000,  # deleting old rows is measured by the long run
        )
        self._priorities = itertools.cycle(PRIORITIES)
        if self._executor == "process":  # a first job each, so that all processes are there
            list(self._queue.map(["0"] * 4 * self._workers))

    def put(self, payloads: Sequence[str]) -> None:
        jobs = [final.Job(payload=p, priority=next(self._priorities)) for p in payloads]
        if len(jobs) == 1:
            self._queue.enqueue(jobs[0])
        else:
            self._queue.enqueue_many(jobs)

    def wait(self) -> None:
        self._queue.join()

    def stop(self) -> None:
        self._queue.close()


class Improved(Contender):
    """Stage 2: in memory, one job at a time."""

    name = "improved"

    def start(self, folder: Path, jobs: int) -> None:
        self._queue = improved.JobQueue(lambda job: None, workers=WORKERS)

    def put(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self._queue.enqueue(improved.Job(payload=payload))

    def wait(self) -> None:
        self._queue.close()

    def stop(self) -> None:
        self._queue.close()


# ---- handlers ------------------------------------------------------------------------------


def wait_for_io(job: final.Job) -> None:
    """Ten milliseconds in which somebody else works: a mail server, a disk."""
    time.sleep(0.01)


def compute(job: final.Job) -> None:
    """Five to ten milliseconds of plain Python."""
    sum(number * number for number in range(200_000))


# ---- latency -------------------------------------------------------------------------------


class Latency(NamedTuple):
    """Seconds from the moment that a job was to be enqueued until its handler started.

    offered and reached are jobs per second: where they differ, it could not keep up.
    """

    offered: float
    reached: float
    p50: float
    p95: float
    p99: float


def latency(offered: float, seconds: float, batch: int = 10) -> Latency:
    """Offer jobs in tens by the clock, whatever becomes of the ones before (an open loop).

    The clock of a job starts when the schedule says so, not when its ``enqueue`` is called:
    a producer that is held up makes everybody behind it late, and that counts.
    """
    measure.announce(f"{offered:,.0f} jobs a second")
    delays: list[float] = []
    calls = max(2, int(offered * seconds / batch))
    # As many producers as it takes for one to be back before its next turn.
    producers = 4

    def handler(job: final.Job) -> None:
        due = job.payload
        assert isinstance(due, float)
        delays.append(time.perf_counter() - due)

    with scratch() as folder:
        queue = final.JobQueue(
            handler, path=folder / "jobs.db", workers=WORKERS, capacity=100_000, history=100_000_000
        )
        began = time.perf_counter() + 0.01

        def produce(first: int) -> None:
            for call in range(first, calls, producers):
                due = began + call * batch / offered
                time.sleep(max(0.0, due - time.perf_counter()))
                queue.enqueue_many([final.Job(payload=due) for _ in range(batch)])

        threads = [threading.Thread(target=produce, args=(n,)) for n in range(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        queue.join()
        reached = calls * batch / (time.perf_counter() - began)
        queue.close()
    return Latency(offered, reached, *(percentile(delays, percent) for percent in (50, 95, 99)))


# ---- looking ---------------------------------------------------------------------------------

READERS = 4


class Looking(NamedTuple):
    """Seconds of an ``enqueue``, the median: alone, and beside readers that never stop."""

    alone: float
    beside: float


def looking(jobs: int, calls: int) -> Looking:
    """Enqueue one job after the other into a file with ``jobs`` rows, while others read them."""
    measure.announce(f"{READERS} readers of {jobs:,} jobs")
    stop = threading.Event()
    with scratch() as folder:
        fill(folder / "jobs.db", finished=jobs)
        queue = final.JobQueue(
            lambda job: None, path=folder / "jobs.db", workers=WORKERS, history=100_000_000
        )

        def read() -> None:
            while not stop.is_set():
                queue.jobs(limit=1_000)
                queue.jobs(kind="there is none of it")  # looks at every row

        def median() -> float:
            times = []
            for _ in range(calls):
                began = time.perf_counter()
                queue.enqueue(final.Job())
                times.append(time.perf_counter() - began)
            return statistics.median(times)

        alone = median()
        readers = [threading.Thread(target=read) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        beside = median()
        stop.set()
        for reader in readers:
            reader.join()
        queue.close()
    return Looking(alone, beside)


# ---- memory --------------------------------------------------------------------------------

PAYLOAD = b"x" * 100


def bytes_per_queued_job(jobs: int) -> float:
    """What a waiting job takes in memory beyond its payload, by tracemalloc."""
    measure.announce(f"{jobs:,} waiting jobs")
    gate = threading.Event()
    with scratch() as folder:
        queue = final.JobQueue(
            lambda job: gate.wait(), path=folder / "jobs.db", workers=1, capacity=2 * jobs
        )
        queue.enqueue_many([_job_with_own_payload() for _ in range(BATCH)])
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(0, jobs, BATCH):
            queue.enqueue_many([_job_with_own_payload() for _ in range(BATCH)])
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        gate.set()
        queue.close(drain=False)
    waiting = -(-jobs // BATCH) * BATCH
    return (after - before) / waiting - PAYLOAD.__sizeof__()


def _job_with_own_payload() -> final.Job:
    return final.Job(payload=bytes(bytearray(PAYLOAD)))  # bytes(PAYLOAD) would be the same object


def memory_over_time(jobs: int) -> list[float]:
    """The size of this process in MiB (RSS), 20 times while jobs run and the oldest are pruned."""
    measure.announce(f"a run of {jobs:,} jobs")
    sizes = []
    contender = FinalWithShortHistory()
    process = psutil.Process()
    with scratch() as folder:
        contender.start(folder, jobs)
        for _ in range(20):
            for _ in range(0, jobs // 20, BATCH):
                contender.put(["0" * 16] * min(BATCH, jobs // 20))
            contender.wait()
            sizes.append(process.memory_info().rss / 2**20)
        contender.stop()
    return sizes


class FinalWithShortHistory(Final):
    def start(self, folder: Path, jobs: int) -> None:
        self._queue = final.JobQueue(
            self._handler,
            path=folder / "jobs.db",
            workers=WORKERS,
            capacity=5000,
            history=max(100, jobs // 20),
        )
        self._priorities = itertools.cycle(PRIORITIES)


# ---- files with rows in them ---------------------------------------------------------------


def fill(path: Path, finished: int = 0, unfinished: int = 0, first: int = 1) -> None:
    """Write jobs with final's own statements, in batches, without running any."""
    measure.announce(f"writing {finished + unfinished:,} rows")
    file = SqliteFile(path, "normal")
    last = first + finished + unfinished
    for start in range(first, last, BATCH):
        tasks = [task(number) for number in range(start, min(last, start + BATCH))]
        ended = [Outcome(each, 0.0) for each in tasks if each.seq < first + finished]
        new = Move(tasks, None, Status.QUEUED)
        through = Move((), Status.PROCESSING, Status.COMPLETED, outcomes=ended)
        for move in (new, through):  # the second after the first: new jobs are written once
            with file.transaction():
                file.write([move], time.time())
    file.close()


def task(number: int) -> Task:
    """A new job as the ledger hands it to the file."""
    payload = f'"{number:016d}"'
    return Task(
        new_id(),
        payload,
        PRIORITIES[number % 3],
        "default",
        size=len(payload),
        seq=number,
        key=number,
        status=Status.QUEUED,
    )


class Reopening(NamedTuple):
    """seconds: from the call of JobQueue until the first handler started."""

    seconds: float
    ran: int
    in_order: bool


def reopen(filled: Path, jobs: int) -> Reopening:
    """Open a file with unfinished jobs, and run them all with one worker, to see their order."""
    seen: dict[Priority, list[object]] = {priority: [] for priority in Priority}
    started: list[float] = []
    countdown = Countdown(jobs)

    def handler(job: final.Job) -> None:
        if not started:
            started.append(time.perf_counter())
        seen[job.priority].append(job.payload)
        countdown()

    with scratch() as folder:
        shutil.copyfile(filled, folder / "jobs.db")
        began = time.perf_counter()
        queue = final.JobQueue(handler, path=folder / "jobs.db", workers=1, history=100_000_000)
        countdown.wait()
        queue.close()
    in_order = all(payloads == sorted(payloads, key=str) for payloads in seen.values())
    return Reopening(started[0] - began, sum(map(len, seen.values())), in_order)
