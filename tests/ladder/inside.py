"""A pytest plugin that goes along in the copy: it tells the grader what happens, as it happens.

A line of JSON for each event, appended to the file ``LADDER_REPORT``: whatever ends the process
next, what was written stays. Before each test a watchdog is set that needs no help of Python's: it
writes the stacks of all threads to ``LADDER_STACKS`` and ends the process.

But: it lives in the process that it watches. Whoever wants to deceive it can; for strangers' code
use a container.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import pytest

import tests.helpers
from tests.ladder.seeing import Lines, Stand, is_own, place_of, threads

LIMIT = float(os.environ["LADDER_LIMIT"])  # seconds for a test; stress has three times that
LONGEST = 1_000  # characters of an error of the candidate's
TESTS = str(Path(__file__).parents[1]) + os.sep
OTHERS = tuple(name for name in ("naive", "improved", "final") if not Path(name).exists())
STARTS_PROCESSES = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system")

_pid = os.getpid()
_report = os.open(os.environ["LADDER_REPORT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_stacks = open(os.environ["LADDER_STACKS"], "w", encoding="utf-8")  # noqa: SIM115  (as long as we live)
_deaths: list[str] = []
_row = ""
_older: set[threading.Thread] = set()  # that an earlier test left
_printed = Lines()
_one_looks = threading.RLock()
# Opened now: the candidate may use up all files that a process may have.
_all_stacks = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as we live)
_given_up: dict[str, Any] | None = None  # how it was when a wait of the test was first in vain


class _Noted(Future[Any]):
    """What a test's call in the background comes to; the errors of those that it never asks for."""

    def set_exception(self, error: BaseException | None) -> None:
        if error is not None:
            _deaths.append(f"{_said(error)}{_place(error)}")
        super().set_exception(error)


def _watched(wait: Callable[..., Any]) -> Callable[..., Any]:
    """``wait``; where it is in vain, take down how it is, before anybody goes on because of it."""

    @functools.wraps(wait)
    def watched(*arguments: object) -> object:
        global _given_up
        try:
            return wait(*arguments)
        except AssertionError:
            with _one_looks:
                _given_up = _given_up or _state()
            raise

    return watched


tests.helpers.Future = _Noted  # type: ignore[attr-defined]
for _owner, _name in (
    (tests.helpers.Gate, "wait"),
    (tests.helpers.Journal, "_wait"),
    (tests.helpers.Background, "result"),
):
    setattr(_owner, _name, _watched(getattr(_owner, _name)))


class _Listening:
    """An output that takes down its lines, each thread's by itself."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._begun = threading.local()

    def write(self, text: str) -> int:
        *lines, begun = (getattr(self._begun, "line", "") + text).split("\n")
        self._begun.line = begun[: Lines.LONGEST]
        _printed.add(lines)
        return self._output.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


# For good: print() in another thread crashes the process where the output is taken from under it.
sys.stdout, sys.stderr = _Listening(sys.stdout), _Listening(sys.stderr)


class NotAllowed(RuntimeError):
    """The candidate did what no step asks for."""


def tell(**event: object) -> None:
    """Append an event; a forked child's are not for us, and it ends here."""
    if os.getpid() != _pid:
        os._exit(0)
    os.write(_report, (json.dumps(event) + "\n").encode())


# What it reaches for


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS_PROCESSES or event == "subprocess.Popen":
        if _row != "processes" and (place := _caller()):
            tell(reaches=f"starts a process ({event}, {place})")
            raise NotAllowed(f"It starts a process ({event}): this needs threads alone.")
    elif event == "socket.connect" and (place := _caller()):
        tell(reaches=f"the network ({event}, {place})")
        raise NotAllowed("It reaches for the network.")
    elif event == "import" and str(arguments[0]).startswith(OTHERS) and (place := _caller()):
        tell(reaches=f"{arguments[0].partition('.')[0]} ({place})")


