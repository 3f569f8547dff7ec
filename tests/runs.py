"""Runs of pytest that begin at once: each is a fork of a process that has imported it already.

To import pytest and what else a run needs takes longer than most of the tests that are run so.
Each run is a process of its own all the same: it may hang, or end suddenly. And this file imports
nothing of ours, so that each run imports what is in its own folder.

But: Windows cannot fork; there each run begins from nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

PATIENCE = 90  # seconds for one run; none takes a tenth of it

# What the runs import, of what is not ours.
IMPORTED = (
    *("pytest", "pytest_timeout", "hypothesis"),
    *("asyncio", "concurrent.futures.thread", "multiprocessing.connection", "sqlite3"),
    *("filelock", "rich.console", "rich.table"),
)

SETTINGS = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # which costs most of a second each time
    "PYTHONUTF8": "1",
}


class Run(NamedTuple):
    """What it ended with, and all that it wrote."""

    code: int
    output: str


class Runs:
    """Runs pytest in any folder, one run after the other. ``environment``: for all of them."""

    def __init__(self, **environment: str) -> None:
        self._environment = os.environ | SETTINGS | environment
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if hasattr(os, "fork"):
            self._server = subprocess.Popen(
                [sys.executable, "-P", __file__],  # not beside our modules
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.communicate()  # it ends when nothing more can come

    def run(self, folder: Path, output: Path, *arguments: str, **environment: str) -> Run:
        """``pytest ARGUMENTS`` in ``folder``; what it writes goes to the file ``output``.

        With an ``environment`` of its own, some of which is read when Python starts, it begins
        from nothing.
        """
        if self._server and not environment:
            code = self._fork(
                {"folder": str(folder), "output": str(output), "arguments": arguments}
            )
        else:
            with output.open("wb") as file:
                code = subprocess.run(
                    [sys.executable, "-m", "pytest", *arguments],
                    cwd=folder,
                    env=self._environment | environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=PATIENCE,
                ).returncode
        return Run(code, output.read_text(encoding="utf-8", errors="replace"))

    def _fork(self, order: dict[str, Any]) -> int:
        assert self._server
        assert self._server.stdin
        assert self._server.stdout
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


def serve() -> None:
    """A run for each line that comes in, and its exit code in a line back."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(folder: str, output: str, arguments: list[str]) -> NoReturn:
    """Do what ``python -m pytest`` would, in this process."""
    import pytest

    signal.alarm(PATIENCE)  # which nobody catches
    os.chdir(folder)
    sys.path.insert(0, folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    code = pytest.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    serve()
