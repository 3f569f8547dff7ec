"""Rate limits: how fast jobs may start. TokenBucket allows bursts, LeakyBucket does not.

A limit gates dispatch, not acceptance: jobs wait in their lanes until it lets them
start. ``Gate`` asks the limit of the whole queue and the one of the job's kind.

But: no thread and no timer of its own. ``Gate`` says when the next start will be allowed,
and the dispatcher sleeps until then. Time is what it is told, in monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from final.options import Limit, TokenBucket


class Gate:
    """May a job of this kind start now?

    limits: one limit for the whole queue, one for each of some ``kinds``, or None.
    """

    def __init__(self, limits: Limit | Mapping[str, Limit] | None, now: float) -> None:
        self._by_kind: dict[str, Meter] = {}
        self._queue: Meter | None = None
        if isinstance(limits, Mapping):
            self._by_kind = {kind: meter_of(limit, now) for kind, limit in limits.items()}
        elif limits is not None:
            self._queue = meter_of(limits, now)
        self.kinds = frozenset(self._by_kind)
        self._before: dict[Meter, tuple[float, float]] = {}  # as they were at ``begin``

    def is_open(self, now: float) -> bool:
        """Whether the limit of the whole queue lets a job start."""
        return self._queue is None or self._queue.next_at(now) <= now

    def admits(self, kind: str, now: float) -> bool:
        """Whether the limit of this kind, of which a job waits, lets one start."""
        return self._by_kind[kind].next_at(now) <= now

    def take(self, kind: str, now: float) -> None:
        """A job of this kind starts."""
        for meter in (self._queue, self._by_kind.get(kind)):
            if meter is not None:
                self._before.setdefault(meter, meter.state())
                meter.take(now)

    def next_at(self, kinds: Iterable[str], others: bool, now: float) -> float:
        """When a limit lets the next job start: one of ``kinds``, or of ``others`` that wait."""
        times = [self._by_kind[kind].next_at(now) for kind in kinds]
        if self._queue is not None and others:
            times.append(self._queue.next_at(now))
        return min(times, default=math.inf)

    def begin(self) -> None:
        """Starts from here on may not happen after all."""
        self._before.clear()

    def undo(self) -> None:
        """They have not."""
        for meter, state in self._before.items():
            meter.restore(state)


class Meter(Protocol):
    """The running state of one limit."""

    def next_at(self, now: float) -> float:
        """When the next start is allowed; ``now`` or earlier means at once.

        Asked only while a job waits to start.
        """

    def take(self, now: float) -> None:
        """A job starts."""

    def state(self) -> tuple[float, float]: ...

    def restore(self, state: tuple[float, float]) -> None: ...


def meter_of(limit: Limit, now: float) -> Meter:
    if isinstance(limit, TokenBucket):
        return _Tokens(limit.rate, limit.burst, now)
    return _Drops(limit.rate, now)


class _Tokens:
    """A bucket that fills at ``rate`` up to ``burst``; a start takes one token out."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at = float(burst), now

    def next_at(self, now: float) -> float:
        self._fill(now)
        missing = 1.0 - self._tokens
        # Rounding must not leave 0.9999 of a token for ever.
        return now if missing < 1e-9 else now + missing / self._rate

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

    def take(self, now: float) -> None:
        on_grid = self._awaited and now - self._next < self._interval
        self._next = (self._next if on_grid else now) + self._interval
        self._awaited = False

    def state(self) -> tuple[float, float]:
        return self._next, float(self._awaited)

    def restore(self, state: tuple[float, float]) -> None:
        self._next, self._awaited = state[0], bool(state[1])
