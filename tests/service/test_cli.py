"""The command line: over real sockets, on real files, and as processes where that is the point."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import typer.main

from final import Job, JobQueue, Pause, Snooze, Status, current_job
from final.beyond.filters import Filter
from final.service.cli import remote, showing
from final.service.cli.app import main
from tests.final.helpers import eventually, nothing, reaches
from tests.helpers import DEADLINE, Background, Gate
from tests.processes import ROOT, Program, needs_signals
from tests.service.conftest import OpenService
from tests.service.helpers import Live, forget

TOKEN = "correct-horse-battery"


class Ended(NamedTuple):
    code: int
    out: str
    error: str

    @property
    def documents(self) -> list[Any]:
        """With --json every line is one."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        [document] = self.documents
        return document


Run = Callable[..., Ended]

# The commands and their options, made once, as every process does: to make them takes a tenth of a
# second, and most commands less.
made_once = functools.cache(typer.main.get_command)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that refuses, for as long as the test runs: nobody else is given it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    silent_port: int,
) -> Run:
    """A command in an empty folder, with nothing on the default port."""
    monkeypatch.setattr(typer.main, "get_command", made_once)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", str(silent_port))
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("JOBQUEUE_URL", "JOBQUEUE_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        assert (captured.err == "") == (code == 0) or arguments[0] == "show"
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(params=["service", "file"])
def anywhere(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Iterator[Run]:
    """A command with --json on a service, and the same on a file; "dead" has failed in both."""
    path = tmp_path / "anywhere.db"
    with JobQueue(_fails, path=path, max_retries=0) as queue:
        queue.enqueue(Job("dead", kind="work"))
        queue.join(DEADLINE)
    if request.param == "file":
        yield lambda *arguments: run(*arguments, "--json", "--db", str(path))
        return
    live: Live = request.getfixturevalue("open_service")({"work": nothing}, path=path)
    yield lambda *arguments: run(*arguments, "--json", "--url", _url(live))


def _fails(job: Job) -> None:
    raise RuntimeError("it went \033[31mwrong")


def _url(live: Live) -> str:
    return f"http://127.0.0.1:{live.port}"


def test_how_far_a_job_is(run: Run, open_service: OpenService, gate: Gate) -> None:
    def handler(job: Job) -> None:
        if job.payload:
            current_job().progress(0.4, "page \033[31m4")
        gate.wait()

    live = open_service({"work": handler}, workers=2)
    live.create(id="silent")
    live.create(id="talks", payload=1)
    eventually(lambda: live.queue.get("talks").progress is not None, "the progress")
    for arguments in (["show", "talks"], ["stats"]):
        lines = run(*arguments, "--url", _url(live)).out.splitlines()
        [line] = [line for line in lines if "░ 40%" in line]  # (the workers may be 40% busy)
        assert "████░░░░░░ 40%" in line
    shown = run("show", "talks", "--url", _url(live)).out
    assert "page \N{REPLACEMENT CHARACTER}[31m4" in shown
    assert "snoozes" not in shown
    assert "progress" not in run("show", "silent", "--url", _url(live)).out
    gate.open()


def test_how_often_a_job_was_put_off(run: Run, tmp_path: Path) -> None:
    def later(job: Job) -> None:
        raise Snooze(3_600)

    path = tmp_path / "jobs.db"
    with JobQueue(later, path=path) as queue:
        queue.enqueue(Job("x"))
        reaches(queue, "x", Status.SCHEDULED)
    shown = run("show", "x", "--db", str(path)).out
    assert "snoozes" in shown
    assert "scheduled" in shown


WHOLE = {"type": None, "priority": None, "group": None}


class TestPauseAndScale:
    def test_pause_and_resume(self, anywhere: Run) -> None:
        jobs = [("pause", "--kind", "work"), ("pause", "--priority", "low"), ("pause",)]
        for command in jobs * 2:  # the second time changes nothing
            answer = anywhere(*command).document
        everything = [WHOLE, WHOLE | {"priority": "low"}, WHOLE | {"type": "work"}]
        assert answer == {"paused": everything}
        assert anywhere("stats").document["paused"] == everything
        assert anywhere("resume").document == {"paused": everything[1:]}
        anywhere("resume", "--priority", "low")
        assert anywhere("resume", "--type", "work").document == {"paused": []}

    def test_workers(self, anywhere: Run) -> None:
        assert anywhere("workers", "5").document == {"workers": 5}
        assert anywhere("workers", "default").document["workers"] in (2, None)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("pause", "--kind", "a", "--group", "b"),
            ("resume", "--group", ""),
            ("pause", "--group", "\N{GRINNING FACE}" * 1_000),  # more bytes than any index takes
            ("workers", "0"),
            ("workers", "many"),
            ("workers", "100000"),
        ],
    )
    def test_what_makes_no_sense_ends_with_2(
        self, anywhere: Run, arguments: tuple[str, ...]
    ) -> None:
        assert anywhere(*arguments).code == 2

    def test_it_is_said_in_words(self, run: Run, live: Live) -> None:
        url = ("--url", _url(live))
        assert "Nothing is paused.  in http" in run("resume", *url).out
        run("pause", "--group", "a", *url)
        assert "Paused: the whole queue, group a  in http" in run("pause", *url).out
        assert "Paused: the whole queue, group a" in run("stats", *url).out
        assert "3 workers  in http" in run("workers", "3", *url).out

    def test_the_next_start_goes_by_what_a_file_was_told(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "jobs.db"
        JobQueue(nothing, path=path).close()
        run("pause", "--kind", "work", "--db", str(path))
        run("workers", "7", "--db", str(path))
        with JobQueue(nothing, path=path, workers=1) as queue:
            assert (queue.metrics().workers, queue.paused()) == (7, [Pause(kind="work")])
            refused = run("resume", "--kind", "work", "--db", str(path))
            assert refused.code == 3
            assert "give its --url" in refused.error
        told = run("workers", "default", "--db", str(path))
        assert "As many workers as its start says" in told.out

    def test_an_older_file_has_nothing_paused(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "old.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            old = ROOT / "tests" / "final" / "schema_4.sql"
            connection.executescript(old.read_text("utf-8"))
        assert run("stats", "--json", "--db", str(path)).document["paused"] == []


class TestEitherPlace:
    """What a command answers does not depend on where the jobs are."""

    def test_a_job_is_what_the_service_says_it_is(self, anywhere: Run, live: Live) -> None:
        wishes = ["--priority", "high", "--id", "a-1", "--run-at", "3600", "--timeout", "2.5"]
        wishes += ["--group", "tenant-7"]
        job = anywhere("enqueue", "work", '{"to": ["ada"]}', *wishes).document
        assert list(job) == list(live.create())
        assert job["payload"] == {"to": ["ada"]}
        assert (job["id"], job["type"], job["priority"]) == ("a-1", "work", "high")
        assert (job["status"], job["timeout"]) == ("scheduled", 2.5)
        assert job["group"] == "tenant-7"
        shown = anywhere("show", "a-1").document
        assert shown == job | {"failures": []}

    def test_a_time_and_a_payload_that_is_text(self, anywhere: Run) -> None:
        job = anywhere("enqueue", "work", '"hello"', "--run-at", "2100-01-31T08:00:00+01:00")
        assert job.document["payload"] == "hello"
        assert job.document["due_at"] == "2100-01-31T07:00:00Z"

    def test_a_unique_job(self, anywhere: Run) -> None:
        later = ("--run-at", "3600", "--unique", "page")
        first = anywhere("enqueue", "work", "1", *later).document
        assert first["unique"] == "page"
        assert anywhere("enqueue", "work", "2", "--unique", "page").document == first
        replaced = anywhere("enqueue", "work", "3", *later, "--then", "replace").document
        assert (replaced["id"], replaced["payload"]) == (first["id"], 3)
        assert replaced["status"] == "scheduled"
        urgent = ("--then", "replace", "--priority", "high")
        replaced = anywhere("enqueue", "work", "4", "--unique", "page", *urgent).document
        assert (replaced["id"], replaced["payload"]) == (first["id"], 4)
        assert replaced["status"] != "scheduled"
        held = ("--unique", "day", "--within", "86400")
        day = anywhere("enqueue", "work", *held).document["id"]
        assert anywhere("enqueue", "work", *held).document["id"] == day
        assert anywhere("show", day).document["unique"] == "day"

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--within", "60"], "--within is about --unique KEY"),
            (["--unique", "k", "--until", "never"], "unique.until"),
            (["--unique", "k", "--within", "5", "--until", "ended"], "not both"),
        ],
    )
    def test_a_unique_job_that_makes_no_sense(
        self, anywhere: Run, options: list[str], told: str
    ) -> None:
        refused = anywhere("enqueue", "work", *options)
        assert refused.code == 2
        assert told in refused.error

    def test_a_job_that_comes_after_others(self, anywhere: Run) -> None:
        anywhere("enqueue", "work", "--id", "parent", "--run-at", "3600")
        both = ("--after", "parent", "--after", "dead", "--if-failed", "run")
        child = anywhere("enqueue", "work", "--id", "child", *both).document
        assert (child["status"], child["after"]) == ("waiting", ["parent", "dead"])
        assert anywhere("show", "child").document["after"] == ["parent", "dead"]

    @pytest.mark.parametrize(
        ("options", "code", "told"),
        [
            (["--after", "nobody"], 1, "nobody"),
            (["--if-failed", "run"], 2, "after"),
            (["--after", "dead", "--if-failed", "retry"], 2, "if_failed"),
            (["--after", "dead", "--unique", "k"], 2, "Job.unique is not for"),
        ],
    )
    def test_one_that_cannot_come_after_others(
        self, anywhere: Run, options: list[str], code: int, told: str
    ) -> None:
        refused = anywhere("enqueue", "work", *options)
        assert refused.code == code
        assert told in refused.error

    def test_an_id_that_is_taken(self, anywhere: Run) -> None:
        again = anywhere("enqueue", "work", "--id", "dead")
        assert (again.code, again.out) == (1, "")
        assert "Already in the queue: dead" in again.error

    def test_a_dead_letter_says_why_and_can_be_retried(self, anywhere: Run) -> None:
        [letter] = anywhere("dead-letters").documents
        assert letter["error"] == "RuntimeError: it went \033[31mwrong"
        shown = anywhere("show", "dead")
        assert shown.code == 1
        [failure] = shown.document["failures"]
        assert "in _fails" in failure["traceback"]
        assert anywhere("retry", "dead").document["status"] != "failed"
        assert anywhere("dead-letters").documents == []

    def test_a_waiting_job_is_cancelled(self, anywhere: Run) -> None:
        anywhere("enqueue", "work", "--id", "late", "--run-at", "3600")
        assert anywhere("cancel", "late").document["status"] == "cancelled"
        assert anywhere("cancel", "late").code == 0
        refused = anywhere("retry", "late")
        assert refused.code == 1
        assert refused.error == "Job late is cancelled: only a failed job can be retried.\n"

    def test_one_refusal_does_not_stop_the_rest(self, anywhere: Run) -> None:
        anywhere("enqueue", "work", "--id", "late", "--run-at", "3600")
        ended = anywhere("cancel", "nobody", "dead", "late")
        assert ended.code == 1
        assert ended.document["id"] == "late"
        assert [line.split(":")[0] for line in ended.error.splitlines()] == [
            "No job 'nobody' in this queue",
            "Job dead is failed" if "Job dead" in ended.error else "The job is failed",
        ]

    def test_lists_are_chosen_from_and_longer_than_a_page(self, anywhere: Run) -> None:
        for number in range(3):
            anywhere("enqueue", "work", "--id", f"j{number}", "--run-at", "99", "--priority", "low")
        assert [job["id"] for job in anywhere("jobs").documents] == ["j2", "j1", "j0", "dead"]
        wanted = ("--status", "scheduled", "--type", "work", "--priority", "low", "--limit", "2")
        assert [job["id"] for job in anywhere("jobs", *wanted).documents] == ["j2", "j1"]
        assert anywhere("jobs", "--type", "other").documents == []

    def test_jobs_are_found_by_what_they_are_about(self, anywhere: Run, run: Run) -> None:
        def add(job_id: str, *meta: str, group: str = "t1") -> Any:
            options = [word for pair in meta for word in ("--meta", pair)]
            later = ("--id", job_id, "--run-at", "99", "--group", group)
            return anywhere("enqueue", "work", *later, *options).document

        assert add("a", "user=7", "source=web")["meta"] == {"user": "7", "source": "web"}
        add("b", "user=7", "query=a=b:c", group="t2")
        add("c")
        found = {
            ("--meta", "user=7"): ["b", "a"],
            ("--meta", "user=7", "--meta", "source=web"): ["a"],
            ("--meta", "query=a=b:c"): ["b"],
            ("--meta", "user=7", "--group", "t2"): ["b"],
            ("--group", "t1"): ["c", "a"],
            ("--meta", "user=8"): [],
        }
        for wanted, ids in found.items():
            assert [job["id"] for job in anywhere("jobs", *wanted).documents] == ids
        assert anywhere("show", "a").document["meta"] == {"user": "7", "source": "web"}
        assert anywhere("dead-letters", "--meta", "user=7").documents == []

    def test_many_at_once(self, anywhere: Run) -> None:
        for number in range(4):
            user = ("--meta", f"user={number % 2}", "--run-at", "99")
            anywhere("enqueue", "work", "--id", f"j{number}", *user)
        many = ("--type", "work", "--enqueued-after", "2020-01-31T08:00:00Z")
        one = ("--meta", "user=1", *many)
        assert anywhere("cancel-all", *one, "--dry-run").document == {"jobs": 2, "dry_run": True}
        assert anywhere("cancel-all", *one).document == {"jobs": 2, "dry_run": False}
        assert [job["id"] for job in anywhere("jobs", "--status", "cancelled").documents] == [
            *("j3", "j1")
        ]
        assert anywhere("purge", "--status", "cancelled").document["jobs"] == 2
        assert anywhere("cancel-all", "--status", "scheduled").document["jobs"] == 2
        assert anywhere("purge", "--ended-before", "1").document["jobs"] == 0
        assert anywhere("delete", "j0").document["id"] == "j0"
        assert anywhere("retry-all", "--dry-run").document["jobs"] == 1
        assert anywhere("retry-all", *many).document["jobs"] == 1
        assert anywhere("show", "dead").document["status"] in ("queued", "processing", "completed")

    def test_a_job_that_has_not_ended_is_not_deleted(self, anywhere: Run) -> None:
        anywhere("enqueue", "work", "--id", "later", "--run-at", "99")
        refused = anywhere("delete", "later")
        assert (refused.code, refused.out) == (1, "")
        assert "Job later is scheduled: cancel it first" in refused.error
        assert anywhere("delete", "dead").code == 0
        assert anywhere("delete", "dead").code == 1
        assert anywhere("purge").document == {"jobs": 0, "dry_run": False}

    def test_a_parent_whose_result_is_read_stays(
        self, anywhere: Run, request: pytest.FixtureRequest
    ) -> None:
        anywhere("enqueue", "work", "--id", "first", "--run-at", "99")
        anywhere("enqueue", "work", "--id", "second", "--after", "first", "--if-failed", "run")
        anywhere("cancel-all", "--status", "scheduled")
        if request.node.callspec.params["anywhere"] == "file":  # where nobody runs the second
            assert "stays: jobs after it have not ended" in anywhere("delete", "first").error
            assert anywhere("purge", "--status", "cancelled").document["jobs"] == 0

    def test_whose_jobs_wait(self, anywhere: Run) -> None:
        anywhere("pause")
        for group in ("a", "b", "b"):
            anywhere("enqueue", "work", "--group", group)
        anywhere("enqueue", "work")
        first, second = anywhere("groups").documents
        assert 0 < first.pop("oldest_queued") < DEADLINE
        assert first == {"group": "b", "queued": 2, "running": 0}
        assert (second["group"], second["queued"]) == ("a", 1)
        assert anywhere("groups", "--limit", "1").document["group"] == "b"
        assert anywhere("groups", "--limit", "101").code == 2

    def test_figures_have_the_same_keys(self, anywhere: Run, live: Live) -> None:
        figures, other = anywhere("stats").document, live.http.get("/stats").json()
        assert figures.keys() == other.keys()
        assert figures["totals"].keys() == other["totals"].keys()
        assert list(figures["lanes"]) == ["high", "medium", "low"]
        assert figures["lanes"]["medium"]["failed"] == figures["totals"]["failed"] == 1

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["enqueue", "work", "{to: ada}"], "no JSON"),
            (["enqueue", "work", "NaN"], "NaN is not JSON"),
            (["enqueue", "work", "--id", "a b"], "id: "),
            (["enqueue", "work", "--run-at", "tomorrow"], "run_at"),
            (["enqueue", "work", "--timeout", "0"], "timeout: "),
            (["enqueue", "work", "--meta", "user"], "--meta is NAME=VALUE"),
            (["enqueue", "work", "--meta", "user=7", "--meta", "user=8"], "each name once"),
            (["enqueue", "work", "--meta", "a:b=7"], "name 'a:b' has a ':'"),
            (["purge", "--ended-before", "yesterday"], "It is no time"),
            (["purge", "--status", "queued"], "cancel them first"),
            (["cancel-all", "--status", "failed"], "not cancelled"),
            (["retry-all", "--status", "failed"], "No such option"),
            (["jobs", "--meta", "user="], "meta value of 'user' must not be empty"),
            (["enqueue"], "Missing argument 'TYPE'"),
            (["jobs", "--status", "lost"], "for '--status': 'lost' is not one of"),
            (["jobs", "--limit", "0"], "'--limit'"),
            (["tidy"], "No such command 'tidy'"),
            (["enqueu"], "Did you mean 'enqueue'? See --help."),
        ],
    )
    def test_what_makes_no_sense(self, anywhere: Run, arguments: list[str], complaint: str) -> None:
        ended = anywhere(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert complaint in ended.error
        assert ended.error.count("\n") == 1


class TestService:
    def test_pages_are_put_together(self, run: Run, live: Live) -> None:
        ids = live.queue.enqueue_many([Job(kind="work") for _ in range(230)])
        found = run("jobs", "--json", "--limit", "215", "--url", _url(live)).documents
        assert [job["id"] for job in found] == ids[:14:-1]

    def test_pages_go_on_where_the_history_has_let_go_of_a_job(
        self, open_service: OpenService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "PAGE", 1)
        live = open_service(history=1)
        live.create(id="later", run_at=3_600)
        live.create(id="last")
        live.queue.wait("last", DEADLINE)
        with remote.Remote(_url(live), None) as place:
            jobs = place.jobs(Filter(), 10)
            assert next(jobs)["id"] == "last"
            forget(live, "last")
            assert [job["id"] for job in jobs] == ["later"]

    def test_a_full_lane_stores_nothing(self, run: Run, held: Live) -> None:
        ended = [run("enqueue", "work", "--url", _url(held)) for _ in range(3)]
        assert [each.code for each in ended] == [0, 0, 3]
        assert "no room in time" in ended[-1].error
        assert held.stored() == 3

    def test_a_type_without_a_handler(self, run: Run, live: Live) -> None:
        ended = run("enqueue", "other", "--url", _url(live))
        assert ended.code == 2
        assert "'other' has no handler here" in ended.error

    def test_the_token(
        self, run: Run, open_service: OpenService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = _url(open_service(token=TOKEN))
        ended = run("jobs", "--url", url)
        assert ended.code == 3
        assert "JOBQUEUE_TOKEN" in ended.error
        assert run("jobs", "--url", url, "--token", TOKEN).code == 0
        monkeypatch.setenv("JOBQUEUE_TOKEN", TOKEN)
        assert run("jobs", "--url", url).code == 0

    def test_no_proxy_gets_to_see_the_token(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch, silent_port: int
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent_port}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        assert run("jobs", "--url", _url(live), "--token", TOKEN).code == 0

    @pytest.mark.parametrize("name", ["127.0.0.1", "a..b", "a" * 64])
    def test_nobody_answers(self, run: Run, silent_port: int, name: str) -> None:
        ended = run("jobs", "--url", f"http://{name}:{silent_port}")
        assert ended.code == 3
        assert "start one with `python -m final serve`" in ended.error

    def test_one_that_does_not_answer_in_time(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "PATIENCE", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ended = run("jobs", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert ended.code == 3
        assert "has not answered" in ended.error

    @pytest.mark.parametrize(
        "url",
        [
            *("localhost:8080", "http://", "http://x:y", "http://x:99999", "http://[", "ftp://x"),
            *("http://127.0.0.1/?queue=x", "http://127.0.0.1/#jobs", "", " "),
        ],
    )
    def test_what_is_no_address(self, run: Run, url: str) -> None:
        ended = run("jobs", "--url", url)
        assert ended.code == 2
        assert re.match(r"\S+ is no address: write it as http://127.0.0.1:8080.$", ended.error)

    @pytest.mark.parametrize("end", ["", "/", "//", "?", "/#"])
    def test_a_path_may_end_with_what_says_nothing(
        self, run: Run, open_service: OpenService, end: str
    ) -> None:
        live = open_service(root_path="/queue")
        for path in ("", "/queue"):
            assert run("jobs", "--url", f"{_url(live)}{path}{end}").code == 0

    @pytest.mark.parametrize("path", ["/nosuch", "/static"])
    def test_a_wrong_path_is_no_missing_job(self, run: Run, live: Live, path: str) -> None:
        for command in (["show", "x"], ["enqueue", "work"], ["jobs"]):
            ended = run(*command, "--url", _url(live) + path)
            assert ended.code == 3
            assert f"There is no job queue at {_url(live)}{path}" in ended.error

    def test_somebody_else_answers(self, run: Run) -> None:
        with HTTPServer(("127.0.0.1", 0), SomebodyElse) as other:
            serving = Background(other.serve_forever)
            ended = run("jobs", "--url", f"http://127.0.0.1:{other.server_port}")
            other.shutdown()
            serving.result()
        assert ended.code == 3
        assert "is not this service" in ended.error


class SomebodyElse(BaseHTTPRequestHandler):
    """Knows no method at all."""

    def log_message(self, *_: object) -> None:
        pass


class TestWhichPlace:
    def test_the_service_on_the_default_port_comes_first(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("enqueue", "work", "--id", "in-file", "--db", "jobs.db")
        assert run("jobs", "--json").document["id"] == "in-file"
        monkeypatch.setenv("PORT", str(live.port))
        live.create(id="in-service")
        assert run("jobs", "--json").document["id"] == "in-service"
        assert run("jobs", "--json", "--db", "jobs.db").document["id"] == "in-file"

    def test_the_environment_names_a_service(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live.create(id="in-service")
        monkeypatch.setenv("JOBQUEUE_URL", f"{_url(live)}\r")  # from a file of Windows
        assert run("jobs", "--json").document["id"] == "in-service"
        ended = run("jobs", "--db", "nowhere.db")
        assert ended.code == 3
        assert "There is no file nowhere.db" in ended.error

    def test_nothing_is_there(self, run: Run, tmp_path: Path) -> None:
        for command in (["jobs"], ["enqueue", "work"], ["stats"]):
            ended = run(*command)
            assert ended.code == 3
            assert "there is no jobs.db in this folder" in ended.error
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("port", ["abc", "", "-1", "70000", "٣"])
    def test_a_port_that_is_none(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch, port: str
    ) -> None:
        run("enqueue", "work", "--db", "jobs.db")
        monkeypatch.setenv("PORT", port)
        ended = run("stats")
        assert (ended.code, ended.error) == (
            2,
            f"PORT is {port!r}: give a number from 0 to 65535, or name the place with --url or "
            "--db.\n",
        )
        assert run("stats", "--url", _url(live)).code == run("stats", "--db", "jobs.db").code == 0

    def test_both_are_one_too_many(self, run: Run) -> None:
        assert run("jobs", "--url", "http://127.0.0.1", "--db", "jobs.db").code == 2

    def test_memory_is_no_place(self, run: Run) -> None:
        ended = run("enqueue", "work", "--db", ":memory:")
        assert ended.code == 2
        assert "ends with its process" in ended.error


class TestFile:
    def test_a_job_waits_for_a_process_with_handlers(self, run: Run) -> None:
        for number in range(3):
            run("enqueue", "later", str(number), "--id", f"j{number}", "--db", "new.db")
        assert [job["status"] for job in run("jobs", "--json", "--db", "new.db").documents] == [
            "queued"
        ] * 3
        ran: list[object] = []
        with JobQueue({"later": lambda job: ran.append(job.payload)}, path="new.db", workers=1):
            pass
        assert ran == [0, 1, 2]
        shown = run("show", "j0", "--json", "--db", "new.db")
        assert (shown.code, shown.document["status"]) == (0, "completed")

    def test_an_owned_file_is_looked_at_and_not_changed(self, run: Run) -> None:
        with JobQueue({"work": nothing}, path="owned.db") as queue:
            queue.wait(queue.enqueue(Job("here", kind="work")), DEADLINE)
            assert run("show", "here", "--json", "--db", "owned.db").document["attempts"] == 1
            assert run("stats", "--json", "--db", "owned.db").document["totals"]["completed"] == 1
            for command in (["enqueue", "work"], ["cancel", "here"], ["retry", "here"]):
                ended = run(*command, "--db", "owned.db")
                assert ended.code == 3
                assert "is in use by process" in ended.error
                assert "give its --url" in ended.error
            assert len(queue.jobs()) == 1

    def test_a_killed_process_leaves_a_file_to_look_at_and_change(
        self, run: Run, tmp_path: Path
    ) -> None:
        options = json.dumps({"port": 0, "workers": 1, "db": "killed.db"})
        with Program(tmp_path, "tests.service.child", options) as service:
            service.read_until("Serving on ")
            [url] = re.findall(r"http://\S+:\d+", service.output)
            run("enqueue", "held", "--id", "in-flight", "--url", url)

            def status() -> str:
                shown = run("show", "in-flight", "--json", "--db", "killed.db")
                return str(shown.document["status"])

            eventually(lambda: status() == "processing", "its start")
            service.kill()
        left = [(tmp_path / name).read_bytes() for name in ("killed.db", "killed.db-wal")]
        assert status() == "processing"
        # Looking tidies nothing up: that is for the next owner.
        assert left == [(tmp_path / name).read_bytes() for name in ("killed.db", "killed.db-wal")]
        assert run("cancel", "in-flight", "--db", "killed.db").code == 0
        with JobQueue(_fails, path="killed.db") as queue:
            assert queue.status("in-flight") is Status.CANCELLED

    def test_files_of_something_else(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "text.db").write_text("not a database, and long enough to see it" * 20)
        with sqlite3.connect(tmp_path / "other.db") as other:
            other.execute("CREATE TABLE job (id)")
        other.close()
        for path in ("text.db", "other.db"):
            for command in (["jobs"], ["enqueue", "work"]):
                ended = run(*command, "--db", path)
                assert ended.code == 3
                assert path in ended.error
                assert ended.error.count("\n") == 1
        assert "is not a file of this queue" in run("jobs", "--db", "other.db").error

    def test_a_file_of_a_newer_release_is_not_guessed_at(self, run: Run) -> None:
        run("enqueue", "work", "--id", "a", "--db", "newer.db")
        with sqlite3.connect("newer.db") as newer:
            newer.execute("PRAGMA user_version = 99")
        newer.close()
        for command in (["jobs"], ["show", "a"], ["stats"], ["enqueue", "work"]):
            ended = run(*command, "--db", "newer.db")
            assert ended.code == 3
            assert "newer.db was written by a newer release (schema 99" in ended.error

    def test_a_file_of_an_older_release_is_told_apart(self, run: Run) -> None:
        with sqlite3.connect("older.db") as older:
            older.executescript((ROOT / "tests/final/schema_3.sql").read_text(encoding="utf-8"))
        older.close()
        ended = run("jobs", "--db", "older.db")
        assert (ended.code, "older.db is of an older release" in ended.error) == (3, True)
        assert run("cancel-all", "--db", "older.db").code == 0
        assert run("jobs", "--db", "older.db").code == 0

    def test_no_file_at_all(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        for command in (["jobs"], ["enqueue", "work"]):
            ended = run(*command, "--db", "folder")
            assert (ended.code, "folder is a folder" in ended.error) == (3, True)
            ended = run(*command, "--db", "")
            assert (ended.code, ended.error) == (2, "--db is empty: give it a file.\n")


class TestForPeople:
    def test_tables_fit_and_ids_are_whole(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        job_id = live.create(payload="fails")["id"]
        reaches(live.queue, job_id, Status.FAILED)
        for command in (["jobs"], ["dead-letters"], ["show", job_id], ["stats"]):
            shown = run(*command, "--url", _url(live)).out
            assert max(map(len, shown.splitlines())) <= 80
            assert "\033[" not in shown
            assert _url(live) in shown
            assert job_id in shown or command == ["stats"]

    @pytest.mark.parametrize("width", [1, 20, 60, 80])
    def test_where_it_is_narrow_no_column_is_lost(
        self, width: int, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        db = ("--db", "narrow.db")
        run("enqueue", "a-type-of-many-words-" * 2, "--id", "x" * 200, "--run-at", "60", *db)
        run("periodic", "add", "0 3 * * *", "report", "--name", "nightly-report-of-all", *db)
        shown = run("jobs", *db).out
        assert "scheduled  medium" in shown
        assert shown.count("x") == 200
        assert "Z\n" in run("periodic", "list", *db).out
        words = run("stats", *db).out.split()
        assert {"queued", "processing", "completed", "failed", "high", "all"} <= set(words)

    def test_what_draws_over_itself_fits(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(showing, "watch", lambda look, *rest: showing.stats(look(), *rest[:2]))
        run("enqueue", "work", "--db", "a.db")
        for command, widest in ((["stats", "--watch"], 40), (["stats"], 50)):
            monkeypatch.setenv("COLUMNS", "40")
            shown = run(*command, "--db", "a.db").out
            assert 35 < max(map(len, shown.splitlines())) <= widest

    @pytest.mark.parametrize("command", [["stats", "--db", "a.db"], ["jobs", "--help"]])
    def test_no_columns_at_all_are_not_known(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ) -> None:
        run("enqueue", "work", "--db", "a.db")
        monkeypatch.setenv("COLUMNS", "0")
        assert len(run(*command).out.splitlines()) > 5

    def test_a_long_schedule_leaves_room_for_the_name(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        when = ("0,10,20,30,40,50 8-18 * * mon-fri", "report", "--name", "in-the-day")
        zone = ("--timezone", "America/Argentina/Buenos_Aires")
        run("periodic", "add", *when, *zone, "--db", "long.db")
        shown = run("periodic", "list", "--db", "long.db").out
        assert re.search("^ in-the-day .* report .*Z$", shown, re.M)

    @pytest.mark.parametrize("width", [50, 60, 79, 80, 120])
    def test_a_long_error_leaves_room_for_the_id(
        self, width: int, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(job: Job) -> None:
            raise RuntimeError("e" * 1_000)

        with JobQueue({"report": fail}, path="errors.db", max_retries=0) as queue:
            queue.enqueue(Job("0123456789" * 3 + "012345", kind="report"))
            queue.join(DEADLINE)
        monkeypatch.setenv("COLUMNS", str(width))
        _, _, *rows, _ = run("dead-letters", "--db", "errors.db").out.splitlines()
        assert "".join(row[1:37].partition("  ")[0].strip() for row in rows) == (
            "0123456789" * 3 + "012345"
        )
        assert "medium" in rows[0]
        assert "RuntimeErr" in rows[0]
        assert max(map(len, rows)) <= width

    def test_a_long_id_that_runs_hides_nothing_else(
        self, run: Run, held: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        held.queue.set_workers(2)
        reaches(held.queue, held.create(id="y" * 200, priority="low")["id"], Status.PROCESSING)
        shown = run("stats", "--url", _url(held)).out
        assert len("".join(re.findall("yy+", shown))) == 200
        assert re.search(r"^ \d +y+ +work +low +1 *$", shown, re.M)

    def test_groups_are_told_in_a_table(
        self, run: Run, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        with JobQueue(
            lambda job: gate.wait(), path="groups.db", workers=1, capacity=2_000
        ) as queue:
            assert "No job of a group waits or runs, in groups.db" in (
                run("groups", "--db", "groups.db").out
            )
            reaches(queue, queue.enqueue(Job(group="tenant-8")), Status.PROCESSING)
            queue.enqueue_many([Job(group="tenant-7") for _ in range(1_000)])
            queue.enqueue(Job(group="long-" * 40))
            shown = run("groups", "--db", "groups.db").out
            gate.open()
        assert re.search(r"^ tenant-7 +1,000 +0 +0\.\d s$", shown, re.M)
        assert re.search(r"^ tenant-8 +0 +1 *$", shown, re.M)
        assert "3 groups, those with most waiting first, in groups.db" in shown
        assert max(map(len, shown.splitlines())) <= 80

    def test_what_jobs_bring_along_does_not_steer_the_terminal(
        self, run: Run, tmp_path: Path
    ) -> None:
        with JobQueue(_fails, path="hostile.db", max_retries=0) as queue:
            queue.enqueue(Job("\033[2J", "\033]0;", kind="\x9b31m"))
            queue.join(DEADLINE)
            queue.pause()
            queue.enqueue(Job(group="\033[31m"))
        assert "[31m" in run("groups", "--db", "hostile.db").out
        commands = [["jobs"], ["dead-letters"], ["show", "\033[2J"], ["retry", "\033[2J\x07"]]
        for command in (*commands, ["groups"]):
            ended = run(*command, "--db", "hostile.db")
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", ended.out + ended.error)


def process(folder: Path, *arguments: str, **options: Any) -> Ended:
    """``python ARGUMENTS`` as a process."""
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | options.pop("env", {})
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
        **options,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class TestProcess:
    @needs_signals
    def test_a_service_from_start_to_end(self, tmp_path: Path, run: Run) -> None:
        with Program(tmp_path, "final", "serve", "--port", "0", "--demo-seconds", "0") as service:
            service.read_until("Serving on ")
            [url] = re.findall(r"http://\S+:\d+", service.output)
            enqueue = ("-m", "final", "enqueue", "email", "-", "--json", "--url", url)
            created = process(tmp_path, *enqueue, input='{"to": "ada"}')
            assert created.code == 0, created.error
            job_id = created.document["id"]
            eventually(
                lambda: (
                    run("show", job_id, "--json", "--url", url).document["status"] == "completed"
                ),
                "its end",
            )
            second = run("serve", "--port", "0")
            assert second.code == 3
            assert re.fullmatch(r"jobs\.db is in use by process \d+: .*\n", second.error)
            service.signal(signal.SIGTERM)
            assert service.read_to_the_end() == 0

    def test_a_service_that_cannot_be_started(self, run: Run) -> None:
        for arguments in (["--host", "0.0.0.0"], ["--handlers", "x"], ["--workers", "0"]):
            ended = run("serve", "--port", "0", *arguments)
            assert (ended.code, ended.out) == (2, "")
            assert ended.error.count("\n") == 1

    def test_without_the_extra_it_says_what_to_install(self, tmp_path: Path) -> None:
        absent = "raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')"
        (tmp_path / "typer.py").write_text(absent)
        ended = process(tmp_path, "-m", "final", "jobs")
        assert ended == (2, "", "Commands need typer: pip install '.[service]'\n")

    def test_the_core_neither_loads_it_nor_has_a_say_in_ctrl_c(self, tmp_path: Path) -> None:
        extra = "typer|rich|httpx|pydantic|fastapi|uvicorn|final.service.cli|final.service"
        code = f"import sys, final; print([m for m in sys.modules if m in '{extra}'.split('|')])"
        code += "; from signal import *; print(getsignal(SIGINT) is default_int_handler)"
        assert process(tmp_path, "-c", code).out == "[]\nTrue\n"

    def test_the_shell_completes_commands(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("_JOBQUEUE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "jobqueue dead")
        monkeypatch.setenv("COMP_CWORD", "1")
        assert run("").out.split() == ["dead-letters"]

    def test_the_help_names_the_exit_codes(self, run: Run) -> None:
        ended = run("--help")
        assert ended.code == 0
        assert "Ends with 0 if all went well" in ended.out

    def test_a_short_measurement(self, run: Run, tmp_path: Path) -> None:
        found = run("bench", "--seconds", "0.05", "--json").documents
        assert [list(each) for each in found] == [["ratio", "what", "jobs_per_second"]] * 4
        assert found[0]["ratio"] == 1
        assert list(tmp_path.iterdir()) == []
        assert "durable enqueues" in run("bench", "--seconds", "0.05").out

    @pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is in use.")
    def test_a_folder_that_takes_no_scratch_file_is_not_the_output(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        ended = run("bench")
        assert ended.code == 3
        assert re.search(r"bench-\w+ cannot be written: ", ended.error)


# What a command line may look like; each is answered with one sentence and one of these codes.
BAD_COMMANDS = [
    (["show", "."], {1, 3}),
    (["show", ".."], {1, 3}),
    (["show", "a/../b"], {1, 3}),
    (["show", "a\nb"], {1, 3}),
    (["show", "\udcff"], {1, 3}),
    (["show", ""], {1, 3}),
    (["retry", "\udcff"], {1, 3}),
    (["cancel", "."], {1, 3}),
    (["jobs", "--limit", "9" * 20], {2}),
    (["jobs", "--limit", "nan"], {2}),
    (["jobs", "--type", "\udcff"], {0, 2}),
    (["enqueue", "work", "1e999"], {2}),
    (["enqueue", "work", '"\\ud800"'], {2}),
    (["enqueue", "work", "\udcff"], {2}),
    (["enqueue", "work", str(2**63)], {2}),
    (["enqueue", "work", '{"a": 1, "a": 2}'], {2}),
    (["enqueue", "work", "[" * 101 + "]" * 101], {2}),
    (["enqueue", "work", "[" * 100_000], {2}),
    (["enqueue", "work", f'"{"x" * 2_000_000}"'], {2}),
    (["enqueue", "\udcff"], {2}),
    (["enqueue", ""], {2}),
    (["enqueue", "x" * 101], {2}),
    (["enqueue", "work", "--id", "../x"], {2}),
    (["enqueue", "work", "--run-at", "nan"], {2}),
    (["enqueue", "work", "--run-at", "inf"], {2}),
    (["enqueue", "work", "--run-at", "9999-12-31T23:59:59.999999Z"], {2}),
    (["enqueue", "work", "--run-at", "2030-01-01"], {2}),
    (["enqueue", "work", "--timeout", "nan"], {2}),
    (["enqueue", "work", "--timeout", "inf"], {2}),
    (["stats", "--watch", "--interval", "nan"], {2}),
    (["stats", "--watch", "--interval", "1e300"], {2}),
    (["--nonsense"], {2}),
    (["\udcff"], {2}),
]


class TestWhatIsTypedWrong:
    @pytest.mark.parametrize("place", ["service", "file", "nobody"])
    def test_it_is_one_sentence_and_the_right_code(
        self, run: Run, request: pytest.FixtureRequest, silent_port: int, place: str
    ) -> None:
        where = ["--url", f"http://127.0.0.1:{silent_port}"]
        if place == "service":
            where = ["--url", _url(request.getfixturevalue("live"))]
        if place == "file":
            where = ["--db", "some.db"]
            with JobQueue({"work": nothing}, path="some.db"):
                pass
        for arguments, codes in BAD_COMMANDS:
            ended = run(*arguments, *where)
            named = [text[:50] for text in arguments]
            assert ended.code in (codes | {3} if place == "nobody" else codes - {3}), named
            assert ended.error.count("\n") == (ended.code != 0), (named, ended.error)
            assert "not this service" not in ended.error, named

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--shutdown-timeout", "inf"],
            ["--shutdown-timeout", "1e11"],
            ["--shutdown-timeout", "nan"],
            ["--workers", "100000"],
            ["--capacity", "0"],
            ["--max-retries", "-1"],
            ["--backoff", "nan"],
            ["--timeout", "0"],
            ["--rate-limit", "often"],
            ["--rate-limit", "0"],
            ["--rate-limit", "1", "--rate-limit", "2"],
            ["--rate-limit", "email=1", "--rate-limit", "email=2"],
            ["--rate-limit", "fax=1"],
            ["--overflow", "explode"],
            ["--executor", "fork"],
            ["--durability", "none"],
            ["--history", "-1"],
            ["--root-path", "a b"],
            ["--demo-seconds", "nan"],
            ["--token", "correct horse ünd"],
            ["--token", " correct horse battery"],
            ["--handlers", "broken:handlers"],
            ["--handlers", "exits:handlers"],
            ["--host", "nowhere.invalid"],
        ],
        ids=" ".join,
    )
    def test_a_service_says_it_at_the_start(
        self, run: Run, tmp_path: Path, arguments: list[str]
    ) -> None:
        (tmp_path / "broken.py").write_text("handlers = 1 / 0")
        (tmp_path / "exits.py").write_text("import sys; sys.exit('no')")
        ended = run("serve", "--port", "0", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.error.count("\n") == 1
        assert "correct horse" not in ended.error

    @pytest.mark.skipif(not os.path.exists("/dev/null"), reason="There is no /dev/null here.")
    def test_a_device_is_no_file(self, run: Run) -> None:
        ended = run("serve", "--port", "0", "--db", "/dev/null")
        assert ended.code == 3
        assert "/dev/null is no regular file" in ended.error


ANSWERS = [b"{}", b"[]", b"null", b"1", b'"x"', b"", b"<html>", b'{"jobs": 5}', b"[" * 100_000,
           b'{"jobs": [], "next": "/jobs"}', b'{"id": "x"}', b"\xff",
           b'{"detail": "Not Found"}']  # fmt: skip

A_JOB: dict[str, object] = {
    "id": "a", "type": "work", "priority": "low", "status": "queued", "error": None, "attempts": 0,
    "timeout": None, "group": None, "enqueued_at": "2026-01-01T00:00:00Z", "started_at": None,
    "ended_at": None, "due_at": None, "after": [], "payload": None, "result": None,
}  # fmt: skip


class TestSomebodyElse:
    """Another program has the port, and says 200 to everything."""

    @pytest.mark.parametrize("status", [200, 404, 422, 500])
    def test_what_it_says_is_not_taken_for_an_answer(
        self, run: Run, foreign_url: str, status: int
    ) -> None:
        commands = [["jobs"], ["show", "x"], ["enqueue", "work"], ["stats"], ["cancel", "x"]]
        for said, command in itertools.product(
            ANSWERS, commands if status == 200 else commands[:1]
        ):
            Foreign.said, Foreign.status = said, status
            ended = run(*command, "--url", foreign_url)
            if ended.code == 0:  # an empty page is a page
                assert (command, said) == (["jobs"], b'{"jobs": [], "next": "/jobs"}')
                continue
            assert ended.code == 3, (said, command)
            assert "is not this service" in ended.error, (said, command)

    def test_nor_is_a_time_without_its_zone(self, run: Run, foreign_url: str) -> None:
        job = A_JOB | {"enqueued_at": "2026-01-01T00:00:00"}
        Foreign.said, Foreign.status = json.dumps({"jobs": [job], "next": None}).encode(), 200
        ended = run("jobs", "--url", foreign_url)
        assert ended.code == 3
        assert "is not this service" in ended.error

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            (["show", "a"], A_JOB),
            (["jobs"], {"jobs": [A_JOB | {"enqueued_at": "1767225600"}], "next": None}),
            (["dead-letters"], {"jobs": [A_JOB], "next": None}),
            (
                ["groups"],
                {"groups": [{"group": "g", "queued": "1", "running": 0, "oldest_queued": "1"}]},
            ),
        ],
    )
    def test_what_has_nearly_the_right_one_is_shown(
        self, run: Run, foreign_url: str, command: list[str], said: object
    ) -> None:
        """A number as text, a field that is missing but need not be there."""
        Foreign.said, Foreign.status = json.dumps(said).encode(), 200
        assert run(*command, "--url", foreign_url).code == 0

    def test_it_gets_no_token_because_it_says_that_it_is_fine(
        self, run: Run, foreign_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PORT", foreign_url.rpartition(":")[2])
        Foreign.status = 200
        for said in (b'{"status": "ok"}', b'{"status": "ok", "service": "three-stage-job-queue"}'):
            Foreign.said, Foreign.tokens = said, []
            run("jobs", "--token", TOKEN)
            assert Foreign.tokens == []

    def test_a_service_that_was_not_named_says_how(
        self, run: Run, open_service: OpenService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live = open_service(token=TOKEN)
        monkeypatch.setenv("PORT", str(live.port))
        ended = run("jobs", "--token", TOKEN)
        assert ended.code == 3
        assert f"give --url {_url(live)}" in ended.error
        assert run("jobs", "--token", TOKEN, "--url", _url(live)).code == 0

    @pytest.mark.parametrize("token", ["with\nline", "ünï", "nul\0"])
    def test_no_complaint_repeats_a_token_or_a_password(
        self, run: Run, silent_port: int, token: str
    ) -> None:
        url = f"http://me:s3cret@127.0.0.1:{silent_port}"
        ended = run("jobs", "--url", url, "--token", token)
        assert ended.code in (2, 3)
        assert token not in ended.error
        assert "s3cret" not in ended.error


class Foreign(BaseHTTPRequestHandler):
    said = b""
    status = 200
    tokens: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if "Authorization" in self.headers:
            self.tokens.append(self.headers["Authorization"])
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.said)))
        self.end_headers()
        self.wfile.write(self.said)

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def foreign_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as server:
        serving = Background(server.serve_forever)
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.result()


class TestOutput:
    @pytest.fixture
    def many(self, tmp_path: Path) -> None:
        with JobQueue({"work": nothing}, path=tmp_path / "many.db") as queue:
            queue.enqueue_many([Job(kind="work", payload="x" * 100) for _ in range(1_000)])

    @needs_signals
    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("options", [["--json"], []], ids=["lines", "table"])
    def test_a_reader_that_leaves_is_no_failure(self, tmp_path: Path, options: list[str]) -> None:
        command = [sys.executable, "-m", "final", "jobs", "--limit", "1000", "--db", "many.db"]
        with subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as ended:
            assert ended.stdout
            ended.stdout.close()
            assert ended.stderr
            assert ended.stderr.read() == b""
            assert ended.wait(4 * DEADLINE) == 0

    def test_where_not_every_character_can_be_printed_the_others_are(self, tmp_path: Path) -> None:
        """As in a Latin-1 locale, or in a pipe on Windows. What is paused, is; and ends with 0."""
        ascii_only = {"PYTHONIOENCODING": "ascii"}
        command = ("-m", "final", "enqueue", "work", "--group", "K\u00f6ln", "--db", "new.db")
        job_id = process(tmp_path, *command, "--json").document["id"]
        for asked in (["show", job_id], ["groups"], ["pause", "--group", "K\u00f6ln"]):
            ended = process(tmp_path, "-m", "final", *asked, "--db", "new.db", env=ascii_only)
            assert (ended.code, ended.error) == (0, "")
            assert "K?ln" in ended.out

    @needs_signals
    @pytest.mark.parametrize(
        ("closed", "command", "code"),
        [
            ("<&- >&- 2>&-", ["enqueue", "work", "1", "--db", "many.db"], 0),
            (">&-", ["jobs", "--db", "many.db"], 0),
            ("<&-", ["enqueue", "work", "-", "--db", "many.db"], 2),
            ("2>&-", ["jobs", "--db", "none.db"], 3),  # and no sentence among the documents
        ],
    )
    @pytest.mark.usefixtures("many")
    def test_what_is_closed_is_no_trouble(
        self, tmp_path: Path, closed: str, command: list[str], code: int
    ) -> None:
        """Some who start programs in the background close what these read and write."""
        ended = subprocess.run(
            ["sh", "-c", f'exec "$0" -m final "$@" {closed}', sys.executable, *command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE,
        )
        assert (ended.returncode, ended.stdout) == (code, "")
        assert ("The payload is no JSON" in ended.stderr) == (code == 2)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="There is no /dev/full here.")
    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("options", [["--json"], []], ids=["lines", "table"])
    def test_a_full_device_is_said(self, tmp_path: Path, options: list[str]) -> None:
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "final", "jobs", "--db", "many.db", *options],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=4 * DEADLINE,
            )
        assert ended.returncode == 3
        assert ended.stderr == "The output cannot be written: No space left on device.\n"

    @needs_signals
    @pytest.mark.parametrize(
        ("loaded", "program"),
        [("filelock", ["-m", "final"]), ("typer", ["-m", "final"]), ("filelock", ["jobqueue"])],
    )
    def test_ctrl_c_while_it_loads_is_no_failure_of_ours(
        self, tmp_path: Path, loaded: str, program: list[str]
    ) -> None:
        """Whatever is being imported at that moment: the queue, or what the commands need."""
        press = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
        (tmp_path / f"{loaded}.py").write_text(press)
        (tmp_path / "jobqueue").write_text("from final.__main__ import command_line as c; c()")
        assert process(tmp_path, *program, "jobs") == (130, "", "")


@pytest.mark.slow
@needs_signals
def test_watching_goes_on_over_a_restart(tmp_path: Path) -> None:
    serve = ("serve", "--demo-seconds", "0", "--port")
    with Program(tmp_path, "final", *serve, "0") as service:
        service.read_until("Serving on ")
        [url] = re.findall(r"http://\S+:\d+", service.output)
        watch = ("stats", "--watch", "--json", "--interval", "0.1", "--url", url)
        with Program(tmp_path, "final", *watch) as watching:
            watching.read_until('"stopping": false')
            service.signal(signal.SIGTERM)
            assert service.read_to_the_end() == 0
            watching.read_until("Looking again")
            with Program(tmp_path, "final", *serve, url.rpartition(":")[2]) as again:
                again.read_until("Serving on ")
                watching.read_until('"stopping": false')
            watching.signal(signal.SIGINT)
            assert watching.read_to_the_end() == 0


@needs_signals
def test_a_closed_file_can_be_looked_at_where_nothing_may_be_written() -> None:
    """By somebody without rights: all is loaded first, since our code may be out of reach too."""
    look = (
        "import os, sys; from final.service.cli.app import main;"
        " import final.service.cli.local, encodings.idna, rich.table, sqlite3;"
        " os.getuid() or os.setuid(65534); main(sys.argv[1:])"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "done.db"
        with JobQueue({"work": nothing}, path=path) as queue:
            queue.wait(queue.enqueue(Job("here", kind="work")), DEADLINE)
        path.chmod(0o444)
        folder.chmod(0o555)
        ended = process(Path("/"), "-c", look, "jobs", "--json", "--db", str(path))
        folder.chmod(0o755)
    assert (ended.code, ended.error) == (0, "")
    assert ended.document["id"] == "here"


def test_modules_that_have_moved_are_found_by_their_old_names() -> None:
    moved = "from final.cli.app import main; from final.async_job_queue import AsyncJobQueue"
    same = "import final; assert AsyncJobQueue is final.AsyncJobQueue"
    subprocess.run([sys.executable, "-c", f"{moved}; {same}"], check=True, timeout=60)
