"""Traces: OpenTelemetry spans from ``enqueue`` to the attempts, as a real SDK records them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from final import CallNext, Job, JobQueue, PermanentFailure, Snooze, Status, current_job
from final.beyond.meta import MOST_ENTRIES
from final.beyond.traces import Traces
from tests.final import process_handlers as handlers
from tests.final.helpers import AT_ONCE, OpenQueue, eventually, nothing
from tests.helpers import DEADLINE

LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine


class Recorded:
    """What an SDK has recorded, and a ``Traces`` that goes by it."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = Traces(self.tracers, MeterProvider([self._reader]))

    def spans(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """Those of this name, in the order in which they ended; waits for so many."""

        def found() -> list[ReadableSpan]:
            return [s for s in self._exporter.get_finished_spans() if s.name == name]

        eventually(lambda: len(found()) >= count, f"{count} spans {name!r}")
        return found()

    def metric(self, name: str) -> dict[str, Any]:
        """The latest data points, by the kind and the error that they are of."""
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        points = [point for m in metrics if m.name == name for point in m.data.data_points]
        return {str((point.attributes or {}).get("error.type")): point for point in points}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def open_traced(open_queue: OpenQueue, recorded: Recorded) -> OpenQueue:
    def open_traced(handler: Any, **options: Any) -> JobQueue:
        options = {"backoff": AT_ONCE, "middleware": [recorded.traces]} | options
        return open_queue(handler, **options)

    return open_traced


def trace_of(span: ReadableSpan) -> int:
    return span.get_span_context().trace_id  # type: ignore[union-attr]


async def coroutine(job: Job) -> str:
    await asyncio.sleep(0)
    return here(job)


def here(job: Job) -> str:
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


@pytest.mark.parametrize("handler", [here, coroutine])
def test_from_who_enqueues_to_the_attempt_it_is_one_trace(
    open_traced: OpenQueue, recorded: Recorded, handler: Callable[[Job], Any]
) -> None:
    queue = open_traced({"email": handler})
    with recorded.tracers.get_tracer("web").start_as_current_span("POST /order") as request:
        queue.enqueue(Job("x", kind="email", group="tenant-7"))
    record = queue.wait("x", DEADLINE)
    [created], [ran] = recorded.spans("create email"), recorded.spans("process email")
    assert created.parent is not None
    assert created.parent.span_id == request.get_span_context().span_id
    assert ran.parent is not None
    assert ran.parent.span_id == created.get_span_context().span_id  # type: ignore[union-attr]
    assert trace_of(ran) == trace_of(created) == request.get_span_context().trace_id
    assert record.result == format(trace_of(ran), "032x")  # the handler is in it, too
    assert (created.kind, ran.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert dict(ran.attributes or {}) == {
        "messaging.system": "three-stage-job-queue",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "email",
        "messaging.message.id": "x",
        "jobqueue.attempt": 1,
        "jobqueue.priority": "medium",
        "jobqueue.group": "tenant-7",
    }
    assert (created.attributes or {})["messaging.message.id"] == "x"
    assert (created.attributes or {})["messaging.operation.type"] == "create"


def test_retries_are_linked_and_begin_traces_of_their_own(
    open_traced: OpenQueue, recorded: Recorded
) -> None:
    def handler(job: Job) -> None:
        if current_job().attempt < 3:
            raise ConnectionError("the server is busy")

    queue = open_traced(handler)
    queue.wait(queue.enqueue(Job()), DEADLINE)
    [created] = recorded.spans("create default")
    first, second, third = recorded.spans("process default", 3)
    assert trace_of(first) == trace_of(created)
    assert len({trace_of(span) for span in (first, second, third)}) == 3
    assert (second.parent, third.parent) == (None, None)
    for span in (first, second, third):
        [link] = span.links
        assert link.context.span_id == created.get_span_context().span_id  # type: ignore[union-attr]
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "the server is busy"
    assert (first.attributes or {})["error.type"] == "ConnectionError"
    [raised] = first.events
    assert raised.name == "exception"
    assert third.status.status_code is StatusCode.UNSET


def test_a_job_that_was_put_off_has_not_failed(open_traced: OpenQueue, recorded: Recorded) -> None:
    def handler(job: Job) -> None:
        if not queue.get(job.id).snoozes:
            raise Snooze(0)

    queue: JobQueue = open_traced(handler)
    queue.wait(queue.enqueue(Job()), DEADLINE)
    [created], spans = recorded.spans("create default"), recorded.spans("process default", 2)
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET] * 2
    assert [event.name for event in spans[0].events] == ["snoozed"]
    assert {trace_of(span) for span in spans} == {trace_of(created)}  # both are attempt 1


def test_it_travels_over_a_restart(open_traced: OpenQueue, recorded: Recorded, path: str) -> None:
    with open_traced(nothing, path=path) as queue:
        queue.enqueue(Job("x", run_at=86_400, meta={"user": "7"}))
    [created] = recorded.spans("create default")
    context = created.get_span_context()
    assert context is not None
    meta = queue.get("x").meta
    assert meta["user"] == "7"
    assert meta["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


def test_in_a_process(open_queue: OpenQueue, recorded: Recorded) -> None:
    """There, without an SDK, nothing is recorded, and the trace goes on all the same."""
    meta = {"traceparent": f"00-{1:032x}-{2:016x}-01"}
    queue = open_queue(handlers.trace_id, middleware=[Traces()], executor="process", workers=1)
    assert queue.wait(queue.enqueue(Job(meta=meta)), LONG).result == f"{1:032x}"


def test_what_is_marked_already_or_full_of_other_things_stays_as_it_is(
    recorded: Recorded,
) -> None:
    marked = Job(meta={"traceparent": f"00-{1:032x}-{2:016x}-01"})
    full = Job(meta={f"name {n}": "value" for n in range(MOST_ENTRIES)})
    assert recorded.traces.before_enqueue(marked) is marked
    assert recorded.traces.before_enqueue(full) is full


def test_a_context_that_makes_no_sense_is_none(open_traced: OpenQueue, recorded: Recorded) -> None:
    queue = open_traced(nothing)
    record = queue.wait(queue.enqueue(Job(meta={"traceparent": "nonsense"})), DEADLINE)
    [span] = recorded.spans("process default")
    assert (record.status, span.parent, list(span.links)) == (Status.COMPLETED, None, [])


def test_metrics_by_the_conventions(open_traced: OpenQueue, recorded: Recorded) -> None:
    def handler(job: Job) -> None:
        if job.payload:
            raise PermanentFailure("no")

    queue = open_traced(handler)
    queue.enqueue_many([Job(), Job(), Job(payload=1)])
    queue.join(DEADLINE)
    durations = recorded.metric("messaging.process.duration")
    assert {error: point.count for error, point in durations.items()} == {
        "None": 2,
        "PermanentFailure": 1,
    }
    assert recorded.metric("messaging.client.consumed.messages")["None"].value == 3
    assert durations["None"].attributes["messaging.destination.name"] == "default"
    assert "messaging.message.id" not in durations["None"].attributes  # one series for each job


def test_without_an_sdk_nothing_is_added(open_queue: OpenQueue) -> None:
    queue = open_queue(nothing, middleware=[Traces()])
    record = queue.wait(queue.enqueue(Job()), DEADLINE)
    assert (record.status, record.meta) == (Status.COMPLETED, {})


def test_a_hook_that_returns_no_job(open_queue: OpenQueue) -> None:
    class Forgets:
        def before_enqueue(self, job: Job) -> None:
            """And returns nothing."""

        def __call__(self, job: Job, call_next: CallNext) -> object:
            return call_next(job)

    queue = open_queue(nothing, middleware=[Forgets()])
    with pytest.raises(TypeError, match=r"before_enqueue\(job\) of .* returned None and no Job"):
        queue.enqueue(Job())
