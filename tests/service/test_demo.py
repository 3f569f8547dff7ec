"""The demo: handlers that pretend to work, a flood, and a switch that changes the running queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from final import Job, Status
from final.service.demo import demo_handlers
from tests.final.helpers import AT_ONCE, comes_true
from tests.helpers import DEADLINE, Gate, Journal
from tests.service.conftest import OpenService
from tests.service.helpers import Live


@pytest.fixture
def demo(open_service: OpenService) -> Live:
    return open_service(demo_handlers(seconds=0), demo=True, backoff=AT_ONCE, capacity=200)


def test_a_flood_is_worked_off(demo: Live) -> None:
    answer = demo.post("/demo/flood", {"high": 40, "medium": 10, "low": 10})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == {"high": 40, "medium": 10, "low": 10}
    demo.queue.join(DEADLINE)
    stats = demo.http.get("/stats").json()
    assert stats["demo"] is True
    totals = stats["totals"]
    # Those of other tenants come later; one may just be at it.
    later = sum(totals[status] for status in ("scheduled", "queued", "processing"))
    assert totals["completed"] + later == 59
    assert later <= 4
    assert totals["failed"] == 1  # every 50th, for the dead letters


def test_while_one_tenant_floods_others_come_by_and_by(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = open_service(demo_handlers(seconds=60), demo=True, workers=1)
    asked_for: list[Job] = []  # before the first of them is due
    enqueue_many = live.queue.enqueue_many

    def noted(jobs: Iterable[Job], **options: Any) -> list[str]:
        asked_for.extend(some := list(jobs))
        return enqueue_many(some, **options)

    monkeypatch.setattr(live.queue, "enqueue_many", noted)
    live.post("/demo/flood", {"high": 400, "medium": 0, "low": 0})
    groups = Counter(job.group for job in asked_for)
    due = [job.run_at for job in asked_for if isinstance(job.run_at, float)]
    assert (groups["tenant-1"], len(due)) == (360, 40)
    between = [later - sooner for sooner, later in pairwise(sorted(due))]
    assert between == pytest.approx([0.5] * 39, abs=0.1)


def test_a_flood_takes_the_room_that_is_there(open_service: OpenService) -> None:
    live = open_service(demo_handlers(seconds=60), demo=True, capacity=20, workers=1)
    accepted = live.post("/demo/flood", {"high": 1_000}).json()["accepted"]
    # One may be running; those of other tenants are due later, and need no room yet.
    assert all(20 <= count <= 24 for count in accepted.values())


@pytest.mark.parametrize("body", [{"high": -1}, {"low": 1_001}, {"high": "5"}, {"seconds": 5}])
def test_a_flood_is_bounded(demo: Live, body: dict[str, Any]) -> None:
    assert demo.post("/demo/flood", body).status_code == 422
    assert demo.stored() == 0


@pytest.mark.parametrize(("rule", "place"), [(None, 12), (2, 2), (10, 10)])
def test_fairness_changes_the_running_queue(
    open_service: OpenService, gate: Gate, rule: int | None, place: int
) -> None:
    journal = Journal()

    def handler(job: Job) -> None:
        gate.wait()
        journal.write(job.priority)

    live = open_service({"work": handler}, demo=True, workers=1)
    live.create(priority="medium")
    comes_true(live.queue, lambda: live.queue.metrics().processing == 1, "its start")
    assert live.http.put("/demo/fairness", json={"fairness": rule}).status_code == 200
    assert live.http.get("/stats").json()["fairness"] == rule
    priorities = ["low"] + ["high"] * 12
    live.post("/jobs/batch", {"jobs": [{"type": "work", "priority": p} for p in priorities]})
    gate.open()
    live.queue.join(DEADLINE)
    assert journal.entries[1:].index("low") == place


@pytest.mark.parametrize("body", [{"fairness": 0}, {"fairness": "10"}, {"fairness": True}, {}])
def test_a_rule_that_makes_no_sense(demo: Live, body: dict[str, Any]) -> None:
    assert demo.http.put("/demo/fairness", json=body).status_code == 422
    assert demo.http.get("/stats").json()["fairness"] == 10


def test_without_the_demo_there_are_no_such_controls(live: Live) -> None:
    assert live.post("/demo/flood", {}).status_code == 404
    assert live.http.put("/demo/fairness", json={"fairness": None}).status_code == 404


class TestHandlers:
    def test_a_job_fails_as_often_as_it_wishes(self, demo: Live) -> None:
        job = demo.create(type="webhook", payload={"fails": 2})
        record = demo.queue.wait(job["id"], DEADLINE)
        assert (record.status, record.attempts) == (Status.COMPLETED, 3)

    def test_it_takes_as_long_as_it_wishes(self, demo: Live) -> None:
        job = demo.create(type="thumbnail", payload={"seconds": 0.05})
        record = demo.queue.wait(job["id"], DEADLINE)
        assert record.ended_at is not None
        assert record.started_at is not None
        assert record.ended_at - record.started_at >= 0.05

    @pytest.mark.parametrize(
        "payload", [None, 5, "x", [], {"seconds": "long"}, {"seconds": -1, "fails": True}]
    )
    def test_other_payloads_are_just_done(self, demo: Live, payload: object) -> None:
        job_id = demo.queue.enqueue(Job(payload=payload, kind="email"))
        assert demo.queue.wait(job_id, DEADLINE).status is Status.COMPLETED

    def test_it_can_be_cancelled(self, open_service: OpenService) -> None:
        live = open_service(demo_handlers(seconds=60), demo=True)
        job = live.create(type="email")
        comes_true(live.queue, lambda: live.queue.metrics().processing == 1, "its start")
        assert live.http.delete(f"/jobs/{job['id']}").status_code == 200
        assert live.queue.wait(job["id"], DEADLINE).status is Status.CANCELLED
