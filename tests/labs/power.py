"""Power lab: pull the plug at every moment, thousands of times, without a plug.

``kill -9`` says nothing about the disk: the system outlives the process and writes what it
was given. With ``synchronous=OFF`` thousands of kills lose nothing. Only a power cut does.

Promised: with ``durability="full"`` an accepted job, and a completion that was announced,
survive a power cut. With ``"normal"`` the latest ones may be gone, but the file is whole.

How it is shown: a queue runs some jobs on a real file, in three sessions, while every
write, sync and deletion that SQLite asks for is recorded (disk_watch.py), and between them
what the queue acknowledged. Then the power fails between any two of these operations.
Of what was not synced by then nothing has arrived, or all of it, or some sectors of some
writes in any order (power_disk.py). Each disk that may be left is made, opened by the same
store as at the next start, and asked: is the file whole, and is everything there that was
acknowledged before this moment?

What a planted fault does: a store that says "full" and does not sync loses jobs on half of
these disks (FAULT=sync-off, which also damages the file, and sync-normal), and so does one
that answers before the commit (FAULT=early-acknowledgement).

    python -m tests.labs.power            a run of 60 jobs
    JOBS=500 python -m tests.labs.power   a run of 500, with 18,567 moments: much longer

But: it tests the order of writes and syncs, not the drive. One that says "synced" and
lies loses data under any database.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console

from final import Job, JobQueue, Status, StorageError
from final.ledger.sqlite import SqliteFile
from tests.labs import choices, output
from tests.labs.crash_faults import EarlyAcknowledgement, SyncNormal, SyncOff, queues_use
from tests.labs.disk_watch import CannotWatch, Operation, Recording, require_watching, watching
from tests.labs.output import Check
from tests.labs.power_copies import copying
from tests.labs.power_disk import Disk, Found, always, never

DURABILITIES = ("full", "normal", "off")
FAULTS: dict[str, type[SqliteFile]] = {
    "sync-off": SyncOff,
    "sync-normal": SyncNormal,
    "early-acknowledgement": EarlyAcknowledgement,
}

SESSIONS = 3  # each close moves the journal into the file, and deletes it
CHANCES = (0.2, 0.5, 0.9)  # that an unsynced sector arrives, in the images left to chance
MOMENTS_AT_ONCE = 50  # that a process judges before it reports


class Acknowledged(NamedTuple):
    """The queue said to somebody: this job is accepted, or has completed."""

    job_id: str
    completed: bool


Event = Operation | Found | Acknowledged


@dataclass
class Tally:
    """What became of the disks of some moments. loss, damage: the first one, and where."""

    moments: int = 0
    disks: int = 0
    losing: int = 0  # disks that lack something acknowledged
    most_lost: int = 0  # on one of them
    corrupt: int = 0
    loss: str = ""
    damage: str = ""

    def add(self, other: Tally) -> None:
        self.moments += other.moments
        self.disks += other.disks
        self.losing += other.losing
        self.most_lost = max(self.most_lost, other.most_lost)
        self.corrupt += other.corrupt
        self.loss = self.loss or other.loss
        self.damage = self.damage or other.damage


def main() -> None:
    held = run(choices.whole_number("JOBS", 60), choices.fault(FAULTS), output.console())
    sys.exit(not held)


def run(jobs: int, fault: str, console: Console, by_copies: bool = False) -> bool:
    """Record and judge a run of so many jobs at each durability; whether all promises held."""
    began = time.monotonic()
    tallies = {durability: Tally() for durability in DURABILITIES}
    with output.scratch() as folder, _processes() as processes:
        recordings = {
            durability: processes.submit(
                record, folder / durability, durability, jobs, fault, by_copies
            ).result()
            for durability in DURABILITIES
        }
        if excuse := recordings["full"].excuse:
            console.print(f"{excuse} {COPIES}", soft_wrap=True)
        moments = sum(recording.moments for recording in recordings.values())
        with output.progress(console, "Moments at which the power fails", moments) as advance:
            parts = {
                processes.submit(judge, folder / durability, first): durability
                for durability, recording in recordings.items()
                for first in range(0, recording.moments, MOMENTS_AT_ONCE)
            }
            for part in as_completed(parts):
                tallies[parts[part]].add(part.result())
                advance(part.result().moments)
    show(console, tallies, jobs, fault)
    checks = verdict(tallies)
    output.show_checks(console, "What was promised", checks)
    disks = sum(tally.disks for tally in tallies.values())
    seconds = time.monotonic() - began
    console.print(f"  {disks:,} disks in {seconds:.0f} s, {disks / seconds:,.0f} a second.")
    return all(check.held for check in checks)


COPIES = (
    "So this goes by copies of the files after every commit: which sectors changed is seen, "
    "but that they were synced is taken on SQLite's word."
)


# ---- the recording ---------------------------------------------------------------------------


class Recorded(NamedTuple):
    """moments: how many there are. excuse: why SQLite could not be watched, if it could not."""

    moments: int
    excuse: str


def record(log_path: Path, durability: str, jobs: int, fault: str, by_copies: bool) -> Recorded:
    """Run a queue and write down what happens; in a process where nothing else does."""
    log: list[Event] = []
    excuse = ""
    try:
        require_watching()
    except CannotWatch as cause:
        excuse, by_copies = str(cause), True
    file = SqliteFile
    if durability == "off":
        file = SyncOff
    elif durability == "full" and fault:
        file = FAULTS[fault]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        if by_copies:
            with queues_use(copying(file, path, log)):
                _live(path, durability, jobs, log)
        else:
            with queues_use(file), watching(Recording(log)):
                _live(path, durability, jobs, log)
    log_path.write_bytes(pickle.dumps(log))
    return Recorded(len(log), excuse)


def _live(path: Path, durability: str, jobs: int, log: list[Event]) -> None:
    """Three sessions of a queue: enqueue, run, close."""
    level: Literal["full", "normal"] = "normal" if durability == "normal" else "full"
    for session in range(SESSIONS):
        with JobQueue(lambda job: None, path=path, durability=level, workers=2) as queue:
            queue.subscribe(
                lambda transition: (
                    log.append(Acknowledged(transition.job_id, completed=True))
                    if transition.status is Status.COMPLETED
                    else None
                )
            )
            for n in range(session, jobs, SESSIONS):
                # Some fit into a page of the file, some take several.
                job_id = queue.enqueue(Job(f"job-{n}", payload="x" * (n % 7 * 1_000)))
                log.append(Acknowledged(job_id, completed=False))


# ---- the judgement ---------------------------------------------------------------------------


def judge(log_path: Path, first: int) -> Tally:
    """Cut the power at ``MOMENTS_AT_ONCE`` moments from ``first`` on, and look at what is left."""
    disk = Disk()
    accepted: set[str] = set()
    completed: set[str] = set()
    tally = Tally()
    with output.scratch() as place:
        for moment, event in enumerate(_load(log_path)[: first + MOMENTS_AT_ONCE]):
            if not isinstance(event, Acknowledged):
                disk.follow(event)
            elif event.completed:
                completed.add(event.job_id)
            else:
                accepted.add(event.job_id)
            if moment < first:
                continue
            tally.moments += 1
            # The same chances at each run, so that a disk can be made again and looked at.
            for image in _images(disk, random.Random(moment)):
                tally.disks += 1
                try:
                    found = _open(image, place)
                except Corrupt as damage:
                    tally.corrupt += 1
                    tally.damage = tally.damage or f"at moment {moment}: {damage}"
                    continue
                lost = sorted(accepted - found.keys())
                lost += [job_id for job_id in completed if found.get(job_id) != "completed"]
                if lost:
                    tally.losing += 1
                    tally.most_lost = max(tally.most_lost, len(lost))
                    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
                    tally.loss = tally.loss or f"at moment {moment}: {lost[0]}{more}"
    return tally


def _images(disk: Disk, chance: random.Random) -> Iterator[dict[str, bytearray]]:
    """Disks that the power cut may leave: nothing unsynced has arrived, all has, or some."""
    yield disk.image(never)
    if not disk.is_settled:
        yield disk.image(always)
        for share in CHANCES:
            yield disk.image(lambda share=share: chance.random() < share)  # type: ignore[misc]


class Corrupt(Exception):
    """The file is not whole."""


def _open(image: dict[str, bytearray], folder: Path) -> dict[str, str]:
    """Open what the power cut left as the next start would; the status of each job in it."""
    for file in folder.iterdir():
        file.unlink()
    for name, content in image.items():
        (folder / name).write_bytes(content)
    path = folder / "jobs.db"
    try:
        SqliteFile(path, "full").close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (whole,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if whole != "ok":
                raise Corrupt(whole)
            return dict(connection.execute("SELECT id, status FROM job"))
    except (StorageError, sqlite3.DatabaseError) as error:
        raise Corrupt(str(error).replace(str(path), path.name)) from None


@functools.cache
def _load(log_path: Path) -> list[Event]:
    log: list[Event] = pickle.loads(log_path.read_bytes())
    return log


def _processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))


# ---- the report ------------------------------------------------------------------------------


def verdict(tallies: dict[str, Tally]) -> list[Check]:
    full, normal, off = (tallies[durability] for durability in DURABILITIES)
    return [
        Check("full loses nothing acknowledged", not full.losing, full.loss),
        Check("full leaves the file whole", not full.corrupt, full.damage),
        Check("normal leaves the file whole", not normal.corrupt, normal.damage),
        # Not what the queue promises, but this lab: that it would see a loss, and damage.
        Check("this lab sees what normal may lose", normal.losing > 0, ""),
        Check("this lab sees the damage without syncs", off.corrupt > 0, ""),
    ]


def show(console: Console, tallies: dict[str, Tally], jobs: int, fault: str) -> None:
    table = output.table(
        "durability", "moments", "disks", "that lost some", "most at once", "corrupt"
    )
    for durability, tally in tallies.items():
        counts = (tally.moments, tally.disks, tally.losing, tally.most_lost, tally.corrupt)
        table.add_row(durability, *(f"{count:,}" for count in counts))
    console.print()
    what = f"{2 * jobs:,} acknowledgements: {jobs:,} jobs accepted, and completed"
    console.print(f"What power cuts leave of {what}", style="bold")
    if fault:
        console.print(f"With a planted fault at full: {fault}", style="yellow")
    console.print(table)


if __name__ == "__main__":  # the processes that it starts import this file too
    main()
