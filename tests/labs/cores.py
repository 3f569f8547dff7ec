"""Processes for the labs that compute all the time: as many at once as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def on_all_cores() -> ProcessPoolExecutor:
    """Fresh processes: a fork would inherit what this one's threads hold."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(mp_context=spawn, initializer=_end_with_who_started_it)


def _end_with_who_started_it() -> None:
    """With Ctrl-C at once, and without a word: the other process says it.

    If that is killed, nobody wants the rest.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
