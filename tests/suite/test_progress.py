"""Capability "progress": a handler says how far it is, and whoever asks for its job hears of it.

An export of a million rows takes an hour. Without a word from it nobody can tell one that is nearly
done from one that hangs.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Gate, eventually
from tests.stages import Stage

pytestmark = pytest.mark.capability("progress")

PAGES = 10
TIMES = 1_000  # that it says each of them


def test_what_a_handler_says_is_seen_while_it_runs_and_kept(
    stage: Stage, gate: Gate, evidence: Evidence
) -> None:
    progress = stage.progress

    def handler(job: Any) -> None:
        for page in range(1, PAGES + 1):
            for _ in range(TIMES):
                progress(page / PAGES, f"page {page}")
            if page == PAGES / 2:
                gate.wait()

    queue = stage.queue(handler, workers=1)
    queue.enqueue(stage.job(id="export"))

    def seen() -> Any:
        return queue.get("export").progress

    eventually(lambda: seen() and seen().message == "page 5", "page 5")
    half = seen()
    gate.open()
    last = queue.wait("export", DEADLINE).progress

    evidence(
        f"while it ran, its record said {half.fraction:.0%}, {half.message}; "
        f"at its end {last.fraction:.0%}, {last.message}"
    )
    assert (half.fraction, last.fraction, last.message) == (0.5, 1.0, f"page {PAGES}")
