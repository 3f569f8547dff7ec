"""Fairness lab: HIGH never runs empty. How long does the head of LOW's lane wait?

Promised: while jobs wait in all lanes, ``final`` starts 10 HIGH, 1 MEDIUM, 1 LOW, and so on; a
job at the head of its lane starts within 12 picks. A wait in seconds depends on the handlers.
One in picks is a property of the queue, and so it can be promised.

How it is shown: a producer for each lane keeps it full while one worker serves them all. Each
pick is noted, and that no lane ran empty. Then the picks are counted.

What there is to see: ``improved`` serves the most urgent lane that has a job. That sounds
right, and means that LOW never runs as soon as urgent jobs come as fast as they are handled.

What a planted fault does: with FAULT=off LOW waits for ever in ``final`` too, and with
FAULT=never-refilled, where a lane that was served still counts as passed over, HIGH does.

    python -m tests.labs.fairness                      improved, then final: half a minute
    PICTURES=docs/img python -m tests.labs.fairness    also draw who ran when, as SVG

Predict before you run: what would ``final`` do if only LOW had jobs?

But: one worker, because with several the order in which handlers start is not quite the order
of the picks. That the bound holds for any arrivals is proven in tests/final/test_lanes.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from final.job import Priority, Task
from final.ledger.groups import GroupLanes
from final.ledger.lanes import Suits
from tests.benchmarks import plots
from tests.benchmarks.report import terminal
from tests.helpers import DEADLINE, Gate
from tests.labs import choices
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


def overload(
    stage_name: str, picks: int, folder: Path, advance: Callable[[], object] = lambda: None
) -> Run:
    """``picks`` jobs through one worker, with all three lanes full from the first to the last.

    advance: called after each.
    """
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
            advance()
            if len(log) == picks:
                through.set()  # the rest is not measured, and takes no time

    def produce(lane: Priority) -> None:
        with contextlib.suppress(stage.QueueClosed):
            while not through.is_set():
                queue.enqueue(stage.job(payload="work", priority=lane.value))

    queue = stage.queue(handler, workers=1, capacity=CAPACITY)
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


class NeverRefilled(GroupLanes):
    """The token rule, except that a lane which was served keeps its old count.

    And all forget who has gone before them, or that alone would keep it in its place.
    """

    def pick(self, suits: Suits | None = None) -> Task | None:
        before = self.standings()
        task = super().pick(suits)
        for lane, (count, _) in zip(self._lanes, before, strict=True):
            lane.passed_over = max(lane.passed_over, count)
            lane.overtaken = frozenset()
        return task


def planting(fault: str) -> contextlib.AbstractContextManager[object]:
    """Inside of this, ``final`` has one of FAULTS; "" for none."""
    lanes = {"": GroupLanes, "off": strict, "never-refilled": NeverRefilled}[fault]
    return mock.patch("final.ledger.index.GroupLanes", lanes)


def strict(capacity: int, fairness: int | None, *others: Any) -> GroupLanes:
    """Lanes that take no notice of their fairness."""
    return GroupLanes(capacity, None, *others)


FAULTS = {
    "off": "fairness does nothing, so priority is strict",
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
    for column in ("started", "share", "picks waited", "seconds waited"):
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


def main() -> int:
    picks = int(choices.number("PICKS", 2_400, least=ROUND))
    fault = choices.fault(FAULTS)
    pictures = os.environ.get("PICTURES", "")
    logging.disable()  # the runs are cut short, and improved warns of what it loses then
    console = terminal()
    if fault:
        console.print(f"  Planted in final: {FAULTS[fault]}.")
    bar = Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    )
    bar.live.transient = True
    runs = []
    with tempfile.TemporaryDirectory() as folder, bar:
        for name in ("improved", "final"):
            label = f"{name}, all lanes full"
            advance = partial(bar.advance, bar.add_task(label, total=picks))
            planted = planting(fault) if name == "final" else contextlib.nullcontext()
            with planted:
                runs.append(overload(name, picks, Path(folder), advance))
    kept = report(console, runs)
    if pictures:
        draw(console, Path(pictures), runs)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
