"""Documents keep their word: links lead somewhere, and the code they show runs as shown."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import postgres_server
from tests.docs import pages
from tests.docs.pages import ROOT, Link

every_page = pytest.mark.parametrize("page", pages.pages(), ids=pages.name)
with_code = pytest.mark.parametrize(
    "page",
    [
        page
        for page in pages.pages()
        if page.is_relative_to(ROOT / "docs")
        and page.name != "flaws.md"  # it quotes lines of the stages
        and pages.code(page, "python")
    ],
    ids=pages.name,
)


@every_page
def test_every_link_leads_to_what_it_names(page: Path) -> None:
    troubles = [trouble for link in pages.links(page) if (trouble := pages.trouble(link))]
    assert troubles == []


def test_the_site_lists_every_page() -> None:
    listed = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    names = [page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "README"]
    assert [name for name in names if f'"{name}"' not in listed] == []


@with_code
def test_its_code_runs_and_prints_what_it_says(page: Path, tmp_path: Path) -> None:
    """The ``python`` blocks of a page are one program; a ``text`` block after one is its output.

    One that reads DATABASE gets the address of a server.
    """
    program, expected = _program_of(page)
    database = ""
    if "DATABASE" in program:
        if not postgres_server.is_there():
            pytest.skip(postgres_server.MISSING)
        database = postgres_server.dsn()
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "DATABASE": database,
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stderr
    for output in expected:
        assert output in run.stdout


def _program_of(page: Path) -> tuple[str, list[str]]:
    blocks = pages.code(page)
    program = "\n".join(block.text for block in blocks if block.language == "python")
    outputs = [
        after.text
        for before, after in itertools.pairwise(blocks)
        if before.language == "python" and after.language == "text"
    ]
    return program, outputs


class TestLinks:
    """The checker itself, on a small page beside a small file."""

    @pytest.fixture
    def page(self, tmp_path: Path) -> Path:
        (tmp_path / "code.py").write_text("one = 1\ntwo = 2\n")
        page = tmp_path / "page.md"
        page.write_text("# The `first` page: a test\n\n## Twice\n\n## Twice\n")
        return page

    @pytest.mark.parametrize(
        ("text", "target"),
        [
            ("a file", "code.py"),
            ("a heading", "#the-first-page-a-test"),
            ("the second of two", "page.md#twice-1"),
            ("a line", "code.py#L1"),
            ("`two` there", "code.py#L2"),
        ],
    )
    def test_good_ones(self, page: Path, text: str, target: str) -> None:
        assert pages.trouble(Link(page, text, target)) is None

    @pytest.mark.parametrize(
        ("text", "target", "says"),
        [
            ("a file", "gone.py", "does not exist"),
            ("a heading", "#elsewhere", "no such heading"),
            ("a line", "code.py#L3", "2 lines"),
            ("`two` there", "code.py#L1", "not 'two'"),
        ],
    )
    def test_bad_ones(self, page: Path, text: str, target: str, says: str) -> None:
        assert says in str(pages.trouble(Link(page, text, target)))

    def test_one_whose_code_has_moved_follows_it(self, page: Path) -> None:
        assert pages.moved(Link(page, "`two`", "code.py#L1")) == "code.py#L2"
        assert pages.moved(Link(page, "`three`", "code.py#L1")) is None
