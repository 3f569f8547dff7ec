"""Processes for the labs that compute all the time: as many at once as there are cores."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor


def on_all_cores() -> ProcessPoolExecutor:
    """Fresh processes: a fork would inherit what this one's threads hold."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(mp_context=spawn, initializer=_end_with_ctrl_c)


def _end_with_ctrl_c() -> None:
    """At once, and without a word: the process that started this one says it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
