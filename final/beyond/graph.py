"""Jobs that come after others of the same call: parents first, and no circle.

But: it knows the jobs of one call alone. What is in the queue already cannot wait for what comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

from final.job import Task

LONGEST_CIRCLE = 10  # so many ids of a circle are named


def parents_first(tasks: Sequence[Task]) -> list[Task]:
    """The same jobs, each after its parents; as they are, where that holds already.

    Raises ValueError for jobs that wait for each other, naming a circle.
    """
    if _are_in_order(tasks):
        return list(tasks)
    sorter = TopologicalSorter({task.id: () for task in tasks})  # who is free keeps this order
    known = {task.id for task in tasks}
    for task in tasks:
        sorter.add(task.id, *(parent for parent in task.after if parent in known))
    try:
        rank = {job_id: number for number, job_id in enumerate(sorter.static_order())}
    except CycleError as error:
        raise ValueError(
            f"Jobs that come after each other would never run: {_circle(error.args[1])}."
        ) from None
    return sorted(tasks, key=lambda task: rank[task.id])


def parents_elsewhere(tasks: Sequence[Task]) -> set[str]:
    """The ids of parents that are not among these jobs."""
    named = {parent for task in tasks for parent in task.after}
    return named.difference(task.id for task in tasks)


def _are_in_order(tasks: Iterable[Task]) -> bool:
    ahead: set[str] = set()  # named as a parent by one that stood before it
    for task in tasks:
        if task.id in ahead:
            return False
        ahead.update(task.after)
    return True


def _circle(ids: list[str]) -> str:
    shown = ids if len(ids) <= LONGEST_CIRCLE else [*ids[: LONGEST_CIRCLE - 1], "...", ids[-1]]
    return " -> ".join(shown)
