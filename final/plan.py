"""The plan of a turn: what it intends to write, and how to take it back.

But: ``dispatcher.py`` makes it and acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from final.job import Task
from final.limits import Gate
from final.lines import Lines
from final.messages import Batch, Enqueue
from final.stores.base import Changes
from final.waiting import Timer, Waiting


@dataclass(slots=True)
class Plan:
    """Committed as ``changes`` and then applied, or undone as a whole."""

    changes: Changes
    number: int  # the last number given out before this turn
    gate: list[tuple[float, float]]  # the state of the rate limits before this turn
    later: list[tuple[float, Task]] = field(default_factory=list)  # failed; due then
    due: list[Timer] = field(default_factory=list)  # taken off their timers
    admitted: list[Enqueue] = field(default_factory=list)
    coming: set[str] = field(default_factory=set)  # ids of new jobs, if they are looked at
    batches: list[Batch] = field(default_factory=list)

    def undo(self, waiting: Waiting, lines: Lines, gate: Gate) -> None:
        """Put everything back as it was. (What has come back from the workers is still there.)"""
        for batch in self.batches:
            for task in batch.claimed:
                task.attempts -= 1
        waiting.lanes.undo(task for task in self.changes.inserted if task.due_at is None)
        waiting.put_back(self.due)
        waiting.number = self.number
        gate.restore(self.gate)
        lines.step_back(self.admitted)

    def clashing(self, taken: set[str]) -> list[Enqueue]:
        """The requests that bring ids which are ``taken``."""
        return [
            request
            for request in self.admitted
            if any(task.id in taken for task in request.tasks[request.durable : request.planned])
        ]
