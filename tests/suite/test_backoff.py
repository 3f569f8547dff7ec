"""Capability "backoff": each retry waits longer than the one before.

A service that is down is not helped by a thousand jobs that knock again at once. Waits
that double give it time, and cost the jobs of a short failure next to nothing.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import WORKER_DIED, Broken, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("backoff")

BASE = 0.02  # seconds before the first retry
JITTER = 0.1
RETRIES = 4


def test_retries_wait_longer_each_time(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    starts: list[float] = []
    failures: list[float] = []

    def handler(job: Any) -> None:
        starts.append(time.monotonic())
        if len(starts) > RETRIES:
            journal.write("success")
            return
        failures.append(time.monotonic())
        raise Broken

    backoff = stage.backoff(base=BASE, maximum=60, jitter=JITTER)
    queue = stage.queue(handler, workers=1, max_retries=RETRIES, backoff=backoff)
    queue.enqueue(stage.job())
    journal.wait_for("success", WORKER_DIED)

    waits = [start - failure for failure, start in zip(failures, starts[1:], strict=False)]
    text = ", ".join(f"{wait * 1000:.0f}" for wait in waits)
    evidence(f"{RETRIES} retries allowed, {len(waits)} came{f': after {text} ms' if waits else ''}")
    assert len(waits) == RETRIES
    for n, wait in enumerate(waits):
        least = 0.99 * (1 - JITTER) * BASE * 2**n  # 0.99: a wall clock may be nudged meanwhile
        assert wait >= least, f"Retry {n + 1} came after {wait:.3f} s, before {least:.3f} s."


def test_a_delay_lies_within_its_bounds(stage: Stage, evidence: Evidence) -> None:
    backoff = stage.backoff(base=1, maximum=60, jitter=JITTER)
    assert backoff is not None, "There is no Backoff."
    for retry, full in ((1, 1), (3, 4), (20, 60)):
        delays = [backoff.delay(retry) for _ in range(200)]
        evidence(f"before retry {retry} a wait of {min(delays):.2f} to {max(delays):.2f} s")
        assert (1 - JITTER) * full <= min(delays) < max(delays) <= full
