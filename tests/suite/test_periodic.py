"""Capability "periodic": a job is enqueued again and again, once for each tick.

A cron line starts a program, whether or not the last one has ended, and on each machine that has
the line. A queue can do better: a tick is a job like any other, and there is one of it.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("periodic")

INTERVAL = 0.05  # seconds
TICKS = 5


def test_each_tick_is_one_job(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)

    every = stage.every(INTERVAL, stage.job(), name="clean-up", missed="all")
    queue = stage.queue(handler, workers=2, periodic=[every])
    journal.wait_for_count(TICKS)
    queue.pause_periodic("clean-up")
    queue.join(timeout=DEADLINE)

    ids = sorted(record.id for record in queue.jobs())
    moments = [datetime.fromisoformat(job_id.partition("@")[2]) for job_id in ids]
    seconds = [(later - first).total_seconds() for first, later in itertools.pairwise(moments)]
    evidence(f"{len(ids)} ticks, {INTERVAL * 1000:.0f} ms from each to the next, were as many jobs")
    assert sorted(journal.entries) == ids
    assert seconds == [pytest.approx(INTERVAL)] * (len(ids) - 1)
