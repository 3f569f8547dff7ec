"""Snooze: a handler asks to be run again later, and that is no failure.

The report is not ready, the partner says "come back in a minute": the job waits as one that was
scheduled, holds no worker, and its attempt does not count. It goes to the back of its lane.

But: a word. What becomes of the job is said in ``ledger/local.py`` and ``postgres/returned.py``.
And no limit: a job may snooze for ever. ``JobRecord.snoozes`` says how often it has.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from final.options import require_moment


class Again(NamedTuple):
    """When to run again: so many seconds from now; or, ``by_clock``, at this Unix time."""

    seconds: float
    by_clock: bool

    def due_at(self, wall: float) -> float:
        """In Unix seconds; ``wall`` is now, and the earliest: it is not ready while it runs."""
        return max(wall, self.seconds) if self.by_clock else wall + self.seconds


class Snooze(Exception):
    """Raised by a handler: run the job again then, and charge it nothing.

    until: seconds from now (a number or a timedelta, a thousand years at most), or an aware
        datetime; one that has passed means at once.

    Raises TypeError or ValueError for anything else: then the attempt has failed with that.
    """

    again = Again(0.0, by_clock=False)

    def __init__(self, until: datetime | timedelta | float) -> None:
        super().__init__(until)
        moment = until.total_seconds() if isinstance(until, timedelta) else until
        require_moment("Snooze", moment)
        if isinstance(moment, datetime):
            self.again = Again(float(moment.timestamp()), by_clock=True)
        else:
            self.again = Again(float(moment), by_clock=False)
