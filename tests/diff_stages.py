"""What one stage changed in the stage before it, method by method: ``make diff-improved``.

Stages keep their methods in the same order under the same names, so each is compared with
its namesake. First an overview: what is new, what grew, and where the flaws are.

But: it compares ``job_queue.py`` alone, and by name: what is renamed shows as new.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import io
import os
import re
import signal
import sys
from pathlib import Path

from tests.expectations import STAGES

REPOSITORY = Path(__file__).parents[1]
RED, GREEN, BOLD = "31", "32", "1"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.diff_stages",
        description="What one stage changed in another, method by method.",
    )
    for name in ("before", "after"):
        parser.add_argument(name, choices=STAGES)
    chosen = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may not know every character
    compare(chosen.before, chosen.after)


def compare(before: str, after: str) -> None:
    old_source, new_source = read(before), read(after)
    old, new = sections(old_source), sections(new_source)
    print(f"From {before} ({len(old_source)} lines) to {after} ({len(new_source)} lines)\n")
    print(f"  {'lines':<30}{before:>10}{after:>10}   flaws")
    for name, lines in new.items():
        print(_overview(name, old.get(name, []), lines))
    for name in [*new, *(old.keys() - new.keys())]:
        if old.get(name) != new.get(name):
            _print_changes(name, old.get(name, []), new.get(name, []))


def read(stage: str) -> list[str]:
    return (REPOSITORY / stage / "job_queue.py").read_text(encoding="utf-8").splitlines()


def sections(source: list[str]) -> dict[str, list[str]]:
    """The lines of each class, method and function by name, in their order in the file."""
    starts = {0: "(top of the file)"}
    for node in ast.parse("\n".join(source)).body:
        if isinstance(node, ast.Assign):
            starts[_first_line(node, source)] = ast.unparse(node.targets[0])
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            starts[_first_line(node, source)] = node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    starts[_first_line(method, source)] = f"{node.name}.{method.name}"
    ends = [*list(starts)[1:], len(source)]
    return {
        name: "\n".join(source[start:end]).rstrip().split("\n")
        for (start, name), end in zip(starts.items(), ends, strict=True)
    }


def _first_line(node: ast.stmt, source: list[str]) -> int:
    """Where the node begins, its decorators and the comment above it included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    while source[first - 1].lstrip().startswith("#"):
        first -= 1
    return first


def _overview(name: str, old: list[str], new: list[str]) -> str:
    remark = "as before" if old == new else _flaws(old, new)
    return f"  {name:<30}{len(old) or '':>10}{len(new):>10}   {remark}".rstrip()


def _flaws(old: list[str], new: list[str]) -> str:
    """The ``# FLAW`` marks in these lines, before and after."""
    before, after = (re.findall(r"# FLAW (\w+)", "\n".join(lines)) for lines in (old, new))
    if not before and not after:
        return ""
    return f"{' '.join(before) or 'none'} -> {' '.join(after) or 'none'}"


def _print_changes(name: str, old: list[str], new: list[str]) -> None:
    print("\n" + _painted(BOLD, f"---- {name} ".ljust(80, "-")))
    for line in difflib.ndiff(old, new):
        if line[0] != "?":  # ndiff's hints at the characters that differ
            colour = {"-": RED, "+": GREEN}.get(line[0], "")
            print(_painted(colour, line.rstrip()))


def _painted(code: str, text: str) -> str:
    if not code or not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{code}m{text}\033[0m"


if __name__ == "__main__":
    os.system("")  # a quirk: after this, the Windows console understands colours
    if hasattr(signal, "SIGPIPE"):  # nobody reads on, as with | head: that ends it without a word
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
