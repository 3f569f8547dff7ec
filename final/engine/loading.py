"""Ctrl-C while ``final`` is being loaded to run as a program: the end, as it should be.

Python would show where it was just then. So this is imported first, and ends the process with 130,
silently; once all is loaded, ``done`` leaves Ctrl-C to the program.

But: where ``final`` is imported by a program of somebody else, nothing is touched.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import PurePath

INTERRUPTED = 130  # as a shell has it


def _is_the_program() -> bool:
    """``python -m final``, or ``jobqueue``."""
    given = sys.orig_argv[1:3]
    return given == ["-m", "final"] or (bool(given) and PurePath(given[0]).stem == "jobqueue")


def done() -> None:
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)


# Not where somebody ignores it, as a shell does for what runs in the background.
if _is_the_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
