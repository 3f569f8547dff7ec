"""Ids: UUIDv7 as in RFC 9562, unique, and in the order of time.

Random ids touch a page of the index each; ids in the order of time land at its end.
"""

from __future__ import annotations

import time
import uuid

from final import Job
from final.job import new_id
from tests.helpers import Background


def tick(nanoseconds: int) -> int:
    """The clock of an id: 4,096 ticks to the millisecond, about a quarter of a microsecond."""
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    return milliseconds * 4_096 + rest * 4_096 // 1_000_000


def tick_of(job_id: str) -> int:
    number = uuid.UUID(job_id).int
    return (number >> 80) * 4_096 + (number >> 64 & 0xFFF)


def test_an_id_is_a_uuid_of_version_7() -> None:
    for job_id in (new_id() for _ in range(1_000)):
        parsed = uuid.UUID(job_id)
        assert str(parsed) == job_id
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


def test_an_id_carries_the_time_at_which_it_was_made() -> None:
    for _ in range(10_000):
        before = time.time_ns()
        made = tick_of(new_id())
        after = time.time_ns()
        if after < before:
            continue  # somebody has set the clock back
        assert tick(before) <= made <= tick(after)


def test_ids_sort_by_their_ticks() -> None:
    """So those made at different ticks sort by time; within a tick chance decides."""
    ids = [new_id() for _ in range(10_000)]
    assert [tick_of(i) for i in sorted(ids)] == sorted(tick_of(i) for i in ids)


def test_ids_are_unique() -> None:
    def make() -> list[str]:
        return [new_id() for _ in range(20_000)]

    threads = [Background(make) for _ in range(4)]
    ids = [job_id for thread in threads for job_id in thread.result()]
    assert len(set(ids)) == len(ids) == 80_000


def test_ids_of_one_tick_differ_in_their_random_bits() -> None:
    """62 of them, each 0 about as often as 1."""
    ids = [uuid.UUID(new_id()).int & (1 << 62) - 1 for _ in range(4_000)]
    for bit in range(62):
        ones = sum(number >> bit & 1 for number in ids)
        assert 1_600 < ones < 2_400  # twelve standard deviations


def test_a_job_has_one_of_its_own_by_default() -> None:
    first, second = Job(), Job()
    assert first.id != second.id
    assert uuid.UUID(first.id).version == 7
