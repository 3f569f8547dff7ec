"""Lines: producers that wait for room in a lane, first come first served.

A request stands in the line of the lane that its next job needs. One request may carry
jobs for several lanes; then it goes from line to line, so that its jobs are accepted in
the order they were given. A scheduled job needs no room, since it is not in a lane yet:
for such there is a line of their own, which never stands still.

But: a plain data structure, used by the dispatcher's thread alone. Who has waited for
too long says so itself (``Withdraw``), so there are no timers here.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator

from final.errors import QueueFull
from final.job import Priority, Task
from final.lanes import Lanes
from final.messages import Batch, Enqueue

Accept = Callable[[Task], None]


class Lines:
    """One line in front of each of the ``lanes``, and one (None) for who needs no room."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._lines: dict[Priority | None, deque[Enqueue]] = {
            which: deque() for which in (None, *Priority)
        }

    def __iter__(self) -> Iterator[Enqueue]:
        """Every waiting request."""
        for line in self._lines.values():
            yield from line

    def __len__(self) -> int:
        return sum([len(line) for line in self._lines.values()])

    def join(self, request: Enqueue) -> None:
        """Stand at the end of the line of its first job."""
        self._line_of(request).append(request)

    def _line_of(self, request: Enqueue) -> deque[Enqueue]:
        """The line in which its next job has to wait."""
        task = request.next_task()
        return self._lines[task.priority if task.due_at is None else None]

    def leave(self, request: Enqueue) -> None:
        """Go away, if it stands anywhere."""
        for line in self._lines.values():
            with contextlib.suppress(ValueError):
                line.remove(request)

    def cut(self, request: Enqueue, taken: Collection[str]) -> None:
        """Of this request, admit what comes before the first id that is ``taken``, and no more."""
        request.cut(taken)
        if request.finish_if_durable():
            self.leave(request)

    def give_up(self, request: Enqueue) -> None:
        """Its sender has waited as long as it wanted."""
        self.leave(request)
        lane = request.tasks[request.durable].priority
        message = (
            f"The {lane} lane had no room in time (capacity {self._lanes.capacity}): "
            "enqueue again later, or raise capacity or workers."
        )
        request.refuse(QueueFull(message, request.accepted()))

    def senders(self) -> set[Batch | None]:
        """The batches of the handlers that wait here; None for whoever is no handler."""
        return {request.sender for request in self if request.waits}

    def refuse_last(self, in_flight: Collection[Batch], workers: int) -> None:
        """All ``workers`` wait, some of them for room that only workers can make."""
        # One that was given up may still wait; its batch is not in flight any more.
        request = [r for r in self if r.waits and r.sender in in_flight][-1]
        self.leave(request)
        message = (
            f"All {workers} workers wait to enqueue into full lanes, so no room would ever "
            "come: raise capacity, or enqueue less inside handlers."
        )
        request.refuse(QueueFull(message, request.accepted()))

    def can_admit(self) -> bool:
        """Whether somebody waits for a lane that has room."""
        return any(line and self._fits(line[0].next_task()) for line in self._lines.values())

    def without_room(self) -> list[Enqueue]:
        """The first in line at each full lane."""
        firsts = [line[0] for line in self._lines.values() if line]
        return [request for request in firsts if not self._fits(request.next_task())]

    def somebody_waits_for(self, coming: Collection[str]) -> bool:
        """Whether somebody is first in line with an id that is ``coming`` in from elsewhere."""
        return any(line and line[0].next_task().id in coming for line in self._lines.values())

    def admit(
        self, accept: Accept, turn_away: Accept | None, coming: Collection[str]
    ) -> list[Enqueue]:
        """Call ``accept`` for each job that has room; returns the requests that had any, once each.

        ``accept`` must append the job to its lane. With ``turn_away``, that is called for a
        job without room, and nobody waits. Only a job whose id is ``coming`` in already waits
        in any case; ``accept`` and ``turn_away`` may add to these.
        """
        served: dict[Enqueue, None] = {}  # a request may be served in one line after the other
        for line in self._lines.values():
            while line and self._may_go(line[0].next_task(), turn_away, coming):
                request = line.popleft()
                served[request] = None
                self._serve(request, line, accept, turn_away, coming)
        return list(served)

    def _may_go(self, task: Task, turn_away: Accept | None, coming: Collection[str]) -> bool:
        return task.id not in coming and (turn_away is not None or self._fits(task))

    def _serve(
        self,
        request: Enqueue,
        own: deque[Enqueue],
        accept: Accept,
        turn_away: Accept | None,
        coming: Collection[str],
    ) -> None:
        """Accept what may go of the request that was first in the line ``own``."""
        while request.planned < len(request.tasks):
            task, line = request.next_task(), self._line_of(request)
            if line is not own and line:
                line.append(request)  # others were there first
                return
            if not self._may_go(task, turn_away, coming):
                # In its own line it is still its turn; in another one it is the first.
                line.appendleft(request)
                return
            if turn_away is None or self._fits(task):
                accept(task)
            else:
                turn_away(task)
            request.planned += 1

    def _fits(self, task: Task) -> bool:
        return task.due_at is not None or self._lanes.room(task.priority) > 0

    def step_back(self, served: Iterable[Enqueue]) -> None:
        """Undo ``admit``: everybody stands where they stood before."""
        for request in reversed(list(served)):
            self.leave(request)
            request.planned = request.durable
            self._line_of(request).appendleft(request)

    def dissolve(self, stays: Callable[[Enqueue], bool] = lambda request: False) -> list[Enqueue]:
        """Send everybody away, or all but those that may stay; returns who they were."""
        sent_away = [request for request in self if not stays(request)]
        for which, line in self._lines.items():
            self._lines[which] = deque(filter(stays, line))
        return sent_away
