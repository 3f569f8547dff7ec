"""``/groups``: whose jobs wait. One who floods the queue is seen, and that the others do not wait.

But: to look takes a while where many jobs are kept, so it is done for a twentieth of the time at
most, and all who ask in between share an answer.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from final.service.context import Service
from final.service.figures import Figures
from final.service.models import GroupList, GroupView
from final.service.routes import StrictRoute

MOST = 100
SHARE = 1 / 20  # of the time


def group_routes(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["watching"])
    figures = Figures(lambda: service.queue.groups(MOST), SHARE)

    @router.get("/groups")
    async def groups(limit: Annotated[int, Query(ge=1, le=MOST)] = 10) -> GroupList:
        """The groups that have jobs waiting or running; those with most waiting first."""
        records = await figures.lately()
        return GroupList(groups=[GroupView.of(record) for record in records[:limit]])

    return router
