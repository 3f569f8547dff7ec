"""Cost against size: what a call takes with a thousand jobs in the file, and with a million.

A file holds as many waiting, scheduled, finished and dead jobs as is asked for. The waiting ones
are of a kind that its limit holds back, so they are there to stay.

But: seconds, which scatter. That the number of steps does not grow is tested:
tests/final/test_growth.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from final import Job, JobQueue, Status, TokenBucket
from final.job import Outcome, Task
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.benchmarks import measure
from tests.benchmarks.measure import BATCH, scratch
from tests.benchmarks.ours import task

CALLS = 51  # of each kind; the median counts
A_YEAR = 365 * 86_400.0
HELD = TokenBucket(rate=1 / A_YEAR, burst=1)

COMPLETED, FAILED, SCHEDULED, QUEUED = (
    Status.COMPLETED,
    Status.FAILED,
    Status.SCHEDULED,
    Status.QUEUED,
)


def costs(jobs: int) -> dict[str, float]:
    """Seconds of each call, with so many jobs in each of the four states."""
    measure.announce(f"{jobs:,} jobs of each state")
    with scratch() as folder:
        path = folder / "jobs.db"
        ids = _fill(path, jobs)
        began = time.perf_counter()
        queue = _open(path, 100 * jobs)
        found = {"open the file again, a job": (time.perf_counter() - began) / (2 * jobs)}
        calls: dict[str, Callable[[], object]] = {
            "enqueue": lambda: queue.enqueue(Job(kind="quick")),
            "enqueue, until it has run": lambda: queue.wait(queue.enqueue(Job(kind="quick"))),
            "cancel a waiting job": lambda: queue.cancel(next(ids[QUEUED])),
            "cancel a scheduled job": lambda: queue.cancel(next(ids[SCHEDULED])),
            "cancel one that has ended": lambda: queue.cancel(next(ids[COMPLETED])),
            "retry a dead letter": lambda: queue.retry(next(ids[FAILED])),
            "get": lambda: queue.get(next(ids[COMPLETED])),
            "jobs(), 100 of all": lambda: queue.jobs(),
            "jobs(cancelled), 100 of these": lambda: queue.jobs(Status.CANCELLED),
            "metrics": lambda: queue.metrics(),
        }
        found |= {name: _median_seconds(call) for name, call in calls.items()}
        began = time.perf_counter()
        letters = queue.dead_letters()
        found["dead_letters(), a letter"] = (time.perf_counter() - began) / len(letters)
        queue.close(drain=False)
        # Each lane has a third of what waits.
        queue = _open(path, max(1, jobs // 6), overflow="drop-oldest")
        queue.enqueue(Job(kind="held"))  # drops what a smaller lane has no room for
        drop = "enqueue, and drop the oldest"
        found[drop] = _median_seconds(lambda: queue.enqueue(Job(kind="held")))
        queue.close(drain=False)
    return found


def _open(
    path: Path, capacity: int, overflow: Literal["block", "drop-oldest"] = "block"
) -> JobQueue:
    return JobQueue(
        {"quick": lambda job: None, "held": lambda job: None},
        path=path,
        capacity=capacity,
        overflow=overflow,
        rate_limit={"held": HELD},
        history=100_000_000,
        durability="normal",  # a sync takes as long whatever there is
    )


def _median_seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _fill(path: Path, jobs: int) -> dict[Status, Iterator[str]]:
    """Write the jobs; returns ids of each state, from all over the file."""
    file = SqliteFile(path, "normal")
    ids: dict[Status, Iterator[str]] = {}
    for number, status in enumerate((COMPLETED, FAILED, SCHEDULED, QUEUED)):
        tasks = [task(n) for n in range(1 + number * jobs, 1 + (number + 1) * jobs)]
        for start in range(0, jobs, BATCH):
            _write(file, tasks[start : start + BATCH], status)
        step = max(1, jobs // (3 * CALLS))
        ids[status] = iter([each.id for each in tasks[::step]])
    file.close()
    return ids


def _write(file: SqliteFile, tasks: Iterable[Task], status: Status) -> None:
    now = time.time()
    tasks = list(tasks)
    for each in tasks:
        each.kind = "held"
        if status is SCHEDULED:
            each.status, each.due_at = SCHEDULED, now + A_YEAR
    moves = [Move(tasks, None, SCHEDULED if status is SCHEDULED else QUEUED)]
    if status.ended:
        error = "no luck" if status is FAILED else None
        outcomes = [Outcome(each, 0.0, error=error) for each in tasks]
        moves.append(Move(tasks, Status.PROCESSING, status, outcomes=outcomes))
    for move in moves:  # one by one: new jobs are written once, as they are
        with file.transaction():
            file.write([move], now)
