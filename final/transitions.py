"""Transitions: what a committed turn means for each job, as log lines.

One line per transition at DEBUG, failures at WARNING with their traceback at DEBUG.
While DEBUG is off a turn without failures costs one look at the level.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from final.job import Status, Task
from final.messages import Batch
from final.stores.base import Changes

log = logging.getLogger("final")


def log_transitions(changes: Changes, batches: list[Batch]) -> None:
    for outcome, due_at in changes.failed:
        task = outcome.task
        fate = "no attempts left" if due_at is None else f"again in {due_at - changes.now:.1f} s"
        log.warning(
            "job %s failed, attempt %d, %s: %s", task.id, task.attempts, fate, outcome.error
        )
        log.debug("job %s traceback:\n%s", task.id, outcome.traceback)
    if log.isEnabledFor(logging.DEBUG):
        for task, status in _transitions(changes, batches):
            log.debug("job %s %s, attempts %d", task.id, status, task.attempts)


def _transitions(changes: Changes, batches: list[Batch]) -> Iterator[tuple[Task, Status]]:
    for outcome in changes.completed:
        yield outcome.task, Status.COMPLETED
    for failed in changes.failed:
        yield failed.task, Status.FAILED if failed.due_at is None else Status.RETRYING
    for task in changes.returned:
        yield task, Status.QUEUED
    for task, _ in changes.requeued + changes.revived:
        yield task, Status.QUEUED
    for task in changes.inserted:
        yield task, Status.QUEUED
    for batch in batches:
        for task in batch.claimed:
            yield task, Status.PROCESSING
