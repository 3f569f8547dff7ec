"""The endpoints for jobs: create, look, retry, cancel.

A call of the queue may block, so none is made on the event loop: plain functions run in a pool
of threads, and those that may wait for room in a pool of their own, so that a full queue can
still be looked at.

A job is answered when it is durable. A client that is gone by then finds it by the id it gave.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlencode

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Response

from final import DuplicateJob, Job, JobQueue, Priority, Status
from final.service.models import (
    Created,
    JobDetails,
    JobPage,
    JobSummary,
    JobView,
    NewBatch,
    NewJob,
)
from final.service.problems import Problem
from final.service.strict import StrictRoute

# Seconds that a producer waits for room before it is told to come back.
PATIENCE = 0.1
# Threads that may wait for room at a time; the requests behind them wait for a thread.
PRODUCERS = 64
Limit = Annotated[int, Query(ge=1, le=100)]
Kind = Annotated[str | None, Query(alias="type")]


def job_routes(queue: JobQueue) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["jobs"])
    producers = CapacityLimiter(PRODUCERS)

    @router.post("/jobs", status_code=201)
    async def create(new: NewJob, response: Response) -> JobView:
        """Create a job; answered when it is durable. Waits up to 100 ms for room."""

        def enqueue() -> JobView:
            job = _job(new)
            try:
                _enqueue([job])
            except DuplicateJob as error:
                existing = JobView.of(queue.get(job.id)).model_dump(mode="json")
                raise Problem("duplicate", str(error), job=existing) from None
            return JobView.of(queue.get(job.id))

        created = await to_thread.run_sync(enqueue, limiter=producers)
        response.headers["Location"] = f"/jobs/{quote(created.id, safe='')}"
        return created

    @router.post("/jobs/batch", status_code=201)
    async def create_batch(batch: NewBatch) -> Created:
        """Create jobs in order; a problem names in `accepted` those that are durable."""

        def enqueue() -> Created:
            return Created(ids=_enqueue([_job(new) for new in batch.jobs]))

        return await to_thread.run_sync(enqueue, limiter=producers)

    def _enqueue(jobs: list[Job]) -> list[str]:
        try:
            return queue.enqueue_many(jobs, timeout=PATIENCE)
        except DuplicateJob:
            raise
        except (TypeError, ValueError) as error:
            raise _unacceptable(error) from None

    @router.get("/jobs")
    def jobs(
        status: Status | None = None,
        kind: Kind = None,
        priority: Priority | None = None,
        limit: Limit = 50,
        before: str | None = None,
    ) -> JobPage:
        """Jobs, the newest first. `before`: only those that came before this one."""
        return page("/jobs", status, kind, priority, limit, before)

    @router.get("/dead-letters")
    def dead_letters(
        kind: Kind = None,
        priority: Priority | None = None,
        limit: Limit = 50,
        before: str | None = None,
    ) -> JobPage:
        """Jobs that have failed for good, the newest first."""
        return page("/dead-letters", Status.FAILED, kind, priority, limit, before)

    @router.get("/jobs/{job_id:path}")
    def job(job_id: str) -> JobDetails:
        """All that is known about a job."""
        return JobDetails.of(queue.get(job_id)).with_failures(queue.attempts(job_id))

    @router.post("/jobs/{job_id:path}/retry")
    def retry(job_id: str) -> JobView:
        """Put a dead letter back into its lane, with all its attempts."""
        try:
            queue.retry(job_id)
        except ValueError as error:
            raise Problem("wrong-state", str(error)) from None
        return JobView.of(queue.get(job_id))

    @router.delete("/jobs/{job_id:path}")
    def cancel(job_id: str) -> JobView:
        """Keep a job from running, or tell its handler to stop."""
        cancelled = queue.cancel(job_id)
        record = queue.get(job_id)
        if not cancelled and record.status is not Status.CANCELLED:
            detail = f"The job is {record.status}: only one that has not ended can be cancelled."
            raise Problem("wrong-state", detail)
        return JobView.of(record)

    def page(
        path: str,
        status: Status | None,
        kind: str | None,
        priority: Priority | None,
        limit: int,
        before: str | None,
    ) -> JobPage:
        # One more than asked for says whether there is a next page.
        records = queue.jobs(
            status, limit + 1, kind=kind, priority=priority, before=before, payloads=False
        )
        shown = records[:limit]
        following = None
        if len(records) > limit:
            fixed = None if path == "/dead-letters" else status
            query = {"status": fixed, "type": kind, "priority": priority, "limit": limit}
            query["before"] = shown[-1].id
            following = f"{path}?{urlencode({k: v for k, v in query.items() if v is not None})}"
        return JobPage(jobs=[JobSummary.of(record) for record in shown], next=following)

    return router


def _job(new: NewJob) -> Job:
    try:
        return new.job()
    except (TypeError, ValueError) as error:
        raise _unacceptable(error) from None


def _unacceptable(error: Exception) -> Problem:
    """The queue has the last word; its sentences name the field themselves."""
    return Problem("invalid", str(error), errors=[])
