"""What a live view needs, of one instant, as JSON."""

from __future__ import annotations

import time

from fastapi import APIRouter

from final import Counts, Percentiles
from final.service.context import Service
from final.service.models import LaneStats, RunningJob, Spread, Stats, moment


def stats_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["watching"])
    started = time.monotonic()

    @router.get("/stats")
    def stats() -> Stats:
        """All figures of one instant."""
        metrics = service.queue.metrics()
        return Stats(
            at=moment(time.time()),
            uptime=time.monotonic() - started,
            demo=service.demo,
            stopping=service.stopping,
            storage_error=metrics.storage_error,
            capacity=service.capacity,
            fairness=service.fairness,
            throughput=metrics.throughput,
            utilisation=metrics.utilisation,
            totals=_lane(metrics),
            lanes={priority: _lane(counts) for priority, counts in metrics.by_priority.items()},
            workers=service.workers,
            running=[
                RunningJob(
                    worker=job.worker,
                    id=job.id,
                    type=job.kind,
                    priority=job.priority,
                    attempt=job.attempt,
                    started_at=moment(job.started_at),
                )
                for job in getattr(metrics, "running", ())
            ],
        )

    return router


def _lane(counts: Counts) -> LaneStats:
    figures = {name: getattr(counts, name, 0.0) for name in LaneStats.model_fields}
    return LaneStats(**figures | {"wait": _spread(counts.wait), "run": _spread(counts.run)})


def _spread(percentiles: Percentiles) -> Spread:
    return Spread(p50=percentiles.p50, p95=percentiles.p95, p99=percentiles.p99)
