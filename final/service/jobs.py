"""The endpoints for jobs: create, look, retry, cancel.

A call of the queue may block, so none is made on the event loop: plain functions run in threads
(routes.py), and those that may wait for room in pools of their own, one for each lane: a full lane
holds up nobody who looks, and no other lane.

A job is answered when it is durable. A client that is gone by then finds it by the id it gave.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request, Response

from final import DuplicateJob, JobQueue, JobRecord, Priority, QueueFull, Status, UnknownJob
from final.job_queue import LARGEST_LIMIT
from final.service.context import Service
from final.service.models import (
    Created,
    JobDetails,
    JobPage,
    JobSummary,
    JobView,
    NewBatch,
    NewJob,
)
from final.service.problems import FIELDS, Problem, accepted, cut, duplicate, invalid, named_field
from final.service.routes import StrictRoute

Answer = TypeVar("Answer")

# Seconds that a producer waits for room before it is told to come back.
PATIENCE = 0.1
# Threads of a lane that may wait for room at a time; the requests behind them wait for a thread.
PRODUCERS = 64
# A large payload keeps Python, and all threads with it, while it is written or read: the event loop
# would wait for each of many. So a lane takes bodies beyond so many bytes one at a time.
LARGE_BODY = 64 * 1024
LOOKS = 2  # jobs that are shown at a time: any may have a large payload
Limit = Annotated[int, Query(ge=1, le=100)]
Kind = Annotated[str | None, Query(alias="type")]
# name:value
Pairs = Annotated[list[str] | None, Query()]
# From `next`: where the page before has ended.
Position = Annotated[int | None, Query(ge=1, le=LARGEST_LIMIT)]


class Wanted(NamedTuple):
    """Which jobs, as an address says it."""

    status: Status | None
    kind: str | None
    priority: Priority | None
    group: str | None
    meta: list[str] | None

    def ask(self, ask: Callable[..., Answer], **more: object) -> Answer:
        """Call it with these as the queue names them; what it refuses is a wrong field."""
        meta: dict[str, str] = {}
        for pair in self.meta or ():
            name, colon, value = pair.partition(":")
            if not colon or meta.setdefault(name, value) != value:
                raise invalid(("meta", "Write it as name:value, each name once."))
        try:
            return ask(**self._asdict() | {"meta": meta} | more)
        except (TypeError, ValueError) as error:
            field, _, rest = str(error).partition(" ")
            if field != "meta":
                raise
            raise invalid((field, rest)) from None

    def query(self) -> dict[str, object]:
        named = {FIELDS.get(name, name): value for name, value in self._asdict().items()}
        return {name: value for name, value in named.items() if value is not None}


def job_routes(service: Service) -> APIRouter:
    queue, root_path = service.queue, service.root_path
    router = APIRouter(route_class=StrictRoute, tags=["jobs"])
    producers = {priority: CapacityLimiter(PRODUCERS) for priority in Priority}
    large_ones = {priority: CapacityLimiter(1) for priority in Priority}
    looks = CapacityLimiter(LOOKS)

    @router.post(
        "/jobs", status_code=201, response_model=JobView, responses={200: {"model": JobView}}
    )
    async def create(new: NewJob, request: Request) -> Response:
        """Create a job; answered when it is durable. Waits up to 100 ms for room.

        200 instead of 201: another job holds its unique key, and this is that one.
        """

        def enqueue() -> Response:
            try:
                created = _enqueue(queue, [new])
            except DuplicateJob as error:
                with contextlib.suppress(UnknownJob):  # the history has let go of it since
                    existing = JobSummary.of(queue.get(error.ids[0])).model_dump(mode="json")
                    raise duplicate(error.ids, **accepted(()), job=existing) from None
                raise
            [job_id] = created.ids
            location = f"{root_path}/jobs/{quote(job_id, safe='')}"
            status = 200 if created.existing else 201
            return _written(_created(queue, job_id, new), status, {"Location": location})

        return await in_lane(new.priority, request, enqueue)

    @router.post("/jobs/batch", status_code=201)
    async def create_batch(batch: NewBatch, request: Request) -> Created:
        """Create jobs in order; a problem names in `accepted` those that are durable."""

        def enqueue() -> Created:
            return _enqueue(queue, batch.jobs, "jobs.{}.")

        # With others of its least urgent lane: it may have to wait for room in that one.
        least_urgent = max((new.priority for new in batch.jobs), key=LANES.index)
        return await in_lane(least_urgent, request, enqueue)

    async def in_lane(
        priority: Priority, request: Request, enqueue: Callable[[], Answer]
    ) -> Answer:
        service.refuse_jobs_while_stopping(**accepted(()))
        is_large = len(await request.body()) > LARGE_BODY  # it has been read already
        limiters = large_ones if is_large else producers
        return await to_thread.run_sync(enqueue, limiter=limiters[priority])

    @router.get("/jobs")
    def jobs(
        status: Status | None = None,
        kind: Kind = None,
        priority: Priority | None = None,
        group: str | None = None,
        meta: Pairs = None,
        limit: Limit = 50,
        before: str | None = None,
        position: Position = None,
    ) -> JobPage:
        """Jobs, the newest first. `before`: only those that came before this one."""
        wanted = Wanted(status, kind, priority, group, meta)
        return page("/jobs", wanted, limit, position or before)

    @router.get("/dead-letters")
    def dead_letters(
        kind: Kind = None,
        priority: Priority | None = None,
        group: str | None = None,
        meta: Pairs = None,
        limit: Limit = 50,
        before: str | None = None,
        position: Position = None,
    ) -> JobPage:
        """Jobs that have failed for good, the newest first."""
        wanted = Wanted(Status.FAILED, kind, priority, group, meta)
        return page("/dead-letters", wanted, limit, position or before)

    @router.get("/jobs/{job_id:text}", response_model=JobDetails)
    async def job(job_id: str) -> Response:
        """All that is known about a job."""

        def look() -> Response:
            return _written(JobDetails.of(queue.get(job_id)).with_failures(queue.attempts(job_id)))

        return await to_thread.run_sync(look, limiter=looks)

    @router.post("/jobs/{job_id:text}/retry", response_model=JobView)
    def retry(job_id: str) -> Response:
        """Put a dead letter back into its lane, with all its attempts."""
        before = queue.get(job_id)
        try:
            queue.retry(job_id)
        except ValueError as error:
            raise Problem("wrong-state", str(error)) from None
        return _written(JobView.of(_latest(queue, before, Status.QUEUED)))

    @router.post("/jobs/{job_id:text}/delete", response_model=JobView)
    def delete(job_id: str) -> Response:
        """Delete a job that has ended; answered with what it was."""
        record = queue.get(job_id)
        try:
            queue.delete(job_id)
        except ValueError as error:
            raise Problem("wrong-state", str(error)) from None
        return _written(JobView.of(record))

    @router.delete("/jobs/{job_id:text}", response_model=JobView)
    def cancel(job_id: str) -> Response:
        """Keep a job from running, or tell its handler to stop."""
        before = queue.get(job_id)
        cancelled = queue.cancel(job_id)
        record = _latest(queue, before, Status.CANCELLED) if cancelled else queue.get(job_id)
        if not cancelled and record.status is not Status.CANCELLED:
            detail = f"The job is {record.status}: only one that has not ended can be cancelled."
            raise Problem("wrong-state", detail)
        return _written(JobView.of(record))

    def page(path: str, wanted: Wanted, limit: int, before: str | int | None) -> JobPage:
        # One more than asked for says whether there is a next page.
        records = wanted.ask(queue.jobs, limit=limit + 1, before=before, payloads=False)
        shown = records[:limit]
        following = None
        if len(records) > limit:
            query = wanted.query()
            if path == "/dead-letters":
                del query["status"]
            # Not its id: by the time that the next page is asked for, the history may have let go
            # of it.
            query |= {"limit": limit, "position": shown[-1].seq}
            following = f"{root_path}{path}?{urlencode(query, doseq=True)}"
        return JobPage(jobs=[JobSummary.of(record) for record in shown], next=following)

    return router


LANES = list(Priority)  # the most urgent first


def _written(job: JobView, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Not by FastAPI, which would do it on the event loop: a large payload takes its time."""
    return Response(job.model_dump_json(), status, headers, "application/json")


