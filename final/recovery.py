"""Recovery: what an earlier process left in the store finds its place again.

Jobs return in the order of their lanes, with their attempts and due times, however many
there are. What was processing when that process ended may be the cause, or may have been claimed
and not begun: nobody knows. So it is marked, and from then on runs alone with its worker.
The attempt is charged to a job that was alone, except that the last one is charged only to
a marked one. So no company makes a dead letter of a job that never began, and one that kills its
process starts at most ``max_retries + 2`` times.

But: once, before the first turn. From then on the file holds nothing that memory does not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from final.job import Outcome, Status
from final.metrics import Recorder
from final.stores.base import Changes, FailedAttempt, Recovered, Store, Unfinished
from final.transitions import log_transitions
from final.waiting import Waiting

log = logging.getLogger("final")


def recover(
    store: Store,
    waiting: Waiting,
    recorder: Recorder,
    *,
    max_retries: int,
    handles: Callable[[str], bool],
    now: float,
    wall: float,
) -> Recovered:
    """Fill ``waiting`` and ``recorder``; returns what was found. ``now`` and ``wall``: the time."""
    recovered = store.recover()
    waiting.number = recovered.last_number
    for (priority, status), count in recovered.counts.items():
        recorder.found(priority, status, count)
    changes = Changes(recovered.last_token, wall)
    for unfinished in recovered.unfinished:
        task = unfinished.task
        task.queued_at = now - max(0.0, wall - unfinished.ready_at)
        was_processing = unfinished.status is Status.PROCESSING
        if was_processing and task.interrupted < 0:  # cancelled while it ran
            changes.cancelled.append(task)
            recovered.ended.append(task.seq)
            continue
        out_of_attempts = task.attempts > max_retries
        if was_processing and out_of_attempts and task.interrupted:
            changes.failed.append(FailedAttempt(_crash(unfinished, wall, ", the last one"), None))
            continue
        if was_processing:
            changes.interrupted.append(task)
            if task.alone and not out_of_attempts:
                changes.crashed.append(_crash(unfinished, wall))
            else:
                task.attempts -= 1
            task.interrupted += 1
            task.queued_at = now
        if handles(task.kind):
            _place(unfinished, waiting, max_retries, now, wall)
        else:
            waiting.aside[task] = Status.QUEUED if was_processing else unfinished.status
    if changes:
        store.commit(changes)
        dead = [failed.task for failed in changes.failed]
        recorder.moved(dead, Status.PROCESSING, Status.FAILED)
        recorder.moved(changes.cancelled, Status.PROCESSING, Status.CANCELLED)
        recorder.moved(changes.interrupted, Status.PROCESSING, Status.QUEUED)
        log_transitions(changes, [])  # subscribers there are none yet
    waiting.release_suspect()
    _warn_of_those_aside(waiting)
    return recovered


def _crash(unfinished: Unfinished, wall: float, which: str = "") -> Outcome:
    """How an attempt ended that is charged. When exactly, nobody knows: it is noticed now."""
    task, started_at = unfinished.task, unfinished.started_at
    error = f"The process ended during attempt {task.attempts}{which}."
    seconds = 0.0 if started_at is None else max(0.0, wall - started_at)
    return Outcome(task, seconds, error=error)


def _place(
    unfinished: Unfinished, waiting: Waiting, max_retries: int, now: float, wall: float
) -> None:
    """Let a job wait where it belongs."""
    task, status, due_at = unfinished.task, unfinished.status, unfinished.due_at
    next_is_last = task.attempts >= max_retries
    if status is Status.SCHEDULED and due_at is not None:
        task.due_at, task.by_clock = due_at, True  # a delay, too: the process that counted is gone
        waiting.schedule(task, now, wall)
    elif status is Status.RETRYING and due_at is not None:
        waiting.retry_later(now + (due_at - wall), task)
    elif task.interrupted > 1 or (task.interrupted and next_is_last):
        waiting.suspect(task)
    else:
        waiting.lanes.append(task)


def _warn_of_those_aside(waiting: Waiting) -> None:
    for kind, count in Counter(task.kind for task in waiting.aside).items():
        log.warning(
            "%d recovered jobs of kind %r stay queued: open the file with a handler for it.",
            count,
            kind,
        )
