"""The figures in the prose are those of the pages and files that they name, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import figures, pages
from tests.docs.figures import Figure

# Written by a program, with what it has measured; notebooks assert theirs in their cells.
GENERATED = ("performance.md", "load.md", "labs.md", "scoreboard.md", "flaws.md")
PROSE = [
    page for page in pages.pages() if page.name not in GENERATED and "notebooks" not in str(page)
]
WITH_FIGURES = [page for page in pages.pages() if list(figures.figures(page))]

RESULTS = """\
# Results

|  | this machine |
| --- | --- |
| a sync | 0.23 ms |

## In bulk

| ours is | as fast as | jobs/s |
| --- | --- | --- |
| 1.00 x | ours, full | 85,773 |
| 0.82 x | theirs | 104,601 |

## Overload

**[a lane](lane.py)**

- ✗ naive (N1): 50,000 jobs took 35 MB
- ✓ final: 100 jobs took 1 MB
- ✓ postgres: its job ran elsewhere 1.3 s after the kill, with a lease of 1 s
"""


def test_there_are_some() -> None:
    assert len(WITH_FIGURES) > 5


@pytest.mark.parametrize("page", WITH_FIGURES, ids=pages.name)
def test_they_say_what_their_sources_say(page: Path) -> None:
    assert [bad for one in figures.figures(page) if (bad := figures.trouble(one))] == []


@pytest.mark.parametrize("page", PROSE, ids=pages.name)
def test_what_a_sentence_calls_measured_has_its_source(page: Path) -> None:
    assert figures.uncovered(page) == []


class TestFigures:
    """The checker itself, on a small page of results."""

    @pytest.fixture
    def page(self, tmp_path: Path) -> Path:
        (tmp_path / "results.md").write_text(RESULTS, encoding="utf-8")
        (tmp_path / "code.py").write_text("1\n2\n3\n")
        return tmp_path / "page.md"

    @pytest.mark.parametrize(
        ("text", "target", "title"),
        [
            ("85,773", "results.md#in-bulk", "ours, full: jobs/s"),
            ("86,000 jobs a second", "results.md#in-bulk", "ours, full: jobs/s"),
            ("0.2 ms", "results.md#results", "a sync: this machine"),
            ("82 %", "results.md#in-bulk", "theirs: ours is"),
            ("35 MB", "results.md#overload", "a lane: naive"),
            ("1 MB", "results.md#overload", "a lane: final"),
            ("100 jobs", "results.md#overload", "a lane: final"),
            ("1.3 s", "results.md#overload", "a lane: postgres"),
            ("0.8 times", "results.md#in-bulk", "theirs: ours is"),
            ("three lines: 3", "code.py", "lines"),
            ("1 page", ".", "*.md"),
        ],
    )
    def test_right_ones(self, page: Path, text: str, target: str, title: str) -> None:
        assert figures.trouble(Figure(page, text, target, title)) is None

    @pytest.mark.parametrize(
        ("text", "target", "title", "right"),
        [
            ("89,000", "results.md#in-bulk", "ours, full: jobs/s", "86,000"),
            ("0.19 ms", "results.md#results", "a sync: this machine", "0.23 ms"),
            ("about 90 % of it", "results.md#in-bulk", "theirs: ours is", "about 82 % of it"),
            ("40 MB", "results.md#overload", "a lane: naive", "35 MB"),
            ("370 lines", "code.py", "lines", "3 lines"),
            # Also in the sentence, but of something else.
            ("1.0 s", "results.md#overload", "a lane: postgres", "1.3 s"),
        ],
    )
    def test_wrong_ones_are_put_right(
        self, page: Path, text: str, target: str, title: str, right: str
    ) -> None:
        figure = Figure(page, text, target, title)
        assert f"is {right} today" in str(figures.trouble(figure))
        assert figures.today(figure) == right

    @pytest.mark.parametrize(
        ("target", "title", "says"),
        [
            ("gone.md#in-bulk", "ours, full: jobs/s", "gone.md does not exist"),
            ("results.md#in-hulk", "ours, full: jobs/s", "no heading #in-hulk"),
            ("results.md#in-bulk", "hours, full: jobs/s", "no row 'hours, full'"),
            ("results.md#in-bulk", "ours, full: as fast as", "no number in 'ours, full'"),
        ],
    )
    def test_a_source_that_is_gone_is_named(
        self, page: Path, target: str, title: str, says: str
    ) -> None:
        assert says in str(figures.trouble(Figure(page, "86,000", target, title)))

    @pytest.mark.parametrize("text", ["100 MB", "50 ms", "100", "1 s"])
    def test_a_number_of_something_else_is_no_source(self, page: Path, text: str) -> None:
        figure = Figure(page, text, "results.md#overload", "a lane: final")
        assert figures.trouble(figure) is not None

    def test_a_measurement_without_a_source_is_found(self, page: Path) -> None:
        page.write_text(
            "It took 0.2 ms here. A handler of 10 ms is slow. Here it is "
            '[0.2 ms](results.md#results "a sync: this machine").\n'
        )
        assert figures.uncovered(page) == ["It took 0.2 ms here."]
