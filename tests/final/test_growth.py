"""What an exchange costs must not grow with what is there, and no exchange may do too much.

Counted are the steps of Python's interpreter, and not seconds: they are the same on every machine.
What SQLite does is asked of its planner: whether it searches an index, or looks at every row.

But: what is a single step, written in C, is one however long it takes (``list.remove``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest

from final import Priority, Status, TokenBucket
from final.beyond.filters import Filter, filter_of
from final.beyond.kinds import Policies
from final.engine import many
from final.engine.events import Events
from final.engine.many import in_turns
from final.job import Outcome, Task
from final.ledger.base import (
    AT_ONCE,
    Cancel,
    CancelAll,
    Given,
    Offer,
    Order,
    Purge,
    Retry,
    RetryAll,
)
from final.ledger.local import LocalLedger
from final.ledger.matching import matching
from final.ledger.sqlite import SqliteFile
from final.options import Options
from tests.final.engine import Engine
from tests.final.helpers import options

FEW, MANY = 30, 3_000


def open_ledger(file: SqliteFile, chosen: Options) -> LocalLedger:
    policies, say = Policies(chosen), Events().say
    return LocalLedger(file, chosen, policies, lambda k: True, lambda k: True, 0.0, say)


class Ledger:
    """A ledger in memory; ``next_id`` numbers its jobs."""

    def __init__(self, **chosen: object) -> None:
        self.now = 0.0
        self.count = 0
        chosen = {"capacity": 10 * MANY, "history": 0, **chosen}
        self.file = SqliteFile(":memory:", "full")
        self.ledger = open_ledger(self.file, options(**chosen))
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


def claim_beside_limited_kinds(n: int) -> Callable[[], object]:
    """So many kinds have a limit of their own, and one job each; half of them may not start."""
    ledger = Ledger(rate_limit={f"kind-{k}": TokenBucket(1) for k in range(n)})
    for times in (1, 2):
        for k in range(0, n, times):
            ledger.offer(1, kind=f"kind-{k}")
        ledger.offer(idle=n if times == 1 else 0)
    return lambda: ledger.offer(1, idle=1)


def drop_oldest_beside_limited_kinds(n: int) -> Callable[[], object]:
    ledger = Ledger(
        capacity=n,
        overflow="drop-oldest",
        rate_limit={f"kind-{k}": TokenBucket(1) for k in range(n)},
    )
    for k in range(n):
        ledger.offer(1, kind=f"kind-{k}")
    return lambda: ledger.offer(1)


@pytest.mark.parametrize(
    "prepare",
    [
        claim_beside_limited_kinds,
        drop_oldest_beside_limited_kinds,
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


@pytest.mark.parametrize("order", [CancelAll, RetryAll, Purge])
def test_an_operation_on_many_takes_several_turns(order: Any) -> None:
    ledger = Ledger()
    ledger.offer(AT_ONCE + 200)
    if order is not CancelAll:
        ledger.kill_all()
    moved: list[int] = []

    def carry_out(numbers: Sequence[int]) -> int:
        given = ledger.order(order(numbers, Filter()))
        moved.append(sum(len(move.tasks) for move in given.moves))
        [answer] = given.answers
        assert answer == moved[-1]
        return moved[-1]

    assert in_turns(ledger.ledger.look_ups, Filter(), carry_out) == AT_ONCE + 200
    assert moved == [AT_ONCE, 200]


def test_a_look_for_many_passes_over_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "SPAN", 100)
    ledger, looked, ordered = Ledger(), [], []
    ledger.offer(250)
    ledger.offer(1, kind="rare")
    numbers = ledger.ledger.look_ups.numbers

    def look(wanted: Filter, after: int, upto: int, limit: int) -> list[int]:
        looked.append(upto - after)
        return numbers(wanted, after, upto, limit)

    monkeypatch.setattr(ledger.ledger.look_ups, "numbers", look)

    def order(numbers: Sequence[int]) -> int:
        ordered.append(len(numbers))
        return len(numbers)

    assert in_turns(ledger.ledger.look_ups, Filter(kind="rare"), order) == 1
    assert looked == [100, 100, 51]
    assert ordered == [1]


def test_to_tell_many_handlers_takes_one_look_at_what_runs() -> None:
    def tell(n: int) -> Callable[[], object]:
        flight = Engine(workers=n).dispatcher._flight
        tasks = [Task(f"job-{number}", "null", Priority.LOW, "plain") for number in range(n)]
        for task in tasks:
            flight.hand_out([task], 0.0)
        return lambda: flight.tell(tasks)

    steps_of(tell(FEW))
    few, many = steps_of(tell(FEW)) / FEW, steps_of(tell(MANY)) / MANY
    assert many <= 1.5 * few, f"{few} steps for each of {FEW}, {many} for each of {MANY}"


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
    shorter = open_ledger(ledger.file, options(history=0))
    shorter.open(0.0, 0.0)
    rows, completed = [], Filter((Status.COMPLETED,))
    for _ in range(3):
        shorter.exchange(Offer(0.0, 0.0))
        rows.append(len(ledger.file.jobs(completed, 10 * MANY, None, False)))
    assert rows == [200, 0, 0]


@pytest.mark.parametrize("more", [{}, {"kind": "mail"}, {"status": "failed"}, {"group": "t1"}])
@pytest.mark.parametrize("meta", [{"user": "7"}, {"user": "7", "source": "web"}])
def test_jobs_are_found_by_their_meta_in_its_index(meta: Any, more: Any) -> None:
    source, where, values = matching(filter_of(meta=meta, **more), lambda name, _: len(name))
    query = f"SELECT id FROM {source} WHERE {where} AND seq < ? ORDER BY seq DESC LIMIT ?"
    rows = Ledger().file._writer.execute(f"EXPLAIN QUERY PLAN {query}", [*values, 99, 50])
    plan = [row[3] for row in rows]
    assert plan[:2] == [
        "SEARCH meta USING PRIMARY KEY (name=? AND value=? AND seq<?)",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
    ]
    assert len(meta) == 1 or plan[-1].startswith("SEARCH m USING PRIMARY KEY (name=? AND value=?")
    assert not [step for step in plan if "SCAN" in step or "B-TREE" in step]


def where(*statuses: Status) -> str:
    return matching(Filter(statuses), lambda *_: 0).where


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM meta WHERE seq IN (SELECT value FROM json_each('[]'))",
        "SELECT * FROM job WHERE id = 'x'",
        "SELECT * FROM job WHERE id IN (SELECT value FROM json_each('[]'))",
        "SELECT * FROM job WHERE seq IN (SELECT value FROM json_each('[]'))",
        f"SELECT * FROM job WHERE {where(Status.FAILED)} AND seq > 5 ORDER BY seq LIMIT 500",
        f"SELECT * FROM job WHERE {where(Status.CANCELLED)} ORDER BY seq DESC LIMIT 100",
        f"SELECT * FROM job WHERE {where(Status.RETRYING, Status.WAITING)} ORDER BY seq LIMIT 9",
        "SELECT * FROM failure JOIN job USING (seq) WHERE job.id = 'x'",
    ],
)
def test_the_file_is_searched_and_not_read_through(query: str) -> None:
    plan = Ledger().file._writer.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    through = [row[3] for row in plan if row[3] in ("SCAN job", "SCAN failure", "SCAN meta")]
    assert through == []
