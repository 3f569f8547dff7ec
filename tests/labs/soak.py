"""Soak: half an hour of everything at once. Does anything leak, miscount or get lost?

Promised: every accepted job ends, whatever happens on the way; the metrics add up at any
moment; and a queue that runs for months takes no more than one that runs for minutes.

How it is shown: producers do all that clients do, with jobs of three priorities that fail, time
out, hang, are scheduled, limited, cancelled, revived and enqueued twice. A second queue
computes in a process that dies now and then. Every few seconds the queue is closed in one of
three ways, or the whole process is killed, and the file is opened again. Meanwhile:

- every second the metrics must add up: accepted is the sum of all statuses, in every lane;
- whenever the queue is closed, every accepted job must be in the file, at the stage that was
  last heard of, and the metrics must be what the ledger has counted for itself;
- memory, threads, file handles, child processes and the size of the file must be flat over
  the second half of the run;
- in the end every accepted job has ended.

What a planted fault does: FAULT=memory, threads or handles grows, FAULT=miscount does not add
up, and with FAULT=lost some jobs are accepted and never run. The soak notices each.

    python -m tests.labs.soak               one minute
    MINUTES=30 python -m tests.labs.soak    on demand
    SEED=7 python -m tests.labs.soak        the same jobs as another run

But: which thread runs when is not up to the seed, so a run that found something may have to be
repeated. A power cut and a disk that fails are other labs.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from final import Backoff, JobQueue, Metrics, QueueClosed, Status
from final.engine.metrics import Recorder
from final.job import Task
from final.ledger.index import Index
from final.workers.pool import WorkerPool
from tests.benchmarks.report import terminal
from tests.final.helpers import ROOT, in_file
from tests.helpers import DEADLINE
from tests.labs import choices
from tests.labs.soak_books import Gauges, Ledger, Trend, miscounts, read_gauges, trends
from tests.labs.soak_load import HISTORY, OPTIONS, Load, handlers, listen, square, tell
from tests.labs.soak_report import Progress, report

PATIENCE = 6 * DEADLINE  # for a close that runs all that waits
LEAST_SAMPLES = 40  # a short run on a busy machine goes on until it has so many


# ---- the run ---------------------------------------------------------------------------------


class Soak:
    """One run. ``wrong`` is what it found, as sentences; the first one ends it."""

    def __init__(self, seconds: float, seed: str, folder: Path) -> None:
        self.seconds = seconds
        self.seed = seed
        self.ledger = Ledger()
        self.samples: list[Gauges] = []
        self.checks = 0
        self.trends: list[Trend] = []
        self.epochs = 0
        self._rng = random.Random(seed)
        self._path = str(folder / "jobs.db")
        self._computing_path = str(folder / "computing.db")
        self._broken = threading.Event()  # something is wrong: stop
        self._over = threading.Event()
        self._queues: dict[str, JobQueue] = {}  # the open ones, by their paths
        self._began = 0.0
        # As they were when the queue was opened: the jobs in the file, the counts in the ledger.
        self._found: Counter[Status] = Counter()
        self._counted: Counter[str] = Counter()

    @property
    def wrong(self) -> list[str]:
        return self.ledger.wrong

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def run(self, show: Callable[[Soak], None]) -> None:
        """``show`` is called about once a second, from another thread."""
        self._began = time.monotonic()
        threads = [
            threading.Thread(target=self._watch, args=[show], daemon=True),
            threading.Thread(target=self._compute, daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._broken.is_set() and not self._enough():
                self.epochs += 1
                if self.epochs % 4 == 3:
                    self._be_killed()
                else:
                    self._epoch()
        finally:
            self._over.set()
            if computing := self._queues.get(self._computing_path):
                computing.close(drain=False)  # its map may wait for a job that never ends
            for thread in threads:
                thread.join(PATIENCE)
        if not self.wrong:
            self._finish()
            self.trends = trends(self.samples)
            self.wrong.extend(
                f"{each.what} grew by {each.growth:,.1f} in the second half of the run, from "
                f"{each.before:,.1f}; the bound is {each.bound:,.1f}."
                for each in self.trends
                if not each.flat
            )

    def _enough(self) -> bool:
        return self.elapsed >= self.seconds and len(self.samples) >= LEAST_SAMPLES

    # ---- an epoch: open, load, close, compare ------------------------------------------------

    def _epoch(self) -> None:
        rng = self._rng
        options = {
            "capacity": rng.choice([20, 100, 200]),
            "overflow": rng.choices(
                ["block", "reject", "drop-newest", "drop-oldest"], [7, 1, 1, 1]
            )[0],
            "durability": rng.choice(["full", "normal"]),
            "fairness": rng.choice([10, 1, None]),
        }
        how = rng.choices(["drained", "left", "cut short"], [2, 1, 1])[0]
        with self._opened(options) as queue:
            load = Load(
                queue, self.ledger, self.seed, f"e{self.epochs}", rng.choice([0.002, 0.01, 0.05])
            )
            load.start()
            self._broken.wait(self._epoch_seconds())
            match rng.choice(["purge", "revive", "leave"]):  # the dead letters
                case "purge":
                    queue.purge()
                case "revive":
                    queue.retry_all()
            # The producers go on: close meets them in the middle of their calls.
            complete = queue.close(how == "drained", 0.01 if how == "cut short" else PATIENCE)
            load.join()
        if how != "cut short" and not complete:
            self._complain(f"close did not finish within {PATIENCE:.0f} s.")
        self.ledger.count(f"epochs {how}")
        self._compare(queue.metrics(), drained=how == "drained")

    def _be_killed(self) -> None:
        """An epoch in another process, which is killed in the middle of it."""
        command = [sys.executable, "-m", "tests.labs.soak_load", self._path, self.seed]
        with subprocess.Popen(
            [*command, f"k{self.epochs}"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout
            first = child.stdout.readline()
            killer = threading.Timer(self._epoch_seconds() / 2, child.kill)
            killer.start()
            for line in itertools.chain([first], child.stdout):
                listen(line, self.ledger)
            killer.cancel()
        if not first:
            self._complain("The process to be killed ended before it had done anything.")
        self.ledger.count("epochs killed")
        self.ledger.compare(self._file(), killed=True)
        self._look_for_trouble()

    def _finish(self) -> None:
        """Nothing new comes; all that is left runs, or is cancelled where it is not due."""
        with self._opened({}) as queue:
            for record in queue.jobs(Status.SCHEDULED, HISTORY):
                queue.cancel(record.id)
            complete = queue.close(timeout=PATIENCE)
        if not complete:
            self._complain(f"The last close did not finish within {PATIENCE:.0f} s.")
        self._compare(queue.metrics(), drained=True)
        for job_id in self.ledger.unfinished()[:3]:
            self._complain(f"Job {job_id} was accepted, and has not ended when all is done.")

    @contextlib.contextmanager
    def _opened(self, options: dict[str, Any]) -> Iterator[JobQueue]:
        """The queue with its subscriber; afterwards all its news have come in."""
        self._found = Counter(self._file().values()) + self._forgotten()
        self._counted = self.ledger.counts.copy()
        ready = threading.Event()
        queue = JobQueue(handlers(ready), path=self._path, **(OPTIONS | options))
        queue.subscribe(tell(self.ledger))
        assert queue._events._courier
        news = queue._events._courier._thread
        self.ledger.found_dead(*[record.id for record in queue.dead_letters()])
        ready.set()
        self._queues[self._path] = queue
        try:
            yield queue
        finally:
            del self._queues[self._path]
            queue.close(drain=False)
            news.join(DEADLINE)
            if news.is_alive() or queue._events.missed:
                self._complain(
                    "The subscriber did not hear of everything; the machine is too slow."
                )

    def _compare(self, metrics: Metrics, *, drained: bool) -> None:
        """The file, the metrics and the ledger say the same of an epoch that has ended."""
        file = self._file()
        for sentence in miscounts(metrics, None):
            self._complain(sentence)
        waiting = [job_id for job_id, status in file.items() if not status.ended]
        for job_id in waiting if drained else ():
            if file[job_id] is not Status.SCHEDULED:
                self._complain(f"close ran all that waited, but job {job_id} is {file[job_id]}.")
        here = Counter(file.values())
        heard = self.ledger.counts - self._counted
        for status in Status:
            if status in (Status.COMPLETED, Status.CANCELLED, Status.DROPPED):
                # Those that the history has let go of stay counted.
                expected = self._found[status] + heard[status.value]
            else:
                expected = here[status]
            counted = getattr(metrics, status.value)
            if counted != expected:
                self._complain(f"metrics: {counted} {status}, but there were {expected}.")
        self.ledger.compare(file, killed=False)
        self._look_for_trouble()

    def _file(self) -> dict[str, Status]:
        """What the file says, while no queue has it."""
        if not os.path.exists(self._path):
            return {}
        return {job_id: Status(status) for job_id, status in in_file(self._path, "id, status")}

    def _forgotten(self) -> Counter[Status]:
        """What it has counted of those that the history has let go of."""
        if not os.path.exists(self._path):
            return Counter()
        with contextlib.closing(sqlite3.connect(self._path)) as file:
            rows = file.execute("SELECT status, sum(count) FROM forgotten GROUP BY status")
            return Counter({Status(status): count for status, count in rows})

    def _epoch_seconds(self) -> float:
        return min(8.0, self.seconds / 8) * self._rng.uniform(0.5, 1.5)

    # ---- beside the epochs -------------------------------------------------------------------

    def _watch(self, show: Callable[[Soak], None]) -> None:
        """Once a second, in short runs more often: gauges, and do the metrics add up?"""
        before: dict[JobQueue, Metrics] = {}
        while not self._over.wait(min(1.0, self.seconds / 60)):
            is_open = self._path in self._queues
            now = {queue: queue.metrics() for queue in list(self._queues.values())}
            for queue, metrics in now.items():
                self.checks += 1
                for sentence in miscounts(metrics, before.get(queue)):
                    self._complain(sentence)
            before = now
            if is_open:  # a closed queue takes less, and would look like growth when it is opened
                self.samples.append(read_gauges(self._path))
            self._look_for_trouble()
            show(self)

    def _compute(self) -> None:
        """The second queue: squares from a process of its own, in the order of the numbers."""
        rng = random.Random(f"{self.seed}/computing")
        with JobQueue(
            square,
            path=self._computing_path,
            executor="process",
            workers=1,
            backoff=Backoff(base=0.01),
            history=500,
        ) as queue:
            self._queues[self._computing_path] = queue
            try:
                while not self._over.wait(0.25):
                    numbers = [rng.randrange(10_000) for _ in range(10)]
                    if list(queue.map(numbers, timeout=PATIENCE)) != [n * n for n in numbers]:
                        self._complain(f"The squares of {numbers} came back wrong.")
                    self.ledger.counts["squares"] += len(numbers)
            except QueueClosed:
                pass
            except Exception as error:
                self._complain(f"The computing queue met {type(error).__name__}: {error}")
            finally:
                del self._queues[self._computing_path]

    def _complain(self, sentence: str) -> None:
        self.ledger.complain(sentence)
        self._broken.set()

    def _look_for_trouble(self) -> None:
        if self.wrong:
            self._broken.set()


# ---- planted faults --------------------------------------------------------------------------


def hoard(what: Callable[[], object], a_second: float) -> contextlib.AbstractContextManager[object]:
    """The workers leave so many things behind in each second, and never let go of them."""
    attempt, kept, began = WorkerPool._attempt, list[object](), time.monotonic()

    def leaking(*arguments: Any) -> Any:
        while len(kept) < (time.monotonic() - began) * a_second:
            kept.append(what())
        return attempt(*arguments)

    return mock.patch.object(WorkerPool, "_attempt", leaking)


def waiting_thread() -> threading.Thread:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    return thread


def every_hundredth(owner: type, method: str) -> contextlib.AbstractContextManager[object]:
    """Every hundredth call of this method does nothing."""
    plain, numbers = getattr(owner, method), itertools.count(1)

    def forgetful(*arguments: Any) -> Any:
        return plain(*arguments) if next(numbers) % 100 else None

    return mock.patch.object(owner, method, forgetful)


def forgotten_on_arrival() -> contextlib.AbstractContextManager[object]:
    """Every hundredth job that comes to wait is not known to wait, and nobody misses it."""
    arrive, numbers = Index.arrive, itertools.count(1)

    def forgetful(index: Index, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if next(numbers) % 100:
                arrive(index, [task])
            else:
                index.count[task.status] -= 1

    return mock.patch.object(Index, "arrive", forgetful)


FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "memory": lambda: hoard(lambda: os.urandom(1_000_000), a_second=5),
    "threads": lambda: hoard(waiting_thread, a_second=2),
    "handles": lambda: hoard(lambda: os.open(os.devnull, os.O_RDONLY), a_second=2),
    "miscount": lambda: every_hundredth(Recorder, "moved"),
    "lost": forgotten_on_arrival,
}


# ---- the program ------------------------------------------------------------------------------


def main() -> int:
    seconds = 60 * choices.number("MINUTES", 1, least=0.02)
    fault = choices.fault(FAULTS)
    seed = os.environ.get("SEED") or str(random.randrange(1_000_000))
    console = terminal()
    console.print(f"  Seed {seed}: SEED={seed} offers the same jobs again.")
    planted = FAULTS[fault]() if fault else contextlib.nullcontext()
    # On the disk that this repository is on: /tmp is often no disk at all.
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build", prefix="soak-") as folder, planted:
        soak = Soak(seconds, seed, Path(folder))
        with quiet(), Progress(console) as progress:
            soak.run(progress.show)
    report(console, soak)
    return 1 if soak.wrong else 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Jobs fail by the thousand, on purpose: no warning for each."""
    log = logging.getLogger("final")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


if __name__ == "__main__":  # the process that computes imports this file too
    sys.exit(main())
