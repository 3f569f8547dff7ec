"""Capability "cancel-all": all jobs of one user can be called off.

A customer has left, or a deployment has enqueued nonsense for an hour. Nobody cancels ten thousand
jobs by their ids; and a statement that cancels them all at once would hold up everybody else.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("cancel-all")

USERS = 2
JOBS = 1_200


def test_those_of_one_user_never_run(
    stage: Stage, journal: Journal, evidence: Evidence, gate: Gate
) -> None:
    def handler(job: Any) -> None:
        gate.wait()
        journal.write(job.id)

    queue = stage.queue(handler, workers=1, capacity=2 * JOBS)
    holder = queue.enqueue(stage.job())
    jobs = [stage.job(meta={"user": str(n % USERS)}) for n in range(JOBS)]
    ids = queue.enqueue_many(jobs)
    of_one = {job_id for n, job_id in enumerate(ids) if n % USERS}
    counted = queue.cancel_all(meta={"user": "1"}, dry_run=True)
    told: list[int] = []
    cancelled = queue.cancel_all(meta={"user": "1"}, progress=told.append)
    gate.open()
    queue.join(timeout=DEADLINE)

    evidence(f"of {JOBS} waiting jobs the {cancelled} of one user never ran, in {len(told)} turns")
    assert counted == cancelled == len(of_one) == told[-1]
    assert len(told) > 1
    assert set(journal.entries) == {holder, *ids} - of_one
