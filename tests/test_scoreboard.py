"""The scoreboard plugin, by real runs of pytest on small suites made for the occasion.

What must be seen: a rule of the suite that is broken turns the run red and says why.
"""

from __future__ import annotations

import itertools
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import matrix, pages
from tests.expectations import CAPABILITIES, COLUMNS, FLAWS
from tests.ledger import ROOT, where
from tests.results import Case, Outcome, Results
from tests.runs import Runs
from tests.scoreboard import ON_PURPOSE

# The machine may be busy with other things: this is for all that a test waits for.
pytestmark = pytest.mark.timeout(200)

FAILED, USAGE_ERROR, NOTHING_RAN = 1, 4, 5


class Suite:
    """A suite in a folder of its own, run by the plugin and the fixtures of this repo."""

    def __init__(self, folder: Path, runs: Runs) -> None:
        self.folder = folder
        self._runs = runs
        (folder / "tests" / "suite").mkdir(parents=True)
        shutil.copy(ROOT / "pyproject.toml", folder)

    def add(self, capability: str | None, body: str, arguments: str = "stage") -> None:
        """Add a test; without a ``capability`` it names none."""
        mark = f"@pytest.mark.capability({capability!r})\n" if capability else ""
        name = (capability or "nothing").replace("-", "_")
        code = f"import pytest\n\n\n{mark}def test_{name}({arguments}):\n    {body}\n"
        (self.folder / "tests" / "suite" / f"test_{name}.py").write_text(code, encoding="utf-8")

    def run(self, *options: str, **environment: str) -> tuple[int, str]:
        """Run it; returns the exit code and what there is to read."""
        plugins = ("-p", "tests.conftest", "-p", "pytest_timeout")
        output = self.folder / "output"
        return self._runs.run(self.folder, output, *plugins, "tests", *options, **environment)


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    # With CI pytest says each failure twice, in its summary in full length too.
    with Runs(PYTHONPATH=str(ROOT), CI="") as runs:
        yield runs


@pytest.fixture
def suite(tmp_path: Path, runs: Runs) -> Suite:
    return Suite(tmp_path, runs)


# What a test of the suite must say about itself


def test_a_test_without_a_capability_is_a_collection_error(suite: Suite) -> None:
    suite.add(None, "pass")
    code, output = suite.run()
    assert code == USAGE_ERROR
    assert "test_nothing.py::test_nothing[naive] must name the one capability" in output


def test_a_capability_without_a_row_is_a_collection_error(suite: Suite) -> None:
    suite.add("teleport", "pass")
    code, output = suite.run("--scoreboard")
    assert code == USAGE_ERROR
    assert "'teleport', which has no row in tests/expectations.py" in output


def test_a_stage_without_a_column_is_a_collection_error(suite: Suite) -> None:
    suite.add("fifo", "pass", arguments="")
    code, output = suite.run()
    assert code == USAGE_ERROR
    assert "the stage None, which has no column" in output


def test_the_rules_hold_for_tests_that_were_not_selected(suite: Suite) -> None:
    suite.add("fifo", "pass")
    suite.add(None, "pass")
    assert suite.run("-k", "fifo")[0] == USAGE_ERROR


# What counts as a pass, a known flaw and a surprise


def test_a_known_flaw_that_shows_is_no_failure(suite: Suite) -> None:
    suite.add("priority", "assert stage.name != 'naive', 'last in line'")
    code, output = suite.run("--scoreboard")
    assert code == 0
    assert "urgent jobs run first                     ✗ N2     ✓        ✓" in output
    assert "N2  ✗ naive" in output
    assert "last in line" in output
    assert "naive: 0 pass, 1 known flaws shown, 0 surprises" in output
    assert "final: 1 pass, 0 known flaws shown, 0 surprises" in output


@pytest.mark.parametrize("option", ["--scoreboard", "--hard", "-q"])
def test_a_known_flaw_that_shows_otherwise_is_a_surprise(suite: Suite, option: str) -> None:
    suite.add("priority", "pass")
    suite.add("retry", "raise TypeError('oops')")
    suite.add("backoff", "pytest.skip('later')")
    suite.add("dead-letter", "pytest.xfail('it is known')")
    code, output = suite.run("--stage", "naive", option)
    text = " ".join(output.split())
    assert code == FAILED
    assert text.count("Known flaw N2 of naive did not show") == 1
    assert text.count("Known flaw N5 of naive must show as a failed assertion, and this is a") == 1
    assert text.count("A test of the suite does not skip or give up") == 2
    assert "4 failed" in text or "0 pass, 0 known flaws shown, 4 surprises" in text


