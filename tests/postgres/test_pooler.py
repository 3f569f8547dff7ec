"""Behind a transaction pooler all works that works without; only news is looked for, not heard."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from final import Backoff, Job, LeakyBucket, Status
from tests import postgres_server
from tests.helpers import DEADLINE, Background, Broken, Gate
from tests.host import Host
from tests.postgres import pooler
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Unix sockets"),
    pytest.mark.skipif(pooler.program() is None, reason=pooler.MISSING),
    pytest.mark.skipif(postgres_server.DSN in os.environ, reason="a server elsewhere"),
]


@pytest.fixture
def pooled(address: str) -> Iterator[str]:
    """The address of the same queue, through the pooler."""
    dsn, _, query = address.partition("lease=1")
    with pooler.Pooler(dsn) as between:
        yield f"{between.dsn}&pooler=1&lease=1{query}"


def test_processes_share_a_backlog(pooled: str, open_queue: OpenQueue) -> None:
    ran: Counter[str] = Counter()

    def handler(job: Job) -> object:
        ran.update([job.id])
        if job.payload == 7 and ran[job.id] == 1:
            raise Broken
        return job.payload

    limit = {"rare": LeakyBucket(1_000)}
    queues = [open_queue(handler, path=pooled, rate_limit=limit) for _ in "abc"]
    ids = [queues[n % 3].enqueue(Job(payload=n)) for n in range(60)]
    ids += queues[0].enqueue_many([Job(payload=n, kind="rare") for n in range(60, 120)])
    assert [queues[1].wait(job_id, DEADLINE).result for job_id in ids] == list(range(120))
    assert {n for n in ids if ran[n] != 1} == {ids[7]}
    assert ran[ids[7]] == 2
    assert queues[2].close()


def test_orders_and_producers_that_wait(pooled: str, open_queue: OpenQueue, gate: Gate) -> None:
    bringer = open_queue(workers=0, path=pooled, capacity=2)
    bringer.enqueue(Job(id="a"))
    bringer.enqueue(Job(id="b", run_at=0.2, priority="low"))  # it takes no room from the others
    bringer.enqueue(Job(id="c"))
    blocked = Background(bringer.enqueue, Job(id="d"))
    assert bringer.cancel("c")
    assert blocked.result() == "d"
    queue = open_queue(path=pooled)
    assert [bringer.wait(n, DEADLINE).status for n in "abd"] == [Status.COMPLETED] * 3
    assert list(queue.map(range(20), timeout=DEADLINE)) == list(range(20))
    queue.join(DEADLINE)


def test_a_killed_process_and_one_that_comes_back_late(pooled: str, open_queue: OpenQueue) -> None:
    bringer = open_queue(workers=0, path=pooled)
    with Host(pooled) as killed, Host(pooled) as paused:
        for host in (killed, paused):
            host.wait_for("ready")
        bringer.enqueue(Job(id="a", payload="held"))
        bringer.enqueue(Job(id="b", payload="held"))
        becomes(lambda: {bringer.status(n) for n in "ab"} == {Status.PROCESSING})
        killed.kill()
        paused.pause()
        queue = open_queue(lambda job: "in time", path=pooled)
        assert [queue.wait(n, DEADLINE).result for n in "ab"] == ["in time"] * 2
        paused.resume()
        paused.release()
        assert bringer.wait(bringer.enqueue(Job(id="c")), DEADLINE)
        assert {queue.get(n).result for n in "ab"} == {"in time"}


def test_a_job_commits_with_the_callers_transaction(pooled: str, open_queue: OpenQueue) -> None:
    queue = open_queue(path=pooled)
    with psycopg.connect(pooled.partition("&pooler")[0], prepare_threshold=None) as connection:
        queue.enqueue(Job(id="rolled back"), connection=connection)
        connection.rollback()
        queue.enqueue(Job(id="kept"), connection=connection)
    assert queue.wait("kept", DEADLINE).status is Status.COMPLETED
    assert queue.metrics().accepted == 1


def test_notifications_go_past_it_by_an_address_of_their_own(
    pooled: str, address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from final.ledger.postgres import housekeeping

    monkeypatch.setattr(
        housekeeping, "POLL_SECONDS", 600.0
    )  # so that who was told nothing waits long
    past = address.partition("&lease")[0].replace("&", "%26")
    queue = open_queue(path=f"{pooled}&listen={past}", backoff=Backoff(base=0))
    bringer = open_queue(workers=0, path=pooled)
    becomes(lambda: bool(sql(address, "SELECT 1 FROM jobqueue.owner WHERE workers > 0")))
    assert queue.wait(bringer.enqueue(Job(payload="told")), DEADLINE).result == "told"
