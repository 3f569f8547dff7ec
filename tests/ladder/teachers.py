"""``make grade DIR=submissions/``: many files at once, each in a copy of its own, within limits.

A table to look at, and ``build/grades.csv`` and ``build/grades.json`` for what comes next. The
assignments are those of docs/syllabus.md.

But: it grades what a file does. Read it as well; and a file that reaches for the tests, the stages
or the network is told apart here, not judged.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tests.expectations import CAPABILITIES
from tests.ladder.grading import Candidate, Verdict, climb
from tests.ladder.mine import NoSuchFile
from tests.ladder.showing import MARGIN, Page, mended
from tests.ladder.steps import ROOT, STEPS, step_of

# Which steps an assignment of the syllabus asks for. (D are bugs to hunt: make hunt-check.)
ASSIGNMENTS: dict[str, Sequence[int]] = {
    "A": range(1, 5),
    "B": range(1, 8),
    "C": range(9, 12),
    "E": (5, 8),
}


@dataclass(frozen=True)
class Grade:
    """A line of the table. rows: how many of all pass; first_failure: a row, and what was seen."""

    file: str
    version: str
    step: int
    rows: int
    assignments: str
    mended: str
    first_failure: str
    seen: str
    reaches: str


def command(page: Page, chosen: argparse.Namespace) -> int:
    if chosen.dir is None:
        raise NoSuchFile("Which folder? make grade DIR=submissions/ (--dir submissions).")
    found, others = candidates(chosen.dir)
    grades = []
    over = threading.Event()
    with (
        Progress(
            TextColumn("  {task.description}"), BarColumn(24), MofNCompleteColumn(),
            TimeElapsedColumn(), console=page.console, transient=True,
        ) as bar,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):  # fmt: skip
        task = bar.add_task("grading", total=len(found))
        try:
            for each in pool.map(lambda candidate: _graded(candidate, over), found):
                grades.append(each)
                bar.advance(task)
        finally:  # at Ctrl-C those that run end at once
            over.set()
            pool.shutdown(cancel_futures=True)
    _show(page, grades)
    write(grades, ROOT / "build")
    if others:
        page.line(f"Not graded, as no Python files: {', '.join(map(_printable, others))}.")
    page.line("build/grades.csv and build/grades.json have all of it.")
    page.blank()
    return 0


def candidates(folder: Path) -> tuple[list[Candidate], list[str]]:
    """Every Python file in the folder, and every folder in it that holds a job_queue.py; and the
    names of what else is there, but for hidden files."""
    if not folder.is_dir():
        raise NoSuchFile(f"There is no folder {folder}.")
    found, others = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):
            continue  # what systems and Python leave there
        if (path.is_file() and path.suffix == ".py") or (path / "job_queue.py").is_file():
            found.append(Candidate(path))
        else:
            others.append(path.name)
    if not found:
        raise NoSuchFile(f"{folder} holds no Python file, and no folder with a job_queue.py.")
    return found, others


def _printable(name: str) -> str:
    """The name of a file may hold anything."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


class _Over(Exception):
    """Nobody waits for it any more."""


def _graded(candidate: Candidate, over: threading.Event) -> Grade:
    def look(row: str) -> None:
        if over.is_set():
            raise _Over

    try:
        verdict = climb(candidate, to_the_end=True, watcher=look)
    except Exception as error:  # whatever it is, the others get their grades
        verdict = Verdict("", notes=[f"could not be graded: {error}"])
    failed = verdict.failed
    return Grade(
        file=_printable(candidate.path.name),
        version=verdict.hash,
        step=verdict.step,
        rows=sum(row.passed for row in verdict.rows.values()),
        assignments=" ".join(name for name in ASSIGNMENTS if solves(verdict, name)),
        mended=" ".join(flaw.id for flaw in mended(verdict)),
        first_failure=failed.name if failed else "",
        seen=" ".join(failed.seen if failed else verdict.notes),
        reaches="; ".join(verdict.reaches),
    )


def solves(verdict: Verdict, assignment: str) -> bool:
    steps = ASSIGNMENTS[assignment]
    return all(verdict.passes(STEPS[number - 1].rows) for number in steps)


def _show(page: Page, grades: list[Grade]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("file", "step", "rows", "done", "mended", "first failure"):
        justify: Literal["left", "right"] = "right" if heading in ("step", "rows") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for grade in grades:
        failure = grade.first_failure
        where = f"{step_of(failure).number} {failure}" if failure else grade.seen.split("\n")[0]
        table.add_row(
            Text(grade.file), str(grade.step), f"{grade.rows} of {len(CAPABILITIES)}",
            grade.assignments, grade.mended, Text(where),
        )  # fmt: skip
    page.console.print(Padding(table, (1, MARGIN)))
    for grade in grades:
        if grade.reaches:
            page.line(f"{grade.file} reaches for {grade.reaches}.", "yellow")


def write(grades: list[Grade], folder: Path) -> None:
    """``grades.csv`` and ``grades.json``."""
    folder.mkdir(exist_ok=True)
    rows = [asdict(grade) for grade in grades]
    with (folder / "grades.csv").open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.DictWriter(file, list(Grade.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "grades.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
