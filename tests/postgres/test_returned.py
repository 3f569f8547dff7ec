"""What comes back to a ledger in one exchange: each by its own token, all in a few statements."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from final.beyond.kinds import Policies
from final.beyond.snooze import Again
from final.engine import producers
from final.engine.events import Events
from final.engine.messages import Enqueue
from final.job import Outcome, Priority, Status, Task
from final.ledger.base import Given, Offer
from final.ledger.postgres import returned
from final.ledger.postgres import statements as sql
from final.ledger.postgres.address import parse
from final.ledger.postgres.ledger import PostgresLedger
from final.ledger.postgres.session import Session
from tests.final.helpers import options

ENDS: list[dict[str, Any]] = [
    {},
    {"result": "1"},
    {"error": "E: no"},
    {"error": "E: no", "delay": 60.0},
    {"again": Again(60.0, by_clock=False)},
]


@pytest.fixture
def ledger(address: str) -> Iterator[PostgresLedger]:
    with opened(address) as ledger:
        yield ledger


@pytest.fixture
def elsewhere(address: str) -> Iterator[PostgresLedger]:
    """That of another process. Neither is told anything."""
    with opened(address) as ledger:
        yield ledger


@contextlib.contextmanager
def opened(address: str, **changes: Any) -> Iterator[PostgresLedger]:
    chosen = options(**changes)
    ledger = PostgresLedger(
        parse(address), chosen, Policies(chosen), None, lambda kind: True, Events().say
    )
    ledger.open(time.monotonic(), time.time())
    yield ledger
    ledger.close()


def exchange(ledger: PostgresLedger, **offered: Any) -> Given:
    given = ledger.exchange(Offer(time.monotonic(), time.time(), **offered))
    assert given.error is None, given.error
    return given


def new(job_id: str) -> list[Task]:
    return [Task(job_id, "null", Priority.MEDIUM, "default", size=4)]


def claimed(ledger: PostgresLedger, count: int) -> list[Task]:
    """So many new jobs, each by a claim of its own."""
    tasks = []
    for n in range(count):
        ((task,),) = exchange(ledger, new=[new(f"job-{n}")], idle=1).claims
        tasks.append(task)
    assert len({task.token for task in tasks}) == count
    return tasks


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements from now on."""
    statements: list[str] = []
    ask = Session.ask

    def note(session: Session, statement: str, values: Any = ()) -> Any:
        statements.append(statement)
        return ask(session, statement, values)

    monkeypatch.setattr(Session, "ask", note)
    return statements


def test_those_that_ended_alike_share_a_statement(ledger: PostgresLedger, asked: list[str]) -> None:
    outcomes = [Outcome(task, 0.0, **ENDS[n % 5]) for n, task in enumerate(claimed(ledger, 10))]
    asked.clear()
    given = exchange(ledger, outcomes=[(each.task.token, [each]) for each in outcomes])
    for statement in (sql.COMPLETED, sql.KEPT, sql.FAILED, sql.SNOOZED):
        assert asked.count(statement) == 1
    assert [(move.target, [task.id for task in move.tasks]) for move in given.moves] == [
        (Status.COMPLETED, ["job-0", "job-5"]),
        (Status.COMPLETED, ["job-1", "job-6"]),
        (Status.FAILED, ["job-2", "job-7"]),
        (Status.RETRYING, ["job-3", "job-8"]),
        (Status.SCHEDULED, ["job-4", "job-9"]),
    ]
    for each in outcomes:
        record = ledger.look_ups.get(each.task.id)
        assert record is not None
        assert record.status == each.task.status


def test_jobs_that_did_not_start_share_one_too(ledger: PostgresLedger, asked: list[str]) -> None:
    tasks = claimed(ledger, 4)
    asked.clear()
    given = exchange(ledger, unstarted=[(task.token, [task]) for task in tasks])
    assert asked.count(sql.GIVEN_BACK) == 1
    assert [(move.target, len(move.tasks)) for move in given.moves] == [(Status.QUEUED, 4)]


def test_of_two_attempts_of_a_job_in_one_exchange_the_latest_counts(ledger: PostgresLedger) -> None:
    (task,) = claimed(ledger, 1)
    old = copy.copy(task)
    exchange(ledger, unstarted=[(task.token, [task])])
    ((task,),) = exchange(ledger, idle=1).claims
    late = Outcome(old, 0.0), Outcome(task, 0.0)
    given = exchange(ledger, outcomes=[(each.task.token, [each]) for each in late])
    ((move),) = given.moves
    assert (move.target, move.outcomes) == (Status.COMPLETED, [late[1]])
    assert ledger.shared_figures().fenced == 1


