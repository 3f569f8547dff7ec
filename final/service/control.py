"""The endpoints of an operator: pause and resume, and how many workers there are.

Each is answered when it is durable, and may be sent again.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from final.service.context import Service
from final.service.models import Part, Paused, PauseView, Workers
from final.service.problems import invalid, refused_value
from final.service.routes import StrictRoute


def control_routes(service: Service) -> APIRouter:
    queue = service.queue
    router = APIRouter(route_class=StrictRoute, tags=["control"])

    @router.get("/paused")
    def paused() -> Paused:
        """What is paused; an entry without a type, priority and group is the whole queue."""
        return Paused(paused=[PauseView.of(pause) for pause in queue.paused()])

    @router.post("/pause")
    def pause(part: Part) -> Paused:
        """Start no more jobs of a type, of a lane or of a group; of `{}`, none at all.

        Those that run go on to their end. It holds over restarts, until it is resumed.
        """
        return change(queue.pause, part)

    @router.post("/resume")
    def resume(part: Part) -> Paused:
        """Take back the pause of the same type, lane or group; of `{}`, that of the queue."""
        return change(queue.resume, part)

    def change(act: Callable[..., object], part: Part) -> Paused:
        try:
            act(part.type, part.priority, part.group)
        except ValueError as error:
            raise refused_value(error) from None
        return paused()

    @router.put("/workers")
    def workers(wanted: Workers) -> Workers:
        """How many jobs run at a time; null is what the service was started with.

        It holds over restarts, but not on a database, where each process has its own.
        """
        try:
            return Workers(workers=queue.set_workers(wanted.workers))
        except ValueError as error:
            raise invalid(("workers", str(error))) from None

    return router
