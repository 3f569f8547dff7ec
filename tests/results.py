"""What a run of the suite found: an outcome and its evidence for each capability and stage.

It only keeps the books. What counts as a pass, a known flaw or a surprise is judged in
scoreboard.py; how it looks is decided in matrix.py and pages.py.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.expectations import CAPABILITIES, COLUMNS, FLAWS, Capability, Flaw


class Outcome(enum.Enum):
    """What a cell of the matrix says, best first: a cell is as bad as the worst of its tests."""

    PASS = 1
    ABSENT = 2
    FLAW = 3
    SURPRISE = 4


@dataclass(frozen=True)
class Case:
    """What a test is about: one capability of one stage."""

    capability: Capability
    stage: str

    @property
    def flaw(self) -> Flaw | None:
        """The flaw that the test should show; None where it should pass."""
        return self.capability.flaw(self.stage)

    @property
    def is_absent(self) -> bool:
        """Whether the test should fail because the stage was never meant to pass it."""
        return self.capability.is_absent(self.stage)


CASE = pytest.StashKey[Case]()  # what an item of the suite carries


@dataclass
class Cell:
    """The tests of one case: the worst outcome, and what they measured."""

    outcome: Outcome = Outcome.PASS
    evidence: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Surprise:
    """A test that did what nobody expected: which, what that means, and its full report."""

    test: str
    meaning: str
    report: str


@dataclass
class Results:
    """The books of one run."""

    stages: list[str] = field(default_factory=list)  # the columns, in the order of COLUMNS
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    surprises: list[Surprise] = field(default_factory=list)
    tests: int = 0
    notes: list[str] = field(default_factory=list)  # sentences for the end of the report

    def record(self, case: Case, outcome: Outcome, evidence: list[str]) -> None:
        """Add what one test found to its cell."""
        cell = self.cells.setdefault((case.capability.name, case.stage), Cell())
        cell.outcome = max(cell.outcome, outcome, key=lambda each: each.value)
        cell.evidence += evidence

    def cell(self, capability: Capability, stage: str) -> Cell | None:
        """The cell of ``capability`` and ``stage``; None where no test ran."""
        return self.cells.get((capability.name, stage))

    def evidence(self, capability: Capability, stage: str, outcome: Outcome) -> str:
        """What was measured there, as one sentence; empty unless it ended as ``outcome``."""
        cell = self.cell(capability, stage)
        return "; ".join(cell.evidence) if cell and cell.outcome is outcome else ""

    def count(self, stage: str) -> Counter[Outcome]:
        """How many capabilities of ``stage`` ended how."""
        return Counter(cell.outcome for (_, name), cell in self.cells.items() if name == stage)

    def summary(self, stage: str) -> str:
        """One line about ``stage``.

        "naive: 7 pass, 20 known flaws shown, 0 surprises; 10 not in this stage".
        """
        count = self.count(stage)
        absent = f"; {count[Outcome.ABSENT]} not in this stage" if count[Outcome.ABSENT] else ""
        return (
            f"{stage}: {count[Outcome.PASS]} pass, {count[Outcome.FLAW]} known flaws shown, "
            f"{count[Outcome.SURPRISE]} surprise{'s' if count[Outcome.SURPRISE] != 1 else ''}"
            f"{absent}"
        )

    def is_complete(self) -> bool:
        """Whether every cell ran and none surprised: then the run may be written down."""
        return not self.surprises and len(self.cells) == len(CAPABILITIES) * len(COLUMNS)

    def exhibits(self) -> Iterator[tuple[Flaw, list[tuple[str, Outcome, str]]]]:
        """For each flaw what its stage did, and what the first stage that has it did instead.

        Taken from the flaw's exhibit or, if that did not run, from one that shows it too.
        """
        for flaw in FLAWS.values():
            rows = sorted(flaw.shown_by(), key=lambda row: row.name != flaw.exhibit)
            exhibit = max((self._exhibit(flaw, row) for row in rows), key=len)
            if exhibit:
                yield flaw, exhibit

    def _exhibit(self, flaw: Flaw, row: Capability) -> list[tuple[str, Outcome, str]]:
        sides = ((flaw.stage, Outcome.FLAW), (row.fixed_in(flaw.stage), Outcome.PASS))
        return [
            (stage, outcome, evidence)
            for stage, outcome in sides
            if (evidence := self.evidence(row, stage, outcome))
        ]
