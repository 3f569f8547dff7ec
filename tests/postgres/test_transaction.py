"""A job that comes in within the caller's transaction ends with it, whatever came first."""

from __future__ import annotations

import psycopg
import pytest

from final import DuplicateJob, Job, UnknownJob
from final.ledger.postgres.address import parse
from tests.helpers import DEADLINE
from tests.postgres.conftest import OpenQueue


def test_the_first_thing_in_a_transaction(address: str, open_queue: OpenQueue) -> None:
    queue = open_queue()
    with psycopg.connect(parse(address).dsn) as connection:
        queue.enqueue(Job(id="a"), connection=connection)
        with pytest.raises(UnknownJob):
            queue.get("a")
        connection.rollback()
        queue.enqueue(Job(id="a"), connection=connection)
        with pytest.raises(DuplicateJob):
            queue.enqueue(Job(id="a"), connection=connection)
        queue.enqueue(Job(id="b"), connection=connection)  # a refusal takes nothing back
    assert queue.wait("a", DEADLINE)
    assert queue.wait("b", DEADLINE)
    assert queue.metrics().accepted == 2


def test_a_connection_that_commits_each_statement(address: str, open_queue: OpenQueue) -> None:
    queue = open_queue()
    with psycopg.connect(parse(address).dsn, autocommit=True) as connection:
        queue.enqueue(Job(id="a"), connection=connection)
        assert queue.wait("a", DEADLINE)
