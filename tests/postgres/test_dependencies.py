"""Jobs that come after others, whose parents end in another process, or at the same moment."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from final import Job, JobQueue, Status, UnknownJob, current_job
from final.ledger.base import AT_ONCE
from final.ledger.postgres import statements as sql_texts
from final.ledger.postgres.address import parse
from final.ledger.postgres.dependencies import WORKED_OFF
from tests.final.test_dependencies import echo, graphs, model
from tests.helpers import DEADLINE, Background, Gate
from tests.host import Host
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, ledger, sql


def is_queued(queue: JobQueue, job_id: str) -> bool:
    return queue.status(job_id) is Status.QUEUED


def parents(job: Job) -> object:
    return current_job().parents or job.id


def test_a_parent_that_ends_in_another_process_lets_its_children_go(open_queue: OpenQueue) -> None:
    bringer, _ = open_queue(workers=0), open_queue(parents)
    bringer.enqueue_many([Job("child", after=["a", "b"]), Job("a"), Job("b")])
    assert bringer.wait("child", DEADLINE).result == {"a": "a", "b": "b"}
    assert bringer.get("child").after == ("a", "b")
    bringer.enqueue(Job("late", after=["a"]))  # it has ended already
    assert bringer.wait("late", DEADLINE).result == {"a": "a"}
    with pytest.raises(UnknownJob, match="nobody"):
        bringer.enqueue(Job(after=["nobody"]))
    bringer.join(DEADLINE)


def test_random_graphs_come_to_what_the_rules_say(open_queue: OpenQueue) -> None:
    queue = open_queue(echo, workers=2)
    numbers = itertools.count()

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(graph=graphs())
    def require(graph: list[Job]) -> None:
        n = next(numbers)
        expected = {f"{n}-{job_id}": status for job_id, status in model(graph).items()}
        queue.enqueue_many([renamed(job, n) for job in graph])
        for job_id in expected:
            queue.wait(job_id, DEADLINE)
        assert {job_id: queue.status(job_id) for job_id in expected} == expected

    require()


def renamed(job: Job, n: int) -> Job:
    after = None if job.after is None else [f"{n}-{parent}" for parent in job.after]
    return dataclasses.replace(job, id=f"{n}-{job.id}", after=after)  # type: ignore[arg-type]


def test_a_parent_may_end_while_a_child_comes_in(open_queue: OpenQueue) -> None:
    bringer, runner = open_queue(workers=0), open_queue(lambda job: None, workers=4)
    for n in range(100):
        bringer.enqueue(Job(f"parent {n}"))
        bringer.enqueue(Job(f"child {n}", after=[f"parent {n}"]))
    for n in range(100):
        assert runner.wait(f"child {n}", DEADLINE).status is Status.COMPLETED


def test_the_end_of_a_parent_waits_for_a_child_that_is_about_to_come_in(
    open_queue: OpenQueue, address: str, gate: Gate
) -> None:
    """The parent is locked by an open transaction, as by one that inserts a child."""
    queue = open_queue(lambda job: gate.wait(), workers=1)
    queue.enqueue(Job("parent"))
    place = parse(address)
    with psycopg.connect(place.dsn) as connection:
        select = f"SELECT FROM {place.schema}.job WHERE id = 'parent' FOR SHARE"
        connection.execute(select.encode())
        gate.open()
        waits = Background(queue.wait, "parent", DEADLINE)
        becomes(lambda: bool(sql(address, WAITS_FOR_A_LOCK)))
        assert queue.status("parent") is Status.PROCESSING
    assert waits.result().status is Status.COMPLETED


WAITS_FOR_A_LOCK = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def test_an_end_that_is_committed_late_is_not_taken_for_one_that_has_counted(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line has a lower number than another one, with whose children it is not seen yet."""
    queue = open_queue(None, workers=0)
    queue.enqueue_many([Job(id="late"), Job(id="early")])
    queue.enqueue_many([Job(id=f"after-{p}", after=[p]) for p in ("late", "early")])
    place = parse(address)
    end = f"UPDATE {place.schema}.job SET status = 'completed', ended_at = now() WHERE id = %s"
    early = "SELECT 1 FROM jobqueue.job WHERE id = %s AND ended_at IS NOT NULL"
    session, ask = ledger(queue)._session, ledger(queue)._session.ask
    with psycopg.connect(place.dsn) as connection:
        connection.execute(end.encode(), ("late",))

        def commit_late(statement: str, values: Any = ()) -> Any:
            if statement == WORKED_OFF and sql(address, early, "early"):
                connection.commit()
            return ask(statement, values)

        monkeypatch.setattr(session, "ask", commit_late)
        sql(address, end, "early")
        for parent in ("early", "late"):
            becomes(functools.partial(is_queued, queue, f"after-{parent}"))
    queue.close(drain=False)


def test_children_go_on_when_the_process_is_killed_that_let_them_go(
    open_queue: OpenQueue, address: str
) -> None:
    bringer = open_queue(workers=0)
    with Host(address) as other:
        bringer.enqueue(Job("parent", payload="held"))
        other.wait_for("started parent")
        bringer.enqueue_many([Job(str(n), after=["parent"]) for n in range(4 * AT_ONCE)])
        other.release()
        becomes(lambda: bringer.status("0") is not Status.WAITING)
    runner = open_queue(workers=4)
    for n in range(4 * AT_ONCE):
        assert runner.wait(str(n), DEADLINE).status is Status.COMPLETED


