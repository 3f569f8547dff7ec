"""Operations on many jobs, on PostgreSQL: what holds on a file, and several processes."""

from __future__ import annotations

import functools

import pytest

from final import Job, Status, current_job
from final.ledger.base import AT_ONCE
from tests.final.conftest import gate, held_up  # noqa: F401  (fixtures)
from tests.final.test_many import (  # noqa: F401  (here they run on a database)
    AN_HOUR,
    TestDelete,
    TestRunning,
    TestTurns,
    TestWhich,
    TestWithOthers,
    full,
    ids,
)
from tests.helpers import DEADLINE, Background
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql


@pytest.fixture
def path(address: str) -> str:
    return address


def test_of_several_processes_each_job_is_dealt_with_by_one(open_queue: OpenQueue) -> None:
    queues = [open_queue(capacity=5_000) for _ in range(3)]
    queues[0].enqueue_many([Job(run_at=AN_HOUR) for _ in range(2 * AT_ONCE)])
    cancelling = [Background(queue.cancel_all) for queue in queues]
    assert sum(each.result() for each in cancelling) == 2 * AT_ONCE
    purging = [Background(functools.partial(queue.purge, status=None)) for queue in queues]
    assert sum(each.result() for each in purging) == 2 * AT_ONCE


def test_a_job_that_runs_elsewhere_is_told(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> None:
        if not current_job().sleep(DEADLINE):
            raise RuntimeError("told to stop")

    runs, asks = open_queue(handler, workers=1), open_queue(None, workers=0)
    job_id = asks.enqueue(Job())
    becomes(lambda: runs.status(job_id) is Status.PROCESSING)
    assert asks.cancel_all() == 1
    assert asks.wait(job_id, DEADLINE).status is Status.CANCELLED


def test_nothing_is_left(open_queue: OpenQueue, address: str) -> None:
    queue = open_queue()
    queue.enqueue_many([Job(meta={"a": "b"}) for _ in range(3)])
    queue.join(DEADLINE)
    assert queue.purge(status=None) == 3
    for table in ("job", "failure", "meta", "holder"):
        assert sql(address, f"SELECT count(*) FROM jobqueue.{table}") == [(0,)]
