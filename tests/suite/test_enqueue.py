"""Capability "enqueue": the handler gets the job that went in, id and payload unchanged.

It is all that a job queue promises on a good day. A queue that turned 1 into True, or
mixed up two jobs, would do the wrong work without a word.
"""

from __future__ import annotations

import pytest

from tests.helpers import Evidence, Journal
from tests.stages import Stage

pytestmark = pytest.mark.capability("enqueue")

PAYLOADS = [
    None,
    True,
    1,
    -(2**53),
    0.1,
    1e300,
    "",
    "naïve queue, 待ち行列, \N{ROCKET}, \x00 and 'quotes'",
    b"",
    bytes(range(256)),
    [],
    [1, [2, [3, None]]],
    {},
    {"to": "ada@example.org", "tags": ["urgent", "x"], "tries": {"max": 3}},
]


class TestEnqueue:
    def test_the_handler_gets_the_job_that_went_in(
        self, stage: Stage, journal: Journal, evidence: Evidence
    ) -> None:
        queue = stage.queue(journal.write, workers=1)

        for n, payload in enumerate(PAYLOADS):
            queue.enqueue(stage.job(id=f"job-{n}", payload=payload))
        journal.wait_for_count(len(PAYLOADS))

        # Compared as text, because True == 1 == 1.0.
        went_in = [(f"job-{n}", repr(payload)) for n, payload in enumerate(PAYLOADS)]
        arrived = [(job.id, repr(job.payload)) for job in journal.entries]
        same = sum(a == b for a, b in zip(went_in, arrived, strict=True))
        evidence(f"{same} of {len(PAYLOADS)} payloads arrived as they went in")
        assert arrived == went_in

    def test_every_job_has_an_id_of_its_own(self, stage: Stage, evidence: Evidence) -> None:
        ids = {stage.job().id for _ in range(1000)}

        evidence(f"1,000 jobs have {len(ids):,} ids")
        assert len(ids) == 1000
        assert all(isinstance(job_id, str) for job_id in ids)
