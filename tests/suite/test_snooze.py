"""Capability "snooze": a handler can put its job off, and that is no failure.

The partner says "come back in a minute". To sleep would hold a worker; to raise uses up an attempt,
and after a few the job is a dead letter, though nothing was wrong with it.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("snooze")

TIMES = 5
DELAY = 0.05  # seconds


def test_a_job_that_is_put_off_runs_again_and_no_attempt_is_charged(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    Snooze = stage.Snooze
    moments: list[float] = []

    def handler(job: Any) -> None:
        journal.write(job.id)
        if job.id != "snoozes":
            return
        gate.wait()  # opens when the other job waits behind it
        moments.append(time.monotonic())
        if len(moments) <= TIMES:
            raise Snooze(DELAY)

    queue = stage.queue(handler, workers=1, max_retries=0)
    queue.enqueue(stage.job(id="snoozes"))
    queue.enqueue(stage.job(id="other"))
    gate.open()
    record = queue.wait("snoozes", DEADLINE)

    evidence(
        f"put off {TIMES} times, it then completed on attempt {record.attempts} of 1; "
        "its worker ran another job meanwhile"
    )
    assert (str(record.status), record.attempts) == ("completed", 1)
    assert len(moments) == TIMES + 1
    waits = [later - one for one, later in itertools.pairwise(moments)]
    assert min(waits) >= DELAY * 0.99
    assert journal.entries[1] == "other", "It holds no worker while it waits."
