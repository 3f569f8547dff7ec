"""The record of the labs: what one found is on the page, and what it broke is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.record import HEAD, PAGE, record

EARLIER = HEAD + "\n## make lab-crash\n\nLong ago.\n\n## make lab-fairness\n\nLong ago.\n"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PICKS", "24")
    page = tmp_path / "labs.md"
    page.write_text(EARLIER, encoding="utf-8")
    return page


def test_a_run_takes_the_place_of_the_one_before(page: Path) -> None:
    assert record(["fairness"], page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(HEAD + "\n## make lab-crash\n\nLong ago.\n\n## make lab-fairness\n")
    assert text.count("Long ago.") == 1
    assert "final keeps its word" in text


def test_a_promise_that_does_not_hold_is_shown_and_not_kept(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAULT", "off")
    assert not record(["fairness"], page)
    assert page.read_text(encoding="utf-8") == EARLIER
    assert "the head of LOW waited 24" in capsys.readouterr().out


def test_the_page_has_a_part_for_each_lab_that_reliability_names() -> None:
    named = (PAGE.parent / "reliability.md").read_text(encoding="utf-8")
    parts = [
        line[3:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "## "
    ]
    assert len(parts) > 7
    assert [part for part in parts if f"`{part}`" not in named] == []
