"""The race lab: who goes first? All of the answers, one after the other. ``make lab-race``

A race is a bug that needs an unlucky moment, and a test that runs a million times may never
meet it. This lab makes the moments itself. It lets one thread run at a time, and forces a
switch to another before each line where it could matter: every schedule without a forced
switch, then every one with one, then with two (scheduler.py, exploration.py). Where something
goes wrong, it prints the lines in the order in which they ran.

    python -m tests.labs.races                     with one switch: a minute
    SWITCHES=2 python -m tests.labs.races          with two: 700,000 schedules, hours
    SWITCHES=2 EVERY=50 python -m tests.labs.races     each fiftieth of those with two
    python -m tests.labs.races TwoLocksTwoOrders   only those with this word in the name
    python -m tests.labs.races --list              their names

What is played stands in race_scenarios.py, the planted bugs in race_bugs.py, and what is
played on what in race_catalogue.py.

Write your own in ten lines. A scenario sets the stage, yields the functions that run against
each other, and checks what must hold whoever is faster:

    >>> import improved.job_queue
    >>> from tests.labs.races import explore
    >>> def two_producers_one_place():
    ...     ran = []
    ...     queue = improved.JobQueue(ran.append, workers=1, capacity=1)
    ...     def ada():
    ...         queue.enqueue(improved.Job("a"))
    ...     def bob():
    ...         queue.enqueue(improved.Job("b"))
    ...     yield ada, bob
    ...     assert sorted(job.id for job in ran) == ["a", "b"]
    >>> print(explore(two_producers_one_place, improved.job_queue, switches=1))
    two producers one place: holds in ... schedules, up to 1 forced switch

After ``from tests.labs.races import show``, ``show(explore(...))`` prints a failing run too.

Predict before you run: which line of ``improved`` can you move out of its ``with
self._mutex`` and have no schedule notice? Copy the method into race_bugs.py and see.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import as_completed

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.labs import choices, race_report
from tests.labs.cores import on_all_cores
from tests.labs.exploration import Verdict, explore
from tests.labs.race_catalogue import CATALOGUE, Entry
from tests.labs.race_report import show

# A planted bug may need two; it is found long before all of them are tried.
FOR_BUGS = 2
# So many are shown line by line.
AT_MOST = 3


def run(entries: list[Entry], switches: int, every: int, console: Console) -> int:
    """Explore the entries, print what came of it; 0 if all is as the catalogue says."""
    verdicts = dict(_explored(entries, switches, every, console))
    results = [(entry, verdicts[entry.name]) for entry in entries]
    surprises = [entry for entry, verdict in results if verdict.holds is entry.breaks]
    console.print()
    console.print(race_report.table(results))
    for entry, verdict in results:
        if entry in surprises or (len(entries) <= AT_MOST and not verdict.holds):
            show(verdict, console, entry.name)
    console.print(race_report.summary(results, surprises))
    if len(entries) > AT_MOST:
        console.print("  See one break, line by line: make lab-race RACE=PeeksThenPops")
    return 1 if surprises else 0


def _explored(
    entries: list[Entry], switches: int, every: int, console: Console
) -> Iterator[tuple[str, Verdict]]:
    """Each entry in a process of its own, as many at a time as there are cores."""
    bar = Progress(
        TextColumn(" "),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )
    with bar, on_all_cores() as processes:
        under_way = {
            processes.submit(_explore, entry.name, switches, every): entry for entry in entries
        }
        task = bar.add_task("", total=len(entries))
        for future in as_completed(under_way):
            entry = under_way[future]
            bar.update(task, advance=1, description=f"done: {entry.name}")
            yield entry.name, future.result()


def _explore(name: str, switches: int, every: int) -> Verdict:
    (entry,) = (entry for entry in CATALOGUE if entry.name == name)
    if entry.breaks:  # what is to be found must be among those that are tried
        return entry.explore(max(switches, FOR_BUGS))
    return entry.explore(switches, every)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.labs.races", description=DESCRIPTION)
    parser.add_argument("words", nargs="*", help="only scenarios with all of these in their names")
    parser.add_argument("--list", action="store_true", help="the names of all scenarios")
    arguments = parser.parse_args()
    words = [word.lower() for word in arguments.words]
    entries = [entry for entry in CATALOGUE if all(word in entry.name.lower() for word in words)]
    if not entries:
        parser.error(
            f"no scenario has {' '.join(arguments.words)!r} in its name; these there are: "
            + ", ".join(entry.name for entry in CATALOGUE)
        )
    if arguments.list:
        print("\n".join(entry.name for entry in entries))
        return
    switches = choices.whole_number("SWITCHES", 1, least=0)
    every = choices.whole_number("EVERY", 1)
    try:
        sys.exit(run(entries, switches, every, race_report.terminal()))
    except KeyboardInterrupt:
        sys.exit("\n  Stopped by Ctrl-C.")


DESCRIPTION = (
    "Try every schedule of a few threads. SWITCHES=2 forces two switches in each, not one; with "
    "EVERY=50 only each fiftieth of these is tried."
)

__all__ = ["explore", "show"]

if __name__ == "__main__":  # the processes that it starts import this file too
    main()
