"""Capability "fifo": jobs of the same priority start in the order in which they came.

Without it a job can wait for ever behind later ones, and two updates of the same
record can be applied in the wrong order.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("fifo")

JOBS = 100


def test_first_in_first_out(stage: Stage, gate: Gate, journal: Journal, evidence: Evidence) -> None:
    def handler(job: Any) -> None:
        gate.wait()
        journal.write(job.payload)

    queue = stage.queue(handler, workers=1)
    for n in range(JOBS):
        for lane in ("high", "medium", "low"):
            queue.enqueue(stage.job(payload=[lane, n], priority=lane))
    gate.open()
    journal.wait_for_count(3 * JOBS)

    started = {
        lane: [n for at, n in journal.entries if at == lane] for lane in ("high", "medium", "low")
    }
    in_place = sum(n == k for lane in started.values() for k, n in enumerate(lane))
    evidence(f"{in_place} of {3 * JOBS} jobs started in their turn")
    for lane, numbers in started.items():
        assert numbers == list(range(JOBS)), f"The {lane} jobs ran out of order."
