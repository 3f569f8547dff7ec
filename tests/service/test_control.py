"""Pause, resume and the number of workers, over HTTP."""

from __future__ import annotations

import pytest

from tests.helpers import DEADLINE
from tests.service.helpers import Live

WHOLE = {"type": None, "priority": None, "group": None}


@pytest.mark.parametrize("part", [{}, {"type": "work"}, {"priority": "low"}, {"group": "tenant-7"}])
def test_what_is_paused_waits_until_it_is_resumed(live: Live, part: dict[str, str]) -> None:
    for _ in range(2):  # the second time changes nothing
        answer = live.post("/pause", part)
        assert (answer.status_code, answer.json()) == (200, {"paused": [WHOLE | part]})
    assert live.http.get("/paused").json() == answer.json()
    held = live.create(priority="low", group="tenant-7")["id"]
    stats = live.http.get("/stats").json()
    assert (stats["paused"], stats["totals"]["queued"]) == ([WHOLE | part], 1)
    for _ in range(2):
        assert live.post("/resume", part).json() == {"paused": []}
    assert live.queue.wait(held, DEADLINE).status == "completed"


def test_probes_are_as_before(live: Live) -> None:
    live.post("/pause", {})
    assert live.http.get("/ready").status_code == 200
    assert live.http.get("/health").status_code == 200


def test_prometheus_sees_it(live: Live) -> None:
    live.queue.pause()
    live.queue.pause(kind='a "kind"')
    live.queue.set_workers(3)
    text = live.http.get("/metrics").text
    assert 'jobqueue_paused{name="",sort="queue"} 1.0' in text
    assert 'jobqueue_paused{name="a \\"kind\\"",sort="kind"} 1.0' in text
    assert "jobqueue_workers 3.0" in text


def test_workers_are_changed(live: Live) -> None:
    before = live.http.get("/stats").json()["workers"]
    assert live.http.put("/workers", json={"workers": 5}).json() == {"workers": 5}
    assert live.http.get("/stats").json()["workers"] == 5
    assert live.http.put("/workers", json={"workers": None}).json() == {"workers": before}


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/pause", {"type": "a", "group": "b"}, ""),
        ("POST", "/pause", {"kind": "a"}, "kind"),
        ("POST", "/resume", {"priority": "urgent"}, "priority"),
        ("POST", "/resume", {"group": ""}, "group"),
        ("POST", "/pause", {"type": "a\0b"}, "type"),
        ("POST", "/resume", {"group": "a\0b"}, "group"),
        ("PUT", "/workers", {"workers": 0}, "workers"),
        ("PUT", "/workers", {"workers": -1}, "workers"),
        ("PUT", "/workers", {"workers": 1_001}, "workers"),
        ("PUT", "/workers", {}, "workers"),
    ],
)
def test_what_makes_no_sense_is_refused(
    live: Live, method: str, path: str, body: object, field: str
) -> None:
    answer = live.http.request(method, path, json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert live.queue.paused() == []
