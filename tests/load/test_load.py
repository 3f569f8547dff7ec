"""``make load`` at the size of a test: what was answered with 201 is completed, and no more."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.benchmarks.report import terminal
from tests.load.__main__ import SIZES, Books, run


@pytest.mark.slow
@pytest.mark.timeout(180)  # the machine may be busy with other things
def test_every_201_is_completed_and_a_503_stores_nothing(tmp_path: Path) -> None:
    output = io.StringIO()
    creations, overload = run(SIZES["tiny"], tmp_path, terminal(output, width=120))
    for books in [overload.books, *(books for each in creations for books in each.books)]:
        assert books.accepted > 0
        assert (books.lost, books.unasked) == (0, 0)
    assert overload.books.accepted == len(overload.created)
    assert len(overload.refused) > 0
    page = (tmp_path / "load.md").read_text(encoding="utf-8")
    for text in (page, output.getvalue()):
        assert f"all {overload.books.accepted:,}" in text


def test_the_books_find_what_is_missing_and_what_is_too_much() -> None:
    stored = {"a": "completed", "b": "queued", "d": "completed"}
    assert Books.of({"a", "b", "c"}, stored) == Books(accepted=3, lost=2, unasked=1)
