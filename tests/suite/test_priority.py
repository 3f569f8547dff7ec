"""Capability "priority": urgent jobs run first.

A password reset behind 100 newsletters comes when nobody waits for it any more.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("priority")

LOW = 100
MEDIUM = 5


class TestPriority:
    def test_urgent_jobs_run_first(
        self, stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
    ) -> None:
        def handler(job: Any) -> None:
            journal.write(job.payload)
            gate.wait()

        def enqueue(priority: str) -> None:
            try:
                queue.enqueue(stage.job(payload=priority, priority=priority), timeout=0)
            except stage.QueueFull:
                pytest.fail(f"With {LOW} LOW jobs, no {priority.upper()} one was let in.")

        queue = stage.queue(handler, workers=1, capacity=LOW)  # so that LOW is full
        queue.enqueue(stage.job(payload="held"))
        journal.wait_for("held")
        for priority in (*LOW * ["low"], *MEDIUM * ["medium"], "high"):
            enqueue(priority)
        gate.open()
        journal.wait_for_count(1 + LOW + MEDIUM + 1)

        order = journal.entries[1:]
        position = order.index("high") + 1
        evidence(f"an urgent job behind {LOW + MEDIUM} others was number {position} to start")
        assert order == ["high"] + MEDIUM * ["medium"] + LOW * ["low"]
