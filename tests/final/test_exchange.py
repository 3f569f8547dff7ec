"""Random exchanges with the ledger, of which some fail at a random statement.

After each one memory must say what the file says: the same jobs in the same order, with the same
figures. Nothing is moved by halves, nothing is lost on the way back, whatever failed.
"""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import pytest

from final import Backoff, Priority, Status, TokenBucket, Unique
from final.beyond.filters import Filter
from final.beyond.kinds import Policies
from final.engine.events import Events
from final.job import Outcome, Task
from final.ledger.base import Cancel, CancelAll, Given, Offer, Order, Purge, RetryAll
from final.ledger.local import LocalLedger
from final.ledger.sqlite import SqliteFile
from tests.final.helpers import options

WAITING = ("queued", "scheduled", "retrying", "waiting")
KINDS = ("quick", "limited", "slow")
UNIQUE = (
    Unique("ended"),
    Unique("ended", until="ended", then="replace"),
    Unique("started", until="started"),
    Unique("started", then="replace", max_wait=0.5),
    Unique("within", within=0.4),
    Unique("within", within=0.4, then="replace"),
)
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
        self.count = self.instead = 0
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
            self.file,
            self.options,
            Policies(self.options),
            lambda kind: True,
            lambda kind: kind != "slow",
            self.now,
            Events().say,
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
            for index, others in given.instead.items():
                for position, job_id in others.items():
                    self.instead += 1
                    self.ids.remove(new[index][position].id)
                    assert job_id in self.ids
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
        tasks: list[Task] = []
        for _ in range(self.choose(1, 2, 9)):
            self.count += 1
            known = self.ids and self.random.random() < 0.03
            job_id = self.choose(*self.ids) if known else f"job-{self.count}"
            task = Task(job_id, '"abcdefgh"', self.choose(*Priority), self.choose(*KINDS), size=10)
            if self.random.random() < 0.2:
                task.due_at = self.now + self.choose(0.1, 1)
                task.by_clock = self.choose(False, True)
            there = [t.id for t in tasks] + self.ids[-9:]
            if self.random.random() < 0.3:
                task.unique = self.choose(*UNIQUE)
            elif there and self.random.random() < 0.2:
                task.after = (*{self.choose(*there), self.choose(*there)},)
                task.if_failed = self.choose("cancel", "run")
            tasks.append(task)
        return tasks

    def orders(self) -> list[Order]:
        orders: list[Order] = []
        if self.ids:
            orders += [Cancel(self.choose(*self.ids)) for _ in range(self.random.randrange(3))]
        if self.random.random() < 0.05:
            numbers = list(range(self.ledger._index.number + 1))
            kind = Filter(kind=self.choose("quick", None))
            orders.append(self.choose(CancelAll, RetryAll, Purge)(numbers, kind))
        return orders

    def check(self) -> None:
        """What the ledger has in memory is what the file says."""
        ledger = self.ledger
        if ledger._unread:
            ledger._read_again()
        columns = "id, priority, status, attempts, interrupted, token, kind, size, due_at"
        rows = self.connection.real.execute(
            f"SELECT {columns} FROM job WHERE status IN {(*WAITING, 'processing')}"
            " ORDER BY coalesce(place, seq)"
        ).fetchall()
        live = ledger._index.live
        assert sorted(live) == sorted(row[0] for row in rows)
        for job_id, priority, status, attempts, interrupted, token, kind, size, due_at in rows:
            task = live[job_id]
            assert (task.status, task.attempts, task.interrupted) == (status, attempts, interrupted)
            assert (task.token, task.priority, task.kind) == (token, priority, kind)
            assert task.size == size
            if status in ("scheduled", "retrying"):
                assert task.due_at == due_at
        self.check_keys()
        for status in [status for status in Status if not status.ended]:
            assert ledger._index.count[status] == sum(row[2] == status for row in rows)
        self.check_order(rows)
        kept = [task.size for task in live.values() if task.status in WAITING and task.payload]
        assert sum(kept) == ledger._index.kept <= self.options.memory

    def check_keys(self) -> None:
        """No two jobs that have not ended have a key that is held for so long."""
        execute = self.connection.real.execute
        statement = f"""SELECT count(*) FROM job WHERE unique_key = 'ended'
            AND status IN {(*WAITING, "processing")}"""
        assert execute(statement).fetchone() <= (1,)
        lost = """SELECT count(*) FROM holder
            WHERE expires_at IS NULL AND id NOT IN (SELECT id FROM job)"""
        assert execute(lost).fetchone() == (0,)

    def check_children(self) -> None:
        """Who waits has a parent that has not ended, or whose end is noted; nobody else has."""
        rows = self.connection.real.execute(
            "SELECT child.id, child.status, parent.status, EXISTS (SELECT 1 FROM release"
            " WHERE release.parent = dependency.parent AND child <= upto)"
            " FROM dependency JOIN job AS child ON child.seq = child"
            " LEFT JOIN job AS parent ON parent.id = dependency.parent WHERE state = 0"
        ).fetchall()
        live = [str(status) for status in Status if not status.ended]
        assert {row[1] for row in rows} <= {"waiting"}
        assert all(parent in live or noted for _, _, parent, noted in rows)
        waiting = [t.id for t in self.ledger._index.live.values() if t.status is Status.WAITING]
        assert {row[0] for row in rows} == set(waiting)
        assert {task.id for task in self.ledger._index.children} == set(waiting)

    def check_order(self, rows: list[Any]) -> None:
        index = self.ledger._index
        suspects = [task.id for task in index.suspects]
        for priority, lane in index.lanes._by_priority.items():
            queued = [r[0] for r in rows if r[1] == priority and r[2] == "queued"]
            parts = {"": lane.free, **lane.limited}
            assert lane.size == sum(part.size for part in parts.values())
            for kind, part in parts.items():
                ids = [task.id for task in part]
                assert len(ids) == part.size
                limited = [i for i in queued if (index.live[i].kind == "limited") == bool(kind)]
                assert ids == [i for i in limited if i not in suspects]
        for timers in (index.timers, index.clock):
            assert [task.key for task in timers] == sorted(task.key for task in timers)
        later = [task.id for timers in (index.timers, index.clock) for task in timers]
        assert sorted(later) == sorted(r[0] for r in rows if r[2] in ("scheduled", "retrying"))


