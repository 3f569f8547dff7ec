"""The endpoints for jobs, over real sockets: create, look, retry, cancel."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from final import Job, JobRecord, Snooze, Status, current_job
from final.service.jobs import PRODUCERS
from tests.final import inside
from tests.final.helpers import eventually, reaches
from tests.helpers import DEADLINE, Background, Gate
from tests.service.conftest import OpenService
from tests.service.helpers import Live, client, forget, head


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

    def test_one_whose_unique_key_is_held_is_answered_with_the_job_that_is_there(
        self, live: Live
    ) -> None:
        unique = {"key": "report-42", "within": 3_600}
        first = live.create(payload=1, unique=unique)
        assert first["unique"] == "report-42"
        answer = live.post("/jobs", {"type": "work", "payload": 2, "unique": unique})
        assert answer.status_code == 200
        assert (answer.json()["id"], answer.json()["payload"]) == (first["id"], 1)
        assert answer.headers["location"] == f"/jobs/{first['id']}"
        batch = {"jobs": [{"type": "work", "unique": unique}, {"type": "work", "id": "other"}]}
        created = live.post("/jobs/batch", batch).json()
        assert created == {"ids": [first["id"], "other"], "existing": [first["id"]]}

    def test_one_that_waits_is_replaced(self, live: Live) -> None:
        unique = {"key": "index", "then": "replace", "max_wait": 7_200}
        first = live.create(payload=1, run_at=3_600, unique=unique)
        answer = live.post(
            "/jobs", {"type": "work", "payload": 2, "run_at": 7_000, "unique": unique}
        )
        assert answer.status_code == 200
        assert (answer.json()["id"], answer.json()["payload"]) == (first["id"], 2)
        assert answer.json()["due_at"] > first["due_at"]

    @pytest.mark.parametrize(
        ("unique", "told"),
        [
            ({"key": ""}, "unique.key"),
            ({"key": "k", "within": 0}, "unique.within"),
            ({"key": "k", "until": "never"}, "unique.until"),
            ({"key": "k", "within": 5, "until": "ended"}, "not both"),
            ({"key": "k", "max_wait": 5}, "what is skipped puts nothing off"),
            ("k", "unique"),
        ],
    )
    def test_a_unique_key_that_makes_no_sense(self, live: Live, unique: Any, told: str) -> None:
        answer = live.post("/jobs", {"type": "work", "unique": unique})
        assert answer.status_code == 422
        assert told in answer.text

    def test_jobs_that_come_after_others(self, live: Live) -> None:
        """In any order; what becomes of the parent is answered with the child."""
        child = {"type": "work", "id": "child", "after": ["parent"]}
        parent = {"type": "work", "id": "parent", "run_at": 3_600}
        all_the_same = {"type": "work", "id": "last", "after": ["parent"], "if_failed": "run"}
        created = live.post("/jobs/batch", {"jobs": [child, parent, all_the_same]})
        assert created.status_code == 201
        waits = live.http.get("/jobs/child").json()
        assert (waits["status"], waits["after"]) == ("waiting", ["parent"])
        [listed] = live.http.get("/jobs?status=waiting&limit=1").json()["jobs"]
        assert listed["id"] in ("child", "last")
        assert live.http.delete("/jobs/parent").json()["status"] == "cancelled"
        assert live.queue.wait("last", DEADLINE).status is Status.COMPLETED
        ended = live.http.get("/jobs/child").json()
        assert ended["status"] == "cancelled"
        assert ended["error"] == "Job parent, which it comes after, was cancelled."

    def test_a_parent_that_is_not_there(self, live: Live) -> None:
        jobs = [{"type": "work", "id": "in"}, {"type": "work", "after": ["nobody"]}]
        answer = live.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 409
        assert "No job 'nobody' for another one to come after" in answer.json()["detail"]
        assert live.stored() == len(answer.json().get("accepted", []))

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"after": "parent"}, "after"),
            ({"after": [7]}, "after"),
            ({"after": ["x"], "if_failed": "retry"}, "if_failed"),
            ({"if_failed": "run"}, "name some in after="),
            ({"after": ["me"], "id": "me"}, "cannot come after itself"),
            ({"after": ["x"], "unique": {"key": "k"}}, "not for a job that comes after"),
        ],
    )
    def test_parents_that_make_no_sense(self, live: Live, fields: Any, told: str) -> None:
        answer = live.post("/jobs", {"type": "work", **fields})
        assert answer.status_code == 422
        assert told in answer.text

    def test_jobs_that_wait_for_each_other(self, live: Live) -> None:
        circle = [{"type": "work", "id": a, "after": [b]} for a, b in ("xy", "yx")]
        answer = live.post("/jobs/batch", {"jobs": circle})
        assert answer.status_code == 422
        assert "would never run" in answer.json()["detail"]
        assert live.stored() == 0

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

    def test_how_far_it_is_and_how_often_it_was_put_off(self, open_service: OpenService) -> None:
        def handler(job: Job) -> None:
            if job.payload == "later":
                raise Snooze(3_600)
            current_job().progress(0.4, "page 4")

        live = open_service({"work": handler})
        live.create(id="later", payload="later")
        live.create(id="export")
        reaches(live.queue, "later", Status.SCHEDULED)
        later = live.http.get("/jobs/later").json()
        assert (later["status"], later["attempts"], later["snoozes"]) == ("scheduled", 0, 1)
        assert later["progress"] is None
        live.queue.wait("export", DEADLINE)
        export = live.http.get("/jobs/export").json()
        said = export["progress"]
        assert (said["fraction"], said["message"], export["snoozes"]) == (0.4, "page 4", 0)
        assert said["at"] >= export["started_at"]
        listed = {job["id"]: job for job in live.http.get("/jobs").json()["jobs"]}
        assert (listed["later"]["progress"], listed["export"]["progress"]) == (None, said)

    def test_a_group(self, live: Live) -> None:
        job = live.create(group="tenant-7", run_at=60)
        assert job["group"] == "tenant-7"
        assert live.queue.get(job["id"]).group == "tenant-7"
        assert live.post("/jobs", {"type": "work", "group": ""}).status_code == 422

    def test_what_it_is_about(self, live: Live) -> None:
        meta = {"user": "7", "source": "web"}
        job = live.create(meta=meta, run_at=60)
        assert job["meta"] == meta
        assert live.http.get(f"/jobs/{job['id']}").json()["meta"] == meta
        assert live.queue.get(job["id"]).meta == meta
        assert live.create()["meta"] == {}

    @pytest.mark.parametrize(
        "meta",
        [
            "user:7",
            {"user": 7},
            {"": "7"},
            {"user": ""},
            {"a:b": "7"},
            {"user": "7" * 501},
            {str(n): "7" for n in range(21)},
        ],
    )
    def test_it_cannot_be_about_everything(self, live: Live, meta: Any) -> None:
        answer = live.post("/jobs", {"type": "work", "meta": meta})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"].startswith("meta")
        assert live.stored() == 0

    def test_the_same_id_again_is_answered_with_the_job_that_is_there(self, live: Live) -> None:
        live.create(id="order-1", payload="first")
        answer = live.post("/jobs", {"type": "work", "id": "order-1", "payload": "second"})
        assert answer.status_code == 409
        assert answer.json()["job"]["id"] == "order-1"
        assert "payload" not in answer.json()["job"]  # it may be large
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

    def test_an_id_sent_again_is_in_whether_there_is_room_or_not(self, held: Live) -> None:
        for n in range(2):
            held.create(id=f"waits-{n}")
        answer = held.post("/jobs", {"type": "work", "id": "waits-0"})
        assert answer.status_code == 409
        assert answer.json()["job"]["id"] == "waits-0"
        jobs = [
            {"type": "work", "id": "high", "priority": "high"},
            {"type": "work", "id": "holder"},
        ]
        answer = held.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 409
        assert (answer.json()["ids"], answer.json()["accepted"]) == (["holder"], ["high"])

    @pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
    def test_a_full_lane_does_not_hold_up_the_others(
        self, held: Live, gate: Gate, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        """As many wait for room in one as may wait in it; in another there is room."""
        monkeypatch.setattr("final.service.jobs.PATIENCE", DEADLINE)
        low = {"type": "work", "priority": "low"}
        for _ in range(2):
            held.create(priority="low")
        waiting = [
            Background(held.post, path, low if path == "/jobs" else {"jobs": [low]})
            for _ in range(PRODUCERS + 5)
        ]
        eventually(lambda: inside.producers_in_line(held.queue) == PRODUCERS, "them to wait")
        high = {"type": "work", "priority": "high"}
        with client(f"http://127.0.0.1:{held.port}") as http:
            answer = http.post(path, json=high if path == "/jobs" else {"jobs": [high]})
            assert answer.status_code == 201
        assert inside.producers_in_line(held.queue) == PRODUCERS
        gate.open()
        assert {answer.result().status_code for answer in waiting} == {201}

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
        assert answer.json() == {"ids": [f"b{n}" for n in range(9)], "existing": []}
        live.queue.join(DEADLINE)
        assert live.queue.metrics().completed == 9

    def test_what_came_with_it_was_not_there_before(self, live: Live) -> None:
        page = {"type": "work", "unique": {"key": "page"}}
        jobs = [{**page, "id": "a", "run_at": 3_600}, {**page, "id": "b"}]
        answer = live.post("/jobs/batch", {"jobs": jobs})
        assert answer.json() == {"ids": ["a", "a"], "existing": []}

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"type": "nope"}, "type"),
            ({"type": "work\u0000"}, "type"),
            ({"type": "work", "meta": {"": "x"}}, "meta"),
        ],
    )
    def test_the_one_that_is_wrong_is_named(
        self, live: Live, wrong: dict[str, object], field: str
    ) -> None:
        jobs = [{"type": "work"}] * 3 + [wrong]
        answer = live.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [f"jobs.3.{field}"]

    def test_where_the_room_ends_the_answer_says_what_is_in(self, held: Live) -> None:
        jobs = [{"type": "work", "id": f"b{n}"} for n in range(5)]
        answer = held.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 503
        assert (answer.json()["accepted"], answer.json()["accepted_count"]) == (["b0", "b1"], 2)
        assert [job.id for job in held.queue.jobs()] == ["b1", "b0", "holder"]

    def test_of_very_long_ids_those_that_fit_are_listed_and_all_are_counted(
        self, live: Live
    ) -> None:
        ids = [f"{n:x<200}" for n in range(999)]
        jobs = [{"type": "work", "id": job_id} for job_id in [*ids, ids[0]]]
        answer = live.post("/jobs/batch", {"jobs": jobs})
        assert answer.status_code == 409
        problem = answer.json()
        assert (problem["ids"], problem["accepted_count"]) == ([ids[0]], 999)
        assert problem["accepted"] == ids[: len(problem["accepted"])]
        assert 100 < len(problem["accepted"]) < 999
        assert len(answer.content) < 64_000

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
            more = {"group": f"g{n % 5}", "meta": {"user": str(n % 5), "at": f"{n % 2}:00"}}
            live.create(id=f"j{n}", priority=priority, payload=None if n % 4 else "fails", **more)
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
            ("meta=user:1", ["j11", "j6", "j1"]),
            ("meta=user:1&meta=at:1:00", ["j11", "j1"]),
            ("meta=user:1&meta=at:1:00&group=g2", []),
            ("group=g2", ["j7", "j2"]),
        ],
    )
    def test_filters(self, full: Live, query: str, expected: list[str]) -> None:
        assert self.ids(full.http.get(f"/jobs?{query}").json()) == expected

    @pytest.mark.parametrize(
        "start",
        [
            "/jobs?limit=5",
            "/jobs?limit=1&status=failed&type=work",
            "/jobs?limit=1&meta=at:1:00&meta=user:1",
            "/dead-letters?limit=1&meta=at:0:00",
        ],
    )
    def test_following_next_shows_each_once(self, full: Live, start: str) -> None:
        everything = self.ids(full.http.get(re.sub(r"limit=\d", "limit=100", start)).json())
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
        assert re.fullmatch(r"/dead-letters\?limit=2&position=\d+", page["next"])
        assert self.ids(full.http.get("/dead-letters?limit=2&before=j8").json()) == ["j4", "j0"]

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=101",
            "limit=9" * 9,
            "limit=x",
            "status=x",
            "priority=1",
            "meta=user",
            "meta=:7",
            "meta=user:",
            "meta=a=b:7",
            "meta=user:7&meta=user:8",
            "status=queued&status=failed",  # and not only those that have failed
            "limit=1&limit=1",
        ],
    )
    def test_what_makes_no_sense_is_refused(self, live: Live, query: str) -> None:
        assert live.http.get(f"/jobs?{query}").status_code == 422

    def test_a_page_goes_on_where_the_history_has_let_go_of_the_last_one(
        self, open_service: OpenService
    ) -> None:
        live = open_service(history=1)
        live.create(id="later", run_at=3_600)
        live.create(id="last")
        live.queue.wait("last", DEADLINE)
        page = live.http.get("/jobs?limit=1").json()
        forget(live, "last")
        assert self.ids(live.http.get(page["next"]).json()) == ["later"]
        assert live.http.get("/jobs?before=last").status_code == 404

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

    @pytest.mark.parametrize(
        "job_id", ["a/b", "..", "ä ö", "<b>", "x/retry", "a?b#c", "%2F", "a\nb", "a\n"]
    )
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


class TestLetGoOf:
    """What the history has forgotten before it is looked at for the answer."""

    @pytest.fixture
    def brief(self, open_service: OpenService, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Live:
        """A service that keeps no job, and looks at one when all is done."""

        failed: list[str] = []

        def work(job: Job) -> None:
            if job.payload == "waits":
                gate.wait()
            if job.payload == "fails" and not failed:
                failed.append(job.id)
                raise RuntimeError("not yet")

        live = open_service({"work": work}, history=0, max_retries=0)
        look = live.queue.get

        def look_late(job_id: str) -> JobRecord:
            gate.open()
            live.queue.join(DEADLINE)
            return look(job_id)

        monkeypatch.setattr(live.queue, "get", look_late)
        return live

    def test_it_was_created_all_the_same(self, brief: Live) -> None:
        answer = brief.post("/jobs", {"type": "work", "id": "gone", "payload": [1], "group": "g"})
        assert (answer.status_code, answer.headers["location"]) == (201, "/jobs/gone")
        document = answer.json()
        assert (document["payload"], document["group"], document["status"]) == ([1], "g", "queued")
        assert brief.http.get("/jobs/gone").status_code == 404

    def test_it_was_cancelled_all_the_same(self, brief: Live) -> None:
        brief.queue.enqueue(Job("later", kind="work", run_at=3_600))
        answer = brief.http.delete("/jobs/later")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert brief.http.delete("/jobs/later").status_code == 404

    def test_it_was_retried_all_the_same(self, brief: Live) -> None:
        brief.create(id="dead", payload="fails")
        answer = brief.http.post("/jobs/dead/retry")
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        assert brief.http.get("/jobs/dead").status_code == 404

    def test_it_was_there_all_the_same(self, brief: Live) -> None:
        brief.queue.enqueue(Job("there", "waits", kind="work"))
        answer = brief.post("/jobs", {"type": "work", "id": "there"})
        assert (answer.status_code, answer.json()["ids"]) == (409, ["there"])


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
