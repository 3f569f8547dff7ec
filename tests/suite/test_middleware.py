"""Capability "middleware": code of the program's own runs around every job.

A database session, the tenant of the request, a clock: without a place for it, each of forty
handlers begins and ends with the same six lines, and the forty-first forgets them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("middleware")

JOBS = 10


def test_it_runs_around_each_job_and_sees_how_it_ends(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def session(job: Any, call_next: Any) -> Any:
        journal.write("open")
        try:
            result = call_next(job)
        except ValueError:
            journal.write("roll back")
            raise
        journal.write("commit")
        return result

    def handler(job: Any) -> None:
        journal.write("work")
        if job.payload == "fails":
            raise ValueError("no")

    queue = stage.queue(handler, workers=1, max_retries=0, middleware=[session])
    for number in range(JOBS):
        queue.enqueue(stage.job(payload="fails" if number % 2 else "works"))
    queue.join(DEADLINE)

    ends = [journal.entries.count(end) for end in ("commit", "roll back")]
    evidence(f"around {JOBS} jobs: a session each, {ends[0]} committed, {ends[1]} rolled back")
    both = ["open", "work", "commit", "open", "work", "roll back"]
    assert journal.entries == both * (JOBS // 2)
