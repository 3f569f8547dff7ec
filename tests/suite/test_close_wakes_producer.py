"""Capability "close-wakes-producer": close wakes the producers that wait for room.

They wait for workers that are about to leave. Nobody else would ever wake them, and a
process with a thread that waits for ever does not end.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Background, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("close-wakes-producer")

CAPACITY = 5
PRODUCERS = 8


def test_close_wakes_blocked_producers(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    calling, woken = Journal(), Journal()

    def handler(job: Any) -> None:
        journal.write("held")
        gate.wait()

    def produce() -> None:
        calling.write("enqueue")
        try:
            queue.enqueue(stage.job())  # no timeout: only room or close can end this
        except stage.QueueClosed:
            woken.write("closed")
            gate.open()  # so close may drain, and end

    queue = stage.queue(handler, workers=1, capacity=CAPACITY)
    queue.enqueue(stage.job())
    journal.wait_for("held")
    for _ in range(CAPACITY):
        queue.enqueue(stage.job())
    producers = [Background(produce) for _ in range(PRODUCERS)]
    calling.wait_for_count(PRODUCERS)
    try:
        queue.enqueue(stage.job(), timeout=0.05)  # gives the last of them time to block
    except stage.QueueFull:
        pass
    else:
        evidence(f"0 of {PRODUCERS} producers were blocked: there was nobody to wake")

    closing = Background(queue.close)
    for producer in producers:
        producer.result()
    if woken.entries:
        evidence(f"{len(woken.entries)} of {PRODUCERS} blocked producers woken by close")
    assert len(woken.entries) == PRODUCERS
    closing.result()
