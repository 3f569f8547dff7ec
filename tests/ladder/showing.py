"""How the ladder looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tests.expectations import FLAWS, STAGES, Flaw
from tests.ladder import mine
from tests.ladder.grading import Candidate, Row, Verdict, climb
from tests.ladder.mine import Memory
from tests.ladder.rows import CLOSING, WORDS
from tests.ladder.steps import STEPS, Step, step_of

WIDTH = 100
MARGIN = 2


class Page:
    """Prints to ``console``, no wider than can be read well."""

    def __init__(self, console: Console) -> None:
        self.console = console
        utf8 = console.encoding.lower().startswith("utf")
        self.passed, self.failed, self.star = ("✓", "✗", "★") if utf8 else ("ok", "x", "*")

    def blank(self) -> None:
        self.console.print()

    def title(self, text: str) -> None:
        rule = Rule(Text(text, "bold"), align="left", style="dim")
        self.console.print(Padding(rule, (1, MARGIN, 0, MARGIN)), width=self._width)

    def prose(self, text: str, style: str = "") -> None:
        self.console.print(Padding(Text(text, style), (1, MARGIN, 0, MARGIN)), width=self._width)

    def line(self, text: str, style: str = "") -> None:
        """Not wrapped: it is to be copied."""
        self.console.print(Text(" " * MARGIN + text, style), soft_wrap=True)

    def facts(self, rows: Iterable[tuple[str, str]], style: str = "bold") -> None:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style=style, no_wrap=True)
        grid.add_column()
        for name, text in rows:
            grid.add_row(name, Text(text))
        self.console.print(Padding(grid, (1, MARGIN, 0, MARGIN)), width=self._width)

    @property
    def _width(self) -> int:
        return min(WIDTH, self.console.width)

    def graded(
        self, candidate: Candidate, step: Step | None = None, *, to_the_end: bool = False
    ) -> Verdict:
        """Grade it, and say meanwhile what is being tried."""
        with self.console.status("") as status:

            def say(row: str) -> None:
                if row:
                    status.update(Text(f"{step_of(row).title}: {row}", "dim"))

            return climb(candidate, step, to_the_end=to_the_end, watcher=say)

    # ---- make mine ---------------------------------------------------------------------------

    def welcome(self) -> None:
        """After the stub was written."""
        self.title("Your own queue")
        self.prose(
            "mine/job_queue.py is there: a stub, for you to go on with. `make mine` grades it "
            "by the tests that grade the queues of this repository, step by step; there are "
            f"{len(STEPS) - 1}, and some stars."
        )
        self.step(STEPS[0])
        self.next_commands(STEPS[0])

    def step(self, step: Step, *, new: bool = True) -> None:
        """What it asks for; to somebody who comes to it anew also why, and a question."""
        self.title(f"Step {step.number}: {step.title} (some {step.minutes} minutes)")
        facts = [("Asked for", step.asks)]
        if new:
            self.prose(step.story)
            facts.append(("Predict", step.predict))
        self.facts(facts)

    def next_commands(self, step: Step) -> None:
        self.facts(
            [
                ("make mine", "grade it again (WATCH=1: on each save)"),
                ("make mine-hint", "a hint for this step; there are three"),
                (
                    f"make steps STEP={step.number}",
                    "the worked step, for when you are done or stuck",
                ),
            ],
            style="cyan",
        )
        self.blank()

    def verdict(
        self, candidate: Candidate, verdict: Verdict, memory: Memory, only: int = 0
    ) -> None:
        """The whole of `make mine`: what passes, and the first failure."""
        before = memory.current
        failed = verdict.failed
        lines = len(candidate.main.read_bytes().splitlines())
        self.blank()
        self.line(f"{mine.shown(candidate.main)}  {lines} lines  version {verdict.hash}", "dim")
        self.blank()
        if failed and failed.when == "setup":
            self._not_imported(failed)
            return
        new = memory.remember(verdict) if not only else []
        for step in STEPS:
            self._mark(step, verdict)
        for step in new:
            self.prose(
                f"Step {step.number} passes for the first time. You have seen: {step.learned}.",
                "green",
            )
            self.line(f"To read now: {step.read}. To compare: make mine-diff")
            for flaw in mended(verdict):
                if any(row.name in step.rows for row in flaw.shown_by()):
                    self.prose(f"Yours has not this flaw of {flaw.stage}: {flaw.what}.")
        for note in verdict.notes:
            self.prose(note, "yellow")
        if verdict.reaches:
            self.prose(
                f"Your file reaches for what no step needs: {'; '.join(verdict.reaches)}.", "yellow"
            )
        if failed is None:
            self._all_done(only)
            return
        step = step_of(failed.name)
        words = CLOSING if failed.when == "teardown" else WORDS[failed.name]
        self.step(step, new=before != step.number)
        if complaint := memory.broke(step, " ".join([*failed.seen, *words])):
            self.prose(complaint, "yellow")
        self.facts(
            [("Expected", words.expected), ("Seen", "\n".join(failed.seen)), ("Think", words.think)]
        )
        self.next_commands(step)

    def _not_imported(self, failed: Row) -> None:
        """Nothing else is of interest until it can be."""
        self.line("Your file cannot be imported, so nothing was tried.", "red")
        for line in failed.seen:
            self.line(line)
        self.blank()

    def _all_done(self, only: int) -> None:
        if only:
            self.prose(f"Step {only} passes.", "green")
        else:
            self.prose(
                "Every step and every star. There is nothing left here: make mine-card.", "green"
            )
        self.blank()

    def _mark(self, step: Step, verdict: Verdict) -> None:
        ran = [verdict.rows[row] for row in step.rows if row in verdict.rows]
        if not ran:
            return
        text = Text(" " * MARGIN)
        if step.stars:
            stars = sum(row.passed for row in ran)
            names = " ".join(row.name for row in ran if row.passed)
            text.append(
                f"{self.star}  {stars} of {len(step.rows)} stars".ljust(40), "yellow"
            ).append(names, "dim")
        elif verdict.passes(step.rows):
            text.append(self.passed, "green").append(f" {step.number:2}  {step.title}")
        else:
            bad = next(row for row in ran if not row.passed).name
            text.append(self.failed, "red").append(
                f" {step.number:2}  {step.title}".ljust(40)
            ).append(bad, "dim")
        self.console.print(text, soft_wrap=True)


def mended(verdict: Verdict) -> list[Flaw]:
    """The stages' flaws whose every row passes here.

    Those of ``improved`` are said of a file that does what it does: a queue without priorities
    starves nobody either.
    """
    return [
        flaw
        for flaw in FLAWS.values()
        if flaw.stage == STAGES[0] or verdict.step >= 7
        if verdict.passes(row.name for row in flaw.shown_by())
    ]
