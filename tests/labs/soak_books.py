"""The books of the soak: which jobs were promised, what became of them, and does anything grow.

``Ledger`` hears of every job that is offered, accepted and ended, and is compared with the
file whenever the queue is closed. ``miscounts`` looks at metrics, ``trends`` at memory,
threads, handles and files in the second half of a run.

But: the ledger forgets a job as soon as it has ended, or it would be what grows.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from final import Status
from final.engine.metrics import Counts, Metrics

# A dead letter is not at its end: it may be revived.
GONE = (Status.COMPLETED, Status.CANCELLED, Status.DROPPED)


@dataclass
class Entry:
    """A job in the books. acknowledged: enqueue has returned. status: the latest heard of."""

    acknowledged: bool = False
    status: Status = Status.QUEUED

    @property
    def stage(self) -> str:
        return stage(self.status)


def stage(status: Status) -> str:
    """What may be compared: some moves between waiting and running are not announced."""
    return "gone" if status in GONE else "dead" if status is Status.FAILED else "open"


class Ledger:
    """Who was promised to run, and what was heard of them since. From any thread.

    counts: how many jobs were heard to reach each status, and how many were accepted.
    wrong: sentences about what should not have happened.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def offer(self, *job_ids: str) -> None:
        """These are about to be enqueued. An event may come before enqueue returns."""
        with self._mutex:
            for job_id in job_ids:
                self._entries[job_id] = Entry()

    def accept(self, *job_ids: str) -> None:
        """Enqueue has returned: from here on they must not be lost."""
        with self._mutex:
            for job_id in job_ids:
                self._entries[job_id].acknowledged = True
                self.counts["accepted"] += 1
                self._forget_if_gone(job_id)

    def refuse(self, *job_ids: str) -> None:
        """Enqueue has raised: they must never run."""
        with self._mutex:
            for job_id in job_ids:
                entry = self._entries.pop(job_id)
                if entry.status is not Status.QUEUED:
                    self.wrong.append(f"Job {job_id} was refused, and is {entry.status}.")

    def heard(self, job_id: str, status: str) -> None:
        """The queue says that this job has a new status."""
        with self._mutex:
            self.counts[status] += 1
            entry = self._entries.get(job_id)
            if entry is None:
                self.wrong.append(f"Job {job_id} is {status}, although it had ended before.")
                return
            entry.status = Status(status)
            self._forget_if_gone(job_id)

    def found_dead(self, *job_ids: str) -> None:
        """Dead letters in a file that was opened: those of a killed process were not announced."""
        with self._mutex:
            for job_id in job_ids:
                self._entries[job_id].status = Status.FAILED

    def count(self, what: str) -> None:
        with self._mutex:
            self.counts[what] += 1

    def complain(self, sentence: str) -> None:
        with self._mutex:
            self.wrong.append(sentence)

    def compare(self, file: Mapping[str, Status], *, killed: bool) -> None:
        """Everything promised is in ``file``, at the stage that was last heard of.

        killed: the process was. Then some acknowledgements and news did not get through; the
        file is right, but whoever was acknowledged must be in it.
        """
        with self._mutex:
            for job_id, entry in list(self._entries.items()):
                status = file.get(job_id)
                if status is None and not entry.acknowledged:
                    del self._entries[job_id]
                elif status is None and entry.status is Status.FAILED:
                    del self._entries[job_id]
                    self.counts["purged"] += 1
                elif status is None:
                    self.wrong.append(
                        f"Job {job_id} was accepted, was {entry.status}, and is lost."
                    )
                elif killed:
                    self.counts["accepted"] += not entry.acknowledged
                    entry.acknowledged, entry.status = True, status
                    self._forget_if_gone(job_id)
                elif not entry.acknowledged or stage(status) != entry.stage:
                    self.wrong.append(
                        f"Job {job_id} is {status} in the file; last heard of as {entry.status}, "
                        f"{'acknowledged' if entry.acknowledged else 'never acknowledged'}."
                    )

    def unfinished(self) -> list[str]:
        with self._mutex:
            return [job_id for job_id, entry in self._entries.items() if entry.stage == "open"]

    def _forget_if_gone(self, job_id: str) -> None:
        entry = self._entries[job_id]
        if entry.acknowledged and entry.status in GONE:
            del self._entries[job_id]


