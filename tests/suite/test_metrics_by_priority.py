"""Capability "metrics-by-priority": the same counts for each priority.

A total of ten queued jobs says little: ten waiting newsletters are fine, ten waiting
password resets are an alarm.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import WORKER_DIED, Broken, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("metrics-by-priority")

LANES = {
    "high": {"queued": 4, "processing": 0, "retrying": 0, "completed": 3, "failed": 0},
    "medium": {"queued": 5, "processing": 1, "retrying": 0, "completed": 0, "failed": 0},
    "low": {"queued": 6, "processing": 0, "retrying": 2, "completed": 0, "failed": 0},
}


def test_every_lane_has_its_own_counts(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)
        if job.payload == "bad":
            raise Broken
        if job.payload == "held":
            gate.wait()

    def enqueue(payload: str, priority: str, count: int) -> None:
        for n in range(count):
            job_id = f"{payload}-{priority}-{n}"
            queue.enqueue(stage.job(id=job_id, payload=payload, priority=priority))

    # A minute's backoff: what failed is still waiting for its retry when we count.
    queue = stage.queue(handler, workers=1, backoff=stage.backoff(base=60))
    enqueue("good", "high", LANES["high"]["completed"])
    enqueue("bad", "low", LANES["low"]["retrying"])
    journal.wait_for("bad-low-1", WORKER_DIED)
    enqueue("held", "medium", LANES["medium"]["processing"])
    journal.wait_for("held-medium-0", WORKER_DIED)  # so the worker is done with the others
    for lane, expected in LANES.items():
        enqueue("waiting", lane, expected["queued"])

    accepted = sum(sum(expected.values()) for expected in LANES.values())
    evidence(f"{accepted} jobs went in on 3 priorities, 0 lanes can be looked at")
    metrics = queue.metrics()
    lanes = {
        lane: {name: getattr(metrics.by_priority[lane], name) for name in expected}
        for lane, expected in LANES.items()
    }
    queued = ", ".join(f"{lane} {counts['queued']}" for lane, counts in lanes.items())
    evidence(f"{metrics.queued} queued: {queued}")
    assert lanes == LANES
    for name in ("queued", "processing", "retrying", "completed", "failed", "accepted"):
        lane_counts = [getattr(lane, name) for lane in metrics.by_priority.values()]
        assert sum(lane_counts) == getattr(metrics, name), f"The lanes' {name} do not add up."
