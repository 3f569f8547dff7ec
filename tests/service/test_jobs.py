"""The endpoints for jobs, over real sockets: create, look, retry, cancel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from final import Job, Status
from tests.final import inside
from tests.final.helpers import eventually
from tests.helpers import DEADLINE, Background, Gate
from tests.service.conftest import OpenService
from tests.service.helpers import Live, head


class TestCreate:
    def test_it_is_answered_with_the_job_and_where_it_is(self, live: Live) -> None:
        answer = live.post("/jobs", {"type": "work", "payload": {"to": "ada"}, "priority": "high"})
        assert answer.status_code == 201
        job = answer.json()
        assert job["type"] == "work"
        assert job["priority"] == "high"
        assert job["payload"] == {"to": "ada"}
        assert job["status"] in ("queued", "processing", "completed")
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        assert live.http.get(answer.headers["location"]).json()["id"] == job["id"]

    def test_it_runs(self, live: Live) -> None:
        job = live.create(payload=[1, "two", None])
        assert live.queue.wait(job["id"], DEADLINE).status is Status.COMPLETED
        done = live.http.get(f"/jobs/{job['id']}").json()
        assert (done["status"], done["result"], done["attempts"]) == (
            "completed",
            [1, "two", None],
            1,
        )
        assert done["enqueued_at"] <= done["started_at"] <= done["ended_at"]

    def test_it_is_in_the_file_when_it_is_answered(
        self, open_service: OpenService, path: str
    ) -> None:
        live = open_service(path=path)
        job = live.create(run_at=3_600)
        live.close()
        reopened = open_service(path=path)
        assert reopened.http.get(f"/jobs/{job['id']}").json()["status"] == "scheduled"

    def test_run_at_may_be_a_time(self, live: Live) -> None:
        due = datetime.now(UTC) + timedelta(hours=1)
        for text in (due.isoformat(), due.astimezone().isoformat()):
            job = live.create(run_at=text)
            assert job["status"] == "scheduled"
            assert datetime.fromisoformat(job["due_at"]) == due

    def test_run_at_may_be_seconds_from_now(self, live: Live) -> None:
        job = live.create(run_at=60)
        enqueued, due = (datetime.fromisoformat(job[f]) for f in ("enqueued_at", "due_at"))
        assert abs((due - enqueued).total_seconds() - 60) < 1

    def test_a_timeout_of_its_own(self, open_service: OpenService, gate: Gate) -> None:
        live = open_service({"work": lambda job: gate.wait()}, max_retries=0)
        job = live.create(timeout=0.05)
        assert job["timeout"] == 0.05
        assert live.queue.wait(job["id"], DEADLINE).error.startswith("TimeoutError")  # type: ignore[union-attr]

    def test_the_same_id_again_is_answered_with_the_job_that_is_there(self, live: Live) -> None:
        live.create(id="order-1", payload="first")
        answer = live.post("/jobs", {"type": "work", "id": "order-1", "payload": "second"})
        assert answer.status_code == 409
        assert answer.json()["job"]["payload"] == "first"
        assert live.stored() == 1

    def test_a_type_without_a_handler_is_refused(self, live: Live) -> None:
        answer = live.post("/jobs", {"type": "fax"})
        assert answer.status_code == 422
        assert "'fax' has no handler here; there are: work" in answer.json()["detail"]
        assert live.stored() == 0

    def test_a_full_lane_is_answered_with_503_and_nothing_is_stored(self, held: Live) -> None:
        for n in range(2):
            held.create(id=f"waits-{n}")
        answer = held.post("/jobs", {"type": "work", "id": "too-much"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["type"] == "/problems#queue-full"
        assert answer.elapsed.total_seconds() >= 0.1  # it waited for room
        assert held.http.get("/jobs/too-much").status_code == 404
        assert held.stored() == 3

    def test_the_other_lanes_still_have_room(self, held: Live) -> None:
        for n in range(2):
            held.create(id=f"waits-{n}")
        held.create(priority="high")

    def test_a_full_lane_can_be_looked_at(
        self, held: Live, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While more producers wait for room than there are threads for anything else."""
        monkeypatch.setattr("final.service.jobs.PATIENCE", DEADLINE)
        for n in range(2):
            held.create(id=f"waits-{n}")
        waiting = [Background(held.post, "/jobs", {"type": "work"}) for _ in range(50)]
        eventually(lambda: inside.producers_in_line(held.queue) == 50, "all of them to wait")
        assert held.http.get("/stats").json()["totals"]["queued"] == 2
        gate.open()
        assert {answer.result().status_code for answer in waiting} == {201}

    def test_room_that_comes_in_time_is_taken(self, held: Live, gate: Gate) -> None:
        for n in range(2):
            held.create(id=f"waits-{n}")
        answer = Background(held.post, "/jobs", {"type": "work", "id": "patient"})
        gate.open()
        assert answer.result().status_code in (201, 503)  # on a busy machine 100 ms are short
        known = held.http.get("/jobs/patient").status_code
        assert known == (200 if answer.result().status_code == 201 else 404)


class TestBatch:
    def test_ids_come_back_in_order(self, live: Live) -> None:
        answer = live.post(
            "/jobs/batch", {"jobs": [{"type": "work", "id": f"b{n}"} for n in range(9)]}
        )
        assert answer.status_code == 201
        assert answer.json() == {"ids": [f"b{n}" for n in range(9)]}
        live.queue.join(DEADLINE)
        assert live.queue.metrics().completed == 9

    def test_where_the_room_ends_the_answer_says_what_is_in(self, held: Live) -> None:
        jobs = [{"type": "work", "id": f"b{n}"} for n in range(5)]
        answer = held.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 503
        assert answer.json()["accepted"] == ["b0", "b1"]
        assert [job.id for job in held.queue.jobs()] == ["b1", "b0", "holder"]

    def test_one_that_makes_no_sense_refuses_them_all(self, live: Live) -> None:
        jobs = [{"type": "work"}, {"type": "work", "priority": "urgent"}]
        answer = live.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "jobs.1.priority"
        assert live.stored() == 0

    def test_an_id_that_is_taken_is_named(self, live: Live) -> None:
        live.create(id="there")
        answer = live.post("/jobs/batch", {"jobs": [{"type": "work", "id": "there"}]})
        assert answer.status_code == 409
        assert (answer.json()["ids"], answer.json()["accepted"]) == (["there"], [])

    @pytest.mark.parametrize("count", [0, 1_001])
    def test_it_is_bounded(self, live: Live, count: int) -> None:
        assert live.post("/jobs/batch", {"jobs": [{"type": "work"}] * count}).status_code == 422
        assert live.stored() == 0


class TestLists:
    @pytest.fixture
    def full(self, live: Live) -> Live:
        """Twelve jobs, j0 to j11; every third is low, every fourth fails."""
        for n in range(12):
            priority = "medium" if n % 3 else "low"
            live.create(id=f"j{n}", priority=priority, payload=None if n % 4 else "fails")
        live.queue.join(DEADLINE)
        return live

    @staticmethod
    def ids(page: dict[str, Any]) -> list[str]:
        return [job["id"] for job in page["jobs"]]

    def test_the_newest_come_first(self, full: Live) -> None:
        page = full.http.get("/jobs").json()
        assert self.ids(page) == [f"j{n}" for n in range(11, -1, -1)]
        assert page["next"] is None

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("status=failed", ["j8", "j4", "j0"]),
            ("priority=low", ["j9", "j6", "j3", "j0"]),
            ("priority=low&status=failed", ["j0"]),
            ("type=fax", []),
            ("status=queued", []),
        ],
    )
    def test_filters(self, full: Live, query: str, expected: list[str]) -> None:
        assert self.ids(full.http.get(f"/jobs?{query}").json()) == expected

    @pytest.mark.parametrize("start", ["/jobs?limit=5", "/jobs?limit=1&status=failed&type=work"])
    def test_following_next_shows_each_once(self, full: Live, start: str) -> None:
        everything = self.ids(full.http.get(start.replace("limit", "x")).json())
        seen, following = [], start
        while following:
            page = full.http.get(following).json()
            seen += self.ids(page)
            following = page["next"]
            full.create()  # comes before the first page
        assert seen == everything

    def test_entries_leave_out_what_may_be_large(self, full: Live) -> None:
        entry = full.http.get("/jobs?limit=1").json()["jobs"][0]
        assert "payload" not in entry
        assert "result" not in entry

    def test_dead_letters_say_why(self, full: Live) -> None:
        page = full.http.get("/dead-letters?limit=2").json()
        assert self.ids(page) == ["j8", "j4"]
        assert {job["error"] for job in page["jobs"]} == {"RuntimeError: it went wrong"}
        assert page["next"] == "/dead-letters?limit=2&before=j4"

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=9" * 9, "limit=x", "status=x", "priority=1"]
    )
    def test_what_makes_no_sense_is_refused(self, live: Live, query: str) -> None:
        assert live.http.get(f"/jobs?{query}").status_code == 422

    def test_a_page_after_an_unknown_job(self, live: Live) -> None:
        assert live.http.get("/jobs?before=nobody").status_code == 404


