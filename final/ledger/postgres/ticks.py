"""Ticks in a database that many processes share: each is one job of them all.

The rules are those of ``features/periodic.py``. Who finds that a tick has come locks the row of
its entry, moves that on and accepts the job, in one transaction beside the turn. Others pass over a
row that is locked, and after the commit it is not due any more.

But: any process of the queue does so, whether or not it handles such jobs; except for one that
cannot read the schedule.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from typing import Any

from psycopg import errors

from final.beyond.periodic import UNREADABLE, Entry
from final.job import Status, Task
from final.ledger.admission import admit
from final.ledger.base import AT_ONCE, Move
from final.ledger.features.keys import Keys
from final.ledger.postgres import holders
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.periodic import COLUMNS, entry_of
from final.ledger.postgres.rows import LANES
from final.ledger.postgres.session import Session
from final.ledger.postgres.within import put

LOOK_AGAIN_SECONDS = 0.1  # at a tick that another process is at, or whose unique key is busy
LOCK_MILLISECONDS = 20  # for a job that is to be replaced: a caller's transaction may have it
BELIEVED_SECONDS = 10.0  # that an entry makes no sense: another process may mend it

# Those that have come, with the time; but for entries that cannot be read here.
DUE = f"""SELECT {COLUMNS}, extract(epoch FROM {sql.NOW})::float8 FROM jobqueue.periodic
    WHERE next_tick <= {sql.NOW} AND name <> ALL (%s::text[])
    ORDER BY next_tick LIMIT %s FOR UPDATE SKIP LOCKED"""
NEXT = f"""SELECT extract(epoch FROM min(next_tick) - {sql.NOW})::float8 FROM jobqueue.periodic
    WHERE name <> ALL (%s::text[])"""
MOVE_ON = """UPDATE jobqueue.periodic SET last_tick = to_timestamp(%s),
    next_tick = to_timestamp(%s::float8) WHERE name = %s"""


class Ticks:
    """table: the first half of the keys of advisory locks."""

    def __init__(self, session: Session, memory: Memory, table: int) -> None:
        self._session = session
        self._memory = memory
        self._table = table

    def make_jobs(self) -> list[Move]:
        """Those of ticks that have come, if it is time. Raises psycopg.Error; then nothing is."""
        memory, coming = self._memory, list[Task]()
        if memory.now < memory.tick_at:
            return []
        memory.tick_at = memory.now + LOOK_AGAIN_SECONDS  # should this fail
        if self._seconds_to_go() <= 0:
            with self._session.transaction():
                self._session.ask(sql.WAIT_FOR_LOCKS, (str(LOCK_MILLISECONDS),))
                due = self._session.ask(DUE, (self._unreadable(), AT_ONCE))
                coming = self._make(due.fetchall())
        until = self._seconds_to_go()
        memory.tick_at = memory.now + (until if until > 0 or coming else LOOK_AGAIN_SECONDS)
        if not coming:
            return []
        memory.due_at = -math.inf  # they are due
        return [Move(coming, None, Status.SCHEDULED)]

    def _seconds_to_go(self) -> float:
        (seconds,) = self._session.one(NEXT, (self._unreadable(),))
        return math.inf if seconds is None else float(seconds)

    def _make(self, rows: Sequence[tuple[Any, ...]]) -> list[Task]:
        """The jobs that have come in; all entries whose turn it was are moved on."""
        coming: list[Task] = []
        left = AT_ONCE  # also of jobs that do not come in, because others hold their keys
        for *row, now in rows:
            with contextlib.suppress(errors.LockNotAvailable), self._session.transaction():
                made, some = self._of(entry_of(row), now, left)
                coming += some
                left -= made
            if left <= 0:
                break
        return coming

    def _of(self, entry: Entry, now: float, most: int) -> tuple[int, list[Task]]:
        """How many ticks of this one have come, and the jobs that come in.

        Raises LockNotAvailable; then it is looked at again.
        """
        memory = self._memory
        try:
            ticks, following = entry.due(now, most)
            tasks = [entry.task(tick) for tick in ticks]
        except UNREADABLE as error:
            if entry.name not in memory.unreadable:
                text = "Periodic entry %r is left alone: %s"
                memory.say(logging.WARNING, text, entry.name, error)
            memory.unreadable[entry.name] = memory.now + BELIEVED_SECONDS
            return 0, []
        memory.unreadable.pop(entry.name, None)
        keys = self._keys(tasks, now)
        if keys.busy:
            return 0, []
        self._session.ask(MOVE_ON, (ticks[-1] if ticks else entry.last, following, entry.name))
        room = dict.fromkeys(LANES, 0)  # they need none
        admission = admit([[task] for task in tasks], (), room, "block", keys)
        taken = put(self._session.ask, admission, keys, now)
        some = [task for task in admission.of(Status.SCHEDULED) if task.id not in taken]
        return len(tasks), some

    def _unreadable(self) -> list[str]:
        return [name for name, until in self._memory.unreadable.items() if until > self._memory.now]

    def _keys(self, tasks: Sequence[Task], now: float) -> Keys:
        """Nobody waits for another transaction here: that one may last."""
        wanted = holders.keys_of(tasks)
        if not wanted:
            return Keys({}, now)
        ask = self._session.ask
        ours = {key for (key,) in ask(sql.TRY_KEYS, (self._table, wanted, wanted, self._table))}
        found = ask(sql.KEY_HOLDERS, (holders.to_replace(tasks), self._table, wanted))
        keys = Keys(holders.holders_of(found, now), now)
        keys.busy = set(wanted) - ours
        return keys
