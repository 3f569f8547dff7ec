"""Parents and children, as it was promised: when a child may go on, and how it ends.

It is told of each end. Which jobs wait, the model knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Child:
    """A job that waits. open: its parents that have not ended. bad: those that did not complete."""

    if_failed: str
    open: set[int] = field(default_factory=set)
    bad: bool = False

    @property
    def is_doomed(self) -> bool:
        return self.bad and self.if_failed == "cancel"

    @property
    def may_go_on(self) -> bool:
        return not self.open and not self.is_doomed


class Families:
    """By the numbers of the jobs: an id may be that of another job, later."""

    def __init__(self) -> None:
        self.waiting: dict[int, Child] = {}
        self._children: dict[int, list[int]] = {}

    def come_in(self, child: int, parents: Mapping[int, str], if_failed: str) -> None:
        """parents: what each of them is by now; "" for one that has not ended."""
        self.waiting[child] = Child(if_failed)
        for parent, became in parents.items():
            self.waiting[child].open.add(parent)
            self._children.setdefault(parent, []).append(child)
            if became:
                self._ended(child, parent, became)

    def ended(self, parent: int, became: str) -> None:
        """This job has. If it starts over by hand, this end has counted all the same."""
        for child in self._children.get(parent, ()):
            self._ended(child, parent, became)

    def _ended(self, number: int, parent: int, became: str) -> None:
        child = self.waiting.get(number)
        if child is not None and parent in child.open:
            child.open.remove(parent)
            child.bad |= became != "completed"

    def children_of(self, parent: int) -> list[int]:
        return self._children.get(parent, [])
