"""Looking at the service: probes, statistics, Prometheus, and the pages that need no network."""

from __future__ import annotations

import contextlib
import html
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from final import Job, JobRecord, Metrics, Priority, Status, StorageError
from final.ledger.sqlite import SqliteFile
from final.service import figures
from tests.final import inside
from tests.final.helpers import eventually, reaches
from tests.helpers import DEADLINE, Background, Gate
from tests.service.conftest import OpenService
from tests.service.helpers import Live, client, head

Sample = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(live: Live) -> Sample:
    """Every sample by its name and labels."""
    answer = live.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Sample, name: str, **labels: str) -> float:
    return samples[f"jobqueue_{name}", frozenset(labels.items())]


def test_no_counter_ever_falls(open_service: OpenService) -> None:
    """Nor where the history lets go of jobs, and dead letters are retried and purged."""
    live = open_service(history=1, capacity=2, overflow="drop-oldest", max_retries=0, workers=1)
    seen = scrape(live)
    steps: list[Callable[[], object]] = [
        lambda: [live.create() for _ in range(20)],
        lambda: live.post("/jobs/batch", {"jobs": [{"type": "work"}] * 50}),
        lambda: live.create(id="dead", payload="fails"),
        lambda: live.http.get("/jobs/nobody"),
        lambda: live.queue.retry_all(),
        lambda: live.queue.purge(),
        lambda: live.create(),
    ]
    for step in steps:
        step()
        live.queue.join(DEADLINE)
        now = scrape(live)
        counters = [key for key in now if key[0].endswith(("_total", "_bucket", "_sum", "_count"))]
        assert len(counters) > 50
        assert [key for key in counters if now[key] < seen.get(key, 0)] == []
        seen = now
    assert value(seen, "dropped_total", priority="medium") > 40
    assert value(seen, "jobs", status="failed", priority="medium") == 0


