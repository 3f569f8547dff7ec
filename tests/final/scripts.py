"""Programs that leave without ``close``, fork, or are killed: ``python -m tests.final.scripts``.

Like ``tests/final/children.py``: each function is one; it prints lines for the test to read.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from final import Job, JobQueue
from tests.final.helpers import ROOT, nothing
from tests.helpers import DEADLINE, Journal


@contextlib.contextmanager
def script(scenario: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``scenario`` of this file; killed at the end."""
    command = [sys.executable, "-m", "tests.final.scripts", scenario, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # SIGKILL; on Windows TerminateProcess, which is as sudden


def run_script(scenario: str, *arguments: object) -> tuple[int, list[str], str]:
    """Let a script run to its end: its exit code, its lines, and what it said on stderr."""
    with script(scenario, *arguments) as process:
        output, errors = process.communicate(timeout=3 * DEADLINE)
    return process.returncode, output.splitlines(), errors


def say(line: object) -> None:
    print(line, flush=True)


def hang(path: str, *ids: str) -> None:
    """Works on these jobs at once, until it is killed; they are there from the second time on."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        Journal().wait_for("the end")

    # Recovered jobs that were interrupted twice run one at a time, those of one time side by side.
    queue = JobQueue(handler, path=path, workers=len(ids))
    if not queue.jobs():
        queue.enqueue_many([Job(job_id) for job_id in ids])
    started.wait_for_count(len(ids))
    say("all hang")
    Journal().wait_for("the end")


def schedule(path: str) -> None:
    """Schedules a job for soon, and is killed."""
    queue = JobQueue(nothing, path=path)
    queue.enqueue(Job("x", run_at=1.0))
    say(queue.get("x").due_at)
    Journal().wait_for("the end")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
