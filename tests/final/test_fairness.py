"""``set_fairness``: another rule for a queue that runs, from the next pick on."""

from __future__ import annotations

from typing import Any

import pytest

from final import Job, JobQueue, Priority
from tests.final.helpers import OpenQueue, comes_true
from tests.helpers import DEADLINE, Gate, Journal

HIGH, _, LOW = Priority


@pytest.fixture
def journal() -> Journal:
    return Journal()


def held(open_queue: OpenQueue, gate: Gate, journal: Journal, fairness: int | None) -> JobQueue:
    """A queue whose one worker is held at the gate, with a LOW job and twenty HIGH ones waiting."""

    def handler(job: Job) -> None:
        if job.id == "holder":
            gate.wait()
        else:
            journal.write(job.priority)

    queue = open_queue(handler, workers=1, fairness=fairness)
    queue.enqueue(Job("holder"))
    comes_true(queue, lambda: queue.metrics().processing == 1, "the holder's start")
    queue.enqueue_many([Job(priority=LOW)] + [Job(priority=HIGH) for _ in range(20)])
    return queue


@pytest.mark.parametrize(
    ("before", "after", "place"), [(None, 5, 5), (5, None, 20), (5, 10, 10), (10, 1, 1)]
)
def test_what_waits_already_is_chosen_by_the_new_rule(
    open_queue: OpenQueue,
    gate: Gate,
    journal: Journal,
    before: int | None,
    after: int | None,
    place: int,
) -> None:
    queue = held(open_queue, gate, journal, before)
    queue.set_fairness(after)
    gate.open()
    queue.join(DEADLINE)
    assert journal.entries.index(LOW) == place


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
def test_what_makes_no_sense_changes_nothing(
    open_queue: OpenQueue, gate: Gate, journal: Journal, value: Any
) -> None:
    queue = held(open_queue, gate, journal, 5)
    with pytest.raises((TypeError, ValueError), match="fairness must be"):
        queue.set_fairness(value)
    gate.open()
    queue.join(DEADLINE)
    assert journal.entries.index(LOW) == 5
