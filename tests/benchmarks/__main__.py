"""What is measured, in which order: ``make bench``.

    python -m tests.benchmarks                  all of it, about four minutes
    python -m tests.benchmarks latency memory   only these; the page is left alone
    SIZE=full python -m tests.benchmarks        longer: 2,000,000 jobs, 1,000,000 rows

Everything happens in this process. Close what else runs on the machine before.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from tests.benchmarks import machine, plots, report
from tests.benchmarks.measure import SIZES, chosen_size
from tests.benchmarks.measures import Measures
from tests.benchmarks.peers import peers
from tests.benchmarks.report import Findings

# In the order of the report. Memory is measured first all the same: later the process is
# large anyway, and would not show what it gains.
MEASURES = {
    "bulk": Measures.bulk,
    "single": Measures.single,
    "persistence": Measures.persistence,
    "batches": Measures.batches,
    "latency": Measures.latency,
    "waiting": Measures.waiting,
    "computing": Measures.computing,
    "improved": Measures.improved,
    "memory": Measures.memory,
    "history": Measures.history,
    "reopening": Measures.reopening,
}


def run(size: str, names: list[str], docs: Path | None, console: Console) -> list[Findings]:
    """Measure, show each table as it comes, the goals at the end; write the page into ``docs``."""
    began = time.monotonic()
    here = machine.look()
    report.show_machine(console, here)
    if docs and not plots.is_possible():
        console.print("  matplotlib is not installed: no pictures this time.")
    images = docs / "img" if docs and plots.is_possible() else None
    measures = Measures(SIZES[size], here, images)
    found: dict[str, Findings] = {}
    for count, name in enumerate(sorted(names, key=lambda name: name != "memory"), start=1):
        with report.progress(console, f"{count} of {len(names)}: {name}"):
            found[name] = MEASURES[name](measures)
        for table in found[name].tables:
            report.show(console, table)
    findings = [found[name] for name in MEASURES if name in found]
    report.show_goals(console, [goal for each in findings for goal in each.goals])
    console.print(f"  {time.monotonic() - began:.0f} seconds in all.")
    if docs:
        page = report.write(docs, here, size, _versions(), findings)
        console.print(f"  Written: {page}")
    return findings


def _versions() -> list[str]:
    """Of the peers that are installed."""
    return sorted({f"{peer.package} {peer.version}" for peer in peers() if not peer.missing()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=DESCRIPTION)
    parser.add_argument("measures", nargs="*", choices=[*MEASURES, []], help="only these")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    arguments = parser.parse_args()
    names = arguments.measures or list(MEASURES)
    docs = arguments.docs if len(names) == len(MEASURES) else None
    run(chosen_size(), names, docs, report.terminal())


DESCRIPTION = "How fast the three stages and their peers are, side by side. SIZE=full takes longer."

if __name__ == "__main__":  # the processes that it starts import this file too
    main()
