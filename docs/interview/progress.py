"""What you knew and what you did not: kept from quiz to quiz, in one file beside the README.

But: the latest rating of a question counts, not how often it was asked.
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from docs.interview.questions import ROOT, Question

FILE = ROOT / ".interview.json"


class Rating(enum.StrEnum):
    KNEW = "knew it"
    PARTLY = "partly"
    NO = "no"


# What is asked first: what was not known, then what never was asked.
ORDER = (Rating.NO, Rating.PARTLY, None, Rating.KNEW)


@dataclass(frozen=True)
class Answered:
    """seconds: until the answer was unfolded. at: Unix seconds."""

    rating: Rating
    seconds: float
    at: float


class BadProgress(ValueError):
    """The file is there, and is not what this module writes."""


class Progress:
    """The ratings in ``file``. Raises BadProgress."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._answered: dict[str, Answered] = {}
        if not file.exists():
            return
        try:
            for key, entry in json.loads(file.read_text(encoding="utf-8")).items():
                seconds, at = float(entry["seconds"]), float(entry["at"])
                self._answered[key] = Answered(Rating(entry["rating"]), seconds, at)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadProgress(
                f"{file} is not a progress file of this quiz ({error}). Delete it to start over."
            ) from None

    def last(self, question: Question) -> Answered | None:
        """How it went the last time."""
        return self._answered.get(_key(question))

    def rating(self, question: Question) -> Rating | None:
        last = self.last(question)
        return last.rating if last else None

    def rate(self, question: Question, rating: Rating, seconds: float) -> None:
        """Note it, at once and as a whole: the quiz may be interrupted at any time."""
        self._answered[_key(question)] = Answered(rating, round(seconds, 1), round(time.time()))
        entries = {key: asdict(answered) for key, answered in self._answered.items()}
        unfinished = self._file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(unfinished, self._file)

    def weak_first(self, questions: Iterable[Question]) -> list[Question]:
        """What was not known comes first, then the new ones of weak topics; the rest as given."""
        questions = list(questions)
        return sorted(questions, key=lambda q: (self._rank(q), self._strength(q.topic, questions)))

    def _rank(self, question: Question) -> tuple[int, float]:
        last = self.last(question)
        rank = ORDER.index(self.rating(question))
        # Of what was known, the longest ago first.
        return rank, last.at if last and last.rating is Rating.KNEW else 0.0

    def _strength(self, topic: str, questions: list[Question]) -> float:
        """From 0 (knew nothing) to 1; topics that were never asked are as good as known."""
        worth = {Rating.NO: 0.0, Rating.PARTLY: 0.5, Rating.KNEW: 1.0}
        rated = [self.rating(q) for q in questions if q.topic == topic]
        values = [worth[rating] for rating in rated if rating is not None]
        return sum(values) / len(values) if values else 1.0


def _key(question: Question) -> str:
    return f"{question.topic}: {question.text}"
