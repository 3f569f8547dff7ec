"""The reader's file: made from the stub, and what is remembered of it in ``build/ladder.json``.

For each file: with which source a step passed and when, which step is the next, how many hints
were given for it. Only sentences are made from this: whether a step passes is found out anew each
time.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.diff_stages import sections
from tests.ladder.grading import Candidate, Verdict
from tests.ladder.steps import ROOT, SOLUTIONS, STEPS, Step

FILE = ROOT / "mine" / "job_queue.py"
STUB = SOLUTIONS / "step00_stub.py"
MEMORY = ROOT / "build" / "ladder.json"


class NoSuchFile(ValueError):
    """There is nothing to grade; the message says what to do."""


def begin() -> bool:
    """Write the stub if there is no file yet; whether it did. An earlier one is forgotten."""
    if FILE.exists():
        return False
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(STUB.read_bytes())
    Memory(Candidate(FILE)).forget()
    return True


def reset() -> Path | None:
    """Begin anew; what there was is kept, and its new name is returned. A bare stub is not kept."""
    kept = None
    if FILE.exists() and FILE.read_bytes() != STUB.read_bytes():
        kept = FILE.with_name(f"job_queue.{time.strftime('%Y%m%d-%H%M%S')}.txt")
        FILE.replace(kept)
    FILE.unlink(missing_ok=True)
    begin()
    return kept


def candidate(path: Path | None) -> Candidate:
    """What is at ``path`` (None: ``mine/``); raises NoSuchFile for what cannot be graded."""
    if path is None:
        if not FILE.is_file():
            raise NoSuchFile("There is no mine/job_queue.py: make mine writes one to begin with.")
        # Files beside it are a part of it; a lone one is graded as such, so that it may be copied.
        alone = {each.name for each in FILE.parent.iterdir()} <= {FILE.name, "__pycache__"}
        path = FILE if alone else FILE.parent
    elif not path.exists():
        raise NoSuchFile(f"There is no {path}. Without FILE= it is mine/job_queue.py.")
    elif not path.is_dir() and not (path.is_file() and path.suffix == ".py"):
        raise NoSuchFile(f"{path} is no Python file: its name should end with .py.")
    elif path.is_dir() and not any(
        (path / name).exists() for name in ("job_queue.py", "__init__.py")
    ):
        raise NoSuchFile(f"The folder {path} has no job_queue.py, and is no package either.")
    return Candidate(Path(os.path.abspath(path)))  # a package has a name, also if called "."


def shown(path: Path) -> str:
    """A path as a reader would type it."""
    try:
        return path.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        return str(path)


class Memory:
    """What is known of one file from earlier runs."""

    def __init__(self, candidate: Candidate) -> None:
        self._name = shown(candidate.main)  # also where others are beside it now
        self._candidate = candidate
        self._passed: dict[str, dict[str, Any]] = {}
        self._hints: dict[str, int] = {}
        self.current = 0  # the step it was on, 0 if never graded
        # Never graded, or not written by us: nothing depends on it.
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            self._recall(self._all()[self._name])

    def remember(self, verdict: Verdict) -> list[Step]:
        """Take down what passes now; returns the steps that never did before."""
        new = []
        source = self._candidate.main.read_text(encoding="utf-8", errors="replace")
        for step in STEPS:
            if verdict.passes(step.rows):
                if str(step.number) not in self._passed:
                    new.append(step)
                self._passed[str(step.number)] = {"at": time.time(), "source": source}
        self.current = min(verdict.step + 1, len(STEPS))
        self._save()
        return new

    def broke(self, step: Step, story: str) -> str:
        """The sentence about a step that once passed; empty if it never did.

        story: what is told of the failure. The methods that it names are named first here, too.
        """
        before = self._passed.get(str(step.number))
        if before is None:
            return ""
        when = time.strftime("%H:%M", time.localtime(before["at"]))
        if time.time() - before["at"] > 20 * 3600:
            when = time.strftime("%H:%M on %d %B", time.localtime(before["at"]))
        now = self._candidate.main.read_text(encoding="utf-8", errors="replace")
        change = changes(before["source"], now, story)
        return f"Step {step.number} broke again. It passed at {when}; your change since: {change}."

    def hint(self, step: Step) -> int:
        """One more hint for ``step`` is given; returns which, and the last again after it."""
        number = min(self._hints.get(str(step.number), 0) + 1, len(step.hints))
        self._hints[str(step.number)] = number
        self._save()
        return number

    def forget(self) -> None:
        """The file begins anew."""
        self._passed, self._hints, self.current = {}, {}, 0
        self._save()

    def _recall(self, entry: dict[str, Any]) -> None:
        """Raises something if this is no entry; then nothing of it is taken over."""
        passed = {
            number: {"at": float(before["at"]), "source": str(before["source"])}
            for number, before in entry["passed"].items()
        }
        hints = {number: int(given) for number, given in entry["hints"].items()}
        self.current = range(len(STEPS) + 1).index(entry["current"])
        self._passed, self._hints = passed, hints

    def _all(self) -> dict[str, Any]:
        try:
            everything = json.loads(MEMORY.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never written, or not by us: nothing depends on it
            return {}
        return everything if isinstance(everything, dict) else {}

    def _save(self) -> None:
        entry = {"passed": self._passed, "hints": self._hints, "current": self.current}
        MEMORY.parent.mkdir(parents=True, exist_ok=True)
        everything = self._all() | {self._name: entry}
        unfinished = MEMORY.with_suffix(".tmp")  # it may be interrupted at any time
        unfinished.write_text(json.dumps(everything), encoding="utf-8")
        os.replace(unfinished, MEMORY)


def changes(before: str, after: str, story: str = "") -> str:
    """``+12 -3 in `_work`, and 2 more``: what ``story`` names first, then what changed most."""
    try:
        old, new = sections(before.splitlines()), sections(after.splitlines())
    except SyntaxError:
        old, new = {"the file": before.splitlines()}, {"the file": after.splitlines()}
    words = re.findall(r"\w+", story)
    counted = []
    for name in [*new, *(old.keys() - new.keys())]:
        lines = list(difflib.ndiff(old.get(name, []), new.get(name, [])))
        added, removed = (sum(line.startswith(sign) for line in lines) for sign in ("+ ", "- "))
        place = name.split(".")[-1]
        if added or removed:
            rank = words.index(place) if place in words else len(words)
            counted.append((rank, -added - removed, f"+{added} -{removed} in `{place}`"))
    counted.sort(key=lambda each: each[:2])
    more = [f"and {len(counted) - 3} more"] if len(counted) > 3 else []
    return ", ".join([*(text for _, _, text in counted[:3]), *more]) or "none in this file"
