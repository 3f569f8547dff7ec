"""Every bug of the zoo is caught, by the very test that its page names.

Each bug is planted in a copy of the code, and that one test runs there, in a process of its own:
it must fail. The same tests, without a bug, must pass.
"""

from __future__ import annotations

import ast
import compileall
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bugs.bug import Bug, PatchError, Place, zoo
from tests.bugs.hunt import ROOT, copy_of_everything
from tests.runs import Run, Runs

# The machine may be busy with other things: this is for all that a test waits for.
pytestmark = pytest.mark.timeout(200)

BUGS = [pytest.param(bug, id=f"{bug.number}") for bug in zoo().values()]


class TestCatching:
    @pytest.mark.slow
    @pytest.mark.parametrize("bug", BUGS)
    def test_the_test_that_a_page_names_catches_its_bug(
        self, bug: Bug, copy: Path, runs: Runs, tmp_path: Path
    ) -> None:
        bug.plant(copy)
        run = run_tests(runs, copy, tmp_path, 2, bug.caught_by)  # what hangs is cut off soon
        for place in bug.places:
            shutil.copy2(ROOT / place.file, copy / place.file)
        hung = "+++ Timeout +++" in run.output
        caught = run.code == 1 and (hung or "1 failed" in run.output)
        assert caught, f"{bug.caught_by} did not catch {bug}:\n{run.output[-4000:]}"

    def test_the_same_tests_pass_without_a_bug(
        self, copy: Path, runs: Runs, tmp_path: Path
    ) -> None:
        tests = sorted({bug.caught_by for bug in zoo().values()})
        run = run_tests(runs, copy, tmp_path, 20, *tests)
        assert run.code == 0, run.output[-4000:]
        assert f"{len(tests)} passed" in run.output  # none was left out


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bugs are planted, and taken out again; compiled once for all of them."""
    copy = copy_of_everything(tmp_path_factory.mktemp("zoo"), compiled=True)
    compileall.compile_dir(copy, quiet=2)
    return copy


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Nothing is compiled to a file: a bug that is planted within a second of another, and is as
    long, would be taken for that one.
    """
    with Runs(PYTHONDONTWRITEBYTECODE="1") as runs:
        yield runs


def run_tests(runs: Runs, root: Path, scratch: Path, timeout: int, *tests: str) -> Run:
    """Without the rewriting of asserts, which takes long.

    timeout: seconds for each test, after which it counts as failed.
    """
    options = ("-q", "-x", "--tb=line", "--assert=plain", "-p", "no:cacheprovider")
    limits = ("-p", "pytest_timeout", f"--timeout={timeout}", f"--basetemp={scratch / 'pytest'}")
    return runs.run(root, scratch / "output", *options, *limits, *tests)


def functions_around(place: Place) -> list[str]:
    """The functions that the first changed line is in, the outermost first."""
    source = (ROOT / place.file).read_text(encoding="utf-8")
    right, wrong = place.right.splitlines(), place.wrong.splitlines()
    pairs = enumerate(itertools.zip_longest(right, wrong))
    changed = next(n for n, (before, after) in pairs if before != after)
    line = source[: source.index(place.right)].count("\n") + 1 + min(changed, len(right) - 1)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    around = [f for f in functions if f.lineno <= line <= (f.end_lineno or 0)]
    return [f.name for f in sorted(around, key=lambda f: f.lineno)]


class TestPages:
    def test_bugs_are_numbered_without_gaps(self) -> None:
        assert list(zoo()) == list(range(1, len(zoo()) + 1))
        assert len(zoo()) >= 20

    @pytest.mark.parametrize("bug", BUGS)
    def test_a_page_says_all_there_is_to_say(self, bug: Bug) -> None:
        assert bug.stage in ("improved", "final")
        assert len(bug.hints) == 3
        assert bug.places, "its diff changes nothing"
        for place in bug.places:
            assert place.file.startswith(f"{bug.stage}/")
            assert place.right != place.wrong
        assert bug.level in (1, 2, 3)
        assert all((bug.title, bug.story, bug.symptom, bug.lesson))

    @pytest.mark.parametrize("bug", BUGS)
    def test_the_last_hint_names_every_place(self, bug: Bug) -> None:
        """A hint must not lead to one of two places, and be silent about the other."""
        for place in bug.places:
            functions = functions_around(place)
            assert any(f in bug.hints[2] for f in functions or [place.file]), functions

    def test_a_patch_that_no_longer_applies_says_so_in_a_sentence(self, tmp_path: Path) -> None:
        bug = zoo()[1]
        copy_of_everything(tmp_path)
        bug.plant(tmp_path)
        with pytest.raises(PatchError, match=r"^bug 1 .* no longer applies: improved/job_queue"):
            bug.plant(tmp_path)
