"""What is measured, in which order: ``make bench``.

    python -m tests.benchmarks                  all of it, about eight minutes
    python -m tests.benchmarks latency memory   only these; the page is left alone
    SIZE=full python -m tests.benchmarks        longer: 2,000,000 jobs, 1,000,000 rows

All but the queues on PostgreSQL run in this process. Close what else runs on the machine before.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from tests import postgres_server
from tests.benchmarks import machine, plots, report
from tests.benchmarks.measure import SIZES, chosen_size
from tests.benchmarks.measures import Measures
from tests.benchmarks.on_postgres import PostgresMeasures
from tests.benchmarks.peers import peers
from tests.benchmarks.postgres_queues import shared_queues
from tests.benchmarks.report import Findings

# In the order of the report. Memory is measured first all the same: later the process is
# large anyway, and would not show what it gains.
MEASURES = {
    "bulk": Measures.bulk,
    "profile": Measures.profile,
    "single": Measures.single,
    "persistence": Measures.persistence,
    "batches": Measures.batches,
    "company": Measures.company,
    "latency": Measures.latency,
    "looking": Measures.looking,
    "waiting": Measures.waiting,
    "computing": Measures.computing,
    "improved": Measures.improved,
    "memory": Measures.memory,
    "growth": Measures.growth,
    "history": Measures.history,
    "reopening": Measures.reopening,
}
# Of several processes on PostgreSQL, where there is one.
SHARED_MEASURES = {
    "processes": PostgresMeasures.processes,
    "producers": PostgresMeasures.producers,
    "elsewhere": PostgresMeasures.elsewhere,
    "rows": PostgresMeasures.rows,
    "held": PostgresMeasures.held,
}
ALL = [*MEASURES, *SHARED_MEASURES]


def run(size: str, names: list[str], docs: Path | None, console: Console) -> list[Findings]:
    """Measure, show each table as it comes, the goals at the end; write the page into ``docs``."""
    began = time.monotonic()
    here = machine.look()
    report.show_machine(console, here)
    if docs and not plots.is_possible():
        console.print("  matplotlib is not installed: no pictures this time.")
    images = docs / "img" if docs and plots.is_possible() else None
    measures, shared = Measures(SIZES[size], here, images), PostgresMeasures(SIZES[size])
    found: dict[str, Findings] = {}
    for count, name in enumerate(sorted(names, key=lambda name: name != "memory"), start=1):
        with report.progress(console, f"{count} of {len(names)}: {name}"):
            found[name] = _measured(name, measures, shared)
        for table in found[name].tables:
            report.show(console, table)
    findings = [found[name] for name in ALL if name in found]
    report.show_goals(console, [goal for each in findings for goal in each.goals])
    console.print(f"  {time.monotonic() - began:.0f} seconds in all.")
    if docs:
        page = report.write(docs, here, size, _versions(), findings)
        console.print(f"  Written: {page}")
    return findings


def _measured(name: str, measures: Measures, shared: PostgresMeasures) -> Findings:
    if name in MEASURES:
        return MEASURES[name](measures)
    if postgres_server.programs() is None:
        title = f"On PostgreSQL: {name}"
        return Findings([report.Table(title, "", ["", ""], [["", postgres_server.MISSING]])])
    return SHARED_MEASURES[name](shared)


def _versions() -> list[str]:
    """Of the peers that are installed."""
    found = {f"{peer.package} {peer.version}" for peer in peers() if not peer.missing()}
    found |= {f"{each.package} {each.version}" for each in shared_queues() if not each.missing()}
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=DESCRIPTION)
    parser.add_argument("measures", nargs="*", choices=[*ALL, []], help="only these")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    arguments = parser.parse_args()
    names = arguments.measures or ALL
    docs = arguments.docs if len(names) == len(ALL) else None
    run(chosen_size(), names, docs, report.terminal())


DESCRIPTION = "How fast the three stages and their peers are, side by side. SIZE=full takes longer."

if __name__ == "__main__":  # the processes that it starts import this file too
    main()
