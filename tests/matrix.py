"""How the results look in a terminal: the matrix, the evidence beneath it, the summary.

It prints nothing, and knows neither pytest nor the size of the terminal. See screen.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tests.expectations import CAPABILITIES, COLUMNS, Capability
from tests.results import Outcome, Results, Surprise

# All columns together fit a terminal of 80.
TITLES = max(len(row.title) for row in CAPABILITIES.values()) + 1  # columns for the titles
STAGE = 9  # columns for each stage: "22 of 27" and a gap
MARGIN = 2


@dataclass(frozen=True)
class Signs:
    """What stands for what; ``ASCII`` for terminals that cannot show the rest."""

    passed: str
    absent: str
    flaw: str
    surprise: str
    not_run: str
    rule: str


UNICODE = Signs("✓", "—", "✗", "!", "·", "─")
ASCII = Signs("ok", "-", "x", "!", ".", "-")

STYLES = {
    Outcome.PASS: "green",
    Outcome.ABSENT: "dim",
    Outcome.FLAW: "red",
    Outcome.SURPRISE: "bold yellow",
}


def matrix(results: Results, signs: Signs) -> Text:
    """Capabilities in groups down the side, stages across, totals at the foot."""
    header = Text(" " * (MARGIN + TITLES))
    for stage in results.stages:
        header.append(stage.ljust(STAGE), "bold")
    lines = [header]
    group = ""
    for row in CAPABILITIES.values():
        if row.group != group:
            group = row.group
            lines.append(heading(group, results, signs))
        lines.append(_row(row, results, signs))
    lines += [heading("", results, signs), _totals(results)]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def heading(title: str, results: Results, signs: Signs) -> Text:
    """A rule as wide as the matrix; it carries a title."""
    width = MARGIN + TITLES + STAGE * len(results.stages)
    lead = f" {signs.rule * 2} {title} " if title else " "
    return Text.assemble((lead, "bold"), (signs.rule * (width - len(lead) - 1), "dim"))


def _row(row: Capability, results: Results, signs: Signs) -> Text:
    line = Text(" " * MARGIN + row.title.ljust(TITLES))
    for stage in results.stages:
        line.append_text(_cell(row, stage, results, signs))
    return line


def _cell(row: Capability, stage: str, results: Results, signs: Signs) -> Text:
    cell = results.cell(row, stage)
    if cell is None:
        return Text(signs.not_run.ljust(STAGE), "dim")
    flaw = row.flaw(stage)
    sign = {
        Outcome.PASS: signs.passed,
        Outcome.ABSENT: signs.absent,
        Outcome.FLAW: f"{signs.flaw} {flaw.id if flaw else ''}",
        Outcome.SURPRISE: signs.surprise,
    }[cell.outcome]
    return Text(sign.ljust(STAGE), STYLES[cell.outcome])


def _totals(results: Results) -> Text:
    """How much it passes of what it is measured by: a feature that it lacks does not count."""
    line = Text(" " * MARGIN + "in total".ljust(TITLES), "bold")
    for stage in results.stages:
        count = results.count(stage)
        measured_by = count.total() - count[Outcome.ABSENT]
        line.append(f"{count[Outcome.PASS]} of {measured_by}".ljust(STAGE))
    return line


# Beneath the matrix


def report(results: Results, signs: Signs, seconds: float) -> Group:
    """Everything that is shown when the run is over."""
    blank = Text()
    parts: list[RenderableType] = [blank, matrix(results, signs)]
    if any(results.count(stage)[Outcome.ABSENT] for stage in results.stages):
        legend = f"{signs.absent} not in this stage; docs/scoreboard.md says what to do instead"
        parts += [blank, _indented(Text(legend, "dim"))]
    if exhibits := _exhibits(results, signs):
        parts += [blank, heading("What was measured", results, signs), exhibits]
    for surprise in results.surprises:
        parts += [blank, *_surprise(surprise, results, signs)]
    parts += [blank, _summary(results, seconds), blank, _next(results), blank]
    return Group(*parts)


def _exhibits(results: Results, signs: Signs) -> RenderableType | None:
    """For each flaw what was measured: at the stage that has it, and at the one that mended it."""
    sign = {Outcome.PASS: signs.passed, Outcome.FLAW: signs.flaw}
    lines = _columns(3)
    for flaw, exhibit in results.exhibits():
        for n, (stage, outcome, sentence) in enumerate(exhibit):
            mark = Text(f"{sign[outcome]} {stage}", STYLES[outcome])
            lines.add_row(Text("" if n else flaw.id, "bold"), mark, sentence)
    return _indented(lines) if lines.row_count else None


def _surprise(surprise: Surprise, results: Results, signs: Signs) -> list[RenderableType]:
    parts: list[RenderableType] = [
        heading("Surprise", results, signs),
        _indented(Text(surprise.test, "bold yellow")),
        _indented(Text(surprise.meaning)),
    ]
    if surprise.report:
        report = Text(surprise.report, overflow="fold")
        report.highlight_regex(r"(?m)^E .*", "red")
        parts += [Text(), report]
    return parts


def _summary(results: Results, seconds: float) -> RenderableType:
    lines = _columns(1)
    for stage in results.stages:
        lines.add_row(results.summary(stage))
    for note in [f"{results.tests} tests in {seconds:.0f} s.", *results.notes]:
        lines.add_row(Text(note, "dim"))
    return _indented(lines)


def _next(results: Results) -> RenderableType:
    """What to type or to read now."""
    lines = _columns(2)
    flawed = [stage for stage in results.stages if results.count(stage)[Outcome.FLAW]]
    if flawed:
        lines.add_row(
            f"make test-{flawed[0]} HARD=1", "the flaws as failures: why, where, what to read"
        )
        lines.add_row("docs/flaws.md", "each flaw: its line, its tests, its fix")
    if len(results.stages) < len(COLUMNS):
        lines.add_row("make", "all stages, side by side")
    return _indented(lines)


def _columns(count: int) -> Table:
    """A grid whose last column takes, and wraps, what the others leave."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(count - 1):
        lines.add_column(no_wrap=True)
    lines.add_column()
    return lines


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 1, 0, MARGIN))
