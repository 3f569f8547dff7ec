"""Whatever servers, roles and environments set for sessions, the queue says what it counts on."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from final import Job, JobQueue, Kind, StorageError, TokenBucket, UnknownJob
from final.ledger.postgres.address import parse
from final.ledger.postgres.session import Session
from final.ledger.postgres.statements import BEGIN, CLASS, PRUNER, REGISTER
from tests.helpers import DEADLINE, Background, Journal
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, ledger, sql

REPEATABLE = "-c%20default_transaction_isolation%3Drepeatable%5C%20read"


def test_nobody_is_refused_whatever_the_default_isolation_is(
    address: str, open_queue: OpenQueue
) -> None:
    path = f"{address.replace('lease=1', 'lease=10')}&options={REPEATABLE}"
    limits = {"a": Kind(lambda job: None, workers=3, rate_limit=TokenBucket(1000, 10))}
    queues = [open_queue(limits, path=path) for _ in range(3)]

    def bring(queue: JobQueue) -> None:
        for _ in range(60):
            queue.enqueue(Job(kind="a"))

    for producer in [Background(bring, queue) for queue in queues]:
        producer.result(3 * DEADLINE)
    queues[0].join(3 * DEADLINE)
    assert queues[0].metrics().completed == 180


def test_text_is_utf8_whatever_the_environment_says(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    queue = open_queue()
    assert queue.wait(queue.enqueue(Job(payload="漢字")), DEADLINE).result == "漢字"


def test_what_the_address_says_goes_before_what_is_usual(
    address: str, open_queue: OpenQueue
) -> None:
    open_queue(path=f"{address}&application_name=web-{address[-8:]}")
    names = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    assert sql(address, names, f"web-{address[-8:]}") >= [(1,)]


def test_a_process_that_has_no_place_for_files_has_no_witness(
    open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    queue = open_queue()
    assert queue.wait(queue.enqueue(Job()), DEADLINE)


def test_what_anybody_may_notify_ends_no_listener(address: str, open_queue: OpenQueue) -> None:
    before = set(threading.enumerate())  # listeners of other tests may be about to end
    queue = open_queue(workers=0)
    threads = {t for t in threading.enumerate() if t.name == "final-listener"} - before
    assert threads
    channel = parse(address).schema
    for text in ("", "0:", "0:[1]", '0:["a","completed",1,9,"k",null]', "0:" + "[" * 5_000):
        sql(address, "SELECT pg_notify(%s, %s)", channel, text)
    heard = Journal()
    queue.subscribe(lambda change: heard.write(change.job_id))
    row = '0:["last","completed",1,0,"k",null]'

    def is_heard() -> bool:
        sql(address, "SELECT pg_notify(%s, %s)", channel, row)
        return bool(heard.entries)

    becomes(is_heard)
    assert all(thread.is_alive() for thread in threads)


def test_a_queue_that_is_refused_leaves_no_connection(address: str, open_queue: OpenQueue) -> None:
    open_queue(workers=0).close()
    sql(address, "INSERT INTO jobqueue.migration VALUES ('9000_breaking.sql')")
    with pytest.raises(StorageError) as refused:
        open_queue()
    ours = f"{parse(address).schema} %"
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
    becomes(lambda: sql(address, count, ours) == [(0,)])
    assert "newer release" in str(refused.value)


def test_a_session_that_is_ended_while_a_queue_opens(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_queue(workers=0)
    for moment in (CLASS, REGISTER, PRUNER):
        ended, ask = list[str](), Session.ask

        def end_once(session: Session, statement: str, values: Any = ()) -> Any:
            if statement == moment and not ended:  # noqa: B023
                ended.append(statement)  # noqa: B023
                ask(session, "SELECT pg_terminate_backend(pg_backend_pid())")  # noqa: B023
            return ask(session, statement, values)  # noqa: B023

        with monkeypatch.context() as patched:
            patched.setattr(Session, "ask", end_once)
            queue = open_queue()
        assert ended
        assert queue.wait(queue.enqueue(Job()), DEADLINE)


def test_before_postgresql_17_too_a_turn_that_goes_silent_is_ended(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = property(lambda _: 160000, lambda *_: None)
    monkeypatch.setattr(Session, "version", version, raising=False)
    lease, session = ledger(open_queue(workers=0))._lease, Session(parse(address))
    session.ask(BEGIN)
    session.ask(lease._guard, (lease.table, lease.owner, *lease._settings))
    ours = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
    becomes(lambda: not sql(address, ours, session.connection.info.backend_pid))
    session.close()


def test_a_capacity_without_end(open_queue: OpenQueue) -> None:
    for overflow in ("block", "drop-oldest"):
        queue = open_queue(capacity=2**70, overflow=overflow)
        assert queue.wait(queue.enqueue(Job()), DEADLINE)


def test_of_a_text_that_no_database_has_nothing_is_found(open_queue: OpenQueue) -> None:
    queue = open_queue(workers=0)
    for ask in (queue.get, queue.status, queue.cancel, queue.retry, queue.wait):
        with pytest.raises(UnknownJob):
            ask("a\0b")
    assert queue.jobs(group="\0") == []
    assert queue.cancel_all(group="\0") == 0
