"""What a user may choose: Backoff, TokenBucket, LeakyBucket, and the options of JobQueue, checked.

Each check raises TypeError or ValueError in a sentence that names the option.

What the options mean is described where they are given, in ``JobQueue``; who goes by them is in
``engine/`` and ``ledger/``. What a kind chooses for itself is in ``beyond/kinds.py``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

LONGEST_TEXT = 1_000  # characters of an id, a kind or a key: they are names, and stand in an index
LARGEST_TEXT = 2_600  # bytes of one: an index of PostgreSQL takes no more
MOST = 1_000_000_000  # retries, or jobs of a group at a time: as good as no limit
LONGEST_DELAY = 1_000 * 365 * 86_400.0  # seconds
# What is accepted can be shown: no datetime goes beyond. (Unix seconds as a float are rounded, so
# that the last microseconds before it are it.)
YEAR_10000 = 253_402_300_800.0


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
EXECUTORS = ("thread", "process")
QUEUE = ""  # where others have a kind: the limit of the whole queue


# A row of SQLite takes 1,000,000,000 bytes: a payload, a result and the rest fit in.
LARGEST_PAYLOAD = 256 * 1024 * 1024
MOST_WORKERS = 100_000  # far more than there are threads, and coroutines have no use for as many
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
    group_limit: int | None
    timeout: float | None
    executor: str
    durability: str
    history: int
    memory: int
    max_payload: int
    shutdown_timeout: float | None
    shared: bool = False  # other processes may run the jobs

    def __post_init__(self) -> None:
        require_workers(self.workers, self.shared)
        require_int("capacity", self.capacity, 1)
        require_int("max_retries", self.max_retries, 0, MOST)
        require_int("history", self.history, 0)
        require_int("memory", self.memory, 0)
        require_int("max_payload", self.max_payload, 1, LARGEST_PAYLOAD)
        require_backoff("backoff", self.backoff)
        require_fairness(self.fairness)
        require_choice("overflow", self.overflow, ("block", "reject", "drop-newest", "drop-oldest"))
        require_choice("executor", self.executor, EXECUTORS)
        require_choice("durability", self.durability, ("full", "normal"))
        if self.timeout is not None:
            require_number("timeout", self.timeout, above=0)
        if self.shutdown_timeout is not None:
            require_number("shutdown_timeout", self.shutdown_timeout)
        if self.group_limit is not None:
            require_int("group_limit", self.group_limit, 1, MOST)
        if self.rate_limit is not None:
            _require_limits(self.rate_limit)


def require_workers(workers: object, shared: bool) -> None:
    if not shared and workers == 0 and type(workers) is int:
        raise ValueError(
            "workers must be at least 1, not 0: nobody else runs the jobs of a file. (To start "
            "none for a while: pause().)"
        )
    require_int("workers", workers, 0 if shared else 1, MOST_WORKERS)


def require_backoff(name: str, value: object) -> None:
    if not isinstance(value, Backoff):
        raise TypeError(f"{name} must be a Backoff, not {value!r}.")


def require_limit(name: str, value: object, or_else: str = "") -> None:
    if not isinstance(value, (TokenBucket, LeakyBucket)):
        raise TypeError(f"{name} must be a TokenBucket or a LeakyBucket{or_else}, not {value!r}.")


def _require_limits(limits: object) -> None:
    for limit in limits.values() if isinstance(limits, Mapping) else [limits]:
        require_limit("rate_limit", limit, or_else=", or a mapping of kinds to such")


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
    most: float = LONGEST_DELAY,
    above: float | None = None,
) -> None:
    """From ``least`` to ``most`` (by default a thousand years), or above ``above``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not least <= value <= most or (above is not None and value <= above):  # also for NaN
        limit = f"up to {most:g}" if value > most else f"above {above}"
        bounds = f"from {least} to {most:g}" if above is None else limit
        raise ValueError(f"{name} must be a number {bounds}, not {_short(value)}.")


def require_moment(name: str, value: object) -> None:
    """An aware datetime, or a delay in seconds; neither too far away to be shown."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:  # also that of a tzinfo which does not know
            raise ValueError(
                f"{name} must be an aware datetime: say which time zone, for example "
                "datetime.now(timezone.utc) + timedelta(minutes=5)."
            )
        if value.timestamp() >= YEAR_10000:
            raise ValueError(f"{name}, {value}, is too far away: the year 9999 has to hold it.")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a datetime or a delay in seconds, not {value!r}.")
    else:
        require_number(f"{name}, a delay in seconds,", value, most=LONGEST_DELAY)


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


def require_text(name: str, value: object, longest: int = LONGEST_TEXT) -> None:
    """Raise unless ``value`` is non-empty text that can be stored (UTF-8, no lone surrogate)."""
    if type(value) is not str:
        raise TypeError(f"{name} must be text (str), not {type(value).__name__}.")
    if not value:
        raise ValueError(f"{name} must not be empty.")
    if len(value) > longest:
        raise ValueError(f"{name} has {len(value):,} characters, more than {longest:,}.")
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} cannot be stored as UTF-8: {error.reason}.") from None
        if size > LARGEST_TEXT:
            raise ValueError(f"{name} has {size:,} bytes as UTF-8, more than {LARGEST_TEXT:,}.")
    if "\0" in value:
        raise ValueError(f"{name} must not contain a NUL character.")
