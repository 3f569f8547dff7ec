"""What has come back from the workers: outcomes, and jobs that did not start. All of it fenced.

Each is asked and, when the trip is over, taken: only what the database says has counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from final.job import Outcome, Status, Task
from final.ledger.base import Move, Offer
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.rows import (
    failed_columns,
    kept_columns,
    progress_columns,
    snoozed_columns,
)
from final.ledger.postgres.session import Session


class Returned:
    """Of one offer."""

    def __init__(self, session: Session, memory: Memory, offer: Offer) -> None:
        self._session = session
        self._memory = memory
        self._offer = offer

    def ask(self) -> None:
        ask = self._session.ask
        if said := self._offer.said:
            ask(sql.PROGRESS, progress_columns(said, self._memory.wall))
        self._ended = [
            (token, some, cursor)
            for token, outcomes in self._offer.outcomes
            for some, cursor in self._ask_ended(token, outcomes)
        ]
        self._back: list[tuple[int, Sequence[Task], Any]] = [
            (token, tasks, ask(sql.GIVEN_BACK, _pairs(token, tasks)))
            for token, tasks in (*self._offer.unstarted, *self._offer.aside)
        ]

    def __bool__(self) -> bool:
        return bool(self._offer.outcomes or self._offer.unstarted or self._offer.aside)

    def pairs(self) -> tuple[list[int], list[int]]:
        """Number and token of all of them."""
        offer = self._offer
        ended = [(token, _tasks(outcomes)) for token, outcomes in offer.outcomes]
        lots = [_pairs(token, tasks) for token, tasks in (*ended, *offer.unstarted, *offer.aside)]
        return [seq for seqs, _ in lots for seq in seqs], [t for _, tokens in lots for t in tokens]

    def look_again(self) -> None:
        """It is durable, and the answers were lost: what came of it stands in the database."""
        fates = self._session.ask(sql.FATES, self.pairs()).fetchall()
        self._ended = [(token, outcomes, fates) for token, outcomes, _ in self._ended]
        self._back = [(token, tasks, fates) for token, tasks, _ in self._back]

    def take(self, moves: list[Move]) -> None:
        for token, outcomes, cursor in self._ended:
            self._take_ended(token, outcomes, cursor, moves)
        for token, tasks, cursor in self._back:
            self._take_back(token, tasks, cursor, moves)
        self._memory.aside.update(task.seq for _, tasks in self._offer.aside for task in tasks)

    def _ask_ended(
        self, token: int, outcomes: Sequence[Outcome]
    ) -> Iterable[tuple[list[Outcome], Any]]:
        """By how they ended."""
        plain, kept, failed, snoozed = [], [], [], []
        for outcome in outcomes:
            if outcome.error is not None:
                failed.append(outcome)
            elif outcome.again is not None:
                snoozed.append(outcome)
            elif outcome.result is None and outcome.note is None:
                plain.append(outcome)
            else:
                kept.append(outcome)
        ask = self._session.ask
        if plain:
            yield plain, ask(sql.COMPLETED, _pairs(token, _tasks(plain)))
        if kept:
            yield kept, ask(sql.KEPT, kept_columns(token, kept))
        if failed:
            yield failed, ask(sql.FAILED, failed_columns(token, failed, self._memory.wall))
        if snoozed:
            yield snoozed, ask(sql.SNOOZED, snoozed_columns(token, snoozed))

    def _take_ended(
        self, token: int, outcomes: Sequence[Outcome], cursor: Any, moves: list[Move]
    ) -> None:
        memory = self._memory
        fates = {seq: Status(status) for seq, status in cursor}
        by_fate: dict[Status, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            task = outcome.task
            self._lands(task)
            if (fate := fates.get(task.seq)) is None:
                memory.fenced += 1  # it was given up
                continue
            if fate is Status.QUEUED:  # it was due in the meantime
                fate = Status.RETRYING if outcome.again is None else Status.SCHEDULED
            by_fate[fate].append(outcome)
            task.status = fate
            if fate is Status.RETRYING and outcome.delay is not None:
                self._waits_until(memory.wall + outcome.delay, task)
            elif fate is Status.SCHEDULED and outcome.again is not None:
                task.attempts -= 1
                self._waits_until(outcome.again.due_at(memory.wall), task)
        for fate, some in by_fate.items():
            moves.append(Move(_tasks(some), Status.PROCESSING, fate, token, some))

    def _waits_until(self, due_at: float, task: Task) -> None:
        """In Unix seconds."""
        memory = self._memory
        task.due_at = due_at
        memory.due_at = min(memory.due_at, memory.now + max(0.0, due_at - memory.wall))

    def _take_back(self, token: int, tasks: Sequence[Task], cursor: Any, moves: list[Move]) -> None:
        fates = {seq: Status(status) for seq, status in cursor}
        for task in tasks:
            self._lands(task)
        for fate in (Status.QUEUED, Status.CANCELLED):
            back = [task for task in tasks if fates.get(task.seq) is fate]
            for task in back:
                task.attempts -= 1
                task.status = fate
                self._memory.comes_back(task)
            if back:
                moves.append(Move(back, Status.PROCESSING, fate, token))

    def _lands(self, task: Task) -> None:
        if self._memory.flying.get(task.seq) == task:
            del self._memory.flying[task.seq]


def _tasks(outcomes: Sequence[Outcome]) -> list[Task]:
    return [outcome.task for outcome in outcomes]


def _pairs(token: int, tasks: Sequence[Task]) -> tuple[list[int], list[int]]:
    return [task.seq for task in tasks], [token] * len(tasks)
