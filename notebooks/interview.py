"""What notebook 9 uses: a clock you can see, checks that name what is wrong, and a score.

    interview = Interview()
    interview.start(1)            # the clock of step 1 ticks below the cell
    interview.check(1, JobQueue)  # tries the class; the clock stops when it is right

The checks are further down, a function for each behaviour: its first line says what is
expected, the rest of its docstring is the hint. They are no secret, and reading them
before the clock starts is cheating.

But: it tries what can be tried in a few seconds. A class that passes can still be wrong; the
suite of the repository (run_suite) asks for more, and neither can prove that it is right.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import logging
import os
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from IPython import get_ipython
from IPython.display import display

from improved import Job, Priority, QueueClosed, QueueFull
from toolbox import check

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # for the ladder: the stages are installed, the tests are not
from tests.ladder import steps as ladder  # noqa: E402
from tests.ladder.grading import Candidate, Row, grade  # noqa: E402

logging.getLogger("improved").setLevel(logging.ERROR)  # its warnings would fill the page
LIMIT = 4.0  # seconds for one behaviour, on a busy machine; what hangs is given up then


class Step(NamedTuple):
    """A part of the interview; ``rows`` are those of the ladder that it passes."""

    title: str
    minutes: int  # what a strong candidate needs
    rows: tuple[str, ...]


# What can be asked about closing of a queue that has no bound yet; the other rows see that it is
# closing by its refusal of a producer at a full lane.
CLOSED = ("enqueue-after-close", "close-twice")


def _rows(*numbers: int) -> tuple[str, ...]:
    rows = [row for number in numbers for row in ladder.STEPS[number - 1].rows]
    return tuple(row for row in rows if row not in CLOSED)


# Five parts for the first six steps of the ladder (tests/ladder/steps.py), where the same rows are
# climbed with more time.
STEPS = {
    1: Step("a queue with workers", 5, _rows(1)),
    2: Step("survives, and closes", 5, (*_rows(2), *CLOSED)),
    3: Step("bounded", 5, _rows(3, 4)),
    4: Step("priorities", 3, _rows(5)),
    5: Step("retries", 7, _rows(6)),
}


class Interview:
    """25 minutes in five steps. Runs of the clock and of the checks may be repeated."""

    def __init__(self) -> None:
        self._clocks: dict[int, Clock] = {}
        self._solved: set[int] = set()
        self._suite_share = 0.0

    def start(self, number: int) -> None:
        """Start the clock of a step, and stop the one before."""
        for clock in self._clocks.values():
            clock.stop()
        step = STEPS[number]
        self._clocks[number] = Clock(f"Step {number}: {step.title}", step.minutes)
        self._solved.discard(number)

    def check(self, number: int, *built: type) -> None:
        """Try what was built, and say what it does; stop the clock if it is right."""
        if number not in self._clocks:
            self.start(number)
        verdicts = try_all(BEHAVIOURS[number], built)
        for behaviour, problem in verdicts:
            print(f"  {'no ' if problem else 'yes'}  {behaviour.expected}")
        wrong = [(behaviour, problem) for behaviour, problem in verdicts if problem]
        if not wrong:
            self._solved.add(number)
            clock = self._clocks[number]
            clock.stop()
            print(f"{_minutes(clock.seconds)} of {_minutes(clock.allowed)} minutes used.")
            check(True, "")
        else:
            self._solved.discard(number)
            behaviour, problem = wrong[0]
            check(False, f"{behaviour.expected}\n  Seen: {problem}\n  Think: {behaviour.hint}")

    @property
    def done(self) -> bool:
        """Whether all steps are solved."""
        return self._solved == set(STEPS)

    def run_suite(self) -> float:
        """Grade the class of this notebook as ``make mine`` would, as far as it is solved.

        Prints a line for each row, with what the same test measured on ``improved``.
        Returns the share of rows that pass.
        """
        steps = [step for number, step in STEPS.items() if number in self._solved]
        asked = [row for step in steps for row in step.rows]
        known = [row for step in STEPS.values() for row in step.rows]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "job_queue.py"
            file.write_text(_definitions(get_ipython().user_ns["In"]), encoding="utf-8")
            with ThreadPoolExecutor(2) as both:  # at once
                theirs = both.submit(_graded, ROOT / "improved" / "job_queue.py", known)
                mine = both.submit(_graded, file, asked)
        seen, expected = mine.result(), theirs.result()
        assert all(row.passed for row in expected.values()), expected
        print(f"{'row':22}{'yours':7}what was measured")
        for name in known:
            row = seen.get(name)
            mark = "-" if row is None else "pass" if row.passed else "FAIL"
            shown = f"improved: {expected[name].evidence}"
            if row is not None:
                shown = row.evidence if row.passed else " ".join(row.seen)
            print(f"{name:22}{mark:7}{textwrap.shorten(shown, 70, placeholder=' ...')}")
        self._suite_share = sum(row.passed for row in seen.values()) / len(known)
        return self._suite_share

    def score(self, guess: dict[int, float], said: dict[str, bool]) -> int:
        """Print the rubric; the points, of 100."""
        for clock in self._clocks.values():
            clock.stop()
        print(f"{'step':26}{'guess':>7}{'used':>7}{'strong':>8}")
        for number, step in STEPS.items():
            used = _minutes(self._clocks[number].seconds) if number in self._solved else "-"
            print(
                f"{number} {step.title:24}{_minutes(guess[number] * 60):>7}"
                f"{used:>7}{_minutes(step.minutes * 60):>8}"
            )
        in_time = [number for number in self._solved if self._clocks[number].in_time]
        points = {
            "it works: 8 a step": (8 * len(self._solved), 40),
            "in time: 4 a step": (4 * len(in_time), 20),
            "the suite agrees": (round(20 * self._suite_share), 20),
            "what you said": (round(20 * sum(said.values()) / len(said)), 20),
        }
        print()
        for name, (got, most) in points.items():
            print(f"{name:26}{got:3} of {most:2}  {'#' * got}{'.' * (most - got)}")
        total = sum(got for got, _ in points.values())
        print(f"{'':26}{total:3} of 100: {_verdict(total)}")
        return total


class Clock:
    """A clock on the page, which ticks while you work. The kernel stays free."""

    def __init__(self, title: str, minutes: float) -> None:
        self.title = title
        self.allowed = minutes * 60
        self._began = time.monotonic()
        self._seconds: float | None = None  # known when it is stopped
        self._stopped = threading.Event()
        self._shown = display(self, display_id=True)
        threading.Thread(target=self._tick, daemon=True).start()

    @property
    def seconds(self) -> float:
        """Seconds used so far."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    @property
    def in_time(self) -> bool:
        return self.seconds <= self.allowed

    def stop(self) -> None:
        """Stop it; a second time does nothing."""
        if self._seconds is None:
            self._seconds = self.seconds
            self._stopped.set()
            self._shown.update(self)

    def _tick(self) -> None:
        while not self._stopped.wait(1.0) and self.seconds < 4 * self.allowed:
            self._shown.update(self)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped.is_set() else "running"
        return f"{self.title}  {_minutes(self.seconds)} of {_minutes(self.allowed)}  ({state})"

    def _repr_html_(self) -> str:
        share = min(100, round(100 * self.seconds / self.allowed))
        colour = "#0072B2" if self.in_time else "#D55E00"
        return (
            f'<div style="font-family:monospace;max-width:36em">{self!r}'
            '<div style="border:1px solid #888;height:0.8em;margin-top:0.2em">'
            f'<div style="background:{colour};height:100%;width:{share}%"></div></div></div>'
        )


