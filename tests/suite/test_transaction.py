"""Capability "transaction": a job is accepted together with the row it is about, or not at all.

Enqueue first, and the order may not be there when its mail goes out. Commit first, and the process
may die before it enqueues. One transaction has neither gap.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("transaction")

ORDERS = 10


def test_a_job_commits_with_the_row(
    stage: Stage, path: str, journal: Journal, evidence: Evidence
) -> None:
    address = stage.shared(path)
    import psycopg

    def handler(job: Any) -> None:
        journal.write(job.id)

    queue = stage.queue(handler, path=address)
    with psycopg.connect(address.partition("&queue=")[0], autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE purchase (id text)")
        for n in range(ORDERS):
            name = f"purchase-{n}"
            with connection.transaction() as transaction:
                connection.execute("INSERT INTO purchase VALUES (%s)", (name,))
                queue.enqueue(stage.job(id=name), connection=connection)
                if n % 2:
                    raise psycopg.Rollback(transaction)
        rows = connection.execute("SELECT id FROM purchase").fetchall()
    queue.join(timeout=DEADLINE)

    ran = sorted(journal.entries)
    evidence(f"{ORDERS} orders, half of them rolled back: {len(rows)} rows, {len(ran)} jobs ran")
    assert ran == sorted(name for (name,) in rows)
    assert len(ran) == ORDERS / 2
