"""Connections that are cut at the worst moment, or go silent: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from final import DuplicateJob, Every, Job, JobQueue, Status, StorageError, TokenBucket
from final.job import Priority, Task
from final.ledger.postgres.statements import IS_WRITTEN, LOCK_GROUPS, REGISTER
from tests import postgres_server
from tests.final.helpers import nothing
from tests.helpers import DEADLINE, Background, Gate, Journal
from tests.postgres.conftest import OpenQueue
from tests.postgres.proxy import MOMENTS, Moment, Proxy
from tests.postgres.test_processes import becomes, ledger, sql
from tests.postgres.test_returned import ended, exchange, new, opened

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Unix sockets")

LIMITED = ("half-way", "unplugged", "after")  # with a limit, each exchange takes two round trips


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_that_is_cut(address: str, open_queue: OpenQueue, moment: Moment) -> None:
    ran: Counter[str] = Counter()
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(
            lambda job: ran.update([job.id]),
            path=f"{proxy.dsn}&lease=1{query}",
            workers=2,
            rate_limit=TokenBucket(1000, 1000) if moment in LIMITED else None,
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


def test_what_a_lost_session_has_locked_is_free_at_once(
    address: str, open_queue: OpenQueue
) -> None:
    """The server is not told, and nobody takes over: the lease goes on."""
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        limit = TokenBucket(1000, 1000)  # what it has locked
        queue = open_queue(path=f"{proxy.dsn}&lease=60{query}", rate_limit=limit)
        ledger(queue)._housekeeping.poll_at = math.inf  # it has transactions of its own
        proxy.cuts = ["unplugged"]
        job_id = Background(queue.enqueue, Job()).result()
        assert queue.wait(job_id, DEADLINE).status is Status.COMPLETED
        assert not proxy.cuts
        queue.close()


def test_all_hear_what_came_of_a_commit_whose_answer_was_lost(
    address: str, open_queue: OpenQueue, journal: Journal
) -> None:
    gates = [Gate() for _ in range(5)]
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        # With a lease that does not run out on a busy machine: then it would run once more.
        queue = open_queue(
            lambda job: gates[job.payload].wait(), path=f"{proxy.dsn}&lease=10{query}", workers=1
        )
        elsewhere = open_queue(path=f"{dsn}lease=10{query}", workers=0)
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


def test_an_order_is_answered_once_though_its_first_answer_was_lost(
    address: str, open_queue: OpenQueue
) -> None:
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(path=f"{proxy.dsn}&lease=10{query}")
        ids = queue.enqueue_many([Job(run_at=1000) for _ in range(4)])
        orders: list[tuple[Callable[[], object], object]] = [
            (lambda: queue.cancel(ids[0]), True),
            (lambda: queue.cancel_all(), 3),
            (lambda: queue.delete(ids[0]), None),
            (lambda: queue.purge(status="cancelled"), 3),
            (lambda: queue.add_periodic(Every(1000, Job(), name="e")), None),
            (lambda: queue.remove_periodic("e"), None),
        ]
        for order, answer in orders:
            proxy.cuts = ["after"]
            assert order() == answer
            assert not proxy.cuts
        queue.close()


@pytest.mark.parametrize("moment", MOMENTS[:-1])
def test_an_id_that_was_there_before_does_not_pass_for_a_commit(
    address: str, open_queue: OpenQueue, moment: Moment
) -> None:
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(path=f"{proxy.dsn}&lease=10{query}", workers=0)
        queue.enqueue(Job("there"))
        for again in ([Job("there"), Job("new")], [Job("there")]):
            proxy.cuts = [moment]
            with pytest.raises(DuplicateJob):
                queue.enqueue_many(again)
        queue.enqueue(Job("new"))
        queue.close()


def test_a_server_that_took_over_may_not_have_come_as_far(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written there has lower numbers than what the one before had, and is written."""
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(path=f"{proxy.dsn}&lease=10{query}", workers=0)
        queue.enqueue_many([Job() for _ in range(100)])
        lease = ledger(queue)._lease

        def reconnect_to_another() -> None:
            monkeypatch.undo()
            sql(address, "DELETE FROM jobqueue.job")
            sql(address, "SELECT setval('jobqueue.job_seq_seq', 1)")
            lease.reconnect()

        monkeypatch.setattr(lease, "reconnect", reconnect_to_another)
        ledger(queue)._session.connection.close()
        proxy.cuts = ["after"]
        assert queue.enqueue(Job("new")) == "new"
        queue.close()


def test_an_end_that_was_not_written_is_written_again(
    address: str, open_queue: OpenQueue, gate: Gate
) -> None:
    """In one turn with a job whose id is there already."""
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(lambda job: gate.wait(), path=f"{proxy.dsn}&lease=10{query}", workers=1)
        queue.enqueue(Job("there", run_at=1000))
        queue.enqueue(Job("runs"))
        becomes(lambda: queue.status("runs") is Status.PROCESSING)
        with one_exchange(queue):
            proxy.cuts = ["before"]
            gate.open()
            with pytest.raises(DuplicateJob):
                queue.enqueue_many([Job("there"), Job("new")])
        assert queue.wait("runs", DEADLINE).status is Status.COMPLETED
        queue.close()


