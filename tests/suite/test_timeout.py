"""Capability "timeout": a job that hangs does not hold its worker.

A call without a time-out waits for a silent server as long as that is silent. With a
few such jobs all workers wait, and the queue stands still without an error.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("timeout")

TIMEOUT = 0.05  # seconds


def test_a_hanging_job_does_not_hold_its_worker(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    started: dict[str, float] = {}

    def handler(job: Any) -> None:
        started[job.id] = time.monotonic()
        journal.write(job.id)
        if job.id == "hangs":
            gate.wait()  # and listens to nobody

    queue = stage.queue(handler, workers=1, max_retries=0, timeout=TIMEOUT)
    queue.enqueue(stage.job(id="hangs"))
    queue.enqueue(stage.job(id="next"))
    journal.wait_for_count(2)

    held = started["next"] - started["hangs"]
    evidence(
        f"a job that hangs, allowed {TIMEOUT * 1000:.0f} ms, "
        f"held the only worker for {held * 1000:.0f} ms"
    )
    assert str(queue.wait("hangs", timeout=DEADLINE).status) == "failed"
