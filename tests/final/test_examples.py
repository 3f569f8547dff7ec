"""The examples, as their readers run them: to the end, stopped by a signal, killed, run again."""

from __future__ import annotations

import contextlib
import email
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from final import JobQueue
from final.examples.common import write_atomically
from tests.final.helpers import nothing
from tests.helpers import DEADLINE
from tests.processes import ROOT, Program, needs_signals

# How many jobs a round has, and a line that is printed while others are in flight.
JOBS = {"webhooks": 96, "emails": 19, "thumbnails": 19}
IN_FLIGHT = {
    "webhooks": "failed, attempt 1",
    # In the mailbox, and the sender hears of it a second later: the worst moment to die.
    "emails": "in the mailbox: invoice-1.kim@slow",
    "thumbnails": "480.jpeg",
    "tickets": "during the sale",  # the lane is full then
}


# What a webhook's attempt ends with when no answer comes in time.
LATE = "TimeoutError: timed out"


class Row(NamedTuple):
    """What the file says of a job."""

    status: str
    attempts: int
    priority: str
    result: str | None
    error: str | None

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed")


class Example(Program):
    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(folder, f"final.examples.{name}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Example]]]:
    """The examples, left alone until they end (all at once, to save time)."""
    folder = tmp_path_factory.mktemp("examples")
    with contextlib.ExitStack() as stack:
        examples = {name: stack.enter_context(Example(name, folder)) for name in JOBS}
        codes = {name: example.read_to_the_end() for name, example in examples.items()}
        assert not any(codes.values()), [example.output for example in examples.values()]
        yield folder, examples


@pytest.mark.parametrize("name", JOBS)
def test_a_round_runs_to_its_end(name: str, finished: tuple[Path, dict[str, Example]]) -> None:
    folder, examples = finished
    rows, output = stored(folder / f"{name}.db"), examples[name].output
    assert f"{JOBS[name]} new jobs." in output
    assert len(rows) == JOBS[name]
    assert all(row.ended for row in rows.values())
    assert_report_agrees(output, rows)


@needs_signals
def test_where_its_output_is_closed_it_works_all_the_same(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$0" -m final.examples.tickets >&-', sys.executable]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=3 * DEADLINE)
    assert all(row.ended for row in stored(tmp_path / "tickets.db").values())


def test_webhooks_tell_what_is_worth_a_retry(finished: tuple[Path, dict[str, Example]]) -> None:
    """On a busy machine any answer may come late: then that attempt is one more."""
    folder, examples = finished
    rows, errors = stored(folder / "webhooks.db"), failures(folder / "webhooks.db")
    dead = {job_id: row for job_id, row in rows.items() if row.status == "failed"}
    assert {row.attempts for row in dead.values()} == {6}
    assert {row.priority for row in dead.values()} == {"high", "medium", "low"}
    for job_id in dead:
        assert set(errors[job_id]) - {LATE} == {"NotDelivered: 500"}
    gone = {job_id: row for job_id, row in rows.items() if row.result == '"unsubscribed"'}
    assert len(gone) == 3
    for job_id, row in gone.items():
        assert errors.get(job_id, []) == [LATE] * (row.attempts - 1)
    assert set(errors["seen-6"]) - {LATE} == {"NotDelivered: 503"}
    assert set(errors["order-1"]) == {LATE}
    for job_id in ("seen-6", "order-1"):
        assert rows[job_id].attempts == len(errors[job_id]) + 1
    twice = re.search(r"(\d+) events arrived twice", examples["webhooks"].output)
    assert twice
    assert int(twice[1]) >= 5  # more, if the machine is so busy that others come late, too


def test_emails_are_in_the_mailbox_once(finished: tuple[Path, dict[str, Example]]) -> None:
    folder, _ = finished
    rows = stored(folder / "emails.db")
    assert mailbox(folder) == sorted(i for i, row in rows.items() if row.status == "completed")
    greylisted = [i for i, row in rows.items() if row.status == "completed" and row.attempts == 2]
    assert {job_id.split(".")[1] for job_id in greylisted} == {"hal@grey", "ida@grey", "jim@grey"}
    nobody = rows["news-1.nobody@home"]
    assert (nobody.status, nobody.attempts) == ("failed", 1)  # nor was the server asked again
    assert nobody.error == "NoMailbox: 550 no such mailbox"


def test_thumbnails_are_pictures(finished: tuple[Path, dict[str, Example]]) -> None:
    folder, _ = finished
    rows = stored(folder / "thumbnails.db").values()
    assert [row.error for row in rows if row.status == "failed"] == ["NotAPicture: epsg"]
    sizes = pictures(folder)
    assert sorted(f'"{name}"' for name in sizes) == sorted(row.result for row in rows if row.result)
    assert sizes["bmng-480.webp"] == (480, 240)


@pytest.mark.slow
def test_tickets_are_sold_as_fast_as_may_be_and_the_rest_is_turned_away(tmp_path: Path) -> None:
    with Example("tickets", tmp_path) as example:
        assert example.read_to_the_end() == 0, example.output
    rows = stored(tmp_path / "tickets.db")
    assert all(row.status == "completed" for row in rows.values())
    assert_report_agrees(example.output, rows)
    lines = re.findall(r"(\w+) the sale +(\d+) taken, +(\d+) turned away", example.output)
    taken = {when: int(taken) for when, taken, _ in lines}
    away = {when: int(away) for when, _, away in lines}
    assert sum(taken.values()) == len(rows), "An order that was taken is not in the file."
    assert (taken["before"], away["before"]) == (20, 0)
    assert taken["during"] + away["during"] == 500
    assert away["during"] > 0
    assert "Traceback" not in example.output


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_FLIGHT)
def test_a_killed_run_is_continued_and_nothing_is_lost(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.db"
    with Example(name, tmp_path) as first:
        first.read_until(IN_FLIGHT[name])
        first.kill()
    killed = stored(file)
    left = [job_id for job_id, row in killed.items() if not row.ended]
    in_flight = [job_id for job_id in left if killed[job_id].status == "processing"]
    assert in_flight, "nothing was in flight when the process was killed"
    arrived = mailbox(tmp_path) if name == "emails" else []
    if name == "thumbnails":
        assert pictures(tmp_path), "no thumbnail was there when the process was killed"

    with Example(name, tmp_path) as second:
        assert second.read_to_the_end() == 0, second.output
    assert f"{len(left)} jobs of the last run continue." in second.output
    assert "new jobs" not in second.output
    rows = stored(file)
    assert rows.keys() == killed.keys()
    assert all(row.ended for row in rows.values())
    assert_report_agrees(second.output, rows)
    # Nothing that had ended ran again.
    assert {i: row for i, row in killed.items() if row.ended}.items() <= rows.items()

    if name == "webhooks":
        assert {row.attempts for row in rows.values() if row.status == "failed"} == {6}
    if name == "emails":
        assert mailbox(tmp_path) == sorted(i for i, r in rows.items() if r.status == "completed")
        sent_twice = set(in_flight) & set(arrived)
        assert "invoice-1.kim@slow" in sent_twice
        assert set(re.findall(r"second copy dropped: (\S+)", second.output)) == sent_twice
    if name == "thumbnails":
        assert not list(tmp_path.glob("*/*.part"))
        made = sorted(row.result for row in rows.values() if row.result)
        assert sorted(f'"{name}"' for name in pictures(tmp_path)) == made


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(number: int, tmp_path: Path) -> None:
    with Example("webhooks", tmp_path) as example:
        example.read_until(IN_FLIGHT["webhooks"])
        example.signal(number)
        assert example.read_to_the_end() == 0, example.output
    rows = stored(tmp_path / "webhooks.db")
    assert_report_agrees(example.output, rows)
    assert re.search(r"Finishing \d+ jobs in flight", example.output)
    assert "Traceback" not in example.output
    assert "interrupted" not in example.output, "a job in flight was cut off"
    left = sum(not row.ended for row in rows.values())
    assert left
    assert f"{left} jobs stay in webhooks.db: run it again" in example.output


def test_a_file_that_is_in_use_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mine.db"
    with (
        JobQueue(nothing, path=file),
        Program(tmp_path, "final.examples.webhooks", str(file)) as example,
    ):
        assert example.read_to_the_end() == 1
    assert "mine.db is in use by" in example.output
    assert "Traceback" not in example.output


def test_a_file_is_replaced_and_never_written_in_place(tmp_path: Path) -> None:
    file, same_file = tmp_path / "picture.jpeg", tmp_path / "same-file.jpeg"
    write_atomically(file, b"old")
    os.link(file, same_file)
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert same_file.read_bytes() == b"old", "a kill in the middle would have left half a file"


@pytest.mark.parametrize("name", IN_FLIGHT)
def test_an_example_is_short(name: str) -> None:
    text = (ROOT / "final" / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100


def stored(file: Path) -> dict[str, Row]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        query = "SELECT id, status, attempts, priority, result, error FROM job"
        return {job_id: Row(*columns) for job_id, *columns in connection.execute(query)}


def failures(file: Path) -> dict[str, list[str]]:
    """The errors of each job's failed attempts."""
    errors: dict[str, list[str]] = {}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        query = "SELECT id, failure.error FROM failure JOIN job USING (seq) ORDER BY number"
        for job_id, error in connection.execute(query):
            errors.setdefault(job_id, []).append(error)
    return errors


def assert_report_agrees(output: str, rows: dict[str, Row]) -> None:
    """The table counts what is in the file, and every dead letter is listed with its error."""
    for priority in ("high", "medium", "low", "all"):
        chosen = [row for row in rows.values() if priority in (row.priority, "all")]
        status = [row.status for row in chosen]
        completed, failed = status.count("completed"), status.count("failed")
        attempts = sum(row.attempts for row in chosen)
        counts = (completed, failed, len(chosen) - completed - failed, attempts)
        line = re.search(rf"^ *{priority} +(\d+) +(\d+) +(\d+) +(\d+)  ", output, re.M)
        assert line, output
        assert tuple(map(int, line.groups())) == counts
    for job_id, row in rows.items():
        if row.status == "failed":
            assert re.search(rf"^ *{job_id} +{row.attempts} +{row.error} *$", output, re.M), output


def mailbox(folder: Path) -> list[str]:
    """The Message-IDs of all messages, one for each file, as the headers say."""
    files = [file.read_bytes() for file in (folder / "emails.mailbox").glob("*.eml")]
    assert all(content.endswith(b".\r\n") for content in files), "a message is cut off"
    return sorted(email.message_from_bytes(content)["Message-ID"][1:-1] for content in files)


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """The sizes of all thumbnails. To read one that is not whole fails."""
    sizes = {}
    for file in (folder / "thumbnails.out").iterdir():
        if file.suffix != ".part":
            with Image.open(file) as picture:
                picture.load()
                sizes[file.name] = picture.size
    return sizes
