"""What handlers say of how far they are, on its way to the ledger: the latest word of each job.

It is written about once a second, that of all jobs together, or with the end of its attempt. So a
handler may speak as often as it likes, and the file hears little of it.

``say`` is for any thread, the rest for the dispatcher's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence

from final.beyond.progress import Progress
from final.job import Outcome, Task
from final.ledger.base import Said

WRITE_SECONDS = 1.0


class Sayings:
    """wake: lets the dispatcher look at ``due`` once more."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self._wake = wake
        # Guards the two below. Reentrant, as a finalizer may call ``say`` at any moment.
        self._mutex = threading.RLock()
        self._latest: dict[Task, Said] = {}  # what is not written yet
        self._is_expected = False  # the dispatcher knows that something is there
        self._write_at = -math.inf  # monotonic

    def say(self, task: Task, token: int, progress: Progress) -> None:
        """token: of the attempt that says so; one that was given up does not drown out a later."""
        with self._mutex:
            if task in self._latest and self._latest[task].token > token:
                return
            self._latest[task] = Said(task, token, progress)
            is_news, self._is_expected = not self._is_expected, True
        if is_news:
            self._wake()

    def due(self) -> float:
        """When something is to be written (monotonic); infinity for nothing."""
        with self._mutex:
            self._is_expected = bool(self._latest)
            return self._write_at if self._latest else math.inf

    def take(self, now: float, ended: Iterable[Sequence[Outcome]]) -> list[Said]:
        """What is to be written now: all, once a second, or of attempts that have ``ended``."""
        if not self._latest:
            return []
        tasks = {outcome.task for outcomes in ended for outcome in outcomes}
        with self._mutex:
            if now < self._write_at:
                return [self._latest[task] for task in tasks & self._latest.keys()]
            self._write_at = now + WRITE_SECONDS
            return list(self._latest.values())

    def written(self, said: Sequence[Said]) -> None:
        """These are, unless their handlers have said more in the meantime."""
        with self._mutex:
            for each in said:
                if self._latest.get(each.task) is each:
                    del self._latest[each.task]
