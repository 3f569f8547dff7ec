"""Capability "results": what a handler returns can be had, in the order of the jobs.

Workers finish in any order. Whoever wants the answers in the order of the questions
puts them in order where they come out, and not by running one job at a time.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("results")

JOBS = 20
OVERTAKE = 10  # jobs that end before the first one does


def test_results_come_in_the_order_of_the_jobs(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> Any:
        if job.payload == 0:
            gate.wait()
        journal.write(job.payload)
        if len(journal.entries) >= OVERTAKE:
            gate.open()
        return job.payload**2

    queue = stage.queue(handler, workers=4)
    results = list(queue.map(range(JOBS), timeout=DEADLINE))

    in_order = sum(result == n**2 for n, result in enumerate(results))
    ended = journal.entries.index(0) + 1
    evidence(
        f"{in_order} of {JOBS} results in order, though the first job was number {ended} to end"
    )
    assert results == [n**2 for n in range(JOBS)]
    assert ended > OVERTAKE
