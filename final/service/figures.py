"""Figures for all who ask, with one thread at most that waits for them.

The queue answers within a turn. But a turn that writes may have to wait, seconds even, where
another program has locked the file; and whoever may ask without a token must not be able to take
a thread each time. So there is one question at a time, and all who came before it was put share
the answer.

But: nobody waits longer than ``PATIENCE``; then the answer is a problem.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from final import SharedFigures, StorageError
from final.service.problems import Problem

T = TypeVar("T")

PATIENCE = 1.0  # seconds
FRESH = 0.5  # seconds for which figures will do for a probe


class Figures(Generic[T]):
    """ask: for them, which may take its time. For the event loop's thread.

    share: of the time that ``lately`` may spend on asking, however many want to know.
    """

    def __init__(self, ask: Callable[[], T], share: float = math.inf) -> None:
        self._ask = ask
        self._share = share
        self._took = 0.0
        self._question: asyncio.Future[T] | None = None
        self._latest: tuple[float, T] | None = None

    async def now(self) -> T:
        """Those of an instant after this call. Raises Problem, or what the queue raises."""
        earlier = self._question  # it may have been put too early for us
        try:
            async with asyncio.timeout(PATIENCE):
                if earlier is not None:
                    await asyncio.wait([earlier])
                if self._question is earlier:  # else it was put while we waited
                    self._question = asyncio.ensure_future(asyncio.to_thread(self._timed))
                    self._question.add_done_callback(self._answered)
                assert self._question is not None
                return await asyncio.shield(self._question)
        except TimeoutError:
            raise Problem(
                "slow",
                f"The queue has not answered for {PATIENCE:.0f} s. Is its file locked, or its "
                "database away? It goes on by itself.",
            ) from None

    async def lately(self) -> T:
        """Those of the last half second, or as long as their share of the time says."""
        fresh = max(FRESH, self._took / self._share)
        if self._latest is not None and time.monotonic() - self._latest[0] < fresh:
            return self._latest[1]
        return await self.now()

    def _timed(self) -> T:
        started = time.monotonic()
        try:
            return self._ask()
        finally:
            self._took = time.monotonic() - started

    def _answered(self, question: asyncio.Future[T]) -> None:
        failed = question.cancelled() or question.exception() is not None
        self._latest = None if failed else (time.monotonic(), question.result())


async def shared(figures: Figures[SharedFigures | None]) -> SharedFigures | None:
    """None also where the database does not answer: that is said by others."""
    try:
        return await figures.lately()
    except (Problem, StorageError):
        return None
