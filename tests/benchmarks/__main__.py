"""What is measured, in which order, and against which goals: ``make bench``.

    python -m tests.benchmarks                  all of it, about four minutes
    python -m tests.benchmarks latency memory   only these; the page is left alone
    SIZE=full python -m tests.benchmarks        longer: 2,000,000 jobs, 1,000,000 rows

Everything happens in this process. Close what else runs on the machine before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from tests.benchmarks import machine, ours, plots, report
from tests.benchmarks.floor import Floor
from tests.benchmarks.machine import Machine
from tests.benchmarks.measure import (
    SIZES,
    Contender,
    Series,
    Size,
    by_turns,
    chosen_size,
    compare,
    scratch,
    throughput,
)
from tests.benchmarks.ours import Final, Improved
from tests.benchmarks.peers import PlainQueue, ProcessPool, ThreadPool, peers
from tests.benchmarks.report import (
    Findings,
    Goal,
    Table,
    at_most,
    comparison,
    ms,
    rate,
    times,
)

# What a plot shows: points by the name of their line.
Curves = dict[str, list[tuple[float, float]]]


class Bench:
    """One run. Every measure is a method; its docstring is the note in the report."""

    def __init__(self, size: Size, here: Machine, images: Path | None) -> None:
        self.size = size
        self.here = here
        self.images = images
        # For what is looked at by its shape: a point of a curve needs fewer rounds.
        self.curve_size = replace(size, rounds=max(1, size.rounds // 2))

    # ---- throughput ------------------------------------------------------------------------

    def bulk(self) -> Findings:
        """No-op jobs end to end: one producer, batches of 500, four workers."""
        all_peers = peers()
        contenders = [Final(), Floor(), *all_peers, PlainQueue(), ThreadPool()]
        results = compare(contenders, self.size)
        full = results["final, full"].median
        table = comparison("Durable jobs in bulk", _note(self.bulk), contenders, results)
        sync = self.here.sync_seconds
        below_floor = full / results["raw SQLite, full"].median
        return Findings(
            [table],
            [
                _best_peer("in bulk", 25, full, all_peers, results, sync="full"),
                _best_peer("in bulk, any sync", None, full, all_peers, results),
                Goal(
                    "in bulk, of raw SQLite's speed",
                    ">= 0.7 x",
                    times(below_floor),
                    below_floor >= 0.7,
                ),
                Goal(
                    f"in bulk, where a sync takes under 0.5 ms (here {ms(sync)})",
                    ">= 80,000 jobs/s",
                    f"{rate(full)} jobs/s",
                    full >= 80_000 if sync < 0.0005 else None,
                ),
            ],
        )

    def single(self) -> Findings:
        """One job per enqueue; each is durable before the call returns. Peers with sync "full"."""
        found = Findings([])
        for producers, least in ((1, 1.5), (8, 3), (64, 5)):
            same_sync = [peer for peer in peers() if peer.sync == "full"]
            contenders = [Final(), *same_sync]
            results = compare(contenders, self.curve_size, batch=1, producers=producers)
            who = f"{producers} producer{'s' * (producers > 1)}"
            title = f"One job per enqueue, {who}"
            found.tables.append(comparison(title, _note(self.single), contenders, results))
            full = results["final, full"].median
            goal = _best_peer(f"one at a time, {who}", least, full, same_sync, results, sync="full")
            found.goals.append(goal)
        return found

    def persistence(self) -> Findings:
        """What the file costs: the bulk workload with it and without it."""
        contenders = [Final(in_memory=True), Final("normal"), Final("full")]
        results = compare(contenders, self.size)
        memory, normal, full = (results[each.name].median for each in contenders)
        return Findings(
            [comparison("A file against :memory:", _note(self.persistence), contenders, results)],
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
            [comparison("Stage 2 in memory", _note(self.improved), contenders, results)],
            [
                Goal(
                    "improved, of ThreadPoolExecutor's speed",
                    ">= 1.5 x",
                    times(ratio),
                    ratio >= 1.5,
                )
            ],
        )

    def batches(self) -> Findings:
        """One producer, four workers; how many jobs go into one enqueue_many."""
        contenders: list[Contender] = [Final(), Final("normal"), Final(in_memory=True)]
        contenders += [peer for peer in peers() if peer.name == "localqueue, full"]
        curves: Curves = {each.name: [] for each in contenders}
        rows = []
        for batch in (1, 4, 16, 64, 256, 1024):
            results = compare(contenders, self.curve_size, batch=batch)
            for contender in contenders:
                if results[contender.name]:
                    curves[contender.name].append((batch, results[contender.name].median))
            speeds = [_median(results[contender.name]) for contender in contenders]
            single = curves["final, full"][0][1]
            ratio = times(results["final, full"].median / single)
            rows.append([ratio, str(batch), *speeds])
        if self.images:
            plots.batch_sizes(self.images / "batch-sizes.svg", curves)
        columns = ["full, to 1 a call", "jobs per call", *curves]
        return Findings(
            [Table("Throughput against batch size", _note(self.batches), columns, rows)],
            plot="batch-sizes" if self.images else "",
        )

    # ---- latency ---------------------------------------------------------------------------

    def latency(self) -> Findings:
        """Jobs are offered in tens by the clock (an open loop), by four producers, full. The time
        of a job runs from the moment when the clock says that it is due, not from the call.
        """
        seconds = 4 * self.size.seconds
        at_goal = [ours.latency(10_000, seconds) for _ in range(self.curve_size.rounds + 1)]
        p50 = Series([each.p50 for each in at_goal]).median
        p99 = Series([each.p99 for each in at_goal]).median
        loads = (1_000, 2_000, 5_000, 10_000, 20_000, 40_000)
        measured = [ours.latency(load, 2 * self.size.seconds) for load in loads]
        if self.images:
            lines = {
                name: [(each.offered, getattr(each, name) * 1000) for each in measured]
                for name in ("p50", "p95", "p99")
            }
            plots.latencies(self.images / "latency.svg", lines)
        rows = [
            [times(e.reached / e.offered), rate(e.offered), ms(e.p50), ms(e.p95), ms(e.p99)]
            for e in measured
        ]
        columns = ["reached", "offered, jobs/s", "p50", "p95", "p99"]
        return Findings(
            [Table("Latency, enqueue to start", _note(self.latency), columns, rows)],
            [
                Goal("enqueue to start at 10,000 jobs/s, p50", "<= 1 ms", ms(p50), p50 <= 0.001),
                Goal("enqueue to start at 10,000 jobs/s, p99", "<= 5 ms", ms(p99), p99 <= 0.005),
            ],
            plot="latency" if self.images else "",
        )

    # ---- workers ---------------------------------------------------------------------------

    def workers(self) -> Findings:
        """Handlers that wait 10 ms, and handlers that compute for some; durable (full)."""
        waiting, share = self._waiting()
        computing, rows, speed_up = self._computing()
        if self.images:
            plots.workers(self.images / "workers.svg", waiting, computing)
        ideal = dict(waiting["ideal"])
        waits = [
            [times(speed / ideal[count]), f"{count:g}", rate(speed), rate(ideal[count])]
            for count, speed in waiting["final, full"]
        ]
        columns = ["of the ideal", "workers", "jobs/s", "ideal"]
        speeds = ["two against one", "", "jobs/s", "jobs/s with two"]
        return Findings(
            [
                Table("Handlers that wait", _note(self.workers), columns, waits),
                Table(
                    "Handlers that compute", _note(self.workers), ["two to one", "", "1", "2"], rows
                ),
            ],
            [
                Goal(
                    "100 workers, 10 ms handler, durable",
                    ">= 0.9 of ideal",
                    f"{share:.2f}",
                    share >= 0.9,
                ),
                Goal(
                    "two processes against one, computing",
                    ">= 1.8 x",
                    times(speed_up),
                    speed_up >= 1.8,
                ),
            ],
            plot="workers" if self.images else "",
        )

    def _waiting(self) -> tuple[Curves, float]:
        contenders: dict[str, Callable[[int], Contender]] = {
            "final, full": lambda n: Final(workers=n, handler=ours.wait_for_io),
            "ThreadPoolExecutor": lambda n: ThreadPool(n, ours.wait_for_io),
        }
        lines: Curves = {name: [] for name in [*contenders, "ideal"]}
        for count in (1, 4, 16, 64, 100):
            ideal = count / 0.01
            rounds = self.size.rounds if count == 100 else 1
            jobs = max(2 * count, int(ideal * 2 * self.size.seconds))
            runs = {
                name: partial(throughput, make(count), jobs) for name, make in contenders.items()
            }
            for name, series in by_turns(runs, rounds).items():
                lines[name].append((count, series.median))
            lines["ideal"].append((count, ideal))
        return lines, lines["final, full"][-1][1] / lines["ideal"][-1][1]

    def _computing(self) -> tuple[Curves, list[list[str]], float]:
        contenders: dict[str, Callable[[int], Contender]] = {
            "final, processes": lambda n: Final(
                workers=n, handler=ours.compute, executor="process"
            ),
            "final, threads": lambda n: Final(workers=n, handler=ours.compute),
            "ProcessPoolExecutor": lambda n: ProcessPool(n, ours.compute),
        }
        jobs = max(8, int(200 * self.size.seconds))
        runs = {
            f"{name} {count}": partial(throughput, make(count), jobs)
            for name, make in contenders.items()
            for count in (1, 2)
        }
        results = by_turns(runs, self.curve_size.rounds + 1)
        lines: Curves = {}
        rows = []
        for name in contenders:
            one, two = (results[f"{name} {count}"].median for count in (1, 2))
            lines[name] = [(1.0, one), (2.0, two)]
            rows.append([times(two / one), name, rate(one), rate(two)])
        one, two = (speed for _, speed in lines["final, processes"])
        return lines, rows, two / one

    # ---- memory ----------------------------------------------------------------------------

    def memory(self) -> Findings:
        """tracemalloc over waiting jobs; then the size of the process while jobs run and the
        oldest are pruned, after each twentieth of them.
        """
        each = ours.bytes_per_queued_job(self.size.queued)
        sizes = ours.memory_over_time(self.size.long_run)
        quarter, last = max(sizes[:6]), max(sizes[-5:])
        growth = last / quarter - 1
        jobs = f"{self.size.long_run:,} jobs"
        return Findings(
            [
                Table(
                    "Memory",
                    _note(self.memory),
                    ["end to first quarter", "", ""],
                    [
                        [
                            "",
                            f"a waiting job, of {self.size.queued:,}",
                            f"{each:,.0f} bytes + payload",
                        ],
                        [times(last / quarter), jobs, f"{quarter:.0f} MiB, then {last:.0f} MiB"],
                    ],
                )
            ],
            [
                Goal(
                    "memory per queued job beyond its payload",
                    "<= 1,024 bytes",
                    f"{each:,.0f}",
                    each <= 1024,
                ),
                Goal(
                    f"RSS flat over {jobs}",
                    "<= 5 % growth",
                    f"{growth * 100:.1f} %",
                    growth <= 0.05,
                ),
            ],
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
        ratio = speeds[-1] / speeds[0]
        if self.images:
            line = list(zip(map(float, counts), speeds, strict=True))
            plots.history(self.images / "history.svg", {"final, full": line})
        return Findings(
            [
                comparison(
                    "Throughput with finished jobs in the file",
                    _note(self.history),
                    contenders,
                    results,
                )
            ],
            [
                Goal(
                    f"{most:,} finished rows, of an empty file's speed",
                    ">= 0.9 x",
                    times(ratio),
                    ratio >= 0.9,
                )
            ],
            plot="history" if self.images else "",
        )

    def reopening(self) -> Findings:
        """Open a file with unfinished jobs: seconds from the call until the first handler starts.
        Then one worker runs them all, to see that none is lost and each lane is in order.
        """
        jobs = self.size.unfinished
        with scratch() as folder:
            ours.fill(folder / "filled.db", unfinished=jobs)
            opened = [
                ours.reopen(folder / "filled.db", jobs) for _ in range(self.curve_size.rounds)
            ]
        seconds = Series([each.seconds for each in opened]).median
        sound = all(each.ran == jobs and each.in_order for each in opened)
        took = f"{seconds:.2f} s"
        outcome = "all ran, in order" if sound else "lost or reordered"
        rows = [[times(seconds / 2), f"{jobs:,} jobs", took, outcome]]
        columns = ["of 2 s", "unfinished", "first start", ""]
        return Findings(
            [Table("Opening a file again", _note(self.reopening), columns, rows)],
            [
                Goal(
                    f"reopening, {jobs:,} unfinished jobs", "< 2 s", f"{seconds:.2f} s", seconds < 2
                ),
                Goal("reopening: no job lost or reordered", "none", what, sound),
            ],
        )


# In the order of the report. Memory is measured first all the same: later the process is
# large anyway, and would not show what it gains.
MEASURES = {
    "bulk": Bench.bulk,
    "single": Bench.single,
    "persistence": Bench.persistence,
    "batches": Bench.batches,
    "latency": Bench.latency,
    "workers": Bench.workers,
    "improved": Bench.improved,
    "memory": Bench.memory,
    "history": Bench.history,
    "reopening": Bench.reopening,
}


def run(size: str, names: list[str], docs: Path | None, console: Console) -> list[Findings]:
    """Measure, show each table as it comes, the goals at the end; write the page into ``docs``."""
    began = time.monotonic()
    here = machine.look()
    report.show_machine(console, here)
    if docs and not plots.is_possible():
        console.print("  matplotlib is not installed: no pictures this time.")
    images = docs / "img" if docs and plots.is_possible() else None
    bench = Bench(SIZES[size], here, images)
    found: dict[str, Findings] = {}
    for count, name in enumerate(sorted(names, key=lambda name: name != "memory"), start=1):
        with report.progress(console, f"{count} of {len(names)}: {name}"):
            found[name] = MEASURES[name](bench)
        for table in found[name].tables:
            report.show(console, table)
    findings = [found[name] for name in MEASURES if name in found]
    report.show_goals(console, [goal for each in findings for goal in each.goals])
    console.print(f"  {time.monotonic() - began:.0f} seconds in all.")
    if docs:
        page = report.write(docs, here, size, _versions(), findings)
        console.print(f"  Written: {page}")
    return findings


def _note(measure: Callable[[], Findings]) -> str:
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


def _computing(executor: Literal["thread", "process"], workers: int) -> Contender:
    return Final(workers=workers, handler=ours.compute, executor=executor)


def _median(series: Series) -> str:
    return rate(series.median) if series else ""


def _versions() -> list[str]:
    """Of the peers that are installed."""
    return sorted({f"{peer.package} {peer.version}" for peer in peers() if not peer.missing()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=DESCRIPTION)
    parser.add_argument("measures", nargs="*", choices=[*MEASURES, []], help="only these")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    arguments = parser.parse_args()
    names = arguments.measures or list(MEASURES)
    docs = arguments.docs if len(names) == len(MEASURES) else None
    run(chosen_size(), names, docs, Console(highlight=False))


DESCRIPTION = "How fast the three stages and their peers are, side by side. SIZE=full takes longer."

if __name__ == "__main__":  # the processes that it starts import this file too
    main()
