"""What the tests of the service can ask for, beside what ``tests/conftest.py`` offers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.helpers import Gate
from tests.service.helpers import Live, work

OpenService = Callable[..., Live]


@pytest.fixture(scope="session")
def closed() -> Iterator[list[Live]]:
    """Services that were told to end; that takes each a fifth of a second, so all at once."""
    closed: list[Live] = []
    yield closed
    for live in closed:
        live.join()


@pytest.fixture
def open_service(closed: list[Live]) -> Iterator[OpenService]:
    """``Live``, except that what it makes is closed after the test."""
    with opener(closed) as open_service:
        yield open_service


@contextlib.contextmanager
def opener(closed: list[Live]) -> Iterator[OpenService]:
    """The same for fixtures of another scope."""
    opened: list[Live] = []

    def open_service(handlers: object = None, **options: object) -> Live:
        live = Live(handlers or {"work": work}, **options)  # type: ignore[arg-type]
        opened.append(live)
        return live

    yield open_service
    for live in opened:
        live.close()
    closed += opened


@pytest.fixture
def live(open_service: OpenService) -> Live:
    """A service whose jobs return their payload, and fail at once if that is "fails"."""
    return open_service(max_retries=0)


@pytest.fixture
def gate(open_service: OpenService) -> Iterator[Gate]:
    """A gate to hold handlers at; opened after the test, before the services are closed."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def held(open_service: OpenService, gate: Gate) -> Live:
    """A service with one worker, held at the gate by a job, and room for two jobs per lane."""
    live = open_service({"work": lambda job: gate.wait()}, workers=1, capacity=2)
    live.create(id="holder")
    return live
