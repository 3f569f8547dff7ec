"""What processes of one queue, and a caller's transaction, must not do to each other."""

# ruff: noqa: F401, F811  (fixtures are imported)

from __future__ import annotations

import contextlib
import functools
import math
import time
from typing import Any, NoReturn

import psycopg
import pytest

from final import LeakyBucket, Unique
from final.errors import StorageError
from final.job import Outcome, Status, Task
from final.ledger.base import Cancel, Given, Offer
from final.ledger.postgres import lookups
from final.ledger.postgres.address import parse
from final.ledger.postgres.ledger import PostgresLedger
from final.ledger.postgres.notices import parsed
from final.ledger.postgres.statements import BEGIN, NOTIFY
from final.ledger.postgres.witness import Witness, is_gone
from tests.helpers import Background, Gate
from tests.postgres.test_processes import becomes, sql
from tests.postgres.test_returned import (
    asked,
    claimed,
    elsewhere,
    ended,
    exchange,
    ledger,
    new,
    opened,
)

FULL = """CREATE FUNCTION jobqueue.fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE disk_full; END $$;
    CREATE TRIGGER fail BEFORE UPDATE OF result ON jobqueue.job FOR EACH ROW
    WHEN (NEW.result IS NOT NULL) EXECUTE FUNCTION jobqueue.fail()"""


def test_a_turn_that_cannot_be_written_costs_no_lease(ledger: PostgresLedger, address: str) -> None:
    """What is large does not fit any more; others, whose turns do, would take over what runs."""
    [runs, large] = claimed(ledger, 2)
    sql(address, FULL)
    sql(address, "UPDATE jobqueue.owner SET expires_at = 'epoch'")
    outcome = Outcome(large, 0.0, result="1")
    offer = Offer(time.monotonic(), time.time(), outcomes=[(large.token, [outcome])])
    assert "disk_full" in str(ledger.exchange(offer).error)
    assert sql(address, "SELECT expires_at > now() FROM jobqueue.owner") == [(True,)]
    assert exchange(ledger, outcomes=ended(runs)).moves


def test_orders_for_jobs_that_a_callers_transaction_has_take_a_bounded_time(
    ledger: PostgresLedger, address: str, asked: list[str]
) -> None:
    exchange(ledger, new=[new("a")])
    place = parse(address)
    with psycopg.connect(place.dsn) as caller:
        caller.execute(f"SELECT FROM {place.schema}.job FOR UPDATE".encode())
        asked.clear()
        answers = exchange(ledger, orders=[Cancel("a")] * 50).answers
    assert len(answers) == 50
    assert all(isinstance(answer, StorageError) for answer in answers)
    assert asked.count(BEGIN) < 10


def test_one_that_is_stopped_half_way_makes_no_turn_of_others_fail(address: str) -> None:
    """The server takes its locks after a third of a lease: a statement waits for a quarter."""
    path = address.replace("lease=1", "lease=3")
    with opened(path, rate_limit=LeakyBucket(10**6)) as limited:
        exchange(limited, new=[new("first")], idle=1)
        with contextlib.closing(psycopg.connect(parse(path).dsn, autocommit=True)) as stopped:
            stopped.execute("SET idle_in_transaction_session_timeout = 1000")
            stopped.execute("BEGIN")
            stopped.execute(f"SELECT FROM {parse(path).schema}.meter FOR UPDATE".encode())
            assert exchange(limited, new=[new("next")], idle=1).accepted == [1]


