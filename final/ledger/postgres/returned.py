"""What has come back from the workers: outcomes, and jobs that did not start. All of it fenced.

Each is asked and, when the trip is over, taken: only what the database says has counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from final.job import Outcome, Status, Task
from final.ledger.base import AT_ONCE, BYTES_AT_ONCE, Move, Offer
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.rows import (
    columns,
    failed_columns,
    kept_columns,
    progress_columns,
    snoozed_columns,
)
from final.ledger.postgres.session import Session

T = TypeVar("T")
Columns = Callable[[Sequence[tuple[int, Outcome]]], list[list[Any]]]
Fates = dict[tuple[int, int], Status]  # by number and token


class Returned:
    """Of one offer. Each outcome and each job goes with the token of its claim."""

    def __init__(self, session: Session, memory: Memory, offer: Offer) -> None:
        self._session = session
        self._memory = memory
        self._offer = offer
        # Of two ends of an attempt the first counts: its time was up before its worker reported.
        first: dict[tuple[int, Task], Outcome] = {}
        for token, some in offer.outcomes:
            for outcome in some:
                first.setdefault((token, outcome.task), outcome)
        self._outcomes = [(token, outcome) for (token, _), outcome in first.items()]
        unstarted = (*offer.unstarted, *offer.aside)
        self._unstarted = [(token, task) for token, tasks in unstarted for task in tasks]
        # What was asked, each with its answer: which of them have counted, and as what.
        self._ended: list[tuple[Sequence[tuple[int, Outcome]], Any]] = []
        self._back: list[tuple[Sequence[tuple[int, Task]], Any]] = []
        self._uncharged: list[Task] = []  # their attempts count once it is durable

    def ask(self) -> None:
        """A statement for all that ended alike, whatever their tokens are."""
        ask = self._session.ask
        if said := self._offer.said:
            ask(sql.PROGRESS, progress_columns(said, self._memory.wall))
        for statement, columns_of, outcomes in self._by_end():
            for some in batched(outcomes):
                self._ended.append((some, ask(statement, columns_of(some))))
        for tasks in batched(self._unstarted):
            self._back.append((tasks, ask(sql.GIVEN_BACK, _pairs(tasks))))
        for _, task in self._unstarted:
            self._memory.comes_back(task)  # now, so that the look of this turn finds it
        self._memory.aside.update(task.seq for _, tasks in self._offer.aside for task in tasks)

    def __bool__(self) -> bool:
        return bool(self._outcomes or self._unstarted)

    def pairs(self) -> list[list[int]]:
        """Number and token of all of them."""
        return _pairs([*_tasks(self._outcomes), *self._unstarted])

    def look_again(self) -> None:
        """It is durable, and the answers were lost: what came of it stands in the database."""
        fates = self._session.ask(sql.FATES, self.pairs()).fetchall()
        self._ended = [(self._outcomes, fates)]
        self._back = [(self._unstarted, fates)]

    def take(self, moves: list[Move]) -> None:
        for outcomes, answer in self._ended:
            self._take_ended(outcomes, _fates(answer), moves)
        for tasks, answer in self._back:
            self._take_back(tasks, _fates(answer), moves)

    def land(self) -> None:
        """It is durable. (Another try of this turn takes the same tasks.)"""
        for task in self._uncharged:
            task.attempts -= 1

    def _by_end(self) -> Iterable[tuple[str, Columns, list[tuple[int, Outcome]]]]:
        """How they ended, as a statement, and the columns that it takes."""
        plain, kept, failed, snoozed = [], [], [], []
        for token, outcome in self._outcomes:
            if outcome.error is not None:
                failed.append((token, outcome))
            elif outcome.again is not None:
                snoozed.append((token, outcome))
            elif outcome.result is None and outcome.note is None:
                plain.append((token, outcome))
            else:
                kept.append((token, outcome))
        yield sql.COMPLETED, lambda some: _pairs(_tasks(some)), plain
        yield sql.KEPT, kept_columns, kept
        yield sql.FAILED, lambda some: failed_columns(some, self._memory.wall), failed
        yield sql.SNOOZED, snoozed_columns, snoozed

    def _take_ended(
        self, outcomes: Sequence[tuple[int, Outcome]], fates: Fates, moves: list[Move]
    ) -> None:
        memory = self._memory
        by_fate: dict[Status, list[Outcome]] = defaultdict(list)
        for token, outcome in outcomes:
            task = outcome.task
            self._lands(task)
            if (fate := fates.get((task.seq, token))) is None:
                memory.fenced += 1  # it was given up
                continue
            if fate is Status.QUEUED:  # it was due in the meantime
                fate = Status.RETRYING if outcome.again is None else Status.SCHEDULED
            by_fate[fate].append(outcome)
            task.status = fate
            if fate is Status.RETRYING and outcome.delay is not None:
                self._waits_until(memory.wall + outcome.delay, task)
            elif fate is Status.SCHEDULED and outcome.again is not None:
                self._uncharged.append(task)
                self._waits_until(outcome.again.due_at(memory.wall), task)
        for fate, some in by_fate.items():
            tasks = [outcome.task for outcome in some]
            moves.append(Move(tasks, Status.PROCESSING, fate, outcomes=some))

    def _waits_until(self, due_at: float, task: Task) -> None:
        """In Unix seconds."""
        memory = self._memory
        task.due_at = due_at
        memory.due_at = min(memory.due_at, memory.now + max(0.0, due_at - memory.wall))

    def _take_back(
        self, tasks: Sequence[tuple[int, Task]], fates: Fates, moves: list[Move]
    ) -> None:
        for _, task in tasks:
            self._lands(task)
        for fate in (Status.QUEUED, Status.CANCELLED):
            back = [task for token, task in tasks if fates.get((task.seq, token)) is fate]
            self._uncharged += back
            for task in back:
                task.status = fate
            if back:
                moves.append(Move(back, Status.PROCESSING, fate))

    def _lands(self, task: Task) -> None:
        if self._memory.flying.get(task.seq) == task:
            del self._memory.flying[task.seq]


def _fates(rows: Iterable[tuple[int, int, str]]) -> Fates:
    return {(seq, token): Status(status) for seq, token, status in rows}


def _tasks(outcomes: Iterable[tuple[int, Outcome]]) -> Iterator[tuple[int, Task]]:
    return ((token, outcome.task) for token, outcome in outcomes)


def _pairs(tasks: Iterable[tuple[int, Task]]) -> list[list[int]]:
    """Numbers, and tokens."""
    return columns((task.seq, token) for token, task in tasks) or [[], []]


def batched(lot: Iterable[T], size_of: Callable[[T], int] = lambda _: 0) -> Iterator[list[T]]:
    """So many at a time that the server is through with them soon."""
    some: list[T] = []
    size = 0
    for each in lot:
        size += size_of(each)
        if len(some) == AT_ONCE or (some and size > BYTES_AT_ONCE):
            yield some
            some, size = [], size_of(each)
        some.append(each)
    if some:
        yield some


def portions(
    outcomes: Sequence[tuple[int, Sequence[Outcome]]],
) -> Sequence[Sequence[tuple[int, Sequence[Outcome]]]]:
    """The same, in as many lists as there have to be turns; mostly one."""
    if sum(len(o.result or "") for _, some in outcomes for o in some) <= BYTES_AT_ONCE:
        return [outcomes]
    each = [(token, [outcome]) for token, some in outcomes for outcome in some]
    return list(batched(each, lambda ended: len(ended[1][0].result or "")))
