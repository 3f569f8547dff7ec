"""Run the notebooks: ``python -m tests.notebooks`` stores their outputs, ``--check`` does not.

    python -m tests.notebooks              run all, and store what they print and draw
    python -m tests.notebooks 03 05        only these
    python -m tests.notebooks --check      run all with the exercises solved; change nothing

Ends with 1 when a cell fails, with the cell and its traceback.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nbclient.exceptions import CellExecutionError
from rich.console import Console
from rich.text import Text

from tests.notebooks import pairs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks", description=DESCRIPTION)
    parser.add_argument("names", nargs="*", help="how their names begin, such as 03")
    parser.add_argument("--check", action="store_true", help="solve the exercises, store nothing")
    arguments = parser.parse_args()
    chosen = [
        text for text in pairs.texts() if text.name.startswith(tuple(arguments.names or [""]))
    ]
    if not chosen:
        parser.error(f"No notebook's name begins with {' or '.join(arguments.names)}.")
    console = Console(highlight=False)
    # Two at a time: what they show is waiting more than computing. For outputs that people
    # will look at, one at a time, so that none disturbs the other's picture.
    with ThreadPoolExecutor(2 if arguments.check else 1) as threads:
        ends = list(threads.map(lambda text: run(text, arguments.check, console), chosen))
    failed = ends.count(False)
    console.print(f"{len(ends) - failed} of {len(ends)} notebooks ran to their end.")
    return 1 if failed else 0


def run(text: Path, check: bool, console: Console) -> bool:
    """Run one; whether it came to its end."""
    began = time.monotonic()
    try:
        if check:
            pairs.execute(pairs.with_solutions(pairs.read(text)), strict=True)
        else:
            notebook = pairs.execute(pairs.read(text))
            pairs.require_unsolved(notebook)
            pairs.store(notebook, text)
    except (CellExecutionError, ValueError) as error:
        console.print(f"[red]  failed [/] {text.name}\n", Text.from_ansi(str(error)))
        return False
    console.print(f"[green]  ran    [/] {text.name}  {time.monotonic() - began:.0f} s")
    return True


DESCRIPTION = "Run the notebooks, and store their outputs."

if __name__ == "__main__":
    sys.exit(main())
