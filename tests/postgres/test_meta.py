"""Meta on PostgreSQL: what holds on a file, within a transaction, and how it is looked for."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from final import Job
from final.beyond.filters import filter_of
from final.ledger.postgres.address import parse
from final.ledger.postgres.matching import matching
from tests.final.conftest import gate, held_up  # noqa: F401  (fixtures)
from tests.final.test_meta import (  # noqa: F401  (here they run on a database)
    WEB_7,
    TestForTheHandler,
    TestItsEnd,
    TestOfAJob,
    TestToBeFoundBy,
    ids,
)
from tests.helpers import DEADLINE
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql


@pytest.fixture
def path(address: str) -> str:
    return address


def test_one_process_brings_it_and_another_one_has_it(open_queue: OpenQueue) -> None:
    brings = open_queue(None, workers=0)
    job_id, plain = brings.enqueue(Job(meta=WEB_7)), brings.enqueue(Job())
    queue = open_queue(lambda job: dict(job.meta))
    assert queue.wait(job_id, DEADLINE).result == WEB_7
    assert queue.wait(plain, DEADLINE).result == {}
    assert ids(brings, meta={"user": "7"}) == [job_id]


def test_within_the_callers_transaction(open_queue: OpenQueue, address: str) -> None:
    queue = open_queue(lambda job: dict(job.meta))
    with psycopg.connect(parse(address).dsn) as connection:
        job_id = queue.enqueue(Job(meta=WEB_7), connection=connection)
        assert ids(queue, meta=WEB_7) == []
    assert queue.wait(job_id, DEADLINE).result == WEB_7
    assert ids(queue, meta=WEB_7) == [job_id]


def test_nothing_is_left_of_jobs_that_are_forgotten(open_queue: OpenQueue, address: str) -> None:
    queue = open_queue(history=0)
    queue.enqueue_many([Job(meta=WEB_7) for _ in range(5)])
    queue.join(DEADLINE)
    becomes(lambda: not queue.jobs())
    assert sql(address, "SELECT count(*) FROM jobqueue.meta") == [(0,)]


@pytest.mark.parametrize("meta", [{"user": "7"}, {"user": "7", "source": "web"}])
def test_it_is_looked_for_by_its_index_whatever_the_statistics_say(
    open_queue: OpenQueue, address: str, meta: Any
) -> None:
    open_queue().enqueue_many([Job(meta={"user": str(n), "source": "web"}) for n in range(900)])
    source, where, values = matching(filter_of(meta=meta), lambda name, _: name == "source")
    query = f"EXPLAIN SELECT * FROM {source} WHERE {where} LIMIT 50"
    with psycopg.connect(parse(address).dsn) as connection:
        text = query.replace("jobqueue.", f"{parse(address).schema}.")
        plan = "\n".join(row[0] for row in connection.execute(text.encode(), values))
    assert "Index Only Scan Backward using meta_pkey" in plan
    assert "Index Scan using job_pkey" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan
