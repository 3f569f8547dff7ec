"""The endpoints for many jobs at once: cancel, retry and purge those that are meant, or count them.

One at a time: each goes through all jobs that are meant, in turns, and others get in between.

Which jobs are meant, and what a turn is, the queue says (``final/engine/many.py``).
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter

from final import Status
from final.service.context import Service
from final.service.models import Dealt, Meant
from final.service.problems import invalid, refused_value
from final.service.routes import StrictRoute


def many_routes(service: Service) -> APIRouter:
    queue = service.queue
    router = APIRouter(route_class=StrictRoute, tags=["many jobs"])
    one_at_a_time = CapacityLimiter(1)

    @router.post("/cancel-all")
    async def cancel_all(meant: Meant) -> Dealt:
        """Cancel all jobs that have not ended, and are meant; or only count them."""
        return await deal(queue.cancel_all, meant)

    @router.post("/retry-all")
    async def retry_all(meant: Meant) -> Dealt:
        """Put all dead letters that are meant back into their lanes; or only count them."""
        if meant.status not in (None, Status.FAILED):
            raise invalid(("status", "Only what has failed can be retried: leave it out."))
        meant.status = None
        return await deal(queue.retry_all, meant)

    @router.post("/purge")
    async def purge(meant: Meant) -> Dealt:
        """Delete all jobs that have ended, and are meant; or only count them.

        These are dead letters, unless another `status` is given.
        """
        return await deal(queue.purge, meant)

    async def deal(act: Callable[..., int], meant: Meant) -> Dealt:
        def turn_by_turn() -> int:
            try:
                return act(**meant.which(), dry_run=meant.dry_run)
            except (TypeError, ValueError) as error:
                raise refused_value(error) from None

        jobs = await to_thread.run_sync(turn_by_turn, limiter=one_at_a_time)
        return Dealt(jobs=jobs, dry_run=meant.dry_run)

    return router
