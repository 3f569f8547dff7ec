"""The interview: its pages have their form, and the quiz and the flashcards are made of them."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from docs.interview import cards
from docs.interview.progress import BadProgress, Progress, Rating
from docs.interview.questions import (
    HERE,
    ROOT,
    BadPage,
    Question,
    every_question,
    topic,
    topics,
)
from docs.interview.quiz import Quiz
from tests.docs.pages import slug

FIRST_PAGE = (HERE / "README.md").read_text(encoding="utf-8")
PAGES = sorted(HERE.glob("[0-9]*.md"))
QUESTIONS = list(every_question(topics()))
# Something here: a file of the repository, or a command that shows it.
EVIDENCE = re.compile(r"\((naive|improved|final|tests|docs|notebooks|pyproject\.toml)[/)\w]|`make ")

GOOD_PAGE = """\
# 1. Doors

Can you open one?

## How do you open a door?

*About 1 minute.*

<details>
<summary>A strong answer</summary>

By its [`handle`](../final/doors.py#L7).

</details>

<details>
<summary>Follow-up: And if it is locked?</summary>

With the key.

</details>

<details>
<summary>Red flags</summary>

- Dynamite.

</details>

<details>
<summary>Proof</summary>

- [doors](doors.md#wood)

</details>
"""


class TestPages:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
    def test_each_has_two_to_five_questions_with_all_their_parts(self, page: Path) -> None:
        questions = topic(page).questions
        assert 2 <= len(questions) <= 5
        for question in questions:
            assert question.text.endswith((".", "?", ")"))
            assert all(follow_up.text.endswith((".", "?")) for follow_up in question.follow_ups)
            assert EVIDENCE.search(question.proof), f"nothing here proves: {question.text}"

    def test_the_first_page_lists_every_topic_and_question(self) -> None:
        links = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
        lines = re.findall(r"^(\d+)\. (\[.+)$", FIRST_PAGE, re.MULTILINE)
        listed = [[number, *links.findall(line)] for number, line in lines]
        assert listed == [
            [
                one.title.partition(". ")[0],
                (one.title.partition(". ")[2], page.name),
                *((asked.text, f"{page.name}#{slug(asked.text)}") for asked in one.questions),
            ]
            for one, page in zip(topics(), PAGES, strict=True)
        ]
        assert len(listed) >= 17

    def test_no_question_is_asked_twice(self) -> None:
        assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)


class TestForm:
    """The reader itself, on a small page."""

    def _read(self, tmp_path: Path, text: str) -> Question:
        page = tmp_path / "01-doors.md"
        page.write_text(text, encoding="utf-8")
        return topic(page).questions[0]

    def test_a_good_one(self, tmp_path: Path) -> None:
        question = self._read(tmp_path, GOOD_PAGE)
        assert (question.topic, question.minutes) == ("doors", 1)
        assert question.text == "How do you open a door?"
        assert [follow_up.text for follow_up in question.follow_ups] == ["And if it is locked?"]
        assert question.red_flags == "- Dynamite."

    @pytest.mark.parametrize(
        ("was", "becomes"),
        [
            ("*About 1 minute.*\n\n", ""),
            ("<summary>Red flags</summary>", "<summary>Warnings</summary>"),
            ("Follow-up: And if it is locked?", "Hint"),
            ("- Dynamite.\n\n</details>", "- Dynamite.\n\n</details>\n\nUnfolded."),
            ("</summary>\n\nBy", "</summary>\nBy"),
        ],
        ids=["no time", "wrong fold", "no follow-up", "outside of the folds", "no empty line"],
    )
    def test_bad_ones_are_named(self, tmp_path: Path, was: str, becomes: str) -> None:
        assert was in GOOD_PAGE
        with pytest.raises(BadPage, match=r"01-doors\.md.*How do you open a door\?"):
            self._read(tmp_path, GOOD_PAGE.replace(was, becomes))

    def test_a_page_without_a_title_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadPage, match=r"01-doors\.md"):
            self._read(tmp_path, GOOD_PAGE.replace("# 1. Doors", "Doors", 1))

    def test_links_are_spelled_out(self) -> None:
        proofs = "\n".join(question.proof for question in QUESTIONS)
        answers = "\n".join(question.answer for question in QUESTIONS)
        assert "](" not in proofs + answers
        assert re.search(r"`self\._handler\(job\)` \(naive/job_queue\.py:\d+\)", proofs)
        assert "(docs/flaws.md#n1)" in proofs
        assert "(https://" in answers


def run(*arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """The program, with ``typed`` as its input: not a terminal, so all is plain text."""
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "docs.interview", *map(str, arguments)],
        cwd=ROOT,
        input=typed,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )


class TestQuiz:
    def test_a_whole_topic_with_all_that_can_be_asked_for(self, tmp_path: Path) -> None:
        questions = topics()[0].questions
        typed = ""
        for question in questions:
            typed += "\n" + "f\n\n" * len(question.follow_ups) + "p\n" + "1\n"
        ended = run("scope", "--progress", tmp_path / "kept.json", typed=typed)
        assert ended.returncode == 0, ended.stderr
        shown = " ".join(ended.stdout.split())
        for question in questions:
            assert question.text in shown
            assert all(follow_up.text in shown for follow_up in question.follow_ups)
        assert shown.count("Red flags") == shown.count("Proof") == len(questions)
        assert f"{len(questions)} rated this time" in shown
        assert "\x1b" not in ended.stdout

    def test_the_answer_comes_after_enter_and_no_sooner(self, tmp_path: Path) -> None:
        ended = run("1", "--progress", tmp_path / "kept.json", typed="what?\n")
        assert "A strong candidate takes about 4:00" in ended.stdout
        assert "Red flags" not in ended.stdout

    def test_ratings_are_kept_and_the_weak_one_comes_first(self, tmp_path: Path) -> None:
        kept = tmp_path / "kept.json"
        run("claiming", "--progress", kept, typed="\n1\n\n3\ns\n")
        second = topics()[6].questions[1].text
        ended = run("claiming", "--progress", kept, typed="")
        assert "knew it 1, partly 0, no 1, new 1" in ended.stdout
        assert ended.stdout.index(second) < ended.stdout.index("Last time: no, 0:00")
        assert "1 of 3" in ended.stdout

    @pytest.mark.parametrize("typed", ["", "\n", "\nf\n", "q\n"])
    def test_it_ends_well_wherever_the_input_ends(self, tmp_path: Path, typed: str) -> None:
        ended = run("--progress", tmp_path / "kept.json", typed=typed)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "0 rated this time" in ended.stdout

    def test_ctrl_c_keeps_what_was_rated(self, tmp_path: Path) -> None:
        kept = Progress(tmp_path / "kept.json")
        console = Typist(["", "2", KeyboardInterrupt()])
        Quiz(topics()[:1], kept, console).run()
        assert "1 rated this time" in console.export_text()
        first = topics()[0].questions[0]
        assert Progress(tmp_path / "kept.json").rating(first) is Rating.PARTLY

    def test_an_unknown_topic_is_told_which_there_are(self) -> None:
        ended = run("cooking")
        assert ended.returncode == 2
        assert "scope, api, data-model" in ended.stderr

    def test_a_broken_file_is_left_alone(self, tmp_path: Path) -> None:
        kept = tmp_path / "kept.json"
        kept.write_text("[1, 2]")
        ended = run("--progress", kept)
        assert ended.returncode == 1
        assert "Delete it to start over" in ended.stderr
        assert kept.read_text() == "[1, 2]"

    @pytest.mark.parametrize("option", ["--progress", "--flashcards"])
    def test_a_folder_in_place_of_a_file_is_named(self, tmp_path: Path, option: str) -> None:
        ended = run(option, tmp_path)
        assert ended.returncode == 1
        assert ended.stderr == f"It cannot be read or written: {tmp_path}: Is a directory.\n"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is full.")
    def test_a_full_disk_is_said(self) -> None:
        ended = run("--flashcards", "/dev/full")
        assert (
            ended.stderr == "It cannot be read or written: the output: No space left on device.\n"
        )


class Typist(Console):
    """A console at which somebody types these lines."""

    def __init__(self, lines: list[str | BaseException]) -> None:
        super().__init__(file=io.StringIO(), record=True)
        self._typed = iter(lines)

    def input(self, *args: object, **kwargs: object) -> str:
        line = next(self._typed)
        if isinstance(line, BaseException):
            raise line
        return line


class TestProgress:
    def test_no_before_partly_before_new_before_known(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path / "kept.json")
        known, new, partly, no = QUESTIONS[:4]
        progress.rate(known, Rating.KNEW, 1)
        progress.rate(partly, Rating.PARTLY, 1)
        progress.rate(no, Rating.NO, 1)
        assert progress.weak_first([known, new, partly, no]) == [no, partly, new, known]

    def test_new_ones_of_a_weak_topic_come_first(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path / "kept.json")
        strong, weak = topics()[:2]
        progress.rate(strong.questions[0], Rating.KNEW, 1)
        progress.rate(weak.questions[0], Rating.NO, 1)
        order = progress.weak_first(every_question([strong, weak]))
        assert [question.topic for question in order[:3]] == [weak.name] * 3
        assert order[-1] == strong.questions[0]

    def test_the_latest_rating_counts_and_is_read_again(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path / "kept.json")
        progress.rate(QUESTIONS[0], Rating.NO, 70)
        progress.rate(QUESTIONS[0], Rating.KNEW, 65.43)
        last = Progress(tmp_path / "kept.json").last(QUESTIONS[0])
        assert last is not None
        assert (last.rating, last.seconds) == (Rating.KNEW, 65.4)

    @pytest.mark.parametrize("broken", ["{", '{"a": 1}', '{"a": {"rating": "so-so"}}'])
    def test_what_is_no_progress_file_is_refused(self, tmp_path: Path, broken: str) -> None:
        (tmp_path / "kept.json").write_text(broken)
        with pytest.raises(BadProgress, match=r"kept\.json"):
            Progress(tmp_path / "kept.json")


class TestFlashcards:
    def test_what_is_read_back_is_what_was_written(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "cards.csv"
        ended = run("--flashcards", file)
        with file.open(encoding="utf-8", newline="") as lines:
            headers = [next(lines) for _ in range(4)]
            rows = [cards.Card(*row) for row in csv.reader(lines)]
        assert "".join(headers) == cards.HEADERS
        assert rows == list(cards.cards(topics()))
        assert f"{len(rows)} cards" in ended.stdout

    def test_there_is_one_for_each_question_and_each_follow_up(self) -> None:
        made = list(cards.cards(topics()))
        follow_ups = [card for card in made if card.tags.endswith(" follow-up")]
        assert len(follow_ups) == sum(len(question.follow_ups) for question in QUESTIONS)
        assert len(made) == len(QUESTIONS) + len(follow_ups)
        assert len({card.front for card in made}) == len(made)

    def test_tables_and_code_become_html(self) -> None:
        backs = "".join(card.back for card in cards.cards(topics()))
        assert "<table>" in backs
        assert '<code class="language-python">' in backs
        assert "](" not in backs
