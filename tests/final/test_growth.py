"""What an exchange costs must not grow with what is there, and no exchange may do too much.

Counted are the steps of Python's interpreter, and not seconds: they are the same on every machine.
What SQLite does is asked of its planner: whether it searches an index, or looks at every row.

But: what is a single step, written in C, is one however long it takes (``list.remove``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from final import Priority, Status, TokenBucket
from final.job import Outcome, Task
from final.ledger.base import Cancel, Given, Offer, Order, Purge, Retry
from final.ledger.local import AT_ONCE, LocalLedger
from final.ledger.sqlite import SqliteFile
from tests.final.helpers import options

FEW, MANY = 30, 3_000


class Ledger:
    """A ledger in memory; ``next_id`` numbers its jobs."""

    def __init__(self, **chosen: object) -> None:
        self.now = 0.0
        self.count = 0
        chosen = {"capacity": 10 * MANY, "history": 0, **chosen}
        self.file = SqliteFile(":memory:", "full")
        self.ledger = LocalLedger(
            self.file, options(**chosen), lambda kind: True, lambda kind: True, 0.0
        )
        self.ledger.open(0.0, 0.0)

    def offer(
        self, new: int = 0, *, kind: str = "plain", run_at: float | None = None, idle: int = 0
    ) -> Given:
        tasks = []
        for _ in range(new):
            self.count += 1
            task = Task(f"job-{self.count}", "null", Priority.LOW, kind, None, run_at, size=4)
            tasks.append(task)
        return self.exchange(Offer(self.now, self.now, new=[tasks] if tasks else [], idle=idle))

    def exchange(self, offer: Offer) -> Given:
        given = self.ledger.exchange(offer)
        assert given.error is None, given.error
        return given

    def order(self, order: Order) -> Given:
        return self.exchange(Offer(self.now, self.now, orders=[order]))

    def kill_all(self) -> None:
        """Every job that waits becomes a dead letter."""
        while claims := self.offer(idle=500).claims:
            self.exchange(Offer(self.now, self.now, [failed(batch) for batch in claims]))


def failed(batch: list[Task]) -> tuple[int, list[Outcome]]:
    return batch[0].token, [Outcome(task, 0.0, error="no") for task in batch]


def steps_of(act: Callable[[], object]) -> int:
    """How many instructions the interpreter carries out meanwhile."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def cancel_queued(n: int) -> Callable[[], object]:
    ledger = Ledger()
    ledger.offer(n)
    return lambda: ledger.order(Cancel(f"job-{n // 2}"))


def cancel_scheduled(n: int) -> Callable[[], object]:
    ledger = Ledger()
    ledger.offer(n, run_at=3_600.0)
    return lambda: ledger.order(Cancel(f"job-{n // 2}"))


def cancel_ended(n: int) -> Callable[[], object]:
    ledger = Ledger(history=10 * MANY)
    ledger.offer(1)
    ledger.order(Cancel("job-1"))
    ledger.offer(n)
    return lambda: ledger.order(Cancel("job-1"))


def retry_one(n: int) -> Callable[[], object]:
    ledger = Ledger()
    ledger.offer(n)
    ledger.kill_all()
    return lambda: ledger.order(Retry(f"job-{n // 2}"))


def drop_oldest(n: int) -> Callable[[], object]:
    ledger = Ledger(capacity=n, overflow="drop-oldest")
    ledger.offer(n)
    return lambda: ledger.offer(1)


def enqueue_beside_scheduled(n: int) -> Callable[[], object]:
    ledger = Ledger()
    ledger.offer(n, run_at=3_600.0)
    return lambda: ledger.offer(1)


def claim_beside_held(n: int) -> Callable[[], object]:
    """The limit of one kind is used up; a job of another one starts."""
    ledger = Ledger(rate_limit={"limited": TokenBucket(1)})
    ledger.offer(n, kind="limited")
    ledger.offer(idle=1)
    return lambda: ledger.offer(1, idle=1)


def claim_held(n: int) -> Callable[[], object]:
    ledger = Ledger(rate_limit={"limited": TokenBucket(1)})
    ledger.offer(n, kind="limited")
    ledger.now = 2.0
    return lambda: ledger.offer(idle=1)


@pytest.mark.parametrize(
    "prepare",
    [
        cancel_queued,
        cancel_scheduled,
        cancel_ended,
        retry_one,
        drop_oldest,
        enqueue_beside_scheduled,
        claim_beside_held,
        claim_held,
    ],
)
def test_it_costs_the_same_with_a_hundred_times_as_many(
    prepare: Callable[[int], Callable[[], object]],
) -> None:
    steps_of(prepare(FEW))  # Python 3.12 counts from the second time on
    few, many = steps_of(prepare(FEW)), steps_of(prepare(MANY))
    assert few > 0
    assert many <= 1.5 * few, f"{few} steps with {FEW} jobs, {many} with {MANY}"


@pytest.mark.parametrize("order", [Retry(), Purge()])
def test_an_order_of_many_goes_on_over_several_turns(order: Order) -> None:
    ledger = Ledger()
    ledger.offer(AT_ONCE + 200)
    ledger.kill_all()
    given = ledger.order(order)
    assert sum(len(move.tasks) for move in given.moves) == AT_ONCE
    [rest] = given.answers
    assert isinstance(rest, Retry | Purge)
    assert ledger.order(rest).answers == [AT_ONCE + 200]


def test_so_does_what_falls_due_at_one_time() -> None:
    ledger = Ledger()
    ledger.offer(AT_ONCE + 200, run_at=10.0)
    ledger.now = 11.0
    moved = [sum(len(move.tasks) for move in ledger.offer().moves) for _ in range(3)]
    assert moved == [AT_ONCE, 200, 0]


def test_and_what_the_history_lets_go_of() -> None:
    ledger = Ledger(history=10 * MANY)
    ledger.offer(AT_ONCE + 200)
    for batch in ledger.offer(idle=AT_ONCE + 200).claims:
        done = [Outcome(task, 0.0) for task in batch]
        ledger.exchange(Offer(0.0, 0.0, [(batch[0].token, done)]))
    shorter = LocalLedger(ledger.file, options(history=0), lambda k: True, lambda k: True, 0.0)
    shorter.open(0.0, 0.0)
    rows = []
    for _ in range(3):
        shorter.exchange(Offer(0.0, 0.0))
        rows.append(len(ledger.file.jobs(Status.COMPLETED, 10 * MANY, None, None, None, False)))
    assert rows == [200, 0, 0]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM job WHERE id = 'x'",
        "SELECT * FROM job WHERE id IN (SELECT value FROM json_each('[]'))",
        "SELECT * FROM job WHERE seq IN (SELECT value FROM json_each('[]'))",
        "SELECT * FROM job WHERE status = 'failed' AND seq > 5 ORDER BY seq LIMIT 500",
        "SELECT * FROM failure JOIN job USING (seq) WHERE job.id = 'x'",
    ],
)
def test_the_file_is_searched_and_not_read_through(query: str) -> None:
    plan = Ledger().file._writer.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    through = [row[3] for row in plan if row[3] in ("SCAN job", "SCAN failure")]
    assert through == []
