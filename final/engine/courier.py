"""The courier: a thread that takes news to code which is not ours, so that the dispatcher need not.

What a log handler, a log filter or a subscriber raises ends nothing, and however long it takes,
only the news behind it wait. It may use the queue: nobody waits for the courier but ``close``,
and that for so long and no longer.

News are no record. Beyond ``BACKLOG`` they are dropped, and whoever sends them is told.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

News = TypeVar("News")

BACKLOG = 1000  # so many sendings may wait; one is what a turn has to tell


class Courier(Generic[News]):
    """Calls ``deliver(news)`` for everything that is sent, in order.

    In a thread called ``name``; in the sender's own as long as nobody has called ``start``.
    """

    def __init__(self, name: str, deliver: Callable[[News], object]) -> None:
        self._deliver = deliver
        # Waited on by the thread: news, or None for the end. A put never waits.
        self._sent: queue.SimpleQueue[list[News] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, news: list[News]) -> bool:
        """Never waits. False if they were dropped, because too much is on the way already."""
        if not self._has_started():
            for one in news:
                self._deliver(one)
        elif self._sent.qsize() >= BACKLOG:
            return False
        else:
            self._sent.put(news)
        return True

    def close(self, timeout: float) -> None:
        """Wait until everything is delivered, at most ``timeout`` seconds.

        The thread goes on with what is left for as long as the program does. May be called again,
        and by the code that is called: then there is nothing to wait for.
        """
        self._sent.put(None)
        if self._has_started() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _has_started(self) -> bool:
        return self._thread.ident is not None

    def _run(self) -> None:
        while (news := self._sent.get()) is not None:
            for one in news:
                self._hand_over(one)

    def _hand_over(self, one: News) -> None:
        try:
            self._deliver(one)
        except BaseException:
            with contextlib.suppress(BaseException):  # there is nobody else to tell
                traceback.print_exc()
