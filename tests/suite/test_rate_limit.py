"""Capability "rate-limit": jobs start no faster than somebody else can take them.

A mail provider that takes 50 messages a second bans whoever sends 5,000. Fewer workers
are no rate limit: how fast they are depends on how fast the provider answers.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("rate-limit")

RATE = 100  # a second
BURST = 5
JOBS = 30


def test_jobs_start_no_faster_than_the_limit(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(time.monotonic())

    began = time.monotonic()
    queue = stage.queue(handler, rate_limit=stage.token_bucket(RATE, BURST))
    for n in range(JOBS):
        queue.enqueue(stage.job(payload=n))
    journal.wait_for_count(JOBS)

    took = max(journal.entries) - began
    least = (JOBS - BURST) / RATE
    evidence(
        f"{JOBS} jobs at {RATE} a second, {BURST} of them at once, started in {took * 1000:.0f} ms"
    )
    assert took >= least, f"At that rate they take at least {least * 1000:.0f} ms."
