"""The demo of stage 3: twelve jobs, one producer, three workers. ``python -m final``

A job takes four seconds, and the first attempt at photo-2 fails. Watch what this queue
makes of that, of the payments (high priority), and of the jobs left at the end. (The
environment variable JOB_SECONDS makes it quicker or slower.)
Ctrl-C (or SIGTERM) ends it early and in order: what runs is finished; exit code 0. What
waits stays in demo.db for the next run, also after ``kill -9``: try it.

The same scenario runs in every stage: compare ``python -m naive``, ``python -m improved``.
With arguments this is the command line instead (final/service/cli/): ``python -m final --help``.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import textwrap
import threading
import time

from final import Backoff, Job, JobQueue, Priority, StorageError, current_job
from final.engine import loading
from final.engine.uninterrupted import uninterrupted

PRIORITIES = {"payment": "high", "report": "low", "photo": "low", "email": "medium"}
ENDINGS = {
    "completed": "completed in this run",
    "failed": "dead letters: no attempt is left",
    "retrying": "waiting for a retry: the next run takes over",
    "queued": "still queued: the next run takes over",
}
COLOURS = {"processing": 36, "completed": 32, "failed": 31, "retrying": 33}
COLOURED = bool(sys.stdout and sys.stdout.isatty()) and "NO_COLOR" not in os.environ
JOB_SECONDS = 4.0  # main() takes it from the environment

start = time.monotonic()
stop = threading.Event()
ready = threading.Event()
latest: dict[str, str] = {}  # job id -> the latest event in this process
before: list[str] = []  # of these twelve, what an earlier process completed


def main() -> None:
    global JOB_SECONDS
    JOB_SECONDS = job_seconds()
    if hasattr(signal, "SIGPIPE"):  # nobody reads on, as with | head: that ends it without a word
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    say_how_to_kill_it()
    # As Ctrl-C, which waits until there is something to end.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    logging.getLogger("final").setLevel(logging.ERROR)  # show() tells of failures already
    loading.done()
    try:
        with uninterrupted():  # or there is a queue, and nobody who closes it
            queue = JobQueue(work, path="demo.db", workers=3, backoff=Backoff(base=JOB_SECONDS))
            jobs = plan(queue)
            producer = threading.Thread(target=produce, args=(queue, jobs), name="producer")
            producer.start()
        producer.join()
        queue.join()
        queue.close()
    except StorageError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        # Not in a signal handler: that interrupts the main thread anywhere, also where it
        # holds a lock, and would wait for this lock for ever.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # the second one ends it at once
        stop.set()
        producer.join()
        print(f"\nfinishing {queue.metrics().processing} in-flight jobs ...")
        queue.close(drain=False)
    print("\nall workers stopped:")
    summarise(queue)


def job_seconds() -> float:
    text = os.environ.get("JOB_SECONDS") or "4"
    if not re.fullmatch(r"\d{1,4}(\.\d+)?", text):
        sys.exit(f"JOB_SECONDS is {text!r}: give a number of seconds, for example 0.5.")
    return float(text)


def say_how_to_kill_it() -> None:
    command = "taskkill /F /PID" if os.name == "nt" else "kill -9"
    print(f"Ctrl-C ends it politely; from another terminal, {command} {os.getpid()} at once.")
    print("Then start it again: what was accepted comes back.\n")


def plan(queue: JobQueue) -> list[Job]:
    """Say what comes back from the last run; which jobs are still to be produced?"""
    earlier = {record.id: record.status for record in reversed(queue.jobs(limit=1_000_000))}
    left = [job_id for job_id, status in earlier.items() if not status.ended]
    # A round of twelve that was cut short is made complete; after a complete one comes the next.
    first = (len(earlier) - bool(left)) // 12 * 12 + 1
    jobs = [make_job(number) for number in range(first, first + 12)]
    before.extend(job.id for job in jobs if earlier.get(job.id) == "completed")
    latest.update(dict.fromkeys(before, "completed"))
    latest.update(dict.fromkeys(left, "recovered"))
    if left:
        print(f"{len(before)} done in earlier runs; {len(left)} come back:")
        print(textwrap.indent(textwrap.fill(" ".join(left), 68), " " * 11), end="\n\n")
    ready.set()
    return [job for job in jobs if job.id not in earlier]


def produce(queue: JobQueue, jobs: list[Job]) -> None:
    for job in jobs:
        show("queued", job.id)  # said first, because a worker may be faster than this thread
        queue.enqueue(job)
        if stop.wait(JOB_SECONDS / 5):
            return


def make_job(number: int) -> Job:
    name = list(PRIORITIES)[number % 4]
    payload = "fails once" if number % 12 == 2 else "goes well"
    return Job(f"{name}-{number}", payload, Priority(PRIORITIES[name]))


def work(job: Job) -> None:
    """The handler."""
    ready.wait()
    attempt = current_job().attempt
    show("processing", job.id, f"attempt {attempt}" if attempt > 1 else "")
    time.sleep(JOB_SECONDS)
    if job.payload == "fails once" and attempt == 1:
        show("retrying", job.id, f"failed; due again in {JOB_SECONDS:g} s")
        raise ConnectionError("connection reset")
    show("completed", job.id)


def show(event: str, job_id: str, note: str = "") -> None:
    latest[job_id] = event
    seconds, priority = time.monotonic() - start, PRIORITIES[job_id.split("-")[0]]
    thread = threading.current_thread().name.removeprefix("final-")
    say(f"{seconds:6.2f} s  {event:<10}  {job_id:<10}  {priority:<6}  {thread}  {note}", event)


def say(line: str, event: str) -> None:
    code = COLOURS.get(event, 2)
    # With its end, which print() would write on its own, and threads get in between.
    text = f"\033[{code}m{line.rstrip()}\033[0m\n" if COLOURED else line.rstrip() + "\n"
    print(text, end="", flush=True)


def summarise(queue: JobQueue) -> None:
    status = {job_id: queue.status(job_id) for job_id in latest}  # the file knows
    list_them("completed", before, "completed in earlier runs")
    for event, ending in ENDINGS.items():
        now = [job_id for job_id, last in status.items() if last == event and job_id not in before]
        list_them(event, now, ending)


def list_them(event: str, ids: list[str], ending: str) -> None:
    if ids:
        say(f"{len(ids):4} of {len(latest)} {ending}", event)
        print(textwrap.indent(textwrap.fill(" ".join(ids), 68), " " * 11))


def command_line() -> None:
    try:
        from final.service.cli.app import main
    except ModuleNotFoundError as error:
        print(f"Commands need {error.name}: pip install '.[service]'", file=sys.stderr)
        sys.exit(2)
    main()


if __name__ == "__main__":
    command_line() if len(sys.argv) > 1 else main()
