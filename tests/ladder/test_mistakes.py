"""What people write on their way up, and the sentence that must come.

Each is a worked solution with a mistake in it, or a file that is built on queue.Queue, and falls in
the row that sees it.

But: ``make test-slow`` plants those alone whose sentence is made here; the others fall in the
suite, and ``LADDER=full`` plants them all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ladder.grading import Candidate, Limits, grade
from tests.ladder.steps import STEPS

# The machine may be busy with other things.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FULL = os.environ.get("LADDER") == "full"
TIGHT = Limits(deadline=1.5)

WITH_QUEUE_QUEUE = """
import itertools, queue, threading
from dataclasses import dataclass, field

_numbers = itertools.count(1)

@dataclass(frozen=True)
class Job:
    id: str = field(default_factory=lambda: f"job-{next(_numbers)}")
    payload: object = None

class QueueClosed(RuntimeError):
    pass

class JobQueue:
    def __init__(self, handler, *, workers=4, capacity=1000):
        self._handler = handler
        self._closed = False
        self._queue = queue.Queue(maxsize=capacity)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self):
        while True:
            job = self._queue.get()
            if job is None:
                break
            try:
                self._handler(job)
            except BaseException as error:
                print(f"job {job.id} failed: {error}")

    def enqueue(self, job, timeout=None):
        self._queue.put(job, timeout=timeout)

    def close(self):
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
"""

# Its workers look every now and then, and its close refuses what comes.
POLLING = (
    (
        "            job = self._queue.get()\n            if job is None:\n                break\n",
        "            try:\n                job = self._queue.get(timeout=0.02)\n"
        "            except queue.Empty:\n                if self._closed:\n"
        "                    break\n                continue\n",
    ),
    (
        "        self._queue.put(job, timeout=timeout)\n",
        "        if self._closed:\n            raise QueueClosed\n"
        "        self._queue.put(job, timeout=timeout)\n",
    ),
    ("def close(self):\n", "def close(self, timeout=None):\n        self._closed = True\n"),
    (
        "        for _ in self._threads:\n            self._queue.put(None)\n"
        "        for thread in self._threads:\n            thread.join()\n",
        "        for thread in self._threads:\n            thread.join(timeout)\n",
    ),
)


@dataclass(frozen=True)
class Mistake:
    """step: whose solution has it; 0 is the file of queue.Queue. edits: what is right there, and
    what is written instead. row: of the suite, which sees it. said: what must be told. ours:
    whether that sentence is made by the ladder, and not by the suite."""

    name: str
    step: int
    row: str
    said: str
    edits: tuple[tuple[str, str], ...]
    ours: bool = False

    def write_to(self, folder: Path) -> Candidate:
        solution = STEPS[self.step - 1].solution
        source = solution.read_text(encoding="utf-8") if self.step else WITH_QUEUE_QUEUE
        for right, wrong in self.edits:
            assert source.count(right) == 1, f"{right!r} is there {source.count(right)} times."
            source = source.replace(right, wrong)
        file = folder / "job_queue.py"
        file.write_text(source, encoding="utf-8")
        return Candidate(file)


RECORD = "            self._record(task, error)\n"
# What follows RECORD's place in the file instead.
RETRIES_IN_THE_WORKER = """\
            while error and task.attempts <= self._max_retries:
                time.sleep(self._backoff.delay(task.attempts))
                task.attempts += 1
                try:
                    self._handler(task.job)
                    error = None
                except Exception as again:
                    error = again
"""
PRINTS_ITS_TROUBLE = """\
            try:
                self._record(task, error)
            except Exception as trouble:
                print(f"job {task.job.id} failed: {trouble}")
"""
INTO_THE_HEAP = """\
                due = time.monotonic() + self._backoff.delay(task.attempts)
                heapq.heappush(self._retries, (due, next(self._tie_breaker), task))
"""
WITH_A_TIMER = """\
                lane = self._lanes[task.job.priority]
                delay = self._backoff.delay(task.attempts)
                timer = threading.Timer(delay, lane.tasks.append, (task,))
                timer.daemon = True
                timer.start()
"""
PICK = "        chosen = (due or waiting)[0]\n"
EACH_ELEVENTH = """\
        self._picks = getattr(self, "_picks", 0) + 1
        chosen = waiting[-1 if self._picks % 11 == 0 else 0]
