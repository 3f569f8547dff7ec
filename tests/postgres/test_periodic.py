"""Periodic jobs on PostgreSQL: what holds on a file, and each tick is one job of all processes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from datetime import datetime
from typing import Any

import psycopg
import pytest

from final import Every, Job, JobQueue, Unique
from final.beyond.periodic import Entry, iso
from final.ledger.postgres import ticks
from final.ledger.postgres.address import parse
from final.ledger.postgres.ledger import PostgresLedger
from final.ledger.postgres.lookups import PostgresLookups
from tests.final.conftest import gate  # noqa: F401  (a fixture)
from tests.final.helpers import child, next_line
from tests.final.test_periodic import TestAQueue  # noqa: F401  (here it runs on a database)
from tests.helpers import DEADLINE, Journal
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql

INTERVAL = 0.05
OFTEN = Every(INTERVAL, Job(), name="often", missed="all")


@pytest.fixture
def path(address: str) -> str:
    return address


def ticks_of(queue: JobQueue) -> list[str]:
    return sorted(record.id for record in queue.jobs(limit=10_000))


def in_a_row(ids: list[str]) -> list[str]:
    """So many ticks, from the first one on, without a gap."""
    first = datetime.fromisoformat(ids[0].removeprefix("often@")).timestamp()
    return [f"often@{iso(round(first + n * INTERVAL, 6))}" for n in range(len(ids))]


def test_of_processes_at_once_one_makes_the_job_of_a_tick(
    open_queue: OpenQueue, address: str, journal: Journal
) -> None:
    # On a busy machine a short lease runs out, and what its owner had begun runs once more.
    patient = address.replace("lease=1", "lease=60")

    def handler(job: Job) -> None:
        journal.write(job.id)

    queues = [open_queue(handler, path=patient, periodic=[OFTEN]) for _ in range(4)]
    journal.wait_for_count(30)
    queues[2].pause_periodic("often")
    queues[0].join(DEADLINE)
    ids = ticks_of(queues[0])
    assert ids == in_a_row(ids)
    assert sorted(journal.entries) == ids


def test_processes_that_are_killed_cost_no_tick_and_double_none(
    open_queue: OpenQueue, address: str
) -> None:
    with child("periodic", address) as survivor:
        for _ in range(3):
            with child("periodic", address) as process:
                for _ in range(2):
                    next_line(process)
        for _ in range(3):
            next_line(survivor)
    queue = open_queue()
    queue.pause_periodic("often")
    ids = ticks_of(queue)
    assert ids == in_a_row(ids)
    assert len(ids) >= 9


def test_a_process_that_brings_jobs_makes_those_of_ticks_too(
    open_queue: OpenQueue, journal: Journal
) -> None:
    bringer = open_queue(None, workers=0)
    bringer.add_periodic(OFTEN)
    becomes(lambda: len(bringer.jobs()) >= 3)
    open_queue(lambda job: journal.write(job.id))
    journal.wait_for_count(3)


def test_what_one_process_changes_the_others_see(open_queue: OpenQueue, journal: Journal) -> None:
    open_queue(lambda job: journal.write(job.payload))
    bringer = open_queue(workers=0)
    bringer.add_periodic(Every(3_600, Job(payload="old"), name="a"))
    bringer.change_periodic(Every(INTERVAL, Job(payload="new"), name="a"))
    journal.wait_for("new")
    bringer.remove_periodic("a")
    assert "old" not in journal.entries


def test_a_unique_job_waits_for_who_has_its_key_and_holds_up_nobody(
    open_queue: OpenQueue, address: str, journal: Journal
) -> None:
    """Somebody's transaction lasts, and has enqueued a job with that key."""
    queue = open_queue(lambda job: journal.write(job.id.partition("@")[0]))
    with psycopg.connect(parse(address).dsn, autocommit=True) as connection:
        with connection.transaction():
            queue.enqueue(Job("mine", unique=Unique("k")), connection=connection)
            queue.add_periodic(Every(INTERVAL, Job(unique=Unique("k")), name="unique"))
            queue.add_periodic(Every(INTERVAL, Job(), name="other"))
            journal.wait_for_count(5)
            assert set(journal.entries) == {"other"}
        journal.wait_for("unique")


def test_a_group_and_a_replaced_job(open_queue: OpenQueue) -> None:
    queue = open_queue(None, workers=0)
    replace = Unique("k", then="replace")
    queue.add_periodic(Every(INTERVAL, Job(unique=replace), name="replaces"))
    queue.add_periodic(Every(INTERVAL, Job(group="tenant"), name="of a group"))
    becomes(lambda: len(queue.jobs()) >= 4)
    for name in ("replaces", "of a group"):
        queue.remove_periodic(name)
    groups = [record.group for record in queue.jobs()]
    assert groups.count(None) == 1
    assert groups.count("tenant") == len(groups) - 1


