"""``improved`` against the model: any order of jobs, outcomes, pauses and the end.

Hypothesis is the workers here. The threads of the queue leave at once, and each rule below
does what a worker would do: take a job, run it well or badly, record that. So every step is
exact and time is virtual.

But: a machine that does one thing after the other shows no races.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from improved import Backoff, Job, JobQueue, Priority, QueueClosed, QueueFull
from improved import job_queue as module
from tests.labs.examples import examples, until_it_fails
from tests.labs.model import LANES, Model, require

# The machine may be busy with other things: a few hundred lives take their time.
pytestmark = pytest.mark.timeout(200)

CAPACITY, MAX_RETRIES = 3, 2


class Clock:
    """Stands in for the module ``time``."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


class Idle(Exception):
    """A worker has found nothing to do and would wait, for so many seconds."""


class NeverWaits(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        raise Idle(timeout)


class Steered(JobQueue):
    """A queue whose workers are the test."""

    def __init__(self) -> None:
        super().__init__(
            print,
            workers=1,
            capacity=CAPACITY,
            max_retries=MAX_RETRIES,
            backoff=Backoff(base=1, maximum=4, jitter=0),
        )
        self._runnable = NeverWaits(self._mutex)

    def _work(self) -> None:
        """The threads have nothing to do."""


class ImprovedMachine(RuleBasedStateMachine):
    make_queue: type[Steered] = Steered

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.make_queue()
        self.model = Model(capacity=CAPACITY, max_retries=MAX_RETRIES, fairness=None)
        self.running: list[Any] = []
        self.failures: list[str] = []
        self.closed = False
        self.names = map(str, range(1_000_000))
        self.tokens = iter(range(1, 1_000_000))

    @rule(lane=st.sampled_from(LANES))
    def enqueue(self, lane: str) -> None:
        job = Job(id=f"j{next(self.names)}", priority=Priority(lane))
        try:
            self.queue.enqueue(job, timeout=0)
        except QueueClosed:
            require(self.closed, f"{job.id} was refused by a queue that is open.")
        except QueueFull:
            require(not self.model.has_room(lane), f"{job.id} was refused, and there is room.")
        else:
            require(not self.closed, f"{job.id} was accepted by a closed queue.")
            self.model.accept(job.id, lane)

    @rule()
    def claim(self) -> None:
        now = CLOCK.now
        try:
            task = self.queue._take()
        except Idle as idle:
            require(not self.model.heads(), f"Nothing to do, and {self.model.heads()} wait.")
            require(not self.model.due(now), f"Nothing to do, and {self.model.due(now)} are due.")
            retrying = self.model.having("retrying")
            until_due = self.model.until_due(now) if retrying else None
            require(idle.args == (until_due,), f"Sleeps {idle.args} s; due in {until_due} s.")
            return
        for job_id in self.due_in_order(now):
            self.model.come_back(job_id, now)
        if task is None:
            left = self.model.having("queued", "processing", "retrying")
            require(self.closed and not left, f"A worker leaves, and {left} have not run.")
        else:
            token = next(self.tokens)
            self.model.claim(task.job.id, token, alone=True, now=now)
            self.model.start(task.job.id, token)
            self.running.append(task)

    def due_in_order(self, now: float) -> list[str]:
        """Due at the same time: who failed first comes first."""
        last_failure = {job_id: place for place, job_id in enumerate(self.failures)}
        jobs = self.model.jobs
        return sorted(self.model.due(now), key=lambda i: (jobs[i].due, last_failure[i]))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9))
    def succeed(self, which: int) -> None:
        task = self.running.pop(which % len(self.running))
        self.queue._record(task, None)
        self.model.complete(task.job.id, None)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9))
    def fail(self, which: int) -> None:
        task = self.running.pop(which % len(self.running))
        self.queue._record(task, ValueError("no"))
        self.failures.append(task.job.id)
        attempts = self.model.jobs[task.job.id].attempts
        if attempts > MAX_RETRIES:
            self.model.fail(task.job.id, None)
        else:
            due = CLOCK.now + min(4, 2 ** (attempts - 1))
            self.model.retry_later(task.job.id, None, due, due)

    @rule(seconds=st.sampled_from([0.3, 0.7, 1.0, 5.0]))
    def tick(self, seconds: float) -> None:
        CLOCK.now += seconds

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        """Without waiting: by itself it would never end, its workers being the test."""
        with self.queue._mutex:
            self.queue._closing = True
        self.closed = True

    @invariant()
    def the_counts_are_those_of_the_model(self) -> None:
        metrics, expected = self.queue.metrics(), self.model.counts()
        for priority, counts in metrics.by_priority.items():
            lane = {
                status: getattr(counts, status)
                for status in ("queued", "processing", "retrying", "completed", "failed")
            }
            for status, count in lane.items():
                right = expected[priority, status]
                require(count == right, f"{count} {priority} jobs {status}, and not {right}?")
            require(sum(lane.values()) == counts.accepted, f"{counts} does not add up.")


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", CLOCK)
    monkeypatch.setattr(module.log, "warning", lambda *_: None)  # failing jobs are no news here


def test_any_history_keeps_the_contract() -> None:
    run_state_machine_as_test(ImprovedMachine, settings=examples(100))


class OneAttemptMore(Steered):
    def __init__(self) -> None:
        super().__init__()
        self._max_retries += 1


class OneJobTooMany(Steered):
    def __init__(self) -> None:
        super().__init__()
        self._capacity += 1


class LowFirst(Steered):
    def __init__(self) -> None:
        super().__init__()
        self._lanes = dict(reversed(self._lanes.items()))


class LastInFirstOut(Steered):
    def _take(self) -> Any:
        for lane in self._lanes.values():
            lane.tasks.reverse()
        try:
            return super()._take()
        finally:
            for lane in self._lanes.values():
                lane.tasks.reverse()


class ForgetsRetries(Steered):
    def _requeue_due_retries(self) -> None:
        pass


class RetriesFirst(Steered):
    def _requeue_due_retries(self) -> None:
        waiting = {priority: list(lane.tasks) for priority, lane in self._lanes.items()}
        super()._requeue_due_retries()
        for priority, before in waiting.items():
            self._lanes[priority].tasks.rotate(len(before))


class DropsRetriesWhenClosing(Steered):
    def _unfinished(self) -> int:
        return super()._unfinished() - sum(lane.counts.retrying for lane in self._lanes.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (OneAttemptMore, r"jobs (retrying|failed), and not"),
        (OneJobTooMany, "which is full"),
        (LowFirst, "was claimed while .* wait"),
        (LastInFirstOut, "of its own lane"),
        (ForgetsRetries, "are due|queued, and not"),
        (RetriesFirst, "of its own lane"),
        (DropsRetriesWhenClosing, "A worker leaves"),
    ],
)
def test_a_planted_fault_is_caught(broken: type[Steered], sentence: str) -> None:
    machine = type("Broken", (ImprovedMachine,), {"make_queue": broken})
    with pytest.raises(AssertionError, match=sentence):
        run_state_machine_as_test(machine, settings=until_it_fails(500, steps=80))
