"""Capability "no-starvation": LOW runs, even while HIGH never empties.

"Urgent first" alone means "the rest never" as soon as there is always something urgent:
the nightly clean-up does not happen, and it shows when the disk is full.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("no-starvation")

START = 3  # HIGH jobs at first; each that runs enqueues another
MOST = 500  # HIGH jobs in all, so that the test ends where LOW has to wait for the last
BOUND = 12  # picks that a job at the head of its lane may have to wait for


def test_low_runs_while_high_never_empties(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        gate.wait()
        runs = journal.write(job.payload)
        if job.payload == "high" and runs <= MOST - START and "low" not in journal.entries:
            queue.enqueue(stage.job(payload="high", priority="high"))

    queue = stage.queue(handler, workers=1)
    for _ in range(START):
        queue.enqueue(stage.job(payload="high", priority="high"))
    queue.enqueue(stage.job(payload="low", priority="low"))
    gate.open()
    journal.wait_for("low")

    waited_for = journal.entries.index("low")
    evidence(f"LOW ran after {waited_for} HIGH jobs")
    assert waited_for <= BOUND


def test_medium_runs_while_high_and_low_never_empty(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    """A turn now and then for the lowest lane would be none for the lane between."""

    def handler(job: Any) -> None:
        gate.wait()
        runs = journal.write(job.payload)
        if job.payload != "medium" and runs <= MOST and "medium" not in journal.entries:
            queue.enqueue(stage.job(payload=job.payload, priority=job.payload))

    queue = stage.queue(handler, workers=1)
    for priority in (*START * ["high"], *START * ["low"], "medium"):
        queue.enqueue(stage.job(payload=priority, priority=priority))
    gate.open()
    journal.wait_for("medium")

    waited_for = journal.entries.index("medium")
    evidence(f"MEDIUM after {waited_for} HIGH and LOW ones")
    assert waited_for <= BOUND
