"""Backoff: exponential, capped, jittered; the same in ``improved`` and in ``final``."""

from __future__ import annotations

import statistics
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import final
import improved

both_stages = pytest.mark.parametrize("package", [improved, final], ids=["improved", "final"])

seconds = st.just(0.0) | st.floats(min_value=1e-9, max_value=1e6)
shares = st.floats(min_value=0, max_value=1)
retries = st.integers(min_value=1, max_value=10_000)


@both_stages
@given(base=seconds, maximum=seconds, jitter=shares, retry=retries)
def test_a_delay_lies_within_its_bounds(
    package: ModuleType, base: float, maximum: float, jitter: float, retry: int
) -> None:
    longest = min(maximum, base * 2.0 ** min(retry - 1, 100))
    delay = package.Backoff(base, maximum, jitter).delay(retry)
    assert (1 - jitter) * longest <= delay <= longest * (1 + 1e-12)


@both_stages
@given(base=seconds, retry=st.integers(min_value=1, max_value=50))
def test_without_jitter_each_delay_is_twice_the_one_before(
    package: ModuleType, base: float, retry: int
) -> None:
    backoff = package.Backoff(base=base, maximum=1e6, jitter=0)
    assert backoff.delay(retry + 1) == min(1e6, 2 * backoff.delay(retry))


@both_stages
def test_the_default_is_one_second_doubling_to_a_minute(package: ModuleType) -> None:
    backoff = package.Backoff()
    assert (backoff.base, backoff.maximum, backoff.jitter) == (1.0, 60.0, 0.1)
    exact = package.Backoff(jitter=0)
    assert [exact.delay(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@both_stages
@pytest.mark.parametrize("retry", [1_024, 1_025, 10**6, 10**30])
def test_a_huge_number_of_retries_waits_for_the_maximum(package: ModuleType, retry: int) -> None:
    assert package.Backoff(base=1e-9, maximum=60, jitter=0).delay(retry) == 60


@both_stages
def test_jitter_spreads_the_delays_over_its_share(package: ModuleType) -> None:
    for jitter in (0.5, 1.0):
        delays = [package.Backoff(base=8, jitter=jitter).delay(1) for _ in range(2_000)]
        low = 8 * (1 - jitter)
        assert low <= min(delays) < low + 0.2
        assert 7.8 < max(delays) <= 8
        # Uniform: the mean of 2,000 draws lies within six standard errors of the middle.
        assert statistics.mean(delays) == pytest.approx(
            (low + 8) / 2, abs=6 * 8 / (12 * 2000) ** 0.5
        )


@both_stages
def test_a_base_of_nothing_waits_for_nothing(package: ModuleType) -> None:
    assert package.Backoff(base=0).delay(1) == package.Backoff(base=0).delay(99) == 0


@pytest.mark.parametrize("retry", [0, -1])
def test_retries_count_from_one(retry: int) -> None:
    with pytest.raises(ValueError, match=f"retry counts from 1, not {retry}"):
        final.Backoff().delay(retry)


@both_stages
def test_it_does_not_change(package: ModuleType) -> None:
    """It is a default argument, shared by all queues."""
    with pytest.raises(AttributeError):
        package.Backoff().base = 2.0
