"""Progress on PostgreSQL: what holds on a file, and what other processes see of it."""

from __future__ import annotations

from typing import Any

import pytest

from final import Job, Status, current_job
from tests.final.conftest import gate  # noqa: F401  (a fixture)
from tests.final.helpers import eventually
from tests.final.test_progress import TestKeptAndShown as OnAFile
from tests.final.test_progress import (  # noqa: F401  (here they run on a database)
    TestWhatElseAHandlerKnows,
    said,
    say_and_wait,
    test_a_message_is_what_can_be_stored_and_shown,
    test_a_thread_that_a_handler_has_left_behind_says_nothing_more,
    test_an_attempt_that_was_given_up_is_not_heard,
    test_what_makes_no_sense_is_an_error,
)
from tests.helpers import DEADLINE, Gate
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import sql


@pytest.fixture
def path(address: str) -> str:
    return address


class TestKeptAndShown(OnAFile):
    test_a_full_disk_delays_it = None  # type: ignore[assignment]  # a file's own way to fail

    def test_it_goes_with_its_job(self, open_queue: OpenQueue, address: str) -> None:  # type: ignore[override]
        def handler(job: Job) -> None:
            current_job().progress(1)
            if job.payload:
                raise ValueError("no")

        queue = open_queue(handler, history=2, max_retries=0)
        queue.enqueue_many([Job() for _ in range(5)] + [Job(payload=1) for _ in range(5)])
        queue.join(DEADLINE)
        assert queue.purge() == 5
        count = "SELECT count(*) FROM jobqueue.progress"
        eventually(lambda: sql(address, count) == [(2,)], "the history to let go of the others")


def test_other_processes_see_it(open_queue: OpenQueue, gate: Gate) -> None:  # noqa: F811
    first, second = open_queue(say_and_wait(gate)), open_queue(workers=0)
    second.enqueue(Job("x"))
    eventually(lambda: said(second, "x") == (0.4, "page 4"), "the progress")
    gate.open()
    assert second.wait("x", DEADLINE).status is Status.COMPLETED
    assert said(first, "x") == (0.4, "page 4")


def test_text_that_a_database_cannot_store(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> Any:
        current_job().progress(0.5, "a\0b")

    queue = open_queue(handler)
    queue.wait(queue.enqueue(Job("x")), DEADLINE)
    assert said(queue, "x") == (0.5, "a\\0b")
