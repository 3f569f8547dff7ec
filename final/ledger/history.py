"""The history: ended jobs stay to be looked up, the latest ``limit`` of them.

Dead letters are no part of it: they wait for somebody to decide.

But: it deletes nothing itself, and holds numbers (``seq``) alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from final.job import Status
from final.ledger.base import AT_ONCE, Move

FORGETTABLE = (Status.COMPLETED, Status.CANCELLED, Status.DROPPED)


class History:
    """What an exchange does with it counts when it is ``written``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ended: deque[int] = deque()  # what it may let go of, oldest first
        self._purged: set[int] = set()  # of these what is not there any more
        self.begin()

    def begin(self) -> None:
        self._purging: set[int] = set()  # what this exchange deletes
        self._going = 0  # and how many of the oldest it lets go of

    def add(self, seqs: Iterable[int]) -> None:
        """These have ended, or are not needed by others any more."""
        self._ended.extend(seqs)

    def purge(self, seqs: Iterable[int]) -> None:
        """These are deleted by somebody's order."""
        self._purging.update(seqs)

    def is_too_long(self) -> bool:
        return self._excess() > 0

    def _excess(self) -> int:
        return len(self._ended) - len(self._purged) - len(self._purging) - self._limit

    def oldest(self) -> list[int]:
        """Those beyond the limit that are still there, so many as an exchange lets go of."""
        self._going = max(0, min(self._excess(), AT_ONCE))
        oldest = islice(self._ended, self._going)
        return [seq for seq in oldest if seq not in self._purging and seq not in self._purged]

    def written(self, moves: Sequence[Move]) -> None:
        """The exchange is in the file."""
        self._purged |= self._purging
        self._purged.difference_update([self._ended.popleft() for _ in range(self._going)])
        for move in moves:
            if move.target in FORGETTABLE:
                self.add([task.seq for task in move.tasks])
        if len(self._purged) > len(self._ended) // 2:
            self._ended = deque(seq for seq in self._ended if seq not in self._purged)
            self._purged.clear()
        self.begin()
