"""What the labs on crashes and disks have in common: a place for files, progress, verdicts."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Advance = Callable[[int], None]  # so many more are done


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for databases; in memory where the system has one there.

    No lab depends on the disk of this machine: kills leave it alone, and power cuts and
    failures are made up.
    """
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as folder:
        yield Path(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is made to fail here need not be logged."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def table(*columns: str) -> Table:
    """The first column is text, the others are numbers."""
    first, *others = columns
    made = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    made.add_column(first, no_wrap=True)
    for column in others:
        made.add_column(column, justify="right")
    return made


@contextlib.contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Advance]:
    """A bar while it runs; where there is no terminal to draw it on, a line for each tenth."""
    if not console.is_terminal:
        console.print(f"{what}: {total:,} ...")
        done = 0

        def say_each_tenth(count: int) -> None:
            nonlocal done
            tenths_before, done = 10 * done // total, done + count
            if 10 * done // total > tenths_before:
                console.print(f"  {done:,}")

        yield say_each_tenth
        return
    bar = Progress(
        TextColumn("  {task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


class Check(NamedTuple):
    """A promise, whether it held, and the figures that say so."""

    promise: str
    held: bool
    figures: str


NEVER = "What must never happen, and how often it did"


def show_checks(console: Console, title: str, checks: list[Check]) -> None:
    utf8 = console.encoding.startswith("utf")
    kept, broken = ("✓", "✗") if utf8 else ("ok", "BROKEN")
    grid = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        sign = Text(kept, "green") if check.held else Text(broken, "bold red")
        grid.add_row("", sign, check.promise, Text(check.figures, "" if check.held else "bold red"))
    console.print(title, style="bold")
    console.print()
    console.print(grid)
    console.print()
