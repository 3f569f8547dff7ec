"""Periodic jobs over HTTP, from the command line, and on the page."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from final import Every, Job, JobQueue
from final.service.demo import demo_handlers
from tests.final.helpers import nothing
from tests.helpers import Journal
from tests.service.conftest import OpenService
from tests.service.helpers import Live
from tests.service.test_cli import Run, run, silent_port  # noqa: F401  (fixtures)
from tests.service.test_dashboard import OpenPage, browser, expect, open_page  # noqa: F401

DAY = 86_400
NIGHTLY = {
    "name": "nightly",
    "schedule": "0 3 * * *",
    "timezone": "Europe/Berlin",
    "missed": "all",
    "job": {"type": "report", "payload": {"pages": 3}, "priority": "low", "unique": {"key": "r"}},
}


class TestHttp:
    def test_an_entry_comes_is_paused_resumed_and_goes(self, open_service: OpenService) -> None:
        live = open_service({"report": nothing})
        assert live.http.get("/periodic").json() == {"periodic": []}
        added = live.http.post("/periodic", json=NIGHTLY)
        assert (added.status_code, added.headers["Location"]) == (201, "/periodic/nightly")
        entry = added.json()
        following = datetime.fromisoformat(entry.pop("next"))
        assert entry == {
            "name": "nightly",
            "schedule": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "missed": "all",
            "type": "report",
            "priority": "low",
            "payload": {"pages": 3},
            "paused": False,
            "last": None,
        }
        assert following.minute == 0
        [listed] = live.http.get("/periodic").json()["periodic"]
        assert listed["name"] == "nightly"
        paused = live.http.post("/periodic/nightly/pause").json()
        assert (paused["paused"], paused["next"]) == (True, None)
        resumed = live.http.post("/periodic/nightly/resume").json()
        assert (resumed["paused"], datetime.fromisoformat(resumed["next"])) == (False, following)
        assert live.http.delete("/periodic/nightly").json()["name"] == "nightly"
        assert live.http.get("/periodic").json() == {"periodic": []}

    def test_its_jobs_run(self, open_service: OpenService, journal: Journal) -> None:
        live = open_service({"report": lambda job: journal.write(job.payload)})
        new = {"schedule": 1, "job": {"type": "report", "payload": "x"}}
        assert live.http.post("/periodic", json=new).json()["name"] == "report every 1 s"
        journal.wait_for("x")

    def test_a_name_may_be_anything_that_can_be_quoted(self, open_service: OpenService) -> None:
        live = open_service(nothing)
        for name in ("a/b pause", "*/5 * * * *", "x/pause", "?#%", "x\ny", "x\n"):
            new = {"schedule": DAY, "name": name, "job": {"type": "x"}}
            place = live.http.post("/periodic", json=new).headers["Location"]
            assert live.http.post(f"{place}/pause").json()["paused"]
            assert live.http.delete(place).json()["name"] == name

    @pytest.mark.parametrize(
        ("wrong", "field", "words"),
        [
            ({"schedule": "61 * * * *"}, "schedule", "is no cron text (Bad minute)"),
            ({"schedule": 0}, "schedule", "Seconds are 1 to"),
            ({"schedule": None}, "schedule", "It is cron text like '0 3 * * *', or seconds."),
            ({"timezone": "Mars"}, "timezone", "'Mars' is not known here"),
            ({"missed": "never"}, "missed", "Input should be 'once', 'all' or 'skip'"),
            ({"name": ".."}, "name", "String should match pattern"),
            ({"job": {"type": "report", "run_at": 5}}, "job", "has run_at="),
            ({"job": {"type": "report", "id": "mine"}}, "job.id", "cannot be chosen"),
            ({"job": {"type": "typo"}}, "job.type", "'typo' has no handler here"),
            ({"unknown": 1}, "unknown", "Extra inputs are not permitted"),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_is_said(
        self, open_service: OpenService, wrong: dict[str, Any], field: str, words: str
    ) -> None:
        live = open_service({"report": nothing})
        answer = live.http.post("/periodic", json={**NIGHTLY, **wrong})
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert error["field"] == field
        assert words in error["message"]
        assert "Every." not in answer.text  # Python's words
        assert live.queue.periodic() == []

    def test_a_name_that_is_taken_and_one_that_is_not_there(
        self, open_service: OpenService
    ) -> None:
        live = open_service({"report": nothing})
        live.http.post("/periodic", json=NIGHTLY)
        taken = live.http.post("/periodic", json=NIGHTLY)
        assert (taken.status_code, taken.json()["type"]) == (409, "/problems#periodic-exists")
        for method, path in (("POST", "x/pause"), ("POST", "x/resume"), ("DELETE", "x")):
            answer = live.http.request(method, f"/periodic/{path}")
            assert (answer.status_code, answer.json()["type"]) == (
                404,
                "/problems#unknown-periodic",
            )

    def test_it_takes_the_token(self, open_service: OpenService) -> None:
        live = open_service(nothing, token="correct-horse-battery")
        assert live.http.get("/periodic").status_code == 401
        assert live.http.post("/periodic/x/pause").status_code == 401


class TestCommandLine:
    @pytest.fixture(params=["service", "file"])
    def place(self, request: Any, open_service: OpenService, tmp_path: Path) -> list[str]:
        if request.param == "service":
            return ["--url", f"http://127.0.0.1:{open_service({'report': nothing}).port}"]
        return ["--db", str(tmp_path / "jobs.db")]

    def test_the_same_for_a_service_and_a_file(self, run: Run, place: list[str]) -> None:  # noqa: F811
        options = ["--name", "nightly", "--timezone", "Europe/Berlin", "--missed", "all"]
        added = run(
            "periodic", "add", "0 3 * * *", "report", '{"n": 1}', *options, *place, "--json"
        )
        assert (added.code, added.document["payload"]) == (0, {"n": 1})
        again = run("periodic", "add", "60", "report", "--name", "nightly", *place)
        assert again.code == 1
        assert "nightly" in again.error
        shown = run("periodic", "list", *place)
        assert "nightly  0 3 * * *" in " ".join(shown.out.split(" ")).replace("   ", "  ") or (
            "nightly" in shown.out and "0 3 * * *" in shown.out
        )
        assert run("periodic", "pause", "nightly", *place, "--json").document["paused"] is True
        assert "paused" in run("periodic", "list", *place).out
        resumed = run("periodic", "resume", "nightly", *place, "--json").document
        assert (resumed["paused"], resumed["next"]) == (False, added.document["next"])
        assert run("periodic", "remove", "nightly", *place).code == 0
        assert run("periodic", "list", *place, "--json").documents == []
        for verb in ("pause", "resume", "remove"):
            assert run("periodic", verb, "nightly", *place).code == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["61 * * * *", "report"], "Bad minute"),
            (["60", "report", "--missed", "never"], "missed: Input should be"),
            (["60", "report", "--timezone", "Europe/Berlin"], "Every.timezone is for cron text"),
            (["60", "report", "{"], "The payload is no JSON"),
        ],
    )
    def test_what_makes_no_sense_is_misuse(
        self,
        run: Run,  # noqa: F811
        tmp_path: Path,
        arguments: list[str],
        words: str,
    ) -> None:
        ended = run("periodic", "add", *arguments, "--db", str(tmp_path / "jobs.db"))
        assert ended.code == 2
        assert words in ended.error

    def test_what_a_file_was_given_runs_at_the_next_start(
        self,
        run: Run,  # noqa: F811
        tmp_path: Path,
        journal: Journal,
    ) -> None:
        path = str(tmp_path / "jobs.db")
        run("periodic", "add", "1", "report", json.dumps("x"), "--db", path)
        with JobQueue({"report": lambda job: journal.write(job.payload)}, path=path):
            journal.wait_for("x")


class TestPage:
    def test_an_entry_is_shown_paused_and_resumed(
        self,
        open_service: OpenService,
        open_page: OpenPage,  # noqa: F811
    ) -> None:
        live: Live = open_service(demo_handlers(0.02), demo=True)
        page = open_page(live)
        card = page.get_by_role("region", name="Periodic jobs")
        expect(card).to_be_hidden()
        live.queue.add_periodic(Every(DAY, Job(kind="email"), name="<b>daily</b>"))
        row = card.get_by_role("row", name="<b>daily</b>")
        expect(row).to_contain_text("every 86400 s")
        expect(row).to_contain_text("medium email")
        expect(row).to_contain_text("in 23 h 59 min")
        row.get_by_role("button", name="Pause <b>daily</b>").click()
        expect(row).to_contain_text("paused")
        assert live.queue.periodic()[0].paused
        button = row.get_by_role("button", name="Resume <b>daily</b>")
        expect(button).to_be_focused()
        button.press("Enter")
        expect(row).not_to_contain_text("paused")
        assert not live.queue.periodic()[0].paused
        live.queue.remove_periodic("<b>daily</b>")
        expect(card).to_be_hidden()
