"""The SQLite store by itself: what its errors say, and what it writes of an attempt."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from final import StorageError
from final.job import Outcome, Priority, Task
from final.stores import Changes, SqliteStore
from final.stores.base import FailedAttempt
from tests.final import inside
from tests.final.helpers import POSIX, OpenQueue, completes, nothing

READS: dict[str, Callable[[SqliteStore], object]] = {
    "recover": SqliteStore.recover,
    "taken": lambda store: store.taken(["a"]),
    "dead letters": lambda store: store.dead_letters(None, None),
    "get": lambda store: store.get("a"),
    "jobs": lambda store: store.jobs(None, 1),
    "attempts": lambda store: store.attempts("a"),
}


class TestErrors:
    @pytest.mark.parametrize("read", READS)
    def test_a_read_that_fails_names_the_file(self, path: str, read: str) -> None:
        store = SqliteStore(path, "normal")
        with contextlib.closing(sqlite3.connect(path)) as somebody:
            somebody.executescript("DROP TABLE job; DROP TABLE failure")
        with contextlib.closing(store), pytest.raises(StorageError) as refused:
            READS[read](store)
        assert str(refused.value).startswith(f"Cannot read {path}: no such table: ")
        assert str(refused.value).endswith(". See the cause above.")

    def test_so_does_a_write(self, path: str) -> None:
        store = SqliteStore(path, "normal")
        with contextlib.closing(sqlite3.connect(path)) as somebody:
            somebody.execute("DROP TABLE job")
        with contextlib.closing(store), pytest.raises(StorageError) as refused:
            store.commit(Changes(1, 0.0, cancelled=[task("a")]))
        assert str(refused.value).startswith(f"Cannot write {path}: no such table: ")


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
            f"Cannot open {path}: unable to open database file. "
            "Make the file and its folder readable and writable."
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
        with contextlib.closing(SqliteStore(path, durability)) as store:
            assert pragma(store, "synchronous") == synchronous
            assert pragma(store, "fullfsync") == (durability == "full")

    def test_a_look_up_sees_what_is_committed_and_nothing_else(self, path: str) -> None:
        with contextlib.closing(SqliteStore(path, "normal")) as store:
            with store._transaction():
                store._write(Changes(1, 0.0, inserted=[task("a")]))
                assert store.get("a") is None
            assert store.get("a") is not None

    def test_what_looks_up_cannot_write(self, path: str) -> None:
        with (
            contextlib.closing(SqliteStore(path, "normal")) as store,
            pytest.raises(sqlite3.OperationalError, match="readonly"),
        ):
            store._reader.execute("DELETE FROM job")

    @pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
    def test_a_queue_hands_its_durability_on(
        self, path: str, open_queue: OpenQueue, durability: str, synchronous: int
    ) -> None:
        queue = open_queue(nothing, path=path, durability=durability)
        assert inside.pragma(queue, "synchronous") == synchronous


def pragma(store: SqliteStore, name: str) -> object:
    (value,) = store._writer.execute(f"PRAGMA {name}").fetchone()
    return value


def task(job_id: str) -> Task:
    return Task(job_id, "null", Priority.MEDIUM, "default", seq=1, place=1)


def test_a_failed_attempt_has_begun_before_it_ended() -> None:
    failed = task("a")
    with contextlib.closing(SqliteStore(":memory:", "normal")) as store:
        store.commit(Changes(1, 100.0, inserted=[failed], claimed=[failed]))
        outcome = Outcome(failed, seconds=2.0, error="ValueError: no")
        store.commit(Changes(2, 110.0, failed=[FailedAttempt(outcome, None)]))
        (attempt,) = store.attempts("a")
    assert (attempt.started_at, attempt.ended_at) == (108.0, 110.0)
