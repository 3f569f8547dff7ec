"""A bug: a page in ``zoo/``, and a few lines to be changed in a copy of a stage.

A page is Markdown, and reads from top to bottom like the incident that it tells of::

    # The title, which gives nothing away

    - stage: improved
    - level: 1
    - caught by: tests/suite/test_retry.py::TestRetry::test_a_failed_job_is_tried_again[improved]

    ## Story, ## Symptom, ## Hints (three, numbered), ## Bug (a diff), ## Lesson

The diff goes from right to wrong. Its lines are found by their text, so it does not matter
where in the file they stand; ``@@`` stands between two places in one file.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ZOO = Path(__file__).parent / "zoo"
SECTIONS = ("Story", "Symptom", "Hints", "Bug", "Lesson")


class PatchError(Exception):
    """The code has changed, and a bug cannot be planted any more."""


class PageError(Exception):
    """A page of the zoo is not written as described at the top of this file."""


@dataclass(frozen=True)
class Place:
    """A few lines of ``file``, as they are and with the bug in them."""

    file: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Bug:
    """One page of the zoo. ``caught_by``: the test that fails, as pytest names it.

    level: 1 (a line that reads wrong) to 3 (two places, or two moments that have to be compared).
    """

    number: int
    title: str
    stage: str
    level: int
    caught_by: str
    story: str
    symptom: str
    hints: tuple[str, ...]
    places: tuple[Place, ...]
    lesson: str

    def __str__(self) -> str:
        return f"bug {self.number} ({self.title})"

    def plant(self, root: Path) -> None:
        """Make the code under ``root`` wrong."""
        for place in self.places:
            file = root / place.file
            code = file.read_text(encoding="utf-8")
            times = code.count(place.right)
            if times != 1:
                raise PatchError(
                    f"{self} no longer applies: {place.file} holds these lines {times} times, "
                    f"not once. Mend the diff in its page, or its file name:\n{place.right}"
                )
            file.write_text(code.replace(place.right, place.wrong), encoding="utf-8")

    def solution(self) -> list[str]:
        """The lines of a diff that mends it."""
        lines: list[str] = []
        for place in self.places:
            lines += [f"--- {place.file}", *_diff(place.wrong, place.right)]
        return lines


@cache
def zoo() -> dict[int, Bug]:
    """All bugs by number."""
    bugs = [read(page) for page in sorted(ZOO.glob("*.md"))]
    return {bug.number: bug for bug in bugs}


def read(page: Path) -> Bug:
    """The bug that a page describes; raises PageError where it does not."""
    head, *rest = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M)
    sections = {name: text.strip() for name, _, text in (part.partition("\n") for part in rest)}
    facts = dict(re.findall(r"^- ([a-z ]+): (.+)$", head, re.M))
    if tuple(sections) != SECTIONS or set(facts) != {"stage", "level", "caught by"}:
        raise PageError(
            f"{page.name} must have the facts 'stage', 'level' and 'caught by', and the sections "
            f"{', '.join(SECTIONS)}, in this order; it has {', '.join([*facts, *sections])}."
        )
    hints = re.split(r"^\d\. ", sections["Hints"], flags=re.M)[1:]
    return Bug(
        number=int(page.name.partition("-")[0]),
        title=head.partition("\n")[0].removeprefix("# "),
        stage=facts["stage"],
        level=int(facts["level"]),
        caught_by=facts["caught by"],
        story=sections["Story"],
        symptom=sections["Symptom"],
        hints=tuple(" ".join(hint.split()) for hint in hints),
        places=tuple(_places(page.name, sections["Bug"])),
        lesson=sections["Lesson"],
    )


def _places(page: str, section: str) -> list[Place]:
    diff = re.search(r"^```diff\n(.*?)^```$", section, re.M | re.S)
    if diff is None:
        raise PageError(f"{page} has no block that begins with ```diff under '## Bug'.")
    places = []
    for file, lines in re.findall(r"^--- (.+)\n((?:(?!--- ).*\n)+)", diff[1], re.M):
        for part in re.split(r"^@@\n", lines, flags=re.M):
            places.append(Place(file, _side(part, "-"), _side(part, "+")))
    return places


def _side(diff: str, sign: str) -> str:
    """The lines of a diff that are on one side of it: those on both, and those with ``sign``."""
    return "".join(
        line[1:] if line.strip() else line
        for line in diff.splitlines(keepends=True)
        if line[0] in (" ", "\n", sign)
    )


def _diff(before: str, after: str) -> list[str]:
    """The lines of a short diff, without the numbers that nobody needs here."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line[0] + line[2:] for line in lines if line[0] != "?"]
