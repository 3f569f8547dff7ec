"""The SQLite file by itself: what its errors say, its fences, and what it writes of an attempt."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from final import Job, QueueClosed, StorageError
from final.beyond.filters import Filter
from final.job import Outcome, Priority, Status, Task
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.final import inside
from tests.final.helpers import POSIX, OpenQueue, completes, nothing
from tests.helpers import DEADLINE, Gate

QUEUED, SCHEDULED, PROCESSING, RETRYING, COMPLETED, FAILED, CANCELLED, DROPPED, WAITING = Status

READS: dict[str, Callable[[SqliteFile], object]] = {
    "get": lambda file: file.get("a"),
    "jobs": lambda file: file.jobs(Filter(), 1, None, True),
    "attempts": lambda file: file.attempts("a"),
    "counts": SqliteFile.counts,
    "rows": lambda file: file.rows([task("a")]),
}


def task(job_id: str, number: int = 1) -> Task:
    return Task(job_id, "null", Priority.MEDIUM, "default", size=4, seq=number, key=number)


def write(file: SqliteFile, move: Move, wall: float = 0.0) -> None:
    for moved in move.tasks:
        moved.status = move.target
    with file.transaction():
        file.write([move], wall)


class TestErrors:
    @pytest.mark.parametrize("read", READS)
    def test_a_read_that_fails_names_the_file(self, path: str, read: str) -> None:
        file = SqliteFile(path, "normal")
        with contextlib.closing(sqlite3.connect(path)) as somebody:
            somebody.executescript("DROP TABLE job; DROP TABLE failure")
        with contextlib.closing(file), pytest.raises(StorageError) as refused:
            READS[read](file)
        assert str(refused.value).startswith(f"Cannot read {path}: no such table: ")
        assert str(refused.value).endswith(". See the cause above.")

    def test_so_does_a_write(self, path: str) -> None:
        file = SqliteFile(path, "normal")
        with contextlib.closing(sqlite3.connect(path)) as somebody:
            somebody.execute("DROP TABLE job")
        with contextlib.closing(file), pytest.raises(StorageError) as refused:
            write(file, Move([task("a")], QUEUED, CANCELLED))
        assert str(refused.value).startswith(f"Cannot write {path}: no such table: ")


class TestFences:
    """Each move says where its jobs stand; where one does not, somebody else has written."""

    @pytest.fixture
    def file(self) -> Iterator[SqliteFile]:
        """A file with jobs "claimed", which has the token 7, "queued" and "dead"."""
        with contextlib.closing(SqliteFile(":memory:", "normal")) as file:
            claimed, queued, dead = [task(*job) for job in ITS_JOBS.items()]
            write(file, Move([claimed, queued, dead], None, QUEUED))
            claimed.token = dead.token = 7
            write(file, Move([claimed, dead], QUEUED, PROCESSING))
            outcome = Outcome(dead, 0.1, error="no")
            write(file, Move([dead], PROCESSING, FAILED, 7, [outcome]))
            yield file

    @pytest.mark.parametrize("token", [6, 8, 0])
    @pytest.mark.parametrize("target", [COMPLETED, FAILED, RETRYING, QUEUED, CANCELLED])
    def test_an_attempt_ends_by_its_own_token(
        self, file: SqliteFile, token: int, target: Status
    ) -> None:
        claimed = task("claimed", ITS_JOBS["claimed"])
        outcome = Outcome(claimed, 0.1, error=None if target is COMPLETED else "no")
        before = standing(file)
        with pytest.raises(QueueClosed):
            write(file, Move([claimed], PROCESSING, target, token, [outcome]))
        assert standing(file) == before
        write(file, Move([claimed], PROCESSING, target, 7, [outcome]))
        assert standing(file)["claimed"] == (target, int(target is not QUEUED))

    def test_nor_is_a_result_kept_by_another(self, file: SqliteFile) -> None:
        claimed = task("claimed", ITS_JOBS["claimed"])
        outcome = Outcome(claimed, 0.1, result="1")
        with pytest.raises(QueueClosed):
            write(file, Move([claimed], PROCESSING, COMPLETED, 6, [outcome]))
        write(file, Move([claimed], PROCESSING, COMPLETED, 7, [outcome]))
        record = file.get("claimed")
        assert record
        assert record.result == 1

    @pytest.mark.parametrize(
        ("job_id", "source", "target"),
        [
            ("claimed", QUEUED, PROCESSING),
            ("claimed", QUEUED, CANCELLED),
            ("claimed", RETRYING, QUEUED),
            ("queued", FAILED, QUEUED),
            ("unknown", QUEUED, PROCESSING),
        ],
    )
    def test_a_job_that_stands_elsewhere_is_not_moved(
        self, file: SqliteFile, job_id: str, source: Status, target: Status
    ) -> None:
        moved = task(job_id, ITS_JOBS.get(job_id, 99))
        moved.token = 8
        before = standing(file)
        with pytest.raises(QueueClosed):
            write(file, Move([moved], source, target))
        assert standing(file) == before

    def test_one_of_many_is_enough(self, file: SqliteFile) -> None:
        """And none of the others is moved either."""
        many = [task(str(n), n) for n in range(100, 700)]
        write(file, Move(many, None, QUEUED))
        for one in many:
            one.token = 8
        with pytest.raises(QueueClosed):
            write(file, Move([*many, task("claimed", 1)], QUEUED, PROCESSING))
        before = standing(file)
        assert {before[one.id] for one in many} == {(QUEUED, 0)}
        write(file, Move(many, QUEUED, PROCESSING))
        after = standing(file)
        assert {after[one.id] for one in many} == {(PROCESSING, 1)}


ITS_JOBS = {"claimed": 1, "queued": 2, "dead": 3}


def standing(file: SqliteFile) -> dict[str, tuple[Status, int]]:
    """The status and the attempts of each job."""
    records = file.jobs(Filter(), 1_000, None, False)
    return {record.id: (record.status, record.attempts) for record in records}


class TestOpening:
    @pytest.mark.parametrize("what", ["a socket"] if POSIX else [])
    def test_what_is_no_file_is_refused_and_stays_unlocked(
        self, path: str, open_queue: OpenQueue, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(Path(path).parent)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(Path(path).name)  # the whole path may be too long for a socket's name
            with pytest.raises(StorageError) as refused:
                open_queue(nothing, path=path)
        assert str(refused.value) == (
            f"{path} is no regular file: what is written there is not kept."
        )
        Path(path).unlink()
        assert completes(open_queue(nothing, path=path))

    def test_an_owner_that_left_no_number_is_another_process(
        self, path: str, open_queue: OpenQueue
    ) -> None:
        with filelock.FileLock(path + ".lock"), pytest.raises(StorageError) as refused:
            open_queue(nothing, path=path)
        assert str(refused.value) == (
            f"{path} is in use by another process: one process owns a file. Close it there "
            "first, or choose another path. Where several processes have jobs for it, let "
            "one serve the others: python -m final serve (docs/service.md)."
        )


class TestConnections:
    @pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
    def test_durability_says_when_it_syncs(
        self, path: str, durability: str, synchronous: int
    ) -> None:
        with contextlib.closing(SqliteFile(path, durability)) as file:
            assert pragma(file, "synchronous") == synchronous
            assert pragma(file, "fullfsync") == (durability == "full")

    def test_a_look_up_sees_what_is_committed_and_nothing_else(self, path: str) -> None:
        with contextlib.closing(SqliteFile(path, "normal")) as file:
            new = task("a")
            new.status = QUEUED
            with file.transaction():
                file.write([Move([new], None, QUEUED)], 0.0)
                assert file.get("a") is None
            assert file.get("a") is not None

    def test_what_looks_up_cannot_write(self, path: str) -> None:
        with (
            contextlib.closing(SqliteFile(path, "normal")) as file,
            pytest.raises(sqlite3.OperationalError, match="readonly"),
        ):
            file._reader.execute("DELETE FROM job")

    @pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
    def test_a_queue_hands_its_durability_on(
        self, path: str, open_queue: OpenQueue, durability: str, synchronous: int
    ) -> None:
        queue = open_queue(nothing, path=path, durability=durability)
        assert inside.pragma(queue, "synchronous") == synchronous


def pragma(file: SqliteFile, name: str) -> object:
    (value,) = file._writer.execute(f"PRAGMA {name}").fetchone()
    return value


def test_a_failed_attempt_has_begun_before_it_ended() -> None:
    failed = task("a")
    with contextlib.closing(SqliteFile(":memory:", "normal")) as file:
        write(file, Move([failed], None, QUEUED))
        failed.token = 7
        write(file, Move([failed], QUEUED, PROCESSING), wall=100.0)
        outcome = Outcome(failed, seconds=2.0, error="ValueError: no", ended_at=110.0)
        write(file, Move([failed], PROCESSING, FAILED, 7, [outcome]), wall=115.0)
        (attempt,) = file.attempts("a")
    assert (attempt.started_at, attempt.ended_at) == (108.0, 110.0)


def test_a_claim_and_an_end_do_not_write_the_payload_again(
    open_queue: OpenQueue, path: str
) -> None:
    gate = Gate()
    queue = open_queue(lambda job: gate.wait(), path=path)
    queue.enqueue_many([Job(payload="x" * 50_000) for _ in range(40)])
    journal = Path(f"{path}-wal")
    accepted = journal.stat().st_size
    assert accepted > 40 * 50_000
    gate.open()
    queue.join(DEADLINE)
    assert journal.stat().st_size < 1.2 * accepted
