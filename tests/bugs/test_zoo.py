"""Every bug of the zoo is caught, by the very test that its page names.

Each bug is planted in a copy of the code, and that one test runs there, in a process of its own:
it must fail. The same tests, without a bug, must pass.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bugs.bug import Bug, PatchError, zoo
from tests.bugs.hunt import ROOT, copy_of_everything
from tests.bugs.hunt import pytest as pytest_command

# The machine may be busy with other things: this is for all that a test waits for.
pytestmark = pytest.mark.timeout(200)

PATIENCE = 90.0  # seconds for one test in its process; none takes a tenth of it

BUGS = [pytest.param(bug, id=f"{bug.number}") for bug in zoo().values()]


class TestCatching:
    @pytest.mark.parametrize("bug", BUGS)
    def test_the_test_that_a_page_names_catches_its_bug(
        self, bug: Bug, copy: Path, tmp_path: Path
    ) -> None:
        bug.plant(copy)
        run = run_tests(copy, tmp_path, 2, bug.caught_by)  # a bug that hangs is cut off soon
        for place in bug.places:
            shutil.copy2(ROOT / place.file, copy / place.file)
        hung = "+++ Timeout +++" in run.stdout + run.stderr
        caught = run.returncode == 1 and (hung or "1 failed" in run.stdout)
        assert caught, (
            f"{bug.caught_by} did not catch {bug}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
        )

    def test_the_same_tests_pass_without_a_bug(self, copy: Path, tmp_path: Path) -> None:
        tests = sorted({bug.caught_by for bug in zoo().values()})
        run = run_tests(copy, tmp_path, 20, *tests)
        assert run.returncode == 0, run.stdout[-4000:]
        assert f"{len(tests)} passed" in run.stdout  # none was left out


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bugs are planted, and taken out again; compiled once for all of them."""
    copy = copy_of_everything(tmp_path_factory.mktemp("zoo"), compiled=True)
    compileall.compile_dir(copy, quiet=2)
    return copy


def run_tests(
    root: Path, scratch: Path, timeout: int, *tests: str
) -> subprocess.CompletedProcess[str]:
    """``timeout``: seconds for each test, after which it counts as failed.

    Without the plugins and the rewriting of asserts, which cost most of a second each time. And
    nothing is compiled to a file: a bug that is planted within a second of another, and is as
    long, would be taken for that one.
    """
    options = ("-q", "--tb=line", "--assert=plain", "-p", "pytest_timeout", f"--timeout={timeout}")
    return subprocess.run(
        pytest_command(*options, f"--basetemp={scratch / 'pytest'}", *tests),
        cwd=root,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=PATIENCE,
    )


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
        assert all((bug.title, bug.story, bug.symptom, bug.lesson))

    def test_a_patch_that_no_longer_applies_says_so_in_a_sentence(self, tmp_path: Path) -> None:
        bug = zoo()[1]
        copy_of_everything(tmp_path)
        bug.plant(tmp_path)
        with pytest.raises(PatchError, match=r"^bug 1 .* no longer applies: improved/job_queue"):
            bug.plant(tmp_path)
