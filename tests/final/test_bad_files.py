"""A file that cannot be used is refused in a sentence, and left as it is.

Without that a wrong path is a traceback from deep inside at best, and at worst somebody
else's database with a new table in it, or two processes that run every job twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from final import Job, JobQueue, Pause, Status, StorageError, Unique, UnknownJob
from final.ledger.schema import SCHEMA_VERSION
from tests.final.helpers import (
    POSIX,
    OpenQueue,
    child,
    completes,
    eventually,
    in_file,
    next_line,
    nothing,
    run_child,
)
from tests.helpers import DEADLINE, Background, Gate, Journal


class TestPlaces:
    def test_a_name_that_no_file_can_have_is_refused(self, open_queue: OpenQueue) -> None:
        with pytest.raises(StorageError, match="no file can have that name"):
            open_queue(nothing, path="/tmp/\ud800.db")

    @pytest.mark.skipif(not POSIX, reason="Windows keeps the folder that one is in.")
    def test_so_is_one_in_a_folder_that_was_removed(
        self, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(StorageError, match=r"jobs\.db is within the current folder, which was"):
            open_queue(nothing, path="jobs.db")
        assert completes(open_queue(nothing, path=tmp_path / "jobs.db"))

    def test_a_folder_is_refused(self, open_queue: OpenQueue, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"is a folder: give the path of a file in it\."):
            open_queue(nothing, path=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_missing_is_named(self, open_queue: OpenQueue, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"The folder of .*jobs\.db does not exist"):
            open_queue(nothing, path=tmp_path / "missing" / "jobs.db")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_no_folder(self, open_queue: OpenQueue, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"The folder of .*jobs\.db does not exist"):
            open_queue(nothing, path=tmp_path / "file" / "jobs.db")

    def test_a_name_that_is_too_long_is_refused(
        self, open_queue: OpenQueue, tmp_path: Path
    ) -> None:
        for place in (tmp_path / ("x" * 300), tmp_path / ("x" * 300) / "jobs.db"):
            with pytest.raises(StorageError, match=r"File name too long|folder of .* not exist"):
                open_queue(nothing, path=place)

    def test_an_empty_path_is_refused(self, open_queue: OpenQueue) -> None:
        with pytest.raises(StorageError, match="path is empty: give the path of a file"):
            open_queue(nothing, path="")

    def test_a_path_that_no_file_can_have_is_refused(
        self, open_queue: OpenQueue, tmp_path: Path
    ) -> None:
        with pytest.raises((StorageError, ValueError), match=r"jobs.* null"):
            open_queue(nothing, path=f"{tmp_path}/jobs\0.db")

    @pytest.fixture
    def open_folder(self) -> Iterator[Path]:
        """A folder that an unprivileged process may enter: pytest's own are private."""
        folder = Path(tempfile.mkdtemp())
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)
        shutil.rmtree(folder)

    def test_a_file_that_may_not_be_written_is_refused(
        self, open_folder: Path, open_queue: OpenQueue
    ) -> None:
        path = open_folder / "jobs.db"
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("kept"))
        for file in open_folder.iterdir():
            file.chmod(0o666)
        path.chmod(stat.S_IREAD | stat.S_IRGRP | stat.S_IROTH)
        _, [error], _ = run_child("unprivileged", path)
        assert error.startswith(f"Cannot open {path}: ")
        assert error.endswith("Make the file and its folder writable.")
        path.chmod(0o666)
        assert list(open_folder.glob("*-wal")) == []  # as unwritable as the file was
        assert completes(open_queue(nothing, path=path))

    # Windows has no read-only folders: there anybody may write into one that is marked so.
    @pytest.mark.parametrize("mode", [0o555] if POSIX else [])
    def test_a_folder_that_may_not_be_written_is_refused(
        self, open_folder: Path, mode: int
    ) -> None:
        open_folder.chmod(mode)
        _, [error], _ = run_child("unprivileged", open_folder / "jobs.db")
        assert error.startswith(f"Cannot write next to {open_folder / 'jobs.db'}: ")
        assert error.endswith("Choose a path you may write to.")
        assert list(open_folder.iterdir()) == []


