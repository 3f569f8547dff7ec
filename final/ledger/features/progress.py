"""How far jobs say that they are: the rows of ``progress`` in a file.

A table of its own, so that claims and ends do not write it again. The latest word of a job stays
there when its attempt has ended, and goes with the job.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from final.ledger.base import Move, Said
from final.ledger.features.base import Feature, deleted

PUT = "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?)"
FORGET = "DELETE FROM progress WHERE seq IN (SELECT value FROM json_each(?))"


class ProgressRows(Feature):
    """Those of a file."""

    def open(self) -> None:
        self._in_use = self._has_any("progress")

    def hear(self, said: Sequence[Said]) -> None:
        """The fence: what an attempt says that was given up does not count."""
        for task, token, progress in said:
            if task.is_claimed_with(token):
                self._file.execute(PUT, (task.seq, *progress))
                self._in_use = True

    def write(self, moves: Sequence[Move]) -> None:
        if self._in_use:
            self.forget(deleted(moves))

    def forget(self, seqs: Sequence[int]) -> None:
        if seqs and self._in_use:
            self._file.execute(FORGET, (json.dumps(seqs),))
