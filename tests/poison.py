"""A process that a job kills: ``python -m tests.poison STAGE PATH [JOB]``.

It enqueues JOB, if there is one, and closes, which runs whatever is on PATH. It says "ran" and dies
of the first job that runs, or says "spared".
"""

from __future__ import annotations

import os
import sys

from tests.stages import Stage


def main(stage_name: str, path: str, *job_ids: str) -> None:
    stage = Stage(stage_name)

    def handler(job: object) -> None:
        print("ran", flush=True)
        os._exit(9)

    backoff = stage.backoff(base=0)
    queue = stage.queue(handler, path=path, workers=1, max_retries=1, backoff=backoff)
    for job_id in job_ids:
        queue.enqueue(stage.job(id=job_id))
    queue.close()
    print("spared", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