# ---- the behaviours ----------------------------------------------------------------------------


class Trial:
    """What one behaviour is tried with: a gate that holds handlers, and notes of what ran."""

    def __init__(self) -> None:
        self.gate = threading.Event()  # opened when the trial is over, at the latest
        self._notes: list[Any] = []
        self._changed = threading.Condition()

    def note(self, entry: object) -> int:
        """Add ``entry``; how often it is there now."""
        with self._changed:
            self._notes.append(entry)
            self._changed.notify_all()
            return self._notes.count(entry)

    @property
    def notes(self) -> list[Any]:
        with self._changed:
            return list(self._notes)

    def wait_for(self, count: int) -> None:
        """Wait until there are ``count`` notes."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._notes) >= count, 0.8 * LIMIT)
            assert enough, f"{len(self._notes)} of {count} ran, then nothing happened."


class Behaviour(NamedTuple):
    expected: str
    hint: str
    run: Callable[..., None]


BEHAVIOURS: dict[int, list[Behaviour]] = {number: [] for number in STEPS}


def behaviour(step: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a check of ``step``: expected and hint are in its docstring."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        expected, _, hint = (inspect.getdoc(function) or "").partition("\n\n")
        BEHAVIOURS[step].append(Behaviour(expected, " ".join(hint.split()), function))
        return function

    return add


@behaviour(1)
def enqueue_returns(trial: Trial, JobQueue: Any) -> None:
    """enqueue() returns before the job is done.

    Who calls the handler? Not the producer: a thread that the constructor started.
    """
    queue = JobQueue(lambda job: trial.gate.wait(), workers=1)
    queue.enqueue(Job())


@behaviour(1)
def each_job_runs_once(trial: Trial, JobQueue: Any) -> None:
    """200 jobs run, each exactly once.

    Each worker repeats for ever: take one job, run it. Taking must remove the job.
    """
    queue = JobQueue(lambda job: trial.note(job.payload), workers=4)
    for n in range(200):
        queue.enqueue(Job(payload=n))
    trial.wait_for(200)
    assert sorted(trial.notes) == list(range(200)), "some ran twice, some never."


@behaviour(1)
def workers_work_at_once(trial: Trial, JobQueue: Any) -> None:
    """Four workers run four jobs at the same time.

    Start `workers` threads, and hold no lock while the handler runs.
    """
    meeting = threading.Barrier(4)

    def handler(job: Job) -> None:
        meeting.wait(0.6 * LIMIT)
        trial.note("met")

    queue = JobQueue(handler, workers=4)
    for _ in range(4):
        queue.enqueue(Job())
    trial.wait_for(4)


@behaviour(2)
def exceptions_end_no_worker(trial: Trial, JobQueue: Any) -> None:
    """A handler that raises ends its attempt, not its worker.

    Catch what the handler raises in the worker's loop, SystemExit too (BaseException).
    """

    def handler(job: Job) -> None:
        if job.payload == "bad":
            raise SystemExit("a library called sys.exit()")
        trial.note(job.payload)

    queue = JobQueue(handler, workers=2)
    for payload in ["bad", "bad", "good", "good"]:
        queue.enqueue(Job(payload=payload))
    trial.wait_for(2)


@behaviour(2)
def close_drains(trial: Trial, JobQueue: Any) -> None:
    """Leaving the `with` block runs what was accepted, queued and in flight.

    close() has to wait for something: a count of jobs accepted and not yet finished.
    """

    def handler(job: Job) -> None:
        time.sleep(0.01)
        trial.note(job.payload)

    with JobQueue(handler, workers=2) as queue:
        for n in range(20):
            queue.enqueue(Job(payload=n))
    done = len(trial.notes)
    assert done == 20, f"{done} of 20 had run when close() returned."


@behaviour(2)
def close_gives_up(trial: Trial, JobQueue: Any) -> None:
    """close(timeout=0.05) returns False while a job still runs, close() True when all ran.

    Condition.wait_for(predicate, timeout) returns what you need.
    """
    queue = JobQueue(lambda job: trial.gate.wait(), workers=1)
    queue.enqueue(Job())
    answer = queue.close(timeout=0.05)
    assert answer is False, f"close(timeout=0.05) returned {answer!r}."
    trial.gate.set()
    answer = queue.close()
    assert answer is True, f"close() returned {answer!r} after everything had run."


@behaviour(2)
def closed_means_closed(trial: Trial, JobQueue: Any) -> None:
    """enqueue() after close() raises QueueClosed.

    A job that is accepted and never runs is worse than an error.
    """
    queue = JobQueue(trial.note, workers=1)
    queue.close()
    with _raises(QueueClosed):
        queue.enqueue(Job())


@behaviour(3)
def full_means_full(trial: Trial, JobQueue: Any) -> None:
    """With capacity=5, the sixth waiting job waits for its timeout, then QueueFull.

    In enqueue(), wait for room with a time-out, and ask what the wait returned.
    """
    queue = _held(trial, JobQueue, capacity=5)
    for _ in range(5):
        queue.enqueue(Job(), timeout=0.5)
    began = time.monotonic()
    with _raises(QueueFull):
        queue.enqueue(Job(), timeout=0.1)
    waited = time.monotonic() - began
    assert waited >= 0.09, f"QueueFull came after {waited:.3f} s of 0.1 s."


@behaviour(3)
def room_wakes_producers(trial: Trial, JobQueue: Any) -> None:
    """A blocked producer goes on as soon as a worker takes a job.

    Whoever takes a job has made room, and must notify those who wait for it.
    """
    for _ in range(20):  # now and then the worker is so quick that nobody has to wait
        queue = JobQueue(lambda job: trial.gate.wait(), workers=1, capacity=1)
        queue.enqueue(Job())
        queue.enqueue(Job())  # no timeout: it goes in when the worker has taken the first


@behaviour(3)
def close_wakes_producers(trial: Trial, JobQueue: Any) -> None:
    """close() wakes a blocked producer, with QueueClosed.

    It waits for room *or* the end: put both into what it waits for, and let close() notify.
    """
    queue = _held(trial, JobQueue, capacity=1)
    queue.enqueue(Job())
    threading.Timer(0.1, lambda: queue.close(timeout=0)).start()
    with _raises(QueueClosed):
        queue.enqueue(Job())


@behaviour(4)
def urgent_first(trial: Trial, JobQueue: Any) -> None:
    """HIGH runs before MEDIUM, MEDIUM before LOW, each first in, first out.

    A deque for each priority, and a worker that looks into them in the order of Priority.
    """
    queue = _held(trial, JobQueue, capacity=100)
    for priority in reversed(Priority):
        for n in range(3):
            queue.enqueue(Job(payload=f"{priority.value} {n}", priority=priority), timeout=0.5)
    trial.gate.set()
    trial.wait_for(10)
    expected = [f"{priority.value} {n}" for priority in Priority for n in range(3)]
    assert trial.notes[1:] == expected, f"they started as {', '.join(trial.notes[1:])}."


@behaviour(4)
def capacity_is_per_lane(trial: Trial, JobQueue: Any) -> None:
    """A full LOW lane leaves room for HIGH.

    Count what waits in the job's own lane, not in all of them.
    """
    queue = _held(trial, JobQueue, capacity=3)
    for _ in range(3):
        queue.enqueue(Job(priority=Priority.LOW), timeout=0.5)
    queue.enqueue(Job(priority=Priority.HIGH), timeout=0.5)


@behaviour(5)
def tried_again(trial: Trial, JobQueue: Any, Backoff: Any) -> None:
    """A job that fails twice runs three times, and close() waits for that.

    A job that waits for its retry is not finished: close() has to count it.
    """
    with JobQueue(_failing(trial, 2), workers=2, backoff=Backoff(base=0.02)) as queue:
        queue.enqueue(Job("flaky"))
    runs = trial.notes.count("flaky")
    assert runs == 3, f"{runs} runs when close() returned."


@behaviour(5)
def gives_up(trial: Trial, JobQueue: Any, Backoff: Any) -> None:
    """With max_retries=2 a hopeless job runs three times, then no more.

    The number of attempts travels with the job. A job that has failed for good is finished.
    """
    options = {"max_retries": 2, "backoff": Backoff(base=0)}
    with JobQueue(_failing(trial, 1000), workers=1, **options) as queue:
        queue.enqueue(Job("hopeless"))
    runs = trial.notes.count("hopeless")
    assert runs == 3, f"{runs} runs."


@behaviour(5)
def pauses_grow(trial: Trial, JobQueue: Any, Backoff: Any) -> None:
    """The pauses are 1, 2, 4 ... times base, at most maximum, the jitter drawn at random.

    min(maximum, base * 2 ** (retry - 1)), then random.uniform between (1 - jitter) of it and it.
    """
    plain = Backoff(base=1, maximum=60, jitter=0)
    pauses = [plain.delay(retry) for retry in range(1, 9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60], f"{pauses}."
    drawn = [Backoff(base=8, maximum=60, jitter=0.5).delay(1) for _ in range(100)]
    assert all(4 <= pause <= 8 for pause in drawn), f"from {min(drawn)} to {max(drawn)}."
    assert len(set(drawn)) > 1, f"100 times {drawn[0]}: nothing was drawn."


@behaviour(5)
def retries_wait(trial: Trial, JobQueue: Any, Backoff: Any) -> None:
    """A retry comes when its pause is over, not before.

    The heap holds due times: time.monotonic() + pause. Move to the lanes what is due by now.
    """
    starts = []

    def handler(job: Job) -> None:
        starts.append(time.monotonic())
        if trial.note(job.id) == 1:
            raise ConnectionError("the mail server is down")

    queue = JobQueue(handler, workers=2, backoff=Backoff(base=0.3, jitter=0))
    queue.enqueue(Job("flaky"))
    trial.wait_for(2)
    waited = starts[1] - starts[0]
    assert waited >= 0.29, f"the retry of 0.3 s came after {waited:.2f} s."


@behaviour(5)
def retries_hold_no_worker(trial: Trial, JobQueue: Any, Backoff: Any) -> None:
    """While a job waits for its retry, its worker does other work.

    No sleep in the worker. A heap of (due time, number, job, attempts) beside the lanes.
    """
    queue = JobQueue(_failing(trial, 1), workers=1, backoff=Backoff(base=10))
    queue.enqueue(Job("flaky"))
    queue.enqueue(Job("other"))
    trial.wait_for(2)  # far sooner than the retry


def _held(trial: Trial, JobQueue: Any, capacity: int) -> Any:
    """A queue whose only worker is held with a job until the gate opens."""

    def handler(job: Job) -> None:
        trial.note(job.payload)
        trial.gate.wait()

    queue = JobQueue(handler, workers=1, capacity=capacity)
    queue.enqueue(Job(payload="held"))
    trial.wait_for(1)
    return queue


def _failing(trial: Trial, times: int) -> Callable[[Job], None]:
    """A handler that fails the first ``times`` attempts at each job but "other"."""

    def handler(job: Job) -> None:
        if trial.note(job.id) <= times and job.id != "other":
            raise ConnectionError("the mail server is down")

    return handler


@contextlib.contextmanager
def _raises(expected: type[Exception]) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    raise AssertionError(f"enqueue() accepted the job, and did not raise {expected.__name__}.")


def try_all(behaviours: Iterable[Behaviour], built: Sequence[type]) -> list[tuple[Behaviour, str]]:
    """Try them all at once; each with what was wrong, or nothing. Ends soon, whatever hangs."""
    # A worker that dies on the way would write its traceback over the page.
    threading.excepthook, before = lambda _: None, threading.excepthook
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        attempts = [Attempt(behaviour, built) for behaviour in behaviours]
        verdicts = [(attempt.behaviour, attempt.problem()) for attempt in attempts]
    threading.excepthook = before
    return verdicts


class Attempt:
    """A behaviour on trial, on a thread of its own that nobody has to wait for."""

    def __init__(self, behaviour: Behaviour, built: Sequence[type]) -> None:
        self.behaviour = behaviour
        self._trial = Trial()
        self._problem = f"it hung, and was given up after {LIMIT:.0f} s."
        self._built = built
        self._until = time.monotonic() + LIMIT
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def problem(self) -> str:
        """What was wrong; empty if nothing was."""
        self._thread.join(max(0.0, self._until - time.monotonic()))
        problem = self._problem  # before the gate opens: what goes on then does not count
        self._trial.gate.set()
        return problem

    def _run(self) -> None:
        try:
            self.behaviour.run(self._trial, *self._built)
            self._problem = ""
        except AssertionError as error:
            self._problem = str(error)
        except BaseException as error:
            self._problem = f"{type(error).__name__}: {error}"
        finally:
            self._trial.gate.set()


# ---- the suite ---------------------------------------------------------------------------------


def _graded(file: Path, rows: list[str]) -> dict[str, Row]:
    return grade(Candidate(file), rows, to_the_end=True).rows if rows else {}


def _definitions(cells: list[str]) -> str:
    """Imports, classes, functions and constants of a notebook's cells; of each name the last.

    A class that goes on from an earlier one of its name needs that one as well.
    """
    seen: set[str] = set()
    kept = []
    for cell in reversed(cells):
        try:
            nodes = ast.parse(cell).body
        except SyntaxError:
            continue
        for node in reversed(nodes):
            names = _defined(node) - seen
            if names:
                seen |= names - _bases(node)
                kept.append(ast.unparse(node))
    return "\n\n".join(reversed(kept))


def _defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.ImportFrom(module="interview" | "toolbox" | "__future__"):
            return set()  # of this notebook, or only good at the top of a file
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name for alias in names}
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return {name}
        case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper() or name[0] == "_":
            return {name}
    return set()


def _bases(node: ast.stmt) -> set[str]:
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return {base.id for base in bases if isinstance(base, ast.Name)}


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _verdict(points: int) -> str:
    if points >= 85:
        return "a strong yes."
    if points >= 65:
        return "yes."
    if points >= 40:
        return "close. Do it again in a week, from an empty cell."
    return "not yet. Read the solutions, sleep, do it again from an empty cell."
