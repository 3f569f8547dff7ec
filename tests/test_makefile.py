"""The Makefile keeps its promises: every target is listed by ``make help``, in one line."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def test_every_target_says_what_it_does() -> None:
    (phony,) = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", MAKEFILE, re.M)
    targets = phony.replace("\\", "").split()
    described = dict(re.findall(r"^([a-z-]+):.*  ## (.+)$", MAKEFILE, re.M))
    assert sorted(described) == sorted(targets)
    # As `make help` prints them: no wider than a terminal.
    assert [name for name in targets if len(f"  make {name:14} {described[name]}") > 80] == []


def test_nothing_in_it_is_newer_than_make_3_81() -> None:
    """macOS ships that one, and it meets what it does not know with odd errors."""
    newer = re.findall(r"\.ONESHELL|\.RECIPEPREFIX|\$\(file |\$\(guile |!=|::=|undefine", MAKEFILE)
    assert newer == []


@needs_make
def test_help_begins_with_the_few_that_one_needs_first() -> None:
    beginning, _, rest = make("help").stdout.partition("more:")
    (first,) = re.findall(r"^FIRST := (.+)$", MAKEFILE, re.M)
    assert sorted(re.findall(r"^  make ([a-z-]+)", beginning, re.M)) == sorted(first.split())
    assert not set(first.split()) & set(re.findall(r"^  make ([a-z-]+)", rest, re.M))


@needs_make
@pytest.mark.parametrize(("word", "is_on"), [("1", True), ("0", False), ("", False)])
@pytest.mark.parametrize(
    ("target", "option", "argument"),
    [
        ("naive", "HARD", "--hard"),
        ("mine", "WATCH", "--watch"),
        ("mine-diff", "ANYWAY", "--anyway"),
        ("hunt", "RANDOM", "--random"),
        ("hunt-check", "FULL", "--all"),
    ],
)
def test_an_option_is_on_or_off(
    target: str, option: str, argument: str, word: str, is_on: bool
) -> None:
    assert (argument in make("--dry-run", target, f"{option}={word}").stdout) is is_on


@needs_make
def test_grade_without_a_folder_does_not_mean_this_one() -> None:
    assert "--dir" not in make("--dry-run", "grade").stdout


@needs_make
def test_from_elsewhere_it_makes_nothing_and_says_where_to_go(tmp_path: Path) -> None:
    ended = make("-f", str(ROOT / "Makefile"), "setup", folder=tmp_path)
    assert ended.returncode == 2
    assert f"make -C {ROOT}" in ended.stderr
    assert list(tmp_path.iterdir()) == []
