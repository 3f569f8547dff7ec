"""A process of ``make lab-hosts``: ``python -m tests.labs.hosts_child ADDRESS FOLDER FAULT``.

It enqueues and runs jobs until ``FOLDER/stop`` is there, and writes down at once what it was
promised: a line of ``ack.PID`` for each id that ``enqueue`` has returned.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

from final import Backoff, EnqueueError, Job, JobQueue, JobQueueError, Priority
from final.ledger.postgres import statements

FAULTS = ("", "early-ack", "no-fence")


def main(address: str, folder: Path, fault: str) -> None:
    if fault == "no-fence":  # whoever has a result is believed
        for name in ("COMPLETED", "KEPT"):
            text = getattr(statements, name).replace(statements.FENCE, "job.seq = o.seq")
            setattr(statements, name, text)
    ack = os.open(folder / f"ack.{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    run = os.open(folder / f"run.{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def handler(job: Job) -> None:
        os.write(run, f"{job.id}\n".encode())
        time.sleep(random.random() * 0.02)  # its work

    queue = JobQueue(handler, path=address, workers=4, max_retries=50, backoff=Backoff(base=0.05))

    def produce() -> None:
        while not (folder / "stop").exists():
            jobs = [
                Job(priority=random.choice(list(Priority))) for _ in range(random.choice((1, 5)))
            ]
            written = "".join(f"{job.id}\n" for job in jobs).encode()
            if fault == "early-ack":  # before it is durable
                os.write(ack, written)
            try:
                queue.enqueue_many(jobs, timeout=5)
            except EnqueueError as error:
                written = "".join(f"{job_id}\n" for job_id in error.accepted).encode()
            except JobQueueError:
                return
            if fault != "early-ack":
                os.write(ack, written)
            time.sleep(random.random() * 0.02)

    producers = [threading.Thread(target=produce) for _ in range(2)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    threading.Event().wait()  # it works on until it is killed


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
