"""Mutation testing: change a line of final/, and see whether a test notices. ``make mutants``

    python -m tests.mutants                  lanes, options and limits: some five minutes
    python -m tests.mutants sqlite job_queue these: about an hour on two cores
    python -m tests.mutants all

A mutant that survives is a line that no test needs: a test is missing, or the line is, or the
change makes no difference (docs/mutants.md says which of them do not, and why). mutmut makes
them, in a copy under build/, and remembers: a second run tests what is new.

But: not a part of ``make test``. And mutmut needs fork(): on Windows use it inside WSL.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "mutants"

# Which tests look at a file: of tests/final, or where it says so.
LIVES = ("turns", "labs/simulate")  # of the dispatcher, step by step and by lot
TESTS = {
    "job_queue": (
        *("bad_options", "bad_jobs", "closing", "dead_letters", "looking", "overflow"),
        *("results", "schedule", "cancel", "fairness", "events", "coroutines"),
        *("timeouts", "store", "ctrl_c", "bad_questions", "waiting_inside", "scarcity"),
    ),
    "beyond/async_queue": ("async",),
    "testing": ("testing",),
    "errors": ("bad_jobs", "bad_files", "results", "dead_letters"),
    "job": ("bad_jobs", "schedule", "results", "looking"),
    "options": ("backoff", "bad_options", "bad_questions", "foreign_code"),
    "payload": ("bad_jobs", "results", "labs/properties"),
    "beyond/graph": ("dependencies",),
    "beyond/filters": ("meta", "looking", "bad_questions"),
    "beyond/kinds": ("kinds", "rate_limits"),
    "beyond/meta": ("meta",),
    "beyond/progress": ("progress",),
    "beyond/snooze": ("snooze",),
    "beyond/traces": ("traces",),
    "beyond/periodic": ("periodic",),
    "engine/loading": ("ctrl_c",),
    "beyond/control": ("control",),
    "engine/many": ("many", "growth"),
    "beyond/unique": ("unique",),
    "engine/uninterrupted": ("ctrl_c", "scarcity"),
    # What is accepted, and who is next.
    "ledger/admission": ("overflow", "turns"),
    "ledger/caps": ("kinds", "groups", "control"),
    "ledger/features/controls": ("control",),
    "ledger/database": ("store", "owner", "bad_files", "full_disk"),
    "ledger/features/dependencies": ("dependencies",),
    "ledger/features/base": ("unique", "meta", "progress"),
    "ledger/groups": ("groups",),
    "ledger/history": ("history", "turns"),
    "ledger/features/holders": ("unique",),
    "ledger/index": ("turns", "exchange", "recovery", "overflow"),
    "ledger/features/keys": ("unique",),
    "ledger/features/periodic": ("periodic",),
    "ledger/picking": ("turns", "rate_limits", "batches"),
    "ledger/lanes": ("lanes", "holding", "rate_limits", "turns"),
    "ledger/ordered": ("lanes", "holding", "groups"),
    "ledger/limits": ("rate_limits", "holding"),
    "ledger/matching": ("meta", "looking", "growth"),
    "ledger/features/metas": ("meta",),
    "ledger/features/progress": ("progress",),
    "ledger/local": (
        *("exchange", "recovery", "dead_letters", "history", "overflow", "schedule", "cancel"),
        *("full_disk", "rate_limits", *LIVES),
    ),
    "ledger/orders": ("cancel", "many", "turns"),
    "ledger/owner": ("owner", "bad_files", "fork_and_exit"),
    "ledger/recovery": ("recovery", "turns"),
    "ledger/schema": ("bad_files", "store"),
    "ledger/trouble": ("bad_files", "full_disk"),
    "ledger/lookups": ("looking", "results", "bad_files", "store", "growth", "groups"),
    "ledger/rows": ("looking", "results", "bad_files", "store"),
    "ledger/sqlite": (
        *("turns", "bad_files", "dead_letters", "history", "looking", "overflow"),
        *("recovery", "results", "schedule", "cancel", "store", "exchange"),
    ),
    "ledger/postgres/address": ("postgres/address",),
    "ledger/postgres/arrays": ("postgres/arrays",),
    "ledger/postgres/dependencies": ("postgres/dependencies",),
    "ledger/postgres/doubt": ("postgres/processes", "postgres/doubt", "labs/shared"),
    "ledger/postgres/holders": ("postgres/unique",),
    "ledger/postgres/housekeeping": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/lease": ("postgres/processes", "postgres/doubt", "labs/shared"),
    "ledger/postgres/ledger": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/matching": ("postgres/meta", "postgres/processes"),
    "ledger/postgres/metas": ("postgres/meta",),
    "ledger/postgres/memory": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/notices": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/orders": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/returned": ("postgres/returned", "postgres/processes", "postgres/doubt"),
    "ledger/postgres/periodic": ("postgres/periodic",),
    "ledger/postgres/room": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/ticks": ("postgres/periodic",),
    "ledger/postgres/turn": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/window": ("postgres/processes", "postgres/doubt"),
    "ledger/postgres/listener": ("postgres/processes",),
    "ledger/postgres/lookups": ("postgres/processes",),
    "ledger/postgres/migrate": ("postgres/migrate",),
    "ledger/postgres/rows": ("postgres/processes",),
    "ledger/postgres/session": ("postgres/doubt",),
    "ledger/postgres/statements": ("postgres/processes",),
    "ledger/postgres/within": ("postgres/processes",),
    "ledger/postgres/witness": ("postgres/processes",),
    # What is alive.
    "engine/courier": ("events", "logging", "foreign_code"),
    "engine/deadlocks": ("waiting_inside", "kinds", "groups", "control"),
    "engine/dispatcher": ("closing", "overflow", "full_disk", "failed", "schedule", *LIVES),
    "engine/events": ("events", "logging", "foreign_code"),
    "engine/flight": ("batches", "timeouts", "cancel", "closing", *LIVES),
    "engine/messages": ("ids", "closing", "timeouts", "async", *LIVES),
    "engine/metrics": ("metrics", "turns", "labs/simulate"),
    "engine/sayings": ("progress",),
    "engine/producers": ("overflow", "ids", "closing", *LIVES),
    "engine/waits": ("results", "looking", "bad_questions", *LIVES),
    # Who runs the jobs.
    "workers/batch": ("timeouts", "batches", "closing"),
    "workers/attempts": ("bad_handlers", "results", "foreign_code", "closing"),
    "workers/forks": ("fork_and_exit",),
    "workers/child": ("processes",),
    "workers/coroutines": ("coroutines", "undone", "context", "cancel"),
    "workers/event_loop": ("coroutines",),
    "workers/current": ("timeouts", "context", "waiting_inside", "coroutines"),
    "workers/middleware": ("middleware",),
    "workers/handlers": ("bad_handlers", "bad_options", "coroutines", "processes"),
    "workers/pool": ("batches", "timeouts", "closing", "scarcity", "cancel"),
    "workers/child_process": ("processes",),
    "workers/processes": ("processes",),
    "workers/undone": ("undone", "bad_handlers"),
}
# Of these, the ones that start processes, or wait: too slow for a thousand mutants.
LEFT_OUT = (
    *("EndTheProcess", "AfterARestart", "TestWhatTheHandlerSees", "no_retry_would_help"),
    *("may_not_be_written", "times_out", "suspect", "comes_out_as_it_went_in", "deep"),
    *("test_a_planted_fault", "test_a_broken_seed"),  # these show that the labs see
)
QUICK = ("lanes", "options", "limits")
NAMES = {file.rpartition("/")[2]: file for file in TESTS}

CONFIG = """\
[tool.pytest.ini_options]
timeout = 15
markers = ["capability(name): the capability in tests/expectations.py that the test shows"]