def make_text(path: Path) -> None:
    path.write_text("This is a letter, not a database.\n" * 100)


def make_short_text(path: Path) -> None:
    path.write_text("letter")


def make_other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE job (id TEXT, salary INTEGER)")
        connection.execute("INSERT INTO job VALUES ('plumber', 5000)")
        connection.commit()


def make_other_application(path: Path) -> None:
    make_other_database(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 42")
        connection.execute("PRAGMA user_version = 7")


class TestContents:
    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (make_text, "is no SQLite database: choose another path."),
            (make_short_text, "is no SQLite database: choose another path."),
            (make_other_database, "is a SQLite database of something else: choose another path."),
            (make_other_application, "is a SQLite database of something else"),
        ],
    )
    def test_somebody_elses_file_is_refused_and_left_as_it_is(
        self, open_queue: OpenQueue, path: str, make: Callable[[Path], None], words: str
    ) -> None:
        make(Path(path))
        before = Path(path).read_bytes()
        with pytest.raises(StorageError, match=words):
            open_queue(nothing, path=path)
        assert Path(path).read_bytes() == before

    def test_an_empty_file_becomes_a_queue(self, open_queue: OpenQueue, path: str) -> None:
        Path(path).touch()
        assert completes(open_queue(nothing, path=path))

    def test_a_file_of_a_newer_release_is_refused(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("kept"))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        before = Path(path).read_bytes()
        with pytest.raises(StorageError, match=r"newer release \(schema 99, .*: upgrade"):
            open_queue(nothing, path=path)
        assert Path(path).read_bytes() == before

    def test_what_was_refused_can_be_opened_once_it_is_put_right(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        make_text(Path(path))
        with pytest.raises(StorageError) as refused:
            open_queue(nothing, path=path)
        Path(path).unlink()
        assert completes(open_queue(nothing, path=path))  # the lock was released
        assert refused.tb  # what the error holds on to is still alive: that is not what released it


def make_old_file(path: str, schema: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        script = Path(__file__).with_name(f"schema_{schema}.sql").read_text(encoding="utf-8")
        connection.executescript(script)


# Ends without a farewell after so many statements of those that bring a file up to date.
ENDED_HALF_WAY = 9
KILLED_HALF_WAY = f"""
import os, sys
from final import JobQueue
from final.ledger import schema

def until_killed(statements, left):
    for statement in statements:
        yield statement
        left -= 1
        if not left:
            os._exit({ENDED_HALF_WAY})

change = schema._change
schema._change = lambda writer, statements: change(
    writer, until_killed(statements, int(sys.argv[2]))
)
JobQueue(print, path=sys.argv[1])
"""


def test_an_old_sqlite_is_said(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    with pytest.raises(StorageError, match=r"it takes 3\.35 or newer"):
        JobQueue(nothing, path=path)


class TestOldFiles:
    @pytest.mark.parametrize("schema", range(1, SCHEMA_VERSION))
    def test_a_file_of_an_older_release_is_brought_up_to_date_with_all_that_is_in_it(
        self, open_queue: OpenQueue, path: str, schema: int
    ) -> None:
        make_old_file(path, schema)
        self.require_all_of_it(open_queue, path)

    def test_the_first_release_could_be_killed_before_it_wrote_its_number(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        make_old_file(path, 1)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 0")
        self.require_all_of_it(open_queue, path)

    @pytest.mark.parametrize("survived", [1, 5, 10, 14])
    def test_a_process_that_is_killed_half_way_leaves_the_old_file(
        self, open_queue: OpenQueue, path: str, survived: int
    ) -> None:
        make_old_file(path, 1)
        killed = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, path, str(survived)])
        assert killed.returncode == ENDED_HALF_WAY
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        self.require_all_of_it(open_queue, path)

    def require_all_of_it(self, open_queue: OpenQueue, path: str) -> None:
        ran = Journal()
        handlers = dict.fromkeys(("default", "fails", "hangs"), lambda job: ran.write(job.payload))
        queue = open_queue(handlers, path=path)
        assert queue.get("completed").result == {"seen": "completed"}
        assert queue.get("dead").payload == b"\0bytes"
        assert [attempt.number for attempt in queue.attempts("dead")] == [1, 2]
        assert queue.status("later") is Status.SCHEDULED
        assert queue.wait("processing", DEADLINE).attempts == 2
        assert queue.wait("queued", DEADLINE).status is Status.COMPLETED
        queue.retry("dead")
        assert queue.wait("dead", DEADLINE).status is Status.COMPLETED
        assert sorted({*map(str, ran.entries)}) == ["None", "['café', 1.5, None]", "b'\\x00bytes'"]
        queue.close(drain=False)
        assert completes(open_queue(handlers, path=path))  # it is not brought up to date again

    @pytest.mark.parametrize("schema", [5, 6])
    def test_keys_groups_and_parents_are_what_they_were(
        self, open_queue: OpenQueue, path: str, schema: int
    ) -> None:
        make_old_file(path, schema)
        queue = open_queue(dict.fromkeys(("default", "fails", "hangs"), nothing), path=path)
        assert queue.enqueue(Job("other", unique=Unique("report"))) == "later"
        assert queue.get("queued").group == "tenant-7"
        child = queue.wait("child", DEADLINE)
        assert (child.status, child.after) == (Status.COMPLETED, ("parent", "processing"))
        assert (child.snoozes, queue.get("later").snoozes) == (0, 0)

    def test_what_jobs_are_about_and_what_is_paused_is_what_it_was(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        make_old_file(path, 6)
        queue = open_queue(nothing, path=path)
        assert [record.id for record in queue.jobs(meta={"user": "7"})] == ["later"]
        assert queue.paused() == [Pause(group="tenant-8")]


class TestDamage:
    PAGE = 4096

    @pytest.fixture
    def pages(self, open_queue: OpenQueue, path: str) -> int:
        """Makes a file of many pages at ``path``; says how many."""
        with open_queue(nothing, path=path, durability="normal") as queue:
            queue.enqueue_many([Job(payload="x" * 200) for _ in range(1_000)])
        pages = os.path.getsize(path) // self.PAGE
        assert pages > 50
        return pages

    @pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
    def test_a_truncated_file_is_refused(
        self, open_queue: OpenQueue, path: str, pages: int, share: float
    ) -> None:
        os.truncate(path, int(pages * share) * self.PAGE)
        with pytest.raises(StorageError, match=r"damaged.* restore a copy, or save what is left"):
            open_queue(nothing, path=path)

    def test_half_a_page_is_refused(self, open_queue: OpenQueue, path: str, pages: int) -> None:
        os.truncate(path, self.PAGE // 2)
        with pytest.raises(StorageError, match="damaged"):
            open_queue(nothing, path=path)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.99])
    def test_a_file_with_a_broken_page_is_refused(
        self, open_queue: OpenQueue, path: str, pages: int, share: float
    ) -> None:
        with open(path, "r+b") as file:
            file.seek(int(pages * share) * self.PAGE)
            file.write(b"\xff" * self.PAGE)
        before = Path(path).read_bytes()
        page = int(pages * share) + 1
        # One line, in which SQLite says where.
        with pytest.raises(
            StorageError,
            match=rf"^{re.escape(path)} is damaged \([^\n]* [Pp]age {page}: .*\): restore a copy",
        ):
            open_queue(nothing, path=path)
        assert Path(path).read_bytes() == before


def a_tick(kind_and_more: str, next_tick: str = "1") -> str:
    """Of an entry whose job was written by another program."""
    rest = "'priority', 'low', 'timeout', NULL, 'group', NULL, 'unique', NULL, 'meta', NULL"
    job = f"json_patch(json_object({rest}), json_object('kind', {kind_and_more}))"
    return f"periodic SELECT 'n', 'every 5 s', 'UTC', 'once', {job}, '1', 0, NULL, {next_tick}"


class TestRowsOfAnotherProgram:
    """One that makes no sense is that one's trouble: the file opens, and the others run."""

    @pytest.fixture
    def file(self, open_queue: OpenQueue, path: str) -> Callable[[str, str], None]:
        """Makes a file with three jobs at ``path``, one completed, one dead, one that waits.

        Then another program changes one of them.
        """

        def handler(job: Job) -> None:
            if job.id == "dead":
                raise ValueError("no")

        def make(job_id: str, change: str) -> None:
            with open_queue(handler, path=path, max_retries=0) as queue:
                queue.enqueue_many([Job("done"), Job("dead")])
                queue.join(DEADLINE)
                queue.enqueue(Job("waits", run_at=3600))
            with contextlib.closing(sqlite3.connect(path)) as connection:
                table = "payload" if change.startswith("payload") else "job"
                connection.execute(
                    f"UPDATE {table} SET {change} WHERE seq = (SELECT seq FROM job WHERE id = ?)",
                    (job_id,),
                )
                connection.commit()

        return make

    CHANGES = (
        *("priority = 'urgent'", "status = 'lost'", "payload = 5", "kind = x'ff'", "result = 7"),
        *("timeout = 'long'", "attempts = 'two'", "enqueued_at = 'now'", "due_at = 'soon'"),
        *("token = 'x'", "place = 'first'", "interrupted = 'once'"),
    )

    @pytest.mark.parametrize(
        "row",
        [
            "pause VALUES ('priority', 'urgent')",
            "pause VALUES ('moon', '')",
            "setting VALUES ('workers', 'many')",
            "setting VALUES ('workers', 0)",  # nothing would ever run
            "periodic VALUES ('n', 'every 5 s', 'UTC', 'once', '{\"kind\": 1}', '', 0, NULL, 1)",
            a_tick("'default', 'timeout', 'x'"),  # it would end the queue
            a_tick("'default', 'group', json_array(7)"),  # nothing could be written
            a_tick("'default'", next_tick="1e300"),
        ],
    )
    def test_also_one_of_what_is_paused_or_comes_by_itself(
        self, row: str, file: Callable[[str, str], None], open_queue: OpenQueue, path: str
    ) -> None:
        file("done", "kind = 'default'")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(f"INSERT INTO {row}")
            connection.commit()
        queue = open_queue(nothing, path=path)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("job_id", ["waits", "dead"])
    def test_is_left_alone(
        self,
        open_queue: OpenQueue,
        path: str,
        file: Callable[[str, str], None],
        job_id: str,
        change: str,
    ) -> None:
        file(job_id, change)
        queue = open_queue(nothing, path=path)
        assert completes(queue)
        with pytest.raises(UnknownJob):
            queue.get(job_id)
        assert job_id not in [job.id for job in queue.jobs()]
        assert queue.status("done") is Status.COMPLETED
        assert queue.retry_all() == (job_id != "dead")
        assert completes(queue)
        assert Background(queue.close).result() is True

    @pytest.mark.parametrize("change", ["payload = '{'", "result = '{'"])
    def test_is_shown_as_it_is_stored_where_that_is_no_json(
        self, open_queue: OpenQueue, path: str, file: Callable[[str, str], None], change: str
    ) -> None:
        file("dead", change)
        queue = open_queue(nothing, path=path, max_retries=0)
        shown = queue.get("dead")
        assert "{" in (shown.payload, shown.result)
        assert [job.id for job in queue.jobs()] == ["waits", "dead", "done"]
        queue.retry("dead")
        queue.join(DEADLINE)
        assert queue.status("dead") in (Status.COMPLETED, Status.FAILED)


def take_away(path: str, by: str) -> None:
    if by == "deleting":
        Path(path).unlink()
    else:
        Path(path).rename(path + ".away")
    if by == "replacing":
        make_other_database(Path(path))


class TestVanished:
    """A file that goes away while it is open. (Windows lets nobody delete or move such a file.)"""

    @pytest.mark.parametrize("by", ["deleting", "moving", "replacing"] if POSIX else [])
    def test_jobs_are_refused_rather_than_accepted_into_a_file_without_a_name(
        self, open_queue: OpenQueue, path: str, by: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        assert completes(queue)
        take_away(path, by)
        with pytest.raises(StorageError, match=r"was deleted, moved or replaced .* Put it back"):
            queue.enqueue(Job())
        assert queue.metrics().accepted == 1

    @pytest.mark.parametrize("name", ["jobs.db"] if POSIX else [])
    def test_the_queue_goes_on_when_the_file_is_back(
        self, open_queue: OpenQueue, tmp_path: Path, gate: Gate, name: str
    ) -> None:
        path = tmp_path / name
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, path=path)
        queue.enqueue(Job("in flight"))
        started.wait_for("in flight")
        path.rename(tmp_path / "away")
        gate.open()
        eventually(lambda: queue.metrics().storage_error is not None, "the outcome to be refused")
        (tmp_path / "away").rename(path)
        assert queue.wait("in flight", DEADLINE).status is Status.COMPLETED
        assert Background(queue.close).result() is True
        assert in_file(str(path), "id, status, attempts") == [("in flight", "completed", 1)]

    def test_a_program_may_change_its_working_directory(
        self, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        queue = open_queue(nothing, path="jobs.db")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert completes(queue)
        assert Background(queue.close).result() is True
        assert len(queue.jobs()) == 1

    @pytest.mark.parametrize("by", ["deleting", "moving", "replacing"])
    def test_who_looks_after_the_end_is_told_too_and_makes_no_new_file(
        self, open_queue: OpenQueue, path: str, by: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        queue.enqueue(Job("a"))
        assert Background(queue.close).result() is True
        take_away(path, by)
        for look in (queue.jobs, lambda: queue.get("a"), lambda: queue.attempts("a")):
            with pytest.raises(
                StorageError, match=r"was deleted, moved or replaced .* Put it back"
            ):
                look()
        assert Path(path).exists() == (by == "replacing")


class TestOwners:
    def test_a_file_that_a_process_owns_is_refused_with_its_pid(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with child("own", path) as owner:
            assert next_line(owner) == "open"
            with pytest.raises(StorageError, match=rf"in use by process {owner.pid}: one process"):
                open_queue(nothing, path=path)
            assert owner.stdin
            owner.stdin.write("enough\n")
            owner.stdin.flush()
            assert Background(owner.wait).result() == 0
        queue = open_queue(nothing, path=path)
        assert queue.metrics().completed == 1

    def test_a_file_that_this_process_owns_is_refused_too(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        first = open_queue(nothing, path=path)
        with pytest.raises(StorageError, match=rf"in use by process {os.getpid()} \(this one\)"):
            open_queue(nothing, path=path)
        assert completes(first)  # the attempt has not disturbed it
        with pytest.raises(StorageError):  # nor taken the lock from it
            open_queue(nothing, path=path)

    def test_the_file_is_free_when_its_owner_has_been_killed(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with child("own", path) as owner:
            assert next_line(owner) == "open"
            owner.kill()
            Background(owner.wait).result()
        queue = open_queue(nothing, path=path)
        assert queue.metrics().completed == 1

    def test_a_lock_file_that_a_killed_owner_left_is_no_lock(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        Path(path + ".lock").write_text("1")
        assert completes(open_queue(nothing, path=path))

    # Making a symbolic link takes a privilege on Windows.
    SPELLINGS = ("relative", "roundabout", *(("link", "linked folder") if POSIX else ()))

    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_another_spelling_of_the_path_does_not_lead_around_the_lock(
        self, open_queue: OpenQueue, tmp_path: Path, spelling: str
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        path = folder / "jobs.db"
        other = {
            "relative": Path(os.path.relpath(path)),
            "roundabout": folder / ".." / "folder" / "jobs.db",
            "link": tmp_path / "link.db",
            "linked folder": tmp_path / "linked" / "jobs.db",
        }[spelling]
        open_queue(nothing, path=path)
        if spelling == "link":
            other.symlink_to(path)
        if spelling == "linked folder":
            other.parent.symlink_to(folder)
        with pytest.raises(StorageError, match="is in use by"):
            open_queue(nothing, path=other)

    def test_queues_in_memory_do_not_know_each_other(self, open_queue: OpenQueue) -> None:
        first, second = open_queue(nothing), open_queue(nothing)
        first.enqueue(Job("same id"))
        second.enqueue(Job("same id"))
        assert first.metrics().accepted == second.metrics().accepted == 1
