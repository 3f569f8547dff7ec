"""What is measured of the queues, and what is asked of it: a method for each row of goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from final import Job
from tests.benchmarks import growth, ours, plots
from tests.benchmarks.floor import FileAlone, Statements
from tests.benchmarks.machine import Machine
from tests.benchmarks.measure import (
    Contender,
    Series,
    Size,
    by_turns,
    compare,
    scratch,
    throughput,
)
from tests.benchmarks.ours import Final, Improved, compute
from tests.benchmarks.peers import PlainQueue, ProcessPool, ThreadPool, peers
from tests.benchmarks.profile import COLUMNS, THREADS, watched
from tests.benchmarks.report import (
    Findings,
    Goal,
    Table,
    at_least,
    at_most,
    comparison,
    micros,
    ms,
    rate,
    times,
)

# What a plot shows: points by the name of their line.
Lines = dict[str, list[tuple[float, float]]]


class Measures:
    """A method for each; its docstring is the note in the report. images: where plots go."""

    def __init__(self, size: Size, here: Machine, images: Path | None) -> None:
        self.size = size
        self.here = here
        self.images = images
        # For what has many points, of which each needs fewer rounds.
        self.few = replace(size, rounds=-(-size.rounds // 2))
        self._bulk_rate = 0.0  # once it is known

    # ---- throughput ------------------------------------------------------------------------

    def bulk(self) -> Findings:
        """No-op jobs end to end: one producer, batches of 500, four workers."""
        all_peers = peers()
        contenders = [Final(), FileAlone(), Statements(), *all_peers, PlainQueue(), ThreadPool()]
        results = compare(contenders, self.size)
        full, statements = results["final, full"], results[contenders[2].name]
        table = comparison("Durable jobs in bulk", note(self.bulk), contenders, results)
        self._bulk_rate = full.median
        sync = self.here.sync_seconds
        against_floor = full.median / results[contenders[1].name].median
        cpu = full.cpu / statements.cpu
        return Findings(
            [table],
            [
                _best_peer("in bulk", 20, full.median, all_peers, results, sync="full"),
                _best_peer("in bulk, any sync", None, full.median, all_peers, results),
                Goal("in bulk, CPU of its statements alone", "<= 2.6 x", times(cpu), cpu <= 2.6),
                at_least("in bulk, against raw SQLite (its file alone)", against_floor, 0.7),
                Goal(
                    f"in bulk, where a sync takes under 0.5 ms (here {ms(sync)})",
                    ">= 80,000 jobs/s",
                    f"{rate(full.median)} jobs/s",
                    full.median >= 80_000 if sync < 0.0005 else None,
                ),
            ],
        )

    def profile(self) -> Findings:
        """The bulk workload, with stopwatches at the doors between the rooms: microseconds a job.
        It is why the goals for CPU and against raw SQLite are not met: beside its statements a
        job is made, checked, put into its lane, picked, handed over, counted, and told to those
        who wait. All that is Python, and has one lock.
        """
        jobs = self.size.long_run // 2
        found = watched(jobs, lambda: throughput(Final(), jobs).rate)
        rows = [row for thread in THREADS for row in found.rows(thread)]
        inside = f"{micros(found.in_sqlite)} of {micros(found.cpu)}"
        return Findings(
            [Table("Where the time of a bulk job goes", note(self.profile), COLUMNS, rows)],
            [Goal("in bulk, CPU a job inside SQLite, with stopwatches", "reported", inside, None)],
        )

    def single(self) -> Findings:
        """Each job is durable before its call returns; peers with sync "full". The goals are
        against those that keep a job until it is done: an acknowledgement is a commit more.
        """
        found = Findings([])
        for producers, least in ((1, 1), (8, 3), (64, 5)):
            same_sync = [peer for peer in peers() if peer.sync == "full"]
            equals = [peer for peer in same_sync if peer.acknowledges]
            contenders = [Final(), *same_sync]
            results = compare(contenders, self.few, batch=1, producers=producers)
            who = f"{producers} producer{'s' * (producers > 1)}"
            title = f"One job per enqueue, {who}"
            found.tables.append(comparison(title, note(self.single), contenders, results))
            full = results["final, full"].median
            found.goals.append(_best_peer(f"one at a time, {who}", least, full, equals, results))
        return found

    def persistence(self) -> Findings:
        """What the file costs: the bulk workload with it and without it."""
        contenders = [Final(in_memory=True), Final("normal"), Final("full")]
        results = compare(contenders, self.size)
        memory, normal, full = (results[each.name].median for each in contenders)
        return Findings(
            [comparison("A file against :memory:", note(self.persistence), contenders, results)],
            [
                Goal("in bulk, normal against full", "reported", times(normal / full), None),
                *(
                    at_most(f"in bulk, time that the file adds, {name}", memory / speed - 1, most)
                    for name, speed, most in (("normal", normal, 0.10), ("full", full, 0.25))
                ),
            ],
        )

    def improved(self) -> Findings:
        """No-op jobs in memory, one producer, four workers, one job at a time."""
        contenders = [Improved(), ThreadPool(), PlainQueue()]
        results = compare(contenders, self.size)
        ratio = results["improved"].median / results[contenders[1].name].median
        return Findings(
            [comparison("Stage 2 in memory", note(self.improved), contenders, results)],
            [at_least("improved, against ThreadPoolExecutor", ratio, 1.5)],
        )

    def batches(self) -> Findings:
        """One producer, four workers; how many jobs go into one enqueue_many."""
        contenders: list[Contender] = [Final(), Final("normal"), Final(in_memory=True)]
        contenders += [peer for peer in peers() if peer.name == "localqueue, full"]
        lines: Lines = {each.name: [] for each in contenders}
        rows = []
        for batch in (1, 4, 16, 64, 256, 1024):
            results = compare(contenders, self.few, batch=batch)
            for contender in contenders:
                if results[contender.name]:
                    lines[contender.name].append((batch, results[contender.name].median))
            speeds = [_median(results[contender.name]) for contender in contenders]
            single = lines["final, full"][0][1]
            ratio = times(results["final, full"].median / single)
            rows.append([ratio, str(batch), *speeds])
        columns = ["full, to 1 a call", "jobs per call", *lines]
        return Findings(
            [Table("Throughput against batch size", note(self.batches), columns, rows)],
            plot=self._plot("batch-sizes", lambda path: plots.batch_sizes(path, lines)),
        )

    def company(self) -> Findings:
        """The bulk workload as it is, with a time-out for every job, and beside a kind with a
        coroutine handler, which never comes: batches are to go on.
        """

        async def unused(job: Job) -> None: ...

        contenders = [Final(), Final(timeout=30.0), Final(handler={"default": _noop, "u": unused})]
        for contender, what in zip(contenders, ("as it is", "timeout=30", "async"), strict=True):
            contender.name = f"final, {what}"
        results = compare(contenders, self.size)
        plain, *others = [results[each.name].median for each in contenders]
        return Findings(
            [comparison("Batches in company", note(self.company), contenders, results)],
            [
                at_least(f"in bulk, {each.name}, against without", speed / plain, 0.9)
                for each, speed in zip(contenders[1:], others, strict=True)
            ],
        )

    # ---- latency ---------------------------------------------------------------------------

    def latency(self) -> Findings:
        """Jobs are offered in tens by the clock (an open loop), by four producers, full. The time
        of a job runs from the moment when the clock says that it is due, not from the call.
        """
        seconds = 4 * self.size.seconds
        half = (self._bulk_rate or throughput(Final(), self.size.least_jobs).rate) / 2
        at_half = [ours.latency(half, seconds).p99 for _ in range(self.few.rounds)]
        p99_at_half = Series(at_half).median
        at_goal = [ours.latency(10_000, seconds) for _ in range(self.few.rounds)]
        # One of the rounds, so that the goals and the row of the table tell of the same one.
        typical = sorted(at_goal, key=lambda each: each.p99)[len(at_goal) // 2]
        p50, p99 = typical.p50, typical.p99
        loads = (1_000, 2_000, 5_000, 10_000, 20_000, 40_000)
        measured = [
            typical if load == 10_000 else ours.latency(load, 2 * self.size.seconds)
            for load in loads
        ]
        lines = {
            name: [(each.offered, getattr(each, name) * 1000) for each in measured]
            for name in ("p50", "p95", "p99")
        }
        rows = [
            [times(e.reached / e.offered), rate(e.offered), ms(e.p50), ms(e.p95), ms(e.p99)]
            for e in measured
        ]
        columns = ["reached", "offered, jobs/s", "p50", "p95", "p99"]
        return Findings(
            [Table("Latency, enqueue to start", note(self.latency), columns, rows)],
            [
                Goal("enqueue to start at 10,000 jobs/s, p50", "<= 1 ms", ms(p50), p50 <= 0.001),
                Goal("enqueue to start at 10,000 jobs/s, p99", "<= 5 ms", ms(p99), p99 <= 0.005),
                Goal(
                    f"enqueue to start at half the bulk rate ({rate(half)} jobs/s), p99",
                    "<= 10 ms",
                    ms(p99_at_half),
                    p99_at_half <= 0.010,
                ),
            ],
            plot=self._plot("latency", lambda path: plots.latencies(path, lines)),
        )

    def looking(self) -> Findings:
        """An enqueue after the other, alone, and beside four threads that read records of a long
        file without a pause.
        """
        found = ours.looking(self.size.history, calls=max(20, int(200 * self.size.seconds)))
        ratio = found.beside / found.alone
        columns = ["to alone", "rows", "alone", f"beside {ours.READERS} readers"]
        row = [times(ratio), f"{self.size.history:,}", ms(found.alone), ms(found.beside)]
        return Findings(
            [Table("Enqueue beside readers", note(self.looking), columns, [row])],
            [
                Goal(
                    "an enqueue beside four readers, median, against alone",
                    "<= 1.5 x",
                    times(ratio),
                    ratio <= 1.5,
                )
            ],
        )

    # ---- workers ---------------------------------------------------------------------------

    def waiting(self) -> Findings:
        """Handlers that wait 10 ms, as for a server; durable (full). The ideal: workers / 10 ms."""
        contenders: dict[str, Callable[[int], Contender]] = {
            "final, full": lambda count: Final(workers=count, handler=ours.wait_for_io),
            "ThreadPoolExecutor": lambda count: ThreadPool(count, ours.wait_for_io),
        }
        lines: Lines = {name: [] for name in ("ideal", *contenders)}
        rows = []
        for count in (1, 4, 16, 64, 100):
            ideal = count / 0.01
            jobs = max(2 * count, int(2 * self.size.seconds * ideal))
            runs = {name: _throughput(make(count), jobs) for name, make in contenders.items()}
            rounds = self.size.rounds if count == 100 else 1
            speeds = {name: runs.median for name, runs in by_turns(runs, rounds).items()}
            for name, speed in ({"ideal": ideal} | speeds).items():
                lines[name].append((count, speed))
            share = speeds["final, full"] / ideal
            against_pool = speeds["final, full"] / speeds["ThreadPoolExecutor"]
            rows.append([times(share), f"{count}", *map(rate, speeds.values())])
        columns = ["of the ideal", "workers", *contenders]
        return Findings(
            [Table("Handlers that wait", note(self.waiting), columns, rows)],
            [
                at_least("100 workers, 10 ms handler, full, against the ideal", share, 0.9),
                at_least("100 workers, against ThreadPoolExecutor", against_pool, 1),
            ],
            self._plot("waiting", lambda path: plots.waiting(path, lines)),
        )

    def computing(self) -> Findings:
        """Handlers that compute for some milliseconds of plain Python; durable (full)."""
        contenders: dict[str, Callable[[int], Contender]] = {
            "final, processes": lambda n: Final(workers=n, handler=compute, executor="process"),
            "final, threads": lambda n: Final(workers=n, handler=compute),
            "ProcessPoolExecutor": lambda n: ProcessPool(n, compute),
        }
        counts = (1, 2, 4)
        jobs = max(8, int(200 * self.size.seconds))
        runs = {
            f"{name} {count}": _throughput(make(count), jobs)
            for name, make in contenders.items()
            for count in counts
        }
        results = by_turns(runs, self.few.rounds)
        speeds = {
            name: [results[f"{name} {count}"].median for count in counts] for name in contenders
        }
        ratios = {name: two / one for name, (one, two, _) in speeds.items()}
        rows = [[times(ratios[name]), name, *map(rate, speeds[name])] for name in contenders]
        columns = ["two to one", "jobs/s with", "1 worker", "2", "4"]
        lines = {name: list(zip(counts, speeds[name], strict=True)) for name in contenders}
        return Findings(
            [Table("Handlers that compute", note(self.computing), columns, rows)],
            [at_least("computing, two processes against one", ratios["final, processes"], 1.8)],
            self._plot("computing", lambda path: plots.computing(path, lines)),
        )

    # ---- memory ----------------------------------------------------------------------------

    def memory(self) -> Findings:
        """A waiting job, by tracemalloc; then the size of the process (RSS) during a long run in
        which the oldest jobs are pruned, in its first quarter and in its last.
        """
        each = ours.bytes_per_queued_job(self.size.queued)
        sizes = ours.memory_over_time(self.size.long_run)
        quarter = len(sizes) // 4
        first, last = max(sizes[:quarter]), max(sizes[-quarter:])
        jobs = f"{self.size.long_run:,} jobs"
        rows = [
            ["", f"a waiting job, of {self.size.queued:,}", f"{each:,.0f} bytes and its payload"],
            [times(last / first), jobs, f"{first:.0f} MiB at first, {last:.0f} MiB at last"],
        ]
        return Findings(
            [Table("Memory", note(self.memory), ["last to first", "", ""], rows)],
            [
                Goal(
                    "memory of a waiting job beyond its payload",
                    "<= 1,024 bytes",
                    f"{each:,.0f} bytes",
                    each <= 1024,
                ),
                at_most(f"growth of the process over {jobs}", last / first - 1, 0.05),
            ],
        )

    def growth(self) -> Findings:
        """What a call takes, the median, with so many jobs completed, as many dead letters, as
        many scheduled, and as many held back by the limit of their kind. Durability normal.
        """
        sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= self.size.history]
        found = [growth.costs(size) for size in sizes]
        worst = 0.0
        rows = []
        for name, first in found[0].items():
            ratio = found[-1][name] / first
            worst = max(worst, ratio)
            rows.append([times(ratio), name, *[micros(each[name]) for each in found]])
        more = sizes[-1] // sizes[0]
        columns = ["last to first", "jobs of each state", *[f"{size:,}" for size in sizes]]
        goal = f"the call that grows most, with {more:,} times as many jobs"
        return Findings(
            [Table("Cost against size", note(self.growth), columns, rows)],
            [Goal(goal, "<= 3 x", times(worst), worst <= 3)],
        )

    # ---- files with a past -----------------------------------------------------------------

    def history(self) -> Findings:
        """The bulk workload on an empty file, and on files with finished jobs in them."""
        most = self.size.history
        counts = [0, most // 100, most // 10, most]
        with scratch() as folder:
            contenders = []
            for count in counts:
                path = folder / f"{count}.db"
                ours.fill(path, finished=count)
                contenders.append(Final(filled=path))
                contenders[-1].name = f"{count:,} rows"
            results = compare(contenders, self.size)
        speeds = [results[each.name].median for each in contenders]
        line = list(zip(counts, speeds, strict=True))
        title = "Throughput with finished jobs in the file"
        what = f"in bulk with {most:,} finished rows, against an empty file"
        return Findings(
            [comparison(title, note(self.history), contenders, results)],
            [at_least(what, speeds[-1] / speeds[0], 0.9)],
            self._plot("history", lambda path: plots.history(path, line)),
        )

    def reopening(self) -> Findings:
        """Open a file with unfinished jobs: seconds from the call until the first handler starts.
        Then one worker runs them all, to see that none is lost and each lane is in order.
        """
        jobs = self.size.unfinished
        with scratch() as folder:
            filled = folder / "filled.db"
            ours.fill(filled, unfinished=jobs)
            opened = [ours.reopen(filled, jobs) for _ in range(self.few.rounds)]
        seconds = Series([each.seconds for each in opened]).median
        sound = all(each.ran == jobs and each.in_order for each in opened)
        took = f"{seconds:.2f} s"
        outcome = "all ran, in order" if sound else "lost or reordered"
        columns = ["of 2 s", "unfinished", "first start", ""]
        rows = [[times(seconds / 2), f"{jobs:,} jobs", took, outcome]]
        return Findings(
            [Table("Opening a file again", note(self.reopening), columns, rows)],
            [
                Goal(f"reopening, {jobs:,} unfinished jobs", "< 2 s", took, seconds < 2),
                Goal("reopening: no job lost or reordered", "none", outcome, sound),
            ],
        )

    def _plot(self, name: str, draw: Callable[[Path], None]) -> str:
        """Draw it, if there is where to and what with; returns its name, or "" without."""
        if self.images is None:
            return ""
        draw(self.images / f"{name}.svg")
        return name


def _noop(job: Job) -> None: ...


def note(measure: Callable[[], Findings]) -> str:
    """The docstring of a measure, as one line."""
    return " ".join((measure.__doc__ or "").split())


def _best_peer(
    what: str,
    least: float | None,
    ours: float,
    peers: Sequence[Contender],
    results: dict[str, Series],
    sync: str | None = None,
) -> Goal:
    """The goal that ``ours`` is at least so many times the best peer, of one sync or of all."""
    speeds = {
        peer.name: results[peer.name].median
        for peer in peers
        if results[peer.name] and sync in (None, peer.sync)
    }
    goal = f">= {least} x" if least else "reported"
    if not speeds:
        return Goal(f"{what}, against the best peer", goal, "no peer is installed", None)
    best = max(speeds, key=lambda name: speeds[name])
    ratio = ours / speeds[best]
    met = ratio >= least if least else None
    return Goal(f"{what}, against {best}", goal, times(ratio), met)


def _throughput(contender: Contender, jobs: int) -> Callable[[], float]:
    return lambda: throughput(contender, jobs).rate


def _median(series: Series) -> str:
    return rate(series.median) if series else ""
