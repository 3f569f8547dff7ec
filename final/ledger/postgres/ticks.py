"""Ticks in a database that many processes share: each is one job of them all.

The rules are those of ``features/periodic.py``. Who finds that a tick has come locks the row of
its entry, moves that on and accepts the job, in one transaction beside the turn. Others pass over a
row that is locked, and after the commit it is not due any more.

But: any process of the queue does so, whether or not it handles such jobs; except for one that
cannot read the schedule.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from final.job import Status, Task
from final.ledger.admission import admit
from final.ledger.base import AT_ONCE, Move
from final.ledger.features.keys import Keys
from final.ledger.features.periodic import UNREADABLE
from final.ledger.postgres import holders
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.periodic import COLUMNS, entry_of
from final.ledger.postgres.rows import LANES
from final.ledger.postgres.session import Session
from final.ledger.postgres.within import put

LOOK_AGAIN_SECONDS = 0.1  # at a tick that another process is at, or whose unique key is busy

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
                due = self._session.ask(DUE, (list(memory.unreadable), AT_ONCE))
                coming = self._make(due.fetchall())
        until = self._seconds_to_go()
        memory.tick_at = memory.now + (until if until > 0 or coming else LOOK_AGAIN_SECONDS)
        if not coming:
            return []
        memory.due_at = -math.inf  # they are due
        return [Move(coming, None, Status.SCHEDULED)]

    def _seconds_to_go(self) -> float:
        (seconds,) = self._session.one(NEXT, (list(self._memory.unreadable),))
        return math.inf if seconds is None else float(seconds)

    def _make(self, rows: Sequence[tuple[Any, ...]]) -> list[Task]:
        """The jobs that have come in; all entries whose turn it was are moved on."""
        coming: list[Task] = []
        left = AT_ONCE
        for *row, now in rows:
            entry = entry_of(row)
            try:
                ticks, following = entry.due(now, left)
                tasks = [entry.task(tick) for tick in ticks]
            except UNREADABLE as error:
                text = "Periodic entry %r is left alone: %s"
                self._memory.say(logging.WARNING, text, entry.name, error)
                self._memory.unreadable.add(entry.name)
                continue
            keys = self._keys(tasks, now)
            if keys.busy:
                continue
            self._session.ask(MOVE_ON, (ticks[-1] if ticks else entry.last, following, entry.name))
            room = dict.fromkeys(LANES, 0)  # they need none
            admission = admit([[task] for task in tasks], (), room, "block", keys)
            taken = put(self._session.ask, admission, keys, now)
            coming += [t for t in admission.of(Status.SCHEDULED) if t.id not in taken]
            left -= len(tasks)
            if left <= 0:
                break
        return coming

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
