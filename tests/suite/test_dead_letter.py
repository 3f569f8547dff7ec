"""Capability "dead-letter": retries end, and then the job counts as failed.

A job that can never succeed would otherwise go round for ever and keep a worker busy;
one that vanishes instead cannot be looked at and mended.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Broken, Evidence, Journal, rounds
from tests.stages import Stage

pytestmark = pytest.mark.capability("dead-letter")


def test_retries_end_and_the_job_counts_as_failed(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)
        if job.id == "hopeless":
            raise Broken

    queue = stage.queue(handler, workers=1, max_retries=3, backoff=stage.backoff(base=0))
    queue.enqueue(stage.job(id="hopeless"))
    rounds(stage, queue, journal, 10)  # more than enough for a fifth attempt

    attempts = journal.entries.count("hopeless")
    evidence(f"attempts with 3 retries allowed: {attempts}")
    assert attempts == 4
    metrics = queue.metrics()
    evidence(
        f"attempts with 3 retries allowed: {attempts}, then counted as failed: {metrics.failed}"
    )
    assert (metrics.failed, metrics.retrying) == (1, 0)
