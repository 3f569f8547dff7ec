"""The fairness lab: final keeps its bound under overload, improved starves, faults are caught."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.benchmarks import plots
from tests.benchmarks.report import terminal
from tests.labs import fairness
from tests.labs.fairness import BOUND, HIGH, LOW, MEDIUM, ROUND, Pick, Run, objections, overload

PICKS = 10 * ROUND


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return overload("final", PICKS, tmp_path_factory.mktemp("final"))


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return overload("improved", PICKS, tmp_path_factory.mktemp("improved"))


def picks(lanes: str) -> Run:
    """A run whose picks are these lanes: "HHL"."""
    by_letter = {"H": HIGH, "M": MEDIUM, "L": LOW}
    return Run("made up", [Pick(by_letter[c], n, n + 1, 1) for n, c in enumerate(lanes)])


def test_final_serves_every_lane_within_the_bound(final: Run) -> None:
    assert objections(final) == []
    assert [pick.lane for pick in final.picks] == ([HIGH] * 10 + [MEDIUM, LOW]) * 10
    assert final.longest_wait(LOW).picks == BOUND
    assert final.share(LOW) == pytest.approx(1 / ROUND)


def test_improved_starves_low_in_the_same_run(improved: Run) -> None:
    assert improved.shortest_lane() > 0
    assert improved.starts(LOW) == 0
    wait = improved.longest_wait(LOW)
    assert (wait.picks, wait.over) == (PICKS, False)


STARVE = {"off": "the head of LOW waited 24", "never-refilled": "the head of HIGH waited 14"}


@pytest.mark.parametrize("fault", fairness.FAULTS)
def test_a_planted_fault_is_caught(fault: str, tmp_path: Path) -> None:
    with fairness.planting(fault):
        broken = overload("final", 2 * ROUND, tmp_path)
    assert any(STARVE[fault] in sentence for sentence in objections(broken))


def test_a_wait_is_counted_from_coming_to_the_head() -> None:
    run = picks("HHLHHHHL" + "H" * 13)
    assert run.longest_wait(LOW) == fairness.Wait(13, 14.0, over=False)
    assert run.longest_wait(HIGH) == fairness.Wait(2, 2.0, over=True)
    assert any("the head of LOW waited 13 picks" in sentence for sentence in objections(run))


def test_an_unfair_share_is_caught_although_nobody_waits_long() -> None:
    sentences = objections(picks("HML" * 20))
    assert len(sentences) == 3
    assert "HIGH got 20 of 60 picks; its share is 50." in sentences[0]


def test_a_lane_that_ran_empty_makes_the_run_void() -> None:
    run = Run("made up", [Pick(HIGH, 0.0, 1.0, left=0)])
    assert "ran empty" in objections(run)[0]


def test_the_report_and_the_pictures_show_both_stages(
    improved: Run, final: Run, tmp_path: Path
) -> None:
    shown_to = io.StringIO()
    console = terminal(shown_to, width=80)
    assert fairness.report(console, [improved, final])
    assert not fairness.report(console, [final, improved])  # who is last is held to the promise
    fairness.draw(console, tmp_path, [improved, final])
    shown = shown_to.getvalue()
    assert "improved starves LOW and MEDIUM" in shown
    assert "final keeps its word" in shown
    assert "improved: LOW got 0 of 120 picks; its share is 10." in shown
    assert max(map(len, fairness_table(shown))) <= 80
    pictures = sorted(file.name for file in tmp_path.iterdir())
    expected = ["fairness-gantt.svg", "fairness-waits.svg"] if plots.is_possible() else []
    assert pictures == expected


def fairness_table(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if "%" in line]
