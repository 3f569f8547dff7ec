"""At most so many at a time: of the jobs of each group, and of those of some kinds.

Of what is paused there may be none: it counts as full.

It counts what starts and ends as it is told. That a full group or kind is passed over, the lanes
see to (``groups.py``, ``lanes.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from final.job import Task


class Caps:
    """group_limit: of each group; None for no limit. by_kind: of these kinds.

    paused_kinds and paused_groups: those of which none may start at all.
    """

    def __init__(self, group_limit: int | None, by_kind: Mapping[str, int]) -> None:
        self.kinds = frozenset(by_kind)
        self.is_limited = group_limit is not None or bool(by_kind)
        self.paused_kinds: frozenset[str] = frozenset()
        self.paused_groups: frozenset[str] = frozenset()
        self._group_limit = group_limit
        self._by_kind = by_kind
        self._of_group: Counter[str] = Counter()  # how many run
        self._of_kind: Counter[str] = Counter()

    def count(self, tasks: Iterable[Task], change: int) -> None:
        """They have started (1), or they do not run any more (-1)."""
        for task in tasks:
            if task.group and self._group_limit is not None:
                self._of_group[task.group] += change
                if not self._of_group[task.group]:
                    del self._of_group[task.group]
            if task.kind in self._by_kind:
                self._of_kind[task.kind] += change

    def found(self, group: str, running: int) -> None:
        """So many of this group run already, here and elsewhere."""
        self._of_group[group] = running

    def found_kinds(self, running: Mapping[str, int]) -> None:
        """So many of these kinds run already, here and elsewhere."""
        self._of_kind.update(running)

    def is_full(self, group: str) -> bool:
        if group in self.paused_groups:
            return True
        return self._group_limit is not None and self._of_group[group] >= self._group_limit

    def kind_is_full(self, kind: str) -> bool:
        if kind in self.paused_kinds:
            return True
        return kind in self._by_kind and self._of_kind[kind] >= self._by_kind[kind]
