"""``make mine`` and its sisters, as a reader meets them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import interrupt_once
from tests.ladder import __main__ as command
from tests.ladder import card, mine, progress, teachers
from tests.ladder.grading import (
    Candidate,
    GraderBroke,
    Limits,
    Row,
    Verdict,
    Watcher,
    grade,
    suspicions,
)
from tests.ladder.mine import Memory, changes
from tests.ladder.progress import DAYS, Done, next_thing
from tests.ladder.steps import SOLUTIONS, STEPS

pytestmark = pytest.mark.timeout(200)  # the machine may be busy with other things

NAIVE = SOLUTIONS / "step01_naive.py"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with a space in its name, in place of the repository's."""
    home = tmp_path / "my work"
    home.mkdir()
    monkeypatch.setattr(mine, "FILE", home / "mine" / "job_queue.py")
    monkeypatch.setattr(mine, "MEMORY", home / "build" / "ladder.json")
    monkeypatch.setattr(card, "ROOT", home)
    monkeypatch.setattr(teachers, "ROOT", home)
    monkeypatch.setenv("COLUMNS", "120")
    return home


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = command.main(list(arguments))
    return code, " ".join(capsys.readouterr().out.split())


def test_the_first_time_it_writes_a_stub_and_says_how_to_begin(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, "mine")
    assert code == 0
    assert mine.FILE.read_bytes() == mine.STUB.read_bytes()
    assert "Step 1: runs a job" in text
    assert "make mine-hint" in text


def test_it_shows_what_passes_and_the_first_failure_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.begin()
    shutil.copy(NAIVE, mine.FILE)
    code, text = said(capsys, "mine")
    assert code == 0
    assert "✓ 1 runs a job" in text
    assert "✗ 2 survives its handlers" in text
    assert "Seen 4 bad jobs ended 4 of 4 workers." in text
    assert f"version {Candidate(mine.FILE).hash}" in text
    assert "capacity" not in text  # of step 3: one thing at a time
    _, hint = said(capsys, "hint")
    assert "Step 2: survives its handlers, hint 1 of 3" in hint


@pytest.mark.slow
def test_a_step_that_broke_again_is_named_with_the_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.begin()
    shutil.copy(SOLUTIONS / "step02_survives.py", mine.FILE)
    _, text = said(capsys, "mine")
    assert "Step 2 passes for the first time." in text
    assert "Yours has not this flaw of naive: a raising handler kills its worker" in text
    source = mine.FILE.read_text(encoding="utf-8")
    mine.FILE.write_text(source.replace("except BaseException as", "except KeyError as"))
    _, text = said(capsys, "mine")
    assert "Step 2 broke again. It passed at " in text
    assert "your change since: +1 -1 in `_work`." in text


def test_a_file_that_is_no_python_gets_its_error_and_no_story(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.begin()
    mine.FILE.write_text(mine.FILE.read_text(encoding="utf-8") + "def half(:\n", encoding="utf-8")
    _, text = said(capsys, "mine")
    assert text.count("line 46") == 1
    assert text.endswith("SyntaxError: invalid syntax (line 46). def half(:")
    assert "Predict" not in text


def test_a_step_by_its_number_is_a_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("fifo", True)
    verdict = Verdict("0", {name: Row(name, True) for name in STEPS[0].rows} | {"fifo": row})
    monkeypatch.setattr("tests.ladder.showing.climb", lambda *_, **__: verdict)
    assert said(capsys, "mine", "--step", "1", "--file", str(NAIVE))[0] == 0
    row.passed = False
    assert said(capsys, "mine", "--step", "1", "--file", str(NAIVE))[0] == 1
    assert said(capsys, "mine", "--file", str(NAIVE))[0] == 0  # what comes next is no error


def test_watching_grades_on_each_save_until_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.begin()
    graded: list[str] = []

    def climb(candidate: Candidate, *_: object, **__: object) -> Verdict:
        graded.append(candidate.hash)
        if len(graded) == 3:
            raise KeyboardInterrupt
        verdict = Verdict(candidate.hash, {"enqueue": Row("enqueue", False, ["no"])})
        mine.FILE.write_text(f"# saved while it is graded: {len(graded)}\n", encoding="utf-8")
        return verdict

    monkeypatch.setattr("tests.ladder.showing.climb", climb)
    assert said(capsys, "mine", "--watch")[0] == 0
    assert len(set(graded)) == 3


def test_watching_sees_a_file_that_comes_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.begin()
    graded: list[list[str]] = []

    def climb(candidate: Candidate, *_: object, **__: object) -> Verdict:
        graded.append([file.name for file in candidate.files])
        if len(graded) == 2:
            raise KeyboardInterrupt
        (mine.FILE.parent / "helper.py").write_text("X = 1\n", encoding="utf-8")
        return Verdict(candidate.hash, {"enqueue": Row("enqueue", False, ["no"])})

    monkeypatch.setattr("tests.ladder.showing.climb", climb)
    assert said(capsys, "mine", "--watch")[0] == 0
    assert graded == [["job_queue.py"], ["helper.py", "job_queue.py"]]


def test_what_cannot_be_graded_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "notes.txt").write_text("a queue")
    if hasattr(os, "mkfifo"):  # whoever reads one waits for whoever writes it
        os.mkfifo(home / "pipe.py")
        assert "is no Python file" in said(capsys, "mine", "--file", str(home / "pipe.py"))[1]
    for arguments, sentence in (
        (("mine", "--file", str(home / "none.py")), "There is no "),
        (("mine", "--file", str(home / "notes.txt")), "is no Python file"),
        (("mine", "--file", str(home)), "has no job_queue.py"),
        (("diff",), "There is no mine/job_queue.py: make mine writes one"),
        (("card",), "There is no mine/job_queue.py: make mine writes one"),
        (("grade",), "Which folder?"),
        (("grade", "--dir", str(home / "none")), "There is no folder"),
        (("grade", "--dir", str(home)), "holds no Python file"),
    ):
        code, text = said(capsys, *arguments)
        assert (code, sentence in text) == (2, True), text
    with pytest.raises(SystemExit):
        command.main(["mine", "--step", "15"])
    assert "steps go from 1 to 14" in capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "mine").touch()
    for arguments in (("mine",), ("hint",), ("reset",)):
        code, text = said(capsys, *arguments)
        assert (code, "cannot be read or written: " in text) == (3, True), text
    (home / "mine").unlink()
    mine.FILE.mkdir(parents=True)
    assert said(capsys, "mine")[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is full.")
def test_a_full_disk_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Memory, "forget", lambda memory: Path("/dev/full").write_text("x"))
    code, text = said(capsys, "mine")
    assert (code, text) == (3, "It cannot be read or written: the output: No space left on device.")


