"""Capability "unknown-id": the status of a job that never was is an error, not a guess.

A mistyped id that reads as "queued" is waited for until somebody gives up.
"""

from __future__ import annotations

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("unknown-id")

UNKNOWN = ("nobody", "job-", "job-12", "JOB-1")


def test_an_unknown_id_is_an_error(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    queue = stage.queue(lambda job: journal.write(job.id), workers=1)
    queue.enqueue(stage.job(id="job-1"))
    journal.wait_for("job-1")

    refused = 0
    evidence(f"{refused} of {len(UNKNOWN)} unknown ids refused")
    assert str(queue.wait("job-1", timeout=DEADLINE).status) == "completed"
    for job_id in UNKNOWN:
        with pytest.raises(KeyError, match=job_id):
            queue.status(job_id)
        refused += 1
    evidence(f"{refused} of {len(UNKNOWN)} unknown ids refused")
