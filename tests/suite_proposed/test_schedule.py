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

DELAY = 0.2  # seconds


def test_a_job_waits_for_its_time_and_holds_up_nobody(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    started: dict[str, float] = {}

    def handler(job: Any) -> None:
        started[job.id] = time.monotonic()
        journal.write(job.id)

    queue = stage.queue(handler, workers=1)
    enqueued = time.monotonic()
    queue.enqueue(stage.job(id="later", run_at=DELAY))
    queue.enqueue(stage.job(id="now"))
    journal.wait_for_count(2)
    waited = started["later"] - enqueued
    evidence(f"a job for in {DELAY * 1000:.0f} ms started after {waited * 1000:.1f} ms")
    assert journal.entries == ["now", "later"]
    assert waited >= DELAY - 0.005  # two clocks: wall and monotonic
