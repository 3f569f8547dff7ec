"""Capability "groups": one tenant floods the queue, and the others do not notice.

First in, first out is fair to jobs, and so it is unfair to whoever sends few of them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("groups")

FLOOD = 50


def test_a_flood_of_one_group_is_passed(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        gate.wait()
        journal.write(job.group)

    queue = stage.queue(handler, workers=1)
    for _ in range(FLOOD):
        queue.enqueue(stage.job(group="floods"))
    queue.enqueue(stage.job(group="has-one-job"))
    gate.open()
    journal.wait_for("has-one-job")

    before = journal.entries.index("has-one-job")
    evidence(f"a job behind {FLOOD} of another tenant started after {before} of them")
    # One that ran already, one that its worker may have had at hand, and one for the turn.
    assert before <= 3, f"It waited for {before} jobs of a group that has its turn, too."
