"""What SQLite's errors mean for a user: a StorageError that says what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from final.errors import QueueClosed, StorageError

DAMAGED = "{} is damaged ({}): restore a copy, or save what is left with sqlite3's .recover."


# What is next where the disk has been full, or broken: of a queue that is open, and of one that is
# being opened.
GOES_ON = "the queue goes on by itself"
OPEN_AGAIN = "open it again"


@contextlib.contextmanager
def translated(what: str, then: str = GOES_ON) -> Iterator[None]:
    """Turn SQLite's errors into a StorageError that says what to do.

    then: GOES_ON or OPEN_AGAIN.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        advice = next(
            (text for prefix, text in _ADVICE.items() if name.startswith(prefix)),
            "See the cause above.",
        )
        raise StorageError(f"{what}: {error}. {advice.format(then=then)}") from error


_ADVICE = {
    "SQLITE_FULL": "Free some space; {then}.",
    "SQLITE_IOERR": "Check the disk; {then} when it works again.",
    "SQLITE_READONLY": "Make the file and its folder writable.",
    "SQLITE_CANTOPEN": "Make the file and its folder readable and writable.",
    "SQLITE_NOTADB": "It is no SQLite database: choose another path.",
    "SQLITE_CORRUPT": "It is damaged: restore a copy, or save what is left with .recover.",
    "SQLITE_BUSY": "Another program holds it open: close that first.",
    "SQLITE_LOCKED": "Another program holds it open: close that first.",
}


def taken_over(path: str) -> QueueClosed:
    return QueueClosed(
        f"{path} was taken over by another process, which runs what is in it from now on; this "
        "queue has stopped. Was its lock file removed? Leave that to the queue."
    )
