"""Capability "unique": while a job with a key is there, another one with that key does not come in.

Ten clicks on "make the report" are one report. An id says which job it is, and is spent for good; a
key says what it is about, and is free again when that job has ended.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("unique")

CLICKS = 10
A_DAY = 86_400


def test_a_key_has_one_job_that_has_not_ended(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    gate = Gate()

    def handler(job: Any) -> None:
        gate.wait()
        journal.write(job.id)

    queue = stage.queue(handler, workers=2)
    report = stage.unique("report")
    ids = {queue.enqueue(stage.job(unique=report)) for _ in range(CLICKS)}
    gate.open()
    queue.join(timeout=DEADLINE)
    again = queue.enqueue(stage.job(unique=report))
    queue.join(timeout=DEADLINE)

    evidence(f"{CLICKS} jobs with one key ran {len(ids)} time, and one more when that had ended")
    assert journal.entries == [*ids, again]


def test_a_key_can_be_held_for_a_time(stage: Stage, journal: Journal) -> None:
    queue = stage.queue(lambda job: journal.write(job.id), workers=1)
    mail = stage.unique("mail", within=A_DAY)
    first = queue.enqueue(stage.job(unique=mail))
    journal.wait_for(first)
    assert queue.enqueue(stage.job(unique=mail)) == first
    queue.join(timeout=DEADLINE)
    assert journal.entries == [first]
