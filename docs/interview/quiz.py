"""The quiz: asks a question, takes the time, shows the answer, and lets you rate yourself.

Weak questions come first, and several topics are mixed; a newcomer begins at the first topic, as an
interview does. While you think, a clock ticks above the prompt. Follow-ups and the proof are shown
when asked for. Leaving at any point (q, Ctrl-C, Ctrl-D or the end of the input) keeps what
was rated so far.

But: it does not judge what you said. Say it aloud, and be honest.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter

from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from docs.interview.progress import Progress, Rating
from docs.interview.questions import FollowUp, Question, Topic, every_question

WIDTH = 100  # lines longer than this are hard to read, however wide the window is
RATINGS = {"1": Rating.KNEW, "2": Rating.PARTLY, "3": Rating.NO}
# Readable on dark and on light backgrounds: the terminal's own colours, no boxes behind words.
CODE = "ansi_dark"
THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
COLOURS = {Rating.KNEW: "green", Rating.PARTLY: "yellow", Rating.NO: "red"}


class Quit(Exception):
    """Enough for today."""


class Quiz:
    """Ask the questions of ``topics`` in the terminal of ``console``."""

    def __init__(self, topics: list[Topic], progress: Progress, console: Console) -> None:
        self._topics = topics
        self._titles = {topic.name: topic.title for topic in topics}
        self._progress = progress
        self._console = console
        self._width = min(WIDTH, console.width)

    def run(self) -> None:
        questions = list(every_question(self._topics))
        newcomer = not any(self._progress.rating(question) for question in questions)
        if len(self._topics) > 1 and not newcomer:
            random.shuffle(questions)  # what is remembered in order is not yet known
        questions = self._progress.weak_first(questions)
        self._welcome(questions)
        rated = 0
        try:
            for number, question in enumerate(questions, start=1):
                rated += self._ask_one(question, f"{number} of {len(questions)}")
        except (Quit, EOFError, KeyboardInterrupt):
            self._print()
        self._goodbye(rated)

    def _ask_one(self, question: Question, place: str) -> bool:
        """Returns whether it was rated, and not skipped."""
        self._print()
        self._heading(self._titles[question.topic], place)
        self._print()
        self._print(Text(question.text, style="bold"))
        self._print()
        self._print(Text(self._times(question), style="dim"))
        began = time.monotonic()
        with Clock(self._console, 60 * question.minutes):
            choice = self._choose({"": "show the answer", "s": "skip", "q": "stop"})
        if choice == "s":
            return False
        seconds = time.monotonic() - began

        self._show(question.answer)
        self._show(question.red_flags, "Red flags")
        strong = _minutes(60 * question.minutes)
        self._print(Text(f"You took {_minutes(seconds)}, a strong candidate {strong}.", "cyan"))
        self._progress.rate(question, self._rating(question), seconds)
        return True

    def _times(self, question: Question) -> str:
        text = f"Answer aloud. A strong candidate takes about {_minutes(60 * question.minutes)}."
        last = self._progress.last(question)
        return text + (f" Last time: {last.rating}, {_minutes(last.seconds)}." if last else "")

    def _rating(self, question: Question) -> Rating:
        """Follow-ups and the proof as long as they are wanted, then how it went."""
        follow_ups = list(question.follow_ups)
        while True:
            choices = {key: str(rating) for key, rating in RATINGS.items()}
            if follow_ups:
                choices["f"] = f"follow-up ({len(follow_ups)})"
            choice = self._choose({**choices, "p": "proof", "q": "stop"})
            if choice == "f":
                self._follow_up(follow_ups.pop(0))
            elif choice == "p":
                self._show(question.proof, "Proof")
            else:
                return RATINGS[choice]

    def _follow_up(self, follow_up: FollowUp) -> None:
        self._print()
        self._print(Text(follow_up.text, style="bold"))
        self._choose({"": "show the answer", "q": "stop"})
        self._show(follow_up.answer)

    def _choose(self, choices: dict[str, str]) -> str:
        """One of the keys of ``choices``; "" is Enter, and "q" raises Quit."""
        prompt = Text()
        for key, meaning in choices.items():
            prompt.append(f"[{key or 'Enter'}]", style="bold cyan").append(f" {meaning}  ")
        prompt.append("> ")
        while True:
            self._print()  # for the clock, again after a choice that there is not
            choice = self._console.input(prompt).strip().lower()
            if not sys.stdin.isatty():
                self._print()  # nobody has pressed Enter here
            if choice == "q":
                raise Quit
            if choice in choices:
                return choice

    # ---- what it looks like --------------------------------------------------------------

    def _welcome(self, questions: list[Question]) -> None:
        counts = Counter(self._progress.rating(question) for question in questions)
        known = ", ".join(f"{rating} {counts[rating]}" for rating in Rating)
        self._print(Text(f"{len(questions)} questions. So far: {known}, new {counts[None]}."))

    def _goodbye(self, rated: int) -> None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("topic")
        for name in [*Rating, "new"]:
            table.add_column(name, justify="right")
        for topic in self._topics:
            counts = Counter(self._progress.rating(question) for question in topic.questions)
            cells = [_count(counts[rating], COLOURS[rating]) for rating in Rating]
            table.add_row(topic.title, *cells, _count(counts[None], "dim"))
        self._print()
        self._print(table)
        self._print()
        self._print(Text(f"{rated} rated this time. What you did not know comes first next time."))

    def _heading(self, left: str, right: str) -> None:
        gap = " " * max(1, self._width - len(left) - len(right))
        self._print(Text(f"{left}{gap}{right}", style="bold reverse"))

    def _show(self, markdown: str, title: str = "") -> None:
        self._print()
        if title:
            self._print(Text(title, style="bold"))
        page = Markdown(markdown, code_theme=CODE, hyperlinks=False)
        self._print(Padding(page, (0, 0, 1, 2)))

    def _print(self, what: RenderableType = "") -> None:
        self._console.print(what, width=self._width)


class Clock:
    """A clock on the line above the prompt, once a second, as long as the ``with`` block lasts.

    But: only where somebody looks: in a terminal that can move its cursor, is read from, and
    is wide enough for the prompt to be one line.
    """

    def __init__(self, console: Console, allowed: float) -> None:
        self._console = console
        self._allowed = allowed
        self._over = threading.Event()
        movable = console.is_terminal and not console.legacy_windows and console.width >= 60
        self._shown = movable and sys.stdin.isatty()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> None:
        self._began = time.monotonic()
        if self._shown:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._shown:
            self._thread.join()

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            used = time.monotonic() - self._began
            text = f"{_minutes(used)} of {_minutes(self._allowed)}"
            colour = "33" if used > self._allowed else "2"
            # Save the cursor, a line up and to its beginning, write, clear the rest, go back:
            # what is being typed on the prompt's line stays as it is.
            self._console.file.write(f"\0337\033[1A\r\033[{colour}m{text}\033[0m\033[K\0338")
            self._console.file.flush()


def _count(number: int, style: str) -> Text:
    return Text(str(number) if number else ".", style=style if number else "dim")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
