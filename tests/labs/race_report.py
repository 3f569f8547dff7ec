"""How the race lab looks in a terminal: a table of verdicts, and the schedule that fails.

A failing run is told as columns of code, one for each thread, in the order in which the lines
ran. No two threads run at once, so a line may reach into the next column. Of each stretch
between two switches the first and the last lines are shown, each of them once.
"""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tests.labs.exploration import Verdict, forced_switches
from tests.labs.race_catalogue import Entry
from tests.labs.scheduler import Event, Stuck

ROOT = Path(__file__).parents[2]
STEP = 18  # characters from one column to the next, at least
CODE = 42  # characters for the code in the last column, at least
AT_START, AT_END = 6, 6  # lines of a stretch that are shown


def terminal() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


# ---- the table -----------------------------------------------------------------------------


def table(results: list[tuple[Entry, Verdict]]) -> Table:
    """One row for each scenario, by stage; what is not as the catalogue says is marked."""
    board = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    board.add_column("", no_wrap=True)
    board.add_column("schedules", justify="right", no_wrap=True)
    board.add_column("seconds", justify="right", no_wrap=True)
    board.add_column("", no_wrap=True)
    groups = itertools.groupby(results, key=lambda result: _group(result[0]))
    for group, members in groups:
        board.add_row(Text(f" {group}", "bold"))
        for entry, verdict in members:
            name = entry.subject.name if group == PLANTED else entry.title
            tried = f"{sum(verdict.tried):,}"
            board.add_row(f"   {name}", tried, f"{verdict.seconds:.1f}", _result(entry, verdict))
    return board


PLANTED = "planted bugs"


def _group(entry: Entry) -> str:
    return PLANTED if entry.is_planted else entry.subject.name


def _result(entry: Entry, verdict: Verdict) -> Text:
    if verdict.holds is entry.breaks:
        return Text(f"{'holds' if verdict.holds else 'breaks'}: a surprise", "bold yellow")
    if verdict.holds:
        return Text("holds", "green")
    return Text(f"breaks, {_switches(len(verdict.schedule))}", "red")


def _switches(count: int) -> str:
    return f"{count or 'no'} switch{'es' if count > 1 else ''}"


def summary(results: list[tuple[Entry, Verdict]], surprises: list[Entry]) -> Text:
    """How much was tried, and whether all is as it should be."""
    tried = sum(sum(verdict.tried) for _, verdict in results)
    text = Text(f"\n  Schedules tried: {tried:,}. ")
    if surprises:
        return text.append(f"Surprises: {len(surprises)}, shown above.", "bold yellow")
    held = sum(verdict.holds for _, verdict in results)
    return text.append(f"{held} hold, {len(results) - held} break as they should.", "green")


# ---- the schedule that fails ---------------------------------------------------------------


@dataclass
class Stretch:
    """What one thread did until another went on. ``forced``: a switch made it start."""

    thread: str
    events: list[Event]
    forced: bool


def show(verdict: Verdict, console: Console | None = None, name: str = "") -> None:
    """Print what came of an exploration; the run that failed, if one did, line by line."""
    console = console or terminal()
    console.print()
    console.print(Text(name or verdict.scenario, "bold"))
    if verdict.holds:
        console.print(Text(f"  {verdict}.", "green"))
        return
    console.print(
        f"  Schedule {sum(verdict.tried):,} of those tried fails, "
        f"with {forced_switches(len(verdict.schedule))}."
    )
    console.print()
    if verdict.story:  # none, if it failed while the stage was set
        for row in Columns(verdict.story, console).rows():
            console.print(row, no_wrap=True, overflow="crop")
        console.print()
    console.print(Padding(Text(verdict.failure, "bold red"), (0, 2)))
    for stuck in verdict.stuck:
        _show_stuck(stuck, console)


def _show_stuck(stuck: Stuck, console: Console) -> None:
    console.print()
    console.print(Text.assemble("  ", (stuck.thread, "bold"), f" waits for {stuck.waits_for}:"))
    for file, line in stuck.stack:
        where = f"{_short(file)}:{line}"
        row = Text.assemble(f"    {where:<36} ", _code(file, line))
        console.print(row, no_wrap=True, overflow="ellipsis")