[tool.mutmut]
source_paths = ["final/"]
only_mutate = {files}
also_copy = ["naive", "improved", "final"]
# The profile of hypothesis for machines: no deadlines, and the same examples for each mutant.
pytest_add_cli_args = ["-p", "no:cacheprovider", "--hypothesis-profile=ci"]
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false
# Each mutant is tested in a fork of a process that has run no test: there are no threads in it.
process_isolation = "forkserver"
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", choices=[*NAMES, "all", []], help="of final/")
    chosen = parser.parse_args().files or QUICK
    files = list(TESTS) if "all" in chosen else [NAMES[name] for name in chosen]
    console = Console(highlight=False)
    if not hasattr(os, "fork"):
        console.print("mutmut needs fork(), which Windows does not have: use it inside WSL.")
        return 2
    lay_out(files)
    if mutmut("run", "--max-children", str(os.cpu_count() or 1)).returncode:
        return 1
    report(console, files)
    return 0


def lay_out(files: list[str]) -> None:
    """The code as it is now; what mutmut knows from earlier runs stays in build/mutants/mutants."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("naive", "improved", "final", "tests"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        shutil.copytree(ROOT / name, FOLDER / name, ignore=shutil.ignore_patterns("__pycache__"))
    tests = sorted({path_of(test) for file in files for test in TESTS[file]})
    tests += ["-k", f"not ({' or '.join(LEFT_OUT)})"]
    config = CONFIG.format(files=[f"final/{file}.py" for file in files], tests=tests)
    (FOLDER / "pyproject.toml").write_text(config.replace("'", '"'), encoding="utf-8")


def path_of(name: str) -> str:
    folder, _, test = name.rpartition("/")
    return f"tests/{folder or 'final'}/test_{test}.py"


def mutmut(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=FOLDER, text=True, capture_output=quiet)


def report(console: Console, files: list[str]) -> None:
    """A table, and what every survivor changes."""
    verdicts = dict(
        line.strip().split(": ", 1)
        for line in mutmut("results", "--all", "true", quiet=True).stdout.splitlines()
        if line.startswith("    ")
    )
    kinds = ("killed", "timeout", "survived", "no tests")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "mutants", *kinds):
        table.add_column(heading, justify="right" if heading else "left")
    for file in files:
        module = f"final.{file.replace('/', '.')}.x"  # mutmut's names of functions begin so
        counts = Counter(v for name, v in verdicts.items() if name.startswith(module))
        numbers = (counts.total(), *(counts[kind] for kind in kinds))
        table.add_row(f"final/{file}.py", *map(str, numbers))
    console.print(Padding(table, (1, 2)))
    for name, verdict in verdicts.items():
        if verdict not in ("killed", "timeout"):
            console.print(Text(f"  {name}: {verdict}", "dim"), soft_wrap=True)
            for line in mutmut("show", name, quiet=True).stdout.splitlines():
                if line[:1] in ("-", "+") and line[:3] not in ("---", "+++"):
                    colour = "red" if line[0] == "-" else "green"
                    console.print(Text(f"    {line}", colour), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
