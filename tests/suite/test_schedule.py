"""Capability "schedule": a job can be told not to run before its time.

"Remind me in an hour" is not work for now. Without it somebody sleeps in a handler and
holds a worker for an hour, or a cron job appears beside the queue.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("schedule")

DELAY = 0.1  # seconds
A_DAY = 86_400


def test_a_job_waits_for_its_time_and_holds_up_nobody(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    started: dict[str, float] = {}

    def handler(job: Any) -> None:
        started[job.id] = time.monotonic()
        journal.write(job.id)

    queue = stage.queue(handler, workers=1)
    queue.enqueue(stage.job(id="tomorrow", run_at=A_DAY))
    enqueued = time.monotonic()
    queue.enqueue(stage.job(id="later", run_at=DELAY))
    queue.enqueue(stage.job(id="now"))
    journal.wait_for_count(2)

    assert sorted(journal.entries) == ["later", "now"]
    waited = started["later"] - enqueued
    evidence(f"a job for in {DELAY * 1000:.0f} ms started after {waited * 1000:.0f} ms")
    assert waited >= 0.99 * DELAY  # a wall clock may be nudged meanwhile
    assert str(queue.status("tomorrow")) == "scheduled"
