"""The history: which ended jobs the file keeps, and which it lets go of next.

But: dead letters are not in it; they stay until they are retried or purged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

# How many rows a turn deletes at most, so that no turn stalls over it.
FORGET_AT_ONCE = 500


class History:
    """Completed, cancelled and dropped jobs by number, the oldest first; ``limit`` may stay."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ended: deque[int] = deque()

    def add(self, numbers: Iterable[int]) -> None:
        """These jobs have ended."""
        self._ended.extend(numbers)

    def is_too_long(self) -> bool:
        return len(self._ended) > self._limit

    def oldest_beyond(self) -> list[int]:
        """Some of those that are too many. They count until they are forgotten."""
        excess = min(len(self._ended) - self._limit, FORGET_AT_ONCE)
        return [self._ended[n] for n in range(excess)]

    def forget(self, count: int) -> None:
        """The oldest have been deleted from the file."""
        for _ in range(count):
            self._ended.popleft()
