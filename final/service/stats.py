"""``/stats``: what a live view needs, of one instant, as JSON."""

from __future__ import annotations

import time

from fastapi import APIRouter

from final.service.context import Service
from final.service.models import LaneStats, RunningJob, Stats, moment


def stats_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["watching"])
    started = time.monotonic()

    @router.get("/stats")
    def stats() -> Stats:
        """All figures of one instant."""
        metrics, now = service.queue.metrics(), time.time()
        return Stats(
            at=moment(now),
            uptime=time.monotonic() - started,
            demo=service.demo,
            stopping=service.stopping,
            storage_error=metrics.storage_error,
            capacity=service.capacity,
            fairness=service.fairness,
            throughput=metrics.throughput,
            utilisation=metrics.utilisation,
            totals=LaneStats.model_validate(metrics),
            lanes={
                priority: LaneStats.model_validate(counts)
                for priority, counts in metrics.by_priority.items()
            },
            workers=service.workers,
            running=[RunningJob.of(job, now) for job in metrics.running],
        )

    return router
