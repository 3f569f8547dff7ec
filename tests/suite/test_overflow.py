"""Capability "overflow": a full lane can refuse or drop jobs instead of blocking.

Not every producer can wait. A web server would rather say no at once, and of a sensor's
readings the latest is worth more than the one that has waited longest.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Background, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("overflow")

CAPACITY = 3
JOBS = 10
FIRST = list(range(CAPACITY))
LAST = list(range(JOBS - CAPACITY, JOBS))


def test_a_full_lane_refuses_or_drops(stage: Stage, evidence: Evidence) -> None:
    refused, ran = offer(stage, "reject")
    assert (refused, ran) == (JOBS - CAPACITY, FIRST)
    none, newest_dropped = offer(stage, "drop-newest")
    assert (none, newest_dropped) == (0, FIRST)
    none, oldest_dropped = offer(stage, "drop-oldest")
    assert (none, oldest_dropped) == (0, LAST)
    evidence(
        f"of {JOBS} jobs for a lane of {CAPACITY}, reject refused {refused}; drop-newest "
        f"ran {newest_dropped}, drop-oldest {oldest_dropped}"
    )


def offer(stage: Stage, overflow: str) -> tuple[int, list[int]]:
    """Offer the jobs to a full lane whose only worker is held: how many it refused, which ran."""
    gate, journal = Gate(), Journal()

    def handler(job: Any) -> None:
        journal.write(job.payload)
        gate.wait()

    def produce() -> int:
        refused = 0
        for n in range(JOBS):
            try:
                queue.enqueue(stage.job(payload=n))
            except stage.QueueFull:
                refused += 1
        return refused

    queue = stage.queue(handler, workers=1, capacity=CAPACITY, overflow=overflow)
    queue.enqueue(stage.job(payload="held"))
    journal.wait_for("held")
    refused = Background(produce).result()  # it must not block; if it does, this does not hang
    queue.enqueue(stage.job(payload="last", priority="low"))  # in a lane that is not full
    gate.open()
    journal.wait_for("last")
    return refused, journal.entries[1:-1]
