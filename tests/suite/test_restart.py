"""Capability "restart": jobs survive a restart of the process.

Every deploy is a restart. A queue that lives in memory loses at each of them what its
callers believe to be on its way.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("restart")

DONE = 3
JOBS = 20
ROOT = Path(__file__).parents[2]
# The id of the first job that a process makes.
FIRST_ID = "import sys; from tests.stages import Stage; print(Stage(sys.argv[1]).job().id)"


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

    def test_two_processes_give_different_ids(self, stage: Stage, evidence: Evidence) -> None:
        """They may write into the same file."""
        command = [sys.executable, "-c", FIRST_ID, stage.name]
        processes = [
            subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(2)
        ]
        one, other = (process.communicate(timeout=60)[0].strip() for process in processes)
        evidence(f"two processes call their first jobs {one} and {other}")
        assert one != other
