"""The table, the comments, the suite and the pages say the same: none of them is stale.

What the stages can do is proven by the suite itself; this holds together what is said of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import ledger, pages
from tests.expectations import CAPABILITIES, FLAWS, MANY, STAGES, Capability, Flaw
from tests.results import Results

ROOT = ledger.ROOT
SUITE = ROOT / "tests" / "suite"

STALE = (
    "{} is stale: `make` (python -m pytest tests/suite --scoreboard --write-docs) writes it anew."
)


def test_each_flaw_is_marked_once_and_in_its_stage() -> None:
    marked = sorted((flaw_id, place.path.split("/")[0]) for flaw_id, place in ledger.marks())
    assert marked == sorted((flaw.id, flaw.stage) for flaw in FLAWS.values())


def test_final_has_everything_and_no_flaw() -> None:
    alone = [row for row in CAPABILITIES.values() if row.needs != MANY]
    assert not any(row.final for row in alone)
    assert not any(row.postgres for row in CAPABILITIES.values())
    assert not any(flaw.stage == "final" for flaw in FLAWS.values())


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=FLAWS)
def test_each_flaw_is_shown_and_fixed(flaw: Flaw) -> None:
    shown_by = flaw.shown_by()
    assert flaw.exhibit in [row.name for row in shown_by]
    for row in shown_by:
        fix = ledger.fix(row)
        assert STAGES.index(row.fixed_in(flaw.stage)) > STAGES.index(flaw.stage)
        assert fix.path.startswith(f"{row.fixed_in(flaw.stage)}/")
        assert fix.line is not None, f"{fix} is named as the fix of {flaw.id}"


def test_a_stage_shows_only_its_own_flaws() -> None:
    for row in CAPABILITIES.values():
        for stage in STAGES:
            flaw = row.flaw(stage)
            assert flaw is None or flaw.stage == stage, f"{row.name}: {flaw} in {stage}'s column"


@pytest.mark.parametrize("row", CAPABILITIES.values(), ids=CAPABILITIES)
def test_a_feature_says_what_it_needs_and_what_to_do_without(row: Capability) -> None:
    absent = [stage for stage in STAGES if row.is_absent(stage)]
    assert bool(absent) == bool(row.needs) == bool(row.instead)
    # A stage keeps what an earlier one has.
    assert absent == list(STAGES[: len(absent)])
    assert not any(row.flaw(stage) and row.is_absent(stage) for stage in STAGES)


def test_each_capability_has_its_file_and_each_file_its_capability() -> None:
    files = {file.name: _capability_of(file) for file in SUITE.glob("test_*.py")}
    assert files == {row.test_file: row.name for row in CAPABILITIES.values()}


def _capability_of(file: Path) -> str:
    return " and ".join(re.findall(r'mark\.capability\("([\w-]+)"\)', file.read_text("utf-8")))


def test_the_matrix_in_the_readme_is_not_stale() -> None:
    page = _read(pages.README)
    assert page == pages.readme(page), STALE.format(pages.README)


def test_the_scoreboard_page_is_not_stale() -> None:
    # Without a run there is no evidence; but figures are no part of the substance.
    expected = pages.substance(pages.scoreboard(Results()))
    assert pages.substance(_read(pages.SCOREBOARD)) == expected, STALE.format(pages.SCOREBOARD)


def test_the_ledger_of_flaws_is_not_stale() -> None:
    page = _read(pages.LEDGER)
    assert page == pages.flaws(), STALE.format(pages.LEDGER)
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == list(FLAWS)


def test_the_links_to_the_lines_lead_to_the_marks() -> None:
    links = re.findall(r"\]\(\.\./(\S+)#L(\d+)\)", _read(pages.LEDGER))
    lines = [_read(path).splitlines()[int(number) - 1] for path, number in links]
    assert [re.findall(r"# FLAW (\w+):", line) for line in lines] == [[flaw] for flaw in FLAWS]


@pytest.mark.parametrize("name", [pages.README, pages.SCOREBOARD, pages.LEDGER])
def test_the_links_of_the_generated_pages_lead_to_files(name: str) -> None:
    page = _read(name)
    if name == pages.README:
        page = page[page.index(pages.BEGIN) : page.index(pages.END)]
    for target in re.findall(r"\]\(([^)#]+)", page):
        assert (ROOT / name).parent.joinpath(target).is_file(), f"{name} links to {target}"


# The checks above are worth something only if they notice.


def test_a_line_that_moved_makes_the_ledger_stale(tmp_path: Path) -> None:
    flaw = FLAWS["N2"]
    here = ledger.where(flaw)
    for stage in STAGES:
        (tmp_path / stage).mkdir()
    moved = tmp_path / here.path
    moved.write_text("# one line more\n" + _read(here.path), encoding="utf-8")
    assert ledger.where(flaw, tmp_path).line == (here.line or 0) + 1


def test_a_flaw_without_a_mark_says_so(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="No line of naive/ carries the comment '# FLAW N2"):
        ledger.where(FLAWS["N2"], tmp_path)


def test_an_outcome_is_substance_and_a_figure_is_not() -> None:
    line = "- ✗ naive (N1): 50,000 jobs queued in 0.1 s"
    assert pages.substance(line) == pages.substance(line.replace("50,000", "60,000"))
    assert pages.substance(line) != pages.substance(line.replace("N1", "N2"))
    assert pages.substance(line) != pages.substance(line.replace("✗", "✓"))


def test_the_excerpt_is_the_comment_and_its_line() -> None:
    assert ledger.excerpt(FLAWS["N1"]).splitlines() == [
        "# FLAW N1: unbounded. A producer that is faster than the workers fills the memory.",
        "self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()",
    ]


def test_a_readme_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines <!-- scoreboard:begin -->"):
        pages.readme("# A README\n")


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
