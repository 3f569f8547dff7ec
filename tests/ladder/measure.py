"""The durable file beside ``improved`` and ``final``: jobs a second, by producers at a time.

    python -m tests.ladder measure                 prints the table
    python -m tests.ladder measure --write-docs    and puts it into docs/ladder.md

Each producer enqueues one job after the other, and waits for each "accepted"; the handlers do
nothing. Of several runs the median stands in the table.

But: a few seconds each, and one disk. ``make bench`` measures final with more care.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.text import Text

from tests.ladder.showing import Page
from tests.ladder.steps import ROOT

PRODUCERS = (1, 8, 64)
SECONDS = 2.0  # of each run
RUNS = 3
PAGE = ROOT / "docs" / "ladder.md"
QUEUES = {
    "improved, in memory": ("improved", {}),
    "step 13, one file": ("tests.ladder.solutions.step13_durable", {"path": "queue.db"}),
    "final": ("final", {"path": "queue.db"}),
}


def command(page: Page, chosen: argparse.Namespace) -> int:
    lines = [
        "| jobs accepted a second | " + " | ".join(map(_producers, PRODUCERS)) + " |",
        "| --- |" + " ---: |" * len(PRODUCERS),
    ]
    for name, (module, options) in QUEUES.items():
        with page.console.status(Text(f"measuring {name}", "dim")):
            rates = [_typical_rate(module, options, producers) for producers in PRODUCERS]
        lines.append(f"| {name} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |")
    for line in lines:
        page.line(line)
    if chosen.write_docs:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_table(text, "\n".join(lines)), encoding="utf-8", newline="\n")
        page.line(f"Written into {PAGE.relative_to(ROOT).as_posix()}.")
    return 0


def with_table(page: str, table: str) -> str:
    """``page`` with another table between its marks. Raises ValueError if it has none."""
    before, begin, rest = page.partition("<!-- measured:begin -->")
    _, end, after = rest.partition("<!-- measured:end -->")
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no place for the table: its marks are gone.")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _typical_rate(module: str, options: dict[str, Any], producers: int) -> float:
    return statistics.median(rate(module, options, producers) for _ in range(RUNS))


def rate(module: str, options: dict[str, Any], producers: int, seconds: float = SECONDS) -> float:
    """Jobs a second that ``producers`` threads get accepted, while the workers run them."""
    package = importlib.import_module(module)
    counts = [0] * producers
    over = threading.Event()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if "path" in options:
            options = options | {"path": str(Path(folder) / options["path"])}
        with package.JobQueue(lambda job: None, workers=4, **options) as queue:

            def produce(n: int) -> None:
                while not over.is_set():
                    queue.enqueue(package.Job())
                    counts[n] += 1

            threads = [threading.Thread(target=produce, args=(n,)) for n in range(producers)]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            over.wait(seconds)
            over.set()
            for thread in threads:
                thread.join()
            took = time.perf_counter() - began
    return sum(counts) / took


def _producers(count: int) -> str:
    return f"{count} producer{'s' * (count > 1)}"
