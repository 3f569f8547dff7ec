"""Capability "kind-retries": a kind of job has its own number of retries.

A payment is worth ten attempts, a newsletter none. With one number for all, either the
payment is lost to a short outage, or the newsletters hammer a server that is down.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Broken, Evidence
from tests.stages import Stage

pytestmark = pytest.mark.capability("kind-retries")


def test_each_kind_is_tried_as_often_as_it_says(stage: Stage, evidence: Evidence) -> None:
    def handler(job: Any) -> None:
        raise Broken

    kinds = {"payment": stage.kind(handler, max_retries=5), "news": handler}
    queue = stage.queue(kinds, max_retries=0, backoff=stage.backoff(base=0))
    ids = {kind: queue.enqueue(stage.job(kind=kind)) for kind in kinds}
    attempts = {kind: queue.wait(job_id, DEADLINE).attempts for kind, job_id in ids.items()}

    evidence(f"attempts: {attempts['payment']} at a payment, {attempts['news']} at a newsletter")
    assert attempts == {"payment": 6, "news": 1}
