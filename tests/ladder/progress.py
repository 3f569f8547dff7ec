"""``make progress``: what you have done here, and the one next thing.

Read from what the other commands keep: the ladder's own memory, ``build/hunts-solved.json``,
``.interview.json``, and the outputs stored in the notebooks. The days are those of
docs/syllabus.md.

But: it does not grade. Whether your file still passes is for ``make mine`` to say.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from docs.interview.progress import FILE as ANSWERS
from docs.interview.progress import BadProgress, Progress
from docs.interview.questions import every_question, topics
from tests.bugs import hunt
from tests.bugs.bug import zoo
from tests.ladder import mine
from tests.ladder.grading import Candidate
from tests.ladder.mine import Memory
from tests.ladder.showing import Page
from tests.ladder.steps import ROOT, STEPS


class NoNotebook(ValueError):
    """It cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Done:
    """step: the last that passed. notebooks: the numbers of those that are solved."""

    step: int
    hunts: int
    answers: int
    notebooks: frozenset[int]


@dataclass(frozen=True)
class Day:
    """What is done at the end of a day of the week in docs/syllabus.md."""

    step: int = 0
    hunts: int = 0
    answers: int = 0
    notebooks: tuple[int, ...] = ()

    def missing(self, done: Done) -> str:
        """The first thing to do for this day; empty when it is done."""
        if left := [number for number in self.notebooks if number not in done.notebooks]:
            return f"make notebooks, and the exercises of notebook {left[0]}"
        if done.step < self.step:
            return next_step(done)
        if done.hunts < self.hunts:
            return f"make hunt: {self.hunts - done.hunts} more"
        if done.answers < self.answers:
            return f"make interview: {self.answers - done.answers} more questions"
        return ""


DAYS = (
    Day(step=2, notebooks=(1,)),
    Day(step=5, hunts=2, notebooks=(2,)),
    Day(step=7, hunts=5, notebooks=(3, 4)),
    Day(step=9, hunts=5, notebooks=(5, 6)),
    Day(step=11, hunts=8, notebooks=(7, 8)),
    Day(step=13, hunts=10),
    Day(step=13, hunts=10, answers=16, notebooks=(9,)),
)


def command(page: Page, chosen: argparse.Namespace) -> int:
    solved, exercises = exercises_solved(ROOT / "notebooks")
    done = Done(step_reached(), len(hunt.numbers_solved()), answered(), frozenset(
        number for number, (right, of) in solved.items() if right == of
    ))  # fmt: skip
    day, what = next_thing(done)
    right = sum(count for count, _ in solved.values())
    page.facts(
        [
            ("Steps", f"{done.step} of {len(STEPS) - 1}, and the stars"),
            ("Bugs", f"{done.hunts} of {len(zoo())} hunted down"),
            ("Interview", f"{done.answers} of {len(list(every_question(topics())))} answered"),
            ("Notebooks", f"{right} of {exercises} exercises, as they were last saved"),
            ("Syllabus", f"day {day} of {len(DAYS)}" if what else "the whole week"),
            ("Next", what or "make mine: the stars"),
        ]
    )
    page.blank()
    return 0


def next_thing(done: Done) -> tuple[int, str]:
    """The day that is not done yet, and what to do; the last day and nothing if all are.

    Whoever is further up the ladder than that day asks goes on there.
    """
    for number, day in enumerate(DAYS, start=1):
        if what := day.missing(done):
            ahead = day.step < done.step < len(STEPS) - 1
            return number, next_step(done) if ahead else what
    return len(DAYS), ""


def next_step(done: Done) -> str:
    step = STEPS[done.step]
    return f"make mine: step {step.number}, {step.title} ({step.minutes} minutes)"


def step_reached() -> int:
    """Where `make mine` was when it last ran."""
    if not mine.FILE.exists():
        return 0
    return max(Memory(Candidate(mine.FILE)).current - 1, 0)


def answered() -> int:
    """Questions that were known, or partly."""
    try:
        progress = Progress(ANSWERS)
    except BadProgress:
        return 0
    return sum(progress.rating(q) in ("knew it", "partly") for q in every_question(topics()))


def exercises_solved(folder: Path) -> tuple[dict[int, tuple[int, int]], int]:
    """For each notebook how many of its checks say "Right.", and how many it has; and all."""
    counts = {}
    for notebook in sorted(folder.glob("0*.ipynb")):
        try:
            cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
            checks = [c for c in cells if "check" in c.get("metadata", {}).get("tags", ())]
        except (ValueError, KeyError, TypeError, AttributeError):
            name = mine.shown(notebook)
            raise NoNotebook(
                f"{name} is no notebook any more: `git checkout {name}` brings it back, without "
                "your answers."
            ) from None
        right = sum("Right." in json.dumps(cell.get("outputs", [])) for cell in checks)
        counts[int(notebook.name[:2])] = right, len(checks)
    return counts, sum(of for _, of in counts.values())
