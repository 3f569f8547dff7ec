"""Capability "close-in-flight": close returns when the jobs in flight have finished.

A deploy that does not wait cuts jobs off in the middle: the card is charged, the order
is not written.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import Background, Evidence, Gate, Journal, open_when_closing
from tests.stages import Stage

pytestmark = pytest.mark.capability("close-in-flight")

WORKERS = 3


def test_close_waits_for_the_jobs_in_flight(stage: Stage, gate: Gate, evidence: Evidence) -> None:
    started, finished = Journal(), Journal()

    def handler(job: Any) -> None:
        if job.payload != "filler":
            started.write(job.id)
            gate.wait()  # opens when the closing has begun
            time.sleep(job.payload * 0.02)  # its work: the second and the third take longer
            finished.write(job.id)

    def run() -> int:
        for n in range(WORKERS):
            queue.enqueue(stage.job(payload=n))
        started.wait_for_count(WORKERS)
        open_when_closing(stage, queue, gate, room=1)
        queue.close()
        return len(finished.entries)

    queue = stage.queue(handler, workers=WORKERS, capacity=1)
    done = Background(run).result()
    evidence(f"{done} of {WORKERS} jobs in flight had finished when close returned")
    assert done == WORKERS
