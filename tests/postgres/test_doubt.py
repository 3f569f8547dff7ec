"""Connections that are cut at the worst moment, or go silent: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from final import DuplicateJob, Job, JobQueue, StorageError, TokenBucket
from tests import postgres_server
from tests.helpers import DEADLINE, Background, Gate, Journal
from tests.postgres.conftest import OpenQueue
from tests.postgres.proxy import MOMENTS, Moment, Proxy
from tests.postgres.test_processes import becomes, ledger

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Unix sockets")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_that_is_cut(address: str, open_queue: OpenQueue, moment: Moment) -> None:
    ran: Counter[str] = Counter()
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(
            lambda job: ran.update([job.id]),
            path=f"{proxy.dsn}&lease=1{query}",
            workers=2,
            # With a limit, each exchange takes two round trips.
            rate_limit=TokenBucket(1000, 1000) if moment in ("half-way", "after") else None,
        )
        queue.enqueue(Job(id="first"))
        queue.wait("first", DEADLINE)
        for n in range(6):
            proxy.cuts = [moment]
            enqueue_in_the_end(queue, f"job-{n}")
            queue.wait(f"job-{n}", DEADLINE)
        queue.join(DEADLINE)
        assert len(proxy.done) >= 5
        queue.close()
    assert len(ran) == 7
    assert set(ran.values()) == {1}


def test_all_hear_what_came_of_a_commit_whose_answer_was_lost(
    address: str, open_queue: OpenQueue, journal: Journal
) -> None:
    gates = [Gate() for _ in range(5)]
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(
            lambda job: gates[job.payload].wait(), path=f"{proxy.dsn}&lease=1{query}", workers=1
        )
        elsewhere = open_queue(workers=0)
        queue.subscribe(lambda c: journal.write(("here", c.job_id, str(c.status))))
        elsewhere.subscribe(lambda c: journal.write(("elsewhere", c.job_id, str(c.status))))
        becomes(lambda: is_curious(queue))
        for n, gate in enumerate(gates):
            queue.enqueue(Job(id=f"job-{n}", payload=n))
            journal.wait_for(("here", f"job-{n}", "processing"))
            done = len(proxy.done)
            proxy.cuts = ["after"]
            gate.open()
            for place in ("here", "elsewhere"):
                journal.wait_for((place, f"job-{n}", "completed"))
            assert len(proxy.done) == done + 1
        assert queue.metrics().completed == 5
        queue.close()


def is_curious(queue: JobQueue) -> bool:
    """Whether somebody is known to want to hear."""
    look_ups = ledger(queue).look_ups
    return look_ups._read("SELECT bool_or(curious) FROM jobqueue.owner WHERE workers = 0") == [
        (True,)
    ]


def enqueue_in_the_end(queue: JobQueue, job_id: str) -> None:
    """As a client does: on a busy machine the server's patience may end before the connection."""
    while True:
        try:
            queue.enqueue(Job(id=job_id))
        except StorageError:
            continue
        except DuplicateJob:
            pass  # it is in
        return


def test_a_server_that_restarts(open_queue: OpenQueue) -> None:
    server = postgres_server.Server()
    try:
        server.start()
        with JobQueue(lambda job: job.payload, path=server.dsn) as queue:
            ids = [queue.enqueue(Job(payload=n)) for n in range(20)]
            server.stop(signal.SIGQUIT)  # "immediate": as a crash
            refused = Background(queue.enqueue, Job(id="x"))
            with pytest.raises(StorageError, match=r"goes on by itself|nobody knows"):
                refused.result()
            with pytest.raises(StorageError, match="Cannot use"):
                queue.get(ids[0])
            server.start()
            assert [queue.wait(job_id, 2 * DEADLINE).result for job_id in ids] == list(range(20))
            assert queue.metrics().completed == 20
    finally:
        server.remove()
