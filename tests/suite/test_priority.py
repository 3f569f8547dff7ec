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

        queue = stage.queue(handler, workers=1)
        queue.enqueue(stage.job(payload="held"))
        journal.wait_for("held")
        for _ in range(LOW):
            queue.enqueue(stage.job(payload="low", priority="low"))
        for _ in range(MEDIUM):
            queue.enqueue(stage.job(payload="medium", priority="medium"))
        queue.enqueue(stage.job(payload="high", priority="high"))
        gate.open()
        journal.wait_for_count(1 + LOW + MEDIUM + 1)

        order = journal.entries[1:]
        position = order.index("high") + 1
        evidence(f"an urgent job behind {LOW + MEDIUM} others was number {position} to start")
        assert order == ["high"] + MEDIUM * ["medium"] + LOW * ["low"]
