"""The worked steps: ``make steps`` and ``make mine-diff``.

A diff begins with the idea of its step, method by method; what only checks its arguments, and the
imports, come last.
"""

from __future__ import annotations

import ast
import difflib
from functools import cache
from pathlib import Path

from rich.padding import Padding
from rich.table import Table

from tests.diff_stages import sections
from tests.ladder import mine
from tests.ladder.showing import MARGIN, Page
from tests.ladder.steps import SOLUTIONS, STEPS, Step

STYLES = {"-": "red", "+": "green", "@": "dim"}
TOP = "(top of the file)"


def overview(page: Page) -> None:
    """A line for each step."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("", "step", "minutes", "lines", "rows that turn green"):
        table.add_column(
            heading,
            justify="right" if heading in ("", "minutes", "lines") else "left",
            overflow="fold",
        )
    for step in STEPS:
        added, removed = (0, 0) if step.stars else size(step)
        lines = "" if step.stars else f"+{added} -{removed}"
        table.add_row(str(step.number), step.title, str(step.minutes), lines, ", ".join(step.rows))
    page.console.print(Padding(table, (1, MARGIN)))
    page.line("make steps STEP=3   the worked step: the diff that turns its rows green")
    page.line("make mine           write your own")
    page.blank()


def table() -> str:
    """The steps as Markdown, for docs/ladder.md."""
    lines = ["| | step | minutes | lines of code | what is learned | a worked solution |"]
    lines.append("| ---: | --- | ---: | ---: | --- | --- |")
    for step in STEPS:
        added, removed = (0, 0) if step.stars else size(step)
        code = "" if step.stars else f"+{added} -{removed}"
        link = f"[{step.solution.name}](../{mine.shown(step.solution)})"
        facts = (str(step.number), step.title, str(step.minutes), code, step.learned, link)
        lines.append(f"| {' | '.join(facts)} |")
    return "\n".join(lines)


def show(page: Page, step: Step) -> None:
    """The story of a step and the diff that makes it."""
    page.step(step)
    if step.stars:
        page.prose(step.hint(3))
    else:
        added, removed = size(step)
        page.prose(
            f"{mine.shown(before(step))} -> {mine.shown(step.solution)}: +{added} -{removed} lines "
            f"of code. Its rows: {', '.join(step.rows)}. You will have seen: {step.learned}."
        )
        _compare(page, _lines(before(step)), _lines(step.solution), step)
        page.line(f"python -m tests.ladder mine --file {mine.shown(step.solution)}   grades it")
    page.line(f"To read now: {step.read}")
    page.blank()


def beside(page: Page, file: Path, step: Step) -> None:
    """Somebody's file beside the worked solution."""
    page.title(f"{mine.shown(file)} (-) beside {mine.shown(step.solution)} (+)")
    if step.stars:
        page.prose(step.hint(3))
        page.blank()
        return
    _compare(page, _lines(file), _lines(step.solution), step)


def before(step: Step) -> Path:
    """The solution that it begins with."""
    return STEPS[step.number - 2].solution if step.number > 1 else SOLUTIONS / "step00_stub.py"


def size(step: Step) -> tuple[int, int]:
    """Lines of code that are new, and that are gone; no comments, no docstrings."""
    old, new = _code(before(step)), _code(step.solution)
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    same = sum(block.size for block in blocks)
    return len(new) - same, len(old) - same


def _compare(page: Page, old: list[str], new: list[str], step: Step) -> None:
    try:
        was, now = sections(old), sections(new)
    except SyntaxError as error:
        page.prose(f"It is not Python yet (line {error.lineno}), so here is the whole of it.")
        was, now = {"": old}, {"": new}
    names = [*now, *(was.keys() - now.keys())]
    for name in sorted(names, key=lambda name: _rank(name, step)):
        if was.get(name) != now.get(name):
            page.title(name)
            for line in _diff(was.get(name, []), now.get(name, [])):
                page.line(line, STYLES.get(line[:1], ""))
    page.blank()


def _rank(name: str, step: Step) -> tuple[int, int]:
    """The idea first, then the rest as it stands, then the checks of arguments, then the top."""
    if name in step.idea:
        return 0, step.idea.index(name)
    if name == TOP:
        return 3, 0
    return (2 if name.startswith("_require") else 1), 0


def _diff(old: list[str], new: list[str]) -> list[str]:
    """All of what is new; of what was there the changes, with three lines around them."""
    if not old or not new:
        return [f"{'+' if new else '-'} {line}".rstrip() for line in new or old]
    diff = list(difflib.unified_diff(old, new, n=3, lineterm=""))[2:]
    return ["@@" if line.startswith("@@") else f"{line[0]} {line[1:]}".rstrip() for line in diff][
        1:
    ]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


@cache
def _code(file: Path) -> list[str]:
    """Its lines without comments, docstrings and blank ones."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[0] = ast.Pass()
    return [line for line in ast.unparse(tree).splitlines() if line.strip() not in ("", "pass")]
