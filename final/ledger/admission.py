"""Who comes in: of each producer's jobs those before the first that is refused.

Which ids are taken, who holds which key and how much room there is, a ledger knows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from final.errors import EnqueueError, UnknownJob
from final.job import Priority, Status, Task
from final.ledger.features.keys import Holder, Keys, become

QUEUED, SCHEDULED, *_, DROPPED, WAITING = Status


class Admission(NamedTuple):
    """coming: those that come in, and as what. The others: as in ``Given``."""

    accepted: list[int]
    taken: dict[int, list[str]]
    coming: list[tuple[Task, Status]]
    refused: dict[int, EnqueueError | UnknownJob]
    busy: set[int]
    instead: dict[int, dict[int, str]]

    def of(self, status: Status) -> list[Task]:
        return [task for task, target in self.coming if target is status]


def admit(
    new: Sequence[Sequence[Task]],
    known: Collection[str],
    room: dict[Priority, int],
    overflow: str,
    keys: Keys,
) -> Admission:
    """Which of these jobs come in, and as what; nothing is moved yet.

    known: ids that are in, of these jobs and of their parents.
    room: how many jobs each lane has room for; it is used up. Where the oldest are dropped, all
        come in, and it says below 0 how many are too many.
    """
    taken = set(known)
    admission = Admission([], {}, [], {}, set(), {})
    for index, tasks in enumerate(new):
        accepted = 0
        drops = False  # whether one that is in may have to go for these
        for task in tasks:
            if task.id in taken:
                later = [t.id for t in tasks[accepted + 1 :] if t.id in known]
                admission.taken[index] = [task.id, *later]
                break
            if task.after and (unknown := [p for p in task.after if p not in taken]):
                admission.refused[index] = UnknownJob(unknown[0])
                break
            if task.unique is not None:
                if task.unique.key in keys.busy:
                    admission.busy.add(index)
                    break
                if (holder := keys.holder(task)) is not None:
                    if drops and holder.status is QUEUED:
                        break  # if that one goes, it holds nothing: the next exchange knows
                    if task.unique.then == "replace" and holder.waits:
                        _replace(holder, task, admission.coming, room, keys)
                    admission.instead.setdefault(index, {})[accepted] = holder.id
                    accepted += 1
                    continue
            target = _target(task)
            if target is QUEUED:
                if room[task.priority] > 0 or overflow == "drop-oldest":
                    room[task.priority] -= 1
                    drops |= room[task.priority] < 0
                elif overflow == "drop-newest":
                    target = DROPPED
                else:
                    break
            taken.add(task.id)
            if task.unique is not None and target is not DROPPED:
                keys.take(task, target)
            admission.coming.append((task, target))
            accepted += 1
        admission.accepted.append(accepted)
    return admission


def _target(task: Task) -> Status:
    if task.after:
        return WAITING
    return QUEUED if task.due_at is None else SCHEDULED


def _replace(
    holder: Holder,
    task: Task,
    coming: list[tuple[Task, Status]],
    room: dict[Priority, int],
    keys: Keys,
) -> None:
    """At once where it has just come in; else the ledger finds it."""
    first = holder.new
    if first is None:
        keys.replaced.append((holder, task))
        return
    place, before = next((n, s) for n, (other, s) in enumerate(coming) if other is first)
    room[first.priority] += before is QUEUED
    become(first, task)
    first.due_at, first.by_clock = task.due_at, task.by_clock
    coming[place] = (first, _target(first))
    room[first.priority] -= _target(first) is QUEUED
