"""Capability "bounded-memory": a producer that is faster than the workers does not fill the memory.

An unbounded queue hides every overload until the process is killed for its size, and
takes all that was queued with it.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("bounded-memory")

JOBS = 50_000
CAPACITY = 100
MEGABYTE = 1_000_000


def test_a_fast_producer_does_not_fill_the_memory(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write("held")
        gate.wait()

    queue = stage.queue(handler, workers=1, capacity=CAPACITY)
    queue.enqueue(stage.job())
    journal.wait_for("held")

    accepted = 0
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        try:
            for n in range(JOBS):
                queue.enqueue(stage.job(id=f"job-{n}", payload=f"{n:0500}"), timeout=0)
                accepted += 1
        except stage.QueueFull:
            pass
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    megabytes = (after - before) / MEGABYTE
    if accepted == JOBS:
        evidence(f"{accepted:,} jobs queued, {megabytes:.0f} MB, the producer never waited")
    else:
        evidence(f"producer stopped at {accepted} jobs, {megabytes:.1f} MB")
    assert accepted == CAPACITY
    assert megabytes < 5