def _latest(queue: JobQueue, before: JobRecord, became: Status) -> JobRecord:
    """The job; as it became, where the history has let go of it by now."""
    try:
        return queue.get(before.id)
    except UnknownJob:
        return replace(before, status=became)


def _created(queue: JobQueue, job_id: str, new: NewJob) -> JobView:
    """The job; as it came, where it has ended by now and the history has let go of it."""
    try:
        return JobView.of(queue.get(job_id))
    except UnknownJob:
        given = new.model_dump(include={"type", "payload", "priority", "timeout", "group"})
        not_yet = dict.fromkeys(("error", "result", "started_at", "ended_at", "due_at"))
        found = {
            "id": job_id,
            "status": Status.QUEUED,
            "enqueued_at": datetime.now(UTC),
            "attempts": 0,
            "after": new.after or [],
            "unique": new.unique and new.unique.key,
            "meta": new.meta or {},
        }
        return JobView.model_validate(given | not_yet | found)


def _enqueue(queue: JobQueue, new: Sequence[NewJob], within: str = "") -> Created:
    """Store them, or raise what the client is to be told. within: where the number of one goes."""
    jobs = []
    for number, each in enumerate(new):
        try:
            jobs.append(each.job())
        except (TypeError, ValueError) as error:
            raise _unacceptable(str(error), within.format(number)) from None
    try:
        ids = queue.enqueue_many(jobs, timeout=PATIENCE)
        own = {job.id for job, there in zip(jobs, ids, strict=True) if job.id == there}
        return Created(ids=ids, existing=[i for i in dict.fromkeys(ids) if i not in own])
    except QueueFull as error:
        # Sent again, because an answer was lost? Then it is in, whether there is room or not.
        next_id = jobs[len(error.accepted)].id
        if _is_known(queue, next_id):
            raise DuplicateJob([next_id], error.accepted) from None
        raise
    except DuplicateJob:
        raise
    except UnknownJob as error:
        raise Problem(
            "unknown-parent",
            f"No job {cut(error.id)!r} for another one to come after: check the id, or the history "
            "has let go of it.",
            **accepted(error.accepted),
        ) from None
    except (TypeError, ValueError) as error:
        said = str(error)
        of_that_type = (
            within.format(number)
            for number, each in enumerate(new)
            if said.startswith(f"Job.kind {each.type!r} has no handler")
        )
        # Where it is about something else, the sentence says which job by its id.
        raise _unacceptable(said, next(of_that_type, "")) from None


def _is_known(queue: JobQueue, job_id: str) -> bool:
    try:
        queue.get(job_id)
    except UnknownJob:
        return False
    return True


def _unacceptable(sentence: str, within: str) -> Problem:
    """The queue has the last word. Its sentences begin with the field, as ``Job.kind``."""
    if not sentence.startswith("Job."):
        return invalid(detail=cut(sentence, 500))
    field, rest = named_field(sentence)
    return invalid((within + field, rest), detail=f"{within}{field} {cut(rest, 500)}")
