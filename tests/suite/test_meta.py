"""Capability "meta": jobs are found by what they are about.

"What has become of the jobs of user 7?" An id answers for one job, and a payload cannot be looked
through among a million. So a job says in names and values what it is about.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import DEADLINE, Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("meta")

USERS = 20
JOBS = 200


def test_the_jobs_of_one_user_are_found_among_those_of_all(
    stage: Stage, journal: Journal, evidence: Evidence
) -> None:
    def handler(job: Any) -> None:
        journal.write((job.id, job.meta["user"], job.meta["source"]))

    queue = stage.queue(handler, workers=2)
    sources = ("web", "app", "import")
    metas = [{"user": str(n % USERS), "source": sources[n % 3]} for n in range(JOBS)]
    about = {queue.enqueue(stage.job(meta=meta)): meta for meta in metas}
    queue.join(timeout=DEADLINE)
    of_seven = {record.id for record in queue.jobs(meta={"user": "7"})}
    from_the_web = {record.id for record in queue.jobs(meta={"user": "7", "source": "web"})}

    evidence(f"of {JOBS} jobs the {len(of_seven)} of user 7 are found, {len(from_the_web)} by web")
    assert sorted(journal.entries) == sorted((i, m["user"], m["source"]) for i, m in about.items())
    assert of_seven == {job_id for job_id, meta in about.items() if meta["user"] == "7"}
    assert from_the_web == {job_id for job_id in of_seven if about[job_id]["source"] == "web"}