@pytest.mark.parametrize("seed", range(12))
def test_memory_says_what_the_file_says(seed: int) -> None:
    life = Life(seed)
    failed = 0
    for _ in range(150):
        given = life.step()
        failed += given.error is not None
        life.check()
        life.check_children()
        for batch in given.claims:
            assert all(task.payload is not None for task in batch)
            assert len(batch) == 1 or not any(task.interrupted for task in batch)
    assert failed > 10
    assert life.instead > 10


@pytest.mark.parametrize("left", [3, 4, 5])
def test_who_was_passed_over_is_so_still_after_an_exchange_that_failed(left: int) -> None:
    file = SqliteFile(":memory:", "full")
    connection = Failing(file._writer)
    file._writer = file._reader = connection  # type: ignore[assignment]
    chosen = options(capacity=100, fairness=2)
    policies, say = Policies(chosen), Events().say
    ledger = LocalLedger(file, chosen, policies, lambda kind: True, lambda kind: True, 0.0, say)
    ledger.open(0.0, 0.0)

    def claim(*new: Task) -> str | None:
        given = ledger.exchange(Offer(0.0, 0.0, new=[list(new)] if new else [], idle=1))
        return given.claims[0][0].id if given.claims else None

    def job(job_id: str, priority: Priority) -> Task:
        return Task(job_id, "null", priority, "default", size=4)

    high = [job(f"high {number}", Priority.HIGH) for number in range(4)]
    assert claim(*high, job("low", Priority.LOW)) == "high 0"
    assert claim() == "high 1"
    connection.left = left
    assert claim(job("another low", Priority.LOW)) is None
    connection.left = None
    assert claim() == "low"
