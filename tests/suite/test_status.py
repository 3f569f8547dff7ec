"""Capability "status": the life of a job can be followed by its id.

"Where is my report?" is the first question that a user asks. A queue that cannot
answer it for one job makes somebody read logs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers import DEADLINE, Broken, Evidence, Gate, Journal
from tests.stages import Stage, StageQueue

pytestmark = pytest.mark.capability("status")


@pytest.fixture
def other_gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def test_a_job_can_be_followed_by_its_id(
    other_gate: Gate, stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    gates = {"good": gate, "flaky": other_gate}

    def handler(job: Any) -> None:
        journal.write(job.id)
        if job.id in gates:
            gates[job.id].wait()
        if job.id in ("flaky", "hopeless"):
            raise Broken

    def see(queue: StageQueue, job_id: str) -> None:
        seen.append(str(queue.status(job_id)))
        evidence(f"{len(seen)} states of jobs seen by id: {', '.join(seen)}")

    # Two queues: in one a failed job waits a minute for its retry, in the other it has none.
    patient = stage.queue(handler, workers=1, backoff=stage.backoff(base=60))
    strict = stage.queue(handler, workers=1, max_retries=0)
    seen: list[str] = []

    evidence("0 states of a job can be seen by its id")
    patient.enqueue(stage.job(id="good"))
    patient.enqueue(stage.job(id="flaky"))
    journal.wait_for("good")
    see(patient, "flaky")
    gates["good"].open()
    journal.wait_for("flaky")  # so the only worker is done with "good"
    see(patient, "flaky")
    see(patient, "good")
    gates["flaky"].open()
    patient.enqueue(stage.job(id="after"))
    journal.wait_for("after")  # so it is done with "flaky"
    see(patient, "flaky")
    strict.enqueue(stage.job(id="hopeless"))
    assert str(strict.wait("hopeless", timeout=DEADLINE).status) == "failed"
    see(strict, "hopeless")

    assert seen == ["queued", "processing", "completed", "retrying", "failed"]
