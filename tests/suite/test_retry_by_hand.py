"""Capability "retry-by-hand": dead letters can be read, and run again once the cause is mended.

A bad deploy fails a thousand jobs in a minute, with all their retries. The morning
after, somebody needs to see which and why, and to run them again as they were.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.helpers import DEADLINE, Broken, Evidence
from tests.stages import Stage

pytestmark = pytest.mark.capability("retry-by-hand")

JOBS = 5


def test_dead_letters_can_be_read_and_run_again(stage: Stage, evidence: Evidence) -> None:
    mended = threading.Event()

    def handler(job: Any) -> object:
        if not mended.is_set():
            raise Broken(f"no template for {job.payload}")
        return f"sent to {job.payload}"

    queue = stage.queue(handler, workers=1, max_retries=0)
    ids = [f"letter-{n}" for n in range(JOBS)]
    assert queue.dead_letters() == []
    for job_id in ids:
        queue.enqueue(stage.job(id=job_id, payload=f"reader of {job_id}"))
    for job_id in ids:
        queue.wait(job_id, timeout=DEADLINE)

    read = {letter.id: letter.error for letter in queue.dead_letters()}
    mended.set()
    for job_id in read:
        queue.retry(job_id)
    again = [queue.wait(job_id, timeout=DEADLINE).result for job_id in ids]
    evidence(
        f"{len(read)} dead letters read, each with its error; run again, {len(again)} completed"
    )
    assert sorted(read) == ids
    assert all(f"Broken: no template for reader of {n}" in read[n] for n in ids)
    assert again == [f"sent to reader of {n}" for n in ids]
    assert queue.dead_letters() == []