def _caller() -> str:
    """The candidate's line that is the reason for this call, the innermost; empty for none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if is_own(frame.f_code.co_filename):
            return place_of(frame.f_code.co_filename, frame.f_lineno)
        if frame.f_code.co_filename.startswith(TESTS):
            return ""  # a test does it
        frame = frame.f_back
    return ""


sys.addaudithook(_watch)
if sys.platform == "linux":  # elsewhere the grader's own look at the memory has to do
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


# Test by test


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _row, _older, _given_up
    (mark,) = item.iter_markers("capability")
    _row = mark.args[0]
    _deaths.clear()
    _given_up = None
    _printed.clear()
    _older = set(threading.enumerate()) - {threading.main_thread()}
    limit = 3 * LIMIT if item.get_closest_marker("timeout") else LIMIT
    tell(begin=_row)
    faulthandler.dump_traceback_later(limit, exit=True, file=_stacks)
    result = yield
    faulthandler.cancel_dump_traceback_later()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Take down which exception ended a thread, before a test's own hook sees it."""
    before = threading.excepthook

    def note(death: threading.ExceptHookArgs) -> None:
        if death.exc_value is not None:
            _deaths.append(f"{_said(death.exc_value)}{_place(death.exc_value)}")
        before(death)

    threading.excepthook = note
    try:
        return (yield)
    finally:
        threading.excepthook = before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when != "call" and not call.excinfo:
        return report
    stage = getattr(item, "funcargs", {}).get("stage")
    evidence = [str(text) for name, text in report.user_properties if name == "evidence"]
    error = call.excinfo.value if call.excinfo else None
    tell(
        end=_row,
        when=call.when,
        passed=error is None,
        evidence=evidence[-1] if evidence else "",
        error=_said(error) if error else "",
        expected=error is not None and _is_verdict(error),
        place=_place(error) if error else "",
        left_out=sorted(getattr(stage, "left_out", ())),
        **(_given_up or _state() if error else {}),
        seconds=round(call.duration, 2),
    )
    return report


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    tell(interrupted=f"It raised {type(excinfo.value).__name__}{_place(excinfo.value)}.")


def pytest_unconfigure() -> None:
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    tell(done=True, alive=[thread.name for thread in others if not thread.daemon])
    os._exit(0)  # not held up by threads that are no daemons


def _is_verdict(error: BaseException) -> bool:
    """Whether a test says so: an assert of the candidate's, or one that it runs into, is none."""
    if not isinstance(error, AssertionError):
        return isinstance(error, pytest.fail.Exception)
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or frames[-1].filename.startswith(TESTS)


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(it cannot be printed)"
    if _is_verdict(error):
        return text.partition("\nassert ")[0]
    name = type(error).__name__
    if name == "NotInThisStage":
        return text
    if isinstance(error, SyntaxError):
        text = error.msg
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{name}: {text}" if text else name


def _place(error: BaseException) -> str:
    """`` (line 31, in _work)``: where in the candidate's files it came by last."""
    if isinstance(error, SyntaxError) and error.filename and is_own(error.filename):
        return f" ({place_of(error.filename, error.lineno or 0)})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own(frame.filename)]
    if not own:
        return ""
    return f" ({place_of(own[-1].filename, own[-1].lineno or 0)}, in {own[-1].name})"


def _state() -> dict[str, Any]:
    """What may change as soon as somebody goes on."""
    return {"stands": _standing(), "deaths": list(_deaths), "printed": _printed.last()}


def _standing() -> list[Stand]:
    """Where threads stand in the candidate's code now."""
    current = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    older = {thread.ident for thread in _older if thread.is_alive()}
    with _one_looks:
        _all_stacks.seek(0)
        _all_stacks.truncate()
        faulthandler.dump_traceback(_all_stacks)
        _all_stacks.seek(0)
        stacks = threads(_all_stacks.read())
    stands = [Stand.of(stack) for ident, stack in stacks if ident in current - older]
    return [stand for stand in stands if stand]


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus() -> tuple[str, str, str]:
    """No dots: the output belongs to the candidate."""
    return "", "", ""
