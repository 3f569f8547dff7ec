"""``make doctor`` tells the truth about a machine, also about one that lacks something."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import doctor
from tests.processes import needs_signals, said_to_nobody

REPOSITORY = Path(__file__).parents[1]

MOUNTS = r"""
/dev/vda / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sdb /tmp/kept\040here xfs rw 0 0
server:/export /home nfs4 rw 0 0
/dev/vda /home/ann ext4 rw 0 0
""".strip()


def run_doctor(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-m", "tests.doctor"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_here_nothing_is_missing() -> None:
    report = run_doctor()
    assert report.returncode == 0, report.stdout
    assert "Everything that is needed is here." in report.stdout
    assert doctor.MISSING not in report.stdout


@needs_signals
@pytest.mark.parametrize("command", ["doctor", "diff_stages naive improved"])
def test_it_ends_without_a_word_when_nobody_reads_it(command: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", *f"tests.{command}".split()],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert said_to_nobody(process) == ""


def test_a_bare_python_is_told_what_to_install() -> None:
    # -S: without site-packages, so as Python is before anything has been installed.
    report = run_doctor("-S")
    assert report.returncode == 1
    assert "filelock (run make setup)" in report.stdout
    assert doctor.INSTALL in report.stdout


@pytest.mark.parametrize("missing", ["json_each", "5,120 values"])
def test_a_sqlite_that_lacks_a_feature_is_found_out(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.NEEDED_SQL, missing, "SELECT no_such_function()")
    marks = {finding.name: finding.mark for finding in doctor.sqlite()}
    assert marks[missing] == doctor.MISSING
    assert marks["multi-row VALUES"] == doctor.OK


def test_an_old_python_gets_a_sentence_not_a_traceback() -> None:
    finding = doctor.python_version((3, 10, 13))
    assert finding.mark == doctor.MISSING
    assert finding.text.startswith("3.10.13 is too old")
    assert doctor.python_version((3, 11, 0)).mark == doctor.OK
    # To say so it has to be understood there: this raises SyntaxError for newer grammar.
    ast.parse(Path(doctor.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    ("version", "mark"),
    [
        ((3, 6, 23), doctor.OK),
        ((3, 7, 0), doctor.NOTE),
        ((3, 40, 1), doctor.NOTE),
        ((3, 44, 5), doctor.NOTE),
        ((3, 44, 6), doctor.OK),
        ((3, 45, 0), doctor.NOTE),
        ((3, 50, 6), doctor.NOTE),
        ((3, 50, 7), doctor.OK),
        ((3, 51, 2), doctor.NOTE),
        ((3, 51, 3), doctor.OK),
        ((3, 53, 0), doctor.OK),
    ],
)
def test_the_wal_reset_bug_is_in_the_documented_releases(
    version: tuple[int, ...], mark: str
) -> None:
    assert doctor.wal_reset_bug(version).mark == mark


@pytest.mark.parametrize(
    ("folder", "mark", "text"),
    [
        ("/work", doctor.OK, "ext4"),
        ("/tmp", doctor.NOTE, "memory only"),
        ("/tmpfiles", doctor.OK, "ext4"),
        ("/tmp/kept here/x", doctor.OK, "xfs"),
        ("/home/bob", doctor.NOTE, "network"),
        ("/home/ann/x", doctor.OK, "ext4"),
    ],
)
def test_the_file_system_is_the_innermost_mount(folder: str, mark: str, text: str) -> None:
    finding = doctor.file_system(folder, MOUNTS)
    assert finding.mark == mark
    assert text in finding.text


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    *_, last = doctor.disk(str(tmp_path / "nowhere"))
    assert last.mark == doctor.MISSING
    assert "nowhere" in last.text


def test_the_measurement_leaves_nothing_behind(tmp_path: Path) -> None:
    text = {finding.name: finding.text for finding in doctor.disk(str(tmp_path))}
    assert "the median of 50" in text["sync"]
    assert "jobs a second" in text["SQLite commit"]
    assert list(tmp_path.iterdir()) == []
