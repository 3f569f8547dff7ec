"""``/metrics``: the queue's figures as Prometheus reads them.

Names, units and types by Prometheus' convention: base units (seconds, ratios), ``_total`` for
counters. Each scrape asks the queue once, so all figures are of one instant.

But: no rates and no percentiles, which Prometheus computes itself from what is here.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from final import Status
from final.service.context import Service


def metrics_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["watching"])
    registry = CollectorRegistry()
    registry.register(QueueCollector(service))

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """The figures for Prometheus, in its text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class QueueCollector(Collector):
    """Asks the queue at each scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        metrics = self._service.queue.metrics()
        jobs = GaugeMetricFamily(
            "jobqueue_jobs", "Jobs by status and priority.", labels=["status", "priority"]
        )
        for priority, counts in metrics.by_priority.items():
            for status in Status:
                jobs.add_metric([status, priority], getattr(counts, status))
        yield jobs
        yield GaugeMetricFamily(
            "jobqueue_worker_utilisation_ratio",
            "Share of the workers' time spent on jobs, over the last ten seconds.",
            metrics.utilisation,
        )
        yield GaugeMetricFamily("jobqueue_workers", "Size of the pool.", self._service.workers)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the queue."""
        return []
