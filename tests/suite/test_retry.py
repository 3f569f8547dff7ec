"""Capability "retry": a job that fails is tried again, until it succeeds.

Most failures pass: a time-out, a locked row, a service that is being restarted. Without
a retry each of them is a lost job and a letter to the support.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Background, Broken, Evidence, Journal, rounds
from tests.stages import Stage

pytestmark = pytest.mark.capability("retry")


class TestRetry:
    def test_a_failed_job_is_tried_again(
        self, stage: Stage, journal: Journal, evidence: Evidence
    ) -> None:
        def handler(job: Any) -> None:
            attempt = journal.write(job.id)
            if job.id == "flaky":
                if attempt <= 2:
                    raise Broken
                journal.write("success")

        queue = stage.queue(handler, workers=1, max_retries=3, backoff=stage.backoff(base=0))
        queue.enqueue(stage.job(id="flaky"))
        rounds(stage, queue, journal, 8)

        attempts = journal.entries.count("flaky")
        successes = journal.entries.count("success")
        evidence(f"attempts at a job that fails twice: {attempts}, successes: {successes}")
        assert successes == 1
        assert attempts == 3

    def test_close_waits_for_its_retries(
        self, stage: Stage, journal: Journal, evidence: Evidence
    ) -> None:
        def handler(job: Any) -> None:
            if journal.write("attempt") <= 2:
                raise Broken

        queue = stage.queue(handler, workers=1, max_retries=3, backoff=stage.backoff(base=0.05))
        queue.enqueue(stage.job())
        journal.wait_for("attempt")
        Background(queue.close).result()

        attempts = journal.entries.count("attempt")
        evidence(f"of 3 attempts {attempts} had been made when close returned")
        assert attempts == 3
