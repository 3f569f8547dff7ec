"""Capability "backpressure-timeout": a blocked producer can give up, and is told so.

A web request cannot wait for ever. It has to get its refusal in time to say "try again
later", and be sure that the job will not run after all.
"""

from __future__ import annotations

import queue as standard_library
import time
from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("backpressure-timeout")

CAPACITY = 5
JOBS = 50
TIMEOUT = 0.05


def test_a_blocked_producer_can_give_up(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.payload)
        gate.wait()

    queue = stage.queue(handler, workers=1, capacity=CAPACITY)
    queue.enqueue(stage.job(payload="held"))
    journal.wait_for("held")

    refused = None
    for n in range(JOBS):
        began = time.monotonic()
        try:
            queue.enqueue(stage.job(payload=n), timeout=TIMEOUT)
        except stage.QueueFull as error:
            refused, waited = error, time.monotonic() - began
            evidence(f"job {n + 1} of {JOBS} refused after {waited * 1000:.0f} ms")
            break
    else:
        evidence(f"{JOBS} jobs offered to a held worker: none refused")
    assert refused is not None, "No job was ever refused."
    assert isinstance(refused, standard_library.Full), "QueueFull is no queue.Full."
    assert n == CAPACITY
    assert waited >= TIMEOUT

    # A refusal is final, and the queue takes jobs again as soon as there is room.
    gate.open()
    queue.enqueue(stage.job(payload="next"))
    journal.wait_for("next")
    assert journal.entries == ["held", *range(CAPACITY), "next"]
