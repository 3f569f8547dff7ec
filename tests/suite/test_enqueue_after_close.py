"""Capability "enqueue-after-close": a closed queue refuses jobs.

Taking a job that nobody will run is worse than any error: the caller believes that the
work is on its way.
"""

from __future__ import annotations

import pytest

from tests.helpers import Background, Evidence
from tests.stages import Stage

pytestmark = pytest.mark.capability("enqueue-after-close")

JOBS = 10


def test_a_closed_queue_refuses_jobs(stage: Stage, evidence: Evidence) -> None:
    queue = stage.queue(lambda job: None, workers=2)
    Background(queue.close).result()

    refused = 0
    for _ in range(JOBS):
        try:
            queue.enqueue(stage.job())
        except stage.QueueClosed:
            refused += 1
    evidence(f"{refused} of {JOBS} jobs refused after close")
    assert refused == JOBS