def test_large_results_take_several_turns(
    ledger: PostgresLedger, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returned, "BYTES_AT_ONCE", 100)
    outcomes = [Outcome(task, 0.0, result="7" * 60) for task in claimed(ledger, 3)]
    asked.clear()
    given = exchange(ledger, outcomes=[(each.task.token, [each]) for each in outcomes])
    assert asked.count(sql.KEPT) == asked.count("COMMIT") == 3
    assert [len(move.tasks) for move in given.moves] == [1, 1, 1]


def test_large_payloads_too(
    ledger: PostgresLedger, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returned, "BYTES_AT_ONCE", 100)
    new = [[Task(f"large-{n}", "7" * 60, Priority.LOW, "default", size=60) for n in range(3)]]
    given = exchange(ledger, new=new, idle=1)
    assert given.accepted == [3]
    assert asked.count(sql.INSERT + sql.OR_FAIL) == 3
    ids = [f"large-{n}" for n in range(3)]
    assert [task.id for batch in given.claims for task in batch] == ids[: len(given.claims[0])]
    assert ledger.look_ups.known(ids) == set(ids)


def test_nor_do_large_payloads_all_come_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "BYTES_AT_ONCE", 100)
    line = producers.Producers()
    line.join(Enqueue([Task(f"{n}", "7" * 60, Priority.LOW, "default", size=60) for n in range(3)]))
    ((_, tasks),) = line.take(dict.fromkeys(Priority, 1000))
    assert [task.id for task in tasks] == ["0", "1"]


def test_while_jobs_of_others_flow_it_looks_again_without_being_told(
    ledger: PostgresLedger, elsewhere: PostgresLedger, asked: list[str]
) -> None:
    exchange(elsewhere, new=[new("first")])
    ((task,),) = exchange(ledger, idle=2).claims
    ledger._housekeeping.poll_at = math.inf  # nor does it find out by itself
    for job_id in ("second", "third"):
        exchange(elsewhere, new=[new(job_id)])
        ((task,),) = exchange(ledger, outcomes=ended(task), idle=2).claims
        assert task.id == job_id
    asked.clear()
    assert not exchange(ledger, outcomes=ended(task), idle=2).claims
    assert asked.count(sql.LOOK) == 1
    assert not ledger._memory.flows  # from now on it waits to be told


def ended(task: Task) -> list[tuple[int, list[Outcome]]]:
    return [(task.token, [Outcome(task, 0.0)])]


def test_of_two_ends_of_an_attempt_the_first_counts(ledger: PostgresLedger) -> None:
    """Its time was up, that could not be written, and then its worker reported."""
    [task] = claimed(ledger, 1)
    late = Outcome(task, 2.0, error="TimeoutError: late", delay=60.0)
    stopped = Outcome(task, 2.1, error="E: it was stopped", delay=60.0)
    given = exchange(ledger, outcomes=[(task.token, [late]), (task.token, [stopped])])
    assert [(move.tasks, move.target) for move in given.moves] == [([task], Status.RETRYING)]
    [attempt] = ledger.look_ups.attempts(task.id)
    assert attempt.error == "TimeoutError: late"


def test_who_has_looked_while_jobs_were_locked_is_told_of_those_that_have_stayed(
    ledger: PostgresLedger, elsewhere: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange(ledger, new=[new(f"job-{n}") for n in range(8)])
    ledger._notices.work = False
    ask, looked, told = ledger._session.ask, list[Given](), list[object]()

    def look_elsewhere(statement: str, values: Any = ()) -> Any:
        if statement.startswith(sql.CLAIM):
            looked.append(exchange(elsewhere, idle=1))
        if statement == sql.NOTIFY:
            told.append(values)
        return ask(statement, values)

    monkeypatch.setattr(ledger._session, "ask", look_elsewhere)
    given = exchange(ledger, idle=2, cost={"another": 1e-6})  # so it looks at many
    ledger._notices.send_at_once()
    assert [len(batch) for batch in given.claims] == [1, 1]
    assert [given.claims for given in looked] == [[]]
    assert len(told) == 1