def test_a_file_that_it_reads_is_a_part_of_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.FILE.parent.mkdir()
    reads = "import pathlib\npathlib.Path(__file__).with_name('schema.sql').read_text()\n"
    mine.FILE.write_text(NAIVE.read_text(encoding="utf-8") + reads, encoding="utf-8")
    mine.FILE.with_name("schema.sql").touch()
    assert "Step 1 passes." in said(capsys, "mine", "--step", "1")[1]


def test_a_package_may_be_the_current_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = home / "my_queue"
    package.mkdir()
    shutil.copy(NAIVE, package / "job_queue.py")
    (package / "__init__.py").write_text("from my_queue.job_queue import *\n")
    monkeypatch.chdir(package)
    assert said(capsys, "mine", "--step", "1", "--file", ".")[0] == 0


def test_there_are_three_hints_and_no_fourth(capsys: pytest.CaptureFixture[str]) -> None:
    mine.begin()
    memory = Memory(Candidate(mine.FILE))
    assert [memory.hint(STEPS[0]) for _ in range(4)] == [1, 2, 3, 3]
    _, text = said(capsys, "hint", "--step", "1")
    assert "naive/job_queue.py:" in text


def test_reset_keeps_what_was_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine.begin()
    mine.FILE.write_text("# my work\n")
    _, text = said(capsys, "reset")
    assert mine.FILE.read_bytes() == mine.STUB.read_bytes()
    (kept,) = mine.FILE.parent.glob("*.txt")
    assert kept.read_text() == "# my work\n"
    assert kept.name in text
    said(capsys, "reset")
    assert list(mine.FILE.parent.glob("*.txt")) == [kept]  # a bare stub is nobody's work


def test_who_splits_the_file_in_two_is_on_the_same_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.begin()
    assert "hint 1 of 3" in said(capsys, "hint", "--step", "1")[1]
    mine.FILE.with_name("lanes.py").touch()
    assert "hint 2 of 3" in said(capsys, "hint", "--step", "1")[1]
    Memory(mine.candidate(None)).remember(Verdict("", {r: Row(r, True) for r in STEPS[0].rows}))
    assert progress.step_reached() == 1
    said(capsys, "reset")
    assert progress.step_reached() == 0
    assert "hint 1 of 3" in said(capsys, "hint", "--step", "1")[1]


