"""Bring the documents up to date: ``python -m tests.docs``.

Links to lines are pointed to where the code is now, and figures say what their sources say.
"""

from __future__ import annotations

import sys

from tests.docs import figures, pages


def main() -> int:
    """Mend what can be mended, and name the rest; 1 if there is any."""
    lost = 0
    for page in pages.pages():
        words = page.read_text(encoding="utf-8")
        for link in pages.links(page):
            problem = pages.trouble(link)
            if problem is None:
                continue
            target = pages.moved(link)
            if target is None:
                print(f"{pages.name(page)}: {problem}")
                lost += 1
            else:
                print(f"{pages.name(page)}: {link.target} -> {target}")
                words = words.replace(f"[{link.text}]({link.target})", f"[{link.text}]({target})")
        for figure in figures.figures(page):
            try:
                text = figures.today(figure)
            except LookupError as error:
                print(f"{pages.name(page)}: {figure}: {error}")
                lost += 1
                continue
            if text != figure.text:
                print(f"{pages.name(page)}: {figure.text} -> {text}")
                words = words.replace(str(figure), str(figure._replace(text=text)))
        page.write_text(words, encoding="utf-8", newline="\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
