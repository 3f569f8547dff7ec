"""What the soak shows: a line while it runs, two tables at the end, and a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.labs.soak_books import Gauges

if TYPE_CHECKING:
    from tests.labs.soak import Soak


class Progress:
    """One line that says how far the run is: redrawn on a terminal, else one now and then."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._console = console
        self._next = 0.0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, soak: Soak) -> None:
        if self._console.is_terminal:
            self._live.update(Text(line(soak), no_wrap=True, overflow="ellipsis"), refresh=True)
        elif soak.elapsed >= self._next:
            self._console.print(line(soak), soft_wrap=True)
            self._next = soak.elapsed + max(2.0, min(30.0, soak.seconds / 20))


def line(soak: Soak) -> str:
    counts = soak.ledger.counts
    latest = soak.samples[-1] if soak.samples else Gauges(0, 0, 0, 0, 0)
    return (
        f"  {clock(soak.elapsed)} of {clock(soak.seconds)}   {counts['accepted']:,} accepted   "
        f"epoch {soak.epochs}   {latest.memory:.0f} MiB   {latest.threads:.0f} threads   "
        f"{latest.handles:.0f} handles   file {latest.file:.1f} MiB"
    )


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


HAPPENED = (
    "accepted",
    "processing",
    "retrying",
    "completed",
    "failed",
    "cancelled",
    "dropped",
    "purged",
    "duplicates refused",
    "unfit jobs refused",
    "calls refused for want of room",
    "squares",
    "epochs drained",
    "epochs left",
    "epochs cut short",
    "epochs killed",
)
SAID = {
    "accepted": "jobs accepted",
    "processing": "attempts started",
    "retrying": "attempts failed, to be tried again",
    "completed": "jobs completed",
    "failed": "became dead letters",
    "cancelled": "jobs cancelled",
    "dropped": "jobs dropped from full lanes",
    "purged": "dead letters purged",
    "squares": "squares from a process that dies",
    "epochs drained": "times closed, all run",
    "epochs left": "times closed, the rest left in the file",
    "epochs cut short": "times closed without waiting",
    "epochs killed": "times killed with kill -9",
}


def report(console: Console, soak: Soak) -> None:
    counts = Table(box=box.SIMPLE_HEAD)
    counts.add_column("", justify="right")
    counts.add_column(f"what happened in {clock(soak.elapsed)}, seed {soak.seed}")
    for what in HAPPENED:
        counts.add_row(f"{soak.ledger.counts[what]:,}", SAID.get(what, what))
    counts.add_row(f"{soak.checks:,}", "times the metrics were checked")
    console.print(counts)
    if soak.trends:
        flat = Table(box=box.SIMPLE_HEAD)
        flat.add_column("second half")
        for column in ("third quarter", "last quarter", "growth", "bound", ""):
            flat.add_column(column, justify="right")
        for each in soak.trends:
            figures = [f"{n:,.1f}" for n in (each.before, each.after, each.growth, each.bound)]
            verdict = Text("flat", "green") if each.flat else Text("grows", "red")
            unit = " (MiB)" if each.what in ("memory", "file") else ""
            flat.add_row(each.what + unit, *figures, verdict)
        console.print(flat)
    for sentence in soak.wrong[:5]:
        console.print(Text(f"  {sentence}", "red"), soft_wrap=True)
    if len(soak.wrong) > 5:
        console.print(f"  ... and {len(soak.wrong) - 5} more.")
    if not soak.wrong:
        said = "Every accepted job is accounted for, the metrics added up, and nothing grew."
        console.print(Text(f"  {said}", "green"), soft_wrap=True)