def test_the_history_keeps_a_parent_for_its_children(open_queue: OpenQueue, gate: Gate) -> None:
    queue = open_queue(echo, history=0)
    queue.enqueue_many([Job("parent"), Job("other"), Job("child", after=["parent"], run_at=3_600)])
    becomes(lambda: not queue._ledger.look_ups.known(["other"]))
    assert queue.status("child") is Status.SCHEDULED
    assert queue.status("parent") is Status.COMPLETED
    queue.cancel("child")
    becomes(lambda: not queue.jobs())


def test_the_history_keeps_a_parent_that_had_ended_before_its_child_came(
    open_queue: OpenQueue,
) -> None:
    queue = open_queue(echo, history=1)
    queue.wait(queue.enqueue(Job("parent")), DEADLINE)
    queue.enqueue(Job("child", after=["parent"], run_at=3_600))
    queue.enqueue_many([Job("other"), Job("last")])
    becomes(lambda: not queue._ledger.look_ups.known(["other"]))
    assert queue.status("parent") is Status.COMPLETED


def test_the_history_keeps_a_parent_whose_child_comes_in_at_that_moment(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it looks for the oldest: the sleep stands for many to look through."""
    path = address.replace("lease=1", "lease=10")
    queue, pruner = open_queue(parents, path=path), open_queue(workers=0, path=path, history=0)
    housekeeping = ledger(pruner)._housekeeping
    housekeeping._count_ended_at = math.inf
    queue.wait(queue.enqueue(Job("parent")), DEADLINE)
    slowly = sql_texts.OLDEST.replace("seq >= %s", "seq >= %s AND pg_sleep(0.5) IS NOT NULL")
    monkeypatch.setattr(sql_texts, "OLDEST", slowly)
    housekeeping._ended = 1
    ours = f"{parse(address).schema} %"
    becomes(lambda: sql(address, SLEEPING, ours))
    queue.pause()
    queue.enqueue(Job("child", after=["parent"]))
    housekeeping._ended = 0
    becomes(lambda: not sql(address, SLEEPING, ours))
    queue.resume()
    assert queue.wait("child", DEADLINE).result == {"parent": "parent"}


def test_so_does_a_purge(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = address.replace("lease=1", "lease=10")
    queue, other = open_queue(parents, path=path), open_queue(workers=0, path=path)
    queue.wait(queue.enqueue(Job("parent")), DEADLINE)
    slowly = sql_texts.LOCK_ENDED.replace(
        "ended_at IS", "pg_sleep(0.5) IS NOT NULL AND ended_at IS"
    )
    monkeypatch.setattr(sql_texts, "LOCK_ENDED", slowly)
    purge = Background(functools.partial(other.purge, status=Status.COMPLETED))
    ours = f"{parse(address).schema} %"
    becomes(lambda: sql(address, SLEEPING, ours))
    queue.pause()
    queue.enqueue(Job("child", after=["parent"]))
    assert purge.result() == 0
    queue.resume()
    assert queue.wait("child", DEADLINE).result == {"parent": "parent"}


SLEEPING = """SELECT pid FROM pg_stat_activity
    WHERE wait_event = 'PgSleep' AND application_name LIKE %s"""


def test_the_history_keeps_a_parent_for_a_dead_letter(open_queue: OpenQueue) -> None:
    queue = open_queue(echo, history=0)
    jobs = [Job("parent"), Job("other"), Job("child", "fails", after=["parent"])]
    queue.enqueue_many(jobs)
    assert queue.wait("child", DEADLINE).status is Status.FAILED
    becomes(lambda: not queue._ledger.look_ups.known(["other"]))
    assert queue.status("parent") is Status.COMPLETED
    queue.purge()
    becomes(lambda: not queue.jobs())


def test_a_transaction_of_the_callers_takes_no_child(open_queue: OpenQueue, address: str) -> None:
    queue = open_queue()
    with (
        psycopg.connect(parse(address).dsn) as connection,
        pytest.raises(ValueError, match="cannot come after others"),
    ):
        queue.enqueue(Job(after=["parent"]), connection=connection)


def test_a_process_that_is_stopped_while_children_go_on_holds_up_no_others(
    address: str, open_queue: OpenQueue
) -> None:
    path = address.replace("lease=1", "lease=4")
    with Host(path) as host, closing(psycopg.connect(parse(path).dsn)) as blocker:
        host.wait_for("ready")
        with open_queue(workers=0) as bringer:
            bringer.enqueue(Job(id="parent", payload="held"))
            bringer.enqueue(Job(id="child", after=["parent"]))
        host.wait_for("started parent")
        # It gets as far as this row, and then no further.
        blocker.execute(f"SELECT FROM {parse(address).schema}.dependency FOR UPDATE".encode())
        host.release()
        becomes(lambda: sql(address, "SELECT pid FROM pg_locks WHERE NOT granted"))
        host.pause()
        blocker.rollback()
        assert open_queue().wait("child", DEADLINE).status is Status.COMPLETED
