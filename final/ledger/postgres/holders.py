"""Unique jobs, as in ``features/keys.py``, where many processes bring some with one key at a time.

Whoever offers a key holds a lock for it until its transaction ends. That may be a caller's own
transaction, which lasts: then the job waits here with its producer, and the turn goes on without.

But: a turn without such jobs asks nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from final.job import Status, Task
from final.ledger.base import Given, Move, Offer, Retry, RetryAll
from final.ledger.features.keys import Holder, Keys
from final.ledger.postgres import metas
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.orders import meant
from final.ledger.postgres.rows import LANES, columns, new_columns
from final.ledger.postgres.session import Session

# Another turn has a key for some milliseconds. What takes longer is looked for again later.
KEY_MILLISECONDS = 100
LOOK_AGAIN_SECONDS = 0.02


def keys_of(tasks: Iterable[Task]) -> list[str]:
    return list({task.unique.key for task in tasks if task.unique is not None})


def to_replace(tasks: Iterable[Task]) -> list[str]:
    """The keys whose jobs may be replaced."""
    return keys_of(task for task in tasks if task.unique and task.unique.then == "replace")


class PostgresHolders:
    """Of one offer. patient: whether to wait for a lock. unique: its jobs that have keys.

    busy: keys of dead letters to be retried that another transaction has.
    """

    def __init__(
        self, session: Session, memory: Memory, table: int, offer: Offer, patient: bool
    ) -> None:
        self.unique = [task for tasks in offer.new for task in tasks if task.unique is not None]
        self._offer = offer
        self._wanted = keys_of(self.unique)
        self._session = session
        self._memory = memory
        self._table = table
        self._patient = patient and not memory.not_before
        self.busy: list[str] = []
        self._keys = Keys({}, 0.0)
        self._locked: Any = None
        self._holders: Any = ()
        self._moved: Any = ()

    def ask_to_lock(self) -> None:
        """Before anything else is locked."""
        ask = self._session.ask
        for order in self._offer.orders:
            if isinstance(order, Retry | RetryAll):
                self._lock_letters(meant(order) | {"table": self._table})
        place = (self._table, self._wanted)
        if not self._wanted:
            return
        if self._patient:
            with self._session.waiting_at_most(KEY_MILLISECONDS):
                ask(sql.LOCK_KEYS, place)
        else:
            self._locked = ask(sql.TRY_KEYS, (*place, self._wanted, self._table))

    def _lock_letters(self, values: dict[str, Any]) -> None:
        ask = self._session.ask
        if self._patient:
            with self._session.waiting_at_most(KEY_MILLISECONDS):
                ask(sql.LOCK_KEYS_OF_LETTERS, values)
        else:
            self.busy += [key for (key,) in ask(sql.TRY_KEYS_OF_LETTERS, values)]

    def ask(self) -> None:
        """After all that may move one of them."""
        if self._wanted:
            values = (to_replace(self.unique), self._table, self._wanted)
            self._holders = self._session.ask(sql.KEY_HOLDERS, values)

    def keys(self) -> Keys:
        wall = self._offer.wall
        self._keys = Keys(holders_of(self._holders, wall), wall)
        if self._locked is not None:
            self._keys.busy = set(self._wanted) - {key for (key,) in self._locked}
        if self._memory.now >= self._memory.not_before:  # else others wait until then
            busy_until = self._memory.now + LOOK_AGAIN_SECONDS
            self._memory.not_before = busy_until if self._keys.busy else 0.0
        return self._keys

    def replaced(self) -> set[int]:
        """They are neither claimed nor dropped in this turn, which has seen what they were."""
        return {holder.seq for holder, _ in self._keys.replaced}

    def groups(self) -> set[str]:
        """Whose jobs are replaced, or become theirs."""
        return {group for h, task in self._keys.replaced for group in (h.group, task.group)}

    def write(self) -> None:
        """When the new jobs are in, and the others are claimed."""
        if self._wanted:
            self._moved = write(self._session.ask, self._keys, self._offer.wall)

    def forget(self) -> None:
        """The answers were lost."""
        self._moved = ()

    def land(self, given: Given) -> None:
        """What has become of those that were replaced."""
        for seq, job_id, lane, kind, attempts, place, *others in self._moved:
            group, source, target, _, old_lane = others
            task = Task(job_id, None, LANES[lane], kind, seq=seq, key=place, attempts=attempts)
            task.group = group or ""
            task.status, before = Status(target), Status(source)
            if lane != old_lane:
                there = Task(job_id, None, LANES[old_lane], kind)
                given.recounted += [Move([there], before, None), Move([task], None, before)]
            keeps_its_place = before is task.status is Status.QUEUED and lane == old_lane
            if not keeps_its_place and before is not Status.RETRYING:
                given.moves.append(Move([task], before, task.status))
            if task.status is Status.QUEUED:
                self._memory.comes_back(task)
            else:
                self._memory.due_at = self._memory.now  # when exactly, the next turn asks


def holders_of(rows: Iterable[tuple[Any, ...]], wall: float) -> dict[str, Holder]:
    """Times are told as seconds from now, by the database's clock."""
    holders = {}
    for key, job_id, seq, until, left, status, attempts, age, group in rows:
        expires_at = None if left is None else wall + left
        known = None if status is None else Status(status)
        holders[key] = Holder(job_id, seq, until, expires_at, known, attempts, wall - age, group)
    return holders


def write(ask: Any, keys: Keys, wall: float, wait_behind: bool = True) -> Any:
    """The new jobs have their keys; returns what has become of those that were replaced."""
    moved: Any = ()
    if keys.replaced:  # the last one counts
        new = {h.id: dataclasses.replace(task, id=h.id) for h, task in keys.replaced}
        targets = [
            Status.SCHEDULED if t.due_at is not None else Status.QUEUED for t in new.values()
        ]
        rows = ((task, target, wall) for task, target in zip(new.values(), targets, strict=True))
        moved = ask(sql.REPLACE, (list(new), *new_columns(rows, wait_behind)))
        metas.write(ask, new.values())
    if taken := keys.taken():
        uniques = [(task.id, key, task.unique) for key, _, task in taken if task.unique]
        ask(sql.TAKE_KEYS, columns((i, key, u.until, u.within) for i, key, u in uniques))
    return moved
