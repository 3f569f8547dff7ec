"""Capability "backpressure": a full lane blocks its producer until there is room.

Work that comes in faster than it goes out has to wait somewhere. If not with the one
who makes it, then in memory, until that ends too.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Background, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("backpressure")

CAPACITY = 10
JOBS = 100


class TestBackpressure:
    def test_a_full_lane_blocks_its_producer(
        self, stage: Stage, gate: Gate, evidence: Evidence
    ) -> None:
        accepted, ran = Journal(), Journal()

        def handler(job: Any) -> None:
            ran.write("started")
            gate.wait()

        def produce() -> None:
            for n in range(JOBS):
                queue.enqueue(stage.job(payload=n))  # no timeout: it waits as long as it takes
                accepted.write(n)

        queue = stage.queue(handler, workers=1, capacity=CAPACITY)
        producer = Background(produce)
        fits = CAPACITY + 1  # the lane, and the one that the worker is held with
        accepted.wait_for_count(fits)
        ran.wait_for_count(1)
        # Is there room for one more? A queue without bounds has it, and the producer ends.
        try:
            queue.enqueue(stage.job(payload="one more"), timeout=0.05)
        except stage.QueueFull:
            blocked_at = len(accepted.entries)
            evidence(f"the only worker held: producer blocked at {blocked_at} of {JOBS} jobs")
        else:
            producer.result()
            blocked_at = len(accepted.entries)
            evidence(f"the only worker held: {blocked_at} jobs queued, the producer never waited")
        assert blocked_at == fits

        gate.open()
        producer.result()
        ran.wait_for_count(JOBS)
