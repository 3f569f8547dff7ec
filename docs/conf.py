"""The site: ``make docs`` builds it from these pages, with a search that works offline.

The pages are plain Markdown that reads well on the web host, so they link to the code beside
them. Those links lead to copies here, with numbered lines. Any link that leads nowhere ends the
build with an error.

But: nothing is published. The site is a folder, build/site, that a browser opens.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

project = "Three job queues"
author = "its authors"
extensions = ["myst_parser"]
root_doc = "README"
html_theme = "furo"
html_title = "Three job queues"
html_copy_source = False
html_show_copyright = False
exclude_patterns: list[str] = []
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
# Links to files beside the pages become source:..., which is a plain address for the parser.
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "source": {"url": "{{path}}#{{fragment}}"},
}
pygments_style = "friendly"
pygments_dark_style = "native"


def _in_reading_order() -> list[str]:
    """The concepts as their first page lists them."""
    first_page = (DOCS / "concepts" / "README.md").read_text(encoding="utf-8")
    return [
        f"concepts/{name}" for name in re.findall(r"^\| \[.+\]\(([\w-]+)\.md\)", first_page, re.M)
    ]


CHAPTERS = {
    "Start": [
        "syllabus",
        "using",
        "groups",
        "unique",
        "control",
        "operations",
        "asyncio",
        "testing",
        "cheat-sheet",
        "commands",
        "ladder",
        "scoreboard",
        "flaws",
    ],
    "Concepts": ["concepts/README", *_in_reading_order()],
    "final": [
        "inside-final",
        "reliability",
        "labs",
        "performance",
        "load",
        "service",
        "decisions",
        "groups",
        "handlers",
        "kinds",
        "dependencies",
        "periodic",
        "many-hosts",
        "operations-postgres",
        "engines",
        "outgrowing",
        "mutants",
        "CHANGELOG",
    ],
    "Interview": ["interview/README", "interview/*"],
    "Words": ["glossary", "from-go"],
}

_LINK = re.compile(r'\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s"]*)?( "[^"]*")?\)')
_linked: set[Path] = set()


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)
    app.connect("build-finished", _copy_linked)


def _prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Point links to code at its copy in the site, and give the first page its table."""
    page = DOCS / f"{name}.md"
    up = "../" * name.count("/")

    def redirect(link: re.Match[str]) -> str:
        target, anchor = (page.parent / link[1]).resolve(), link[2] or ""
        if target.is_relative_to(DOCS) and target.suffix in (".md", ".svg", ".png"):
            return link[0]
        if not target.exists():
            return link[0]  # the parser will complain
        _linked.add(target)
        address = f"{up}code/{target.relative_to(ROOT).as_posix()}.html"
        return f"](source:{address}{anchor}{link[3] or ''})"

    source[0] = _LINK.sub(redirect, source[0])
    if name == root_doc:
        source[0] += "\n" + "\n".join(_table(*chapter) for chapter in CHAPTERS.items())


def _table(caption: str, pages: list[str]) -> str:
    there = [page for page in pages if list(DOCS.glob(f"{page}.md"))]
    lines = ["```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *there, "```", ""]
    return "\n".join(lines)


def _copy_linked(app: Sphinx, error: Exception | None) -> None:
    """Write every file that some page links to as a page of its own."""
    for path in sorted(_linked) if error is None else ():
        name = path.relative_to(ROOT).as_posix()
        page = Path(app.outdir) / "code" / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_page_of(path, name), encoding="utf-8")


def _page_of(path: Path, name: str) -> str:
    if path.is_dir():
        entries = sorted(entry.name for entry in path.iterdir() if entry.name[0] not in "_.")
        return _HTML.format(title=name, body=f"<pre>{html.escape(chr(10).join(entries))}</pre>")
    if path.suffix == ".ipynb":
        return _notebook(path)
    try:
        lexer: Any = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = get_lexer_for_filename("plain.txt")
    formatter = HtmlFormatter(linenos="inline", linespans="L", full=True, title=name)
    page: str = highlight(path.read_text(encoding="utf-8"), lexer, formatter)
    return _with_a_way_back(page.replace('id="L-', 'id="L'), name)  # the anchors of the web host


def _notebook(path: Path) -> str:
    import nbformat  # slow to import, and not every build has notebooks
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python3"}
    page = str(HTMLExporter().from_notebook_node(notebook)[0])
    return _with_a_way_back(page, path.relative_to(ROOT).as_posix())


def _with_a_way_back(page: str, name: str) -> str:
    """``page`` with a link to the site's first page, and dark where the reader's system is."""
    up = "../" * (name.count("/") + 1)
    return re.sub(r"(<body[^>]*>)", rf"\1{_BACK.format(up=up)}", page, count=1)


# A dark page is the light one inverted, and its pictures inverted back.
_BACK = """<p style="margin:1em"><a href="{up}README.html">← Three job queues</a></p>
<style>@media (prefers-color-scheme: dark) {{
html {{ filter: invert(0.9) hue-rotate(180deg); background: #fff }}
img {{ filter: invert(1) hue-rotate(180deg) }} }}</style>"""

_HTML = "<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>{body}"
