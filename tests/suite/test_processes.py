"""Capability "processes": a handler that crashes its process costs its own attempt, no more.

An exception is the kind way to fail. A fault in a library written in C, or the
out-of-memory killer, ends the process, and whatever else was running in it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence
from tests.stages import Stage

pytestmark = pytest.mark.capability("processes")

JOBS = 20
LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine


def crash_or_say_where(job: Any) -> int:
    """The handler, up here because other processes import it; ``payload`` is one not to crash."""
    if job.id == "bad" and job.payload != os.getpid():
        os._exit(1)
    return os.getpid()


def test_a_crash_costs_one_attempt_and_nothing_else(stage: Stage, evidence: Evidence) -> None:
    queue = stage.queue(crash_or_say_where, workers=2, max_retries=0, executor="process")
    good = [f"good-{n}" for n in range(JOBS)]
    for name in (*good[: JOBS // 2], "bad", *good[JOBS // 2 :]):
        queue.enqueue(stage.job(id=name, payload=os.getpid()))
    bad = queue.wait("bad", timeout=LONG)
    records = [queue.wait(name, timeout=LONG) for name in good]

    processes = {record.result for record in records}
    unharmed = sum((str(r.status), r.attempts) == ("completed", 1) for r in records)
    evidence(
        f"after 1 crash {unharmed} of {JOBS} other jobs had run, in {len(processes)} processes"
    )
    assert (str(bad.status), bad.attempts) == ("failed", 1)
    assert unharmed == JOBS
    assert os.getpid() not in processes
