"""What a lab is told by the environment: ``PICKS=600 FAULT=off make lab-fairness``."""

from __future__ import annotations

import os
from collections.abc import Collection


def number(name: str, default: float, least: float) -> float:
    """A number of at least ``least``."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = least - 1
    if not least <= value < float("inf"):
        raise SystemExit(f"{name} is a number of at least {least:g}, not {text!r}.")
    return value


def whole_number(name: str, default: int, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise SystemExit(f"{name} is a whole number of at least {least}, not {text!r}.")
    return int(text)


def fault(known: Collection[str]) -> str:
    """The fault to plant; "" for none."""
    name = os.environ.get("FAULT", "")
    if name and name not in known:
        raise SystemExit(f"FAULT is one of {', '.join(known)}, not {name!r}.")
    return name