def test_a_feature_that_was_never_promised_is_no_failure_and_no_flaw(suite: Suite) -> None:
    suite.add("cancel", "stage.queue(print).cancel('a') if stage.name != 'final' else 0")
    suite.add("schedule", "stage.job(run_at=1)")
    suite.add("fifo", "pass")
    code, output = suite.run("--scoreboard", "--stage", "naive,improved,final")
    assert code == 0
    assert "a job that waits can be called off        —        —        ✓" in output
    assert "a job can wait for its time               —        —        ✓" in output
    assert "in total                                  1 of 1   1 of 1   3 of 3" in output
    assert "— not in this stage; docs/scoreboard.md says what to do instead" in output
    assert "naive: 1 pass, 0 known flaws shown, 0 surprises; 2 not in this stage" in output
    assert "final: 3 pass, 0 known flaws shown, 0 surprises " in output


@pytest.mark.parametrize("option", ["--scoreboard", "--hard", "-q"])
def test_a_feature_that_is_absent_for_another_reason_is_a_surprise(
    suite: Suite, option: str
) -> None:
    suite.add("cancel", "pass")  # the stage has it after all
    suite.add("schedule", "assert stage.job() is None")
    suite.add("results", "stage.queue(print).dead_letters()")  # needs map()
    suite.add("events", "stage.queue(print).metrics()")  # that is a flaw, and not its own
    suite.add("timeout", "pytest.skip('later')")
    code, output = suite.run("--stage", "naive", option)
    text = " ".join(output.split())
    assert code == FAILED
    for needs in ("cancel()", "Job(run_at=)", "map()", "subscribe()"):
        assert text.count(f"naive was never meant to have {needs}, and this test did not fail") == 1
    assert text.count("A test of the suite does not skip or give up") == 1
    assert "5 failed" in text or "0 pass, 0 known flaws shown, 5 surprises" in text


def test_a_flaw_is_not_shown_by_a_feature_that_is_absent(suite: Suite) -> None:
    suite.add("priority", "stage.queue(print, overflow='reject')")
    code, output = suite.run("--stage", "naive", "--scoreboard")
    assert code == FAILED
    assert "and this is a NotInThisStage" in " ".join(output.split())


def test_a_feature_that_final_has_lost_is_a_surprise(suite: Suite) -> None:
    suite.add("cancel", "stage.queue(print).annul('a')")
    code, output = suite.run("--stage", "final", "--scoreboard")
    assert code == FAILED
    text = " ".join(output.split())
    assert "final should pass here (a job that waits can be called off) and does not." in text
    assert "NotInThisStage: final has no annul()." in text


def test_a_fixture_that_fails_shows_no_flaw(suite: Suite) -> None:
    suite.add("priority", "pass", arguments="stage, broken")
    with (suite.folder / "tests" / "suite" / "test_priority.py").open("a") as file:
        file.write("\n\n@pytest.fixture\ndef broken():\n    assert False\n")
    code, output = suite.run("--stage", "naive", "--scoreboard")
    assert code == FAILED
    assert "The setup of this test failed, so it proves nothing about naive." in output


def test_a_capability_that_fails_is_a_surprise(suite: Suite) -> None:
    suite.add("fifo", "assert ['b', 'a'] == ['a', 'b']")
    code, output = suite.run("--stage", "final", "--scoreboard")
    assert code == FAILED
    assert "first in, first out within a lane         !" in output
    assert "final should pass here (first in, first out within a lane) and does not." in output
    assert "E       AssertionError: assert ['b', 'a'] == ['a', 'b']" in output
    assert "final: 0 pass, 0 known flaws shown, 1 surprise" in output


# SIGALRM is what pytest-timeout uses for the method "signal", and Windows has none.
@pytest.mark.parametrize("method", ["thread", *(["signal"] if hasattr(signal, "SIGALRM") else [])])
def test_a_test_that_hangs_shows_no_flaw(suite: Suite, method: str) -> None:
    suite.add("priority", "import threading; threading.Event().wait()")
    code, output = suite.run(
        *("--scoreboard", "--stage", "naive", "--timeout", "1", "--timeout-method", method)
    )
    assert code == FAILED
    assert "threading.Event().wait()" in output  # where it hangs
    assert "naive: urgent jobs run first" in output or "Known flaw N2 of naive must" in output


def test_a_failure_outside_the_suite_is_a_surprise(suite: Suite) -> None:
    (suite.folder / "tests" / "test_other.py").write_text("def test_other():\n    assert 1 == 2\n")
    suite.add("fifo", "pass")
    code, output = suite.run("--scoreboard")
    assert code == FAILED
    assert "A test outside tests/suite/ failed." in output
    assert "assert 1 == 2" in output


# --hard


def test_hard_says_why_where_and_what_to_read(suite: Suite) -> None:
    suite.add("priority", "assert stage.name != 'naive'")
    suite.add("fifo", "pass")
    suite.add("cancel", "stage.queue(print).cancel('a')")  # to lack a feature is no flaw
    code, output = suite.run("--stage", "naive", "--hard", "--scoreboard")
    assert code == ON_PURPOSE
    assert output.rstrip().splitlines()[-1].startswith("All that failed did so on purpose")
    assert f"why    N2: {FLAWS['N2'].what}\n" in output
    assert f"where  {where(FLAWS['N2'])}\n" in output
    assert "fix    improved has it: read improved/job_queue.py:" in output
    assert "naive: 1 pass, 1 known flaws shown, 0 surprises; 1 not in this stage" in output
    assert "1 failed, 1 passed, 1 xfailed" in output


