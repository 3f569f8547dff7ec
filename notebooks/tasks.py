"""Handlers that run in processes of their own, for notebook 4.

A process imports its handler by name, so it must be in a file: a function that was typed into a
notebook exists in the notebook's own process alone.
"""

from __future__ import annotations

from typing import Any


def compute(job: Any) -> int:
    """Plain Python that keeps one core busy for some ten milliseconds."""
    return sum(number * number for number in range(300_000))
