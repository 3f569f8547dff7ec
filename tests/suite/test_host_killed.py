"""Capability "host-killed": what a killed process had claimed runs in another, within the lease.

A machine that is gone tells nobody. So it has to say again and again that it is there, and when it
has said nothing for the time of its lease, its jobs are somebody else's.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers import Evidence, Journal
from tests.host import Host
from tests.stages import Stage

pytestmark = pytest.mark.capability("host-killed")

LEASE = 1.0  # seconds


def test_its_jobs_run_elsewhere(
    stage: Stage, path: str, journal: Journal, evidence: Evidence
) -> None:
    address = stage.shared(path, LEASE)

    def handler(job: Any) -> None:
        journal.write(job.id)

    with Host(address) as host:
        host.wait_for("ready")
        queue = stage.queue(print, path=address, workers=0)
        queue.enqueue(stage.job(id="held", payload="held"))
        host.wait_for("started held")
        queue.enqueue(stage.job(id="waits"))
        host.kill()
        killed = time.monotonic()
        stage.queue(handler, path=address, workers=1)
        journal.wait_for("held")
        after = time.monotonic() - killed

    record = queue.wait("held", timeout=5)
    evidence(f"its job ran elsewhere {after:.1f} s after the kill, with a lease of {LEASE:.0f} s")
    assert (str(record.status), record.attempts) == ("completed", 2)
    assert str(queue.wait("waits", timeout=5).status) == "completed"
