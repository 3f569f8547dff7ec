"""Who is first, where anybody may leave: jobs by their keys, and names by the first of their jobs.

A heap knows its first, and finds nobody else. So who leaves is noted, and passed over when it
comes to the front.

Plain data structures, in O(log n) for each call. No threads, no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from final.job import Task

Item = tuple[float, int, Task]  # (key, seq, job): it keeps the key that it came with
Rank = tuple[float, int]  # (key, seq) of a job


class Ordered:
    """Jobs by their ``key``. In, out and away in O(log n); in O(1) where they come in order."""

    __slots__ = ("_gone", "_heap", "_run", "size")

    def __init__(self) -> None:
        self.size = 0
        self._run: deque[Item] = deque()  # those that came in order
        self._heap: list[Item] = []  # the others
        self._gone: set[Rank] = set()  # removed, and still in one of these

    def __iter__(self) -> Iterator[Task]:
        for entry in sorted([*self._run, *self._heap]):
            if entry[:2] not in self._gone:
                yield entry[2]

    def add(self, task: Task, key: float | None = None) -> None:
        """key: where it is not the job's own."""
        entry = (task.key if key is None else key, task.seq, task)
        if self._gone and entry[:2] in self._gone:  # maybe of another Task for the same job
            self._clear_up()
        self.size += 1
        if not self._run or self._run[-1] < entry:
            self._run.append(entry)
        else:
            heappush(self._heap, entry)

    def remove(self, task: Task, key: float | None = None) -> None:
        """Take it out, wherever it stands; it is there, and came with this key."""
        self.size -= 1
        self._gone.add((task.key if key is None else key, task.seq))
        if len(self._gone) > 32 + self.size:  # more gone than there
            self._clear_up()

    def head(self) -> Task:
        """The first; there is one."""
        return self._first()[0][2]

    def rank(self) -> Rank:
        """Of the first; there is one."""
        return self._first()[0][:2]

    def pop(self) -> Task:
        self.size -= 1
        if not self._heap and not self._gone:
            return self._run.popleft()[2]
        where = self._first()
        return (self._run.popleft() if where is self._run else heappop(self._heap))[2]

    def split(self, kind: str) -> Ordered:
        """Take out the jobs of this kind, and return them, in order. Looks at each job."""
        self._clear_up()
        apart = Ordered()
        apart._run = deque([entry for entry in self._run if entry[2].kind == kind])
        apart._heap = [entry for entry in self._heap if entry[2].kind == kind]
        apart.size = len(apart._run) + len(apart._heap)
        if apart.size:
            self._run = deque([entry for entry in self._run if entry[2].kind != kind])
            self._heap = [entry for entry in self._heap if entry[2].kind != kind]
            self.size -= apart.size
            heapify(self._heap)
            heapify(apart._heap)
        return apart

    def _first(self) -> deque[Item] | list[Item]:
        """Where the first one stands in front."""
        run, heap, gone = self._run, self._heap, self._gone
        while gone and run and run[0][:2] in gone:
            gone.discard(run.popleft()[:2])
        while gone and heap and heap[0][:2] in gone:
            gone.discard(heappop(heap)[:2])
        return run if not heap or (run and run[0] < heap[0]) else heap

    def _clear_up(self) -> None:
        self._run = deque([entry for entry in self._run if entry[:2] not in self._gone])
        self._heap = [entry for entry in self._heap if entry[:2] not in self._gone]
        heapify(self._heap)
        self._gone.clear()


class Heads:
    """Names by the rank of what each has in front, the lowest first, in O(log n).

    rank: the one of a name now; None while it has nothing that may be taken. A rank that has
        grown is found out here; one that became lower, or came to be, is told by ``enter``.
    """

    __slots__ = ("_heap", "_rank", "_valid")

    def __init__(self, rank: Callable[[str], Rank | None]) -> None:
        self._rank = rank
        self._heap: list[tuple[Rank, str]] = []
        self._valid: dict[str, Rank] = {}  # of several entries of a name the one that counts

    def enter(self, name: str) -> None:
        rank = self._rank(name)
        if rank is not None and self._valid.get(name) != rank:
            self._valid[name] = rank
            heappush(self._heap, (rank, name))
            if len(self._heap) > 32 + 2 * len(self._valid):  # most of them count no more
                self._heap = [(rank, name) for name, rank in self._valid.items()]
                heapify(self._heap)

    def first(self) -> str | None:
        while self._heap:
            rank, name = self._heap[0]
            now = self._rank(name) if self._valid.get(name) == rank else None
            if now == rank:
                return name
            heappop(self._heap)
            if self._valid.get(name) == rank:
                del self._valid[name]
                self.enter(name)
        return None
