"""Capability "worker-survival": a raising handler ends its attempt, not its worker.

Every worker that dies of a bad job is one fewer for the good ones. After as many bad
jobs as there are workers the queue stands still, and nobody is told.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.helpers import DEADLINE, WORKER_DIED, Broken, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("worker-survival")

WORKERS = 4


def test_a_raising_handler_does_not_kill_its_worker(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    meeting = threading.Barrier(WORKERS)  # opens when every worker is in a good job

    def handler(job: Any) -> None:
        if job.payload == "raises":
            raise Broken
        if job.payload == "exits":
            raise SystemExit("of a library that the handler calls")
        meeting.wait(DEADLINE)
        journal.write("survived")

    queue = stage.queue(handler, workers=WORKERS, max_retries=0)
    for payload in (*("raises", "exits") * (WORKERS // 2), *("good",) * WORKERS):
        queue.enqueue(stage.job(payload=payload))
    journal.wait_for_count(WORKERS)  # the fate of each worker

    deaths = journal.entries.count(WORKER_DIED)
    evidence(f"{WORKERS} bad jobs ended {deaths} of {WORKERS} workers")
    assert deaths == 0
