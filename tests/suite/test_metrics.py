"""Capability "metrics": the counts are right, and they add up.

    accepted = queued + processing + retrying + completed + failed

Without them nobody can say how far the queue is, or that it stands still. Counts that
do not add up are worse: a job that is in none of them is lost, and nobody sees it.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import (
    DEADLINE,
    WORKER_DIED,
    Background,
    Broken,
    Evidence,
    Gate,
    Journal,
    rounds,
)
from tests.stages import Stage

pytestmark = pytest.mark.capability("metrics")

RETRIES = 2
# A retry may be in the queue one round after its attempt has failed: its turn is the second one.
ROUNDS = 2 * RETRIES + 1
JOBS = 300
GOOD, FLAKY, HOPELESS, HELD, WAITING = 20, 5, 3, 1, 4
COUNTS = {
    "queued": WAITING,
    "processing": HELD,
    "retrying": 0,
    "completed": GOOD + FLAKY + ROUNDS,
    "failed": HOPELESS,
}


class TestMetrics:
    def test_every_job_is_counted_where_it_is(
        self, stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
    ) -> None:
        def handler(job: Any) -> None:
            attempt = journal.write(job.id)
            if job.payload == "hopeless" or (job.payload == "flaky" and attempt == 1):
                raise Broken
            if job.payload == "held":
                gate.wait()

        def enqueue(payload: str, count: int) -> None:
            for n in range(count):
                queue.enqueue(stage.job(id=f"{payload}-{n}", payload=payload))

        backoff = stage.backoff(base=0)
        queue = stage.queue(handler, workers=1, max_retries=RETRIES, backoff=backoff)
        enqueue("good", GOOD)
        enqueue("flaky", FLAKY)
        enqueue("hopeless", HOPELESS)
        rounds(stage, queue, journal, ROUNDS)
        enqueue("held", HELD)
        journal.wait_for("held-0", WORKER_DIED)  # so the worker is done with all the others
        enqueue("waiting", WAITING)

        accepted = sum(COUNTS.values())
        evidence(f"{accepted} jobs went in, 0 can be accounted for")
        metrics = queue.metrics()
        counts = {name: getattr(metrics, name) for name in COUNTS}
        text = " + ".join(f"{count} {name}" for name, count in counts.items() if count)
        evidence(f"{metrics.accepted} accepted = {text}")
        assert counts == COUNTS
        assert metrics.accepted == accepted

    def test_they_add_up_at_every_moment(self, stage: Stage, evidence: Evidence) -> None:
        tried: set[str] = set()

        def handler(job: Any) -> None:
            if job.id not in tried:
                tried.add(job.id)
                raise Broken

        def produce() -> None:
            for n in range(JOBS):
                queue.enqueue(stage.job(id=f"job-{n}"))

        queue = stage.queue(handler, workers=4, backoff=stage.backoff(base=0))
        first = queue.metrics()
        Background(produce)
        looks = wrong = 0
        until = time.monotonic() + 3 * DEADLINE
        while (seen := queue.metrics()).completed < JOBS and time.monotonic() < until:
            looks += 1
            wrong += seen.accepted != sum(getattr(seen, name) for name in COUNTS)

        evidence(f"{wrong} of {looks} looks at {JOBS} jobs on their way did not add up")
        assert wrong == 0
        assert seen.completed == JOBS
        assert first.accepted == 0, "What metrics() returned at first has changed since."
