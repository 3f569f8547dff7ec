"""Capability "late-result": a process that was paused beyond its lease is not believed any more.

A virtual machine that is moved, a long garbage collection, a closed laptop: the process comes back,
does not know that it was away, and has a result for a job that somebody else has run by now.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.host import Host
from tests.stages import Stage

pytestmark = pytest.mark.capability("late-result")

LEASE = 1.0  # seconds


def test_a_late_result_is_refused(
    stage: Stage, path: str, journal: Journal, evidence: Evidence
) -> None:
    address = stage.shared(path, LEASE)

    def handler(job: Any) -> str:
        journal.write(job.id)
        return "in time"

    with Host(address) as host:
        host.wait_for("ready")
        queue = stage.queue(print, path=address, workers=0)
        queue.enqueue(stage.job(id="held", payload="held"))
        host.wait_for("started held")
        host.pause()
        other = stage.queue(handler, path=address, workers=1)
        journal.wait_for("held")
        assert other.wait("held", timeout=5).result == "in time"
        other.close()
        host.resume()
        host.release()  # it has a result now, "late", and goes on to the next job
        queue.enqueue(stage.job(id="next"))
        host.wait_for("started next")
        queue.wait("next", timeout=5)

    record = queue.get("held")
    evidence(f"two processes had a result for a job; the one that counts is {record.result!r}")
    assert (record.result, record.attempts) == ("in time", 2)
