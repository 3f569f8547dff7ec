"""The demo: handlers that only pretend to work, and the two buttons of the dashboard.

A payload says how: ``{"seconds": 0.2, "fails": 2}`` takes 0.2 seconds and fails the first two
attempts. So a job with ``"fails": 9`` ends as a dead letter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from fastapi import APIRouter

from final import Handler, Job, JobQueue, Priority, QueueFull, current_job
from final.service.context import Service
from final.service.models import Fairness, Flood, Flooded
from final.service.routes import StrictRoute

LONGEST = 60.0  # seconds that a demo job may take


def demo_handlers(seconds: float = 0.2) -> Mapping[str, Handler]:
    """Handlers by type. seconds: how long a job takes that does not say."""

    def pretend(trouble: str, result: str) -> Handler:
        def handle(job: Job) -> object:
            wishes = job.payload if isinstance(job.payload, dict) else {}
            _work(min(_number(wishes.get("seconds"), seconds), LONGEST))
            if current_job().attempt <= _number(wishes.get("fails"), 0):
                raise ConnectionError(trouble)
            return {"done": result}

        return handle

    return {
        "email": pretend("the mail server is busy: try again later", "accepted for delivery"),
        "webhook": pretend("connection reset by the receiver", "200 OK"),
        "thumbnail": pretend("the picture ends too early", "320 x 240"),
    }


def _work(seconds: float) -> None:
    """Who takes long says how far it is."""
    steps = 10 if seconds >= 1 else 1
    for step in range(steps):
        if steps > 1:
            current_job().progress(step / steps, f"step {step + 1} of {steps}")
        if not current_job().sleep(seconds / steps):
            raise InterruptedError("told to stop")


def _number(value: object, default: float) -> float:
    """A wish from a payload, which may be anything."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    return value if is_number else default  # type: ignore[return-value]


def demo_routes(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, prefix="/demo", tags=["demo"])
    numbers = itertools.count(1)

    @router.post("/flood", status_code=202)
    def flood(wanted: Flood) -> Flooded:
        """Enqueue many demo jobs at once, as far as there is room."""
        return Flooded(
            accepted={
                priority: _fill(service.queue, priority, getattr(wanted, priority), numbers)
                for priority in reversed(Priority)  # so that the low ones do not come last
            }
        )

    @router.put("/fairness")
    def fairness(wanted: Fairness) -> Fairness:
        """Change how the running queue chooses: null is strict priority."""
        service.queue.set_fairness(wanted.fairness)
        service.fairness = wanted.fairness
        return wanted

    return router


def _fill(queue: JobQueue, priority: Priority, count: int, numbers: Iterator[int]) -> int:
    jobs = [_demo_job(priority, next(numbers), place / 20) for place in range(count)]
    try:
        return len(queue.enqueue_many(jobs, timeout=0))
    except QueueFull as error:
        return len(error.accepted)


def _demo_job(priority: Priority, number: int, later: float) -> Job:
    """Every 20th is tried three times, every 50th ends as a dead letter.

    All are of one tenant, but for every 10th of high. Those come by and by, so many seconds
    ``later``, and wait for a turn or two while the flood waits for itself: groups take turns.
    """
    is_others = priority is Priority.HIGH and number % 10 == 5
    fails = 9 if number % 50 == 0 else 2 if number % 20 == 0 else 0
    kind = ("email", "webhook", "thumbnail")[number % 3]
    group = f"tenant-{2 + number % 3}" if is_others else "tenant-1"
    payload, due = {"number": number, "fails": fails}, later if is_others else None
    return Job(payload=payload, priority=priority, kind=kind, group=group, run_at=due)
