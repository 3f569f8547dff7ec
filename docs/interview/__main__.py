"""The interview in the terminal: ``make interview``, or ``python -m docs.interview [TOPIC]``.

With ``--flashcards FILE`` it writes the same questions as cards (cards.py) and asks nothing.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from rich.console import Console

from docs.interview import cards
from docs.interview.progress import FILE, BadProgress, Progress
from docs.interview.questions import Topic, topics
from docs.interview.quiz import THEME, Quiz

DESCRIPTION = "Asks design-interview questions, weak ones first, and keeps what you knew."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.interview", description=DESCRIPTION)
    parser.add_argument("topic", nargs="?", help="its name, the beginning of it, or its number")
    parser.add_argument("--flashcards", type=Path, metavar="FILE", help="write a CSV for Anki")
    parser.add_argument(
        "--progress", type=Path, metavar="FILE", default=FILE, help=f"your ratings; {FILE.name}"
    )
    chosen = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may not know every character

    try:
        return write(chosen.flashcards) if chosen.flashcards else ask(chosen.topic, chosen.progress)
    except BadProgress as error:
        print(error, file=sys.stderr)
    except OSError as error:
        file = error.filename or "the output"  # where nobody names a file, it is full or gone
        print(f"It cannot be read or written: {file}: {error.strerror}.", file=sys.stderr)
    return 1


def write(file: Path) -> int:
    count = cards.write(topics(), file)
    print(f"{count} cards in {file}. In Anki: File, Import.")
    return 0


def ask(name: str | None, progress: Path) -> int:
    every_topic = topics()
    asked = [topic for topic in every_topic if is_meant(name, topic)]
    if not asked:
        names = ", ".join(topic.name for topic in every_topic)
        print(f"There is no topic {name!r}. There are: {names}.", file=sys.stderr)
        return 2
    Quiz(asked, Progress(progress), Console(highlight=False, theme=THEME)).run()
    return 0


def is_meant(name: str | None, topic: Topic) -> bool:
    """Whether ``name`` asks for this topic; None asks for all."""
    number = topic.title.partition(".")[0]
    return name is None or name == number or (not name.isdigit() and topic.name.startswith(name))


if __name__ == "__main__":
    sys.exit(main())
