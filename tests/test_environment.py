"""The environment is made by one at a time, and what is there already is left as it is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import environment
from tests.final.helpers import eventually
from tests.helpers import DEADLINE


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What an environment looks like from outside, newer than what it is made of."""
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "env" / ".ready").touch()
    return tmp_path / "env"


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.environment", "--into", str(folder)]
    return subprocess.Popen(command, cwd=environment.ROOT, stdout=subprocess.PIPE, text=True)


def test_what_is_there_is_left_as_it_is(made: Path) -> None:
    with start(made) as program:
        output, _ = program.communicate(timeout=DEADLINE)
    assert (program.returncode, output) == (0, "")


@pytest.mark.slow
def test_one_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    """The interpreter is there first, and pip seconds later."""
    make = "import sys, pathlib; from tests.environment import _python as make\n"
    make += "print(make(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", make, str(tmp_path / "env")]
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with subprocess.Popen(command, cwd=environment.ROOT) as cut_short:
        eventually(python.exists, "the interpreter")
        cut_short.kill()
    subprocess.run(command, cwd=environment.ROOT, check=True)
    subprocess.run([str(python), "-m", "pip", "--version"], check=True)


def test_the_second_of_two_waits_for_the_first(made: Path) -> None:
    with contextlib.ExitStack() as stack:
        with environment._alone(made):
            program = stack.enter_context(start(made))
            assert program.stdout
            assert program.stdout.readline().startswith("Waiting for another program")
            assert program.poll() is None
        assert program.wait(timeout=DEADLINE) == 0
