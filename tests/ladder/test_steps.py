"""The ladder is right: each solution stands on its step and not on the next, each bug falls.

``make test`` climbs all of it with the last solution, and with each other one the step that it
makes and the next. ``LADDER=full`` (``make ladder``) climbs all of it with each, and so with each
planted bug, and not only with some of them the row that names it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.bugs.bug import Bug, zoo
from tests.diff_stages import sections
from tests.expectations import CAPABILITIES
from tests.ladder import measure, worked
from tests.ladder.grading import Candidate, Limits, grade
from tests.ladder.rows import WORDS
from tests.ladder.seeing import ASKED_FROM
from tests.ladder.steps import ROOT, ROWS, SOLUTIONS, STEPS, Step, step_of

pytestmark = pytest.mark.timeout(300)  # the machine may be busy with other things

FULL = os.environ.get("LADDER") == "full"
# On a machine that is busy with other tests; what passes is no slower for it.
PATIENT = Limits(deadline=8.0, test=60.0)


def row_of(bug: Bug) -> str:
    """The row of the suite whose test catches a bug; empty if another test does."""
    found = re.match(r"tests/suite/test_(\w+)\.py", bug.caught_by)
    return found[1].replace("_", "-") if found else ""


BUGS = [
    pytest.param(bug, id=str(bug.number))
    for bug in zoo().values()
    if bug.stage == "improved" and row_of(bug)
][:: 1 if FULL else 3]


class TestList:
    def test_each_row_that_takes_no_database_belongs_to_one_step(self) -> None:
        rows = sorted(row.name for row in CAPABILITIES.values() if not row.is_absent("final"))
        assert sorted(ROWS) == rows
        assert sorted(WORDS) == rows

    @pytest.mark.parametrize("step", STEPS, ids=str)
    def test_a_step_says_all_there_is_to_say(self, step: Step) -> None:
        assert STEPS[step.number - 1] is step
        assert all((step.story, step.asks, step.predict, step.learned, step.minutes))
        assert step.solution.exists()
        assert (ROOT / step.read).exists()
        # The last hint names a line of a stage or a solution.
        assert re.search(r"\w+\.py:\d+ \(", step.hint(3))
        known = sections(worked._lines(step.solution)) if not step.stars else {}
        assert set(step.idea) <= known.keys()

    def test_options_are_asked_for_by_steps(self) -> None:
        for option, number in ASKED_FROM.items():
            assert option.partition("(")[2].rstrip("=)") in STEPS[number - 1].asks

    def test_the_document_has_the_same_list(self) -> None:
        page = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
        assert worked.table() in page, f"Put this into docs/ladder.md:\n{worked.table()}"

    def test_two_of_the_solutions_are_stages_byte_for_byte(self) -> None:
        for number, stage in ((1, "naive"), (7, "improved")):
            theirs = (ROOT / stage / "job_queue.py").read_bytes()
            assert STEPS[number - 1].solution.read_bytes() == theirs

    def test_each_step_is_small(self) -> None:
        for step in STEPS[:-1]:
            added, removed = worked.size(step)
            assert added + removed < 90, step
        assert len(worked._lines(SOLUTIONS / "step13_durable.py")) < 660


@pytest.mark.slow
class TestClimbing:
    def test_the_stub_passes_nothing(self) -> None:
        rows = ROWS if FULL else [step.rows[0] for step in STEPS]
        verdict = grade(Candidate(SOLUTIONS / "step00_stub.py"), rows, to_the_end=True)
        assert [row.name for row in verdict.rows.values() if row.passed] == []
        assert len(verdict.rows) == len(rows)

    @pytest.mark.parametrize("step", STEPS[:-1], ids=str)
    def test_a_solution_passes_its_step_and_fails_the_next(self, step: Step) -> None:
        rows = ROWS if FULL or step == STEPS[-2] else (*step.rows, *STEPS[step.number].rows)
        verdict = grade(Candidate(step.solution), rows, limits=PATIENT)
        assert verdict.passes(rows[: rows.index(STEPS[step.number].rows[0])]), verdict.failed
        assert verdict.failed
        assert step_of(verdict.failed.name).number == step.number + 1
        assert verdict.failed.seen
        assert (verdict.reaches, verdict.notes) == ([], [])

    def test_final_passes_all(self) -> None:
        rows = ROWS if FULL else STEPS[-1].rows[:3]  # all others: its column of the scoreboard
        verdict = grade(Candidate(ROOT / "final"), rows, to_the_end=True, limits=PATIENT)
        assert verdict.failed is None
        assert list(verdict.rows) == list(rows)

    @pytest.mark.parametrize("bug", BUGS)
    def test_a_bug_of_the_zoo_fails_where_it_is_named(self, bug: Bug, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "improved", tmp_path / "improved")
        bug.plant(tmp_path)
        row = row_of(bug)
        candidate = Candidate(tmp_path / "improved" / "job_queue.py")
        verdict = grade(candidate, ROWS if FULL else [row], limits=Limits(deadline=1.5))
        assert verdict.failed
        assert step_of(verdict.failed.name).number <= step_of(row).number
        if FULL:
            verdict = grade(candidate, [row])
        assert verdict.failed
        assert verdict.failed.name == row


class TestMeasuring:
    def test_the_table_goes_between_its_marks(self) -> None:
        page = measure.PAGE.read_text(encoding="utf-8")
        again = measure.with_table(page, "| a table |")
        assert "<!-- measured:begin -->\n\n| a table |\n\n<!-- measured:end -->" in again
        assert measure.with_table(again, _between(page)) == page
        with pytest.raises(ValueError, match="its marks are gone"):
            measure.with_table("# Another page", "")

    def test_each_queue_is_measured(self) -> None:
        for module, options in measure.QUEUES.values():
            assert measure.rate(module, options, producers=2, seconds=0.05) > 0


def _between(page: str) -> str:
    return page.partition("<!-- measured:begin -->\n\n")[2].partition("\n\n<!-- measured:end")[0]
