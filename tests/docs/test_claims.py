"""What the interview's pages say about SQL and about waiting is so: it is run, and reckoned."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from math import factorial, log
from typing import Any

import pytest

from tests import postgres_server
from tests.docs import pages

INTERVIEW = pages.ROOT / "docs" / "interview"

TABLE = """
    CREATE TABLE job (
        seq int PRIMARY KEY, id text UNIQUE, customer text, payload text,
        priority int DEFAULT 1, status text DEFAULT 'queued', attempts int DEFAULT 0,
        token int DEFAULT 0, due_at timestamptz, ended_at timestamptz)
"""
with_postgres = pytest.mark.skipif(not postgres_server.is_there(), reason=postgres_server.MISSING)


def sql(page: str, begins: str) -> str:
    """The SQL block of a page that begins so."""
    (block,) = (
        block.text for block in pages.code(INTERVIEW / page, "sql") if block.text.startswith(begins)
    )
    return block


@pytest.fixture
def connections() -> Iterator[tuple[Any, Any]]:
    """Two, which see an empty table of jobs."""
    import psycopg

    schema = f"t{uuid.uuid4().hex[:20]}"
    options = f"-c search_path={schema} -c lock_timeout=100ms"
    dsn = postgres_server.dsn()
    with (
        psycopg.connect(dsn, options=options) as ann,
        psycopg.connect(dsn, options=options) as bob,
    ):
        ann.execute(f"CREATE SCHEMA {schema}")
        ann.execute(TABLE)
        ann.commit()
        yield ann, bob
        bob.rollback()
        ann.rollback()
        ann.execute(f"DROP SCHEMA {schema} CASCADE")


@with_postgres
def test_jobs_of_a_customer_are_claimed_in_order(connections: tuple[Any, Any]) -> None:
    ann, bob = connections
    claim, end = sql("07-claiming.md", "UPDATE job").split(";")[:2]
    by_customer = sql("09-delivery.md", "AND NOT EXISTS")
    claim = claim.replace("ORDER BY", f"{by_customer} ORDER BY")
    assert by_customer in claim

    def take(worker: Any) -> str | None:
        row: tuple[str] | None = worker.execute(claim).fetchone()
        return row[0] if row else None

    for seq, customer in enumerate("xxyx", start=1):
        ann.execute("INSERT INTO job VALUES (%s, %s, %s)", [seq, f"{customer}{seq}", customer])
    ann.commit()

    assert take(ann) == "x1"
    assert take(bob) == "y3"  # ann has not committed: x1 is locked, and x2 behind it
    ann.commit(), bob.commit()
    assert take(bob) is None

    ann.execute("UPDATE job SET status = 'retrying', due_at = now() WHERE id = 'x1'")
    ann.commit()
    assert take(bob) is None  # x1 waits for its retry, and x2 for x1
    ann.execute("UPDATE job SET status = 'queued', due_at = NULL WHERE id = 'x1'")
    ann.commit()
    assert take(bob) == "x1"
    bob.commit()

    ended = end.replace(":id", "%(id)s").replace(":token", "%(token)s")
    assert bob.execute(ended, {"id": "x1", "token": 1}).rowcount == 0  # of its first claim
    assert bob.execute(ended, {"id": "x1", "token": 2}).rowcount == 1
    bob.commit()
    assert [take(ann), take(ann)] == ["x2", None]


@with_postgres
@pytest.mark.parametrize(("first_ends", "inserted"), [("commit", 0), ("rollback", 1)])
def test_the_second_insert_waits_for_the_first(
    connections: tuple[Any, Any], first_ends: str, inserted: int
) -> None:
    from psycopg.errors import LockNotAvailable

    ann, bob = connections
    insert = "INSERT INTO job (seq, id) VALUES (%s, 'order-4711') ON CONFLICT DO NOTHING"
    assert ann.execute(insert, [1]).rowcount == 1
    with pytest.raises(LockNotAvailable):  # it would wait, and may do so for 100 ms
        bob.execute(insert, [2])
    bob.rollback()
    getattr(ann, first_ends)()
    assert bob.execute(insert, [2]).rowcount == inserted


def waits(workers: int, utilisation: float) -> tuple[float, float]:
    """Mean and p99, in run times, for random arrivals and run times: Erlang's formula (M/M/c)."""
    load = workers * utilisation
    all_busy = load**workers / factorial(workers) / (1 - utilisation)
    some_idle = sum(load**busy / factorial(busy) for busy in range(workers))
    who_waits, spare = all_busy / (all_busy + some_idle), workers * (1 - utilisation)
    return who_waits / spare, log(100 * who_waits) / spare


def test_many_workers_share_the_idle_ones() -> None:
    (one, _), (ten, p99), (hundred, _) = (waits(workers, 0.9) for workers in (1, 10, 100))
    page = " ".join((INTERVIEW / "01-scope.md").read_text(encoding="utf-8").split())
    assert (
        f"is {one:.0f} run times with one worker, {ten:.2f} with ten (p99 {p99:.1f}), "
        f"{hundred:.2f} with a hundred"
    ) in page
