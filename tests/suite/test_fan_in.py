"""Capability "fan-in": a job runs after a whole batch, and gets the results.

Render a thousand pages, then bind the book: somebody has to notice that the last page is done.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence
from tests.stages import Stage

pytestmark = pytest.mark.capability("fan-in")

PAGES = 50


def test_a_job_gets_the_results_of_all_that_it_comes_after(
    stage: Stage, evidence: Evidence
) -> None:
    def handler(job: Any) -> Any:
        if job.id != "book":
            return int(job.id)
        return sum(stage.current_job().parents.values())

    queue = stage.queue(handler, workers=4, capacity=2 * PAGES)
    pages = [str(n) for n in range(PAGES)]
    queue.enqueue(stage.job(id="0"))  # one that may have ended already counts as well
    book = stage.job(id="book", after=pages)
    queue.enqueue_many([book, *(stage.job(id=page) for page in pages[1:])])
    book = queue.wait("book", timeout=DEADLINE)

    evidence(f"one job ran after {PAGES} others, and added up their results: {book.result}")
    assert book.result == sum(range(PAGES))
