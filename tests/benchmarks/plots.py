"""The pictures in docs/img: one style, readable in print and without telling colours apart.

Colours are those of Okabe and Ito; each line also has a marker and a dash of its own. SVG,
with letters as outlines, so that they look the same everywhere.

But: matplotlib is an extra. Without it there are no pictures, and the tables say it all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Line = Sequence[tuple[float, float]]
Lines = Mapping[str, Line]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", "--", "-.", ":", (0, (1, 1)))
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.hashsalt": "benchmarks",  # the same figures make the same file
}


def is_possible() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def batch_sizes(path: Path, lines: Lines) -> None:
    with _picture(path) as axes:
        axes.set(title="Throughput against batch size", xscale="log", yscale="log")
        axes.set(xlabel="jobs per enqueue_many, one producer", ylabel="jobs per second")
        _draw(axes, lines)


def latencies(path: Path, lines: Lines) -> None:
    with _picture(path) as axes:
        axes.set(title="Latency against offered load, full", xscale="log", yscale="log")
        axes.set(xlabel="jobs per second offered, in tens", ylabel="enqueue to start, milliseconds")
        _draw(axes, lines)


def history(path: Path, line: Line) -> None:
    with _picture(path) as axes:
        axes.set(title="Throughput against rows of history, full")
        axes.set(xlabel="finished jobs in the file before the run", ylabel="jobs per second")
        # One step for each count: from 0 to 1,000,000 there is no scale that shows them all.
        _draw(axes, {"": [(step, speed) for step, (_, speed) in enumerate(line)]})
        axes.set_xticks(range(len(line)), [f"{rows:,.0f}" for rows, _ in line])
        axes.set_ylim(0, 1.2 * max(speed for _, speed in line))


def waiting(path: Path, lines: Lines) -> None:
    with _picture(path) as axes:
        axes.set(title="Handlers that wait 10 ms", xscale="log", yscale="log")
        axes.set(xlabel="workers", ylabel="jobs per second")
        _draw(axes, lines)


def computing(path: Path, lines: Lines) -> None:
    with _picture(path) as axes:
        axes.set(title="Handlers that compute", xlabel="workers", ylabel="jobs per second")
        _draw(axes, lines)
        axes.set_ylim(bottom=0)


@contextmanager
def _picture(path: Path) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("svg")  # draws into files, also where there is no screen
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 3.8))
        yield axes
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _draw(axes: Any, lines: Lines) -> None:
    styles = itertools.cycle(zip(COLOURS, MARKERS, DASHES, strict=True))
    for (name, line), (colour, marker, dash) in zip(lines.items(), styles, strict=False):
        xs, ys = [x for x, _ in line], [y for _, y in line]
        axes.plot(xs, ys, color=colour, marker=marker, linestyle=dash, label=name)
    measured = sorted({x for line in lines.values() for x, _ in line})
    axes.set_xticks(measured, [f"{x:,g}" for x in measured])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    if len(lines) > 1:
        axes.legend()
