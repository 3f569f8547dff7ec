"""Capability "restart": jobs survive a restart of the process.

Every deploy is a restart. A queue that lives in memory loses at each of them what its
callers believe to be on its way.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("restart")

DONE = 3
JOBS = 20


class TestPersistence:
    def test_jobs_survive_a_restart(
        self, stage: Stage, gate: Gate, path: str, evidence: Evidence
    ) -> None:
        before, after = Journal(), Journal()

        def hold(job: Any) -> None:
            before.write(job.id)
            if job.payload["number"] == DONE:
                gate.wait()

        # The first session ends while one job is in flight and the others are queued.
        queue = stage.queue(hold, path=path, workers=1)
        for n in range(JOBS):
            queue.enqueue(stage.job(id=f"job-{n}", payload={"number": n}))
        before.wait_for(f"job-{DONE}")
        queue.close(drain=False, timeout=0)

        # The second opens the same file. The last job comes behind all that is still there.
        queue = stage.queue(lambda job: after.write((job.id, job.payload)), path=path, workers=1)
        queue.enqueue(stage.job(id="last"))
        after.wait_for(("last", None))

        survived = after.entries[:-1]
        evidence(f"{len(survived)} of {JOBS - DONE} unfinished jobs ran after a restart")
        assert survived == [(f"job-{n}", {"number": n}) for n in range(DONE, JOBS)]