class Columns:
    """The story of a run as rows of text, as wide as the terminal."""

    def __init__(self, story: list[Event], console: Console) -> None:
        unicode = console.encoding.startswith("utf")
        self._rule, self._dots = ("─", "…") if unicode else ("-", "...")
        self._stretches = list(_stretches(story))
        self._end = console.width - 1
        self._threads = self._chosen(1 + (self._end - CODE) // STEP)
        self._step = max(STEP, (self._end - CODE) // max(1, len(self._threads) - 1))
        self._step = min(self._step, self._end // len(self._threads))
        self._file = dict.fromkeys(self._threads, "")  # the last that was named in each column

    def rows(self) -> Iterator[Text]:
        yield self._header()
        told = self._told()
        for number, stretch in enumerate(self._stretches):
            if stretch.forced:
                yield self._ruled(f"forced switch: {stretch.thread} goes on")
            if number in told:
                yield from self._column(stretch)
            elif not stretch.forced and number - 1 in told:
                yield Text(f"  {self._dots} others run {self._dots}", "dim")

    def _told(self) -> set[int]:
        """Which stretches: those around a forced switch, where the other one resumes, the end."""
        threads = [stretch.thread for stretch in self._stretches]
        told = set(range(len(threads) - 3, len(threads)))
        for n, stretch in enumerate(self._stretches):
            if stretch.forced:
                told |= {n - 1, n}
                if n and threads[n - 1] in threads[n + 1 :]:
                    told.add(threads.index(threads[n - 1], n + 1))
        return {n for n in told if n >= 0 and threads[n] in self._threads}

    def _chosen(self, at_most: int) -> list[str]:
        """The threads that get a column: those around the switches first."""
        forced = [n for n, stretch in enumerate(self._stretches) if stretch.forced]
        around = [n for switch in forced for n in (switch - 1, switch) if n >= 0]
        numbers = around + list(range(len(self._stretches)))[::-1]
        names = list(dict.fromkeys(self._stretches[n].thread for n in numbers))[:at_most]
        order = list(dict.fromkeys(stretch.thread for stretch in self._stretches))
        return sorted(names, key=order.index)

    def _column(self, stretch: Stretch) -> Iterator[Text]:
        events = _once(stretch.events)
        left_out = events[AT_START:-AT_END] if len(events) > AT_START + AT_END + 1 else []
        for event in events:
            if left_out and event is left_out[0]:
                yield self._row(stretch.thread, f"     {self._dots} {len(left_out)} lines", "dim")
            if not any(event is other for other in left_out):
                yield from self._told_of(event)

    def _told_of(self, event: Event) -> Iterator[Text]:
        if event.kind == "line":
            if self._file[event.thread] != event.file:
                self._file[event.thread] = event.file
                yield self._row(event.thread, _short(event.file), "dim italic")
            number = Text(f"{event.line:>4} ", "dim")
            yield self._row(event.thread, number + Text(_code(event.file, event.line)))
        elif event.kind == "waits":
            yield self._row(event.thread, f"     waits for {event.text}", "yellow")
        elif event.kind == "time":
            yield self._row(event.thread, f"     {event.text} later", "yellow")
        elif event.kind == "ends":
            yield self._row(event.thread, "     ends", "dim")

    def _row(self, thread: str, what: str | Text, style: str = "") -> Text:
        text = what if isinstance(what, Text) else Text(what, style)
        start = 2 + self._step * self._threads.index(thread)
        if start + len(text) > self._end:
            text = text[: self._end - start - len(self._dots)] + Text(self._dots, "dim")
        return Text(" " * start) + text

    def _header(self) -> Text:
        names = [name[: self._step - 1].ljust(self._step) for name in self._threads]
        return Text("  " + "".join(names).rstrip(), "bold")

    def _ruled(self, text: str) -> Text:
        line = f"  {self._rule * 2} {text} "
        return Text(line + self._rule * (self._end - len(line)), "bold cyan")


def _stretches(story: list[Event]) -> Iterator[Stretch]:
    forced = False
    for is_switch, group in itertools.groupby(story, key=lambda event: event.kind == "switch"):
        if is_switch:
            forced = True
            continue
        for thread, events in itertools.groupby(group, key=_thread):
            yield Stretch(thread, list(events), forced)
            forced = False


def _thread(event: Event) -> str:
    return event.thread


def _once(events: list[Event]) -> list[Event]:
    """Without the lines that came before, as in a loop; the last one stays in any case."""
    return [*dict.fromkeys(events[:-1]), events[-1]]


def _code(file: str, line: int) -> str:
    return linecache.getline(file, line).strip() or "?"


def _short(file: str) -> str:
    try:
        return Path(file).relative_to(ROOT).as_posix()
    except ValueError:
        return Path(file).name
