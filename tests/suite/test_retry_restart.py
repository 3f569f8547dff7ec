"""Capability "retry-restart": a retry keeps its count and its time over a restart.

A queue that forgets them starts anew at every deploy: the service that asked for an
hour's rest is called at once, and a job that can never succeed never ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Broken, Evidence, Journal, rounds
from tests.stages import Stage, StageQueue

pytestmark = pytest.mark.capability("retry-restart")

BACKOFF = 0.1  # seconds before the first retry, twice as long before the second, and so on
RETRIES = 3
ROOT = Path(__file__).parents[2]


def test_a_retry_keeps_its_count_and_its_time(
    stage: Stage,
    path: str,
    journal: Journal,
    evidence: Evidence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic
    after = Journal()
    attempts: dict[Journal, list[float]] = {journal: [], after: []}

    def start(journal: Journal, base: float) -> StageQueue:
        def handler(job: Any) -> None:
            journal.write(job.id)
            if job.id == "hopeless":
                attempts[journal].append(now())
                raise Broken
            if job.payload == "a while":
                time.sleep(BACKOFF)  # its work

        backoff = stage.backoff(base=base, jitter=0)
        return stage.queue(handler, path=path, workers=1, max_retries=RETRIES, backoff=backoff)

    # Two attempts (or more, on a very slow machine), and a restart while the next one waits.
    queue = start(journal, base=BACKOFF)
    queue.enqueue(stage.job(id="hopeless"))
    queue.enqueue(stage.job(payload="a while"))  # when it is done, the first retry is due
    rounds(stage, queue, journal, 3)
    queue.close(drain=False, timeout=0)

    # The attempts that are left come after it, the first when it would have come anyway.
    tried = len(attempts[journal])
    whiles = 2 ** (tried - 1)
    # The machine has been started anew meanwhile, and with it the clock that counts from there.
    monkeypatch.setattr(time, "monotonic", lambda: now() + 1e6)
    queue = start(after, base=0)
    for _ in range(whiles):
        queue.enqueue(stage.job(payload="a while"))  # when all are done, it is due
    rounds(stage, queue, after, 10)

    left = 1 + RETRIES - tried
    came = len(attempts[after])
    waited = attempts[after][0] - attempts[journal][-1] if came else 0
    when = f", the first {waited * 1000:.0f} ms after the failure" if came else ""
    evidence(f"{came} of {left} attempts that were left came after a restart{when}")
    assert came == left
    assert waited >= 0.99 * whiles * BACKOFF  # a wall clock may be nudged meanwhile


def test_a_job_that_kills_its_process_runs_out_of_attempts(
    stage: Stage, path: str, evidence: Evidence
) -> None:
    command = [sys.executable, "-m", "tests.poison", stage.name, path]
    lives = []
    for job in (["poison"], [], []):
        life = subprocess.run(
            [*command, *job], cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=60
        )
        # The first word: naive's workers go on after its close, and may run it after "spared".
        lives.append([*life.stdout.split(), "died early"][0])
    evidence(f"3 lives with a job that kills, and has 1 retry: {', '.join(lives)}")
    assert lives == ["ran", "ran", "spared"]
