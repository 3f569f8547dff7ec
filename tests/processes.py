"""Programs of this repository, run as readers run them: real processes, stopped and killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from tests.helpers import DEADLINE, Background

ROOT = Path(__file__).parents[1]

# Windows has no SIGTERM that a process could catch, and its Ctrl-C goes to a whole console.
needs_signals = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def said_to_nobody(process: subprocess.Popen[str]) -> str:
    """Read one line of what it prints and no more, as ``| head`` does; all of its stderr."""
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    return process.stderr.read()


class Program:
    """``python -m MODULE ARGUMENTS`` in ``folder``; ends with the ``with`` block at the latest."""

    def __init__(self, folder: Path, module: str, *arguments: str, **environment: str) -> None:
        # Wide, so that no line that a test waits for is wrapped; plain, wherever it runs.
        environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "FORCE_COLOR": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self.output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.__exit__(None, None, None)  # closes the pipe, waits for the end

    def read_until(self, text: str) -> None:
        """Wait for a line that holds ``text``."""
        assert self._process.stdout
        line = ""
        while text not in line:
            line = Background(self._process.stdout.readline).result(3 * DEADLINE)
            self.output += line
            assert line, f"The program ended without {text!r}:\n{self.output}"

    def read_to_the_end(self) -> int:
        """Wait until it ends by itself; its exit code."""
        self.output += self._process.communicate(timeout=3 * DEADLINE)[0]
        return self._process.returncode

    def stop_reading(self) -> None:
        """As a ``tee`` behind it does, which Ctrl-C has ended, too."""
        assert self._process.stdout
        self._process.stdout.close()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; on Windows TerminateProcess, which is as sudden."""
        self._process.kill()
        self.output += self._process.communicate()[0]
