"""Capability "debounce": of many jobs in a row one runs, with what the last one brought.

Each key press makes the search index stale. To index at each is waste, to index at the first is
wrong: one run shortly after the last is what is wanted, and one now and then if they never end.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("debounce")

CHANGES = 20
LONGEST = 0.3  # seconds that the first one is put off
A_DAY = 86_400


def test_one_job_runs_for_many_with_the_payload_of_the_last(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.payload)

    queue = stage.queue(handler, workers=1)
    index = stage.unique("index", then="replace", max_wait=LONGEST)
    changes = range(CHANGES)
    jobs = [stage.job(payload=n, unique=index, run_at=A_DAY) for n in changes]
    ids = queue.enqueue_many(jobs)
    queue.wait(ids[0], timeout=DEADLINE)

    record = queue.get(ids[0])
    waited = record.started_at - record.enqueued_at
    evidence(
        f"{CHANGES} jobs were one, which ran with the last payload {waited:.1f} s after the first"
        " came, though all asked to be put off for a day"
    )
    assert set(ids) == {ids[0]}
    assert journal.entries == [CHANGES - 1]
    assert waited >= 0.99 * LONGEST
