"""``make mine-card``: your column beside naive, improved and final, as Markdown and as a picture.

But: of the stages it shows what tests/expectations.py claims. ``make`` proves that.
"""

from __future__ import annotations

import argparse
from html import escape

from tests.expectations import CAPABILITIES, STAGES, Capability
from tests.ladder import mine
from tests.ladder.grading import Candidate, Verdict
from tests.ladder.showing import Page
from tests.ladder.steps import ROOT

COLOURS = {"✓": "#1a7f37", "✗": "#cf222e", "—": "#8c959f"}
LINE, TITLE, COLUMN = 20, 320, 90  # pixels


def command(page: Page, chosen: argparse.Namespace) -> int:
    candidate = mine.candidate(chosen.file)
    verdict = page.graded(candidate, to_the_end=True)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    for name, text in (("card.md", markdown(candidate, verdict)), ("card.svg", svg(verdict))):
        (build / name).write_text(text, encoding="utf-8")
    passed = sum(row.passed for row in verdict.rows.values())
    page.prose(f"{passed} of {len(CAPABILITIES)} rows, step {verdict.step}.")
    page.line("build/card.md   to paste")
    page.line("build/card.svg  to show")
    page.blank()
    return 0


def cells(row: Capability, verdict: Verdict) -> list[str]:
    """What it says of a row: the stages, and yours."""
    known = []
    for stage in STAGES:
        flaw = row.flaw(stage)
        known.append("—" if row.is_absent(stage) else f"✗ {flaw.id}" if flaw else "✓")
    return [*known, "✓" if verdict.passes([row.name]) else "✗"]


def markdown(candidate: Candidate, verdict: Verdict) -> str:
    lines = [f"| | {' | '.join(STAGES)} | mine |", "| --- " * (len(STAGES) + 2) + "|"]
    lines += [f"| {r.title} | {' | '.join(cells(r, verdict))} |" for r in CAPABILITIES.values()]
    count = sum(row.passed for row in verdict.rows.values())
    lines += ["", f"Step {verdict.step} of the ladder, {count} of {len(CAPABILITIES)} rows; "]
    lines[-1] += f"{mine.shown(candidate.main)}, version {verdict.hash}."
    return "\n".join(lines) + "\n"


def svg(verdict: Verdict) -> str:
    """The same as a picture, for light and dark pages."""
    width = TITLE + COLUMN * (len(STAGES) + 1)
    texts = [_text(TITLE + COLUMN * n, LINE, name, "#57606a", bold=True)
             for n, name in enumerate((*STAGES, "mine"))]  # fmt: skip
    y = LINE
    group = ""
    for row in CAPABILITIES.values():
        if row.group != group:
            group = row.group
            y += LINE + 8
            texts.append(_text(10, y, group, "#57606a", bold=True))
        y += LINE
        texts.append(_text(20, y, row.title, "#57606a"))
        for n, cell in enumerate(cells(row, verdict)):
            texts.append(
                _text(TITLE + COLUMN * n, y, cell, COLOURS[cell[0]], bold=n == len(STAGES))
            )
    box = f'<rect width="{width}" height="{y + 16}" rx="8" fill="#f6f8fa" stroke="#d0d7de"/>'
    size = f'width="{width}" height="{y + 16}" viewBox="0 0 {width} {y + 16}"'
    body = "\n".join([box, *texts])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    )
    return f"{head}\n{body}\n</svg>\n"


def _text(x: int, y: int, text: str, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{colour}"{weight}>{escape(text)}</text>'
