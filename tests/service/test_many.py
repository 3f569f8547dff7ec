"""Many jobs at once over HTTP: cancel, retry and purge those that are meant, or count them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from final import Job, PermanentFailure
from tests.helpers import DEADLINE
from tests.service.conftest import OpenService
from tests.service.helpers import Live


def _work(job: Job) -> None:
    if job.payload == "fails":
        raise PermanentFailure("no")


@pytest.fixture
def full(open_service: OpenService) -> Live:
    """Of each user, 7 and 8: a job that waits, a dead letter and a completed one."""
    live = open_service({"work": _work, "other": _work}, max_retries=0)
    for user in ("7", "8"):
        more = {"type": "work" if user == "7" else "other", "meta": {"user": user}}
        live.create(id=f"w{user}", run_at=3_600, **more)
        live.create(id=f"d{user}", payload="fails", **more)
        live.create(id=f"c{user}", **more)
        live.queue.wait(f"d{user}", DEADLINE)
        live.queue.wait(f"c{user}", DEADLINE)
    return live


def ask(live: Live, path: str, **meant: Any) -> dict[str, Any]:
    answer = live.post(path, meant)
    assert answer.status_code == 200, answer.text
    dealt: dict[str, Any] = answer.json()
    return dealt


@pytest.mark.parametrize("path", ["/cancel-all", "/retry-all", "/purge"])
def test_which_are_meant(full: Live, path: str) -> None:
    for meant, jobs in (
        ({}, 2),
        ({"type": "work"}, 1),
        ({"meta": {"user": "8"}, "type": "work"}, 0),
        ({"enqueued_after": "2020-01-31T08:00:00Z"}, 2),
        ({"enqueued_before": 1_600_000_000}, 0),
        ({"priority": "high"}, 0),
        ({"group": "g"}, 0),
    ):
        assert ask(full, path, **meant, dry_run=True) == {"jobs": jobs, "dry_run": True}
    assert ask(full, path, meta={"user": "7"}) == {"jobs": 1, "dry_run": False}
    if path == "/cancel-all":
        assert full.queue.status("w7") == "cancelled"
        assert ask(full, "/purge", status="cancelled") == {"jobs": 1, "dry_run": False}
    assert full.queue.status("w8") == "scheduled"


@pytest.mark.parametrize(
    ("path", "meant", "field"),
    [
        ("/purge", {"colour": "red"}, "colour"),
        ("/purge", {"dry_run": "yes"}, "dry_run"),
        ("/purge", {"ended_before": "yesterday"}, "ended_before"),
        ("/purge", {"ended_before": "2020-01-31T08:00:00"}, "ended_before"),
        ("/purge", {"ended_after": -1}, "ended_after"),
        ("/purge", {"meta": {"user": 7}}, "meta.user"),
        ("/purge", {"meta": {"a:b": "7"}}, "meta"),
        ("/purge", {"type": "half a \ud83d"}, ""),
        ("/purge", {"status": "queued"}, "status"),
        ("/cancel-all", {"status": "failed"}, "status"),
        ("/retry-all", {"status": "queued"}, "status"),
        ("/retry-all", {"priority": "urgent"}, "priority"),
    ],
)
def test_what_makes_no_sense_deals_with_nothing(
    full: Live, path: str, meant: Any, field: str
) -> None:
    as_json = {"Content-Type": "application/json"}
    answer = full.http.post(path, content=json.dumps(meant), headers=as_json)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert len(full.queue.jobs("failed")) == 2


def test_a_job_that_has_ended_is_deleted(full: Live) -> None:
    answer = full.post("/jobs/d7/delete", {})
    assert (answer.status_code, answer.json()["id"]) == (200, "d7")
    assert full.http.get("/jobs/d7").status_code == 404
    refused = full.post("/jobs/w7/delete", {})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems#wrong-state")
    assert "cancel it first" in refused.json()["detail"]
    assert full.post("/jobs/d7/delete", {}).status_code == 404
