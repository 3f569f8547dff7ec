"""Where the flaws are: every ``# FLAW N1: ...`` comment in the stages, found by reading them."""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.expectations import STAGES, Capability, Flaw

ROOT = Path(__file__).resolve().parent.parent

_MARK = re.compile(r"# FLAW (\w+):")


@dataclass(frozen=True)
class Place:
    """A line of a file, written as editors understand it: ``naive/job_queue.py:40``."""

    path: str
    line: int | None = None
    function: str | None = None

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        function = f" ({self.function})" if self.function else ""
        return f"{self.path}{line}{function}"


def marks(root: Path = ROOT) -> list[tuple[str, Place]]:
    """Every flaw id that a comment names, and where; in the order of stages and lines."""
    return [
        (found[1], Place(file.relative_to(root).as_posix(), number))
        for stage in STAGES
        for file in sorted((root / stage).rglob("*.py"))
        for number, line in enumerate(_lines(file), start=1)
        if (found := _MARK.search(line))
    ]


def where(flaw: Flaw, root: Path = ROOT) -> Place:
    """The line that causes ``flaw``."""
    for flaw_id, place in marks(root):
        if flaw_id == flaw.id:
            return place
    raise LookupError(
        f"No line of {flaw.stage}/ carries the comment '# FLAW {flaw.id}: ...'; "
        f"mark the line that causes it, or remove {flaw.id} from tests/expectations.py."
    )


def fix(flaw: Flaw, capability: Capability, root: Path = ROOT) -> Place:
    """What to read in the stage that does better: its job_queue.py, and there the same method."""
    path = f"{capability.fixed_in(flaw.stage)}/job_queue.py"
    flawed = where(flaw, root)
    assert flawed.line is not None
    method = _function_around(root / flawed.path, flawed.line)
    if method and method != "__init__" and (line := _definition(root / path, method)):
        return Place(path, line, method)
    return Place(path)


def excerpt(flaw: Flaw, root: Path = ROOT) -> str:
    """The flaw's comment and the line of code beneath it."""
    place = where(flaw, root)
    assert place.line is not None
    mark, *rest = _lines(root / place.path)[place.line - 1 :]
    comment = list(itertools.takewhile(lambda line: line.lstrip().startswith("#"), rest))
    # The comment of another flaw may follow before the code that both are about.
    own = itertools.takewhile(lambda line: not _MARK.search(line), comment)
    code = rest[len(comment)]
    return textwrap.dedent("\n".join([mark, *own, code])).rstrip()


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _functions(file: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def _function_around(file: Path, line: int) -> str | None:
    around = [f for f in _functions(file) if f.lineno <= line <= (f.end_lineno or f.lineno)]
    return max(around, key=lambda f: f.lineno).name if around else None


def _definition(file: Path, name: str) -> int | None:
    return next((f.lineno for f in _functions(file) if f.name == name), None)
