"""``/stats``: what a live view needs, of one instant, as JSON."""

from __future__ import annotations

import time

from fastapi import APIRouter

from final import Metrics, SharedFigures
from final.service.context import Service
from final.service.figures import Figures, shared
from final.service.models import LaneStats, PauseView, ProcessView, RunningJob, Stats, moment
from final.service.routes import StrictRoute


def stats_routes(
    service: Service, figures: Figures[Metrics], of_all: Figures[SharedFigures | None]
) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["watching"])
    started = time.monotonic()

    @router.get("/stats")
    async def stats() -> Stats:
        """All figures of one instant."""
        metrics, all_figures, now = await figures.now(), await shared(of_all), time.time()
        processes = all_figures.processes if all_figures else []
        return Stats(
            at=moment(now),
            uptime=time.monotonic() - started,
            demo=service.demo,
            stopping=service.stopping,
            storage_error=metrics.storage_error,
            capacity=service.capacity,
            fairness=service.fairness,
            limited=service.limited,
            throughput=metrics.throughput,
            utilisation=metrics.utilisation,
            totals=LaneStats.model_validate(metrics),
            lanes={
                priority: LaneStats.model_validate(counts)
                for priority, counts in metrics.by_priority.items()
            },
            workers=metrics.workers,
            paused=[PauseView.of(pause) for pause in metrics.paused],
            running=[RunningJob.of(job, now) for job in metrics.running],
            processes=[ProcessView.of(process) for process in processes],
        )

    return router
