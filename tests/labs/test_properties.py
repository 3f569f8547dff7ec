"""Laws that hold for any numbers and any values: backoff, rate limits, payloads.

Each law is a function of the thing it is about, so that it can be shown to fail for a broken one.
Where floating-point numbers are exact (multiples of an eighth) the limits are compared with plain
arithmetic, start by start.

That a delay lies within its bounds, that no window has more starts than its share, and that a
payload gets through the queue as it was, stands in ``tests/final``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as Settings
from hypothesis import strategies as st

import final
import improved
from final.ledger.limits import Meter, meter_of
from final.options import LeakyBucket, TokenBucket
from final.payload import Stored, decode, encode
from tests.labs.examples import examples, until_it_fails

EIGHTH = 0.125
pauses = st.lists(st.integers(0, 40), min_size=1, max_size=60)  # in eighths of a second

Law = Callable[[Any, Settings], None]


# ---- the laws ----------------------------------------------------------------------------------


def no_retry_waits_less_than_the_one_before(backoff: Any, settings: Settings) -> None:
    @settings
    @given(base=st.floats(0, 100), maximum=st.floats(0, 1e6), retry=st.integers(1, 2_000))
    def check(base: float, maximum: float, retry: int) -> None:
        delays = backoff(base, maximum, jitter=0)
        assert 0 <= delays.delay(retry) <= delays.delay(retry + 1) <= maximum

    check()


def jitter_only_shortens(backoff: Any, settings: Settings) -> None:
    @settings
    @given(jitter=st.floats(0, 1), retry=st.integers(1, 20))
    def check(jitter: float, retry: int) -> None:
        exact = backoff(base=1, maximum=60, jitter=0).delay(retry)
        delay = backoff(base=1, maximum=60, jitter=jitter).delay(retry)
        assert (1 - jitter) * exact <= delay <= exact

    check()


def tokens_are_those_of_plain_arithmetic(bucket: Any, settings: Settings) -> None:
    """A full bucket at the start; ``rate`` tokens a second, up to ``burst``; one for each start."""

    @settings
    @given(eighths_of_a_start=st.integers(1, 40), burst=st.integers(1, 9), pauses=pauses)
    def check(eighths_of_a_start: int, burst: int, pauses: list[int]) -> None:
        rate = Fraction(eighths_of_a_start, 8)
        meter: Meter = bucket(float(rate), burst)
        now, tokens = 0.0, Fraction(burst)
        for pause in pauses:
            now += pause * EIGHTH
            tokens = min(Fraction(burst), tokens + rate * pause / 8)
            starts = _start_all(meter, now)
            assert starts == math.floor(tokens)
            tokens -= starts
            assert meter.next_at(now) == pytest.approx(now + float((1 - tokens) / rate))

    check()


def the_next_start_is_allowed_when_it_is_said_to_be(limit: Any, settings: Settings) -> None:
    """Whoever sleeps until ``next_at`` may start then, and whoever looks before may not."""

    @settings
    @given(rate=st.floats(0.01, 1_000), looks=st.integers(1, 50))
    def check(rate: float, looks: int) -> None:
        meter: Meter = limit(rate)
        now = 0.0
        for _ in range(looks):
            assert _start_all(meter, now) == 1
            due = meter.next_at(now)
            assert due > now
            before = now + (due - now) * 0.99
            assert meter.next_at(before) > before
            now = due

    check()


def a_drop_falls_every_interval(bucket: Any, settings: Settings) -> None:
    """However often one looks in between, and however late: one a look, and none is lost."""

    @settings
    @given(looks=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=100))
    def check(looks: list[int]) -> None:
        meter: Meter = bucket(2.0)  # one every four eighths
        eighths = starts = 0
        for pause in looks:
            started = _start_all(meter, eighths * EIGHTH)
            assert started <= 1
            starts += started
            assert starts == eighths // 4 + 1
            eighths += pause

    check()


def what_is_stored_comes_back_or_is_refused(
    codec: tuple[Callable[[str, object, int], Stored], Callable[[Stored], object]],
    settings: Settings,
) -> None:
    """Any value of Python at all: a TypeError or a ValueError, or the very same value again."""
    encode, decode = codec

    @settings
    @given(anything)
    def check(value: object) -> None:
        try:
            stored = encode("Job.payload", value, 1 << 20)
        except (TypeError, ValueError):
            return  # refused
        assert repr(decode(stored)) == repr(value)

    check()


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(), max_size=5)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
    | st.binary(max_size=5)
    | st.dates()
)
anything = st.recursive(
    scalars,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.tuples(inside)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inside, max_size=3)
        | st.frozensets(st.integers(), max_size=2)
    ),
    max_leaves=8,
)


def _start_all(meter: Meter, now: float) -> int:
    """Start as much as is allowed now; returns how much that is."""
    starts = 0
    while meter.next_at(now) <= now:
        meter.take(now)
        starts += 1
        assert starts < 1_000, "a limit without an end"
    return starts


# ---- they hold ---------------------------------------------------------------------------------


def token_bucket(rate: float, burst: int = 1) -> Meter:
    return meter_of(TokenBucket(rate, burst), 0.0)


def leaky_bucket(rate: float) -> Meter:
    return meter_of(LeakyBucket(rate), 0.0)


HOLD: list[tuple[Law, Any]] = [
    (no_retry_waits_less_than_the_one_before, improved.Backoff),
    (no_retry_waits_less_than_the_one_before, final.Backoff),
    (jitter_only_shortens, improved.Backoff),
    (jitter_only_shortens, final.Backoff),
    (tokens_are_those_of_plain_arithmetic, token_bucket),
    (the_next_start_is_allowed_when_it_is_said_to_be, token_bucket),
    (the_next_start_is_allowed_when_it_is_said_to_be, leaky_bucket),
    (a_drop_falls_every_interval, leaky_bucket),
    (what_is_stored_comes_back_or_is_refused, (encode, decode)),
]


def _name(value: Any) -> str:
    name = getattr(value, "__name__", "payload")
    return f"{value.__module__.split('.')[0]}.{name}" if name == "Backoff" else name


@pytest.mark.parametrize(("law", "of"), HOLD, ids=_name)
def test_it_holds(law: Law, of: Any) -> None:
    law(of, examples(200))


# ---- and they can be broken --------------------------------------------------------------------


class NoMaximum(final.Backoff):
    """Doubles for ever."""

    def delay(self, retry: int) -> float:
        return self.base * 2.0 ** min(retry - 1, 1000)


class StartsOver(final.Backoff):
    """After ten retries it begins again with the shortest delay."""

    def delay(self, retry: int) -> float:
        return super().delay(1 + retry % 10)


class JitterAdds(final.Backoff):
    def delay(self, retry: int) -> float:
        return super().delay(retry) * (1 + self.jitter)


def never_refilled(rate: float, burst: int) -> Any:
    meter: Any = token_bucket(rate, burst)
    meter._fill = lambda now: None
    return meter


def no_limit_to_the_burst(rate: float, burst: int) -> Any:
    meter: Any = token_bucket(rate, burst)
    meter._burst = 1_000_000
    return meter


def wakes_too_late(rate: float) -> Any:
    meter: Any = token_bucket(rate)
    next_at = meter.next_at
    meter.next_at = lambda now: next_at(now) * 1.1
    return meter


def drifts(rate: float) -> Any:
    """Each late start delays all those after it."""
    meter: Any = leaky_bucket(rate)
    meter.take = lambda now: meter.restore((now + 1 / rate, 0.0))
    return meter


def forgiving(name: str, value: object, limit: int) -> Stored:
    """As json.dumps is: a tuple becomes a list, and a number as a key becomes text."""
    encode(name, None, limit)
    return value if isinstance(value, bytes) else json.dumps(value)


BROKEN: list[tuple[Law, Any]] = [
    (no_retry_waits_less_than_the_one_before, NoMaximum),
    (no_retry_waits_less_than_the_one_before, StartsOver),
    (jitter_only_shortens, JitterAdds),
    (tokens_are_those_of_plain_arithmetic, never_refilled),
    (tokens_are_those_of_plain_arithmetic, no_limit_to_the_burst),
    (the_next_start_is_allowed_when_it_is_said_to_be, wakes_too_late),
    (a_drop_falls_every_interval, drifts),
    (what_is_stored_comes_back_or_is_refused, (forgiving, decode)),
]


@pytest.mark.parametrize(("law", "of"), BROKEN, ids=_name)
def test_a_planted_fault_is_caught(law: Law, of: Any) -> None:
    with pytest.raises(AssertionError):
        law(of, until_it_fails(2_000))
