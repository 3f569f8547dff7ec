"""The demo of stage 1: twelve jobs, one producer, three workers. ``python -m naive``

A job takes four seconds, and the first attempt at photo-2 fails. Watch what this queue
makes of that, of the payments (high priority), and of the jobs left at the end. (The
environment variable JOB_SECONDS makes it quicker or slower.)
Ctrl-C (or SIGTERM) ends it early.
The same scenario runs in every stage: compare ``python -m improved``, ``python -m final``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import threading
import time

from naive import Job, JobQueue

PRIORITIES = {"payment": "high", "report": "low", "photo": "low", "email": "medium"}
ENDINGS = {
    "completed": "completed",
    "lost": "lost: it failed once, and took its worker along",
    "processing": "lost: in flight when the process ended",
    "queued": "lost: dropped by close() without a word",
}
COLOURS = {"processing": 36, "completed": 32, "lost": 31}
COLOURED = bool(sys.stdout and sys.stdout.isatty()) and "NO_COLOR" not in os.environ
JOB_SECONDS = 4.0  # main() takes it from the environment

start = time.monotonic()
stop = threading.Event()
latest: dict[str, str] = {}  # job id -> the latest event: this queue can't tell


def main() -> None:
    global JOB_SECONDS
    JOB_SECONDS = job_seconds()
    if hasattr(signal, "SIGPIPE"):  # nobody reads on, as with | head: that ends it without a word
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    say_how_to_kill_it()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exception, as for Ctrl-C
    threading.excepthook = lambda args: say(f"{'and its worker dies':>29}", "lost")
    queue = JobQueue(work, workers=3)
    producer = threading.Thread(target=produce, args=(queue,), name="producer")
    try:
        producer.start()  # here, so that a signal finds its way to the `except` below
        producer.join()
    except KeyboardInterrupt:
        stop.set()
        if producer.is_alive():  # it may not even have begun
            producer.join()
    queue.close()
    print("\nclose() has returned, and the process ends:")
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
    return Job(f"{name}-{number}", "fails once" if number % 12 == 2 else "goes well")


def work(job: Job) -> None:
    """The handler."""
    show("processing", job.id)
    time.sleep(JOB_SECONDS)
    if job.payload == "fails once":
        show("lost", job.id, "failed; nobody tries again")
        raise ConnectionError("connection reset")
    show("completed", job.id)


def show(event: str, job_id: str, note: str = "") -> None:
    latest[job_id] = event
    seconds, priority = time.monotonic() - start, PRIORITIES[job_id.split("-")[0]]
    thread = threading.current_thread().name.removeprefix("naive-")
    say(f"{seconds:6.2f} s  {event:<10}  {job_id:<10}  {priority:<6}  {thread}  {note}", event)


def say(line: str, event: str) -> None:
    code = COLOURS.get(event, 2)
    # With its end, which print() would write on its own, and threads get in between.
    text = f"\033[{code}m{line.rstrip()}\033[0m\n" if COLOURED else line.rstrip() + "\n"
    print(text, end="", flush=True)


def summarise() -> None:
    for event, ending in ENDINGS.items():
        ids = [job_id for job_id, last in latest.items() if last == event]
        if ids:
            say(f"{len(ids):4} of {len(latest)} {ending}", ending.split(":")[0])
            print(textwrap.indent(textwrap.fill(" ".join(ids), 68), " " * 11))


if __name__ == "__main__":
    main()
