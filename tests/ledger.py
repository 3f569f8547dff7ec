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

# For each capability that a stage lacks, where to read how a later one has it: file and function.
_MENDED = {
    "worker-survival": ("improved/job_queue.py", "_work"),
    "backpressure": ("improved/job_queue.py", "enqueue"),
    "backpressure-timeout": ("improved/job_queue.py", "enqueue"),
    "bounded-memory": ("improved/job_queue.py", "enqueue"),
    "priority": ("improved/job_queue.py", "_take"),
    "no-starvation": ("final/ledger/lanes.py", "_first_due"),
    "retry": ("improved/job_queue.py", "_record"),
    "backoff": ("improved/job_queue.py", "_record"),
    "dead-letter": ("improved/job_queue.py", "_record"),
    "retry-frees-worker": ("improved/job_queue.py", "_requeue_due_retries"),
    "close-in-flight": ("improved/job_queue.py", "close"),
    "close-drains": ("improved/job_queue.py", "close"),
    "close-wakes-producer": ("improved/job_queue.py", "close"),
    "enqueue-after-close": ("improved/job_queue.py", "enqueue"),
    "metrics": ("improved/job_queue.py", "metrics"),
    "metrics-by-priority": ("improved/job_queue.py", "metrics"),
    "status": ("final/ledger/lookups.py", "get"),
    "unknown-id": ("final/job_queue.py", "get"),
    "restart": ("final/ledger/local.py", "exchange"),
    "kill-9": ("final/ledger/recovery.py", "recover"),
    "retry-restart": ("final/ledger/recovery.py", "load"),
}


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


def fix(capability: Capability, root: Path = ROOT) -> Place:
    """What to read in the first stage that has what an earlier one lacks."""
    path, function = _MENDED[capability.name]
    return Place(path, _definition(root / path, function), function)


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


def _definition(file: Path, name: str) -> int | None:
    functions = (
        n for n in ast.walk(ast.parse("\n".join(_lines(file)))) if isinstance(n, ast.FunctionDef)
    )
    return next((f.lineno for f in functions if f.name == name), None)
