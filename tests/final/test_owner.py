"""Somebody tidies up beside a queue that runs: no second owner, and nothing accepted is lost.

Without that a removed lock file lets two processes run the same jobs, and a removed journal
takes with it whatever is accepted from then on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from final import Job, JobQueue, QueueClosed, Status, StorageError, current_job
from tests.final.helpers import (
    POSIX,
    HeldUp,
    OpenQueue,
    child,
    completes,
    eventually,
    next_line,
    nothing,
    run_child,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

# Windows lets nobody remove, replace or cut off a file that is in use.
pytestmark = pytest.mark.skipif(not POSIX, reason="Windows protects files that are in use.")


def lose_all_locks(path: str) -> None:
    """As by a tidy-up, and a handler that copies the database: closing it drops its locks."""
    os.remove(path + ".lock")
    Path(path).read_bytes()


class TestLockFile:
    def test_without_it_another_process_is_turned_away_all_the_same(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        os.remove(path + ".lock")
        _, [error], _ = run_child("open_it", path)
        assert error.startswith(f"{path} is in use by another process: one process owns a file.")
        assert completes(queue)

    def test_so_is_this_one(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path)
        for _ in range(2):  # the first attempt must not have taken any lock from it
            with contextlib.suppress(FileNotFoundError):
                os.remove(path + ".lock")
            with pytest.raises(StorageError, match=rf"in use by process {os.getpid()} \(this one"):
                open_queue(nothing, path=path)
        assert completes(queue)

    def test_it_is_made_again(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path)
        os.remove(path + ".lock")
        lock = Path(path + ".lock")
        eventually(lambda: completes(queue) and lock.exists(), "the queue to notice")
        assert lock.read_text() == str(os.getpid())
        queue.close()
        assert completes(open_queue(nothing, path=path))

    @pytest.mark.parametrize("lives", [True, False])
    def test_a_former_owner_acknowledges_and_runs_nothing_more(
        self, held_up: HeldUp, path: str, gate: Gate, lives: bool
    ) -> None:
        queue, started = held_up(path=path)
        queue.enqueue_many([Job("a"), Job("b")])
        lose_all_locks(path)
        with child("own", path) as other:
            assert next_line(other) == "open"
            if not lives:
                other.communicate("enough\n", timeout=3 * DEADLINE)
            with pytest.raises(QueueClosed, match="was taken over by another process"):
                queue.enqueue(Job("c"))
        gate.open()
        assert Background(queue.close).result() is False
        assert started.entries == ["holder"]
        with pytest.raises(QueueClosed):
            queue.enqueue(Job("d"))


class TestEpoch:
    def test_whoever_finds_another_one_stops(self, held_up: HeldUp, path: str, gate: Gate) -> None:
        queue, started = held_up(path=path)
        queue.enqueue(Job("a"))
        with contextlib.closing(sqlite3.connect(path)) as somebody, somebody:
            somebody.execute("UPDATE fence SET epoch = epoch + 1")
        waiting = Background(queue.wait, "a")
        gate.open()  # its outcome cannot be written
        with pytest.raises(QueueClosed, match="was taken over by another process"):
            waiting.result()
        assert Background(queue.close).result() is False
        assert started.entries == ["holder"]
        assert queue.status("holder") is Status.PROCESSING

    def test_its_handlers_are_told_since_their_jobs_are_not_theirs_any_more(
        self, open_queue: OpenQueue, path: str, journal: Journal
    ) -> None:
        def handler(job: Job) -> None:
            journal.write("begun")
            journal.write("told" if not current_job().sleep(DEADLINE) else "not told")

        queue = open_queue(handler, path=path, workers=1)
        queue.enqueue(Job())
        journal.wait_for("begun")
        with contextlib.closing(sqlite3.connect(path)) as somebody, somebody:
            somebody.execute("UPDATE fence SET epoch = epoch + 1")
        with pytest.raises(QueueClosed):
            queue.enqueue(Job())
        journal.wait_for("told")


def remove(*ends: str) -> Callable[[str], None]:
    def act(path: str) -> None:
        for end in ends:
            os.remove(path + end)

    return act


def move(path: str) -> None:
    os.rename(path + "-wal", path + "-old")


def replace(path: str) -> None:
    move(path)
    shutil.copyfile(path + "-old", path + "-wal")


def write_over(path: str) -> None:
    move(path)
    Path(path + "-wal").write_bytes(b"\xff" * 100_000)


TIDY_UPS = {
    "wal removed": remove("-wal"),
    "shm removed": remove("-shm"),
    "both removed": remove("-wal", "-shm"),
    "all but the database removed": remove("-wal", "-shm", ".lock"),
    "wal moved": move,
    "wal replaced": replace,
    "wal replaced by rubbish": write_over,
}


class TestJournal:
    @pytest.fixture
    def killed(self, tmp_path: Path, open_queue: OpenQueue) -> Callable[[str], JobQueue]:
        """Opens what is found if the owner of a file is killed now."""

        def killed(path: str) -> JobQueue:
            (tmp_path / "found").mkdir()
            for file in Path(path).parent.glob("jobs.db*"):
                shutil.copy(file, tmp_path / "found")
            return open_queue(nothing, path=tmp_path / "found" / "jobs.db")

        return killed

    @pytest.mark.parametrize("tidy_up", TIDY_UPS)
    def test_what_was_accepted_before_and_after_is_in_the_file(
        self, open_queue: OpenQueue, path: str, killed: Callable[[str], JobQueue], tidy_up: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        queue.enqueue_many([Job("before"), Job("later", run_at=3600)])
        queue.wait("before", DEADLINE)
        TIDY_UPS[tidy_up](path)
        queue.enqueue(Job("after"))
        assert queue.wait("after", DEADLINE).status is Status.COMPLETED
        assert queue.status("before") is Status.COMPLETED
        found = killed(path)
        assert {job.id for job in found.jobs()} == {"before", "later", "after"}
        assert found.status("later") is Status.SCHEDULED

    def test_one_that_is_closed_without_another_word_has_lost_nothing(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.wait(queue.enqueue(Job("before")), DEADLINE)
            os.remove(path + "-wal")
        assert open_queue(nothing, path=path).status("before") is Status.COMPLETED

    @pytest.mark.parametrize("end", ["", "-wal"])
    @pytest.mark.parametrize("share", [0, 0.5])
    def test_one_that_was_cut_off_ends_the_queue_instead_of_more_jobs(
        self, open_queue: OpenQueue, path: str, end: str, share: float
    ) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue_many([Job(payload="x" * 1000) for _ in range(100)])
            queue.join(DEADLINE)
        queue = open_queue(nothing, path=path)
        queue.enqueue_many([Job(payload="x" * 1000) for _ in range(100)])
        queue.join(DEADLINE)
        os.truncate(path + end, int(os.path.getsize(path + end) * share))
        with pytest.raises(QueueClosed, match="cannot all be read any more"):
            queue.enqueue(Job("refused"))
        assert Background(queue.close).result() is False

    @pytest.mark.parametrize("sees_it", [False, True])
    def test_while_another_program_reads_the_old_one_nothing_is_accepted(
        self, open_queue: OpenQueue, path: str, sees_it: bool
    ) -> None:
        queue = open_queue(nothing, path=path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            if sees_it:
                queue.wait(queue.enqueue(Job("before")), DEADLINE)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM job").fetchone()
            if not sees_it:
                queue.enqueue(Job("before"))
            os.remove(path + "-wal")
            with pytest.raises(StorageError, match="another program reads the file: close that"):
                queue.enqueue(Job("refused"))
        eventually(lambda: queue.metrics().storage_error is None, "the queue to notice")
        assert completes(queue)
        assert queue.wait("before", DEADLINE).status is Status.COMPLETED

    def test_a_database_that_somebody_has_packed_is_none_that_was_cut_off(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path, history=1)
        queue.enqueue_many([Job(payload="x" * 1000) for _ in range(1000)])
        queue.join(DEADLINE)
        with contextlib.closing(sqlite3.connect(path)) as somebody:
            somebody.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            before = os.path.getsize(path)
            somebody.execute("VACUUM")
            somebody.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert os.path.getsize(path) < before
        assert completes(queue)


class TestSecondName:
    def test_a_file_that_has_one_is_refused(self, open_queue: OpenQueue, path: str) -> None:
        open_queue(nothing, path=path).close()
        os.link(path, path + "-link")
        for name in (path, path + "-link"):
            with pytest.raises(StorageError, match="has a second name, a hard link"):
                open_queue(nothing, path=name)
        os.remove(path)
        assert completes(open_queue(nothing, path=path + "-link"))

    def test_a_queue_whose_file_is_given_one_accepts_nothing_until_that_is_gone(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        os.link(path, path + "-link")
        with pytest.raises(StorageError, match=r"second name.*\. Remove that; the queue goes on"):
            queue.enqueue(Job())
        os.remove(path + "-link")
        eventually(lambda: queue.metrics().storage_error is None, "the queue to notice")
        assert completes(queue)


class TestRoom:
    def test_the_journal_gives_its_room_back_when_a_long_reader_has_gone(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path, durability="normal")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM job").fetchone()
            for _ in range(20):
                queue.enqueue_many([Job(payload="x" * 1_000_000)])
            assert os.path.getsize(path + "-wal") > 20_000_000
        queue.join(DEADLINE)
        for _ in range(3):
            assert completes(queue)
        assert os.path.getsize(path + "-wal") < 10_000_000

    @pytest.fixture
    def no_more_files(self) -> Iterator[Callable[[], None]]:
        """Lets the process open no more of them."""
        import resource

        usual = resource.getrlimit(resource.RLIMIT_NOFILE)

        def forbid() -> None:
            free = os.open(os.devnull, os.O_RDONLY)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, usual[1]))

        yield forbid
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)

    def test_no_write_needs_a_temporary_file(
        self, open_queue: OpenQueue, path: str, no_more_files: Callable[[], None]
    ) -> None:
        queue = open_queue(nothing, path=path)
        assert completes(queue)
        no_more_files()
        ids = queue.enqueue_many([Job(payload="y" * 5000) for _ in range(100)])
        queue.join(DEADLINE)
        assert {queue.status(job_id) for job_id in ids} == {Status.COMPLETED}
