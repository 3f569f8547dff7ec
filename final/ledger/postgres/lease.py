"""The lease: a process owns jobs for as long as it renews its row, on the database's clock.

Whoever finds a row that has run out takes over its jobs. Every turn holds a lock on its owner's
number and looks whether the row is there (``GUARD``, ``BEGIN_TURN``), so that no claim commits for
an owner that is gone. One whose row is gone starts over, as another owner.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from typing import Any

from psycopg.types.json import Json

from final.beyond.kinds import Policies
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.notices import Notices
from final.ledger.postgres.session import Session
from final.ledger.postgres.witness import Witness, host, is_gone
from final.options import Options

KINDS = 10  # of which it says how many jobs it runs


class Lease:
    """table: the first half of the keys of advisory locks. owner: the second, of this process.

    workers: how many this process has, as the others are told. synchronous: whether its commits
    wait for the disk, and for a synchronous standby; as PostgreSQL says it.
    """

    def __init__(
        self,
        session: Session,
        options: Options,
        policies: Policies,
        memory: Memory,
        notices: Notices,
    ) -> None:
        self._session = session
        self._options = options
        self._policies = policies
        self._memory = memory
        self._notices = notices
        self._seconds = session.address.lease
        (self.table,) = session.one(sql.CLASS)
        self.owner = 0
        self.workers = options.workers
        # A turn that is stopped half-way holds up others: so a statement may take a quarter of a
        # lease, and the pause after it a third; from PostgreSQL 17 on the whole transaction.
        milliseconds = self._seconds * 1000
        third = str(int(milliseconds / 3))
        self.synchronous = "on" if options.durability == "full" else "off"
        self._guard = sql.GUARD
        self._settings = [str(int(milliseconds / 4)), third, self.synchronous]
        if session.version >= 170000:
            self._guard = sql.GUARD_17
            self._settings.append(third)
        self._witness = Witness()
        self.curious = False
        self.beat_at = 0.0

    def workers_of(self, count: int | None) -> int:
        """None is for what the option says."""
        return self._options.workers if count is None else count

    def register(self) -> None:
        name = f"{host()}:{os.getpid()}"
        retries = (self._options.max_retries, Json(self._policies.own_retries()))
        values = (name, self._witness.name, self.workers, *retries, self._seconds)
        (self.owner,) = self._session.one(sql.REGISTER, values)
        self._notices.owner = self.owner
        self.renewed(curious=False)

    def reconnect(self) -> None:
        """And end the session that was lost, however young its transaction is.

        The server may not know that we are gone, and keep its locks while our lease goes on.
        """
        self._session.reconnect()
        self._memory.last = 0  # another server may have fewer
        self._session.ask(sql.HOLDERS, (self.table, self.owner, 0.0))

    def begin(self) -> Any:
        """Ask for a transaction in which this owner cannot be taken over."""
        self._session.ask(sql.BEGIN)
        self._session.ask(self._guard, (self.table, self.owner, *self._settings))
        return self._session.ask(sql.BEGIN_TURN, (self.owner, self.owner))

    def ask_to_renew(self, curious: bool) -> Any:
        """Answered with the end of the lease."""
        running = Counter(task.kind for task in self._memory.flying.values()).most_common(KINDS)
        values = (self._seconds, curious, json.dumps(dict(running)), self.owner)
        return self._session.ask(sql.BEAT, values)

    def renew(self) -> None:
        """By itself: no turn that could not be written is a reason to lose what runs here.

        (Whoever has been taken over finds that out in the next one.)
        """
        with self._session.transaction():
            self._session.ask(sql.WAIT_FOR_NO_DISK)
            is_there = self.ask_to_renew(self.curious).fetchone() is not None
        if is_there:
            self.renewed(self.curious)

    def renewed(self, curious: bool) -> None:
        self.curious = curious
        self.beat_at = self._memory.now + self._seconds / 5

    def start_over(self) -> None:
        """It ran out, and somebody has taken over."""
        text = "The lease ran out: %d jobs are given up."
        self._memory.say(logging.WARNING, text, len(self._memory.flying))
        self._memory.give_up()
        self.register()

    def leave(self) -> None:
        """Raises psycopg.Error."""
        self._session.ask(sql.LEAVE, (self.owner,))
        self._session.ask(sql.EXPIRE, ([self.owner],))

    def close(self) -> None:
        self._witness.close()

    def take_over(self) -> None:
        """The jobs of processes that are gone go back to their lanes."""
        ask = self._session.ask
        rows = ask(sql.WITNESSES, (self.owner, f"{host()}:%")).fetchall()
        if gone := [owner for owner, witness in rows if is_gone(witness)]:
            ask(sql.EXPIRE, (gone,))
        with self._session.transaction():
            patience = self._seconds / 3
            expired = ask(sql.EXPIRED, (self.table, patience, self.owner)).fetchall()
            dead = [owner for owner, is_ours, _ in expired if is_ours]
            for owner, is_ours, is_stuck in expired:
                if is_stuck and not is_ours:
                    ask(sql.HOLDERS, (self.table, owner, patience))
            if not dead:
                return
            text = "Owners %s are gone; their jobs are taken over."
            self._memory.say(logging.WARNING, text, dead)
            values = {"dead": dead, "max_retries": self._options.max_retries}
            moved = ask(sql.TAKE_OVER, values).fetchall()
            ask(sql.FORGET_OWNERS, (dead,))
        self._memory.leases_expired += len(dead)
        self._memory.moved(moved, self._memory.moves)
        self._notices.work = True