"""
COUNTS = ("        return Metrics(\n", "            by_priority=lanes,\n        )\n")
COUNTS_FOR_ALL = (
    """\
        self._seen = getattr(self, "_seen", None) or Metrics()
        self._seen.__dict__.update(vars(Metrics(
""",
    "            by_priority=lanes,\n        )))\n        return self._seen\n",
)

MISTAKES = [
    Mistake(
        "only what is an Exception is caught", 2, "worker-survival",
        "A thread was ended by SystemExit",
        edits=(("except BaseException as", "except Exception as"),),
    ),
    Mistake(
        "QueueFull is no queue.Full", 4, "backpressure-timeout",
        "Your QueueFull is no queue.Full.",
        edits=(("class QueueFull(queue.Full)", "class QueueFull(Exception)"),), ours=True,
    ),
    Mistake(
        "a sentinel for each worker, in the full queue", 0, "bounded-memory",
        "(self._queue.put(None)): the queue is full, and every worker is held. A sentinel needs a "
        "place, too.",
        edits=(("def close(self):", "def close(self, timeout=None):"),), ours=True,
    ),
    Mistake(
        "close cannot wake a put", 0, "close-in-flight",
        "when close() began, and was never woken.",
        edits=POLLING, ours=True,
    ),
    Mistake(
        "who is woken by close goes in", 4, "close-in-flight",
        "close() had begun, and a producer that waited for room was still accepted. After waking, "
        "ask for the end first.",
        edits=((
            "            if self._closing:\n                raise QueueClosed(",
            "            if not has_room:\n                raise QueueClosed(",
        ),), ours=True,
    ),
    Mistake(
        "one capacity for all", 5, "priority",
        "With 100 LOW jobs, no MEDIUM one was let in.",
        edits=((
            "len(lane.jobs) < self._capacity",
            "sum(len(each.jobs) for each in self._lanes.values()) < self._capacity",
        ),),
    ),
    Mistake(
        "enqueue is async", 1, "enqueue",
        "enqueue() is a coroutine function, and nobody awaits it: write `def`.",
        edits=(("def enqueue(", "async def enqueue("),), ours=True,
    ),
    Mistake(
        "the worker sleeps", 6, "retry-frees-worker",
        "Before the retry the only worker ran 0 of 1 other jobs.",
        edits=((RECORD, RETRIES_IN_THE_WORKER + RECORD),),
    ),
    Mistake(
        "close forgets the retries", 6, "retry",
        "Of 3 attempts 1 had been made when close returned.",
        edits=(("self._running + len(self._retries)", "self._running"),),
    ),
    Mistake(
        "a thread for each retry", 6, "retry-frees-worker",
        "50 retries wait, and the queue has 51 threads.",
        edits=((INTO_THE_HEAP, WITH_A_TIMER),),
    ),
    Mistake(
        "jitter to both sides", 6, "backoff", "Before retry 1 a wait of 0.9",
        edits=(("* longest, longest)", "* longest, (1 + self.jitter) * longest)"),),
    ),
    Mistake(
        "metrics() is the live object", 7, "metrics",
        "What metrics() returned at first has changed since.",
        edits=tuple(zip(COUNTS, COUNTS_FOR_ALL, strict=True)),
    ),
    Mistake(
        "every eleventh pick goes to the lowest lane", 8, "no-starvation", "MEDIUM after",
        edits=((PICK, EACH_ELEVENTH),),
    ),
    Mistake(
        "ids are numbers", 9, "restart",
        "Two processes call their first jobs job-1 and job-1.",
        edits=(
            ("lambda: str(uuid.uuid4())", 'lambda: f"job-{next(_numbers)}"'),
            ("class Priority(", "_numbers = itertools.count(1)\n\n\nclass Priority("),
        ),
    ),
    Mistake(
        "the error is printed alone", 9, "restart",
        'failed: no such table: jobs", and 22 more like it.',
        edits=(
            (RECORD, PRINTS_ITS_TROUBLE),
            (
                'error is None:\n                self._write("DELETE FROM job ',
                'error is None:\n                self._write("DELETE FROM jobs ',
            ),
        ), ours=True,
    ),
    Mistake(
        "monotonic time in the file", 11, "retry-restart",
        "2 of 2 attempts that were left came after a restart",
        edits=(
            ("time.time() + delay", "time.monotonic() + delay"),
            ("due_at - time.time()", "due_at - time.monotonic()"),
        ),
    ),
    Mistake(
        "an attempt is charged when it has ended", 11, "retry-restart",
        "has 1 retry: ran, ran, ran",
        edits=(
            ("status = 'processing', attempts = attempts + 1", "status = 'processing'"),
            ("'retrying', due_at = ?", "'retrying', attempts = attempts + 1, due_at = ?"),
            ("status = 'queued', attempts = attempts - 1", "status = 'queued'"),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "mistake", [m for m in MISTAKES if FULL or m.ours], ids=lambda mistake: mistake.name
)
def test_a_mistake_is_told(mistake: Mistake, tmp_path: Path) -> None:
    verdict = grade(mistake.write_to(tmp_path), [mistake.row], limits=TIGHT)
    assert verdict.failed, "It passes."
    assert mistake.said in " ".join(verdict.failed.seen)


def test_queue_queue_will_do_for_being_bounded(tmp_path: Path) -> None:
    """Its close waits for its workers: nothing was asked of it so far."""
    file = tmp_path / "job_queue.py"
    file.write_text(WITH_QUEUE_QUEUE, encoding="utf-8")
    rows = [*STEPS[2].rows, *STEPS[3].rows]
    verdict = grade(Candidate(file), rows, limits=TIGHT)
    assert verdict.passes(STEPS[2].rows)
    assert verdict.failed
    assert verdict.failed.seen == ["0 of 10 jobs refused after close."]
