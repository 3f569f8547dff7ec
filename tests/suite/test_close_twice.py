"""Capability "close-twice": closing twice is harmless, also from several threads at once.

A signal handler closes, the ``with`` block closes, a test's teardown closes. The second
must neither raise nor wait for workers that are long gone.
"""

from __future__ import annotations

import threading

import pytest

from tests.helpers import DEADLINE, Background, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("close-twice")

THREADS = 4


def test_closing_twice_is_harmless(stage: Stage, journal: Journal, evidence: Evidence) -> None:
    start = threading.Barrier(THREADS)

    def close_twice() -> int:
        start.wait(DEADLINE)
        queue.close()
        queue.close()
        return 2

    queue = stage.queue(lambda job: journal.write(job.id), workers=2)
    queue.enqueue(stage.job(id="job"))
    journal.wait_for("job")

    closings = sum([c.result() for c in [Background(close_twice) for _ in range(THREADS)]])
    evidence(f"closed {closings} times by {THREADS} threads, without an error")
    assert closings == 2 * THREADS
    assert journal.entries == ["job"]
