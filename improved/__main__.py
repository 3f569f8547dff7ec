"""The demo of stage 2: twelve jobs, one producer, three workers. ``python -m improved``

A job takes four seconds, and the first attempt at photo-2 fails. Watch what this queue
makes of that, of the payments (high priority), and of the jobs left at the end. (The
environment variable JOB_SECONDS makes it quicker or slower.)
Ctrl-C (or SIGTERM) ends it early and in order: what was accepted is run; exit code 0.

The same scenario runs in every stage: compare ``python -m naive``, ``python -m final``.
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

from improved import Backoff, Job, JobQueue, Priority

PRIORITIES = {"payment": "high", "report": "low", "photo": "low", "email": "medium"}
COLOURS = {"processing": 36, "completed": 32, "retrying": 33}
COLOURED = bool(sys.stdout and sys.stdout.isatty()) and "NO_COLOR" not in os.environ
JOB_SECONDS = 4.0  # main() takes it from the environment

start = time.monotonic()
stop = threading.Event()
latest: dict[str, str] = {}  # job id -> the latest event: this queue has totals only


def main() -> None:
    global JOB_SECONDS
    JOB_SECONDS = job_seconds()
    if hasattr(signal, "SIGPIPE"):  # nobody reads on, as with | head: that ends it without a word
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    say_how_to_kill_it()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exception, as for Ctrl-C
    logging.getLogger("improved").setLevel(logging.ERROR)  # show() tells of failures already
    queue = JobQueue(work, workers=3, backoff=Backoff(base=JOB_SECONDS))
    producer = threading.Thread(target=produce, args=(queue,), name="producer")
    try:
        producer.start()  # here, so that a signal finds its way to the `except` below
        producer.join()
        queue.close()
    except KeyboardInterrupt:
        # Not in a signal handler: that interrupts the main thread anywhere, also where it
        # holds the queue's lock, and would wait for this lock for ever.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # the second one ends it at once
        stop.set()
        if producer.is_alive():  # it may not even have begun
            producer.join()
        now = queue.metrics()
        waiting = now.queued + now.retrying
        print(f"\nfinishing {now.processing} in-flight jobs, then the {waiting} that wait ...")
        queue.close()
    print("\nall workers stopped:")
    summarise()


def job_seconds() -> float:
    text = os.environ.get("JOB_SECONDS") or "4"
    if not re.fullmatch(r"\d{1,4}(\.\d+)?", text):
        sys.exit(f"JOB_SECONDS is {text!r}: give a number of seconds, for example 0.5.")
    return float(text)


def say_how_to_kill_it() -> None:
    command = "taskkill /F /PID" if os.name == "nt" else "kill -9"
    print(f"Ctrl-C ends it politely; from another terminal, {command} {os.getpid()} at once.\n")


def produce(queue: JobQueue) -> None:
    for number in range(1, 13):
        job = make_job(number)
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
    again = latest.get(job.id) == "retrying"
    show("processing", job.id, "attempt 2" if again else "")
    time.sleep(JOB_SECONDS)
    if job.payload == "fails once" and not again:
        show("retrying", job.id, f"failed; due again in {JOB_SECONDS:g} s")
        raise ConnectionError("connection reset")
    show("completed", job.id)


def show(event: str, job_id: str, note: str = "") -> None:
    latest[job_id] = event
    seconds, priority = time.monotonic() - start, PRIORITIES[job_id.split("-")[0]]
    thread = threading.current_thread().name.removeprefix("improved-")
    say(f"{seconds:6.2f} s  {event:<10}  {job_id:<10}  {priority:<6}  {thread}  {note}", event)


def say(line: str, event: str) -> None:
    code = COLOURS.get(event, 2)
    # With its end, which print() would write on its own, and threads get in between.
    text = f"\033[{code}m{line.rstrip()}\033[0m\n" if COLOURED else line.rstrip() + "\n"
    print(text, end="", flush=True)


def summarise() -> None:
    ids = [job_id for job_id, last in latest.items() if last == "completed"]
    say(f"{len(ids):4} of {len(latest)} completed", "completed")
    print(textwrap.indent(textwrap.fill(" ".join(ids), 68), " " * 11))


if __name__ == "__main__":
    main()
