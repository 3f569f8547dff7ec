"""How to measure: contenders by turns, several rounds, medians, ratios within one run.

A machine is never the same twice: other programs come and go, disks have moods. So nothing
is compared with a figure from another day. Contenders take turns (A B C A B C), so that a
bad minute hits all of them, and what counts is the ratio of their medians.

But: no statistics beyond median, smallest and largest. A difference of a few percent is noise.
"""

from __future__ import annotations

import importlib
import itertools
import os
import statistics
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

WORKERS = 4
BATCH = 500

# A contender that has not finished by then never will; the run goes on without it.
PATIENCE_SECONDS = 120.0


def say_nothing(text: str) -> None:
    pass


# Called between measurements with what comes next; report.py draws it.
announce: Callable[[str], None] = say_nothing


@dataclass(frozen=True)
class Size:
    """How much is measured. ``SIZE=tiny`` is for tests of the benchmarks themselves.

    rounds: of each comparison. seconds: what one contender takes in one round, about.
    least_jobs: what one contender does in one round, at least.
    queued: jobs that wait while their memory is looked at. long_run: jobs of the long run.
    history: rows of finished jobs. unfinished: jobs in the file that is opened again.
    shared: jobs of a round of several processes on a database.
    """

    rounds: int
    seconds: float
    least_jobs: int
    queued: int
    long_run: int
    history: int
    unfinished: int
    shared: int


SIZES = {
    "tiny": Size(1, 0.01, 50, 500, 2_000, 1_000, 500, 40),
    "normal": Size(5, 0.5, 500, 20_000, 200_000, 200_000, 100_000, 20_000),
    "full": Size(5, 1.0, 500, 100_000, 2_000_000, 1_000_000, 100_000, 100_000),
}


def chosen_size() -> str:
    """The name in the environment's SIZE, "normal" by default."""
    name = os.environ.get("SIZE", "normal")
    if name not in SIZES:
        raise SystemExit(f"SIZE is one of {', '.join(SIZES)}, not {name!r}.")
    return name


class Run(NamedTuple):
    """rate: jobs per second. cpu: seconds of CPU a job, of all threads of this process."""

    rate: float
    cpu: float


@dataclass
class Series:
    """What the rounds of one contender gave; ``failure`` says why there are none.

    values: mostly jobs per second. cpus: seconds of CPU a job, where that was measured. It is
    steadier than a rate: it hardly depends on what else the machine does.
    """

    values: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpus)

    def __bool__(self) -> bool:
        return bool(self.values) and not self.failure


def why_missing(module: str) -> str:
    """Why a package cannot take part; "" when it can."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"not installed ({error}): pip install -e '.[bench]'"
    return ""


class Contender(ABC):
    """A queue that can be measured: some jobs go in, and all are handled and recorded.

    name: as in the tables. sync: what SQLite's ``synchronous`` is set to, "" without SQLite.
    """

    name = ""
    sync = ""

    def missing(self) -> str:
        """Why it cannot take part; "" when it can."""
        return ""

    @abstractmethod
    def start(self, folder: Path, jobs: int) -> None:
        """Open in this empty folder, with its workers; ``jobs`` will come."""

    @abstractmethod
    def put(self, payloads: Sequence[str]) -> None:
        """Put jobs in, by its bulk call if it has one; returns when they are committed."""

    @abstractmethod
    def wait(self) -> None:
        """Return when all jobs have been handled and, where it does that, recorded."""

    @abstractmethod
    def stop(self) -> None:
        """Let go of threads and files."""


def throughput(contender: Contender, jobs: int, batch: int = BATCH, producers: int = 1) -> Run:
    """From the first ``put`` until the last job is handled and recorded."""
    announce(f"{contender.name}: {jobs:,} jobs, {batch} at a time, {producers} at once")
    payloads = [f"{number:016d}" for number in range(jobs)]

    def produce(share: Sequence[str]) -> None:
        for start in range(0, len(share), batch):
            contender.put(share[start : start + batch])

    with scratch() as folder:
        contender.start(folder, jobs)
        try:
            began, used = time.perf_counter(), time.process_time()
            run_side_by_side(produce, [payloads[number::producers] for number in range(producers)])
            contender.wait()
            seconds = time.perf_counter() - began
            return Run(jobs / seconds, (time.process_time() - used) / jobs)
        finally:
            contender.stop()


def run_side_by_side(produce: Callable[[Sequence[T]], None], shares: list[Sequence[T]]) -> None:
    """Each share in a thread of its own; raises what the first of them raised."""
    if len(shares) == 1:
        produce(shares[0])
        return
    with ThreadPoolExecutor(len(shares)) as threads:
        for future in [threads.submit(produce, share) for share in shares]:
            future.result()


def compare(
    contenders: Iterable[Contender], size: Size, batch: int = BATCH, producers: int = 1
) -> dict[str, Series]:
    """The throughput of each, by turns; a contender that fails says so and drops out."""
    runs = {}
    results: dict[str, Series] = {}
    for contender in contenders:
        results[contender.name] = series = Series(failure=contender.missing())
        if not series.failure:
            runs[contender.name] = _sized(contender, size, batch, producers, results)
    for name in turns(list(runs), size.rounds):
        if not results[name].failure:
            _try(runs[name], results[name])
    return results


def _sized(
    contender: Contender, size: Size, batch: int, producers: int, results: dict[str, Series]
) -> Callable[[], Run]:
    """One round of this contender, with as many jobs as take about ``size.seconds``.

    How many that are, a few trial rounds show, which also warm it up. They do not count.
    """
    jobs = max(size.least_jobs, producers)
    trial = Series()
    while _try(partial(throughput, contender, jobs, batch, producers), trial):
        rate = trial.values[-1]
        if jobs / rate >= size.seconds / 4:
            jobs = max(jobs, int(rate * size.seconds))
            break
        jobs *= 4
    results[contender.name].failure = trial.failure
    return partial(throughput, contender, jobs, batch, producers)


def _try(measure: Callable[[], Run], series: Series) -> bool:
    try:
        run = measure()
        series.values.append(run.rate)
        series.cpus.append(run.cpu)
    except Exception as error:  # a peer may raise anything, and the others go on
        series.failure = f"{type(error).__name__}: {error}"
    return not series.failure


def by_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Series]:
    """As ``compare``, for measures of any kind. What fails here is ours, so it raises."""
    results = {name: Series() for name in measures}
    for name in turns(list(measures), rounds):
        results[name].values.append(measures[name]())
    return results


def turns(names: list[str], rounds: int) -> Iterator[str]:
    """Each round begins with another one: a machine that has just rested is quicker."""
    order = deque(names)
    for _ in range(rounds):
        yield from order
        order.rotate(-1)


class Countdown:
    """Waits until a number of calls have been made, from whichever threads."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._numbers = itertools.count(1)  # next() is atomic, += 1 is not
        self._done = threading.Event()

    def __call__(self) -> None:
        if next(self._numbers) == self._calls:
            self._done.set()

    def wait(self) -> None:
        if not self._done.wait(PATIENCE_SECONDS):
            made = next(self._numbers) - 1
            raise TimeoutError(f"{made} of {self._calls} jobs after {PATIENCE_SECONDS:g} s")


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder on the disk that this repository is on: /tmp is often no disk at all."""
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build", prefix="bench-") as folder:
        yield Path(folder)


def percentile(samples: Sequence[float], percent: float) -> float:
    """By nearest rank."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
