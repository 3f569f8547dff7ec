"""The questions as flashcards: CSV that Anki imports as it is (File, Import).

A card for each question and one for each follow-up, tagged with its topic. The first lines,
which begin with ``#``, tell Anki about the columns:
https://docs.ankiweb.net/importing/text-files.html#file-headers

But: no Anki package. CSV is what other flashcard programs read, too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from docs.interview.questions import Topic, every_question

HEADERS = "#separator:Comma\n#html:true\n#columns:front,back,tags\n#tags column:3\n"


class Card(NamedTuple):
    """front and back are HTML; tags are separated by spaces."""

    front: str
    back: str
    tags: str


def cards(topics: list[Topic]) -> Iterator[Card]:
    html = MarkdownIt().enable("table").render
    for question in every_question(topics):
        tags = f"job-queue {question.topic}"
        red_flags = f"{question.answer}\n\n**Red flags**\n\n{question.red_flags}"
        yield Card(html(question.text), html(red_flags), tags)
        for follow_up in question.follow_ups:
            # A follow-up alone is a riddle: what went before stands above it.
            front = html(f"*{question.text}*\n\n{follow_up.text}")
            yield Card(front, html(follow_up.answer), f"{tags} follow-up")


def write(topics: list[Topic], file: Path) -> int:
    """Write ``file``, and the folder it is in; returns how many cards."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        out.write(HEADERS)
        rows = list(cards(topics))
        csv.writer(out).writerows(rows)
    return len(rows)
