"""``/metrics``: the queue's figures as Prometheus reads them.

Names, units and types by Prometheus' convention: base units (seconds, ratios), ``_total`` for
counters. Each scrape asks the queue once, so all figures are of one instant.

But: no rates and no percentiles, which Prometheus computes itself from what is here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from fastapi import APIRouter, Response
from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from final import Counts, Histogram, Metrics, Pause, Priority, SharedFigures, Status
from final.service.context import Service
from final.service.figures import Figures, shared
from final.service.problems import PROBLEMS

HELD_SECONDS = 5.0  # from then on it is told who holds the oldest view


def metrics_routes(
    service: Service, figures: Figures[Metrics], of_all: Figures[SharedFigures | None]
) -> APIRouter:
    router = APIRouter(tags=["watching"])

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """The figures for Prometheus, in its text format."""
        scrape = Scrape(service, await figures.now(), await shared(of_all))
        return Response(generate_latest(scrape), media_type=CONTENT_TYPE_LATEST)

    return router


class Scrape(Collector):
    """What one scrape is answered with."""

    def __init__(self, service: Service, metrics: Metrics, of_all: SharedFigures | None) -> None:
        self._service = service
        self._metrics = metrics
        self._of_all = of_all

    def collect(self) -> Iterator[Metric]:
        service, metrics = self._service, self._metrics
        yield from _lanes(metrics.by_priority)

        yield _gauge("workers", "How many handlers run at a time.", metrics.workers)
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
        yield _paused(metrics.paused)
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
        if self._of_all is not None:
            yield from _of_all(self._of_all)


def _paused(paused: Iterable[Pause]) -> Metric:
    family = GaugeMetricFamily(
        "jobqueue_paused",
        "1 for all that is paused: the queue, or a kind, priority or group by its name.",
        labels=["sort", "name"],
    )
    for pause in paused:
        family.add_metric(pause.row, 1)
    return family


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


def _of_all(figures: SharedFigures) -> Iterator[Metric]:
    alive = sum(process.lease > 0 for process in figures.processes)
    yield _gauge("processes", "Processes on this queue that renew their leases.", alive)
    # A label only for what lasts: each statement of anybody is the oldest one for a moment.
    holder = figures.oldest_holder if figures.oldest_seconds >= HELD_SECONDS else ""
    for name, what, value in (
        ("age_transactions", "How many transactions have begun since.", figures.oldest_age),
        ("seconds", "How long its transaction has been open.", figures.oldest_seconds),
    ):
        oldest = GaugeMetricFamily(
            f"jobqueue_oldest_view_{name}",
            f"The oldest view (xmin) that keeps dead rows from vacuum. {what}",
            labels=["holder"],
        )
        oldest.add_metric([holder], value)
        yield oldest
    for name, what, tables in (
        ("dead_rows", "Dead rows of each table, as its statistics have them.", figures.dead_rows),
        ("table_bytes", "Size of each table with its indexes.", figures.bytes),
    ):
        family = GaugeMetricFamily(f"jobqueue_{name}", what, labels=["table"])
        for table, value in tables.items():
            family.add_metric([table], value)
        yield family
    for name, what, value in (
        (
            "leases_taken_over",
            "Other processes' leases that ran out, whose jobs this one has taken over.",
            figures.leases_expired,
        ),
        (
            "outcomes_fenced",
            "Outcomes that came after the job was given to somebody else, and were dropped.",
            figures.fenced,
        ),
        (
            "polls_found_untold",
            "Polls that found jobs which no notification had told of.",
            figures.found_untold,
        ),
    ):
        yield CounterMetricFamily(f"jobqueue_{name}", what, value)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"jobqueue_{name}", what, value)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts what is at most each bound, the smaller ones included."""
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts), strict=True))
