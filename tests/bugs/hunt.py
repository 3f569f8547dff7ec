"""The hunt: a copy of the code with one bug in it, and pytest to say whether it is still there.

The copy has the stages and the suite, so that a student may run any test there. The tests are
copied anew before each check: it is the stage that is to be mended.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bugs.bug import Bug, zoo

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"

STAGES = ("naive", "improved", "final")
STRESS = "tests/suite/test_stress.py"
NOT_COPIED = ("bugs", "ladder", "benchmarks", "*.db*")

Watcher = Callable[[str, int], None]  # is told which test has run, and how many percent that makes


class NoHuntError(Exception):
    """There is no copy with a bug in it."""


def copy_of_everything(folder: Path, *, compiled: bool = False) -> Path:
    """The stages and the tests, without the zoo, in a folder of their own.

    compiled: with Python's compiled files, which save it a second, but name the files that
        they were made from, and not those of the copy.
    """
    for name in (*STAGES, "tests"):
        _copy(name, folder, compiled)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _copy(name: str, folder: Path, compiled: bool = False) -> None:
    ignored = NOT_COPIED if compiled else (*NOT_COPIED, "__pycache__")
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*ignored))


def pytest(*arguments: str) -> list[str]:
    """The command that runs tests in a copy. No cache: nothing of one run is left for the next."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", *arguments]


@dataclass
class Hunt:
    """A bug that a student is after, in ``build/hunt/``. hints: how many have been given."""

    bug: Bug
    hints: int = 0
    folder: Path = field(default_factory=lambda: BUILD / "hunt")

    @classmethod
    def begin(cls, number: int | None, *, at_random: bool = False) -> Hunt:
        """Plant a bug in a fresh copy: this one, or of those not solved yet the easiest."""
        hunt = cls(zoo()[number or _unsolved(at_random)])
        place, hunt.folder = hunt.folder, BUILD / "hunt-new"  # so it may be interrupted
        shutil.rmtree(hunt.folder, ignore_errors=True)
        copy_of_everything(hunt.folder)
        hunt.bug.plant(hunt.folder)
        (hunt.folder / "README.md").write_text(_readme(hunt.bug), encoding="utf-8")
        hunt._save()
        if place.exists():  # somebody's work: it is kept until the hunt after this one
            shutil.rmtree(BUILD / "hunt-before", ignore_errors=True)
            place.rename(BUILD / "hunt-before")
        hunt.folder = hunt.folder.rename(place)
        return hunt

    @classmethod
    def current(cls) -> Hunt:
        """The one that is going on; raises NoHuntError if none is."""
        hunt = cls(next(iter(zoo().values())))
        try:
            state = json.loads(hunt._state.read_text(encoding="utf-8"))
            hunt.bug, hunt.hints = zoo()[state["bug"]], int(state["hints"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            raise NoHuntError("No hunt is on. Begin one with: make hunt") from None
        return hunt

    def next_hint(self) -> int:
        """One more, if there is one; returns how many are given now."""
        self.hints = min(self.hints + 1, len(self.bug.hints))
        self._save()
        return self.hints

    def symptom(self) -> list[str]:
        """Run the test that catches the bug; what it complains of, and nothing once it passes."""
        shutil.rmtree(self.folder / "tests", ignore_errors=True)  # maybe somebody else did
        _copy("tests", self.folder)
        return self._run(["--timeout=15", self.bug.caught_by], lambda test, percent: None)

    def damage(self, watcher: Watcher, *, everything: bool = False) -> list[str]:
        """Run what else there is for this stage; what the first failing test complains of.

        The suite without its long stress test, and the file of the test that shows the bug:
        seconds, and not minutes. everything: all tests of the stage.
        """
        stage = self.bug.stage
        if everything:
            tests = ["tests/suite", f"tests/{stage}"]
        else:
            near = self.bug.caught_by.partition("::")[0]
            tests = ["tests/suite", "--deselect", STRESS, *[near] * ("/suite/" not in near)]
        return self._run(["-n", "2", *tests, "--stage", stage], watcher)

    def solved(self) -> list[int]:
        """Remember it; returns the numbers of all that were."""
        numbers = sorted({*numbers_solved(), self.bug.number})
        _solved().write_text(json.dumps(numbers), encoding="utf-8")
        return numbers

    def _run(self, arguments: list[str], watcher: Watcher) -> list[str]:
        command = pytest("-v", "--tb=short", "--color=no", *arguments)
        with subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout
            last_lines = deque(_watched(process.stdout, watcher), maxlen=400)
        return [] if process.returncode == 0 else _complaint(list(last_lines))

    @property
    def _state(self) -> Path:
        return self.folder / ".hunt.json"

    def _save(self) -> None:
        state = {"bug": self.bug.number, "hints": self.hints}
        self._state.write_text(json.dumps(state), encoding="utf-8")


def _solved() -> Path:
    return BUILD / "hunts-solved.json"


def numbers_solved() -> list[int]:
    """Of the bugs that were solved here."""
    try:
        solved = json.loads(_solved().read_text(encoding="utf-8"))
        return [number for number in solved if number in zoo()]
    except (FileNotFoundError, ValueError, TypeError):  # damaged: to solve one writes it anew
        return []


def _unsolved(at_random: bool) -> int:
    left = sorted(zoo().keys() - numbers_solved()) or sorted(zoo())
    return random.choice(left) if at_random else min(left, key=lambda n: (zoo()[n].level, n))


def _watched(output: Iterable[str], watcher: Watcher) -> Iterator[str]:
    for line in output:
        # As pytest says it, or as it does when several processes share the tests.
        if match := re.search(r"\[ *(\d+)%\]", line):
            test = re.search(r"\S+::\S+", line)
            watcher(test[0] if test else "", int(match[1]))
        yield line.rstrip()


def _complaint(lines: list[str]) -> list[str]:
    """Of all that pytest says: which test, at which line, and what it found there."""
    timeouts = [line for line in lines if "Timeout" in line and "+++" in line]
    failed = [line for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    if not failed and timeouts:
        return ["The test hung, and was stopped.", *_stack(lines)]
    errors = [line for line in lines if line.startswith("E  ")]
    return [*failed[:1], *errors[:12]] or lines[-12:]


def _stack(lines: list[str]) -> list[str]:
    """Of a test that hung: where its threads stood in the code of the stages."""
    places = [line.strip() for line in lines if re.search(r"/(improved|final)/\w+\.py", line)]
    return list(dict.fromkeys(places))[-8:]


def _readme(bug: Bug) -> str:
    return f"""# {bug.title}

{bug.story}

## What you see

{bug.symptom}

The test that shows it, to be run in this folder:

    python -m pytest "{bug.caught_by}"

(In the copy, `build/hunt/`. The quotes are needed: shells read brackets.)

## What to do

Somewhere in `{bug.stage}/` of this folder there is a bug of one idea and a few lines. Find it,
mend it here, and ask whether it is gone:

| make | without make, in the folder of the repository | |
| --- | --- | --- |
| `make hunt-check` | `python -m tests.bugs check` | is it fixed, and nothing else broken? |
| `make hunt-hint` | `python -m tests.bugs hint` | three, each says more than the one before |
| `make hunt-solution` | `python -m tests.bugs solution` | the fix, and what is to be learned |
"""
