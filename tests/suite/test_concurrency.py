"""Capability "concurrency": N workers run N jobs at the same time, and never more.

Fewer, and a slow job holds up the others while workers idle; more, and the limit that
protects the database or the service behind the handlers is none.
"""

from __future__ import annotations

import threading

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("concurrency")

WORKERS = 8


def test_n_workers_run_n_jobs_at_once(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    meeting = threading.Barrier(WORKERS)  # opens when all the workers are in a handler
    lock = threading.Lock()
    running = most = 0

    def handler(job: object) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait(DEADLINE)
        with lock:
            running -= 1
        journal.write("met")

    queue = stage.queue(handler, workers=WORKERS)
    for _ in range(3 * WORKERS):
        queue.enqueue(stage.job())
    journal.wait_for_count(3 * WORKERS)

    evidence(f"{most} jobs at once on {WORKERS} workers")
    assert most == WORKERS
