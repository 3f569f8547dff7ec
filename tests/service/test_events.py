"""``/events``: every change of a job's status as it happens, to a bounded number of clients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from final.service import events
from final.service.events import Client
from tests.final import inside
from tests.final.helpers import eventually
from tests.helpers import DEADLINE, Background
from tests.service.conftest import OpenService
from tests.service.helpers import Live


def until(stream: Iterator[tuple[str, Any]], job_id: str, status: str) -> list[dict[str, Any]]:
    """All transitions up to this one."""

    def read() -> list[dict[str, Any]]:
        seen = []
        for name, data in stream:
            assert name == "transition"
            seen.append(data)
            if (data["id"], data["status"]) == (job_id, status):
                return seen
        raise AssertionError(f"The stream ended after {seen}.")

    found: list[dict[str, Any]] = Background(read).result()
    return found


def test_the_life_of_a_job(live: Live) -> None:
    with live.events() as stream:
        live.create(id="x", priority="high")
        seen = until(stream, "x", "completed")
    assert [data["status"] for data in seen] == ["queued", "processing", "completed"]
    assert [data["attempts"] for data in seen] == [0, 1, 1]
    assert seen[0] | {"at": "..."} == {
        "id": "x",
        "type": "work",
        "priority": "high",
        "status": "queued",
        "attempts": 0,
        "at": "...",
        "error": None,
    }


def test_a_failure_says_why(live: Live) -> None:
    with live.events() as stream:
        live.create(id="x", payload="fails")
        assert until(stream, "x", "failed")[-1]["error"] == "RuntimeError: it went wrong"


def test_all_clients_hear_the_same(live: Live) -> None:
    with live.events() as one, live.events() as other:
        live.create(id="x")
        assert until(one, "x", "completed") == until(other, "x", "completed")


def test_who_left_leaves_nothing_behind(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CLIENTS", 5)
    for n in range(events.CLIENTS + 5):  # more than may be there at a time
        with live.events() as stream:
            live.create(id=f"x{n}")
            until(stream, f"x{n}", "completed")
    live.wait_for_listeners(0)
    assert not inside.is_told_of_changes(live.queue)


def test_there_may_be_only_so_many(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "CLIENTS", 2)
    live = open_service()
    with live.events(), live.events():
        answer = live.http.get("/events")
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems#busy"


def test_a_slow_client_is_told_what_it_missed(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing while there are more transitions than all buffers on the way hold."""
    monkeypatch.setattr(events, "BACKLOG", 50)
    live = open_service()
    with live.events() as stream:
        eventually(lambda: flooded(live) >= 100, "it to miss some")
        heard = Background(list, itertools.takewhile(is_transition, stream)).result()
    assert heard  # and then it was told how many it missed


def flooded(live: Live) -> int:
    """A thousand jobs later: how many transitions were missed so far?"""
    live.post("/jobs/batch", {"jobs": [{"type": "work"}] * 1_000})
    live.queue.join(DEADLINE)
    return live.broadcast.missed


def is_transition(event: tuple[str, Any]) -> bool:
    name, data = event
    if name == "missed":
        assert data["count"] > 0
    return name == "transition"


def test_a_busy_queue_is_told_of_in_few_pieces(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once, then none before the beat, except where they are many."""
    monkeypatch.setattr(events, "BEAT", 3_600.0)
    sendings: list[int] = []
    offer = Client.offer

    def count(client: Client, news: Sequence[bytes]) -> int:
        sendings.append(len(news))
        return offer(client, news)

    monkeypatch.setattr(Client, "offer", count)
    with live.events() as stream:
        live.create(id="x")
        until(stream, "x", "queued")
        jobs = [{"type": "work"}] * events.MANY  # of which each has three transitions
        live.post("/jobs/batch", {"jobs": jobs})
        heard = Background(list, itertools.islice(stream, events.MANY)).result()
    assert all(name == "transition" for name, _ in heard)
    assert len(sendings) <= 1 + 3


def test_what_waits_for_the_beat_is_sent_before_the_end(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BEAT", 3_600.0)
    with live.events() as stream:
        live.create(id="x")
        until(stream, "x", "queued")
        live.queue.wait("x", DEADLINE)
        live.queue.close()  # which tells all who listen
        live.end_events()
        heard = Background(list, stream).result()
    assert [data["status"] for _, data in heard] == ["processing", "completed"]


def test_the_end_of_the_service_ends_the_stream(live: Live) -> None:
    with live.events() as stream:
        live.end_events()
        assert Background(list, stream).result() == []
    assert live.http.get("/events").json()["type"] == "/problems#stopping"
