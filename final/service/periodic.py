"""The endpoints for periodic jobs: list, add, pause, resume, remove.

But: nothing changes what an entry is: remove it, and add another one.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Response

from final import JobQueue, PeriodicExists, UnknownPeriodic
from final.service.context import Service
from final.service.models import NewPeriodic, PeriodicList, PeriodicView
from final.service.problems import refused_value
from final.service.routes import StrictRoute


def periodic_routes(service: Service) -> APIRouter:
    queue, root_path = service.queue, service.root_path
    router = APIRouter(route_class=StrictRoute, prefix="/periodic", tags=["periodic"])

    @router.get("")
    def entries() -> PeriodicList:
        """What is enqueued again and again, by name."""
        return PeriodicList(periodic=[PeriodicView.of(record) for record in queue.periodic()])

    @router.post("", status_code=201)
    def add(new: NewPeriodic, response: Response) -> PeriodicView:
        """Enqueue a job again and again from now on."""
        try:
            every = new.every()
            queue.add_periodic(every)
        except PeriodicExists:
            raise
        except (TypeError, ValueError) as error:
            raise refused_value(error, "job.") from None
        response.headers["Location"] = f"{root_path}/periodic/{quote(every.name, safe='')}"
        return find(queue, every.name)

    @router.post("/{name:text}/pause")
    def pause(name: str) -> PeriodicView:
        """No jobs of this entry until it is resumed."""
        queue.pause_periodic(name)
        return find(queue, name)

    @router.post("/{name:text}/resume")
    def resume(name: str) -> PeriodicView:
        """Its next tick is the first one from now on."""
        queue.resume_periodic(name)
        return find(queue, name)

    @router.delete("/{name:text}")
    def remove(name: str) -> PeriodicView:
        """No more jobs of this entry; those that are enqueued stay."""
        removed = find(queue, name)
        queue.remove_periodic(name)
        return removed

    return router


def find(queue: JobQueue, name: str) -> PeriodicView:
    """Raises UnknownPeriodic."""
    for record in queue.periodic():
        if record.name == name:
            return PeriodicView.of(record)
    raise UnknownPeriodic(name)
