"""The Makefile keeps its promises: every target is listed by ``make help``, in one line."""

from __future__ import annotations

import re
from pathlib import Path

MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")


def test_every_target_says_what_it_does() -> None:
    (phony,) = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", MAKEFILE, re.M)
    targets = phony.replace("\\", "").split()
    described = dict(re.findall(r"^([a-z-]+):.*  ## (.+)$", MAKEFILE, re.M))
    assert sorted(described) == sorted(targets)
    # As `make help` prints them: no wider than a terminal.
    assert [name for name in targets if len(f"  make {name:14} {described[name]}") > 80] == []


def test_nothing_in_it_is_newer_than_make_3_81() -> None:
    """macOS ships that one, and it meets what it does not know with odd errors."""
    newer = re.findall(r"\.ONESHELL|\.RECIPEPREFIX|\$\(file |\$\(guile |!=|::=|undefine", MAKEFILE)
    assert newer == []
