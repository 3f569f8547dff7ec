"""The ladder at the command line: ``make mine``, or ``python -m tests.ladder mine``.

    mine       grade mine/job_queue.py; the first time write a stub, and say how to begin
    hint       a hint for the step that you are on
    diff       your file beside the worked solution, method by method
    card       your column beside the stages: build/card.md, build/card.svg
    reset      begin anew; your file is kept under another name
    steps      the steps; with --step N the diff that turns its rows green
    grade      a folder of files: a table, and build/grades.csv and .json
    progress   what you have done, and the one next thing
    measure    the durable file beside final, as a table

But: no step is locked (--step 9), and none is believed: each run grades anew.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from tests.ladder import card, measure, mine, progress, teachers, worked
from tests.ladder.grading import Candidate, GraderBroke, Verdict
from tests.ladder.mine import Memory, NoSuchFile
from tests.ladder.showing import Page
from tests.ladder.steps import STEPS, Step

# Seconds between two looks at the file with --watch. Nothing in the standard library tells of it.
LOOK = 0.3


def main(arguments: list[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may not know every character
    page = Page(Console(highlight=False))
    try:
        return COMMANDS[chosen.what](page, chosen)
    except (NoSuchFile, progress.NoNotebook) as error:
        page.line(str(error))
        return 2
    except GraderBroke as error:
        page.line(f"The tests did not begin; this is no fault of yours:\n{error}")
        return 3
    except OSError as error:
        file = error.filename or "the output"  # where nobody names a file, it is full or gone
        page.line(f"It cannot be read or written: {file}: {error.strerror}.")
        return 3
    except KeyboardInterrupt:
        page.blank()
        return 130


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.ladder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=COMMANDS, help="see above")
    parser.add_argument("--step", type=step_number, metavar="N", help=f"1 to {len(STEPS)}")
    parser.add_argument("--file", type=Path, metavar="PATH", help="in place of mine/job_queue.py")
    parser.add_argument("--watch", action="store_true", help="mine: again on each save")
    parser.add_argument("--anyway", action="store_true", help="diff: before the step passes")
    parser.add_argument("--write-docs", action="store_true", help="measure: into docs/ladder.md")
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="grade: where the files are")
    return parser


def step_number(text: str) -> Step:
    if not text.isdecimal() or not 1 <= int(text) <= len(STEPS):
        raise argparse.ArgumentTypeError(f"steps go from 1 to {len(STEPS)}, and {text!r} is none")
    return STEPS[int(text) - 1]


def grade_mine(page: Page, chosen: argparse.Namespace) -> int:
    if chosen.file is None and mine.begin():
        page.welcome()
        return 0
    if chosen.watch:
        with suppress(KeyboardInterrupt):  # how it ends, and no error
            _watch(page, chosen)
        return 0
    candidate = mine.candidate(chosen.file)
    verdict = _grade_once(page, candidate, chosen.step)
    # What comes next is no error; a step that was asked for by its number and fails is one.
    return 1 if verdict.failed and chosen.step else 0


def _watch(page: Page, chosen: argparse.Namespace) -> None:
    """Grade it anew on each save, for ever. (A file may come beside a lone one.)"""
    while True:
        verdict = _grade_once(page, mine.candidate(chosen.file), chosen.step)
        page.line("Watching; Ctrl-C ends it.", "dim")
        while not _is_saved_anew(chosen.file, verdict.hash):
            time.sleep(LOOK)
        page.console.clear()


def _is_saved_anew(file: Path | None, before: str) -> bool:
    try:
        return mine.candidate(file).hash != before
    except (OSError, mine.NoSuchFile):  # an editor is about to put the new file there
        return False


def _grade_once(page: Page, candidate: Candidate, step: Step | None) -> Verdict:
    verdict = page.graded(candidate, step)
    page.verdict(candidate, verdict, Memory(candidate), only=step.number if step else 0)
    return verdict


def hint(page: Page, chosen: argparse.Namespace) -> int:
    if chosen.file is None and mine.begin():
        page.welcome()
        return 0
    candidate = mine.candidate(chosen.file)
    memory = Memory(candidate)
    step = chosen.step or STEPS[max(memory.current, 1) - 1]
    given = memory.hint(step)
    page.title(f"Step {step.number}: {step.title}, hint {given} of {len(step.hints)}")
    for number in range(1, given + 1):
        page.facts([(f"{number}.", step.hint(number))])
    page.blank()
    return 0


def diff(page: Page, chosen: argparse.Namespace) -> int:
    candidate = mine.candidate(chosen.file)
    verdict = page.graded(candidate, chosen.step)
    step = chosen.step or STEPS[max(verdict.step, 1) - 1]
    if not verdict.passes(step.rows) and not chosen.anyway:
        page.prose(
            f"Step {step.number} does not pass yet. ANYWAY=1 (--anyway) shows it all the same."
        )
        page.blank()
        return 1
    worked.beside(page, candidate.main, step)
    return 0


def reset(page: Page, chosen: argparse.Namespace) -> int:
    kept = mine.reset()
    before = f" What you had is {mine.shown(kept)}." if kept else ""
    page.prose(f"Begun anew: mine/job_queue.py is the stub.{before}")
    page.blank()
    return 0


def show_steps(page: Page, chosen: argparse.Namespace) -> int:
    if chosen.step:
        worked.show(page, chosen.step)
    else:
        worked.overview(page)
    return 0


COMMANDS = {
    "mine": grade_mine,
    "hint": hint,
    "diff": diff,
    "card": card.command,
    "reset": reset,
    "steps": show_steps,
    "grade": teachers.command,
    "progress": progress.command,
    "measure": measure.command,
}


if __name__ == "__main__":
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C, so that nothing stays behind
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
