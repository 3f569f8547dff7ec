"""Fairness lab: HIGH never runs dry. How long does the head of LOW's lane wait?

    python -m tests.labs.fairness                   improved beside final, 2,400 picks each
    python -m tests.labs.fairness --plant off       final without fairness: the lab must object
    python -m tests.labs.fairness --pictures FOLDER also draw who ran when, as SVG

"Urgent first" sounds right, and means "the rest never" as soon as urgent jobs come as fast as
they are handled. The lab makes that so: a producer for each lane keeps it from running empty
while one worker serves them all. Then it counts, in picks, how long the job at the head of
each lane waited. A wait in seconds depends on the handlers; a wait in picks is a property of
the queue, and so it can be promised: with ``fairness=10`` at most 12.

Predict before you run: with all lanes full, what share of the picks does LOW get?

But: one worker, because with several the order in which handlers start is not quite the order
of the picks. That the bound holds for any arrivals is proven in tests/final/test_lanes.py.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from final.job import Priority, Task
from final.lanes import Lanes
from tests.benchmarks import plots
from tests.benchmarks.report import terminal
from tests.helpers import DEADLINE, Gate
from tests.stages import Stage

HIGH, MEDIUM, LOW = LANES = tuple(Priority)
FAIRNESS = 10  # the default of ``final``
BOUND = FAIRNESS + 2  # picks from coming to the head of a lane until the start
ROUND = FAIRNESS + 2  # picks: 10 high, 1 medium, 1 low
CAPACITY = 50
WORK_SECONDS = 0.004


# ---- what is measured ------------------------------------------------------------------------


@dataclass(frozen=True)
class Pick:
    """A job that ran. Seconds count from the first pick.

    left: how many jobs the shortest lane held just then.
    """

    lane: Priority
    start: float
    end: float
    left: int


@dataclass(frozen=True)
class Wait:
    """How long the head of a lane waited. over: it did start within the run."""

    picks: int
    seconds: float
    over: bool


@dataclass(frozen=True)
class Run:
    """The picks of one run, in order."""

    name: str
    picks: list[Pick]

    def starts(self, lane: Priority) -> int:
        return sum(pick.lane is lane for pick in self.picks)

    def share(self, lane: Priority) -> float:
        return self.starts(lane) / len(self.picks)

    def longest_wait(self, lane: Priority) -> Wait:
        """The longest time that a job stood at the head of its lane, in picks.

        No lane is ever empty, so a job comes to the head when the one before it is picked. The
        last head may not have started: what it has waited so far counts, too.
        """
        since_pick, since = 0, 0.0
        waits = []
        for number, pick in enumerate(self.picks, start=1):
            if pick.lane is lane:
                waits.append(Wait(number - since_pick, pick.start - since, over=True))
                since_pick, since = number, pick.start
        still = len(self.picks) - since_pick
        waits.append(Wait(still, self.picks[-1].end - since, over=False))
        return max(waits, key=lambda wait: wait.picks)

    def shortest_lane(self) -> int:
        """How many jobs the shortest lane held at its emptiest."""
        return min(pick.left for pick in self.picks)


def objections(run: Run) -> list[str]:
    """What is wrong with this run, measured against what ``final`` promises; [] if nothing."""
    found = []
    if not run.shortest_lane():
        found.append(f"{run.name}: a lane ran empty, so this was no overload. Run it again.")
    for lane in LANES:
        wait = run.longest_wait(lane)
        if wait.picks > BOUND:
            so_far = "" if wait.over else ", and still did when the run ended"
            found.append(
                f"{run.name}: the head of {lane.name} waited {wait.picks:,} picks{so_far}; "
                f"the bound is {BOUND}."
            )
        # All lanes are full, so the rhythm is exact; only the last round may be cut short.
        of_a_round = FAIRNESS if lane is HIGH else 1
        fair = of_a_round * len(run.picks) / ROUND
        if abs(run.starts(lane) - fair) > of_a_round:
            found.append(
                f"{run.name}: {lane.name} got {run.starts(lane):,} of {len(run.picks):,} picks; "
                f"its share is {fair:,.0f}."
            )
    return found


# ---- the run ---------------------------------------------------------------------------------


def overload(stage_name: str, picks: int, folder: Path, **options: object) -> Run:
    """``picks`` jobs through one worker, with all three lanes full from the first to the last."""
    stage = Stage(stage_name, folder)
    gate, through, began = Gate(), threading.Event(), time.monotonic()
    log: list[Pick] = []

    def handler(job: Any) -> None:
        nonlocal began
        if job.payload == "opener":  # holds the worker until all lanes are full
            gate.wait()
            began = time.monotonic()
        elif not through.is_set():
            start = time.monotonic() - began
            left = min(lane.queued for lane in queue.metrics().by_priority.values())
            time.sleep(WORK_SECONDS)  # its work
            log.append(Pick(Priority(job.priority), start, time.monotonic() - began, left))
            if len(log) == picks:
                through.set()  # the rest is not measured, and takes no time

    def produce(lane: Priority) -> None:
        with contextlib.suppress(stage.QueueClosed):
            while not through.is_set():
                queue.enqueue(stage.job(payload="work", priority=lane.value))

    queue = stage.queue(handler, workers=1, capacity=CAPACITY, **options)
    queue.enqueue(stage.job(payload="opener", priority=HIGH.value))
    for lane in LANES:
        for _ in range(CAPACITY - 1):  # there is room for one more, should the opener still wait
            queue.enqueue(stage.job(payload="work", priority=lane.value))
    producers = [threading.Thread(target=produce, args=[lane], daemon=True) for lane in LANES]
    for producer in producers:
        producer.start()
    gate.open()
    finished = through.wait(DEADLINE + 20 * picks * WORK_SECONDS)
    through.set()
    stage.close_all()
    for producer in producers:
        producer.join(DEADLINE)
    if not finished:
        raise TimeoutError(f"{stage_name}: only {len(log):,} of {picks:,} jobs ran in time.")
    return Run(stage_name, log)


# ---- planted faults --------------------------------------------------------------------------


class NeverRefilled(Lanes):
    """The token rule, except that a lane which was served keeps its old count."""

    def pick(self) -> Task | None:
        counts = [lane.passed_over for lane in self._lanes]
        task = super().pick()
        for lane, count in zip(self._lanes, counts, strict=True):
            lane.passed_over = max(lane.passed_over, count)
        return task


def with_fault(fault: str, picks: int, folder: Path) -> Run:
    """A run of ``final`` with one of FAULTS in it."""
    if fault == "off":
        return overload("final", picks, folder, fairness=None)
    with mock.patch("final.job_queue.Lanes", NeverRefilled):
        return overload("final", picks, folder)


FAULTS = {
    "off": "fairness is switched off: strict priority",
    "never-refilled": "a lane that was served still counts as passed over",
}


# ---- the pictures ----------------------------------------------------------------------------


def gantt(path: Path, runs: list[Run]) -> None:
    """Who ran when: a row for each lane, one below the other, all with the same time axis."""
    window = max(run.picks[: 5 * ROUND][-1].end for run in runs)
    with _figure(path, len(runs)) as panels:
        for panel, run in zip(panels, runs, strict=True):
            for row, (lane, colour) in enumerate(zip(LANES, plots.COLOURS, strict=False)):
                panel.axhline(row, color="#bbbbbb", linewidth=1, zorder=1)  # jobs wait there
                bars = [
                    (pick.start * 1000, (pick.end - pick.start) * 1000)
                    for pick in run.picks
                    if pick.lane is lane and pick.start < window
                ]
                edges = {"edgecolor": "white", "linewidth": 0.5, "zorder": 2}
                panel.broken_barh(bars, (row - 0.35, 0.7), facecolor=colour, **edges)
                if not bars:
                    note = {"backgroundcolor": "white", "ha": "center", "va": "center"}
                    panel.text(window * 500, row, "waits, never starts", **note)
            panel.set(title=f"{run.name}: one worker, all lanes full", xlim=(0, window * 1000))
            panel.set_yticks(range(len(LANES)), [lane.name for lane in LANES])
            panel.set_ylim(len(LANES) - 0.4, -0.6)  # HIGH on top
            panel.grid(axis="y", visible=False)
        panels[-1].set_xlabel("milliseconds")


def waits(path: Path, runs: list[Run]) -> None:
    """How long the job at the head of LOW's lane has waited, as the run goes on."""
    with _figure(path, 1) as (panel,):
        styles = zip(plots.COLOURS[1::-1], plots.DASHES[1::-1], strict=True)
        for run, (colour, dash) in zip(runs, styles, strict=False):
            waited, line = 0, []
            for pick in run.picks[: 20 * ROUND]:  # more of them would run into one another
                waited += 1
                line.append(waited)
                waited = 0 if pick.lane is LOW else waited
            panel.plot(range(1, len(line) + 1), line, color=colour, linestyle=dash, label=run.name)
        panel.axhline(BOUND, color="black", linewidth=1, linestyle=":", label=f"{BOUND} picks")
        panel.set(title="How long the head of LOW has waited", yscale="log", xlim=(0, None))
        panel.set(xlabel="picks since the overload began", ylabel="picks it has waited")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        panel.legend(loc="upper left")


