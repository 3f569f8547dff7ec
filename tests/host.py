"""A process with a queue, as another host would have it: ``python -m tests.host ADDRESS WORKERS``.

It says "ready", and "started ID" for each job. A job with the payload "held" runs until a line
comes in; all others return their payload, after as many seconds if that is a number. With options
of a ``Kind``, as JSON, it runs jobs of the kind "mine" by them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from tests.helpers import DEADLINE, Background

ROOT = Path(__file__).parents[1]


class Host:
    """Such a process; it ends with the ``with`` block at the latest.

    name: of its host. With the name of this one, a crash of it is noticed here at once. kind: the
    options of its kind "mine".
    """

    def __init__(
        self,
        address: str,
        workers: int = 1,
        name: str = "another-host",
        kind: Mapping[str, object] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.host", address, str(workers), json.dumps(kind or {})],
            cwd=ROOT,
            env=os.environ | {"JOBQUEUE_HOST": name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.__exit__(None, None, None)

    def lines(self) -> Iterator[str]:
        assert self._process.stdout
        while line := Background(self._process.stdout.readline).result(3 * DEADLINE):
            yield line.strip()

    def wait_for(self, line: str) -> None:
        assert line in self.lines(), f"The process ended without {line!r}."

    def release(self) -> None:
        """Let its held job go on."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def pause(self) -> None:
        psutil.Process(self.pid).suspend()

    def resume(self) -> None:
        psutil.Process(self.pid).resume()

    def kill(self) -> None:
        """SIGKILL; on Windows TerminateProcess, which is as sudden."""
        self._process.kill()
        self._process.wait()


def main(address: str, workers: int, kind: dict[str, Any]) -> None:
    from final import Backoff, JobQueue, Kind

    released = threading.Semaphore(0)

    def handler(job: Any) -> object:
        print(f"started {job.id}\n", end="", flush=True)  # in one piece: other threads write, too
        if job.payload == "held":
            released.acquire()
        elif isinstance(job.payload, float):
            time.sleep(job.payload)
        return "late" if job.payload == "held" else job.payload

    handlers: Any = {"default": handler, "mine": Kind(handler, **kind)} if kind else handler
    with JobQueue(handlers, path=address, workers=workers, backoff=Backoff(base=0)):
        print("ready", flush=True)
        for _ in sys.stdin:
            released.release()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
