"""The bug hunt at the command line: ``make hunt``, or ``python -m tests.bugs hunt``.

    hunt [NUMBER]   put a copy with one bug into build/hunt/, and tell its story; without a
                    number the easiest that is not solved yet, with --random any
    hint            say a little more about it; three times
    check           is it fixed, and nothing else broken? (--all: by every test of its stage)
    solution        show the fix, and what is to be learned
    list            which bugs there are, and which were solved

But: it never shows where the bug is before you ask for that.
"""

from __future__ import annotations

import argparse
import io
import sys

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tests.bugs import hunt
from tests.bugs.bug import zoo
from tests.bugs.hunt import Hunt, NoHuntError

COLOURS = {"-": "red", "+": "green"}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bugs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=COMMANDS, help="see above")
    parser.add_argument("number", nargs="?", type=int, help="of the bug to hunt; else the easiest")
    parser.add_argument("--random", action="store_true", help="hunt: any that is not solved yet")
    parser.add_argument("--all", action="store_true", help="check: by every test of the stage")
    arguments = parser.parse_args()
    if arguments.number is not None and arguments.number not in zoo():
        parser.error(f"there is no bug {arguments.number}: they go from 1 to {max(zoo())}.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may not know every character
    console = Console(highlight=False, markup=False)
    try:
        if arguments.what == "hunt":
            return begin(console, arguments.number, at_random=arguments.random)
        if arguments.what == "check":
            return check(console, everything=arguments.all)
        return COMMANDS[arguments.what](console)
    except NoHuntError as error:
        console.print(str(error))
        return 2
    except OSError as error:
        file = error.filename or "the output"  # where nobody names a file, it is full or gone
        console.print(f"It cannot be read or written: {file}: {error.strerror}.")
        return 3
    except KeyboardInterrupt:
        console.print()
        return 130


def begin(console: Console, number: int | None = None, *, at_random: bool = False) -> int:
    bug = Hunt.begin(number, at_random=at_random).bug
    _title(console, f"Bug {bug.number} of {len(zoo())}: {bug.title}")
    _prose(console, bug.story)
    _prose(console, f"**What you see.** {bug.symptom}")
    steps = Table.grid(padding=(0, 3, 0, 0))
    steps.add_row("Look in", f"build/hunt/{bug.stage}/", style="bold")
    steps.add_row("How hard?", f"level {bug.level} of 3")
    steps.add_row("Is it fixed?", "make hunt-check")
    steps.add_row("Stuck?", "make hunt-hint")
    steps.add_row("Give up?", "make hunt-solution")
    console.print(Padding(steps, (1, 2)))
    return 0


def hint(console: Console) -> int:
    current = Hunt.current()
    given = current.next_hint()
    _title(console, f"Bug {current.bug.number}: hint {given} of {len(current.bug.hints)}")
    for text in current.bug.hints[:given]:
        _prose(console, f"- {text}")
    console.print()
    return 0


def check(console: Console, *, everything: bool = False) -> int:
    current = Hunt.current()
    bug = current.bug
    _title(console, f"Bug {bug.number}: {bug.title}")
    with console.status("Running the test that shows it ..."):
        complaint = current.symptom()
    if complaint:
        _verdict(console, "red", "It is still there.", complaint)
        return 1
    _verdict(console, "green", "The test that showed it passes.", [])
    with Progress(
        TextColumn("  {task.percentage:3.0f} %"),
        BarColumn(24),
        TextColumn("{task.description}", style="dim"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(f"the tests of {bug.stage}", total=100)
        complaint = current.damage(
            lambda test, percent: progress.update(
                task, completed=percent, description=escape(test.partition("::")[0])
            ),
            everything=everything,
        )
    if complaint:
        _verdict(console, "red", "But something else broke, or is broken still.", complaint)
        return 1
    solved = current.solved()
    _verdict(
        console,
        "green",
        f"So {'do all tests' if everything else 'does the suite'} of {bug.stage}: fixed.",
        [],
    )
    _prose(
        console,
        f"{len(solved)} of {len(zoo())} solved. `make hunt-solution` shows our fix beside yours, "
        "and says what is to be learned.",
    )
    console.print()
    return 0


def solution(console: Console) -> int:
    bug = Hunt.current().bug
    _title(console, f"Bug {bug.number}: {bug.title}")
    console.print()
    for line in bug.solution():
        style = "bold" if line.startswith("---") else COLOURS.get(line[0], "")
        console.print(Text(f"  {line}", style), soft_wrap=True)
    _prose(console, bug.lesson)
    console.print()
    _to_copy(console, f"Caught by {bug.caught_by}")
    console.print()
    return 0


def show_list(console: Console) -> int:
    solved = hunt.numbers_solved()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "bug", "stage", "level", ""):
        table.add_column(heading, justify="right" if not table.columns else "left")
    for bug in zoo().values():
        mark = "solved" if bug.number in solved else ""
        table.add_row(str(bug.number), bug.title, bug.stage, str(bug.level), Text(mark, "green"))
    console.print(Padding(table, (1, 2)))
    return 0


COMMANDS = {
    "hunt": begin,
    "hint": hint,
    "check": check,
    "solution": solution,
    "list": show_list,
}


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(Padding(Rule(Text(text, "bold"), align="left", style="dim"), (0, 2)))


def _prose(console: Console, text: str) -> None:
    console.print(Padding(Markdown(text), (1, 2, 0, 2)))


def _verdict(console: Console, colour: str, text: str, details: list[str]) -> None:
    console.print(Padding(Text(text, f"bold {colour}"), (1, 2, 0, 2)))
    console.print()
    for line in details:
        _to_copy(console, line)
    if details:
        console.print()


def _to_copy(console: Console, line: str) -> None:
    """Not wrapped: it has a test's id."""
    console.print(Text(f"  {line}", "dim"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
