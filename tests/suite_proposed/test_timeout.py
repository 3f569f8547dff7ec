"""Capability "timeout": a job that takes too long does not hold its worker.

A call without a time-out waits for a silent server as long as that is silent. With a
few such jobs all workers wait, and the queue stands still without an error.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("timeout")

TIMEOUT = 0.05  # seconds
SLOW = 0.5


def test_a_slow_job_does_not_hold_its_worker(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    times: dict[str, float] = {}

    def handler(job: Any) -> None:
        times[job.id] = time.monotonic()
        if job.id == "slow":
            time.sleep(SLOW)  # its work, which listens to nobody
            journal.write("slow has ended")
        else:
            journal.write("next has started")

    queue = stage.queue(handler, workers=1, max_retries=0, timeout=TIMEOUT)
    queue.enqueue(stage.job(id="slow"))
    queue.enqueue(stage.job(id="next"))
    journal.wait_for_count(2)
    waited = times["next"] - times["slow"]
    evidence(f"a job with {TIMEOUT:.2f} s held the only worker for {waited:.2f} s")
    assert journal.entries == ["next has started", "slow has ended"]
