"""Random exchanges with the ledger, of which some fail at a random statement.

After each one memory must say what the file says: the same jobs in the same order, with the same
figures. Nothing is moved by halves, nothing is lost on the way back, whatever failed.

But: what an exchange is to do is in ``test_turns.py`` and the models of ``tests/labs``.
"""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import pytest

from final import Backoff, Priority, Status, TokenBucket
from final.job import Outcome, Task
from final.ledger.base import Cancel, Given, Offer, Order, Purge, Retry
from final.ledger.local import LocalLedger
from final.ledger.sqlite import SqliteFile
from tests.final.helpers import options

WAITING = ("queued", "scheduled", "retrying")
KINDS = ("quick", "limited", "slow")
COST = {"quick": 1e-4, "limited": 1e-4, "slow": 1e-3}


class Failing:
    """A connection whose statement after the next ``left`` ones fails; never while that is None."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self.real = real
        self.left: int | None = None

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if self.left is not None and not sql.startswith("ROLLBACK"):
            self.left -= 1
            if self.left < 0:
                raise sqlite3.OperationalError("disk full")
        return self.real.execute(sql, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Life:
    """A ledger, and an owner who offers whatever comes to its mind."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.file = SqliteFile(":memory:", "full")
        self.connection = Failing(self.file._writer)
        self.file._writer = self.file._reader = self.connection  # type: ignore[assignment]
        self.options = options(
            capacity=self.choose(3, 20, 200),
            max_retries=self.choose(0, 1),
            backoff=Backoff(0.5, 2, 0),
            overflow=self.choose("block", "drop-newest", "drop-oldest"),
            history=self.choose(0, 5, 1_000),
            memory=self.choose(0, 100, 1_000_000),
            rate_limit={"limited": TokenBucket(5, burst=3)},
        )
        self.now = 1_000.0
        self.ids: list[str] = []
        self.count = 0
        self.open()

    def choose(self, *among: Any) -> Any:
        return self.random.choice(among)

    def open(self) -> None:
        """As the first owner, or as the next one after a crash."""
        self.flight: list[list[Task]] = []
        self.outcomes: list[tuple[int, list[Outcome]]] = []
        self.unstarted: list[tuple[int, list[Task]]] = []
        self.idle = 4
        self.file._take_over()
        self.ledger = LocalLedger(
            self.file, self.options, lambda kind: True, lambda kind: kind != "slow", self.now
        )
        self.ledger.open(self.now, self.now)

    def step(self) -> Given:
        self.now += self.choose(0, 0.01, 0.3)
        if self.random.random() < 0.02:
            self.open()
        self.let_workers_report()
        new = [self.new_jobs() for _ in range(self.random.randrange(4))]
        offer = Offer(
            self.now,
            self.now,
            self.outcomes,
            self.unstarted,
            orders=self.orders(),
            new=new,
            idle=self.idle,
            cost=COST,
        )
        self.connection.left = self.random.randrange(25) if self.random.random() < 0.3 else None
        given = self.ledger.exchange(offer)
        self.connection.left = None
        if given.error is None:
            self.outcomes, self.unstarted = [], []
            for tasks, accepted in zip(new, given.accepted, strict=True):
                self.ids += [task.id for task in tasks[:accepted]]
            self.flight += given.claims
            self.idle -= len(given.claims)
        return given

    def let_workers_report(self) -> None:
        for batch in list(self.flight):
            if self.random.random() < 0.5:
                self.flight.remove(batch)
                self.idle += 1
                cut = self.choose(len(batch), len(batch), self.random.randrange(len(batch) + 1))
                outcomes = [self.outcome(task) for task in batch[:cut]]
                self.outcomes.append((batch[0].token, outcomes))
                self.unstarted.append((batch[0].token, batch[cut:]))

    def outcome(self, task: Task) -> Outcome:
        if self.random.random() < 0.5:
            again = task.attempts <= self.options.max_retries
            return Outcome(task, 0.0, error="no", delay=0.5 if again else None)
        return Outcome(task, 0.0, result=self.choose(None, "1"))

    def new_jobs(self) -> list[Task]:
        tasks = []
        for _ in range(self.choose(1, 2, 9)):
            self.count += 1
            known = self.ids and self.random.random() < 0.03
            job_id = self.choose(*self.ids) if known else f"job-{self.count}"
            task = Task(job_id, '"abcdefgh"', self.choose(*Priority), self.choose(*KINDS), size=10)
            if self.random.random() < 0.2:
                task.due_at = self.now + self.choose(0.1, 1)
                task.by_clock = self.choose(False, True)
            tasks.append(task)
        return tasks

    def orders(self) -> list[Order]:
        orders: list[Order] = []
        if self.ids:
            orders += [Cancel(self.choose(*self.ids)) for _ in range(self.random.randrange(3))]
        if self.random.random() < 0.05:
            orders.append(self.choose(Retry(), Retry(kind="quick"), Purge()))
        return orders

    def check(self) -> None:
        """What the ledger has in memory is what the file says."""
        ledger = self.ledger
        if ledger._unread:
            ledger._read_again()
        columns = "id, priority, status, attempts, interrupted, token"
        rows = self.connection.real.execute(
            f"SELECT {columns} FROM job WHERE status IN {(*WAITING, 'processing')}"
            " ORDER BY coalesce(place, seq)"
        ).fetchall()
        live = ledger._live
        assert sorted(live) == sorted(row[0] for row in rows)
        for job_id, _, status, attempts, interrupted, token in rows:
            task = live[job_id]
            assert (task.status, task.attempts, task.interrupted) == (status, attempts, interrupted)
            assert task.token == token
        for status in (Status.QUEUED, Status.SCHEDULED, Status.PROCESSING, Status.RETRYING):
            assert ledger._count[status] == sum(row[2] == status for row in rows)
        self.check_order(rows)
        kept = [task.size for task in live.values() if task.status in WAITING and task.payload]
        assert sum(kept) == ledger._kept <= self.options.memory

    def check_order(self, rows: list[Any]) -> None:
        ledger = self.ledger
        suspects = [task.id for task in ledger._suspects]
        for priority, lane in ledger._lanes._by_priority.items():
            queued = [r[0] for r in rows if r[1] == priority and r[2] == "queued"]
            parts = {"": lane.free, **lane.limited}
            assert lane.size == sum(part.size for part in parts.values())
            for kind, part in parts.items():
                ids = [task.id for task in part]
                assert len(ids) == part.size
                limited = [i for i in queued if (ledger._live[i].kind == "limited") == bool(kind)]
                assert ids == [i for i in limited if i not in suspects]
        for timers in (ledger._timers, ledger._clock):
            assert [task.key for task in timers] == sorted(task.key for task in timers)
        later = [task.id for timers in (ledger._timers, ledger._clock) for task in timers]
        assert sorted(later) == sorted(r[0] for r in rows if r[2] in ("scheduled", "retrying"))


@pytest.mark.parametrize("seed", range(12))
def test_memory_says_what_the_file_says(seed: int) -> None:
    life = Life(seed)
    failed = 0
    for _ in range(150):
        given = life.step()
        failed += given.error is not None
        life.check()
        for batch in given.claims:
            assert all(task.payload is not None for task in batch)
            assert len(batch) == 1 or not any(task.interrupted for task in batch)
    assert failed > 10
