"""Batches, as a user may notice them: by what runs first, and by what the rest pays for one job.

An idle worker gets several quick jobs at a time. That must not show: not when one of them turns
out to be slow or hangs, and not in how fast the others are because of an option nobody needs.
"""

from __future__ import annotations

import pytest

from final import Job, JobQueue, Priority, Status, Transition
from tests.final.helpers import OpenQueue, learn_that_jobs_are_quick
from tests.helpers import DEADLINE, Gate, Journal


class Watched:
    """A queue with one worker that has learned that its jobs are quick.

    Jobs whose payload is "hold" wait at the gate. started: ids, in this order. told: what
    became of them, as "id status". What those of the kind "holder" take is no guide for the rest.
    """

    def __init__(self, open_queue: OpenQueue, gate: Gate, **options: object) -> None:
        self.started, self.told = Journal(), Journal()
        self.claims: dict[str, float] = {}  # when each job was claimed: one time for a batch

        def handler(job: Job) -> None:
            self.started.write(job.id)
            if job.payload == "hold":
                gate.wait()

        handlers = {"default": handler, "holder": handler, **options.pop("beside", {})}  # type: ignore[dict-item]
        self.queue: JobQueue = open_queue(handlers, workers=1, **options)
        for _ in range(5):
            self.queue.enqueue_many([Job() for _ in range(100)])
        self.queue.join(DEADLINE)
        learn_that_jobs_are_quick(self.queue)
        self.queue.subscribe(self._note)

    def _note(self, transition: Transition) -> None:
        job_id, status = transition.job_id, transition.status
        if status is Status.PROCESSING:
            self.claims[job_id] = transition.at
        came_back = status is Status.QUEUED and job_id in self.claims
        self.told.write(f"{job_id} {'came back' if came_back else status}")


async def coroutine(job: Job) -> None:
    """Nobody enqueues one of these."""


def test_an_urgent_job_need_not_wait_for_a_batch_of_a_kind_that_turned_slow(
    open_queue: OpenQueue, gate: Gate
) -> None:
    watched = Watched(open_queue, gate)
    slow = Job("slow", "hold", Priority.LOW)
    behind = [Job(f"behind-{n}", priority=Priority.LOW) for n in range(50)]
    watched.queue.enqueue_many([slow, *behind])
    watched.started.wait_for("slow")
    watched.told.wait_for("behind-0 came back")  # claimed with the slow one; nobody is idle
    watched.queue.enqueue(Job("urgent", priority=Priority.HIGH))
    gate.open()
    watched.queue.join(DEADLINE)
    ran = watched.started.entries
    assert ran.index("urgent") == ran.index("slow") + 1
    assert watched.queue.get("behind-0").attempts == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": 60.0}, {"beside": {"unused": coroutine}}],
    ids=["plain", "a default time-out", "a coroutine beside them"],
)
def test_quick_jobs_go_to_their_worker_many_at_a_time(
    open_queue: OpenQueue, gate: Gate, options: dict[str, object]
) -> None:
    watched = Watched(open_queue, gate, **options)
    holder = watched.queue.enqueue(Job(payload="hold", kind="holder"))
    watched.started.wait_for(holder)
    ids = watched.queue.enqueue_many([Job() for _ in range(200)])
    gate.open()
    watched.told.wait_for(f"{ids[-1]} completed")
    assert len({watched.claims[job_id] for job_id in ids}) < 100  # one by one it is 200


def test_one_that_hangs_costs_the_others_nothing(open_queue: OpenQueue, gate: Gate) -> None:
    watched = Watched(open_queue, gate, timeout=60.0, max_retries=0)
    jobs = [Job(str(n)) for n in range(20)]
    jobs[10] = Job("10", "hold", timeout=0.2)
    watched.queue.enqueue_many(jobs)
    watched.queue.join(DEADLINE)
    records = [watched.queue.get(str(n)) for n in range(20)]
    assert [record.status for record in records].count(Status.COMPLETED) == 19
    assert records[10].error == "TimeoutError: the attempt took longer than 0.2 s."
    assert {record.attempts for record in records} == {1}
