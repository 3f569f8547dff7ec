"""Bad disk: let each single write and each sync fail, and see what the queue makes of it.

Promised: a disk that is full or broken costs no accepted job. ``enqueue`` raises
StorageError, a sentence that says what is wrong and what to do, and the job is not in the
queue. When the disk works again, so does the queue, by itself.

How it is shown: a queue opens a file, accepts jobs from a producer that tries again until
each is in, runs them, closes, and is opened once more. First on a healthy disk, to count
the operations that SQLite asks for (disk_watch.py). Then again for each of them, and this
time that one fails, or that one and the next few, as a full disk (ENOSPC), a broken one
(EIO), one that writes half and then gives up, or one on which no file can be opened.
After every run the books must balance: what was accepted has run once, completed, and
is still there; nothing is there that was refused.

Where this may mount a file system (root, on Linux), it also fills a real one, and makes
it read-only.

What a planted fault does: FAULT=swallowed-error accepts what was never written,
raw-error tells the producer in SQLite's words, open-transaction never recovers.

    python -m tests.labs.bad_disk            every operation, in turn
    EVERY=10 python -m tests.labs.bad_disk   every tenth

But: the disk refuses and says so. One that says "done" and forgets is the power lab's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar
from unittest import mock

from rich.console import Console
from rich.table import Table

from final import DuplicateJob, Job, JobQueue, JobQueueError, Status, StorageError
from final.ledger.sqlite import SqliteFile
from tests.labs import choices, output
from tests.labs.crash_faults import queues_use
from tests.labs.disk_watch import (
    CannotWatch,
    Open,
    Operation,
    Refusal,
    Sync,
    Write,
    require_watching,
    watching,
)
from tests.labs.output import Check

JOBS = 8
OUTAGE = 5  # operations in a row that fail in the longer runs
TRIES = 4 * OUTAGE  # after so many the disk has been well again for long
PATIENCE_SECONDS = 20.0  # with the queue, once the disk is well

LOST = "accepted but lost"
KEPT = "refused but stored"
TWICE = "run twice"
UNCLEAR = "another error than StorageError"
STUCK = "does not work again with the disk"
DAMAGED = "database damaged"
PROMISES = (LOST, KEPT, TWICE, UNCLEAR, STUCK, DAMAGED)


class Ailment(NamedTuple):
    """What fails, and with which result code: what SQLite makes of the system's errno."""

    fails: type[Operation]
    code: int
    half: bool = False  # of a write, the first half is made all the same


AILMENTS = {
    "full: a write fails (ENOSPC)": Ailment(Write, sqlite3.SQLITE_FULL),
    "broken: a write fails (EIO)": Ailment(Write, sqlite3.SQLITE_IOERR_WRITE),
    "broken: half a write is made": Ailment(Write, sqlite3.SQLITE_IOERR_WRITE, half=True),
    "broken: a sync fails (EIO)": Ailment(Sync, sqlite3.SQLITE_IOERR_FSYNC),
    "out of reach: no file opens": Ailment(Open, sqlite3.SQLITE_CANTOPEN),
}


class SwallowedError(SqliteFile):
    """A planted fault: whatever the disk says, all is well."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with super().transaction():
                yield
        except StorageError:
            pass


class RawError(SqliteFile):
    """A planted fault: the producer gets what SQLite says."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with super().transaction():
                yield
        except StorageError as error:
            raise error.__cause__ or error from None


