"""What belongs to no exchange: twice a second each process looks whether something is to be done.

The poll is the truth behind all notifications: what nobody told is found by it. Each step is a
transaction of its own.
"""

from __future__ import annotations

import logging
import math
import random
import time

from psycopg import errors

from final.ledger.base import AT_ONCE
from final.ledger.postgres import statements as sql
from final.ledger.postgres import window
from final.ledger.postgres.dependencies import PostgresDependencies
from final.ledger.postgres.lease import Lease
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.notices import Notices
from final.ledger.postgres.session import Session

POLL_SECONDS = 0.5
COUNTED_AT_ONCE = 20_000
PRUNED_AT_ONCE = 5_000
GROUPS_AT_ONCE = 100
QUICK_SECONDS = 0.1  # for as many as were pruned at once: then they may be twice as many


class Housekeeping:
    """history: of how many ended jobs is kept what became of them."""

    def __init__(
        self,
        session: Session,
        lease: Lease,
        memory: Memory,
        dependencies: PostgresDependencies,
        notices: Notices,
        history: int,
    ) -> None:
        self._session = session
        self._lease = lease
        self._memory = memory
        self._dependencies = dependencies
        self._notices = notices
        self._history = history
        self.poll_at = 0.0
        self.was_told_to_stop = False  # by another process; any thread may set it
        self._look_back_at = 0.0
        self._count_ended_at = 0.0
        self._ended = 0  # so far, those that are gone included; as counted the last time
        self._counting = self._counted_to = 0  # of a count under way
        self._prune_at_once = AT_ONCE
        self._pruned_to = 0
        self._group = ""  # as far as they have been looked at

    def look_around(self) -> None:
        """Before a turn: only what it is time for."""
        if self.was_told_to_stop:
            self.was_told_to_stop = False
            self._look_at_our_jobs()
        if self._memory.now >= self.poll_at:
            self.poll()

    def poll(self) -> None:
        self._lease.take_over()
        self._look_at_our_jobs()
        self._look_back()
        self._prune()
        self._let_come_forward()
        self._dependencies.poll()
        (self._memory.suspects,) = self._session.one(sql.SUSPECTS)
        self._memory.untold = not self._memory.more
        self._memory.more = True
        self._memory.due_at = self._memory.tick_at = -math.inf
        self.poll_at = self._memory.now + POLL_SECONDS * random.uniform(0.8, 1.2)

    def _look_at_our_jobs(self) -> None:
        """Was one of them cancelled elsewhere?"""
        if self._memory.flying:
            ours = list(self._memory.flying)
            for (seq,) in self._session.ask(sql.STOP, (ours,)).fetchall():
                self._memory.stops_here(seq)

    def _look_back(self) -> None:
        """Begin at the first that waits: jobs may be left before the low mark.

        A transaction that is held open anywhere keeps the index entries of ended jobs, and a look
        from the start of a lane passes over all of them: hence the mark, and this one look from the
        start, which takes at most a twentieth of the time. (In a process without workers no other
        one moves the mark.)
        """
        began = time.monotonic()
        if began < self._look_back_at:
            return
        try:
            with self._session.transaction():
                self._session.ask(sql.TIMEOUT, (str(int(self._session.address.lease / 4 * 1000)),))
                places = self._session.one(sql.FIRST)
            self._memory.low = [first - window.MARGIN for first in places]
            self._memory.first = self._memory.low.copy()
            self._memory.beyond = {}
        except errors.QueryCanceled:
            self._memory.first = self._memory.low.copy()  # or a count would not end, either
            text = "Too many ended jobs to pass over: is a transaction held open there?"
            self._memory.say(logging.WARNING, text)
        self._look_back_at = began + max(1.0, 20 * (time.monotonic() - began))

    def _prune(self) -> None:
        """Of the ended jobs beyond the history the oldest go; one process at a time does it."""
        with self._session.transaction():
            if self._session.one(sql.PRUNER, (self._lease.table,)) != (True,):
                return
            (gone,) = self._session.one(sql.GONE)  # because of any process
            if time.monotonic() >= self._count_ended_at:
                self._count_ended(gone)
            excess = min(self._prune_at_once, self._ended - gone - self._history)
            if excess > 0:
                self._let_go(excess)
            self._session.ask(sql.EXPIRED_KEYS, (PRUNED_AT_ONCE,))

    def _count_ended(self, gone: int) -> None:
        """A part at a time: of millions of rows one statement would take too long."""
        began, begins = time.monotonic(), self._counted_to == 0
        self._count_ended_at = began + 60  # should it be broken off
        if begins:
            self._counting = gone
        values = (self._counted_to, COUNTED_AT_ONCE)
        rows, ended, self._counted_to = self._session.one(sql.COUNT_ENDED, values)
        self._counting += ended
        took = time.monotonic() - began
        if begins and took < QUICK_SECONDS:  # else dead entries, which are not passed over again
            self._pruned_to = 0
        is_through = rows < COUNTED_AT_ONCE
        if is_through:
            self._ended, self._counted_to = self._counting, 0
        self._count_ended_at = began + max(5.0 if is_through else 0.0, 50 * took)

    def _let_go(self, number: int) -> None:
        """Fewer at a time where they are large: what takes too long is broken off."""
        began, at_once = time.monotonic(), self._prune_at_once
        self._prune_at_once = max(1, number // 2)  # should it be broken off
        oldest = [seq for (seq,) in self._session.ask(sql.OLDEST, (self._pruned_to, number))]
        gone = self._session.ask(sql.PRUNE, (oldest,)).fetchall()
        is_quick = time.monotonic() - began < QUICK_SECONDS
        self._prune_at_once = min(PRUNED_AT_ONCE, 2 * at_once) if is_quick else number
        self._pruned_to = max((seq for (seq,) in gone), default=0)

    def _let_come_forward(self) -> None:
        """Groups of which some wait behind, and none that may start stands in the lane for them.

        Whoever was to let one come forward had no lock for it, or somebody else had one on the job.
        """
        with self._session.transaction():
            kinds = self._memory.may_start()
            values = kinds | {"after": self._group, "most": GROUPS_AT_ONCE}
            rows = self._session.ask(sql.BEHIND_NOBODY, values).fetchall()
            self._group = rows[-1][0] if len(rows) == GROUPS_AT_ONCE else ""
            if groups := [group for group, is_behind_nobody in rows if is_behind_nobody]:
                self._session.ask(sql.LOCK_GROUPS, (groups,))
                came = self._session.ask(sql.COME_FORWARD, kinds | {"groups": groups})
                self._notices.work |= came.rowcount > 0
