"""Capability "pause": a kind can be paused, and resumed; nothing is lost, and others go on.

The mail server is down. Jobs that need it fail, are retried, fail again, and end as dead letters
one after the other; what helps is to start none of them until it is back.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("pause")

JOBS = 10


def test_a_paused_kind_waits_and_others_go_on(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    queue = stage.queue(lambda job: journal.write(job.id), workers=2)
    queue.pause(kind="mail")
    mails = [queue.enqueue(stage.job(kind="mail")) for _ in range(JOBS)]
    others = [queue.enqueue(stage.job(kind="other")) for _ in range(JOBS)]
    journal.wait_for_count(JOBS)
    before = journal.entries
    queue.resume(kind="mail")
    journal.wait_for_count(2 * JOBS)

    started = len(set(before) & set(mails))
    after = len(journal.entries) - len(before)
    evidence(
        f"{started} of {JOBS} jobs of a paused kind started while {JOBS} behind them ran, and "
        f"{after} after the resume"
    )
    assert sorted(before) == sorted(others)
    assert sorted(journal.entries[JOBS:]) == sorted(mails)


def test_a_pause_survives_a_restart(stage: Stage, path: str, journal: Journal) -> None:
    def handler(job: Any) -> None:
        journal.write(job.id)

    queue = stage.queue(handler, path=path, workers=1)
    queue.pause(kind="mail")
    queue.enqueue(stage.job(id="mail", kind="mail"))
    queue.close(drain=False)

    queue = stage.queue(handler, path=path, workers=1)
    queue.enqueue(stage.job(id="other"))
    journal.wait_for("other")
    assert journal.entries == ["other"]
    queue.resume(kind="mail")
    journal.wait_for("mail")
