"""Pause: what of a queue starts no jobs for a while. The whole queue, a kind, a lane, or a group.

Who keeps it is in ``ledger/features/controls.py``, who holds the jobs in ``ledger/picking.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from final.job import Priority, Task
from final.options import require_text


class Pause(NamedTuple):
    """What is paused: one of the three, or with none of them the whole queue."""

    kind: str | None = None
    priority: Priority | None = None
    group: str | None = None

    @property
    def row(self) -> tuple[str, str]:
        """As it is stored: which sort of pause, and of which one; ("queue", "") for the queue."""
        named = ((name, str(value)) for name, value in self._asdict().items() if value is not None)
        return next(named, (QUEUE, ""))


QUEUE = "queue"
WHOLE_QUEUE = Pause()


def pause_of(kind: str | None, priority: Priority | str | None, group: str | None) -> Pause:
    """Raises TypeError or ValueError for more than one of them, and for what names nothing."""
    if sum(value is not None for value in (kind, priority, group)) > 1:
        raise ValueError(
            "A pause is of one kind=, one priority= or one group=, or with none of them of the "
            "whole queue: call it for each. What any of them pauses is held."
        )
    if kind is not None:
        require_text("kind", kind)
    if group is not None:
        require_text("group", group)
    lane = None if priority is None else Priority(priority)
    return Pause(kind, lane, group)


def pause_from(row: tuple[str, str]) -> Pause:
    """The one that was stored so."""
    sort, name = row
    match sort:
        case "kind":
            return Pause(kind=name)
        case "priority":
            return Pause(priority=Priority(name))
        case "group":
            return Pause(group=name)
        case "queue":
            return WHOLE_QUEUE
    raise ValueError(f"Nothing is paused by {sort!r}.")


def readable(rows: Iterable[tuple[str, str]]) -> Iterator[Pause]:
    """Without those of another program that make no sense."""
    for row in rows:
        with contextlib.suppress(ValueError, TypeError):
            yield pause_from(row)


def in_order(paused: Collection[Pause]) -> list[Pause]:
    """For people: the whole queue, then lanes, kinds and groups."""
    sorts = [QUEUE, "priority", "kind", "group"]
    return sorted(paused, key=lambda pause: (sorts.index(pause.row[0]), pause.row[1]))


def holds(paused: Collection[Pause], task: Task) -> bool:
    """Whether any of them keeps this job from starting."""
    of_job = (
        WHOLE_QUEUE,
        Pause(kind=task.kind),
        Pause(priority=task.priority),
        Pause(group=task.group or None),
    )
    return bool(paused) and any(pause in paused for pause in of_job)
