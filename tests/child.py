"""A process to kill: ``python -m tests.child STAGE PATH COUNT``.

It enqueues COUNT jobs on PATH, starts the first, prints ``acknowledged`` and works on
that one job until somebody kills it.
"""

from __future__ import annotations

import os
import sys
import threading

from tests.helpers import DEADLINE
from tests.stages import Stage


def main(stage_name: str, path: str, count: int) -> None:
    stage = Stage(stage_name)
    started = threading.Event()

    def handler(job: object) -> None:
        started.set()
        threading.Event().wait()  # for ever

    queue = stage.queue(handler, path=path, workers=1)
    for n in range(count):
        queue.enqueue(stage.job(id=f"job-{n}", payload=n))
    assert started.wait(DEADLINE), "The first job did not start."
    print("acknowledged", flush=True)
    sys.stdin.read()  # ends with the parent, should it end before it kills this process
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
