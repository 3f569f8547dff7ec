"""Capability "missed-ticks": a job that was due while no process ran comes at the next start.

The machine was down at three, and at three the report is made. Cron knows nothing of that; a queue
whose entries are stored can say so, and who wrote the entry has said what is to be done then.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("missed-ticks")

INTERVAL = 0.25  # seconds
MISSED = 3


def test_ticks_that_nobody_saw_are_made_up_for(
    stage: Stage, path: str, journal: Journal, evidence: Evidence
) -> None:
    entries = [
        stage.every(INTERVAL, stage.job(payload=missed), name=missed, missed=missed)
        for missed in ("once", "all")
    ]
    with stage.queue(lambda job: None, path=path, periodic=entries) as queue:
        pass
    started = {record.name: record.next for record in queue.periodic()}  # it makes no more
    # Nobody is there, until the first MISSED ticks of both have passed.
    while time.time() < max(started.values()) + (MISSED - 1) * INTERVAL:
        time.sleep(INTERVAL / 10)

    def handler(job: Any) -> None:
        journal.write(job.id)

    queue = stage.queue(handler, path=path, workers=1)
    journal.wait_for_count(MISSED + 1)
    for missed in ("once", "all"):
        queue.pause_periodic(missed)
    queue.join(timeout=DEADLINE)

    ids = [record.id.partition("@")[0] for record in queue.jobs()]
    evidence(f"of {MISSED} ticks that nobody saw, all came as asked, and one for all where asked")
    assert ids.count("all") >= MISSED
    assert 1 <= ids.count("once") <= ids.count("all") - (MISSED - 1)
