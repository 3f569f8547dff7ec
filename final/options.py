"""What a user may choose: Backoff, TokenBucket, LeakyBucket, and the options of JobQueue, checked.

Each check raises TypeError or ValueError in a sentence that names the option.

But: data. What the options mean is described where they are given, in ``JobQueue``; who goes by
them is in ``engine/`` and ``ledger/``.
"""

from __future__ import annotations

import enum
import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a failed job waits before its next attempt: exponential, capped, jittered.

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


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """``rate`` starts a second on average, and up to ``burst`` at once after a pause.

    In any t seconds at most ``rate * t + burst`` jobs start. Raises TypeError or ValueError
    for a rate that is not above 0, or a burst that is not from 1 to a billion.
    """

    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        require_number("TokenBucket.rate", self.rate, above=0)
        require_int("TokenBucket.burst", self.burst, 1, LARGEST_BURST)


@dataclass(frozen=True, slots=True)
class LeakyBucket:
    """One start every ``1 / rate`` seconds, evenly, never a burst.

    Jobs that wait start on a grid: if the machine is busy and one starts a little late, the
    next one starts in time all the same, so the rate is exact over time. The first job after
    a pause begins a new grid: the next start is a whole ``1 / rate`` seconds later. Raises
    TypeError or ValueError for a rate that is not above 0.
    """

    rate: float

    def __post_init__(self) -> None:
        require_number("LeakyBucket.rate", self.rate, above=0)


Limit = TokenBucket | LeakyBucket


# A row of SQLite takes 1,000,000,000 bytes: a payload, a result and the rest fit in.
LARGEST_PAYLOAD = 256 * 1024 * 1024
LARGEST_BURST = 1_000_000_000  # as good as no limit; and some integers are too large for a float


class ByOption(enum.Enum):
    """The default of an argument for which None has a meaning of its own."""

    SHUTDOWN_TIMEOUT = "shutdown_timeout"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``JobQueue`` that the engine and the ledger go by, checked."""

    workers: int
    capacity: int
    max_retries: int
    backoff: Backoff
    fairness: int | None
    overflow: str
    rate_limit: Limit | Mapping[str, Limit] | None
    timeout: float | None
    executor: str
    durability: str
    history: int
    memory: int
    max_payload: int
    shutdown_timeout: float | None

    def __post_init__(self) -> None:
        require_int("workers", self.workers, 1)
        require_int("capacity", self.capacity, 1)
        require_int("max_retries", self.max_retries, 0)
        require_int("history", self.history, 0)
        require_int("memory", self.memory, 0)
        require_int("max_payload", self.max_payload, 1, LARGEST_PAYLOAD)
        if not isinstance(self.backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff, not {self.backoff!r}.")
        require_fairness(self.fairness)
        require_choice("overflow", self.overflow, ("block", "reject", "drop-newest", "drop-oldest"))
        require_choice("executor", self.executor, ("thread", "process"))
        require_choice("durability", self.durability, ("full", "normal"))
        if self.timeout is not None:
            require_number("timeout", self.timeout, above=0)
        if self.shutdown_timeout is not None:
            require_number("shutdown_timeout", self.shutdown_timeout)
        if self.rate_limit is not None:
            _require_limits(self.rate_limit)

    def retry_delay(self, attempt: int, permanent: bool, say: Callable[..., None]) -> float | None:
        """Seconds until a job is tried again whose ``attempt`` has failed; None for never.

        permanent: no other attempt would help. say: as ``Events.say``.
        """
        if permanent or attempt > self.max_retries:
            return None
        try:
            delay = self.backoff.delay(attempt)
            require_number("Backoff.delay", delay)
            return float(delay)
        except BaseException as error:  # a Backoff of one's own is code of others
            delay = Backoff().delay(attempt)
            text = "Backoff.delay(%d) is of no use; the job waits %.1f s, as by a plain Backoff()."
            say(logging.ERROR, text, attempt, delay, error=error)
            return delay


def _require_limits(limits: object) -> None:
    for limit in limits.values() if isinstance(limits, Mapping) else [limits]:
        if not isinstance(limit, (TokenBucket, LeakyBucket)):
            raise TypeError(
                "rate_limit must be a TokenBucket, a LeakyBucket, or a mapping of kinds to such, "
                f"not {limit!r}."
            )


def require_limits(limits: object, handles: Callable[[str], bool]) -> None:
    """A limit for a kind that nobody handles would limit nothing."""
    for kind in limits if isinstance(limits, Mapping) else ():
        if not (isinstance(kind, str) and kind and handles(kind)):
            raise ValueError(
                f"rate_limit is for kinds that have a handler here; {kind!r} has none: "
                "give it one, or look for a typo."
            )


def require_fairness(fairness: object) -> None:
    if fairness is not None:
        require_int("fairness", fairness, 1)


def require_int(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {_short(value)}.")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}, not {_short(value)}.")


def require_number(
    name: str,
    value: object,
    least: float = 0,
    most: float = threading.TIMEOUT_MAX,
    above: float | None = None,
) -> None:
    """From ``least`` to ``most`` (by default what a lock can wait), or above ``above``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not least <= value <= most or (above is not None and value <= above):  # also for NaN
        bounds = f"from {least} to {most:g}" if above is None else f"above {above}"
        raise ValueError(f"{name} must be a number {bounds}, not {_short(value)}.")


def _short(value: float) -> str:
    """Some integers are too long to be written."""
    return repr(value) if isinstance(value, float) or abs(value) < 10**18 else "one so large"


def require_timeout(value: object) -> None:
    """None (wait as long as it takes) or a number of seconds, 0 or more."""
    if value is not None:
        require_number("timeout", value)


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