def test_who_begins_anew_has_nothing_that_broke(capsys: pytest.CaptureFixture[str]) -> None:
    mine.begin()
    memory = Memory(Candidate(mine.FILE))
    memory.remember(Verdict("", {row: Row(row, True) for row in STEPS[0].rows}))
    assert progress.step_reached() == 1
    assert memory.broke(STEPS[0], "")
    mine.FILE.write_text("# my work\n")
    assert "Begun anew: " in said(capsys, "reset")[1]
    assert progress.step_reached() == 0
    assert Memory(Candidate(mine.FILE)).broke(STEPS[0], "") == ""


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {"passed": 3, "hints": {}, "current": 1},
        {"passed": {"1": {}}, "hints": {}, "current": 1},
        {"passed": {}, "hints": {"1": "x"}, "current": 1},
        {"passed": {}, "hints": {}, "current": 99},
        {"passed": {}, "hints": {}, "current": "x"},
    ],
)
def test_a_memory_that_is_damaged_is_forgotten(
    entry: object, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.begin()
    mine.MEMORY.write_text(json.dumps({mine.shown(mine.FILE): entry}))
    assert progress.step_reached() == 0
    assert "hint 1 of 3" in said(capsys, "hint")[1]
    assert "hint 2 of 3" in said(capsys, "hint")[1]


def test_diff_waits_for_the_step_to_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = ("--step", "1", "--file", str(mine.STUB))
    failed = Verdict("0", {"enqueue": Row("enqueue", False)})
    monkeypatch.setattr("tests.ladder.showing.climb", lambda *_, **__: failed)
    assert "does not pass yet" in said(capsys, "diff", *stub)[1]
    code, text = said(capsys, "diff", *stub, "--anyway")
    assert code == 0
    assert "+ self._handler(job)" in text
    mine.FILE.parent.mkdir()
    mine.FILE.write_bytes("# -*- coding: latin-1 -*-\n# für mich\n".encode("latin-1"))
    assert said(capsys, "diff", "--step", "1", "--anyway")[0] == 0


def test_steps_begin_with_the_idea_and_end_with_the_imports(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, text = said(capsys, "steps", "--step", "6")
    places = [text.index(f"{name} ──") for name in ("_record", "_require_number", "the file)")]
    assert places == sorted(places)
    assert "retry-frees-worker" in said(capsys, "steps")[1]


@pytest.mark.parametrize("columns", ["40", "60"])
def test_where_it_is_narrow_no_name_is_cut(
    columns: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    failed = Verdict("0", {"backpressure-timeout": Row("backpressure-timeout", False)})
    monkeypatch.setattr(teachers, "climb", lambda *_, **__: failed)
    shutil.copy(NAIVE, home / "ada_lovelace_with_a_long_name.py")
    for arguments in (["steps"], ["grade", "--dir", str(home)]):
        code, text = said(capsys, *arguments)
        assert code == 0
        assert "…" not in text


def test_the_card_has_four_columns(home: Path) -> None:
    verdict = grade(Candidate(NAIVE), ["enqueue", "worker-survival"], to_the_end=True)
    text = card.markdown(Candidate(NAIVE), verdict)
    assert "| a raising handler kills no worker | ✗ N6 | ✓ | ✓ | ✗ |" in text
    picture = card.svg(verdict)
    assert picture.count(">✓<") == text.count("✓")


@pytest.mark.slow
def test_grades_are_a_table_and_two_files(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    five = [row for step in STEPS[:5] for row in step.rows]
    monkeypatch.setattr(
        teachers,
        "climb",
        lambda candidate, **_: replace(
            grade(candidate, five, to_the_end=True, limits=Limits(deadline=60.0, test=120.0)),
            reaches=suspicions(candidate),
        ),
    )
    folder = home / "the submissions"
    folder.mkdir()
    shutil.copy(SOLUTIONS / "step04_closes.py", folder / "ada.py")
    (folder / "bob.py").write_text("import improved\nfrom improved import *\nraise ValueError\n")
    code, text = said(capsys, "grade", "--dir", str(folder))
    assert code == 0
    assert "reaches for improved" in text
    with (home / "build" / "grades.csv").open(encoding="utf-8") as file:
        ada, bob = csv.DictReader(file)
    assert (ada["step"], ada["assignments"], ada["mended"]) == ("4", "A", "N1 N4 N6"), ada["seen"]
    assert ada["first_failure"] == "priority"
    assert (bob["step"], bob["first_failure"]) == ("0", "enqueue")
    assert "ValueError" in bob["seen"]
    assert [each["file"] for each in json.loads((home / "build" / "grades.json").read_text())] == [
        "ada.py",
        "bob.py",
    ]


def test_one_file_does_not_cost_the_others_their_grades(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teachers, "climb", lambda candidate, **_: grade(candidate, ["enqueue"]))
    folder = home / "submissions"
    names = ("queue", "zoe", "notes", "__pycache__")
    for name in names:
        (folder / name).mkdir(parents=True)
    (folder / "deep.py").write_text(f"x = {'-' * 200_000}1")
    for name in ("queue/__init__.py", "._ada.py", "words.txt"):
        (folder / name).touch()
    (folder / "zoe" / "old.py").symlink_to(folder / "gone.py")
    for name in ("queue/job_queue.py", "zoe/job_queue.py", "\udcff\n.py"):
        shutil.copy(NAIVE, folder / name)
    code, text = said(capsys, "grade", "--dir", str(folder))
    assert code == 0
    assert "Not graded, as no Python files: notes, words.txt." in text
    grades = json.loads((home / "build" / "grades.json").read_text())
    assert [(each["file"], each["rows"]) for each in grades] == [
        ("deep.py", 0),
        ("queue", 0),
        ("zoe", 1),
        ("\N{REPLACEMENT CHARACTER}" * 2 + ".py", 1),
    ]
    assert "nested too deeply" in grades[0]["seen"]
    assert "cannot be called queue" in grades[1]["seen"]


def test_what_goes_wrong_in_grading_is_in_the_table(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def climb(*_: object, **__: object) -> Verdict:
        raise GraderBroke("no tests ran\nat all")

    monkeypatch.setattr(teachers, "climb", climb)
    shutil.copy(NAIVE, home / "ada.py")
    assert "could not be graded: no tests ran" in said(capsys, "grade", "--dir", str(home))[1]


@pytest.mark.skipif(os.name != "posix", reason="On Windows Ctrl-C is heard when a file is through.")
def test_ctrl_c_ends_what_is_graded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may take minutes."""
    begun = threading.Event()

    def climb(candidate: Candidate, *, watcher: Watcher, **_: object) -> Verdict:
        begun.set()
        while True:
            watcher("enqueue")
            time.sleep(0.01)

    monkeypatch.setattr(teachers, "climb", climb)
    for name in ("ada.py", "bob.py"):
        shutil.copy(NAIVE, home / name)
    pressed = interrupt_once(signal.SIGINT, begun.is_set)
    assert command.main(["grade", "--dir", str(home)]) == 130
    pressed.result()
    assert not (home / "build" / "grades.csv").exists()


class TestProgress:
    def test_there_is_one_next_thing(self) -> None:
        nothing = Done(0, 0, 0, frozenset())
        assert next_thing(nothing) == (1, "make notebooks, and the exercises of notebook 1")
        assert next_thing(Done(1, 0, 0, frozenset({1})))[1].startswith("make mine: step 2")
        assert next_thing(Done(5, 0, 0, frozenset({1, 2}))) == (2, "make hunt: 2 more")
        # Who is further up the ladder than the day goes on there.
        assert next_thing(Done(11, 0, 0, frozenset()))[1].startswith("make mine: step 12, ")
        assert next_thing(Done(13, 0, 0, frozenset()))[1].startswith("make notebooks")
        everything = Done(13, 27, 47, frozenset(range(1, 10)))
        assert next_thing(everything) == (len(DAYS), "")

    def test_it_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, text = said(capsys, "progress")
        assert code == 0
        assert "Steps 0 of 13" in text
        assert "Next " in text

    @pytest.mark.parametrize("text", ['{"cells": [\n<<<<<<< HEAD\n', "[]", '{"cells": [1]}'])
    def test_a_notebook_that_cannot_be_read_is_named(
        self,
        text: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "notebooks" / "01_a.ipynb").write_text(text)
        monkeypatch.setattr(progress, "ROOT", tmp_path)
        code, complaint = said(capsys, "progress")
        assert code == 2
        assert "01_a.ipynb is no notebook any more: `git checkout" in complaint

    def test_exercises_are_counted_where_the_notebooks_say_right(self, tmp_path: Path) -> None:
        def cell(said: str) -> dict[str, object]:
            return {"metadata": {"tags": ["check"]}, "outputs": [{"text": [said]}]}

        cells = [cell("Right.\n"), cell("Not yet: ...\n"), {"metadata": {}}]
        (tmp_path / "01_a.ipynb").write_text(json.dumps({"cells": cells}))
        assert progress.exercises_solved(tmp_path) == ({1: (1, 2)}, 2)


def test_changes_are_told_by_method() -> None:
    before = "class A:\n    def f(self):\n        pass\n\n    def g(self):\n        pass\n"
    assert changes(before, before.replace("f(self):\n", "f(self):\n        1\n")) == "+1 -0 in `f`"
    assert changes(before, before) == "none in this file"
    assert changes(before, "def (") != ""


def test_what_the_story_names_comes_first_among_the_changes() -> None:
    methods = {name: f"    def {name}(self):\n        pass\n" for name in "abcde"}
    before = "class A:\n" + "".join(methods.values())
    after = before.replace("        pass\n", "        1\n        2\n", 4).replace("pass", "1")
    assert changes(before, after, "line 31, in e: 1").startswith("+1 -1 in `e`, +2 -1 in `a`, ")
    assert changes(before, after, "").endswith("in `c`, and 2 more")
