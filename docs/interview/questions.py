"""The questions, read from the pages beside this file. All of them have one form:

    # 5. Overload

    Why it is asked.

    ## A question, as the interviewer says it

    *About 4 minutes.*

    <details>
    <summary>A strong answer</summary>

    Markdown, as much as it takes.

    </details>

and in the same fold, after the answer, one or more that say "Follow-up: ..." (the next
question), then "Red flags", then "Proof".

But: strict. A page in any other form is an error that names the page and the question.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_QUESTION = re.compile(r"^## ", re.MULTILINE)
_BEGINNING = re.compile(r"(?P<text>[^\n]+)\n\n\*About (?P<minutes>\d+) minutes?\.\*\n\n")
_FOLD = re.compile(
    r"<details>\n<summary>(?P<summary>[^\n]+)</summary>\n\n(?P<inside>.+?)\n\n</details>\s*",
    re.DOTALL,
)
_LINK = re.compile(r"\[((?:[^\[\]`]|`[^`]*`)+)\]\(([^)\s]+)\)")
_FIGURE = re.compile(r'\[([^\[\]]+)\]\([^)\s]+ "[^"]+"\)')  # it links to where it was measured


class BadPage(ValueError):
    """A page is not in the form above."""


@dataclass(frozen=True)
class FollowUp:
    text: str
    answer: str


@dataclass(frozen=True)
class Question:
    """topic: its name. minutes: what a strong candidate takes. The rest is Markdown."""

    topic: str
    text: str
    minutes: int
    answer: str
    follow_ups: tuple[FollowUp, ...]
    red_flags: str
    proof: str


@dataclass(frozen=True)
class Topic:
    """name: as in its file ("overload"). why: what the interviewer wants to see."""

    name: str
    title: str
    why: str
    questions: tuple[Question, ...]


def topics() -> list[Topic]:
    """All of them, in the order of an interview."""
    return [topic(page) for page in sorted(HERE.glob("[0-9]*.md"))]


def topic(page: Path) -> Topic:
    """The topic on ``page``. Raises BadPage."""
    head, *parts = _QUESTION.split(page.read_text(encoding="utf-8"))
    title, _, why = head.strip().partition("\n\n")
    if not re.fullmatch(r"# \d+\. .+", title) or not why or not parts:
        raise BadPage(f"{page.name} must begin with '# 1. Title' and why it is asked.")
    name = page.stem.partition("-")[2]
    questions = tuple(_question(page, name, part) for part in parts)
    return Topic(name, title.removeprefix("# "), why, questions)


def _question(page: Path, name: str, part: str) -> Question:
    beginning = _BEGINNING.match(part)
    if beginning is None:
        raise BadPage(
            f"{page.name}: after '## {part.splitlines()[0]}' goes an empty line, then "
            "'*About 3 minutes.*', then its folds."
        )
    folds = _FOLD.findall(part, beginning.end())
    unfolded = _FOLD.sub("", part[beginning.end() :])
    kinds = [summary.partition(":")[0] for summary, _ in folds]
    expected = ["A strong answer", *["Follow-up"] * (len(folds) - 3), "Red flags", "Proof"]
    if len(folds) < 4 or kinds != expected or unfolded:
        raise BadPage(
            f"{page.name}: '{beginning['text']}' needs the folds A strong answer, Follow-up: ..., "
            f"Red flags and Proof, in this order, and nothing else; it has {', '.join(kinds)}"
            + (f", and outside of them {unfolded.strip()[:40]!r}." if unfolded else ".")
        )
    inside = [spelled_out(page, text) for _, text in folds]
    asked = [summary.partition(": ")[2] for summary, _ in folds]
    return Question(
        topic=name,
        text=beginning["text"],
        minutes=int(beginning["minutes"]),
        answer=inside[0],
        follow_ups=tuple(map(FollowUp, asked[1:-2], inside[1:-2])),
        red_flags=inside[-2],
        proof=inside[-1],
    )


def spelled_out(page: Path, text: str) -> str:
    """``text`` with each link as words and place: there is nothing to click on in a terminal."""
    text = _FIGURE.sub(r"\1", text)
    return _LINK.sub(lambda link: f"{link[1]} ({_place(page, link[2])})", text)


def _place(page: Path, target: str) -> str:
    if re.match(r"[a-z]+:", target):
        return target
    file, _, anchor = target.partition("#")
    place = os.path.relpath(page.parent / file, ROOT).replace(os.sep, "/")
    if re.fullmatch(r"L\d+", anchor):
        return f"{place}:{anchor[1:]}"  # which editors open at that line
    return f"{place}#{anchor}" if anchor else place


def every_question(of: list[Topic]) -> Iterator[Question]:
    for one in of:
        yield from one.questions
