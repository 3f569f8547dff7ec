"""Traces: OpenTelemetry around every job, from ``enqueue`` to its attempts.

``JobQueue(handlers, middleware=[Traces()])``. A job that is enqueued gets a span "create KIND" in
the trace of whoever enqueues it, and the context of that travels with the job as
``Job.meta["traceparent"]`` (W3C Trace Context): over a restart, to another process, or host. Each
attempt is a span "process KIND". The first one is a child of "create", all are linked to it;
a retry begins a trace of its own, since it may come hours later.

Names are those of OpenTelemetry's conventions for messaging, with a job's kind as the destination.

But: it takes the extra ``otel``, and does nothing while the program has set up no SDK. The queue
does not know it: it uses the queue, as a program does.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, NamedTuple

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "Traces need OpenTelemetry: pip install 'three-stage-job-queue[otel]'."
    ) from error

from final.beyond.meta import LONGEST_VALUE, MOST_ENTRIES
from final.beyond.snooze import Snooze
from final.job import Job
from final.workers.current import current_job
from final.workers.middleware import CallNext

SYSTEM = "three-stage-job-queue"
CARRIED = ("traceparent", "tracestate")  # in this order: the second is of no use alone
W3C = TraceContextTextMapPropagator()
# Of seconds, as the conventions have it.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Traces:
    """A middleware that also sees jobs on their way in. For threads, coroutines and processes.

    tracer_provider, meter_provider: those that the program has set globally where None. One that is
    given here cannot be sent to a process.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider

    def before_enqueue(self, job: Job) -> Job:
        """The job, with where it comes from; one that has that already, or is full, as it is."""
        if "traceparent" in job.meta or len(job.meta) + len(CARRIED) > MOST_ENTRIES:
            return job
        tracer = self._instruments().tracer
        with tracer.start_as_current_span(
            f"create {job.kind}",
            kind=SpanKind.PRODUCER,
            attributes=_of_operation("create", job) | {"messaging.message.id": job.id},
        ):
            carrier: dict[str, str] = {}
            W3C.inject(carrier)
        carried = {name: carrier[name] for name in CARRIED if carrier.get(name)}
        if len(carried.get("tracestate", "")) > LONGEST_VALUE:
            del carried["tracestate"]
        return dataclasses.replace(job, meta={**job.meta, **carried}) if carried else job

    def __call__(self, job: Job, call_next: CallNext) -> object:
        """An attempt, in a span of its own."""
        instruments, attempt = self._instruments(), current_job().attempt
        origin = W3C.extract(job.meta, Context())
        created = trace.get_current_span(origin).get_span_context()
        attributes = _of_operation("process", job)
        instruments.consumed.add(1, attributes)
        began = time.perf_counter()
        try:
            with instruments.tracer.start_as_current_span(
                f"process {job.kind}",
                context=origin if attempt == 1 else Context(),
                kind=SpanKind.CONSUMER,
                links=[Link(created)] if created.is_valid else [],
                attributes=attributes | _of_job(job, attempt),
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    return call_next(job)
                except BaseException as error:
                    attributes |= _note(span, error)
                    raise
        finally:
            instruments.duration.record(time.perf_counter() - began, attributes)

    def _instruments(self) -> Instruments:
        return _instruments(self._tracer_provider, self._meter_provider)


class Instruments(NamedTuple):
    tracer: Tracer
    consumed: Counter
    duration: Histogram


@functools.cache
def _instruments(tracers: TracerProvider | None, meters: MeterProvider | None) -> Instruments:
    """Made once: a program may set its providers later, and these then go by them."""
    meter = metrics.get_meter(SYSTEM, meter_provider=meters)
    return Instruments(
        trace.get_tracer(SYSTEM, tracer_provider=tracers),
        meter.create_counter(
            "messaging.client.consumed.messages",
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        ),
        meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        ),
    )


def _of_operation(operation: str, job: Job) -> dict[str, Any]:
    """Few values in all, so they may go with a metric, too."""
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": job.kind,
    }


def _of_job(job: Job, attempt: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.message.id": job.id,
        "jobqueue.attempt": attempt,
        "jobqueue.priority": str(job.priority),
    }
    if job.group is not None:
        attributes["jobqueue.group"] = job.group
    return attributes


def _note(span: Span, error: BaseException) -> dict[str, str]:
    """What an attempt has ended with; a job that was put off has not failed."""
    if isinstance(error, Snooze):
        span.add_event("snoozed", {"jobqueue.due_at": error.again.due_at(time.time())})
        return {}
    span.record_exception(error)
    span.set_status(StatusCode.ERROR, str(error) or type(error).__name__)
    span.set_attribute("error.type", type(error).__qualname__)
    return {"error.type": type(error).__qualname__}
