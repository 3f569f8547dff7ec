"""Progress: how far a handler says that its job is, ``current_job().progress(0.4, "page 4")``.

How it gets from the handler to the ledger is in ``engine/sayings.py``.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from final.options import require_number

LONGEST_MESSAGE = 200  # characters; what is longer is cut


class Progress(NamedTuple):
    """What a handler has said last. fraction: 0 to 1. at: when, in Unix seconds."""

    fraction: float
    message: str
    at: float


def progress(fraction: float, message: str) -> Progress:
    """As of now. Raises TypeError or ValueError, naming what makes no sense."""
    require_number("progress: fraction", fraction, most=1)
    if not isinstance(message, str):
        raise TypeError(f"progress: message must be text (str), not {type(message).__name__}.")
    text = message.encode("utf-8", "backslashreplace").decode()  # no lone surrogate can be stored
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE - 3]}..."
    return Progress(float(fraction), text, time.time())
