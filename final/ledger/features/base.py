"""What a feature with tables of its own does in an exchange: each does what it needs of this.

But: when is the ledger's business (``local.py``). What else a feature gives it is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile


class Feature:
    """Those rows of a file that are the feature's. A file that has none is asked once."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._in_use = False  # there may be rows

    def open(self) -> None:
        """The file has been opened."""

    def begin(self, wall: float) -> None:
        """An exchange begins, in Unix seconds."""

    def write(self, moves: Sequence[Move]) -> None:
        """The jobs are written; now what this exchange makes of these rows."""

    def forget(self, seqs: Sequence[int]) -> None:
        """The history lets go of these jobs."""

    def undo(self) -> None:
        """The exchange is not in the file."""

    def _has_any(self, table: str) -> bool:
        ((found,),) = self._file.execute(f"SELECT EXISTS (SELECT 1 FROM {table})")
        return bool(found)


def deleted(moves: Sequence[Move]) -> list[int]:
    """The numbers of the jobs that are not there any more."""
    return [task.seq for move in moves if move.target is None for task in move.tasks]
