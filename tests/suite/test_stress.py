"""Capability "stress": 100,000 jobs from 64 producers through 10 workers, each exactly once.

Races that a quiet test never meets show here: two producers and the last free place,
a wake-up that nobody heard, a job between two workers.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.expectations import CANDIDATE
from tests.helpers import DEADLINE, Background, Evidence
from tests.stages import Stage

pytestmark = [pytest.mark.capability("stress"), pytest.mark.timeout(120)]

JOBS = 100_000
FEWER_JOBS = 20_000  # where no scoreboard is made: `make test`
CANDIDATE_JOBS = 2_000  # a queue on the ladder may sync each step of each job
PRODUCERS = 64
WORKERS = 10
CAPACITY = 1000
PRIORITIES = ("high", "medium", "low")
PATIENCE = 11 * DEADLINE  # seconds, for everything


def test_100_000_jobs_each_exactly_once(
    stage: Stage, evidence: Evidence, request: pytest.FixtureRequest
) -> None:
    jobs = JOBS if request.config.option.scoreboard else FEWER_JOBS
    if stage.name == CANDIDATE:
        jobs = CANDIDATE_JOBS
    ran: list[int] = []
    all_ran = threading.Event()
    all_workers_are_here = threading.Barrier(WORKERS + 1)

    def handler(job: Any) -> None:
        if job.payload == "last":
            all_workers_are_here.wait(PATIENCE)
            return
        ran.append(job.payload)
        if len(ran) >= jobs:
            all_ran.set()

    def produce(first: int) -> None:
        for n in range(first, jobs, PRODUCERS):
            queue.enqueue(stage.job(payload=n, priority=PRIORITIES[n % 3]))

    queue = stage.queue(handler, workers=WORKERS, capacity=CAPACITY)
    began = time.perf_counter()
    for producer in [Background(produce, first) for first in range(PRODUCERS)]:
        producer.result(PATIENCE)
    assert all_ran.wait(PATIENCE), f"Only {len(ran):,} of {jobs:,} jobs ran."
    seconds = time.perf_counter() - began
    # When every worker has come to the last jobs, a job handed out twice has run twice.
    for _ in range(WORKERS):
        queue.enqueue(stage.job(payload="last", priority="low"))
    all_workers_are_here.wait(PATIENCE)

    evidence(f"{len(ran):,} jobs in {seconds:.1f} s, {len(ran) - len(set(ran))} ran twice")
    assert sorted(ran) == list(range(jobs))