class OpenTransaction(SqliteFile):
    """A planted fault: no ROLLBACK after an error, so no BEGIN ever works again."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with super().transaction():
                yield
        except StorageError:
            self._writer.execute("BEGIN")
            raise


FAULTS: dict[str, type[SqliteFile]] = {
    "swallowed-error": SwallowedError,
    "raw-error": RawError,
    "open-transaction": OpenTransaction,
}


@dataclass
class Tally:
    """What the runs with one ailment came to."""

    runs: int = 0
    failures: int = 0  # operations that the disk refused
    refused: int = 0  # calls that raised StorageError
    broken: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)  # the sentences of these errors
    example: str = ""

    def add(self, other: Tally) -> None:
        self.runs += other.runs
        self.failures += other.failures
        self.refused += other.refused
        self.broken += other.broken
        self.said += other.said
        self.example = self.example or other.example


def main() -> None:
    held = run(choices.whole_number("EVERY", 1), choices.fault(FAULTS), output.console())
    sys.exit(not held)


def run(every: int, fault: str, console: Console) -> bool:
    """Let each operation fail, or only every so manieth; whether all promises held."""
    began = time.monotonic()
    tallies = {name: Tally() for name in AILMENTS}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as processes:
        try:
            operations = processes.submit(count_operations).result()
        except CannotWatch as excuse:
            console.print(f"{excuse} {ELSEWHERE}", soft_wrap=True)
            operations = dict.fromkeys(AILMENTS, 0)
        runs = {
            processes.submit(endure, name, first, length, fault): name
            for name, count in operations.items()
            for length in (1, OUTAGE)
            for first in range(1, count + 1, every)
        }
        with output.progress(console, "Disks that fail", len(runs)) as advance:
            for part in as_completed(runs):
                tallies[runs[part]].add(part.result())
                advance(1)
    show(console, tallies, operations, fault)
    checks = verdict(tallies)
    output.show_checks(console, output.NEVER, checks)
    if not fault:
        mounted = mounted_disk()
        output.show_checks(console, "On a real file system", mounted or [NOT_MOUNTED])
        checks += mounted
    console.print(f"  {len(runs):,} failing disks in {time.monotonic() - began:.0f} s.")
    return all(check.held for check in checks)


ELSEWHERE = (
    "So no single operation is made to fail here; tests/final/test_full_disk.py fills the disk in "
    "two ways that need no watching."
)


# ---- one run on a bad disk -------------------------------------------------------------------


class BadDisk:
    """A watcher that refuses some operations: from the ``first`` of a sort on, so many."""

    def __init__(self, ailment: Ailment, first: int, length: int) -> None:
        self._ailment = ailment
        self._failing = range(first, first + length)
        self.seen = 0
        self.failures = 0

    def before(self, operation: Operation) -> Refusal | None:
        if not isinstance(operation, self._ailment.fails):
            return None
        self.seen += 1
        if self.seen not in self._failing:
            return None
        self.failures += 1
        written = 0
        if self._ailment.half and isinstance(operation, Write):
            written = len(operation.data) // 2
        return Refusal(self._ailment.code, written)

    def after(self, operation: Operation) -> None:
        pass


def count_operations() -> dict[str, int]:
    """How many operations of each sort a run asks a healthy disk for."""
    require_watching()
    counts = {}
    for name, ailment in AILMENTS.items():
        disk = BadDisk(ailment, first=0, length=0)
        tally = _run_on(disk, SqliteFile)
        assert not tally.broken, f"A healthy disk, and yet: {tally.example}"
        counts[name] = disk.seen
    return counts


def endure(name: str, first: int, length: int, fault: str) -> Tally:
    """Run a queue on a disk on which the ``first`` operation of a sort fails, and what follows."""
    disk = BadDisk(AILMENTS[name], first, length)
    tally = _run_on(disk, FAULTS.get(fault, SqliteFile))
    if tally.broken:
        tally.example = f"operation {first}, {length} in a row: {tally.example}"
    return tally


def _run_on(disk: BadDisk, file: type[SqliteFile]) -> Tally:
    # The lab need not wait as long as a person would before the disk is tried again.
    with (
        output.scratch() as folder,
        mock.patch("final.engine.dispatcher.STORAGE_RETRY_SECONDS", 0.01),
        queues_use(file),
        output.quiet(),
    ):
        producer = Producer(folder / "jobs.db")
        with watching(disk):
            producer.use_queue()
        producer.tally.failures = disk.failures
        producer.look()
    return producer.tally


Answer = TypeVar("Answer")


class Producer:
    """Enqueues on a queue whose disk fails, and keeps the books."""

    def __init__(self, path: Path) -> None:
        self.tally = Tally(runs=1)
        self._path = path
        self._accepted: set[str] = set()
        self._ran: Counter[str] = Counter()
        self._mutex = threading.Lock()  # guards _ran

    def use_queue(self) -> None:
        """Open, enqueue, wait, close."""
        queue = self._try(self._open, TRIES)
        if queue is None:
            return
        for n in range(JOBS):
            # Every other job is given up at once when it is refused, and must not be there then.
            job = Job(f"job-{n}", payload="x" * (n % 4 * 2_000))
            if self._try(lambda job=job: queue.enqueue(job), 1 if n % 2 else TRIES):  # type: ignore[misc]
                self._accepted.add(job.id)
        patience = 0 if self.tally.broken[STUCK] else PATIENCE_SECONDS
        try:
            queue.join(patience)
        except (TimeoutError, JobQueueError) as error:
            self._break(STUCK, repr(error))
            patience = 0
        queue.close(drain=False, timeout=patience)

    def look(self) -> None:
        """The disk is well: what is in the file?"""
        try:
            with self._open() as queue:
                queue.join(PATIENCE_SECONDS)
                stored = {record.id: record.status for record in queue.jobs(limit=2 * JOBS)}
            with contextlib.closing(sqlite3.connect(self._path)) as connection:
                (whole,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except (TimeoutError, StorageError) as error:
            self._break(STUCK, str(error))
            return
        if whole != "ok":
            self._break(DAMAGED, whole)
        for job_id in sorted(self._accepted):
            if stored.get(job_id) != Status.COMPLETED:
                self._break(LOST, job_id)
            elif self._ran[job_id] > 1:
                self._break(TWICE, job_id)
        for job_id in stored.keys() - self._accepted:
            self._break(KEPT, job_id)

    def _open(self) -> JobQueue:
        return JobQueue(self._handler, path=self._path, workers=2)

    def _handler(self, job: Job) -> None:
        with self._mutex:
            self._ran[job.id] += 1

    def _try(self, call: Callable[[], Answer], tries: int) -> Answer | None:
        """What a producer does about a StorageError: the same again, a bounded number of times."""
        for _ in range(tries):
            try:
                return call()
            except DuplicateJob as error:
                self._break(KEPT, str(error))
                return None
            except StorageError as error:
                self.tally.refused += 1
                self.tally.said[str(error).replace(str(self._path), "jobs.db")] += 1
            except Exception as error:
                self._break(UNCLEAR, repr(error))
                return None
        if tries > 1:
            self._break(STUCK, f"{tries} tries")
        return None

    def _break(self, promise: str, what: str) -> None:
        self.tally.broken[promise] += 1
        self.tally.example = self.tally.example or f"{promise}: {what}"


# ---- a real file system, filled and made read-only ---------------------------------------------


NOT_MOUNTED = Check("none can be mounted here, so none was filled", True, "")


def mounted_disk() -> list[Check]:
    """Fill a file system of its own to the last byte; only root may make one, and on Linux only."""
    with tempfile.TemporaryDirectory() as folder, output.quiet():
        if not (sys.platform == "linux" and os.geteuid() == 0 and _mount("size=512k", folder)):
            return []
        try:
            return _fill(Path(folder)) + _make_read_only(Path(folder))
        finally:
            subprocess.run(["umount", "--lazy", folder], check=False)


def _fill(folder: Path) -> list[Check]:
    path = folder / "jobs.db"
    accepted: list[str] = []
    refused = ""
    with JobQueue(lambda job: None, path=path) as queue:
        while not refused:
            try:
                accepted.append(queue.enqueue(Job(payload="x" * 10_000)))
            except StorageError as error:
                refused = str(error)
        _mount("remount,size=8m", str(folder))
        accepted.append(queue.enqueue(Job()))
        queue.join(PATIENCE_SECONDS)
        kept = sum(queue.status(job_id) is Status.COMPLETED for job_id in accepted)
    return [
        Check(
            "filled to the last byte, it costs no accepted job",
            kept == len(accepted) and "full" in refused,
            f"{kept} of {len(accepted)} kept",
        )
    ]


def _make_read_only(folder: Path) -> list[Check]:
    path = folder / "jobs.db"
    _mount("remount,ro", str(folder))
    try:
        JobQueue(lambda job: None, path=path).close()
        said = "It could be opened."
    except StorageError as error:
        said = str(error)
    _mount("remount,rw", str(folder))
    with JobQueue(lambda job: None, path=path) as queue:
        works = queue.wait(queue.enqueue(Job()), PATIENCE_SECONDS).status is Status.COMPLETED
    held = works and "Choose a path you may write to." in said
    return [Check("read-only, it is refused in a sentence, and used again later", held, "")]


def _mount(options: str, folder: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # no such program
        return False


# ---- the report --------------------------------------------------------------------------------


def verdict(tallies: dict[str, Tally]) -> list[Check]:
    everything = Tally()
    for tally in tallies.values():
        everything.add(tally)
    return [
        Check(promise, not everything.broken[promise], f"{everything.broken[promise]:,}")
        for promise in PROMISES
    ]


def show(
    console: Console, tallies: dict[str, Tally], operations: dict[str, int], fault: str
) -> None:
    table = output.table("the disk is", "places", "runs", "failures", "refusals", "broken")
    for name, tally in tallies.items():
        counts = (operations[name], tally.runs, tally.failures, tally.refused)
        broken = sum(tally.broken.values())
        table.add_row(name, *(f"{count:,}" for count in counts), f"{broken:,}")
    console.print()
    console.print("What a bad disk does to a queue", style="bold")
    if fault:
        console.print(f"With a planted fault: {fault}", style="yellow")
    console.print(table)
    said: Counter[str] = sum((tally.said for tally in tallies.values()), Counter())
    if said:
        console.print("What producers were told", style="bold")
        console.print()
        sentences = Table.grid(padding=(0, 1, 0, 1))
        for sentence, count in said.most_common():
            sentences.add_row(f"{count:6,} times", sentence)
        console.print(sentences)
        console.print()
    for tally in tallies.values():
        if tally.example:
            console.print(f"  For example, {tally.example}", style="red")


if __name__ == "__main__":  # the processes that it starts import this file too
    main()
