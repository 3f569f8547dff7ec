"""Capability "shared-backlog": several processes take jobs from one queue, each job once.

One process has the cores of one machine, and ends with it. With a second one the question is who
takes which job, and that no two take the same.
"""

from __future__ import annotations

import pytest

from tests.helpers import Evidence
from tests.host import Host
from tests.stages import Stage

pytestmark = pytest.mark.capability("shared-backlog")

JOBS = 200


def test_each_job_runs_in_one_process(stage: Stage, path: str, evidence: Evidence) -> None:
    address = stage.shared(path)
    with Host(address, workers=2) as one, Host(address, workers=2) as other:
        one.wait_for("ready")
        other.wait_for("ready")
        queue = stage.queue(print, path=address, workers=0)  # it only brings jobs
        ids = [queue.enqueue(stage.job(payload=0.001)) for _ in range(JOBS)]
        queue.join(timeout=30)
        one.kill()
        other.kill()
        ran = [[line.removeprefix("started ") for line in host.lines()] for host in (one, other)]

    both = sum(map(bool, ran))
    twice = len(ran[0] + ran[1]) - len(set(ran[0] + ran[1]))
    evidence(f"{JOBS} jobs: {len(ran[0])} ran in one process, {len(ran[1])} in the other")
    assert both == 2
    assert twice == 0
    assert sorted(ran[0] + ran[1]) == sorted(ids)
