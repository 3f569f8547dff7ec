"""What the tests of ``final`` can ask for, beside what ``tests/conftest.py`` offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from final import Job, JobQueue
from final.engine.events import Events
from tests.final.helpers import HeldUp, OpenQueue
from tests.helpers import Background, Gate, Journal

# A busy machine is slow, not wrong: pytest-timeout ends what hangs.
hypothesis.settings.register_profile(
    "no deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def written_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks into the log need not wait for the thread that else writes it."""
    if "caplog" in request.fixturenames:
        monkeypatch.setattr(Events, "start", lambda _: None)


@pytest.fixture
def open_queue() -> Iterator[OpenQueue]:
    """``JobQueue``, except that what it makes is closed after the test."""
    queues: list[JobQueue] = []

    def open_queue(*arguments: Any, **options: Any) -> JobQueue:
        queue = JobQueue(*arguments, **options)
        queues.append(queue)
        return queue

    yield open_queue
    for queue in queues:
        Background(queue.close, False, 0.2).result()  # in the background: nothing can hang here


@pytest.fixture
def gate(open_queue: OpenQueue) -> Iterator[Gate]:
    """A gate to hold handlers at; opened after the test, before the queues are closed."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def held_up(open_queue: OpenQueue, gate: Gate) -> HeldUp:
    """Opens a queue whose only worker is held at the gate, by the job "holder".

    With the queue comes a journal of the jobs that have started.
    """

    def open_held_up(**options: Any) -> tuple[JobQueue, Journal]:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1, **options)
        queue.enqueue(Job("holder"))
        started.wait_for("holder")
        return queue, started

    return open_held_up
