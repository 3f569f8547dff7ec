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


def test_a_cancelled_job_never_runs(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)
        gate.wait()

    queue = stage.queue(handler, workers=1)
    for name in ("holder", "unwanted", "last"):
        queue.enqueue(stage.job(id=name))
    journal.wait_for("holder")
    evidence("0 of 1 waiting jobs could be cancelled")
    assert queue.cancel("unwanted") is True
    gate.open()
    journal.wait_for("last")
    evidence(f"1 of 1 waiting jobs was cancelled; ran: {', '.join(journal.entries)}")
    assert journal.entries == ["holder", "last"]
    assert str(queue.status("unwanted")) == "cancelled"
