"""What the service runs while it is under load: ``--handlers tests.load.handlers:work``."""

from __future__ import annotations

import time

from final import Job


def work(job: Job) -> None:
    """Takes the seconds that its payload says; 0 where what is measured is the way in."""
    assert isinstance(job.payload, dict)
    if seconds := job.payload["seconds"]:
        time.sleep(seconds)
