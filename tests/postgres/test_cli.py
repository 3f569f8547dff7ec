"""The command line on a database, without and beside a service."""

from __future__ import annotations

import json

import pytest

from final import Job
from final.__main__ import command_line
from tests.helpers import DEADLINE
from tests.postgres.conftest import OpenQueue


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["jobqueue", *arguments])
        try:
            command_line()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_jobs_come_in_and_are_looked_at(
    address: str, open_queue: OpenQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run(capsys, "migrate", "--db", address)
    assert code == 0
    assert "0001_tables.sql" in output
    assert "up to date" in run(capsys, "migrate", "--db", address)[1]
    code, _ = run(capsys, "enqueue", "mail", '{"to": "ann"}', "--id", "a", "--db", address)
    assert code == 0
    assert run(capsys, "enqueue", "mail", "--id", "a", "--db", address)[0] == 1
    queue = open_queue({"mail": lambda job: "sent"})
    assert queue.wait("a", DEADLINE).result == "sent"
    code, output = run(capsys, "show", "a", "--db", address, "--json")
    assert (code, json.loads(output)["status"]) == (0, "completed")
    assert run(capsys, "cancel", "a", "--db", address)[0] == 1
    assert run(capsys, "show", "unknown", "--db", address)[0] == 1
    code, output = run(capsys, "stats", "--db", address, "--json")
    assert (code, json.loads(output)["totals"]["completed"]) == (0, 1)


def test_whose_jobs_wait(
    address: str, open_queue: OpenQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    open_queue(workers=0).enqueue_many([Job(group=group) for group in "abb"])
    code, output = run(capsys, "groups", "--db", address, "--json")
    assert code == 0
    first, second = map(json.loads, output.splitlines())
    assert (first["group"], first["queued"], second["group"]) == ("b", 2, "a")


def test_a_bad_address_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "migrate", "--db", "jobs.db")[0] == 2
    assert run(capsys, "jobs", "--db", "postgresql:///postgres?queue=A")[0] == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["enqueue", "mail", "--unique", "k", "--after", "a"], "Job.unique is not for a job that"),
        (["enqueue", "mail", "--run-at", "2030-01-01"], "run_at: Say which time zone"),
        (["pause", "--group", "\N{GRINNING FACE}" * 1_000], "more than 2,600"),
    ],
)
def test_what_makes_no_sense_is_the_users_mistake(
    address: str, capsys: pytest.CaptureFixture[str], command: list[str], said: str
) -> None:
    code, output = run(capsys, *command, "--db", address)
    assert code == 2
    assert said in output


def test_a_job_of_the_library_is_seen(
    address: str, open_queue: OpenQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    open_queue(workers=0).enqueue(Job(id="b", kind="report"))
    code, output = run(capsys, "jobs", "--db", address, "--json")
    assert (code, json.loads(output.splitlines()[0])["id"]) == (0, "b")
