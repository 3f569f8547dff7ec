"""``/metrics``: the queue's figures as Prometheus reads them.

Names, units and types by Prometheus' convention: base units (seconds, ratios), ``_total`` for
counters. Each scrape asks the queue once, so all figures are of one instant.

But: no rates and no percentiles, which Prometheus computes itself from what is here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from final import Counts, Histogram, Priority, Status
from final.service.context import Service
from final.service.problems import PROBLEMS


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

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the queue."""
        return []

    def collect(self) -> Iterator[Metric]:
        service = self._service
        metrics = service.queue.metrics()
        yield from _lanes(metrics.by_priority)

        yield _gauge("workers", "How many handlers run at a time.", service.workers)
        yield _gauge(
            "worker_utilisation_ratio",
            "Share of the workers' time spent on jobs, over the last ten seconds.",
            metrics.utilisation,
        )
        yield _gauge("lane_capacity_jobs", "How many jobs may wait in each lane.", service.capacity)
        yield _gauge(
            "storage_up",
            "1 while jobs can be written to the disk, 0 while they cannot.",
            metrics.storage_error is None,
        )
        commits = HistogramMetricFamily(
            "jobqueue_commit_jobs", "Jobs accepted in one transaction (group commit)."
        )
        commits.add_metric([], _buckets(metrics.commits), metrics.commits.total)
        yield commits
        refused = CounterMetricFamily(
            "jobqueue_refused_requests", "Requests answered with a problem.", labels=["problem"]
        )
        for name in PROBLEMS:  # also those that never came up, or their first would be missed
            refused.add_metric([name], service.refused[name])
        yield refused


def _lanes(by_priority: Mapping[Priority, Counts]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "jobqueue_jobs", "Jobs by status and priority.", labels=["status", "priority"]
    )
    oldest = GaugeMetricFamily(
        "jobqueue_oldest_queued_age_seconds",
        "How long the first job in line has been ready to run.",
        labels=["priority"],
    )
    dropped = CounterMetricFamily(
        "jobqueue_dropped", "Jobs dropped because their lane was full.", labels=["priority"]
    )
    waits = HistogramMetricFamily(
        "jobqueue_wait_seconds", "From ready to run until started.", labels=["priority"]
    )
    runs = HistogramMetricFamily(
        "jobqueue_run_seconds", "How long an attempt took.", labels=["priority"]
    )
    for priority, counts in by_priority.items():
        for status in Status:
            jobs.add_metric([status, priority], getattr(counts, status))
        oldest.add_metric([priority], counts.oldest_queued)
        dropped.add_metric([priority], counts.dropped)
        waits.add_metric([priority], _buckets(counts.waits), counts.waits.total)
        runs.add_metric([priority], _buckets(counts.runs), counts.runs.total)
    yield from (jobs, oldest, dropped, waits, runs)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"jobqueue_{name}", what, value)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts what is at most each bound, the smaller ones included."""
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts), strict=True))
