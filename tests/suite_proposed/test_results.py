"""Capability "results": what a handler returns can be had, in the order of the jobs.

Workers finish in any order. Whoever wants the answers in the order of the questions
puts them in order where they come out, and not by running one job at a time.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("results")

JOBS = 20


def test_results_come_in_the_order_of_the_jobs(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> Any:
        if job.payload == 0:
            gate.wait()
        elif journal.write(job.payload) and len(journal.entries) == JOBS // 2:
            gate.open()  # so the first job ends behind ten others
        return job.payload**2

    queue = stage.queue(handler, workers=4)
    evidence(f"0 of {JOBS} results can be had")
    results = list(queue.map(range(JOBS)))
    evidence(f"{len(results)} of {JOBS} results in order, though the first job ended eleventh")
    assert results == [n**2 for n in range(JOBS)]
