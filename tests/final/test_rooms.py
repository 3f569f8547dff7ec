"""The rooms of final, as docs/inside-final.md draws them: imports lead downwards only."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import final

ROOT = Path(final.__file__).parent
FLOORS = (
    # Of what goes beyond the basics, traces and the queue for asyncio use the queue.
    {"service", "examples", "__main__", "beyond.traces"},
    {"__init__"},
    {"beyond.async_queue", "testing"},
    {"job_queue"},
    {"engine"},
    {"ledger", "workers"},  # which do not know each other
    {"job", "errors", "options", "payload", "beyond"},
)


def imports() -> dict[str, set[str]]:
    """What each module imports of final: ``"engine.flight": {"job", "engine.metrics", ...}``."""
    files = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in ROOT.rglob("*.py")}
    found: dict[str, set[str]] = {module: set() for module in files}
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("final"):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}".removeprefix("final.")
                    if name not in files:  # it is a name in a module
                        name = name.rpartition(".")[0] or "__init__"
                    found[module].add(name)
    return found


def floor(module: str) -> int:
    room = module if any(module in rooms for rooms in FLOORS) else module.partition(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_imports_lead_downwards() -> None:
    arrows = [(module, other) for module, others in imports().items() for other in others]
    assert len(arrows) > 100
    assert [arrow for arrow in arrows if floor(arrow[1]) < floor(arrow[0])] == []
    rooms = {(module.partition(".")[0], other.partition(".")[0]) for module, other in arrows}
    assert rooms.isdisjoint({("ledger", "workers"), ("workers", "ledger")})


def test_the_door_shows_at_most_a_dozen_things() -> None:
    shown = [entry.name for entry in ROOT.iterdir() if not entry.name.startswith("__")]
    assert len(set(shown) - {"py.typed"}) <= 12


def test_imports_lead_nowhere_in_a_circle() -> None:
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names the circle


def test_no_class_has_the_name_of_another() -> None:
    names = [
        node.name
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name in set(names) if names.count(name) > 1] == []


def test_the_heart_can_be_read_in_the_promised_time() -> None:
    # docs/inside-final.md says what the heart is, and in which order to read it.
    page = (ROOT.parent / "docs" / "inside-final.md").read_text(encoding="utf-8")
    table = page.partition("| minutes | file |")[2].partition("\n\n")[0]
    files = re.findall(r"^\| \d+ \| \[[\w/.]+\]\(\.\./([\w/.]+)\)", table, re.MULTILINE)
    assert files.pop(0) == "final/ledger/base.py"  # the words of the seam: hardly any code
    assert len(files) == 7
    assert sum(code_lines(ROOT.parent / file) for file in files) <= 1_700


def code_lines(file: Path) -> int:
    """Without comments, docstrings and empty lines."""
    code = file.read_text(encoding="utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    return sum(
        line.strip() != "" and not line.strip().startswith("#") and number not in docstrings
        for number, line in enumerate(code.splitlines(), start=1)
    )
