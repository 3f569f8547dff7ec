"""Capability "close-drains": close runs what is queued before it returns.

A queue that was told "yes" for a job owes that job. Dropping what waits at every deploy
loses exactly the jobs that came in when it was busy.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Background, Evidence, Gate, Journal, open_when_closing
from tests.stages import Stage

pytestmark = pytest.mark.capability("close-drains")

JOBS = 20


class TestGracefulShutdown:
    def test_leaving_the_block_runs_what_is_queued(
        self, stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
    ) -> None:
        def handler(job: Any) -> None:
            gate.wait()  # opens when the closing has begun
            if job.payload != "filler":
                journal.write(job.payload)

        def run() -> int:
            with stage.queue(handler, workers=2, capacity=JOBS) as queue:
                for n in range(JOBS):
                    queue.enqueue(stage.job(payload=n))
                open_when_closing(stage, queue, gate, room=JOBS + 2)
            return len(journal.entries)

        done = Background(run).result()
        evidence(f"{done} of {JOBS} accepted jobs had run when close returned")
        assert sorted(journal.entries) == list(range(JOBS))
        assert done == JOBS
