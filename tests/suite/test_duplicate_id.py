"""Capability "duplicate-id": an id is accepted only once, so sending it again is safe.

A producer whose connection broke cannot know whether its job went in. If it may send
the job again under the same id, it need not choose between none and two.
"""

from __future__ import annotations

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("duplicate-id")

SENDINGS = 5


def test_an_id_is_accepted_only_once(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    queue = stage.queue(lambda job: journal.write(job.id), workers=1)
    queue.enqueue(stage.job(id="order-1"))
    refused = 0
    for _ in range(SENDINGS - 1):
        with pytest.raises(stage.DuplicateJob, match="order-1"):
            queue.enqueue(stage.job(id="order-1"))
        refused += 1
    queue.enqueue(stage.job(id="last"))
    journal.wait_for("last")

    ran = journal.entries.count("order-1")
    evidence(f"an id sent {SENDINGS} times was refused {refused} times, and ran {ran} time")
    assert ran == 1