def test_who_is_replaced_where_it_stands_is_seen_by_others(
    ledger: PostgresLedger, elsewhere: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked while its row was locked has passed over it."""

    def page(job_id: str) -> list[Task]:
        [task] = new(job_id)
        task.unique = Unique("page", then="replace")
        return [task]

    exchange(ledger, new=[page("first")])
    ledger._notices.send_at_once()
    ask, looked, told = ledger._session.ask, list[Given](), list[object]()

    def look_elsewhere(statement: str, values: Any = ()) -> Any:
        if statement == "COMMIT":
            looked.append(exchange(elsewhere, idle=1))
        if statement == NOTIFY:
            told.append(values)
        return ask(statement, values)

    with monkeypatch.context() as patch:
        patch.setattr(ledger._session, "ask", look_elsewhere)
        exchange(ledger, new=[page("second")])
        ledger._notices.send_at_once()
    assert [given.claims for given in looked] == [[]]
    assert told


def test_jobs_that_are_due_stand_in_the_order_of_their_times(ledger: PostgresLedger) -> None:
    jobs, began = [new(f"job-{n}") for n in range(200)], time.time()
    for n, [task] in enumerate(jobs):
        task.due_at, task.by_clock = began - n / 1_000, True  # the last comes first
    exchange(ledger, new=jobs)
    ledger._memory.due_at = -math.inf
    assert [move.target for move in exchange(ledger).moves] == [Status.QUEUED]
    rows = ledger._session.ask("SELECT id FROM jobqueue.job ORDER BY place").fetchall()
    assert [job_id for (job_id,) in rows] == [f"job-{n}" for n in range(199, -1, -1)]


def test_a_count_of_what_waits_is_believed_for_a_moment_only(address: str) -> None:
    with opened(address, capacity=100) as here, opened(address, capacity=100) as there:
        exchange(here, new=[new("first")])
        for n in range(99):
            exchange(there, new=[new(f"job-{n}")])
        later = Offer(time.monotonic() + 1.0, time.time(), new=[new("one"), new("more")])
        assert here.exchange(later).accepted == [0, 0]


def test_jobs_that_fall_due_take_room(address: str) -> None:
    with opened(address, capacity=100) as ledger:
        exchange(ledger, new=[new("first")])  # of what is left then, half is not counted again
        later = [new(f"later-{n}") for n in range(60)]
        for [task] in later:
            task.due_at, task.by_clock = time.time(), True
        exchange(ledger, new=later)
        ledger._memory.due_at = -math.inf
        exchange(ledger)
        given = exchange(ledger, new=[new(f"job-{n}") for n in range(45)])
        assert sum(given.accepted) == 39


def test_what_has_just_ended_stays_for_those_who_wait_for_it(address: str) -> None:
    """They hear of it by a poll, at the latest."""
    with opened(address, history=0) as ledger:
        [task] = claimed(ledger, 1)
        exchange(ledger, outcomes=ended(task))
        ledger._housekeeping._count_ended_at = 0.0
        ledger._housekeeping.poll()
        assert ledger.look_ups.get(task.id) is not None
        sql(address, "UPDATE jobqueue.job SET ended_at = ended_at - interval '3 s'")
        ledger._housekeeping.poll()
        assert ledger.look_ups.get(task.id) is None


def test_parents_that_are_needed_are_kept_beside_the_history(address: str) -> None:
    with opened(address, history=3) as ledger:
        runs, *have_ended = claimed(ledger, 7)
        child = new("child")
        child[0].after = tuple(task.id for task in (runs, *have_ended[:3]))
        exchange(ledger, new=[child])
        for task in have_ended:
            exchange(ledger, outcomes=ended(task))
        sql(address, "UPDATE jobqueue.job SET ended_at = ended_at - interval '3 s'")
        ledger._housekeeping._count_ended_at = 0.0
        ledger._housekeeping.poll()
        assert all(ledger.look_ups.get(task.id) for task in have_ended)


def test_a_witness_is_believed_where_the_host_has_a_colon_in_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JOBQUEUE_HOST", "rack:7")
    witness = Witness()
    assert witness.name
    assert not is_gone(witness.name)
    witness._lock.release()
    assert is_gone(witness.name)


def test_odd_line_ends_in_an_id_part_no_news() -> None:
    told = parsed('7:["a\u2028b\u0085c", "completed", 1, 0, "default", null]', own=1)
    assert told is not None
    assert [change.job_id for change in told.changes] == ["a\u2028b\u0085c"]


def test_who_waits_behind_one_that_cannot_connect_hears_the_same(
    ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not try for as long again: of forty the last would wait for minutes."""
    tries: list[object] = []
    go_on = Gate()

    def connect(address: object) -> NoReturn:
        tries.append(address)
        go_on.wait()
        raise psycopg.OperationalError("nobody is there")

    monkeypatch.setattr(lookups, "connect", connect)
    ask = functools.partial(lookups.PostgresLookups(ledger.look_ups._address).get, "a")
    waiting = [Background(ask) for _ in range(5)]
    becomes(lambda: tries)
    go_on.open()
    for one in waiting:
        with pytest.raises(StorageError, match="nobody is there"):
            one.result()
    assert len(tries) < 5, "those that waited tried, too"
