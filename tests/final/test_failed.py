"""A queue that an internal error has ended: nobody waits for it, and everybody is told why.

Without that it is taken for one that somebody has closed, or for one that is well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from final import Job, JobQueue, QueueClosed, Status, current_job
from final.ledger.sqlite import SqliteFile
from tests.final.helpers import OpenQueue, completes, eventually, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal

CAUSE = r"^The queue stopped on an internal error: RuntimeError\('a bug'\)\. Open the file again\.$"

CALLS: dict[str, Callable[[JobQueue], object]] = {
    "enqueue": lambda queue: queue.enqueue(Job()),
    "cancel": lambda queue: queue.cancel("running"),
    "wait": lambda queue: queue.wait("running"),
    "join": lambda queue: queue.join(),
    "metrics": lambda queue: queue.metrics(),
    "retry_all": lambda queue: queue.retry_all(),
    "purge": lambda queue: queue.purge(),
    "set_fairness": lambda queue: queue.set_fairness(5),
    "map": lambda queue: next(queue.map([1])),
}


@pytest.fixture
def break_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on the file has a bug: nothing can be written, and not for lack of a disk."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    return lambda: monkeypatch.setattr(SqliteFile, "write", broken)


@pytest.fixture
def queue(open_queue: OpenQueue, path: str, gate: Gate) -> JobQueue:
    """A queue with a job "running", held at the gate."""
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        gate.wait()

    queue = open_queue(handler, path=path)
    queue.enqueue(Job("running"))
    started.wait_for("running")
    return queue


def test_whoever_waits_and_whoever_comes_later_is_told_the_cause(
    queue: JobQueue, break_file: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    waiting = [Background(queue.wait, "running"), Background(queue.join)]
    break_file()
    with pytest.raises(QueueClosed, match=CAUSE):
        queue.enqueue(Job())
    for call in waiting:
        with pytest.raises(QueueClosed, match=CAUSE):
            call.result()
    for ask in CALLS.values():
        with pytest.raises(QueueClosed, match=CAUSE):
            ask(queue)
    assert Background(queue.close).result() is False
    with pytest.raises(QueueClosed, match=CAUSE):
        queue.metrics()
    [line] = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert "a bug" in line.getMessage()
    assert line.exc_info


def test_the_file_is_free_and_what_was_accepted_is_in_it(
    queue: JobQueue,
    break_file: Callable[[], None],
    open_queue: OpenQueue,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_file()
    with pytest.raises(QueueClosed, match=CAUSE):
        queue.enqueue(Job("refused"))
    assert Background(queue.close).result() is False
    assert [job.id for job in queue.jobs()] == ["running"]  # one may still look
    monkeypatch.undo()
    again = open_queue(nothing, path=path)
    assert again.wait("running", DEADLINE).status is Status.COMPLETED
    assert completes(again)


def test_what_runs_is_told_to_stop_since_another_queue_may_run_it_now(
    open_queue: OpenQueue, path: str, break_file: Callable[[], None]
) -> None:
    said = Journal()

    def handler(job: Job) -> None:
        said.write("running")
        eventually(lambda: current_job().cancelled, "the handler to be told")
        said.write("told")

    queue = open_queue(handler, path=path)
    queue.enqueue(Job())
    said.wait_for("running")
    break_file()
    with pytest.raises(QueueClosed, match=CAUSE):
        queue.enqueue(Job("refused"))
    said.wait_for("told")
