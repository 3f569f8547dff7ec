"""A deterministic scheduler: one thread runs at a time, and the schedule says which.

Under the system's scheduler a race shows up once in a million runs, and never again. Here
a ``Run`` plays a scenario with threads that take turns: before a line of the code under
test, and wherever a thread waits or ends, the run decides who goes on. By default that is

- the thread that runs, as long as it can;
- else the first of those that can, in the order in which they were started;
- and if all of them wait, time passes (it is virtual, and costs none) for the one whose
  wait ends soonest.

A ``Schedule`` lists the exceptions: "at decision 17 thread 2 goes on". Each is a forced
switch. To force one to a thread whose wait has a time limit is to let that time pass first.
So the same schedule always plays the same run; ``races.py`` tries one schedule after another.

But: a line is atomic here, which is more than Python promises. ``n += 1`` is never torn
between its read and its write; spread over two lines, it is.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

# Sets the stage, yields the functions that run against each other, and then checks.
Scenario = Callable[[], Iterator[Iterable[Callable[[], object]]]]

# Whether a thread may be switched away before the lines of this code; None: it is not shown
# in the story of a run, either.
Where = Callable[[CodeType], bool | None]

# More decisions than any scenario needs: whoever takes that many goes round in circles.
MOST_DECISIONS = 20_000


class Switch(NamedTuple):
    """At decision number ``at`` the thread with number ``to`` goes on."""

    at: int
    to: int


Schedule = tuple[Switch, ...]


class Event(NamedTuple):
    """What a thread did. ``kind``: "line" (it is about to run it), "switch" (it is forced to go
    on), "waits", "time" (so much passed for it) or "ends". ``text``: for what, how much."""

    kind: str
    thread: str
    file: str = ""
    line: int = 0
    text: str = ""


class Stuck(NamedTuple):
    """A thread in a deadlock: what it waits for, and where it stands, innermost last."""

    thread: str
    waits_for: str
    stack: list[tuple[str, int]]  # file and line


class Deadlock(AssertionError):
    """Everybody waits for somebody."""

    def __init__(self, stuck: list[Stuck]) -> None:
        waits = "; ".join(f"{each.thread} waits for {each.waits_for}" for each in stuck)
        super().__init__(f"Deadlock: {waits}.")
        self.stuck = stuck


class Livelock(AssertionError):
    """Threads that run and run: they go round in circles, or the scenario is too long."""


class NotRepeatable(Exception):
    """The same schedule led somewhere else: the scenario depends on more than its threads."""

    def __init__(self) -> None:
        super().__init__(
            "The same schedule led somewhere else this time. Does the scenario use random numbers, "
            "the real time, or something that an earlier run left behind?"
        )


class Abandoned(BaseException):
    """Ends a thread whose run is over, wherever it waits."""


class Thread:
    """A thread whose turns are given out by the current run. Made and used like the real one."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._run = current_run()
        self._target = target
        self._args = tuple(args)
        self._kwargs = kwargs or {}
        self.name = name or f"thread-{self._run.next_number()}"
        self.daemon = bool(daemon)
        self.ident: int | None = None
        self.number = -1  # in the order of their start
        self.ended = False
        # Where it waits: until `ready` says True or the time is up.
        self.ready: Callable[[], bool] | None = None
        self.deadline: float | None = None
        self.waits_for: object = ""  # its text says what for, at any time
        self.turn = _thread.allocate_lock()  # free while it is this thread's turn
        self.turn.acquire()

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        if self.number >= 0:
            raise RuntimeError("threads can only be started once")
        self._run.start(self)

    def join(self, timeout: float | None = None) -> None:
        self._run.operation()
        self._run.wait(lambda: self.ended, timeout, self)

    def is_alive(self) -> bool:
        return self.number >= 0 and not self.ended

    def __str__(self) -> str:
        return f"the end of {self.name}"

    def can_run(self, now: float) -> bool:
        """Whether it could go on at this time."""
        if self.ended:
            return False
        if self.ready is None or self.ready():
            return True
        return self.deadline is not None and self.deadline <= now


