"""Make the environment, or add to it: ``python3 -m tests.environment [bench notebooks ...]``

Makes ``.venv`` and installs what the suite, the examples and the service need, in the versions
of constraints.txt; then what each name stands for in pyproject.toml. What is there already, and
newer than these two files, is left as it is. Two of these at once take turns, and the second
finds the work done. `make` calls it; on Windows: ``py -m tests.environment``.

It imports the standard library alone, since it is what brings the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.doctor import NEEDED_PYTHON

ROOT = Path(__file__).parents[1]
BASE = "dev,examples,service"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.environment", description=DESCRIPTION)
    parser.add_argument("extras", nargs="*", help="what else to install: bench, docs ...")
    parser.add_argument("--into", type=Path, default=ROOT / ".venv", help="the folder (.venv)")
    arguments = parser.parse_args()
    if sys.version_info < NEEDED_PYTHON:
        parser.error(f"this is Python {sys.version.split()[0]}; it takes 3.11 or newer")
    folder = arguments.into.absolute()
    try:
        with _alone(folder):
            for extras in [BASE, *arguments.extras]:
                _install(folder, extras)
    except subprocess.CalledProcessError as failed:
        return failed.returncode or 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock on ``folder``: that of an SQLite file, which is the same on every system and
    ends with its process."""
    with contextlib.closing(sqlite3.connect(f"{folder}.lock", timeout=0)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            print(f"Waiting for another program that installs into {folder.name} ...", flush=True)
            lock.execute("PRAGMA busy_timeout = 600000")
            lock.execute("BEGIN EXCLUSIVE")
        yield


def _install(folder: Path, extras: str) -> None:
    ready = folder / (".ready" if extras == BASE else f".ready-{extras}")
    wanted = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    python = _python(folder)
    newest = max(file.stat().st_mtime for file in wanted)
    if not (ready.exists() and ready.stat().st_mtime >= newest):
        print(f"Installing {extras} into {folder.name}; once, a minute or two ...", flush=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "-e", f".[{extras}]"]
        subprocess.run([*pip, "-c", "constraints.txt"], cwd=ROOT, check=True)
    ready.touch()


def _python(folder: Path) -> Path:
    """The interpreter of the environment, which is made if need be, with pip.

    (That takes seconds, and the interpreter is there first: so what was cut short is noted.)
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    begun = Path(f"{folder}.begun")
    if begun.exists() or not python.exists():
        begun.touch()
        venv.create(folder, clear=True, with_pip=True, symlinks=os.name != "nt")
        begun.unlink()
    return python


DESCRIPTION = "Make .venv and install what this repository needs."

if __name__ == "__main__":
    sys.exit(main())
