"""What the examples share: how a run starts, continues, is stopped, and reports."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich import box
from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.logging import RichHandler
from rich.table import Table

from final import Counts, Job, JobQueue, JobRecord, Percentiles, StorageError

STARTED = time.time()
CLOSE_TIMEOUT = 10.0  # seconds for the jobs in flight when a run is stopped
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

console = Console(highlight=False)
log = logging.getLogger("final.examples")


def start(main: Callable[[Path], None], default: str) -> None:
    """Run ``main`` with the file that the command line names, and with readable logging."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "path", nargs="?", type=Path, default=default, help=f"keeps the jobs ({default})"
    )
    path: Path = parser.parse_args().path
    if sys.stdout is None:  # closed: rich's handler would raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (as long as we live)
    handler = RichHandler(
        console=console, show_level=False, show_path=False, highlighter=_Failures()
    )
    # Shows the queue's own warnings too: one line of "final" for each failed attempt.
    logging.basicConfig(handlers=[handler], format="%(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    try:
        main(path)
    except StorageError as error:  # a sentence that says what to do: no traceback needed
        sys.exit(str(error))


def run(queue: JobQueue, new_round: Callable[[int], list[Job]]) -> None:
    """Finish what the last run left or else a new round, then close; stop in order on a signal.

    new_round: the jobs of a round, given how many jobs the file holds already. None, if they
        have come in some other way meanwhile.
    """
    for number in STOP_SIGNALS:
        # This handler only raises KeyboardInterrupt, in the main thread. A signal interrupts
        # that thread anywhere, also where it holds a lock: a handler that called the queue
        # might wait for itself for ever. The except block below may call it.
        signal.signal(number, signal.default_int_handler)
    try:
        _continue_or_begin(queue, new_round)
        _wait_for_all(queue)
    except KeyboardInterrupt:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # a second signal ends it at once
        log.info("Finishing %d jobs in flight; the others stay.", queue.metrics().processing)
    queue.close(drain=False, timeout=CLOSE_TIMEOUT)


def _continue_or_begin(queue: JobQueue, new_round: Callable[[int], list[Job]]) -> None:
    records = _records(queue)
    # The workers have begun already, so some of what was left may have ended by now.
    left = sum(record.ended_at is None or record.ended_at >= STARTED for record in records)
    if left:
        log.info("%d jobs of the last run continue.", left)
    else:
        jobs = new_round(len(records))
        if jobs:
            log.info("%d new jobs.", len(jobs))
            queue.enqueue_many(jobs)  # one transaction: a kill leaves all of them or none


def _wait_for_all(queue: JobQueue) -> None:
    while True:
        # In slices, because on Windows Ctrl-C is noticed only between two waits.
        with contextlib.suppress(TimeoutError):
            return queue.join(timeout=0.5)


def _records(queue: JobQueue) -> list[JobRecord]:
    return queue.jobs(limit=1_000_000)


def write_atomically(path: Path, content: bytes) -> None:
    """Make ``path`` hold ``content``; whoever looks sees the old file, the new one, or none.

    The temporary file has a fixed name, so the next run overwrites what a killed one left.
    """
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        # "Completed" is durable in the queue, so what it stands for has to be durable, too.
        os.fsync(file.fileno())
    os.replace(temporary, path)


# ---- the report --------------------------------------------------------------------------


def report(queue: JobQueue, path: Path, remark: str) -> None:
    """What happened: counts cover all runs on the file, times this one."""
    metrics = queue.metrics()
    records = _records(queue)
    table = _table(f"{path.name}: counts of all runs, times of this one")
    table.add_column("priority")
    for heading in ("completed", "failed", "left", "attempts", "wait p50, p95", "run p50, p95"):
        table.add_column(heading, justify="right")
    for priority, counts in metrics.by_priority.items():
        attempts = sum(record.attempts for record in records if record.priority is priority)
        table.add_row(*_row(priority.value, counts, attempts))
    table.add_section()
    table.add_row(*_row("all", metrics, sum(record.attempts for record in records)), style="bold")
    console.print(table)
    if dead := queue.dead_letters():
        console.print(_dead_letters(dead))
    console.print(remark)
    if left := _unfinished(metrics):
        console.print(f"{left} jobs stay in {path}: run it again, and they continue.")


def _row(name: str, counts: Counts, attempts: int) -> list[str]:
    numbers = (counts.completed, counts.failed, _unfinished(counts), attempts)
    return [name, *map(str, numbers), _times(counts.wait), _times(counts.run)]


def _unfinished(counts: Counts) -> int:
    return counts.accepted - counts.completed - counts.failed


def _times(seconds: Percentiles) -> str:
    return f"{seconds.p50:.2f}, {seconds.p95:.2f} s"


def _dead_letters(records: list[JobRecord]) -> Table:
    table = _table("Dead letters, the newest first")
    table.add_column("job")
    table.add_column("attempts", justify="right")
    table.add_column("error")
    for record in records:
        table.add_row(record.id, str(record.attempts), record.error)
    return table


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )


class _Failures(RegexHighlighter):
    """Colours the queue's lines about failed attempts; the group's name is the style."""

    highlights: ClassVar = [r"(?P<yellow>again in .*)", r"(?P<red>(no attempts left|for good).*)"]
