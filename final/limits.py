"""Rate limits: how fast jobs may start. TokenBucket allows bursts, LeakyBucket does not.

A limit gates dispatch, not acceptance: jobs wait in their lanes until it lets them
start. ``Gate`` asks the limit of the whole queue and the one of the job's kind.

But: no thread and no timer of its own. ``Gate`` says when the next start will be allowed,
and the dispatcher sleeps until then. Time is what it is told, in monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from final.options import require_int, require_number

LARGEST_BURST = 1_000_000_000  # as good as no limit; and some integers are too large for a float


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

    def meter(self, now: float) -> Meter:
        return _Tokens(self.rate, self.burst, now)


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

    def meter(self, now: float) -> Meter:
        return _Drops(self.rate, now)


Limit = TokenBucket | LeakyBucket


class Meter(Protocol):
    """The running state of one limit."""

    def next_at(self, now: float) -> float:
        """When the next start is allowed; ``now`` or earlier means at once.

        Asked only while a job waits to start.
        """

    def allowance(self, now: float) -> int:
        """How many jobs may start now."""

    def take(self, now: float) -> None:
        """A job starts."""

    def state(self) -> tuple[float, float]:
        """To be handed to ``restore`` if the starts since then did not happen after all."""

    def restore(self, state: tuple[float, float]) -> None: ...


class _Tokens:
    """A bucket that fills at ``rate`` up to ``burst``; a start takes one token out."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at = float(burst), now

    def next_at(self, now: float) -> float:
        return now if self.allowance(now) else now + (1.0 - self._tokens) / self._rate

    def allowance(self, now: float) -> int:
        self._fill(now)
        return int(self._tokens + 1e-9)  # rounding must not leave 0.9999 of a token for ever

    def take(self, now: float) -> None:
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        earned = (now - self._filled_at) * self._rate
        self._tokens = min(float(self._burst), self._tokens + earned)
        self._filled_at = now

    def state(self) -> tuple[float, float]:
        return self._tokens, self._filled_at

    def restore(self, state: tuple[float, float]) -> None:
        self._tokens, self._filled_at = state


class _Drops:
    """The next start on the grid, and whether a job has waited for it.

    A start that comes late stays on the grid if a job has waited: then it was held up. If
    none has, there was a pause, and the grid begins anew, as it does after a whole interval.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._interval = 1.0 / rate
        self._next = now
        self._awaited = False

    def next_at(self, now: float) -> float:
        self._awaited = self._awaited or now < self._next
        return self._next

    def allowance(self, now: float) -> int:
        return int(self._next <= now)

    def take(self, now: float) -> None:
        on_grid = self._awaited and now - self._next < self._interval
        self._next = (self._next if on_grid else now) + self._interval
        self._awaited = False

    def state(self) -> tuple[float, float]:
        return self._next, float(self._awaited)

    def restore(self, state: tuple[float, float]) -> None:
        self._next, self._awaited = state[0], bool(state[1])


class Gate:
    """May a job of this kind start now?

    limits: one limit for the whole queue, one for each of some kinds, or None.
    handles: whether there is a handler for a kind. A limit for another one would limit nothing.
    """

    def __init__(
        self,
        limits: Limit | Mapping[str, Limit] | None,
        now: float,
        handles: Callable[[str], bool] = lambda kind: True,
    ) -> None:
        self._by_kind: dict[str, Meter] = {}
        self._queue: Meter | None = None
        if isinstance(limits, Mapping):
            for kind, limit in limits.items():
                if not (isinstance(kind, str) and kind and handles(kind)):
                    raise ValueError(
                        f"rate_limit is for kinds that have a handler here; {kind!r} has none: "
                        "give it one, or look for a typo."
                    )
                self._by_kind[kind] = _checked(limit).meter(now)
        elif limits is not None:
            self._queue = _checked(limits).meter(now)

    def is_open(self, now: float) -> bool:
        """Whether the limit of the whole queue lets a job start."""
        return self._queue is None or self._queue.next_at(now) <= now

    def admits(self, kind: str, now: float) -> bool:
        """Whether a job of this kind may start; it counts as started if so."""
        meter = self._by_kind.get(kind)
        if meter is not None:
            if meter.next_at(now) > now:
                return False
            meter.take(now)
        if self._queue is not None:
            self._queue.take(now)
        return True

    def allowance(self, kind: str, now: float) -> int:
        """How many jobs of this kind, which has a limit, may start now."""
        return self._by_kind[kind].allowance(now)

    def next_at(self, kinds: Iterable[str], waiting: bool, now: float) -> float:
        """When to look again: some of ``kinds`` are held, and ``waiting`` says if others wait."""
        times = [self._by_kind[kind].next_at(now) for kind in kinds]
        if self._queue is not None and waiting:
            times.append(self._queue.next_at(now))
        return min(times, default=math.inf)

    def state(self) -> list[tuple[float, float]]:
        return [meter.state() for meter in self._meters()]

    def restore(self, state: list[tuple[float, float]]) -> None:
        for meter, saved in zip(self._meters(), state, strict=True):
            meter.restore(saved)

    def _meters(self) -> list[Meter]:
        return [*self._by_kind.values(), *([self._queue] if self._queue else [])]


def _checked(limit: object) -> Limit:
    if not isinstance(limit, (TokenBucket, LeakyBucket)):
        raise TypeError(
            "rate_limit must be a TokenBucket, a LeakyBucket, or a mapping of kinds to such, "
            f"not {limit!r}."
        )
    return limit