def test_a_turn_is_found_though_all_that_it_was_to_claim_was_of_a_full_group(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has filled the group since the look."""
    dsn, _, query = address.partition("lease=1")
    with (
        Proxy(dsn) as proxy,
        opened(f"{proxy.dsn}&lease=10{query}", group_limit=1) as here,
        opened(address, group_limit=1) as elsewhere,
    ):
        ((runs,),) = exchange(here, new=[new("runs")], idle=1).claims
        exchange(elsewhere, new=[[of_group("low", Priority.LOW)]])
        ask = here._session.ask

        def after_others(statement: str, values: Any = ()) -> Any:
            if statement == LOCK_GROUPS and not proxy.done:
                exchange(elsewhere, new=[[of_group("high", Priority.HIGH)]])
                assert exchange(elsewhere, idle=1).claims
                proxy.cuts = ["after"]
            return ask(statement, values)

        monkeypatch.setattr(here._session, "ask", after_others)
        here._memory.more = True  # as it is told
        given = exchange(here, outcomes=ended(runs), new=[new("new")], idle=1)
        assert proxy.done
        assert given.accepted == [1]
        assert [move.target for move in given.moves] == [Status.COMPLETED, Status.QUEUED]


def of_group(job_id: str, priority: Priority) -> Task:
    task = Task(job_id, "null", priority, "default", size=4)
    task.group = "g"
    return task


@contextlib.contextmanager
def one_exchange(queue: JobQueue) -> Iterator[None]:
    """The next one waits until a job has come back and another one wants to come in."""
    dispatcher = queue._dispatcher
    exchange = dispatcher._exchange

    def hold(now: float, wall: float) -> None:
        if dispatcher._flight.outcomes and dispatcher._producers.can_go(dispatcher._given.room):
            dispatcher._exchange = exchange  # type: ignore[method-assign]
            exchange(now, wall)

    dispatcher._exchange = hold  # type: ignore[method-assign]
    yield


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


def test_nothing_is_acknowledged_that_a_synchronous_standby_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An end of the session that waits for the standby makes the job visible on the primary."""
    monkeypatch.setattr("final.ledger.postgres.ledger.PATIENCE", 0.5)
    server = postgres_server.Server(
        synchronous_standby_names="away",
        synchronous_commit="local",  # of all that is not a turn
    )
    try:
        server.start()
        path = f"{server.dsn}&lease=2"
        queue = JobQueue(nothing, path=path, workers=1)
        with pytest.raises(StorageError, match="nobody knows"):
            Background(queue.enqueue, Job("a")).result()
        # And nobody runs it: its claim is not given back before that is certain.
        assert sql(path, "SELECT id, status FROM jobqueue.job") == [("a", "processing")]
        queue.close(drain=False, timeout=0)
    finally:
        server.remove()


def test_who_is_cut_off_each_time_is_told(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, _, query = address.partition("lease=1")
    monkeypatch.setattr("tests.postgres.proxy.TRIP", 30_000)  # what is large gets through nowhere
    with Proxy(dsn) as proxy:
        queue = open_queue(path=f"{proxy.dsn}&lease=10{query}")
        proxy.cuts = ["before"] * 100_000
        large = Background(queue.enqueue, Job(payload="x" * 1_000_000))
        with pytest.raises(StorageError):
            large.result()
        assert queue.wait(queue.enqueue(Job(payload=1)), DEADLINE).result == 1
        queue.close()


@pytest.mark.parametrize(
    ("moment", "instead"),
    [
        pytest.param(REGISTER, "SELECT pg_terminate_backend(pg_backend_pid())", id="new-lease"),
        pytest.param(IS_WRITTEN, "SELECT FROM nowhere", id="commit-in-doubt"),
    ],
)
def test_what_fails_at_a_bad_moment_ends_no_queue(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, moment: str, instead: str
) -> None:
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(path=f"{proxy.dsn}&lease=10{query}", rate_limit=TokenBucket(1000, 1000))
        session, failed = ledger(queue)._session, list[str]()
        ask = session.ask

        def fail_once(statement: str, values: Any = ()) -> Any:
            if statement != moment or failed:
                return ask(statement, values)
            failed.append(statement)
            return ask(instead)

        monkeypatch.setattr(session, "ask", fail_once)
        if moment == REGISTER:
            sql(address, "DELETE FROM jobqueue.owner")
        while not failed:
            proxy.cuts = ["after"] * (moment == IS_WRITTEN)
            enqueue_in_the_end(queue, f"job-{len(queue.jobs())}")
        queue.join(DEADLINE)
        queue.close()


def test_a_cancel_holds_while_a_claim_is_in_doubt(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, cancelled = list[str](), list[str]()
    dsn, _, query = address.partition("lease=1")
    with Proxy(dsn) as proxy:
        queue = open_queue(
            lambda job: ran.append(job.id),
            path=f"{proxy.dsn}&lease=10{query}",
            rate_limit=TokenBucket(1000, 1000),  # so that the answer to a commit comes alone
        )
        elsewhere = open_queue(workers=0)
        doubt = ledger(queue)._doubt
        settle = doubt.settle

        def settle_late() -> bool:
            if doubt.trace is not None:
                (job_id,) = [job.id for job in elsewhere.jobs(limit=1)]
                if elsewhere.status(job_id) is Status.PROCESSING and elsewhere.cancel(job_id):
                    cancelled.append(job_id)
            return settle()

        monkeypatch.setattr(doubt, "settle", settle_late)
        while not cancelled:
            proxy.cuts = ["after"]
            enqueue_in_the_end(queue, f"job-{len(queue.jobs())}")
        queue.join(DEADLINE)
        assert queue.status(cancelled[0]) is Status.CANCELLED
        assert cancelled[0] not in ran
        queue.close()
