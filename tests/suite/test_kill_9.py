"""Capability "kill-9": what was acknowledged survives the sudden death of the process.

Nobody closes a queue before the out-of-memory killer comes. Here a real child process
accepts jobs, starts one, and is killed with a signal that it cannot catch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DEADLINE, Background, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("kill-9")

JOBS = 100
ROOT = Path(__file__).parents[2]


def test_jobs_survive_kill_9(stage: Stage, path: str, journal: Journal, evidence: Evidence) -> None:
    command = [sys.executable, "-m", "tests.child", stage.name, path, str(JOBS)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        try:
            said = Background(child.stdout.readline).result(3 * DEADLINE)
        finally:
            child.kill()  # SIGKILL; on Windows TerminateProcess, which is as sudden
    assert said == "acknowledged\n"

    def handler(job: Any) -> None:
        journal.write(job.id)

    queue = stage.queue(handler, path=path, workers=1)
    queue.enqueue(stage.job(id="last"))  # behind all that is still there
    journal.wait_for("last")
    survived = journal.entries[:-1]
    evidence(f"{len(survived)} of {JOBS} acknowledged jobs ran after kill -9")
    assert sorted(survived) == sorted(f"job-{n}" for n in range(JOBS))
