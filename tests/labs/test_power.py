"""The power lab tells a sync from none: the promises hold, and each planted fault is found."""

from __future__ import annotations

import pytest

from tests.labs import power
from tests.labs.disk_watch import Delete, Sync, Truncate, Write
from tests.labs.output import console, scratch
from tests.labs.power import DURABILITIES, FAULTS, MOMENTS_AT_ONCE, Tally, judge, record
from tests.labs.power_disk import Disk, Found, always, never

# Many disks are opened here; a machine with other things to do takes its time.
pytestmark = pytest.mark.timeout(180)


def cut(durability: str, jobs: int, fault: str = "", by_copies: bool = False) -> Tally:
    """Judge the moments of a small run, here and now; by halves, which is enough to see."""
    tally = Tally()
    with scratch() as folder:
        log = folder / "log"
        moments = record(log, durability, jobs, fault, by_copies).moments
        for first in range(0, moments, 2 * MOMENTS_AT_ONCE):
            tally.add(judge(log, first))
    return tally


@pytest.mark.slow
def test_the_promises_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert power.run(6, "", console())
    report = capsys.readouterr().out
    assert "What power cuts leave of 12 acknowledgements: 6 jobs accepted, and completed" in report
    assert "full loses nothing acknowledged" in report


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    tally = cut("full", 6, fault)
    assert tally.losing > 0
    assert "job-" in tally.loss
    assert (tally.corrupt > 0) == (fault == "sync-off")


@pytest.mark.slow
def test_the_coarser_way_finds_the_same() -> None:
    """Where SQLite cannot be watched; here it can, but the copies do not know."""
    full, normal, off = (cut(durability, 3, by_copies=True) for durability in DURABILITIES)
    assert (full.losing, full.corrupt) == (0, 0)
    assert normal.losing > 0
    assert normal.corrupt == 0
    assert off.corrupt > 0


class TestDisk:
    """What the model says of a few operations."""

    def test_what_is_synced_has_arrived(self) -> None:
        disk = Disk()
        disk.follow(Write("a", 0, b"old"))
        disk.follow(Sync("a"))
        disk.follow(Write("a", 1, b"new"))
        assert disk.image(never) == {"a": b"old"}
        assert disk.image(always) == {"a": b"onew"}

    def test_a_sync_of_one_file_says_nothing_about_another(self) -> None:
        disk = Disk()
        disk.follow(Write("a", 0, b"a"))
        disk.follow(Write("b", 0, b"b"))
        disk.follow(Sync("b"))
        assert disk.image(never) == {"b": b"b"}
        assert not disk.is_settled

    def test_each_sector_of_a_write_arrives_or_not(self) -> None:
        disk = Disk()
        disk.follow(Found("a", bytes(1536)))
        disk.follow(Write("a", 0, b"x" * 1536))
        fates = iter([True, False, True])
        assert disk.image(lambda: next(fates)) == {"a": b"x" * 512 + bytes(512) + b"x" * 512}

    def test_a_later_write_may_arrive_without_an_earlier_one(self) -> None:
        disk = Disk()
        disk.follow(Found("a", b"12"))
        disk.follow(Write("a", 0, b"x"))
        disk.follow(Write("a", 1, b"y"))
        fates = iter([False, True])
        assert disk.image(lambda: next(fates)) == {"a": b"1y"}

    def test_a_truncation_is_a_wish_too(self) -> None:
        disk = Disk()
        disk.follow(Found("a", b"long"))
        disk.follow(Truncate("a", 1))
        assert disk.image(never) == {"a": b"long"}
        assert disk.image(always) == {"a": b"l"}

    def test_a_deleted_file_may_be_back_until_its_folder_is_synced(self) -> None:
        disk = Disk()
        disk.follow(Found("a", b"a"))
        disk.follow(Delete("a", synced=False))
        assert disk.image(never) == {}
        assert disk.image(always) == {"a": b"a"}
        disk.follow(Write("b", 0, b"b"))
        disk.follow(Sync("b"))  # of a new file: the folder is synced with it
        assert disk.image(always) == {"b": b"b"}

    def test_a_new_file_is_not_a_continuation_of_the_one_before(self) -> None:
        disk = Disk()
        disk.follow(Found("a", b"before"))
        disk.follow(Delete("a", synced=False))
        disk.follow(Write("a", 0, b"new"))
        assert disk.image(always) == {"a": b"new"}