def test_hard_shows_the_flaws_in_their_order(suite: Suite) -> None:
    suite.add("metrics", "assert stage.name != 'naive'")
    suite.add("worker-survival", "assert stage.name != 'naive'")
    suite.add("priority", "assert stage.name != 'naive'")
    _, output = suite.run("--stage", "naive", "--hard")
    shown = re.findall(r"^why    (\w+):", output, re.MULTILINE)
    assert shown == ["N2", "N6", "N7"]


# --scoreboard


def test_the_columns_fit_a_terminal_of_80() -> None:
    results = Results(list(COLUMNS))
    for row, stage in itertools.product(CAPABILITIES.values(), COLUMNS):
        results.record(Case(row, stage), Outcome.FLAW if row.flaw(stage) else Outcome.PASS, [])
    board = matrix.matrix(results, matrix.UNICODE).plain.splitlines()
    assert board[-1].endswith(f" {len(CAPABILITIES)} of {len(CAPABILITIES)}")
    assert max(map(len, board)) < 80  # some terminals wrap after 79


def test_one_stage_is_one_column_and_what_did_not_run_is_blank(suite: Suite) -> None:
    suite.add("fifo", "pass")
    suite.add("retry", "assert False")
    code, output = suite.run("--stage", "naive", "--scoreboard", "-k", "retry")
    assert code == 0
    assert "improved" not in output.splitlines()[3]
    assert "first in, first out within a lane         ·\n" in output
    assert "a failed job is tried again               ✗ N5\n" in output
    assert "in total                                  0 of 1\n" in output


def test_a_terminal_that_cannot_show_the_signs_gets_letters(suite: Suite) -> None:
    suite.add("priority", "assert stage.name != 'naive', 'ou est-elle passée ?'")
    suite.add("schedule", "stage.job(run_at=1)")
    code, output = suite.run("--scoreboard", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert code == 0
    assert "a job can wait for its time               -        -        ok" in output
    assert "urgent jobs run first                     x N2     ok       ok" in output
    assert output.isascii()


def test_nothing_to_run_says_what_there_is(suite: Suite) -> None:
    suite.add("fifo", "pass")
    code, output = suite.run("--scoreboard", "-k", "teleport")
    assert code == NOTHING_RAN
    assert "worker_survival" in output


def test_a_file_that_cannot_be_read_is_shown_as_pytest_shows_it(suite: Suite) -> None:
    suite.add("fifo", "for")
    code, output = suite.run("--scoreboard")
    assert code != 0
    assert "SyntaxError" in output


# --write-docs


@pytest.mark.slow
def test_a_full_run_writes_the_pages_and_only_once(suite: Suite) -> None:
    readme = suite.folder / pages.README
    readme.write_text(f"Above.\n{pages.BEGIN}\n{pages.END}\nBelow.\n", encoding="utf-8")
    for name in CAPABILITIES:
        suite.add(name, FAITHFUL, arguments="stage, evidence")

    code, output = suite.run("--scoreboard", "--write-docs")
    assert code == 0, output
    assert "Updated README.md, docs/scoreboard.md, docs/flaws.md." in output
    assert readme.read_text(encoding="utf-8").startswith("Above.\n")
    assert readme.read_text(encoding="utf-8").endswith("Below.\n")
    assert "| [Priority](docs/scoreboard.md#priority) | 1 of 2 | 1 of 2 | 2 of 2 | 2 of 2 |" in (
        readme.read_text(encoding="utf-8")
    )
    measured = suite.folder / pages.SCOREBOARD
    first = measured.read_text(encoding="utf-8")
    assert "- ✗ naive (N2): on process " in first
    assert "- no `cancel()` in naive and improved: the handler can look" in first

    # The evidence of a second run differs, and is no reason to write.
    code, output = suite.run("--scoreboard", "--write-docs")
    assert code == 0
    assert "Updated" not in output
    assert measured.read_text(encoding="utf-8") == first


def test_a_run_that_is_not_full_writes_nothing(suite: Suite) -> None:
    suite.add("fifo", "pass")
    code, output = suite.run("--scoreboard", "--write-docs")
    assert code == 0
    assert "Wrote no docs" in output
    assert not (suite.folder / "docs").exists()


# The body of a test that does what expectations.py says, and measures something new each time.
FAITHFUL = """import os
    from tests.expectations import CAPABILITIES
    from tests.stages import NotInThisStage
    evidence(f"on process {os.getpid()}")
    name = os.environ["PYTEST_CURRENT_TEST"].split("test_")[-1].split("[")[0]
    row = CAPABILITIES[name.replace("_", "-")]
    if row.is_absent(stage.name):
        raise NotInThisStage(stage.name, row.needs)
    assert row.flaw(stage.name) is None"""
