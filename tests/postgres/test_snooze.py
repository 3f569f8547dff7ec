"""Snooze on PostgreSQL: what holds on a file, and other processes that run what was put off."""

from __future__ import annotations

import threading

import pytest

from final import Job, Snooze, Status
from tests.final.conftest import gate  # noqa: F401  (a fixture)
from tests.final.helpers import reaches
from tests.final.test_snooze import (  # noqa: F401  (here they run on a database)
    TestHowItIsRaised,
    TestTogetherWith,
    test_a_backoff_has_no_say,
    test_attempts_that_failed_are_as_they_were,
    test_it_comes_back_at_the_end_of_its_lane,
    test_it_holds_no_worker_and_nobody_waits_for_it,
    test_it_runs_again_then_and_is_charged_nothing,
    test_kill_9_takes_nothing_of_it,
    test_meanwhile_it_is_scheduled_and_no_failure,
    test_the_error_of_an_earlier_attempt_stays,
)
from tests.helpers import DEADLINE
from tests.postgres.conftest import OpenQueue


@pytest.fixture
def path(address: str) -> str:
    return address


def test_another_process_runs_what_one_has_put_off(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> None:
        raise Snooze(0.1)

    first = open_queue(handler)
    first.enqueue(Job("x"))
    reaches(first, "x", Status.SCHEDULED)
    first.close()
    second = open_queue(lambda job: threading.current_thread().name)
    record = second.wait("x", DEADLINE)
    assert (record.status, record.attempts, record.snoozes) == (Status.COMPLETED, 1, 1)
