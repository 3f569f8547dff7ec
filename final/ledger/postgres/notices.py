"""What processes tell each other: there is work, look at your jobs, this happened.

It goes out outside of any transaction, since a commit that notifies waits for all others that do;
and no more often than every ten milliseconds.

But: nothing depends on it (see ``listener.py``). What is owed when a process is killed is not told.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable

from final.job import Priority, Status
from final.ledger.base import Change, Move, Told
from final.ledger.postgres import statements as sql
from final.ledger.postgres.session import Session

NOTIFY_SECONDS = 0.01
LARGEST = 7_900  # bytes; the server takes 8,000


class Notices:
    """What others are to be told, and have not been yet.

    owner: ours, so that we do not hear ourselves. work and stop: whether that is to be told.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.owner = 0
        self.work = self.stop = False
        self._happened: list[str] = []
        self._sent_at = 0.0

    def happened(self, moves: Iterable[Move]) -> None:
        """Somebody elsewhere wants to hear of these."""
        self._happened += happened(self.owner, moves)

    @property
    def send_at(self) -> float:
        """When to send what is owed (monotonic); infinity for nothing."""
        owes = self._happened or self.work or self.stop
        return self._sent_at + NOTIFY_SECONDS if owes else math.inf

    def send(self) -> None:
        """If it is time."""
        if time.monotonic() >= self.send_at:
            self.send_at_once()

    def send_at_once(self) -> None:
        texts, self._happened = self._happened, []
        if self.work:
            texts.append(work(self.owner))
        if self.stop:
            texts.append(stop(self.owner))
        self.work = self.stop = False
        if not texts:
            return
        self._sent_at = time.monotonic()
        with self._session.trip():
            for text in texts:
                self._session.ask(sql.NOTIFY, (self._session.address.schema, text))


def work(owner: int) -> str:
    """Jobs wait, or there is room: look."""
    return f"{owner}:work"


def stop(owner: int) -> str:
    """A job that runs somewhere is cancelled."""
    return f"{owner}:stop"


def happened(owner: int, moves: Iterable[Move]) -> list[str]:
    """All changes of jobs, in as many notifications as it takes."""
    texts: list[str] = []
    size = LARGEST
    for tasks, _, target, _, outcomes in moves:
        if target is None:
            continue
        errors = [outcome.error or outcome.note for outcome in outcomes] or [None] * len(tasks)
        for task, error in zip(tasks, errors, strict=True):
            lane = list(Priority).index(task.priority)
            row = [task.id, target, task.attempts, lane, task.kind, error and error[:500]]
            text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
            if size + len(text.encode()) + 1 > LARGEST:
                texts.append(f"{owner}:")
                size = 20
            texts[-1] += text if texts[-1].endswith(":") else f"\n{text}"
            size += len(text.encode()) + 1
    return texts


def parsed(payload: str, own: int) -> Told | None:
    owner, _, said = payload.partition(":")
    if owner == str(own):
        return None
    if said in ("work", "stop"):
        return Told(stop=said == "stop")
    try:
        rows = [json.loads(line) for line in said.split("\n")]
        return Told([_change(*row) for row in rows])
    except (TypeError, ValueError, LookupError, RecursionError):  # another release, or anybody
        return Told()


def _change(
    job_id: str,
    status: str,
    attempts: int,
    lane: int,
    kind: str,
    error: str | None,
) -> Change:
    return Change(job_id, Status(status), attempts, list(Priority)[lane], kind, error)
