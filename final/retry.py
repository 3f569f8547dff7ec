"""Backoff: how long a failed job waits before its next attempt.

But: a Backoff of one's own is code of others, so what it answers is checked where it is asked.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from final.options import require_number


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, capped, jittered.

    The delay before retry n (1 is the first) is ``d = min(maximum, base * 2**(n-1))``,
    drawn uniformly from ``[(1 - jitter) * d, d]``, in seconds. Jitter 0 is none, 1 is
    "full jitter"; it keeps jobs that failed together from coming back together
    (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    A subclass may have another ``delay``. A worker calls it when an attempt has failed, and the
    queue's own thread when it has ended one that took too long; there it must be quick. Where it
    raises, or what it returns is no delay, a plain ``Backoff()`` is asked, and the log says so.

    Raises TypeError or ValueError for a negative or non-numeric value.
    """

    base: float = 1.0
    maximum: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        require_number("Backoff.base", self.base)
        require_number("Backoff.maximum", self.maximum)
        require_number("Backoff.jitter", self.jitter, most=1)

    def delay(self, retry: int) -> float:
        """Seconds to wait before retry number ``retry``, from 1. In any thread."""
        if retry < 1:
            raise ValueError(f"retry counts from 1, not {retry}.")
        # 2.0 ** 1024 overflows; the maximum won long before.
        longest = min(self.maximum, self.base * 2.0 ** min(retry - 1, 1000))
        return random.uniform((1 - self.jitter) * longest, longest)


def ask(backoff: Backoff, retry: int, say: Callable[..., None]) -> float:
    """The delay before this retry, whatever ``backoff`` does. say: as ``Events.say``."""
    try:
        delay = backoff.delay(retry)
        require_number("Backoff.delay", delay)
        return float(delay)
    except BaseException as error:
        delay = Backoff().delay(retry)
        text = "Backoff.delay(%d) is of no use; the job waits %.1f s, as by a plain Backoff()."
        say(logging.ERROR, text, retry, delay, error=error)
        return delay
