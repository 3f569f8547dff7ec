"""What every test can ask for: the stage under test, a gate, a journal, a place for evidence."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres_server
from tests.expectations import CANDIDATE, COLUMNS, POSTGRES
from tests.helpers import WORKER_DIED, Background, Evidence, Gate, Journal
from tests.stages import Stage

pytest_plugins = ["tests.scoreboard"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stage",
        action="append",
        metavar="NAME",
        help=f"run the shared suite on this stage only ({', '.join(COLUMNS)}; {CANDIDATE}: "
        "mine/job_queue.py); may be repeated, or name several with commas",
    )


def pytest_configure(config: pytest.Config) -> None:
    _chosen_stages(config)  # a misspelt one is said once, and before anything runs
    _listen_to_signals()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for ``stage`` once per chosen stage."""
    if "stage" in metafunc.fixturenames:
        metafunc.parametrize("stage", _chosen_stages(metafunc.config), indirect=True)


def _chosen_stages(config: pytest.Config) -> list[str]:
    named = [name for option in config.getoption("stage") or [] for name in option.split(",")]
    for name in named:
        if name not in (*COLUMNS, CANDIDATE):
            raise pytest.UsageError(
                f"--stage: no stage is called {name!r}; choose from {', '.join(COLUMNS)}."
            )
    has_server = postgres_server.is_there()
    if POSTGRES in named and not has_server:
        raise pytest.UsageError(postgres_server.MISSING)
    wanted = [name for name in (*COLUMNS, CANDIDATE) if name in (named or COLUMNS)]
    return [name for name in wanted if name != POSTGRES or has_server]


def _listen_to_signals() -> None:
    """What a shell or nohup starts in the background may ignore them, and so would its children."""
    for name, heard in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),  # Windows has none
    ):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, heard)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate to hold handlers at; it opens after the test at the latest."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path, gate: Gate) -> Iterator[Stage]:
    """The stage under test; after the test its queues are closed."""
    stage = Stage(request.param, tmp_path)
    yield stage
    # Before the gate opens, so that whoever is held there takes no other job; but a close that
    # cannot be told to hurry may wait for just that. In the background, so that nothing can hang.
    if not stage.closes_in_time:
        gate.open()
    Background(stage.close_all).result()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal in which a worker that dies of an exception leaves a line too.

    Not one of an earlier test, whose queue (of stage 1, say) may have been left in its work.
    """
    journal, of_others = Journal(), set(threading.enumerate())

    def note(died: threading.ExceptHookArgs) -> None:
        if died.thread not in of_others:
            journal.write(WORKER_DIED)

    monkeypatch.setattr(threading, "excepthook", note)
    return journal


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file for the queues of one test to share, one after the other."""
    return str(tmp_path / "jobs.db")


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Leave a measured sentence, of one line, for the scoreboard; a later one replaces it."""
    properties = request.node.user_properties

    def leave(sentence: str) -> None:
        assert "\n" not in sentence, f"evidence goes into one line of a page: {sentence!r}"
        properties[:] = [entry for entry in properties if entry[0] != "evidence"]
        properties.append(("evidence", sentence))

    return leave
