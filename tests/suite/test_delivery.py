"""Capability "delivery": on a good day every job runs once, however many workers there are.

Two workers that take the same job send the same letter twice; a job that falls between
them is never sent.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("delivery")

JOBS = 1000
WORKERS = 8


def test_every_job_runs_exactly_once(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    all_workers_are_here = threading.Barrier(WORKERS)

    def handler(job: Any) -> None:
        if job.payload == "last":
            all_workers_are_here.wait(DEADLINE)
        journal.write(job.id)

    queue = stage.queue(handler, workers=WORKERS)
    for n in range(JOBS):
        queue.enqueue(stage.job(id=f"once-{n}"))
    journal.wait_for_count(JOBS)
    # When every worker has come to the last jobs, none can still be at an earlier one: a
    # job that was handed out twice has run twice by now.
    for _ in range(WORKERS):
        queue.enqueue(stage.job(payload="last"))
    journal.wait_for_count(JOBS + WORKERS)

    runs = Counter(entry for entry in journal.entries if entry.startswith("once-"))
    evidence(f"{len(runs):,} of {JOBS:,} jobs ran, {runs.total() - len(runs)} of them again")
    assert runs == {f"once-{n}": 1 for n in range(JOBS)}