class Run:
    """One run of a scenario under one schedule.

    where: before which lines a switch can be forced. operations: also before each operation
        on a lock, an event or a queue, wherever it is.
    watch: keep the ``story`` and the ``choices``: which other switches could have been
        forced. Without it a run takes half the time.
    """

    def __init__(
        self,
        where: Where,
        schedule: Schedule = (),
        *,
        operations: bool = False,
        watch: bool = True,
    ) -> None:
        self.failure: BaseException | None = None
        self.choices: list[Switch] = []
        self.story: list[Event] = []
        self.now = 0.0  # virtual seconds
        self._where = where
        self._known: dict[CodeType, bool | None] = {}  # what `where` said
        self._forced = dict(schedule)
        self._last_forced = schedule[-1].at if schedule else -1
        self._operations = operations
        self._watch = watch
        self._threads: list[Thread] = []
        self._by_ident: dict[int, Thread] = {}
        self._rivals: list[Thread] = []
        self._racing = False  # while the rivals run: only then are switches forced
        self._decisions = 0
        self._names = 0
        self._over = False
        self._unwinding = False
        self._unwound = _thread.allocate_lock()  # freed by each thread that ends afterwards
        self._unwound.acquire()

    def play(self, scenario: Scenario) -> None:
        """Play it to its end. What goes wrong is in ``failure``, also where a check fails."""
        global _current
        _current = self
        self._main = Thread(name="main")
        self._enlist(self._main)
        self._by_ident[_thread.get_ident()] = self._main
        try:
            acts = scenario()
            self._race(next(acts))
            next(acts, None)
            if self._forced:
                raise NotRepeatable
        except Abandoned:
            pass
        except Exception as error:
            self._fail(error)
        finally:
            self._abandon()
            _current = None

    def _race(self, functions: Iterable[Callable[[], object]]) -> None:
        self._rivals = [Thread(target=f, name=_name_of(f)) for f in functions]
        for rival in self._rivals:
            rival.start()
        self._racing = True
        # `_next` lets main go on when all rivals have ended and the others only wait.
        self.wait(lambda: not self._racing, None, "the others")

    @property
    def is_over(self) -> bool:
        """Whether all that is left to do is to end the threads."""
        return self._over

    # ---- what a thread may do ----------------------------------------------------------------

    def current(self) -> Thread:
        try:
            return self._by_ident[_thread.get_ident()]
        except KeyError:
            raise RuntimeError("This thread was not started by the scenario.") from None

    def wait(self, ready: Callable[[], bool], timeout: float | None, what: object) -> bool:
        """Let others run until ``ready()``; False if that was not so within ``timeout`` seconds."""
        if self._over:
            raise Abandoned
        if ready():
            return True
        if timeout is not None and timeout <= 0:
            return False
        me = self.current()
        me.ready, me.waits_for = ready, what
        me.deadline = None if timeout is None else self.now + timeout
        self._tell("waits", me, text=str(what))
        self._switch(me)
        me.ready = me.deadline = None
        return ready()

    def point(self) -> None:
        """Here another thread may be forced to go on."""
        if self._over:
            raise Abandoned
        if self._racing and (self._watch or self._decisions <= self._last_forced):
            self._switch(self.current())
        else:
            self._count()
            if self._over:
                raise Abandoned

    def operation(self) -> None:
        """Something is about to be done to a lock, an event or a queue."""
        if self._over:
            raise Abandoned
        if self._operations:
            self.point()

    def start(self, thread: Thread) -> None:
        self.operation()
        self._enlist(thread)
        _thread.start_new_thread(self._live, (thread,))

    def next_number(self) -> int:
        self._names += 1
        return self._names

    # ---- the life of a thread ------------------------------------------------------------------

    def _enlist(self, thread: Thread) -> None:
        thread.number = len(self._threads)
        self._threads.append(thread)

    def _live(self, me: Thread) -> None:
        me.ident = _thread.get_ident()
        self._by_ident[me.ident] = me
        me.turn.acquire()
        try:
            if not self._over:
                sys.settrace(self._trace)
                me.run()
        except (Abandoned, SystemExit):
            pass
        except BaseException as error:
            self._fail(error)
        sys.settrace(None)
        me.ended = True
        if self._unwinding:
            self._unwound.release()
        else:
            self._tell("ends", me)
            self._next(None).turn.release()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        try:
            decides = self._known[code]
        except KeyError:
            decides = self._known[code] = self._where(code)
        if decides is None:
            return None
        return self._before_line if decides else self._show_line

    def _before_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.point()
            self._show_line(frame, event, arg)
        return self._before_line

    def _show_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._tell("line", self.current(), frame.f_code.co_filename, frame.f_lineno)
        return self._show_line

    def _tell(self, kind: str, who: Thread, file: str = "", line: int = 0, text: str = "") -> None:
        if self._watch and self._racing and who is not self._main:
            self.story.append(Event(kind, who.name, file, line, text))

    # ---- who is next ---------------------------------------------------------------------------

    def _switch(self, me: Thread) -> None:
        """Whoever is next goes on; return when it is this thread's turn again."""
        chosen = self._next(me)
        if chosen is not me:
            chosen.turn.release()
            me.turn.acquire()
        if self._over:
            sys.settrace(None)
            raise Abandoned

    def _next(self, me: Thread | None) -> Thread:
        """The thread that goes on: by default, or because the schedule says so."""
        if self._over:
            return self._main
        threads = self._threads[1:] if self._racing else self._threads
        able = [thread for thread in threads if thread.can_run(self.now)]
        if not able and self._racing and all(rival.ended for rival in self._rivals):
            self._racing = False
            return self._main
        timed = [t for t in threads if t.deadline is not None and t not in able]
        candidates = able + sorted(timed, key=_deadline)
        if not candidates:
            self._fail(Deadlock(self._stuck()))
            return self._main
        default = me if me in able else candidates[0]
        chosen = self._forced_or(default, candidates) if self._racing else default
        if chosen in timed:
            self._pass_time(chosen)
        return chosen

    def _forced_or(self, default: Thread, candidates: list[Thread]) -> Thread:
        at = self._decisions
        self._count()
        to = self._forced.pop(at, None)
        if to is None:
            if self._watch and at > self._last_forced:
                self.choices += [Switch(at, t.number) for t in candidates if t is not default]
            return self._main if self._over else default
        for thread in candidates:
            if thread.number == to:
                self._tell("switch", thread)
                return thread
        self._fail(NotRepeatable())
        return self._main

    def _pass_time(self, waiter: Thread) -> None:
        """Its wait is over, and so are all that would have ended before."""
        seconds = _deadline(waiter) - self.now
        self.now = _deadline(waiter)
        self._tell("time", waiter, text=f"{seconds:g} s")

    def _count(self) -> None:
        self._decisions += 1
        if self._decisions > MOST_DECISIONS:
            self._fail(Livelock(f"Still running after {MOST_DECISIONS:,} decisions."))

    # ---- the end -------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """The first failure counts; it ends the run."""
        if not self._over:
            self.failure = error
            self._over = True

    def _abandon(self) -> None:
        """End every thread that is left, one after the other."""
        self._over = self._unwinding = True
        for thread in self._threads[1:]:
            if not thread.ended:
                thread.turn.release()
                self._unwound.acquire()

    def _stuck(self) -> list[Stuck]:
        frames = sys._current_frames()
        waiting = [t for t in self._threads if t is not self._main and not t.ended]
        stuck = []
        for thread in waiting or [self._main]:
            ident = thread.ident or _thread.get_ident()
            stuck.append(
                Stuck(thread.name, str(thread.waits_for), list(self._stack(frames[ident])))
            )
        return stuck

    def _stack(self, frame: FrameType | None) -> Iterator[tuple[str, int]]:
        known = list(self._known.items())  # a copy: this very thread is traced, and may add to it
        files = {code.co_filename for code, shown in known if shown is not None}
        lines = []
        while frame is not None:
            if frame.f_code.co_filename in files:
                lines.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        yield from reversed(lines)


_current: Run | None = None


def current_run() -> Run:
    if _current is None:
        raise RuntimeError("Threads, locks and queues of the race lab work inside a scenario only.")
    return _current


def _deadline(thread: Thread) -> float:
    assert thread.deadline is not None
    return thread.deadline


def _name_of(function: Callable[[], object]) -> str:
    return getattr(function, "__name__", "rival")
