"""The figures in the documents' prose: each is a link that says where it was measured.

    [86,000](../performance.md#durable-jobs-in-bulk "final, full: jobs/s")

The title makes a link a figure. It names a cell of a table below that heading: its row, by any
of the row's cells, and after the last colon its column. On the scoreboard it names a row and a
stage, on a file it is "lines", and on a folder a pattern whose files are counted:

    [35 MB](../scoreboard.md#overload "a fast producer does not fill the memory: naive")
    [370](../../improved/job_queue.py "lines"), [27](../tests/bugs/zoo "*.md")

Of a source with several numbers it is the first with its unit. A figure may be rounded: it is
right if the source, rounded to as many digits, says the same. A source such as 0.82 x may be told
as 82 %. ``python -m tests.docs`` writes what is so today.

But: it cannot see that a sentence says too much of a figure that is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from tests.docs import pages

_FIGURE = re.compile(r'\[([^\[\]]+)\]\(([^()\s]+) "([^"]+)"\)')
_NUMBER = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)(?: ?(%|[A-Za-zµ]+))?")
# What a sentence says that tells of a measurement, and figures as measurements have them.
_MEASURED = re.compile(r"\bmeasured\b|\bhere\b|\bon two cores\b")
_MEASURE = re.compile(
    r"(?<![\w.#-])\d[\d,.]* ?(?:%|ms\b|µs\b|s\b|M?i?B\b|bytes\b|lines\b|times\b|jobs a second\b)"
)


class Figure(NamedTuple):
    """``[text](target "title")`` on a page."""

    page: Path
    text: str
    target: str
    title: str

    def __str__(self) -> str:
        return f'[{self.text}]({self.target} "{self.title}")'


def figures(page: Path) -> Iterator[Figure]:
    for text, target, title in _FIGURE.findall(page.read_text(encoding="utf-8")):
        yield Figure(page, text, target, title)


def trouble(figure: Figure) -> str | None:
    """What is wrong with it, as a sentence; None if nothing."""
    try:
        right = today(figure)
    except LookupError as error:
        return f"{figure}: {error}"
    if right != figure.text:
        return f"{figure} is {right} today: run python -m tests.docs, which writes it."
    return None


def today(figure: Figure) -> str:
    """The text of the figure as its source has it now. Raises LookupError if it has none."""
    told = _NUMBER.search(figure.text)
    if told is None:
        raise LookupError("there is no number in it.")
    source = _source(figure)
    found = [(_decimal(number), unit) for number, unit in _NUMBER.findall(source)]
    if told[2] == "%" and source.rstrip().endswith("x"):
        found = [(number * 100, "%") for number, _ in found]
    wanted = told[2] or ""
    numbers = [number for number, unit in found if unit == wanted]
    if not numbers and len(found) == 1 and found[0][1] in ("", "x"):
        numbers = [found[0][0]]  # a cell, whose column has the unit
    if not numbers:
        raise LookupError(f"there is no number in {source!r} with the unit {wanted!r}.")
    rounded = _rounded_like(told[1], numbers[0])
    return figure.text[: told.start(1)] + rounded + figure.text[told.end(1) :]


def uncovered(page: Path) -> list[str]:
    """Sentences that tell of something measured, in numbers, and have no figure as above."""
    words = _FIGURE.sub("FIGURE", pages.without_code(page.read_text(encoding="utf-8")))
    sentences = re.split(r"(?<=[.:;?])\s+|\n\n|\n- ", re.sub(r"\n(?![\n-])", " ", words))
    return [
        " ".join(sentence.split())
        for sentence in sentences
        if _MEASURED.search(sentence) and _MEASURE.search(sentence) and "FIGURE" not in sentence
    ]


# ---- the sources ---------------------------------------------------------------------------


def _source(figure: Figure) -> str:
    name, _, anchor = figure.target.partition("#")
    place = (figure.page.parent / name).resolve()
    if place.is_dir():
        return str(len(list(place.glob(figure.title))))
    if not place.is_file():
        raise LookupError(f"{name} does not exist.")
    words = place.read_text(encoding="utf-8")
    if figure.title == "lines":
        return str(len(words.splitlines()))
    row, _, column = figure.title.rpartition(": ")
    return _cell(_below(words, anchor), row, column)


def _below(words: str, anchor: str) -> str:
    """What stands below the heading, up to the next one of any level."""
    for part in re.split(r"^(?=#)", words, flags=re.MULTILINE):
        title, _, rest = part.partition("\n")
        if not anchor or (title.startswith("#") and pages.slug(title.lstrip("# ")) == anchor):
            return rest
    raise LookupError(f"there is no heading #{anchor}.")


def _cell(words: str, row: str, column: str) -> str:
    for table in re.findall(r"(?:^\|.*\n)+", words, re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()
        ]
        for cells in rows:
            if row in cells and column in head:
                return str(cells[head.index(column)])
    evidence = re.search(
        rf"^\*\*\[{re.escape(row)}\].*\n\n(?:- .*\n)*?- . {re.escape(column)}\b.*?: (.*)$",
        words,
        re.MULTILINE,
    )
    if evidence:
        return str(evidence[1])
    raise LookupError(f"there is no row {row!r} with a column {column!r}.")


def _decimal(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def _rounded_like(told: str, number: Decimal) -> str:
    """``number`` with as many digits as ``told`` has: 86,000 has two, and nothing has fewer."""
    if "." in told:
        return f"{round(number, len(told.partition('.')[2])):,}"
    digits = max(2, len(told.replace(",", "").rstrip("0")))
    zeros = max(0, number.adjusted() + 1 - digits)
    return f"{int(round(number, -zeros)):,}"
