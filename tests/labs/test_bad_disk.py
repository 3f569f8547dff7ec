"""The bad disk is one: operations fail, the promises hold, and each planted fault is found."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from final import DuplicateJob, Job, JobQueue, StorageError
from tests.helpers import DEADLINE
from tests.labs import bad_disk
from tests.labs.bad_disk import AILMENTS, FAULTS, endure
from tests.labs.disk_watch import Open, Operation, Refusal, Sync, watching
from tests.labs.output import console
from tests.labs.power_disk import Disk, never

FULL = "full: a write fails (ENOSPC)"


@pytest.mark.slow
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


class Forgetful:
    """A disk, and a system that does as Linux: what a failed sync did not settle counts as clean.

    The next sync succeeds, and proves nothing about that.
    """

    def __init__(self) -> None:
        self.disk = Disk()
        self.good_syncs = 1_000_000

    def before(self, operation: Operation) -> Refusal | None:
        if not isinstance(operation, Sync):
            return None
        self.good_syncs -= 1
        if self.good_syncs != -1:
            return None
        self.disk.forget(operation.file)
        return Refusal(sqlite3.SQLITE_IOERR_FSYNC)

    def after(self, operation: Operation) -> None:
        if not isinstance(operation, Open):
            self.disk.follow(operation)


class TestASyncThatFails:
    """What the disk has is not known then, and a second sync does not tell."""

    @pytest.mark.parametrize(
        ("at_work", "at_close"), [*((n, 0) for n in range(8)), (100, 0), (100, 1)]
    )
    def test_whatever_it_lost_is_written_anew(
        self, at_work: int, at_close: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of jobs and outcomes, and where close() moves the journal into the file."""
        monkeypatch.setattr("final.engine.dispatcher.STORAGE_RETRY_SECONDS", 0.01)
        watcher, accepted = Forgetful(), set()
        with watching(watcher):
            queue = JobQueue(lambda job: None, path=tmp_path / "jobs.db")
            watcher.good_syncs = at_work
            for n in range(8):
                with contextlib.suppress(StorageError):
                    accepted.add(queue.enqueue(Job(payload="x" * (n % 4 * 2_000))))
            queue.join(DEADLINE)
            power_cuts = [watcher.disk.image(never)]
            watcher.good_syncs = min(watcher.good_syncs, at_close)
            queue.close()
            power_cuts.append(watcher.disk.image(never))
        assert watcher.good_syncs < 0, "no sync failed"
        assert len(accepted) >= 7
        for n, files in enumerate(power_cuts):
            place = tmp_path / str(n)
            place.mkdir()
            for name, content in files.items():
                (place / name).write_bytes(content)
            with JobQueue(lambda job: None, path=place / "jobs.db") as queue:
                assert {record.id for record in queue.jobs()} == accepted

    def test_a_refused_job_may_be_there_after_a_kill(self, tmp_path: Path) -> None:
        """Its commit is in the journal, and nothing has been written over it yet."""
        watcher = Forgetful()
        with watching(watcher), JobQueue(lambda job: None, path=tmp_path / "jobs.db") as queue:
            watcher.good_syncs = 0
            with pytest.raises(StorageError, match="disk I/O error"):
                queue.enqueue(Job("a"))
            (tmp_path / "killed").mkdir()
            for name in ("jobs.db", "jobs.db-wal"):
                shutil.copy(tmp_path / name, tmp_path / "killed")
        with (
            JobQueue(lambda job: None, path=tmp_path / "killed" / "jobs.db") as queue,
            pytest.raises(DuplicateJob),
        ):
            queue.enqueue(Job("a"))
