"""Capability "retry-frees-worker": a job that waits for its retry holds no worker.

A worker that sleeps out the backoff does nothing else meanwhile. A few failing jobs
then put the whole pool to sleep, just when the queue fills up.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.helpers import WORKER_DIED, Broken, Evidence, Gate, Journal, rounds
from tests.stages import Stage

pytestmark = pytest.mark.capability("retry-frees-worker")

BACKOFF = 0.05  # seconds
WAITING = 50


def test_a_waiting_retry_holds_no_worker(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    times: list[float] = []

    def handler(job: Any) -> None:
        gate.wait()
        if job.payload != "round":
            times.append(time.monotonic())
        attempt = journal.write(job.id)
        if job.id == "flaky" and attempt == 1:
            raise Broken
        if job.id == "other":
            # Its work: when it is done, the retry is due. (That counts from when the failure has
            # been written, which may be after this has begun.)
            time.sleep(4 * BACKOFF)

    backoff = stage.backoff(base=BACKOFF, jitter=0)
    queue = stage.queue(handler, workers=1, backoff=backoff)
    queue.enqueue(stage.job(id="flaky"))
    queue.enqueue(stage.job(id="other"))
    gate.open()

    # However slow the machine: a retry that falls due goes behind "other" in their lane. Only
    # a worker that waits for it, instead of taking the next job, can bring it forward.
    journal.wait_for("other", WORKER_DIED)
    meanwhile = journal.entries[1:2].count("other")
    evidence(f"before the retry the only worker ran {meanwhile} of 1 other jobs")
    assert journal.entries[:2] == ["flaky", "other"]
    rounds(stage, queue, journal, 3)
    ran = [entry for entry in journal.entries if entry in ("flaky", "other")]
    assert ran == ["flaky", "other", "flaky"]
    failure, other, retry = times
    evidence(
        f"the worker's next job came {(other - failure) * 1000:.1f} ms after a failure, "
        f"the retry after {(retry - failure) * 1000:.0f} ms"
    )


def test_a_waiting_retry_is_no_sleeping_thread(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)
        if job.payload != "round":
            raise Broken

    before = threading.active_count()
    queue = stage.queue(handler, workers=1, backoff=stage.backoff(base=60))
    for n in range(WAITING):
        queue.enqueue(stage.job(id=f"job-{n}"))
    journal.wait_for(f"job-{WAITING - 1}", WORKER_DIED)
    assert WORKER_DIED not in journal.entries, "the worker died of its first failure"
    rounds(stage, queue, journal, 1)

    threads = threading.active_count() - before
    evidence(f"{WAITING} retries wait; threads of the queue: {threads}")
    assert threads < WAITING
