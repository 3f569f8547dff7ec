"""How far jobs say that they are: the rows of ``progress`` in a file.

A table of its own, so that claims and ends do not write it again. The latest word of a job stays
there when its attempt has ended, and goes with the job.

But: a file in which nobody says anything is asked once, when it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from final.job import Status
from final.ledger.base import Move, Said
from final.ledger.sqlite import SqliteFile

PUT = "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?)"
FORGET = "DELETE FROM progress WHERE seq IN (SELECT value FROM json_each(?))"


class ProgressRows:
    """Those of a file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._in_use = False  # there may be rows

    def open(self) -> None:
        ((found,),) = self._file.execute("SELECT EXISTS (SELECT 1 FROM progress)")
        self._in_use = bool(found)

    def write(self, said: Sequence[Said]) -> None:
        """The fence: what an attempt says that was given up does not count."""
        for task, token, progress in said:
            if task.token == token and task.status is Status.PROCESSING:
                self._file.execute(PUT, (task.seq, *progress))
                self._in_use = True

    def purge(self, moves: Iterable[Move]) -> None:
        """Of jobs that were deleted."""
        if self._in_use:
            self.forget([t.seq for move in moves if move.target is None for t in move.tasks])

    def forget(self, seqs: Sequence[int]) -> None:
        """They are not there any more."""
        if seqs and self._in_use:
            self._file.execute(FORGET, (json.dumps(seqs),))
