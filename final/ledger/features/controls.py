"""What an operator has set, and the file keeps: what is paused, and how many workers there are.

It is read when the file is opened and written when it changes, so a turn asks the file nothing.

That nothing paused starts, the picker sees to (``picking.py``); the workers are the business of
``engine/flight.py``.
"""

from __future__ import annotations

import contextlib

from final.beyond.control import Pause, readable
from final.ledger.base import SetPaused, SetWorkers
from final.ledger.features.base import Feature
from final.ledger.sqlite import SqliteFile
from final.options import require_workers

PAUSED = "SELECT sort, name FROM pause"
PAUSE = "INSERT OR IGNORE INTO pause VALUES (?, ?)"
RESUME = "DELETE FROM pause WHERE sort = ? AND name = ?"
WORKERS = "SELECT value FROM setting WHERE name = 'workers'"
SET_WORKERS = "INSERT OR REPLACE INTO setting VALUES ('workers', ?)"
UNSET_WORKERS = "DELETE FROM setting WHERE name = 'workers'"


class Controls(Feature):
    """paused: what is. workers: how many were asked for last; None for what the option says."""

    def __init__(self, file: SqliteFile) -> None:
        super().__init__(file)
        self.paused = frozenset(readable(file.execute(PAUSED).fetchall()))
        self.workers: int | None = None
        for (stored,) in file.execute(WORKERS).fetchall():
            with contextlib.suppress(ValueError, TypeError):  # as with pauses
                require_workers(stored, shared=False)
                self.workers = stored
        self.begin(0.0)

    def begin(self, wall: float) -> None:
        """What is set from here on may not come about."""
        self._before = self.paused, self.workers

    def undo(self) -> None:
        self.paused, self.workers = self._before

    def set_paused(self, order: SetPaused) -> None:
        self._file.execute(PAUSE if order.paused else RESUME, order.pause.row)
        self.paused = changed(self.paused, order)

    def set_workers(self, order: SetWorkers) -> None:
        if order.number is None:
            self._file.execute(UNSET_WORKERS)
        else:
            self._file.execute(SET_WORKERS, (order.number,))
        self.workers = order.number


def changed(paused: frozenset[Pause], order: SetPaused) -> frozenset[Pause]:
    """What is paused after this order."""
    return paused | {order.pause} if order.paused else paused - {order.pause}
