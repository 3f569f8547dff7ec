"""A hunt from its beginning to its end, with a real copy and real runs of pytest."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.bugs import __main__ as command
from tests.bugs import hunt
from tests.bugs.bug import Bug, zoo
from tests.bugs.hunt import Hunt, NoHuntError

pytestmark = pytest.mark.timeout(200)  # the machine may be busy with other things


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the folder build/."""
    monkeypatch.setattr(hunt, "BUILD", tmp_path)
    return tmp_path


def mend(folder: Path, number: int) -> None:
    for place in zoo()[number].places:
        file = folder / place.file
        file.write_text(file.read_text(encoding="utf-8").replace(place.wrong, place.right))


class TestHunt:
    def test_the_copy_has_the_story_and_nothing_of_the_solution(self, build: Path) -> None:
        Hunt.begin(2)
        readme = (build / "hunt" / "README.md").read_text(encoding="utf-8")
        bug = zoo()[2]
        assert bug.story in readme
        assert bug.caught_by in readme
        assert not any(hint in readme for hint in bug.hints)
        assert list((build / "hunt").rglob("zoo")) == []

    @pytest.mark.slow
    def test_its_symptom_is_there_until_it_is_mended(self, build: Path) -> None:
        Hunt.begin(2)
        complaint = Hunt.current().symptom()
        assert any("assert 3 == 4" in line for line in complaint)
        mend(build / "hunt", 2)
        assert Hunt.current().symptom() == []

    @pytest.mark.slow
    def test_tests_that_were_changed_do_not_help(self, build: Path) -> None:
        Hunt.begin(2)
        test = build / "hunt" / zoo()[2].caught_by.partition("::")[0]
        test.write_text(test.read_text(encoding="utf-8").replace("== 4", "== 3"))
        assert Hunt.current().symptom() != []

    @pytest.mark.slow
    def test_who_mends_one_thing_and_breaks_another_is_told(self, build: Path) -> None:
        Hunt.begin(2)
        code = build / "hunt" / "improved" / "job_queue.py"
        code.write_text(code.read_text(encoding="utf-8").replace("self._handler(task.job)", "pass"))
        seen: list[str] = []
        complaint = Hunt.current().damage(lambda test, percent: seen.append(test))
        assert "FAILED tests/suite/" in complaint[0]
        assert seen

    @pytest.mark.parametrize("text", ["5", "null", '[[1], "a", 99]', '{"a": 1}', "[1"])
    def test_a_list_of_the_solved_that_is_damaged_counts_for_nothing(
        self, text: str, build: Path
    ) -> None:
        (build / "hunts-solved.json").write_text(text)
        assert hunt.numbers_solved() == []
        assert Hunt(zoo()[3]).solved() == [3]

    @pytest.mark.parametrize(
        "text", ["[]", "5", '{"bug": [], "hints": 1}', '{"bug": 1, "hints": "x"}']
    )
    def test_a_hunt_that_cannot_be_read_is_none(self, text: str, build: Path) -> None:
        (build / "hunt").mkdir()
        (build / "hunt" / ".hunt.json").write_text(text)
        with pytest.raises(NoHuntError, match="make hunt"):
            Hunt.current()

    def test_there_are_three_hints_and_no_fourth(self) -> None:
        Hunt.begin(1)
        assert [Hunt.current().next_hint() for _ in range(4)] == [1, 2, 3, 3]

    def test_it_goes_from_easy_to_hard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # It is about their order: nothing needs to be copied.
        monkeypatch.setattr(hunt, "copy_of_everything", lambda folder: folder.mkdir())
        monkeypatch.setattr(Bug, "plant", lambda bug, folder: None)
        levels = []
        for _ in zoo():
            bug = Hunt.begin(None).bug
            levels.append(bug.level)
            Hunt(bug).solved()
        assert levels == sorted(levels)
        assert set(levels) == {1, 2, 3}

    def test_any_bug_is_one_that_was_not_solved(self) -> None:
        for number in list(zoo())[:-1]:
            Hunt(zoo()[number]).solved()
        assert Hunt.begin(None, at_random=True).bug.number == max(zoo())

    def test_work_on_another_bug_is_kept(self, build: Path) -> None:
        Hunt.begin(1)
        (build / "hunt" / "improved" / "notes.txt").write_text("I suspect the lock.")
        Hunt.begin(2)
        assert (build / "hunt-before" / "improved" / "notes.txt").exists()

    def test_so_it_is_where_the_next_hunt_was_interrupted(
        self, build: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Hunt.begin(2)
        (build / "hunt" / "improved" / "notes.txt").touch()

        def cut_short(folder: Path) -> None:
            folder.mkdir()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(hunt, "copy_of_everything", cut_short)
            with pytest.raises(KeyboardInterrupt):
                Hunt.begin(3)
        assert Hunt.current().bug.number == 2
        Hunt.begin(3)
        assert (build / "hunt-before" / "improved" / "notes.txt").exists()


class TestCommands:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["bugs", *arguments])
        return command.main()

    def test_without_a_hunt_it_says_how_to_begin_one(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, "hint") == 2
        assert "Begin one with: make hunt" in capsys.readouterr().out

    def test_who_stops_or_breaks_it_gets_no_traceback(
        self,
        build: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (build / "hunt").mkdir()
        for state in ("{", '{"bug": 99, "hints": 0}'):
            (build / "hunt" / ".hunt.json").write_text(state)
            assert self.run(monkeypatch, "check") == 2
        (build / "hunts-solved.json").write_text("[1, ")
        assert self.run(monkeypatch, "list") == 0
        (build / "hunt" / ".hunt.json").write_text('{"bug": 2, "hints": 0}')
        monkeypatch.setattr(Hunt, "symptom", lambda hunt: signal.raise_signal(signal.SIGINT))
        assert self.run(monkeypatch, "check") == 130
        monkeypatch.setattr(hunt, "BUILD", build / "hunts-solved.json")
        assert self.run(monkeypatch, "hunt", "2") == 3
        assert "cannot be read or written: " in capsys.readouterr().out

    def test_the_solution_shows_the_lines_that_mend_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, "hunt", "2") == 0
        assert self.run(monkeypatch, "solution") == 0
        shown = capsys.readouterr().out
        assert "-            elif task.attempts < self._max_retries:" in shown
        assert "+            elif task.attempts <= self._max_retries:" in shown
        assert f"Caught by {zoo()[2].caught_by}\n" in shown  # in one line, to be copied

    def test_an_unknown_number_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            self.run(monkeypatch, "hunt", "99")
        assert "there is no bug 99" in capsys.readouterr().err