class TestProbes:
    def test_health(self, live: Live) -> None:
        answer = live.http.get("/health")
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ok",
            "service": "three-stage-job-queue",
            "version": "1.0.0",
        }

    def test_ready(self, live: Live) -> None:
        assert live.http.get("/ready").json() == {"status": "ready"}

    def test_not_ready_while_stopping_but_still_healthy(self, live: Live) -> None:
        live.service.stopping = True
        answer = live.http.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems#stopping"
        assert live.http.get("/health").status_code == 200

    def test_not_ready_while_nothing_can_be_stored(self, live: Live) -> None:
        def full(_: object) -> None:
            raise StorageError("The disk of /secret/place is full.")

        inside.before_each_commit(live.queue, full)
        with mock.patch("final.engine.dispatcher.STORAGE_RETRY_SECONDS", DEADLINE):
            refused = live.post("/jobs", {"type": "work"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        answer = live.http.get("/ready")
        assert answer.status_code == 503
        assert "secret" not in answer.text  # everybody may ask this
        assert value(scrape(live), "storage_up") == 0

    def test_not_ready_where_the_queue_has_failed(
        self, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug in /secret/place")

        monkeypatch.setattr(SqliteFile, "write", broken)
        refused = live.post("/jobs", {"type": "work"})
        assert refused.status_code == 503
        assert "a bug in /secret/place" in refused.json()["detail"]
        answer = live.http.get("/ready")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems#failed")
        assert answer.json()["detail"] == "The queue stopped on an internal error: see the log."
        assert live.http.get("/stats").status_code == 503
        assert live.http.get("/health").status_code == 200


class TestALockedFile:
    """Another program holds the file for longer than anybody wants to wait."""

    @pytest.fixture
    def locked(self, open_service: OpenService, path: str) -> Iterator[Live]:
        live = open_service(path=path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = Background(live.post, "/jobs", {"type": "work", "id": "late"})
            eventually(lambda: is_slow(live), "the queue to wait")
            yield live
            other.execute("ROLLBACK")
        assert writing.result().status_code in (201, 503)

    @pytest.mark.parametrize("path_", ["/ready", "/stats", "/metrics"])
    def test_nobody_waits_longer_than_a_second(self, locked: Live, path_: str) -> None:
        with client(f"http://127.0.0.1:{locked.port}") as http:
            answer = http.get(path_)
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems#slow"
        assert "Is its file locked, or its database away?" in answer.json()["detail"]
        assert answer.elapsed.total_seconds() < 4

    def test_it_takes_one_thread_however_many_ask(self, locked: Live) -> None:
        def ask() -> int:
            with client(f"http://127.0.0.1:{locked.port}") as http:
                return http.get("/ready").status_code

        before = threading.active_count()
        asking = [Background(ask) for _ in range(30)]
        assert {each.result() for each in asking} == {503}
        assert threading.active_count() <= before + 1
        with client(f"http://127.0.0.1:{locked.port}") as http:
            assert http.get("/health").status_code == 200
            assert http.get("/jobs").status_code == 200


def test_who_waits_for_the_store_keeps_nobody_from_the_page(
    live: Live, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the 40 threads that all would share (anyio), and its files need them, too."""

    def hang(*_: object, **__: object) -> list[JobRecord]:
        gate.wait()
        return []

    monkeypatch.setattr(live.queue, "jobs", hang)
    with contextlib.ExitStack() as waiting:
        for _ in range(60):
            waiting.enter_context(live.raw()).sendall(head("GET", "/jobs"))
        live.wait_for_requests(60)
        for path in ("/health", "/ready", "/", "/static/dashboard.js", "/docs", "/paused"):
            assert live.http.get(path, timeout=DEADLINE / 2).status_code == 200
        gate.open()


def is_slow(live: Live) -> bool:
    with client(f"http://127.0.0.1:{live.port}") as http:
        return http.get("/stats").status_code == 503


def test_ready_asks_the_queue_twice_a_second_at_most(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    metrics = live.queue.metrics

    def count() -> Metrics:
        asked.append(None)
        return metrics()

    monkeypatch.setattr(live.queue, "metrics", count)
    monkeypatch.setattr(figures, "FRESH", DEADLINE)
    for _ in range(20):
        assert live.http.get("/ready").status_code == 200
    assert len(asked) == 1
    for _ in range(3):
        live.http.get("/stats")  # of this instant
    assert len(asked) == 4


def test_from_the_signal_on_no_job_is_taken(live: Live) -> None:
    """The queue may still be open then."""
    live.service.stopping = True
    for path, body in (("/jobs", {"type": "work"}), ("/jobs/batch", {"jobs": [{"type": "work"}]})):
        answer = live.post(path, body)
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems#stopping"
        assert answer.json()["accepted"] == []
    assert live.queue.jobs() == []


def test_after_the_queue_is_closed_no_job_is_taken(live: Live) -> None:
    live.create(id="before")
    live.queue.close()
    answer = live.post("/jobs", {"type": "work"})
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems#stopping"
    assert answer.headers["retry-after"]
    assert live.http.get("/jobs/before").json()["status"] == "completed"  # but one may look


def test_stats(held: Live, gate: Gate) -> None:
    held.create(id="low", priority="low")
    stats = held.http.get("/stats").json()
    assert stats["totals"]["accepted"] == 2
    assert stats["lanes"]["low"]["queued"] == 1
    assert stats["lanes"]["low"]["oldest_queued"] > 0
    assert stats["lanes"]["high"]["oldest_queued"] == 0
    assert (stats["workers"], stats["capacity"], stats["fairness"]) == (1, 2, 10)
    assert (stats["demo"], stats["stopping"], stats["storage_error"]) == (False, False, None)
    eventually(lambda: held.http.get("/stats").json()["running"], "the holder's start")
    [running] = held.http.get("/stats").json()["running"]
    assert (running["id"], running["type"], running["attempt"]) == ("holder", "work", 1)
    assert running["worker"] == 0
    gate.open()
    held.queue.join(DEADLINE)
    stats = held.http.get("/stats").json()
    assert stats["running"] == []
    assert stats["totals"]["wait"]["p50"] <= stats["totals"]["wait"]["p99"]


def test_a_handler_may_call_its_thread_what_it_likes(open_service: OpenService, gate: Gate) -> None:
    def named(job: Job) -> None:
        threading.current_thread().name = "mine"
        if job.payload == "waits":
            gate.wait()

    live = open_service({"work": named}, workers=1)
    live.queue.wait(live.create()["id"], DEADLINE)
    reaches(live.queue, live.create(payload="waits")["id"], Status.PROCESSING)
    eventually(lambda: len(live.queue.metrics().running) == 1, "the handler's start")
    assert [job["worker"] for job in live.http.get("/stats").json()["running"]] == [0]


class TestMetrics:
    def test_jobs_by_status_and_priority(self, live: Live) -> None:
        live.create(priority="high")
        live.create(priority="low", payload="fails")
        live.queue.join(DEADLINE)
        samples = scrape(live)
        for priority in Priority:
            for status in Status:
                expected = (priority, status) in (("high", "completed"), ("low", "failed"))
                assert value(samples, "jobs", priority=priority, status=status) == expected

    def test_the_waits_of_a_lane_add_up(self, live: Live) -> None:
        live.post("/jobs/batch", {"jobs": [{"type": "work", "priority": "low"}] * 100})
        live.queue.join(DEADLINE)
        samples = scrape(live)
        for name in ("wait", "run"):
            assert value(samples, f"{name}_seconds_count", priority="low") == 100
            assert value(samples, f"{name}_seconds_bucket", priority="low", le="+Inf") == 100
            assert value(samples, f"{name}_seconds_bucket", priority="low", le="1800.0") == 100
            assert value(samples, f"{name}_seconds_sum", priority="low") > 0
            assert value(samples, f"{name}_seconds_count", priority="high") == 0

    def test_group_commit(self, live: Live) -> None:
        live.post("/jobs/batch", {"jobs": [{"type": "work"}] * 64})
        live.create()
        samples = scrape(live)
        assert value(samples, "commit_jobs_count") == 2
        assert value(samples, "commit_jobs_sum") == 65
        assert value(samples, "commit_jobs_bucket", le="1.0") == 1
        assert value(samples, "commit_jobs_bucket", le="64.0") == 2

    def test_the_oldest_of_each_lane(self, held: Live) -> None:
        held.create(priority="low")
        eventually(
            lambda: value(scrape(held), "oldest_queued_age_seconds", priority="low") > 0.01,
            "the job to age",
        )
        assert value(scrape(held), "oldest_queued_age_seconds", priority="high") == 0

    def test_utilisation(self, held: Live) -> None:
        eventually(lambda: value(scrape(held), "worker_utilisation_ratio") > 0.1, "work")
        assert value(scrape(held), "workers") == 1
        assert value(scrape(held), "lane_capacity_jobs") == 2

    def test_what_was_refused(self, held: Live) -> None:
        assert value(scrape(held), "refused_requests_total", problem="queue-full") == 0
        for _ in range(3):
            held.post("/jobs", {"type": "work"})
        assert value(scrape(held), "refused_requests_total", problem="queue-full") == 1

    def test_what_was_refused_before_it_came_to_the_queue(self, live: Live) -> None:
        live.http.get("/jobs", headers={"Host": "elsewhere.example"})
        live.http.post("/jobs", json={"type": "work", "priority": "urgent"})
        live.http.post("/jobs", content=b"x" * 2_000_000)
        for name in ("host", "invalid", "too-large"):
            assert value(scrape(live), "refused_requests_total", problem=name) == 1, name

    def test_names_and_units_by_convention(self, live: Live) -> None:
        for family in text_string_to_metric_families(live.http.get("/metrics").text):
            assert family.name.startswith("jobqueue_")
            assert family.documentation.endswith(".")
            assert not re.search("_(ms|millis|percent)", family.name)
            assert (family.type == "counter") == any(
                sample.name.endswith("_total") for sample in family.samples
            )


class TestPages:
    @pytest.mark.parametrize("path", ["/", "/docs"])
    def test_they_load_only_what_is_here(self, live: Live, path: str) -> None:
        page = live.http.get(path)
        assert page.headers["content-type"].startswith("text/html")
        files = re.findall(r'(?:src|href)="([^"#]+)"', html.unescape(page.text))
        assert files
        for file in files:
            assert not file.startswith(("/", "http"))  # a proxy may have put it under a path
            assert live.http.get(file).status_code == 200
        assert not re.search(r"<script>|<style>|\son\w+=|\sstyle=", page.text)  # the policy's

    def test_the_openapi_document_has_every_endpoint(self, live: Live) -> None:
        document = live.http.get("/openapi.json").json()
        assert set(document["paths"]) == {
            "/health",
            "/ready",
            "/jobs",
            "/jobs/batch",
            "/jobs/{job_id}",
            "/jobs/{job_id}/retry",
            "/jobs/{job_id}/delete",
            "/cancel-all",
            "/retry-all",
            "/purge",
            "/dead-letters",
            "/pause",
            "/resume",
            "/paused",
            "/workers",
            "/periodic",
            "/periodic/{name}",
            "/periodic/{name}/pause",
            "/periodic/{name}/resume",
            "/groups",
            "/stats",
            "/events",
            "/metrics",
        }

    def test_problems_are_explained(self, live: Live) -> None:
        name = live.http.get("/jobs/nobody").json()["type"].removeprefix("/problems#")
        assert f"{name}" in live.http.get("/problems").text

    def test_an_unknown_address_is_a_problem_too(self, live: Live) -> None:
        for method, path, status in (("GET", "/nowhere", 404), ("PATCH", "/jobs", 405)):
            answer = live.http.request(method, path)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert "this address: GET /docs shows " in answer.json()["detail"]
