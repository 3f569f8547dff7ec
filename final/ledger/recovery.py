"""What an earlier owner left: what ran is queued again or a dead letter, and what waits is indexed.

A job that ran may be the cause of that end, or may have been claimed and not begun: nobody knows.
So it is marked, and from then on runs alone with its worker. The attempt is charged to a job that
was alone, except that the last one is charged only to a marked one. So no company makes a dead
letter of a job that never began, and one that kills its process starts at most ``max_retries + 2``
times.

But: which of those that are marked may run beside others is the index's business (``index.py``).
"""

from __future__ import annotations

import logging
from collections import Counter

from final.beyond.kinds import Policies
from final.job import Outcome, Status
from final.ledger.base import Move
from final.ledger.index import Index
from final.ledger.sqlite import SqliteFile

log = logging.getLogger("final")


def recover(file: SqliteFile, policies: Policies, wall: float) -> list[Move]:
    """Within a transaction of the new owner; returns what has become of these jobs."""
    moves, back = [], []
    for task, started_at in file.interrupted():
        was_last = task.attempts > policies.of(task.kind).max_retries
        error = f"The process ended during attempt {task.attempts}"
        # When exactly, nobody knows: it is noticed now.
        crash = Outcome(task, max(0.0, wall - started_at), error=f"{error}.")
        if task.cancelled:
            moves.append(Move([task], Status.PROCESSING, Status.CANCELLED, task.token))
        elif was_last and task.interrupted:
            crash.error = f"{error}, the last one."
            moves.append(Move([task], Status.PROCESSING, Status.FAILED, task.token, [crash]))
        else:
            charged = task.alone and not was_last
            task.attempts -= not charged
            task.interrupted += 1
            file.write_interrupted(crash, charged, wall)
            back.append(task)
    file.write(moves, wall)
    if back:
        moves.append(Move(back, Status.PROCESSING, Status.QUEUED))
    return moves


def load(file: SqliteFile, index: Index) -> None:
    """All that wait come into the index. Those that nobody handles are told of, and left alone."""
    if unsound := file.unsound():
        log.warning("Rows that make no sense are left alone: %s.", unsound)
    aside: Counter[str] = Counter()
    for task, ready_at in file.waiting():
        if index.handles(task.kind):
            task.queued_at = index.now - max(0.0, index.wall - ready_at)
            task.by_clock = True  # a delay, too: the process that counted is gone
            index.put_in(task)
        else:
            aside[task.kind] += 1
    for kind, count in aside.items():
        log.warning(
            "%d recovered jobs of kind %r stay queued: open the file with a handler for it.",
            count,
            kind,
            extra={"kind": kind},
        )
