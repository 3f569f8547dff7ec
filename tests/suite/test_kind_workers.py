"""Capability "kind-workers": a kind that is slow does not take all workers.

A partner that answers in thirty seconds instead of one holds every worker that calls it. Without
a bound that is soon all of them, and jobs that never call it wait, too.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("kind-workers")

JOBS = 10


def test_others_run_while_a_kind_is_full(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def slow(job: Any) -> None:
        journal.write("slow")
        gate.wait()

    kinds = {"slow": stage.kind(slow, workers=2), "quick": lambda job: journal.write("quick")}
    queue = stage.queue(kinds, workers=4)
    for _ in range(JOBS):
        queue.enqueue(stage.job(kind="slow"))
    ids = [queue.enqueue(stage.job(kind="quick")) for _ in range(JOBS)]
    for job_id in ids:
        queue.wait(job_id, DEADLINE)
    journal.wait_for_count(JOBS + 2)

    held = journal.entries.count("slow")
    evidence(f"{held} slow jobs held 2 of 4 workers, and {JOBS} quick ones behind them ran")
    assert held == 2, "At most so many of that kind run at a time."
    gate.open()
    queue.join(DEADLINE)
    assert journal.entries.count("slow") == JOBS