@contextlib.contextmanager
def _figure(path: Path, panels: int) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("svg")  # draws into files, also where there is no screen
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(plots.STYLE):
        height = 3.8 if panels == 1 else 0.5 + 1.9 * panels
        figure, axes = pyplot.subplots(panels, sharex=True, squeeze=False, figsize=(7, height))
        yield axes[:, 0]
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


# ---- the report ------------------------------------------------------------------------------


def table(runs: list[Run]) -> Table:
    """A row for each lane of each run."""
    grid = Table(box=box.SIMPLE_HEAD)
    for column in ("stage", "lane"):
        grid.add_column(column)
    for column in ("started", "share", "longest wait, in picks", "in seconds"):
        grid.add_column(column, justify="right")
    for run in runs:
        for lane in LANES:
            wait = run.longest_wait(lane)
            colour = "green" if wait.picks <= BOUND else "red"
            more = "" if wait.over else " or more"
            grid.add_row(
                run.name if lane is HIGH else "",
                lane.name,
                f"{run.starts(lane):,}",
                f"{run.share(lane):.1%}",
                Text(f"{wait.picks:,}{more}", colour),
                f"{wait.seconds:.3f}{more}",
            )
        grid.add_section()
    return grid


def report(console: Console, runs: list[Run]) -> bool:
    """Print what the runs show; whether ``final``, the last of them, keeps its promise."""
    console.print(table(runs))
    for run in runs[:-1]:
        if run.starts(LOW) == 0:
            console.print(f"  {run.name} starves LOW and MEDIUM, as its flaw I2 says.")
    wrong = objections(runs[-1])
    for sentence in wrong:
        console.print(Text(f"  {sentence}", "red"), soft_wrap=True)
    if not wrong:
        rhythm = f"{FAIRNESS} HIGH, 1 MEDIUM, 1 LOW"
        kept = f"final keeps its word: {rhythm}, and no head waits longer than {BOUND} picks."
        console.print(Text(f"  {kept}", "green"), soft_wrap=True)
    return not wrong


