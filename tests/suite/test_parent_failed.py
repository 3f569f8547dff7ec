"""Capability "parent-failed": what a failed job means for those after it is said beforehand.

No payment, no parcel; but the report on what went wrong goes out all the same.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("parent-failed")


def test_a_failed_job_takes_those_along_that_do_not_run_all_the_same(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)
        if job.id == "pay":
            raise ValueError("no money")

    queue = stage.queue(handler, workers=1, max_retries=0)
    graph = [
        stage.job(id="pay"),
        stage.job(id="pack", after=["pay"]),
        stage.job(id="send", after=["pack"]),
        stage.job(id="report", after=["pay", "send"], if_failed="run"),
    ]
    queue.enqueue_many(graph)
    queue.wait("report", timeout=DEADLINE)

    statuses = [str(queue.status(name)) for name in ("pay", "pack", "send", "report")]
    evidence(f"a job, two after it and a report became {', '.join(statuses)}")
    assert statuses == ["failed", "cancelled", "cancelled", "completed"]
    assert journal.entries == ["pay", "report"]
    assert "pay" in queue.get("pack").error
