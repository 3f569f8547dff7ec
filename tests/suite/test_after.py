"""Capability "after": a job can be told to run after others.

First the payment, then the mail. Without it the handler of the first job has to know of the
second; or the second waits for the first inside its handler, and holds a worker for that.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("after")


def test_a_job_runs_after_those_that_it_names_and_holds_no_worker(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        if job.id == "pay":
            gate.wait()
        journal.write(job.id)

    queue = stage.queue(handler, workers=2)
    # A whole graph in one call: what comes after stands before what it waits for.
    graph = [stage.job(id="mail", after=["pay"]), stage.job(id="pay")]
    queue.enqueue_many(graph)
    for n in range(3):
        queue.enqueue(stage.job(id=f"other-{n}"))
    journal.wait_for_count(3)
    assert str(queue.status("mail")) == "waiting"
    gate.open()
    journal.wait_for("mail")

    evidence(f"while one waited for another, {len(journal.entries) - 2} others ran beside it")
    assert journal.entries[-2:] == ["pay", "mail"]
