"""The checks of notebook 9 accept its solution, and catch the faults that people make."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.notebooks import pairs

# What to replace in the last solution, by what, and the step whose checks must notice.
FAULTS = {
    "the handler runs under the lock": (
        "self._handler(job)  #",
        "with self._changed: self._handler(job)  #",
        1,
    ),
    "one exception ends the worker": ("except BaseException as", "except KeyError as", 2),
    "SystemExit ends the worker": ("except BaseException as", "except Exception as", 2),
    "close does not wait": ("wait_for(lambda: not self._unfinished, timeout)", "wait(0)", 2),
    "a job counts as finished before it has run": (
        "self._handler(job)  #",
        "self._finish(), self._handler(job)  #",
        2,
    ),
    "enqueue ignores close": ("if self._closing:\n", "if False:\n", 2),
    "there is no bound": ("len(lane) < self._capacity", "True", 3),
    "the timeout is ignored": ("if not has_room:", "if False:", 3),
    "who takes a job tells nobody": (
        "self._changed.notify_all()  # there is room now",
        "pass",
        3,
    ),
    "close does not wake producers": ("self._closing or len(lane)", "len(lane)", 3),
    "last in, first out": ("lane.popleft()", "lane.pop()", 4),
    "LOW first": ("for priority in Priority}", "for priority in reversed(Priority)}", 4),
    "one attempt too many": ("attempts > self._max_retries", "attempts > 1 + self._max_retries", 5),
    "the worker sleeps out the backoff": (
        "due = time.monotonic() + self._backoff.delay(attempts)",
        "due = time.sleep(self._backoff.delay(attempts)) or time.monotonic()",
        5,
    ),
    "retries come at once": ("time.monotonic() + self._backoff", "0 * self._backoff", 5),
    "the pauses stay the same": ("2 ** (retry - 1)", "1", 5),
    "nothing is drawn": ("random.uniform((1 - self.jitter) * longest, longest)", "longest", 5),
}


@pytest.fixture
def interview(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(pairs.NOTEBOOKS))
    log = logging.getLogger("improved")  # a notebook's is quiet, that of other tests is not
    level = log.level
    yield importlib.import_module("interview")
    log.setLevel(level)


def problems(interview: Any, source: str, step: int) -> list[str]:
    # Its workers may outlive the check, and must not print into another test's output.
    names: dict[str, Any] = {"__name__": "candidate", "print": lambda *_: None}
    given = "from improved import Job, Priority, QueueClosed, QueueFull\n"
    exec(compile(given + source, "candidate", "exec", dont_inherit=True), names)
    built = [names["JobQueue"]] + [names["Backoff"]] * (step == 5)
    return [problem for _, problem in interview.try_all(interview.BEHAVIOURS[step], built)]


def solution() -> str:
    """The answer to the last step."""
    notebook = pairs.with_solutions(pairs.read(pairs.NOTEBOOKS / "09_interview.md"))
    exercises = [c for c in notebook.cells if "exercise" in c.metadata.get("tags", [])]
    return str(exercises[-1].source)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_the_last_solution_passes_the_checks_of_all_steps(interview: Any, step: int) -> None:
    assert not any(problems(interview, solution(), step))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(interview: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interview, "LIMIT", 1.5)  # half of the faults hang until they are given up
    old, new, step = FAULTS[fault]
    assert old in solution()
    assert any(problems(interview, solution().replace(old, new), step))
