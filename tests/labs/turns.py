"""Whose turn it is in a lane: what groups were promised of each other, as counts.

The head of a group waits at most for one pick of each other group that waits in its lane, and for
jobs without a group only if they came before it was the head. These wait for one pick of each
group.

It is told whose heads could start and what was picked. Which jobs wait, the model knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Line(NamedTuple):
    """Jobs that stand behind each other: of a group in a lane, or those without one (group "").

    kind: where the kind has a limit of its own, its jobs are a line of their own in their group.
    """

    lane: str
    group: str
    kind: str = ""


@dataclass(slots=True)
class Head:
    """place: of the job. since: the commit that made it the head. passed: picks of other lines."""

    place: int
    since: int
    passed: Counter[Line] = field(default_factory=Counter)


class Turns:
    """The heads of the lines that may have a turn."""

    def __init__(self) -> None:
        self._heads: dict[Line, Head] = {}

    def start_anew(self) -> None:
        """Heads have lost their places in line, and get new ones."""
        self._heads.clear()

    def stand(self, heads: Mapping[Line, int], commit: int) -> None:
        """These are the heads by now, by their places. Others wait for something else."""
        known, self._heads = self._heads, {}
        for line, place in heads.items():
            head = known.get(line)
            is_same = head is not None and head.place == place
            self._heads[line] = head if head and is_same else Head(place, commit)

    def pick(self, line: Line, came: int, free: set[Line]) -> str:
        """One of this line starts, which ``came`` with that commit. Returns what is wrong; or "".

        free: the lines whose heads could have started as well.
        """
        for other, head in self._heads.items():
            if other == line or other.lane != line.lane or other not in free:
                continue
            if line.group:
                head.passed[line] += 1
                if head.passed[line] > 1:
                    return f"a second time while {_name(other)} had waited for its turn"
            elif came > head.since:
                return f"before {_name(other)}, which was there first"
        return ""


def _name(line: Line) -> str:
    return f"group {line.group}" if line.group else "what is in no group"
