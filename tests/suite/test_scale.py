"""Capability "scale": the number of workers can be changed while the queue runs.

More when the backlog grows, fewer when the database suffers from them; and no restart for either.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("scale")

MANY = 6


def test_workers_come_and_go_and_interrupt_nothing(
    stage: Stage, gate: Gate, journal: Journal, evidence: Evidence
) -> None:
    lock = threading.Lock()
    running = most = 0

    def handler(job: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        journal.write(job.id)
        if job.payload == "held":
            gate.wait()
        with lock:
            running -= 1

    queue = stage.queue(handler, workers=2)
    queue.set_workers(1)
    for _ in range(MANY):
        queue.enqueue(stage.job(payload="held"))
    journal.wait_for_count(1)
    queue.set_workers(MANY)
    journal.wait_for_count(MANY)
    queue.set_workers(1)
    held = running
    gate.open()
    queue.join(DEADLINE)
    after_more, most = most, 0
    for _ in range(MANY):
        queue.enqueue(stage.job())
    queue.join(DEADLINE)

    evidence(f"with {MANY} workers {after_more} jobs ran at once, with 1 again {most}")
    assert held == after_more == MANY, "More start at once, and fewer interrupt nobody."
    assert most == 1
