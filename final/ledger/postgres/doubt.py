"""A commit in doubt: the connection was lost, and with it the answer whether a turn is durable.

It is looked for by what the turn would have written, all of it, and not before the old session is
over. (``pg_xact_status`` does not know after a crash of the server.)
What such a turn has claimed nobody runs: that is given back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from final.ledger.postgres import statements as sql
from final.ledger.postgres.lease import Lease
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.session import Session

UNKNOWN = (
    "The connection to {} was lost with a commit on its way, and it cannot be reached: nobody "
    "knows whether the jobs are in. Enqueue them again with the same ids; DuplicateJob means it is."
)


class Doubt:
    """trace: a question that is true if the turn under way has come about; None if none is."""

    def __init__(self, session: Session, lease: Lease, memory: Memory) -> None:
        self._session = session
        self._lease = lease
        self._memory = memory
        self.trace: tuple[str, Sequence[Any]] | None = None

    def settle(self) -> bool:
        """A connection that works; returns whether the turn in doubt has come about."""
        session, ours = self._session, (self._lease.table, self._lease.owner)
        if session.is_lost:
            self._lease.reconnect()
        if self.trace is None:
            return False
        with session.transaction():  # with the owner's lock: should it be lost, too, it is ended
            session.ask(sql.OLD_SESSION_IS_OVER, ours)
            (was_written,) = session.one(*self.trace)
            if was_written:
                # Its wait for a standby was cut short. Whoever has this one has that one, too.
                session.ask(sql.WRITE_SOMETHING, (self._lease.synchronous,))
        if was_written:  # now that it is certain: others may claim those, and change the trace
            session.ask(sql.GIVE_BACK_CLAIMS, (self._lease.owner, list(self._memory.flying)))
            self._memory.more = True
        self.trace = None
        return bool(was_written)

    def find_out(self, until: float) -> bool | None:
        """The same, with some patience; None if the database cannot be reached for so long."""
        for attempt in itertools.count():
            try:
                return self.settle()
            except psycopg.Error:  # of a standby, too
                if time.monotonic() > until:
                    return None
                time.sleep(min(0.02 * 2**attempt, 0.5))
        raise AssertionError("it is found out, or not")