def draw(console: Console, folder: Path, runs: list[Run]) -> None:
    if not plots.is_possible():
        console.print("  No pictures: they need matplotlib, pip install -e '.[bench]'.")
        return
    for draw_one, name in ((gantt, "fairness-gantt.svg"), (waits, "fairness-waits.svg")):
        draw_one(folder / name, runs)
        console.print(f"  Written: {folder / name}", soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.labs.fairness",
        description="How long each lane waits while HIGH never runs empty.",
    )
    parser.add_argument("--picks", type=int, default=2_400, help="jobs in each run")
    parser.add_argument("--plant", choices=FAULTS, help="break final, to see the lab object")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw them as SVG")
    chosen = parser.parse_args(arguments)
    if chosen.picks < ROUND:
        parser.error(f"--picks must be at least {ROUND}, one round, not {chosen.picks}.")
    logging.disable()  # the runs are cut short, and improved warns of what it loses then
    console = terminal()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("improved", "final"):
            with console.status(f"{name}: {chosen.picks:,} picks with all lanes full"):
                if name == "final" and chosen.plant:
                    runs.append(with_fault(chosen.plant, chosen.picks, Path(folder)))
                else:
                    runs.append(overload(name, chosen.picks, Path(folder)))
    if chosen.plant:
        console.print(f"  Planted in final: {FAULTS[chosen.plant]}.")
    kept = report(console, runs)
    if chosen.pictures:
        draw(console, chosen.pictures, runs)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
