"""What the commands print: tables for people, JSON for programs.

With --json a list is a line for each entry, and one thing is one line; the keys are those of the
service's API. Nothing but that goes to stdout then.

Errors are sentences on stderr, in app.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from final.service.cli.bench import Measurement
from final.service.cli.places import Act, Document, Unreachable

COLOURS = {"processing": "cyan", "completed": "green", "failed": "red", "retrying": "yellow"}
STATUSES = ("queued", "scheduled", "waiting", "processing", "retrying", "completed", "failed")
MOST_RUNNING = 10
LANE_AND_AGE = 24  # columns of the terminal, with what is between them
LEAST_OF_AN_ERROR = 12
SLOW_SECONDS = 2.0  # what takes longer has a bar


def _console() -> Console:
    return Console(markup=False, highlight=False, emoji=False)


def plain(text: str) -> str:
    """What a job or an error brings along may try to steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _print_json(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


# ---- jobs ----------------------------------------------------------------------------------


def job_line(job: Document, place: str, as_json: bool) -> None:
    """What has become of one job."""
    if as_json:
        _print_json(job)
    else:
        line = Text.assemble(_status(job), f"  {plain(job['id'])}  ", (f"in {place}", "dim"))
        _console().print(line, soft_wrap=True)


def job_list(jobs: Iterable[Document], place: str, as_json: bool, errors: bool = False) -> None:
    """errors: show these instead of the status, which is the same for all then."""
    if as_json:
        for job in jobs:
            _print_json(job)
        return
    found = list(jobs)
    table = _table("id", *(() if errors else ("status",)), "priority", "type", "age")
    console = _console()
    if errors:
        room = console.width - _widest(found, "id") - _widest(found, "type") - LANE_AND_AGE
        width = max(room, LEAST_OF_AN_ERROR)  # a long one would push the others out
        table.add_column("error", no_wrap=True, overflow="ellipsis", max_width=width)
    _fold(table, "id", "type")
    if console.width >= 80:  # so that one of ours can be copied
        table.columns[0].min_width = min(36, _widest(found, "id"))
    for job in found:
        age = _age(job["enqueued_at"])
        lane, kind = job["priority"], plain(job["type"])
        error = plain(job["error"] or "")
        row = [lane, kind, age, error] if errors else [_status(job), lane, kind, age]
        table.add_row(plain(job["id"]), *row)
    if found:
        console.print(table)
    console.print(Text(f" {_count(len(found), 'job')}, the newest first, in {place}", "dim"))


def _widest(jobs: Iterable[Document], name: str) -> int:
    return max((len(job[name]) for job in jobs), default=0)


def job_details(job: Document, place: str, as_json: bool) -> None:
    if as_json:
        _print_json(job)
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in job.items():
        empty = value is None or value == [] or (name in ("meta", "snoozes") and not value)
        if name != "failures" and not empty:
            grid.add_row(Text(f" {name}", "dim"), _value(name, value, job))
    console = _console()
    console.print(grid)
    for failure in job["failures"]:
        title = f"\nAttempt {failure['number']} failed at {failure['ended_at']}:"
        console.print(Text(title, "bold"))
        console.print(Text(plain(failure["traceback"] or failure["error"]).rstrip()))
    console.print(Text(f"\n in {place}", "dim"))


def _value(name: str, value: Any, job: Document) -> Text:
    if name == "status":
        return _status(job)
    if name == "after":
        return Text(plain("\n".join(value)), overflow="fold")
    if name == "meta":
        return Text(plain("\n".join(f"{n}: {v}" for n, v in value.items())), overflow="fold")
    if name == "progress":
        return Text(f"{_percent(value)} {plain(value['message'])}, {_age(value['at'])} ago")
    shown = json.dumps(value) if name in ("payload", "result") else str(value)
    return Text(plain(shown), overflow="fold")


def _status(job: Document) -> Text:
    return Text(job["status"], COLOURS.get(job["status"], ""))


def _percent(progress: Document | None) -> str:
    """As a bar of ten; empty where nothing was said."""
    if progress is None:
        return ""
    done = round(10 * progress["fraction"])
    return f"{'█' * done}{'░' * (10 - done)} {progress['fraction']:.0%}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _age(moment: str) -> str:
    return _span((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


# ---- pause and scale -----------------------------------------------------------------------


def paused(answer: Document, place: str, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
    else:
        line = Text(_paused(answer["paused"]) or "Nothing is paused.")
        _console().print(line.append(f"  in {place}", "dim"), soft_wrap=True)


def _paused(parts: list[Document]) -> str:
    """In words; empty for none."""
    named = [
        " ".join(f"{name} {value}" for name, value in part.items() if value is not None)
        for part in parts
    ]
    return plain(f"Paused: {', '.join(each or 'the whole queue' for each in named)}") * bool(named)


def workers(answer: Document, place: str, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
        return
    number = answer["workers"]
    text = "As many workers as its start says" if number is None else _count(number, "worker")
    _console().print(Text(text).append(f"  in {place}", "dim"), soft_wrap=True)


# ---- periodic jobs -------------------------------------------------------------------------


def periodic(entries: list[Document], place: str, as_json: bool) -> None:
    if as_json:
        for entry in entries:
            _print_json(entry)
        return
    table = _table("name", "schedule", "time zone", "type", "next")
    _fold(table, "name", "schedule", "time zone", "type")
    for entry in entries:
        following = "paused" if entry["paused"] else entry["next"] or "never"
        names = (entry["name"], entry["schedule"], entry["timezone"], entry["type"])
        table.add_row(*map(plain, names), following)
    console = _console()
    if entries:
        console.print(table)
    what = "entry" if len(entries) == 1 else "entries"
    console.print(Text(f" {len(entries)} periodic {what}, in {place}", "dim"))


# ---- many jobs -------------------------------------------------------------------------------

DONE = {"cancel-all": "cancelled", "retry-all": "retried", "purge": "deleted"}


def dealt(act: Act, jobs: int, dry_run: bool, place: str, as_json: bool) -> None:
    if as_json:
        _print_json({"jobs": jobs, "dry_run": dry_run})
        return
    done = f"would be {DONE[act]}" if dry_run else DONE[act]
    line = Text.assemble(f"{_count(jobs, 'job')} {done}  ", (f"in {place}", "dim"))
    _console().print(line, soft_wrap=True)


@contextlib.contextmanager
def progress(act: Act, total: int) -> Iterator[Callable[[int], object]]:
    """Gives what is told how many it is so far: a bar, if it takes longer and somebody sees it."""
    console = Console(stderr=True)
    bar = Progress(*Progress.get_default_columns(), console=console, transient=True)
    task = bar.add_task(act, total=total)
    soon = threading.Timer(SLOW_SECONDS, bar.start)
    if console.is_terminal:
        soon.start()
    try:
        yield lambda done: bar.update(task, completed=done)
    finally:
        soon.cancel()
        if soon.ident is not None:
            soon.join()
        if bar.live.is_started:
            bar.stop()


# ---- figures -------------------------------------------------------------------------------


def stats(figures: Document, place: str, as_json: bool) -> None:
    if as_json:
        _print_json(figures)
    else:
        _console().print(_figures(figures, place))


def groups(found: list[Document], place: str, as_json: bool) -> None:
    if as_json:
        for group in found:
            _print_json(group)
        return
    table = _table("group", "queued", "running", "oldest", numbers_from=1)
    _fold(table, "group")
    for group in found:
        counts = (f"{group['queued']:,}", f"{group['running']:,}")
        oldest = _span(group["oldest_queued"]) if group["queued"] else ""
        table.add_row(plain(group["group"]), *counts, oldest)
    console = _console()
    said = "No job of a group waits or runs"
    if found:
        console.print(table)
        said = f"{_count(len(found), 'group')}, those with most waiting first"
    console.print(Text(f" {said}, in {place}", "dim"))


def watch(look: Callable[[], Document], place: str, as_json: bool, interval: float) -> None:
    """Until Ctrl-C: one table that changes, or lines where there is no terminal.

    A service that is not there for a while may come back; one that never was does not count.
    """
    console = _console()
    pause = threading.Event()  # nobody sets it
    figures = look()
    if as_json or not console.is_terminal:
        while True:
            stats(figures, place, as_json)
            pause.wait(interval)
            figures = _look_again(look, pause, interval)
    with Live(_figures(figures, place), console=console, auto_refresh=False) as live:
        while not pause.wait(interval):
            shown: RenderableType
            try:
                shown = _figures(look(), place)
            except Unreachable as trouble:
                shown = Text(f" {plain(str(trouble))} Looking again ...", "red")
            live.update(shown, refresh=True)


def _look_again(look: Callable[[], Document], pause: threading.Event, interval: float) -> Document:
    """As soon as there is something to see."""
    told = False
    while True:
        try:
            return look()
        except Unreachable as trouble:
            if not told:
                print(plain(f"{trouble} Looking again ..."), file=sys.stderr, flush=True)
                told = True
            pause.wait(interval)


def _figures(figures: Document, place: str) -> RenderableType:
    parts: list[RenderableType] = [Text(f" {place}", "bold"), _lanes(figures)]
    if figures["throughput"] is None:
        parts.append(Text(" As it is stored: what is measured while jobs run is not there.", "dim"))
    else:
        parts.append(
            Text(
                f" {figures['throughput']:,.1f} jobs/s, {_count(figures['workers'], 'worker')}, "
                f"{figures['utilisation']:.0%} busy, up for {_span(figures['uptime'])}"
            )
        )
    if figures["storage_error"] is not None:
        parts.append(Text(f" {plain(figures['storage_error'])}", "red"))
    if figures["paused"]:
        parts.append(Text(f" {_paused(figures['paused'])}", "yellow"))
    if figures["running"]:
        parts.append(_running(figures["running"]))
    if figures["processes"]:
        parts.append(_processes(figures["processes"]))
    return Group(*parts)


def _lanes(figures: Document) -> Table:
    """A column for each: so it fits, whatever the terminal and the numbers."""
    lanes = {**figures["lanes"], "all": figures["totals"]}
    table = _table("", *lanes, numbers_from=1)
    table.columns[-1].style = "bold"
    for status in STATUSES:
        counts = [f"{lane[status]:,}" for lane in lanes.values()]
        table.add_row(status, *counts, style=COLOURS.get(status, ""))
    oldest = [lane["oldest_queued"] for lane in lanes.values()]
    waits = [lane["wait"] and lane["wait"]["p99"] for lane in lanes.values()]
    if any(oldest):
        table.add_row("oldest queued", *(_span(seconds) if seconds else "" for seconds in oldest))
    if any(wait is not None for wait in waits):
        table.add_row("p99 wait", *("" if wait is None else _span(wait) for wait in waits))
    return table


def _running(jobs: list[Document]) -> Table:
    has_progress = any(job.get("progress") for job in jobs[:MOST_RUNNING])
    more = ("progress",) if has_progress else ()
    table = _table("worker", "running", "type", "priority", "attempt", *more)
    _fold(table, "running", "type")
    for job in jobs[:MOST_RUNNING]:
        worker, attempt = str(job["worker"]), str(job["attempt"])
        row = [worker, plain(job["id"]), plain(job["type"]), job["priority"], attempt]
        table.add_row(*row, *([_percent(job.get("progress"))] if has_progress else ()))
    if len(jobs) > MOST_RUNNING:
        table.add_row("", f"and {len(jobs) - MOST_RUNNING} more")
    return table


def _processes(processes: list[Document]) -> Table:
    table = _table("process", "lease", "workers", "runs")
    _fold(table, "process", "runs")
    for process in processes:
        alive = Text(f"{process['lease']:.0f} s") if process["alive"] else Text("ran out", "red")
        runs = ", ".join(f"{kind} {count}" for kind, count in process["running"].items())
        name = process["name"] + (" (here)" if process["here"] else "")
        table.add_row(plain(name), alive, str(process["workers"]), plain(runs))
    return table


def measurements(found: Iterator[Measurement], as_json: bool) -> None:
    if as_json:
        for each in found:
            _print_json(each._asdict())
        return
    console = _console()
    table = _table("times", "durable enqueues", "jobs/s")
    table.columns[0].justify = table.columns[2].justify = "right"
    with Live(table, console=console, auto_refresh=False) as live:
        for each in found:
            table.add_row(f"{each.ratio:.1f} x", each.what, f"{each.jobs_per_second:,.0f}")
            if console.is_terminal:
                live.update(table, refresh=True)
        live.update(table)


def _table(*columns: str, numbers_from: int | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1))
    for index, column in enumerate(columns):
        numeric = numbers_from is not None and index >= numbers_from
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table


def _fold(table: Table, *columns: str) -> None:
    """Where it is narrow these take more lines; all others stay as they are."""
    for column in table.columns:
        if column.header in columns:
            column.no_wrap, column.overflow = False, "fold"
