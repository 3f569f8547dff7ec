"""The documents as the tests see them: pages, their headings, links and code.

A link to a line names what stands there: ``[`self._jobs.get()`](../naive/job_queue.py#L79)``.
When the code moves, ``python -m tests.docs`` moves such links after it.

But: links to other sites are not followed. The tests work offline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)(\w*)[^\n]*\n(.*?)^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
# A title, as figures have it (figures.py), is no part of the link.
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|`[^`]*`)*)\]\(<?([^()\s>]+)>?(?: \"[^\"]*\")?\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")


class Link(NamedTuple):
    """``[text](target)`` on a page; the target is a file and what follows ``#``."""

    page: Path
    text: str
    target: str

    @property
    def file(self) -> Path:
        name = self.target.partition("#")[0]
        return (self.page.parent / name).resolve() if name else self.page

    @property
    def anchor(self) -> str:
        return self.target.partition("#")[2]

    @property
    def line(self) -> int | None:
        """The line of a link such as ``job_queue.py#L79``."""
        found = re.fullmatch(r"L(\d+)(?:-L\d+)?", self.anchor)
        return int(found[1]) if found else None

    @property
    def code(self) -> str | None:
        """What stands between backticks in the text: the linked line must hold it."""
        found = re.search(r"`([^`]+)`", self.text)
        return found[1] if found else None


class Code(NamedTuple):
    """A fenced block: its language, its text, and the line at which it begins."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every document that a person reads on the web: READMEs, docs, the notebooks' texts."""
    folders = (".", ".github", "tests", "notebooks")
    found = [page for folder in folders for page in (ROOT / folder).glob("*.md")]
    return sorted([*found, *(ROOT / "docs").rglob("*.md")])


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links(page: Path) -> Iterator[Link]:
    """The links to other files, and within the page; not those to other sites."""
    words = without_code(page.read_text(encoding="utf-8"))
    found = [*_LINK.findall(words), *(("", target) for target in _IMAGE.findall(words))]
    for text, target in found:
        if not re.match(r"[a-z]+:", target):
            yield Link(page, text, target)


def code(page: Path, language: str = "") -> list[Code]:
    """The fenced blocks of ``page``, all or those in one language."""
    words = page.read_text(encoding="utf-8")
    blocks = [
        Code(found[3], found[4], words[: found.start()].count("\n") + 1)
        for found in _FENCE.finditer(words)
    ]
    return [block for block in blocks if not language or block.language == language]


def without_code(words: str) -> str:
    """``words`` without its fenced blocks."""
    return _FENCE.sub("", words)


def slug(heading: str) -> str:
    """A heading as it stands in links."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """What ``#...`` may say: the page's headings as the web host spells them, and its ids."""
    words = without_code(page.read_text(encoding="utf-8"))
    spelled: dict[str, int] = {}
    found = set(_ANCHOR.findall(words))
    for heading in _HEADING.findall(words):
        name = slug(heading)
        count = spelled.get(name, 0)
        spelled[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def trouble(link: Link) -> str | None:
    """What is wrong with ``link``, as a sentence; None if nothing."""
    if not link.file.exists():
        return f"{link.target} does not exist."
    if link.line:
        lines = link.file.read_text(encoding="utf-8").splitlines()
        if link.line > len(lines):
            return f"{link.target}: the file has {len(lines)} lines."
        if link.code and link.code not in lines[link.line - 1]:
            return (
                f"{link.target} is {lines[link.line - 1].strip()!r}, not {link.code!r}: "
                "run python -m tests.docs, which moves the link."
            )
    elif link.anchor and link.file.suffix == ".md" and link.anchor not in anchors(link.file):
        return f"{link.target}: there is no such heading."
    return None


def moved(link: Link) -> str | None:
    """Where ``link`` should point now: its code, nearest to where it was. None if it is nowhere."""
    if not (link.line and link.code and link.file.exists()):
        return None
    lines = link.file.read_text(encoding="utf-8").splitlines()
    places = [number for number, line in enumerate(lines, start=1) if link.code in line]
    if not places:
        return None
    nearest = min(places, key=lambda place: abs(place - (link.line or 0)))
    return f"{link.target.partition('#')[0]}#L{nearest}"
