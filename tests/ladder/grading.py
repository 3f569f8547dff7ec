"""Grades a file: runs rows of the shared suite on it, in a copy, in a process with limits.

The copy holds the tests of this repository, copied anew, and the file as ``mine/job_queue.py``;
the stages are not in it. A row passes or fails. Whatever the file does (hang, exit, flood, fork,
eat the memory) ends as a row that failed, with what was seen, in words.

But: limits are no jail. They keep an honest mistake from hurting; a file written to do harm
belongs into a container.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.expectations import CANDIDATE, CAPABILITIES
from tests.ladder import seeing
from tests.ladder.steps import ROOT, ROWS, STEPS, Step, step_of

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    deadline: seconds that a test waits for something, and fails.
    test: seconds after which one that hangs is ended. All else: of the process and its children.
    """

    deadline: float = 4.0
    test: float = 15.0
    run: float = 240.0
    memory: int = 1_000 * MEGABYTE
    output: int = 10 * MEGABYTE
    processes: int = 8


@dataclass(frozen=True)
class Candidate:
    """Somebody's queue: a file, or a folder with ``job_queue.py`` or a package in it."""

    path: Path

    @property
    def files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        return sorted(file for file in self.path.rglob("*.py") if file.is_file())

    @property
    def is_package(self) -> bool:
        return (self.path / "__init__.py").is_file()

    @property
    def main(self) -> Path:
        """The file to open first."""
        inside = self.path / "job_queue.py"
        return inside if inside.exists() else self.files[0]

    @property
    def hash(self) -> str:
        """Which version it was: the beginning of its SHA-256."""
        code = hashlib.sha256()
        for file in self.files:
            code.update(file.read_bytes())
        return code.hexdigest()[:12]

    def copy_to(self, folder: Path) -> None:
        """As ``mine/job_queue.py`` under ``folder``."""
        mine = folder / "mine"
        if not self.path.is_dir():
            mine.mkdir()
            shutil.copyfile(self.path, mine / "job_queue.py")
        elif self.is_package:
            self._copy_package_to(folder)
        else:
            for file in self.path.rglob("*"):  # also what they read, as a schema.sql
                if file.is_file() and file.parent.name != "__pycache__":
                    target = mine / file.relative_to(self.path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
            # They import each other as if they were scripts, too; last, so they hide no module.
            finds_them = "import sys\n\nsys.path.append(__path__[0])\n"
            (mine / "__init__.py").write_text(finds_them, encoding="utf-8")

    def _copy_package_to(self, folder: Path) -> None:
        """It keeps its name, which it may use; unless that is one which Python cannot import."""
        name = self.path.name if self.path.name.isidentifier() else CANDIDATE
        shutil.copytree(self.path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        asked_for = folder / CANDIDATE / "job_queue.py"
        if not asked_for.exists():
            asked_for.parent.mkdir(exist_ok=True)
            module = f"{name}.job_queue" if (folder / name / "job_queue.py").exists() else name
            asked_for.write_text(f"from {module} import *\n", encoding="utf-8")


@dataclass
class Row:
    """How a row of the suite ended.

    seen: what there was instead, a line each. when: in which part of its test it failed: "setup"
    imports the file, and "teardown" closes its queues.
    """

    name: str
    passed: bool
    seen: list[str] = field(default_factory=list)
    when: str = "call"
    evidence: str = ""
    seconds: float = 0.0


@dataclass
class Verdict:
    """What a run found. rows: those that ran, in the order of the steps.

    reaches: what the file reached for that is not its business. notes: what else is to be said.
    """

    hash: str
    rows: dict[str, Row] = field(default_factory=dict)
    reaches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def passes(self, rows: Iterable[str]) -> bool:
        return all(row in self.rows and self.rows[row].passed for row in rows)

    @property
    def step(self) -> int:
        """The last step whose rows pass, with those of all steps before; 0 for none."""
        passed = [step.number for step in STEPS if self.passes(step.rows)]
        return next((n for n in range(len(STEPS)) if n + 1 not in passed), len(STEPS))

    @property
    def failed(self) -> Row | None:
        """The first row that failed."""
        return next((row for row in self.rows.values() if not row.passed), None)


# Is told which row is on, again and again. What it raises ends the run.
Watcher = Callable[[str], None]


def grade(
    candidate: Candidate,
    rows: Iterable[str] = ROWS,
    *,
    to_the_end: bool = False,
    limits: Limits = Limits(),
    watcher: Watcher = lambda row: None,
) -> Verdict:
    """Run ``rows`` on the candidate, in the order of the steps.

    to_the_end: also those after the first that fails. A process that had to be ended takes only
        the row with it that it was on; the others then run in another.
    """
    verdict = Verdict(candidate.hash)
    left = [row for row in ROWS if row in set(rows)]
    if (error := no_python(candidate)) and left:
        verdict.rows[left[0]] = Row(left[0], False, error, "setup")
        return verdict
    while left:
        with copy_of_the_tests() as folder:  # anew: the process before may have damaged it
            candidate.copy_to(folder)
            run = Run(folder, left, limits, stop=not to_the_end, watcher=watcher)
            run.into(verdict)
        if verdict.failed and not to_the_end:
            break
        done = [row for row in left if row in verdict.rows]
        if not done:
            raise GraderBroke(run.output)
        left = [row for row in left if row not in verdict.rows]
    verdict.rows = {row: verdict.rows[row] for row in ROWS if row in verdict.rows}
    return verdict


def climb(
    candidate: Candidate,
    step: Step | None = None,
    *,
    to_the_end: bool = False,
    limits: Limits = Limits(),
    watcher: Watcher = lambda row: None,
) -> Verdict:
    """Grade one step, or all up to the first that fails; the stars each for itself."""
    stars = STEPS[-1]
    if step is not None:
        rows: Iterable[str] = step.rows
    else:
        rows = ROWS if to_the_end else [row for row in ROWS if row not in stars.rows]
    every = to_the_end or step is stars
    verdict = grade(candidate, rows, to_the_end=every, limits=limits, watcher=watcher)
    if step is None and not to_the_end and verdict.failed is None:
        more = grade(candidate, stars.rows, to_the_end=True, limits=limits, watcher=watcher)
        verdict.rows |= more.rows
        verdict.reaches += more.reaches
    verdict.reaches = list(dict.fromkeys([*verdict.reaches, *suspicions(candidate)]))
    return verdict


def no_python(candidate: Candidate) -> list[str]:
    """Why it cannot be read as Python, and the line; empty if it can.

    (Of other files in its folder the run finds those that it imports, and tells of them.)
    """
    if candidate.is_package and candidate.path.name in {*sys.stdlib_module_names, "tests"}:
        return [f"A package cannot be called {candidate.path.name}: a module is. Rename it."]
    file = candidate.main
    try:
        ast.parse(file.read_bytes())
    except SyntaxError as error:
        if error.lineno is None:  # bytes that no text has
            return [f"{file.name} is no text ({error.msg}): save it as UTF-8."]
        line = [f"    {error.text.strip()}"] if error.text else []
        return [f"SyntaxError: {error.msg} (line {error.lineno}).", *line]
    except ValueError as error:  # so says Python before 3.12 of some
        return [f"{file.name} is no text ({error}): save it as UTF-8."]
    except (MemoryError, RecursionError):
        return [f"{file.name} is nested too deeply for Python to read it."]
    return []


class GraderBroke(RuntimeError):
    """Not the candidate's fault: the tests did not even begin. Holds what they printed."""


@contextmanager
def copy_of_the_tests() -> Iterator[Path]:
    """A folder with the suite and what it needs, gone afterwards."""
    place = _in_memory()
    with tempfile.TemporaryDirectory(
        prefix="ladder-", dir=place, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name).resolve() / "copy"
        tests = ROOT / "tests"
        for file in [*tests.glob("*.py"), *tests.glob("suite/*.py"), *tests.glob("ladder/*.py")]:
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        marks = "markers = capability(name)\n    timeout(seconds)\nconsole_output_style = classic\n"
        (folder / "pytest.ini").write_text(f"[pytest]\n{marks}", encoding="utf-8")
        yield folder


def _in_memory() -> str | None:
    """Where files live in memory and a sync costs nothing: no row is about power cuts."""
    place = "/dev/shm"  # Linux has it; elsewhere the folder for temporary files has to do
    try:
        roomy = shutil.disk_usage(place).free > 500 * MEGABYTE
    except OSError:
        return None
    return place if roomy and os.access(place, os.W_OK) else None


class Run:
    """One process of pytest in the copy, watched until it has ended or been ended."""

    def __init__(
        self, folder: Path, rows: list[str], limits: Limits, *, stop: bool, watcher: Watcher
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._watcher = watcher
        # Beside the copy: a file may delete what is around it.
        self._report, self._stacks = folder.parent / "report", folder.parent / "stacks"
        for file in (self._report, self._stacks):
            file.write_bytes(b"")
        self._events: list[dict[str, Any]] = []
        self._row = ""
        self._printed = 0
        self._last_output = b""
        self._killed = ""  # why we ended it
        self.code = self._watch(self._begin(rows, stop))

    @property
    def output(self) -> str:
        """The last of what it printed."""
        return self._last_output.decode(errors="replace")

    def _begin(self, rows: list[str], stop: bool) -> subprocess.Popen[bytes]:
        files = [f"tests/suite/{CAPABILITIES[row].test_file}" for row in rows]
        without = ("no:cacheprovider", "no:faulthandler", "no:logging")  # logs go to stderr
        plugins = ("-p", "tests.ladder.inside", *(a for name in without for a in ("-p", name)))
        options = ("-q", "-s", "--tb=no", "--no-header", "--no-summary", "-W", "ignore")
        temporary = ("--assert=plain", "--basetemp", str(self._folder / "tmp"))
        stage = ("--stage", CANDIDATE, *(["-x"] if stop else []))
        settings = {
            "LADDER_REPORT": str(self._report),
            "LADDER_STACKS": str(self._stacks),
            "LADDER_LIMIT": str(self._limits.test),
            "SUITE_DEADLINE": str(self._limits.deadline),
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONOPTIMIZE": "",  # it takes away the tests' asserts
            "PYTHONPATH": str(self._folder),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *plugins, *options, *temporary, *stage, *files],
            cwd=self._folder,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all it starts can be ended with it
        )

    def _watch(self, process: subprocess.Popen[bytes]) -> int | None:
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        until = time.monotonic() + self._limits.run
        try:
            while True:
                # A process cannot tell us that it grows: somebody has to look.
                try:
                    return process.wait(0.05)
                except subprocess.TimeoutExpired:
                    self._look_at_report()
                    self._watcher(self._row)
                    self._killed = self._trespass(process.pid, until)
                    if self._killed:
                        return None
        finally:
            end(process)
            reader.join(2)  # what it left behind may hold the pipe, and is not waited for
            self._look_at_report()

    def _trespass(self, pid: int, until: float) -> str:
        """The limit that it has passed, as a sentence; empty for none."""
        limits = self._limits
        memory, count = _use(pid)
        if memory > limits.memory:
            return f"It needed more than {limits.memory // MEGABYTE:,} MB of memory, and was ended."
        if count > limits.processes:
            return f"It started more than {limits.processes} processes, and was ended."
        if self._printed > limits.output:
            return f"It printed more than {limits.output // MEGABYTE} MB, and was ended."
        if time.monotonic() > until:
            return f"It took more than {limits.run:.0f} s in all, and was ended."
        return ""

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        while block := os.read(process.stdout.fileno(), 1 << 16):
            self._printed += len(block)
            self._last_output = (self._last_output + block)[-4000:]

    def _look_at_report(self) -> None:
        lines = self._report.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        for line in whole[len(self._events) :]:
            self._events.append(json.loads(line))
            self._row = self._events[-1].get("begin", self._row)

    def into(self, verdict: Verdict) -> None:
        """Add what this run found."""
        begun, why = "", []
        for event in self._events:
            if "begin" in event:
                begun = event["begin"]
            elif "end" in event:
                begun = ""
                self._add(verdict, event)
            elif "reaches" in event and event["reaches"] not in verdict.reaches:
                verdict.reaches.append(event["reaches"])
            elif "interrupted" in event:
                why = [event["interrupted"]]
            elif event.get("alive"):
                names = ", ".join(event["alive"][:3])
                verdict.notes.append(
                    f"Threads that are no daemons were still there at the end ({names}): "
                    "a process with a forgotten queue would not end."
                )
        if begun:
            verdict.rows[begun] = Row(begun, False, why or self._why_it_ended())

    def _add(self, verdict: Verdict, event: dict[str, Any]) -> None:
        row = verdict.rows.setdefault(event["end"], Row(event["end"], True))
        row.seconds += event["seconds"]
        row.evidence = event["evidence"] or row.evidence
        if not event["passed"] and row.passed:
            row.passed, row.when = False, event["when"]
            row.seen = seeing.seen(event, step_of(row.name).number)

    def _why_it_ended(self) -> list[str]:
        """In words, for the test that was running."""
        stacks = self._stacks.read_text(encoding="utf-8", errors="replace")
        if self._killed:
            return [self._killed]
        printed = seeing.Lines()
        printed.add(self.output.splitlines())
        if "Timeout" in stacks:
            return [*seeing.hang(stacks), *printed.last()]
        return [
            f"The process ended in the middle of the test, with exit code {self.code}: "
            "something called os._exit, or crashed.",
            *printed.last(),
        ]


def _use(pid: int) -> tuple[int, int]:
    """Bytes of memory and number of processes, of a process and all that it started."""
    memory = count = 0
    try:
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            memory += each.memory_info().rss
            count += 1
    except psutil.Error:  # it ended meanwhile
        pass
    return memory, count


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, and whatever it started, and wait until it is gone."""
    try:
        left = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        left = []
    if hasattr(os, "killpg"):  # those whose parent has ended, too; Windows has no such group
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for child in left:
        with suppress(psutil.Error):
            child.kill()
    process.kill()
    process.wait()


# Modules and names that no step needs.
_MODULES = {
    *("naive", "improved", "final", "tests", "pytest", "_pytest", "inspect", "gc", "ctypes"),
    *("socket", "urllib", "http", "requests", "subprocess", "importlib"),
}
_NAMES = {"sys.modules", "sys._getframe", "sys._current_frames", "os._exit", "os.kill", "os.fork"}


def suspicions(candidate: Candidate) -> list[str]:
    """What the text of the files reaches for that no step needs, each with its line."""
    return [
        f"{name} ({seeing.place_of(_copied(file, candidate), node.lineno)})"
        for file in candidate.files
        for node in _statements(file)
        for name in _names(node)
        if name.partition(".")[0] in _MODULES or name in _NAMES or name == "__import__"
    ]


def _copied(file: Path, candidate: Candidate) -> str:
    """How a file is called in the copy."""
    return "job_queue.py" if file == candidate.path else file.name


def _statements(file: Path) -> list[ast.stmt | ast.expr]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []  # the run will say so
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr)]


def _names(node: ast.stmt | ast.expr) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Attribute(value=ast.Name(id=left), attr=right) if left in ("sys", "os"):
            return [f"{left}.{right}"]
        case ast.Name(id="__import__"):
            return ["__import__"]
    return []
