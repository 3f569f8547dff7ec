"""Capability "retry-frees-worker": a job that waits for its retry holds no worker.

A worker that sleeps out the backoff does nothing else meanwhile. A few failing jobs
then put the whole pool to sleep, just when the queue fills up.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import WORKER_DIED, Broken, Evidence, Gate, Journal, rounds
from tests.stages import Stage

pytestmark = pytest.mark.capability("retry-frees-worker")

BACKOFF = 0.05  # seconds


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
            time.sleep(BACKOFF)  # its work: when it is done, the retry is due

    backoff = stage.backoff(base=BACKOFF, jitter=0)
    queue = stage.queue(handler, workers=1, backoff=backoff)
    queue.enqueue(stage.job(id="flaky"))
    queue.enqueue(stage.job(id="other"))
    gate.open()

    # However slow the machine: a retry that falls due goes behind "other" in their lane. Only
    # a worker that waits for it, instead of taking the next job, can bring it forward.
    journal.wait_for("other", WORKER_DIED)
    evidence(f"after a failure the only worker ran {journal.entries.count('other')} other jobs")
    assert journal.entries[:2] == ["flaky", "other"]
    rounds(stage, queue, journal, 3)
    ran = [entry for entry in journal.entries if entry in ("flaky", "other")]
    assert ran == ["flaky", "other", "flaky"]
    failure, other, retry = times
    evidence(
        f"the worker's next job came {(other - failure) * 1000:.1f} ms after a failure, "
        f"the retry after {(retry - failure) * 1000:.0f} ms"
    )
