"""Capability "events": every change of a job is told to whoever subscribes.

A progress bar, a chart or an alarm that asks for the status again and again is late, and
a burden. It should be told.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Broken, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("events")


def test_every_change_of_a_job_is_told(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    attempts = Journal()

    def handler(job: Any) -> None:
        if attempts.write(job.id) == 1:
            raise Broken

    queue = stage.queue(handler, workers=1, backoff=stage.backoff(base=0.01, jitter=0))
    queue.subscribe(lambda change: journal.write(str(change.status)))
    queue.enqueue(stage.job(id="flaky"))
    journal.wait_for("completed")

    told = journal.entries
    evidence(f"{len(told)} changes of a job that failed once: {', '.join(told)}")
    assert told == ["queued", "processing", "retrying", "queued", "processing", "completed"]