def test_what_cannot_be_read_here_is_left_to_others(
    open_queue: OpenQueue, address: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(lambda job: journal.write(job.id.partition("@")[0]))
    queue.add_periodic(Every("* * * * * *", Job(), name="cron"))
    queue.add_periodic(Every(INTERVAL, Job(), name="often"))
    journal.wait_for("cron")
    monkeypatch.setattr(ticks, "BELIEVED_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cronsim", None)
        ledger = queue._ledger
        assert isinstance(ledger, PostgresLedger)
        becomes(lambda: set(ledger._memory.unreadable) == {"cron"})
        seen = len(journal.entries)
        journal.wait_for_count(seen + 5)
    seen = journal.entries.count("cron")
    becomes(lambda: journal.entries.count("cron") > seen)  # it is looked at again
    queue.remove_periodic("cron")
    assert sql(address, "SELECT name FROM jobqueue.periodic") == [("often",)]


def test_a_callers_transaction_that_has_the_job_of_a_tick_holds_up_nobody(
    open_queue: OpenQueue, address: str
) -> None:
    patient = address.replace("lease=1", "lease=600")
    queue = open_queue(path=patient, overflow="drop-oldest", capacity=2)
    queue.pause(kind="tick")  # so its job waits
    replaces = Unique("tick", then="replace")
    queue.add_periodic(Every(INTERVAL, Job(kind="tick", unique=replaces), name="often"))
    becomes(lambda: queue.jobs("queued", kind="tick"))
    with psycopg.connect(parse(address).dsn) as connection:
        queue.enqueue_many([Job(kind="tick"), Job(kind="tick")], connection=connection)
        overdue = "SELECT next_tick < clock_timestamp() - interval '0.1 s' FROM jobqueue.periodic"
        becomes(lambda: sql(address, overdue) == [(True,)])  # it has been tried
        for _ in range(5):
            queue.wait(queue.enqueue(Job(priority="high")), DEADLINE)


def test_a_connection_that_is_lost_costs_no_tick(
    open_queue: OpenQueue, address: str, journal: Journal
) -> None:
    queue = open_queue(lambda job: journal.write(job.id), periodic=[OFTEN])
    name = f"{parse(address).schema} %"
    for _ in range(3):
        journal.wait_for_count(len(journal.entries) + 3)
        sql(
            address,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s",
            name,
        )
    journal.wait_for_count(len(journal.entries) + 3)
    paused = threading.Event()
    while not paused.is_set():
        with contextlib.suppress(OSError):
            queue.pause_periodic("often")
            paused.set()
    ids = ticks_of(queue)
    assert ids == in_a_row(ids)


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_the_first_tick_goes_by_the_databases_clock(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """That of this host is set wrong."""
    real = time.time
    monkeypatch.setattr("final.job_queue.time.time", lambda: real() + ahead)
    queue = open_queue(periodic=[Every(60, Job(), name="declared")])
    queue.add_periodic(Every(60, Job(), name="added"))
    queue.add_periodic(Every(60, Job(), name="resumed"))
    queue.pause_periodic("resumed")
    queue.resume_periodic("resumed")
    until = "extract(epoch FROM next_tick - clock_timestamp())::float8"
    waits = sql(address, f"SELECT {until} FROM jobqueue.periodic")
    assert queue.jobs() == []
    assert len(waits) == 3
    assert all(0 < seconds <= 60 for (seconds,) in waits)


def test_ticks_whose_jobs_do_not_come_in_count_among_so_many_at_once(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many entries each has missed many: one transaction for all of them would be broken off."""
    made, made_at_once = list[str](), list[int]()
    make, task = ticks.Ticks._make, Entry.task

    def counted(self: ticks.Ticks, rows: Any) -> Any:
        made.clear()
        coming = make(self, rows)
        made_at_once.append(len(made))
        return coming

    def noted(self: Entry, tick: float) -> Any:
        made.append(self.name)
        return task(self, tick)

    monkeypatch.setattr(ticks, "AT_ONCE", 5)
    monkeypatch.setattr(ticks.Ticks, "_make", counted)
    monkeypatch.setattr(Entry, "task", noted)
    queue = open_queue(None, workers=0)
    for name in "abc":
        queue.enqueue(Job(unique=Unique(name)))
        queue.add_periodic(Every(60, Job(unique=Unique(name)), name=name, missed="all"))
    sql(address, "UPDATE jobqueue.periodic SET next_tick = next_tick - interval '10 minutes'")
    becomes(lambda: sum(made_at_once) >= 30)
    assert max(made_at_once) == 5


def test_the_clock_is_asked_once_for_all_entries(
    address: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, clock = list[float](), PostgresLookups.clock

    def noted(self: PostgresLookups, wall: float) -> float:
        asked.append(wall)
        return clock(self, wall)

    monkeypatch.setattr(PostgresLookups, "clock", noted)
    open_queue(periodic=[Every(60, Job(), name=name) for name in "abc"])
    assert len(asked) == 1
