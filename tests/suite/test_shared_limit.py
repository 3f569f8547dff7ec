"""Capability "shared-limit": a rate limit holds for all processes together.

The provider that takes 50 messages a second counts them all. A limit in each process's own memory
is as many limits as there are processes.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("shared-limit")

RATE = 50  # a second
BURST = 5
JOBS = 30


def test_two_queues_share_a_limit(
    stage: Stage, path: str, journal: Journal, evidence: Evidence
) -> None:
    address = stage.shared(path)

    def handler(job: Any) -> None:
        journal.write(time.monotonic())

    limit = stage.token_bucket(RATE, BURST)
    began = time.monotonic()
    one, other = (stage.queue(handler, path=address, rate_limit=limit) for _ in range(2))
    for n in range(JOBS):
        (one if n % 2 else other).enqueue(stage.job())
    journal.wait_for_count(JOBS)

    took = max(journal.entries) - began
    least = (JOBS - BURST) / RATE
    evidence(f"{JOBS} jobs of two queues at {RATE} a second started in {took * 1000:.0f} ms")
    assert took >= least, f"At that rate they take at least {least * 1000:.0f} ms."
