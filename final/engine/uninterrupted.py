"""Ctrl-C waits until what must not be left half done is done.

Where Python raises KeyboardInterrupt, no ``finally`` can be sure: it may come between a thread's
start and the line that remembers the thread.

But: this is for a moment, not for work that takes long. And where a program has its own
idea of Ctrl-C, as asyncio has, that stays in force.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Raise a KeyboardInterrupt that would come inside the block at its end."""
    pressed: list[int] = []
    is_ours = (
        threading.current_thread() is threading.main_thread()  # elsewhere none is ever raised
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt
