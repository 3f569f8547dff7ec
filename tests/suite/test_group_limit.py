"""Capability "group-limit": of one group at most so many jobs run at a time.

Turns alone share the starts. Where jobs take long, one tenant's can have all workers all the same.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("group-limit")

LIMIT = 2


def test_a_group_has_no_more_workers_than_its_limit(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.group)
        gate.wait()

    queue = stage.queue(handler, workers=4, group_limit=LIMIT)
    for _ in range(10):
        queue.enqueue(stage.job(group="slow"))
    queue.enqueue(stage.job(group="quick"))
    journal.wait_for("quick")
    journal.wait_for_count(LIMIT + 1)

    running = journal.entries.count("slow")
    evidence(f"10 slow jobs of one tenant held {running} of 4 workers")
    assert running == LIMIT
    gate.open()
