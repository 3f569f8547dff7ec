"""Periodic jobs of a file: the row of an entry says which tick is next.

A tick has come: the exchange moves the row on and accepts the tick's job, both in its transaction.
So a crash leaves both or neither, and no tick has two jobs or is passed over.

But: an entry of a kind that nobody handles here stays as it is, as jobs of that kind do; and so
does one whose schedule cannot be read here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from final.beyond.periodic import UNREADABLE, Entry
from final.job import Task
from final.ledger.base import AT_ONCE, ChangePeriodic
from final.ledger.features.base import Feature
from final.ledger.lookups import PERIODIC
from final.ledger.sqlite import SqliteFile

ENTRY = PERIODIC.replace("ORDER BY name", "WHERE name = ?")
# An entry that is there goes on where it is if its schedule is the same, and stays paused.
PUT = """INSERT INTO periodic VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET next_tick = CASE WHEN paused THEN NULL
        WHEN schedule = excluded.schedule AND timezone = excluded.timezone THEN next_tick
        ELSE excluded.next_tick END,
    schedule = excluded.schedule, timezone = excluded.timezone, missed = excluded.missed,
    job = excluded.job, payload = excluded.payload"""
PAUSE = "UPDATE periodic SET paused = 1, next_tick = NULL WHERE name = ?"
RESUME = """UPDATE periodic SET paused = 0, next_tick = CASE WHEN paused THEN ? ELSE next_tick END
    WHERE name = ? AND schedule = ? AND timezone = ?"""
REMOVE = "DELETE FROM periodic WHERE name = ?"
MOVE_ON = "UPDATE periodic SET last_tick = ?, next_tick = ? WHERE name = ?"


class Periodic(Feature):
    """Those of a file. handles: whether jobs of a kind can run here. say: as ``Events.say``.

    next_tick: when the next one comes, in Unix seconds; infinity for never.
    """

    def __init__(
        self, file: SqliteFile, handles: Callable[[str], bool], say: Callable[..., None]
    ) -> None:
        super().__init__(file)
        self._handles = handles
        self._say = say
        self._next: dict[str, float] = {}  # by name
        self._is_read = False  # else it is to be read again
        self.next_tick = math.inf

    def open(self) -> None:
        self._come_next(self._ticks(PERIODIC))

    def _come_next(self, ticks: dict[str, float]) -> None:
        self._next, self._is_read = ticks, True
        self.next_tick = min(ticks.values(), default=math.inf)

    def _ticks(self, query: str, *values: str) -> dict[str, float]:
        """Of the entries that the query finds, which of their ticks are next, by name."""
        ticks = {}
        for row in self._file.execute(query, values).fetchall():
            entry = Entry(*row)
            try:
                if entry.next is not None and self._handles(entry.kind()):
                    entry.due(entry.next, 1)  # can it be read, and the job, too?
                    entry.task(entry.next)
                    ticks[entry.name] = entry.next
            except UNREADABLE as error:
                text = "Periodic entry %r is left alone: %s"
                self._say(logging.WARNING, text, entry.name, error)
        return ticks

    # ---- in an exchange ----------------------------------------------------------------------

    def carry_out(self, order: ChangePeriodic) -> bool:
        """Whether there was anything to change."""
        done = True
        for entry in order.entries:
            done = self._change(order.how, entry) and done
        if self._is_read:  # there may be thousands, of which this concerns one
            for entry in order.entries:
                self._next.pop(entry.name, None)
                self._next |= self._ticks(ENTRY, entry.name)
            self._come_next(self._next)
        return done

    def _change(self, how: str, entry: Entry) -> bool:
        execute = self._file.execute
        match how:
            case "pause":
                return execute(PAUSE, (entry.name,)).rowcount > 0
            case "resume":
                values = (entry.next, entry.name, entry.schedule, entry.timezone)
                return execute(RESUME, values).rowcount > 0
            case "remove":
                return execute(REMOVE, (entry.name,)).rowcount > 0
            case "declare":
                execute(PUT, entry)
                return True
            case _:  # "add" or "change"
                is_there = execute(ENTRY, (entry.name,)).fetchone() is not None
                if is_there is (how == "change"):
                    execute(PUT, entry)
                return is_there is (how == "change")

    def ticks(self, wall: float) -> list[list[Task]]:
        """A list for the job of each tick that has come; their entries are moved on."""
        if not self._is_read:
            self._come_next(self._ticks(PERIODIC))
        if wall < self.next_tick:
            return []
        tasks: list[list[Task]] = []
        for name in sorted(self._next, key=self._next.__getitem__):
            if len(tasks) == AT_ONCE or self._next[name] > wall:
                break
            del self._next[name]
            self._next |= self._ticks(ENTRY, name)  # another program may have changed its row
            if self._next.get(name, math.inf) > wall:
                continue
            entry = Entry(*self._file.execute(ENTRY, (name,)).fetchone())
            ticks, following = entry.due(wall, AT_ONCE - len(tasks))
            last = ticks[-1] if ticks else entry.last
            self._file.execute(MOVE_ON, (last, following, name))
            self._next[name] = math.inf if following is None else following
            tasks += [[entry.task(tick)] for tick in ticks]
        self._come_next(self._next)
        return tasks

    def undo(self) -> None:
        self._is_read, self.next_tick = False, math.inf
