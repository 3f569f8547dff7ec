"""Handlers that run in processes of their own, for notebooks 4 and 8.

A process imports its handler by name, so it must be in a file: a function that was typed into a
notebook exists in the notebook's own process alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def compute(job: Any) -> int:
    """Plain Python that keeps one core busy for some ten milliseconds."""
    return sum(number * number for number in range(300_000))


def thumbnail(folder: Path, job: Any) -> str:
    """What the example does, but for one upload that takes its process down."""
    # Here, because notebook 4 needs no imaging library.
    from final.examples.thumbnails import make_thumbnail

    if job.payload["upload"] == "crash":
        os._exit(1)  # as a bug in a library written in C would
    return make_thumbnail(folder, job)
