"""Each notebook and its text say the same, and every exercise has its solution."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks import pairs

each = pytest.mark.parametrize("text", pairs.texts(), ids=lambda text: text.stem)


def test_there_are_some() -> None:
    assert len(pairs.texts()) >= 10


@each
def test_the_stored_notebook_is_that_of_its_text(text: Path) -> None:
    stored = nbformat.read(pairs.stored(text), as_version=4)
    assert pairs.inputs(stored) == pairs.inputs(pairs.read(text)), (
        f"{text.name} has changed: run python -m tests.notebooks {text.name[:2]}"
    )


@each
def test_it_was_run_from_top_to_bottom(text: Path) -> None:
    stored = nbformat.read(pairs.stored(text), as_version=4)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)


@each
def test_no_exercise_is_right_before_it_is_solved(text: Path) -> None:
    pairs.require_unsolved(nbformat.read(pairs.stored(text), as_version=4))


@each
def test_every_exercise_has_a_solution(text: Path) -> None:
    before = pairs.inputs(pairs.read(text))
    after = pairs.inputs(pairs.with_solutions(pairs.read(text)))
    exercises = [tags for _, _, tags in before if "exercise" in tags]
    assert len(exercises) >= 2
    assert sum(old != new for old, new in zip(before, after, strict=True)) == len(exercises)


@each
def test_it_asks_before_it_shows(text: Path) -> None:
    words = text.read_text(encoding="utf-8")
    assert "Predict before you run" in words
    assert "## Interview questions" in words
    assert "You will be able to" in words
