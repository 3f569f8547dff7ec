"""The bad disk is one: operations fail, the promises hold, and each planted fault is found."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.labs import bad_disk
from tests.labs.bad_disk import AILMENTS, FAULTS, endure
from tests.labs.output import console

FULL = "full: a write fails (ENOSPC)"


def test_no_promise_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert bad_disk.run(16, "", console())
    report = capsys.readouterr().out
    for name in AILMENTS:
        assert name in report
    assert "Cannot write jobs.db: disk I/O error. Check the disk" in report
    assert "database or disk is full. Free some space" in report


@pytest.mark.parametrize("nth", range(1, 6))
def test_wherever_a_file_cannot_be_opened_it_is_said_in_a_sentence(nth: int) -> None:
    """The fifth is the reading connection, whose error once came out raw and kept the lock."""
    tally = endure("out of reach: no file opens", nth, 1, "")
    assert tally.failures == 1
    assert not tally.broken, tally.example


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("swallowed-error", bad_disk.LOST),
        ("raw-error", bad_disk.UNCLEAR),
        ("open-transaction", bad_disk.STUCK),
    ],
)
def test_a_planted_fault_is_found(fault: str, broken: str) -> None:
    found: Counter[str] = Counter()
    for place in (40, 60):
        found += endure(FULL, place, bad_disk.OUTAGE, fault).broken
    assert found[broken] > 0


def test_every_fault_has_such_a_test() -> None:
    mark = test_a_planted_fault_is_found.pytestmark[0]  # type: ignore[attr-defined]
    assert {fault for fault, _ in mark.args[1]} == set(FAULTS)