# ---- metrics ---------------------------------------------------------------------------------

STATUSES = tuple(status.value for status in Status)
NEVER_LESS = ("completed", "cancelled", "dropped")


def miscounts(metrics: Metrics, before: Metrics | None) -> list[str]:
    """Where these metrics contradict themselves, or an earlier picture of the same queue."""
    wrong = []
    lanes: dict[str, Counts] = {"all lanes": metrics}
    lanes |= {priority.name: counts for priority, counts in metrics.by_priority.items()}
    for name, counts in lanes.items():
        by_status = {status: getattr(counts, status) for status in STATUSES}
        if sum(by_status.values()) != counts.accepted:
            said = " + ".join(f"{count} {status}" for status, count in by_status.items() if count)
            wrong.append(f"metrics, {name}: {said} is not {counts.accepted} accepted.")
        if negative := [status for status, count in by_status.items() if count < 0]:
            wrong.append(f"metrics, {name}: {negative[0]} is {by_status[negative[0]]}.")
    for status in ("accepted", *STATUSES):
        total = getattr(metrics, status)
        in_lanes = sum(getattr(counts, status) for counts in metrics.by_priority.values())
        if total != in_lanes:
            wrong.append(f"metrics: {total} {status} in all, but {in_lanes} in the lanes.")
    for status in NEVER_LESS if before else ():
        if getattr(metrics, status) < getattr(before, status):
            wrong.append(f"metrics: {status} went back to {getattr(metrics, status)}.")
    return wrong


# ---- growth ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gauges:
    """What this process and its file take at one moment. Memory and file in MiB."""

    memory: float
    threads: float
    handles: float
    children: float
    file: float


# How much the last quarter of a run may be above the one before: a share, and at least so much.
BOUNDS = {
    "memory": (0.10, 12.0),
    "threads": (0.0, 4.0),  # those that a time-out gave up end a little later
    "handles": (0.0, 6.0),
    "children": (0.0, 1.0),
    "file": (0.15, 6.0),  # SQLite's journal (WAL) comes and goes, and takes 4 MiB
}


def read_gauges(path: str) -> Gauges:
    me = psutil.Process()
    if sys.platform == "win32":
        handles = me.num_handles()  # of every sort
    else:
        handles = me.num_fds()
    size = sum(os.path.getsize(file) for file in (path, path + "-wal") if os.path.exists(file))
    return Gauges(
        memory=me.memory_info().rss / 2**20,
        threads=threading.active_count(),
        handles=handles,
        children=len(me.children()),
        file=size / 2**20,
    )


@dataclass(frozen=True)
class Trend:
    """What one quantity did in the second half of a run.

    before and after: the medians of the third and the last quarter. bound: how much more the
    last may be.
    """

    what: str
    before: float
    after: float
    bound: float

    @property
    def growth(self) -> float:
        return self.after - self.before

    @property
    def flat(self) -> bool:
        return self.growth <= self.bound


def trend(what: str, values: Sequence[float], share: float, at_least: float) -> Trend:
    """``values`` may grow by this share of what they are, or by ``at_least`` if that is more."""
    half, quarter = len(values) // 2, len(values) // 4
    if not quarter:
        raise ValueError(f"A trend needs at least 4 values, not {len(values)}: run for longer.")
    before = statistics.median(values[half : len(values) - quarter])
    after = statistics.median(values[len(values) - quarter :])
    return Trend(what, before, after, max(at_least, share * before))


def trends(samples: list[Gauges]) -> list[Trend]:
    return [
        trend(name, [getattr(sample, name) for sample in samples], *bounds)
        for name, bounds in BOUNDS.items()
    ]
