"""Rate limits: how fast jobs may start. TokenBucket allows bursts, LeakyBucket does not.

A limit gates dispatch, not acceptance: jobs wait in their lanes until it lets them
start. ``Gate`` asks the limit of the whole queue and the one of the job's kind.

But: no thread and no timer of its own. ``Gate`` says when the next start will be allowed,
and the dispatcher sleeps until then. Time is what it is told, in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from final.options import QUEUE, Limit, TokenBucket

# Seconds. Several processes may share a state: what another has written lies further ahead only if
# a clock was set back since, or its rate was slower, and counts no more.
CLOCKS_DIFFER = 1.0


class Gate:
    """May a job of this kind start now?

    limits: one limit for the whole queue, one for each of some ``kinds``, or None.
    """

    def __init__(self, limits: Limit | Mapping[str, Limit] | None, now: float) -> None:
        by_kind = limits if isinstance(limits, Mapping) else {QUEUE: limits} if limits else {}
        self._meters = {kind: meter_of(limit, now) for kind, limit in by_kind.items()}
        self.kinds = frozenset(self._meters) - {QUEUE}
        self.is_limited = bool(self._meters)
        self._before: dict[str, tuple[float, float]] = {}  # as they were at ``begin``

    def is_open(self, now: float) -> bool:
        """Whether the limit of the whole queue lets a job start; asked while one waits."""
        return self.opens_at(QUEUE, now) <= now

    def opens_at(self, kind: str, now: float) -> float:
        """When the limit of this kind, or QUEUE, lets a job start; asked while one waits."""
        return self._meters[kind].next_at(now) if kind in self._meters else now

    def take(self, kind: str, now: float) -> None:
        """A job of this kind starts."""
        for name in (QUEUE, kind):
            if meter := self._meters.get(name):
                self._before.setdefault(name, meter.state())
                meter.take(now)

    def begin(self) -> None:
        """Starts from here on may not happen after all."""
        self._before.clear()

    def undo(self) -> list[str]:
        """They have not. Returns the kinds that may start earlier, therefore."""
        self.load(self._before)
        return [kind for kind in self._before if kind in self.kinds]

    # Where several processes share the limits, their state is kept elsewhere.

    def states(self) -> dict[str, tuple[float, float]]:
        return {kind: meter.state() for kind, meter in self._meters.items()}

    def load(self, states: Mapping[str, tuple[float, float]]) -> None:
        for kind in states.keys() & self._meters.keys():
            self._meters[kind].restore(states[kind])

    def closed(self, now: float) -> dict[str, float]:
        """The limits that let nothing start now, and until when; whether jobs wait or not."""
        opens = {}
        for kind, meter in self._meters.items():
            state = meter.state()
            if (at := meter.next_at(now)) > now:
                opens[kind] = at
            meter.restore(state)
        return opens


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
        if self._filled_at > now + CLOCKS_DIFFER:
            self._tokens, self._filled_at = float(self._burst), now
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
        if self._next > now + self._interval + CLOCKS_DIFFER:
            self._next = now
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