class TestOne:
    def test_with_its_failed_attempts(self, open_service: OpenService) -> None:
        live = open_service(max_retries=0)
        live.create(id="x", payload="fails")
        live.queue.join(DEADLINE)
        job = live.http.get("/jobs/x").json()
        assert job["status"] == "failed"
        [failure] = job["failures"]
        assert failure["number"] == 1
        assert failure["error"] == job["error"] == "RuntimeError: it went wrong"
        assert 'raise RuntimeError("it went wrong")' in failure["traceback"]

    @pytest.mark.parametrize("job_id", ["a/b", "..", "ä ö", "<b>", "x/retry", "a?b#c", "%2F"])
    def test_any_id_of_a_python_program_can_be_looked_up(self, live: Live, job_id: str) -> None:
        live.queue.enqueue(Job(job_id, kind="work"))
        live.queue.join(DEADLINE)
        path = f"/jobs/{quote(job_id, safe='').replace('.', '%2E')}"
        with live.raw() as connection:  # clients tidy up such paths
            connection.sendall(head("GET", path, Connection="close"))
            with connection.makefile("rb") as answer:
                assert b"200 OK" in answer.readline()

    def test_bytes_are_shown_as_base64(self, live: Live) -> None:
        live.queue.enqueue(Job("raw", b"\x00\xff", kind="work"))
        live.queue.join(DEADLINE)
        job = live.http.get("/jobs/raw").json()
        assert job["payload"] == job["result"] == {"base64": "AP8="}

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_an_unknown_one(self, live: Live, method: str) -> None:
        answer = live.http.request(method, "/jobs/nobody")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "/problems#unknown-job"


class TestRetry:
    def test_a_dead_letter_runs_again(self, open_service: OpenService) -> None:
        calls: list[str] = []

        def fails_once(job: Job) -> None:
            calls.append(job.id)
            if len(calls) == 1:
                raise RuntimeError("not yet")

        live = open_service({"work": fails_once}, max_retries=0)
        live.create(id="x")
        live.queue.join(DEADLINE)
        answer = live.http.post("/jobs/x/retry")
        assert answer.status_code == 200
        assert live.queue.wait("x", DEADLINE).status is Status.COMPLETED
        assert calls == ["x", "x"]

    def test_another_job_is_left_alone(self, live: Live) -> None:
        live.create(id="x")
        live.queue.join(DEADLINE)
        answer = live.http.post("/jobs/x/retry")
        assert answer.status_code == 409
        assert "only a failed job can be retried" in answer.json()["detail"]
        assert live.http.get("/jobs/x").json()["attempts"] == 1

    def test_an_unknown_one(self, live: Live) -> None:
        assert live.http.post("/jobs/nobody/retry").status_code == 404


class TestCancel:
    def test_a_waiting_job_never_runs(self, held: Live, gate: Gate) -> None:
        held.create(id="waits")
        answer = held.http.delete("/jobs/waits")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert held.http.delete("/jobs/waits").status_code == 200  # as often as one likes
        gate.open()
        held.queue.join(DEADLINE)
        assert held.http.get("/jobs/waits").json()["attempts"] == 0

    def test_a_completed_one_stays_so(self, live: Live) -> None:
        live.create(id="x")
        live.queue.join(DEADLINE)
        answer = live.http.delete("/jobs/x")
        assert answer.status_code == 409
        assert "The job is completed" in answer.json()["detail"]


class TestGoneClients:
    def test_half_a_request_stores_nothing(self, live: Live) -> None:
        body = b'{"type": "work", "id": "half"}'
        with live.raw() as connection:
            whole = (
                head("POST", "/jobs", Content_Type="application/json", Content_Length="30") + body
            )
            connection.sendall(whole[:-1])
        live.create(id="later")
        assert live.http.get("/jobs/half").status_code == 404

    def test_a_client_that_leaves_before_the_answer_finds_its_job(self, live: Live) -> None:
        body = b'{"type": "work", "id": "left", "payload": "all of it"}'
        length = str(len(body))
        with live.raw() as connection:
            request = head("POST", "/jobs", Content_Type="application/json", Content_Length=length)
            connection.sendall(request + body)
        eventually(lambda: live.http.get("/jobs/left").status_code == 200, "the job to be there")
        assert live.queue.wait("left", DEADLINE).result == "all of it"
        assert live.post("/jobs", {"type": "work", "id": "left"}).status_code == 409
