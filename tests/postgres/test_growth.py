"""What a turn reads does not grow with what has ended, or lies ahead."""

from __future__ import annotations

import time

import pytest

from final import Job
from final.ledger.picking import BATCH_SECONDS
from final.ledger.postgres import housekeeping
from tests.helpers import DEADLINE
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql

ENDED, AHEAD, WAITING, TURNS = 50_000, 20_000, 40_000, 10
# A row is read by an index, or with the whole table.
READ = """SELECT seq_tup_read + idx_tup_fetch, n_tup_ins FROM pg_stat_user_tables
    WHERE relid = 'jobqueue.job'::regclass"""


@pytest.fixture(autouse=True)
def _tables(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "COUNTED_AT_ONCE", 100)
    open_queue(None, workers=0).close()


def filled(address: str, statement: str, *values: int) -> int:
    """Insert as many jobs as the last of the values says; returns what has been read by then."""
    sql(address, statement, *values)
    sql(address, "SELECT setval('jobqueue.job_seq_seq', %s)", values[-1])
    sql(address, "ANALYZE jobqueue.job")
    becomes(lambda: sql(address, READ)[0][1] == values[-1])
    return int(sql(address, READ)[0][0])


def test_a_turn_reads_no_more_than_it_needs(open_queue: OpenQueue, address: str) -> None:
    before = filled(
        address,
        """INSERT INTO jobqueue.job
            (place, id, kind, lane, size, attempts, payload, status, ended_at, due_at)
        SELECT number, number, 'default', 1, 4, 1, 'null',
            CASE WHEN ended THEN 'completed' ELSE 'scheduled' END,
            CASE WHEN ended THEN clock_timestamp() END,
            CASE WHEN NOT ended THEN clock_timestamp() + interval '1 hour' END
        FROM (SELECT number, number <= %s AS ended FROM generate_series(1, %s) AS number) AS new""",
        ENDED,
        ENDED + AHEAD,
    )
    queue = open_queue(overflow="drop-oldest", history=10 * ENDED)
    for _ in range(TURNS):
        queue.wait(queue.enqueue(Job(run_at=0.01)), DEADLINE)
        queue.wait(queue.enqueue(Job()), DEADLINE)
    queue.close()
    # Each connection says at its end what it has read and written.
    becomes(lambda: sql(address, READ)[0][1] == ENDED + AHEAD + 2 * TURNS)
    # All are counted when it opens, and looked through for retries when it closes.
    assert sql(address, READ)[0][0] - before < 3 * (ENDED + AHEAD)


@pytest.mark.parametrize("behind", [0, WAITING // 2, WAITING])
def test_nor_does_it_grow_with_what_waits(open_queue: OpenQueue, address: str, behind: int) -> None:
    """Whatever the statistics say by then. behind: so many wait behind one of their group."""
    before = filled(
        address,
        """INSERT INTO jobqueue.job
            (place, id, kind, lane, size, attempts, payload, status, grp, behind)
        SELECT number, number, 'default', 1, 4, 0, 'null', 'queued',
            CASE WHEN number <= %s THEN 'g' END, number <= %s
        FROM generate_series(1, %s) AS number""",
        behind,
        behind,
        WAITING,
    )
    queue = open_queue(lambda job: time.sleep(BATCH_SECONDS), workers=1, capacity=50)
    for number in range(TURNS):
        group = "g" if behind and number % 2 else None
        queue.wait(queue.enqueue(Job(priority="high", group=group)), DEADLINE)
    queue.close(drain=False)
    becomes(lambda: sql(address, READ)[0][1] == WAITING + TURNS)
    # All are looked through a few times when it opens and closes.
    assert sql(address, READ)[0][0] - before < 5 * WAITING


def test_a_retry_reads_no_other_dead_letter(open_queue: OpenQueue, address: str) -> None:
    before = filled(
        address,
        """INSERT INTO jobqueue.job
            (place, id, kind, lane, size, attempts, payload, status, dead, ended_at)
        SELECT number, number, 'default', 1, 4, 1, 'null', 'failed', true, now()
        FROM generate_series(1, %s) AS number""",
        AHEAD,
    )
    queue = open_queue(None, workers=0)
    for number in range(TURNS):
        queue.retry(str(number + 1))
    queue.close(drain=False)
    retried = """SELECT n_tup_upd FROM pg_stat_user_tables
        WHERE relid = 'jobqueue.job'::regclass"""
    becomes(lambda: sql(address, retried) == [(TURNS,)])
    # All are counted when it opens.
    assert sql(address, READ)[0][0] - before < TURNS * AHEAD
