"""Capability "rate-limit": jobs start no faster than somebody else can take them.

A mail provider that takes 50 messages a second bans whoever sends 5,000. Fewer workers
are no rate limit: how fast they are depends on how fast the provider answers.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("rate-limit")

RATE, BURST, JOBS = 100, 5, 30


def test_jobs_start_no_faster_than_the_limit(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    # A stage without rate limits has no word for one, and does not hear of it either.
    bucket = getattr(importlib.import_module(stage.name), "TokenBucket", None)

    def handler(job: Any) -> None:
        journal.write(time.monotonic())

    queue = stage.queue(handler, rate_limit=bucket and bucket(RATE, BURST))
    began = time.monotonic()
    for n in range(JOBS):
        queue.enqueue(stage.job(payload=n))
    journal.wait_for_count(JOBS)
    took = max(journal.entries) - began
    least = (JOBS - BURST) / RATE
    evidence(f"{JOBS} jobs at {RATE} a second started within {took * 1000:.0f} ms")
    assert took >= least - 0.005, f"At that rate they take at least {least * 1000:.0f} ms."
