"""Capability "cancel": a job that waits can be called off.

The order was cancelled, the report is no longer wanted, the campaign has a typo: what
waits in the queue must not go out any more.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("cancel")

JOBS = 10


def test_a_cancelled_job_never_runs(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)
        gate.wait()

    queue = stage.queue(handler, workers=1)
    unwanted = [f"unwanted-{n}" for n in range(JOBS)]
    for name in ("held", *unwanted, "last"):
        queue.enqueue(stage.job(id=name))
    journal.wait_for("held")
    cancelled = sum(queue.cancel(name) for name in unwanted)
    gate.open()
    journal.wait_for("last")

    ran = len(journal.entries) - 2
    evidence(f"{cancelled} of {JOBS} waiting jobs cancelled, {ran} of them ran")
    assert (cancelled, ran) == (JOBS, 0)
    assert {str(queue.status(name)) for name in unwanted} == {"cancelled"}
