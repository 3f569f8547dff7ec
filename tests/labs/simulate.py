"""Whole lives of a queue, one seed each: random orders of messages, virtual time, and faults.

    python -m tests.labs.simulate                      2,000 seeds
    SEEDS=1000000 python -m tests.labs.simulate        more, on all cores; Ctrl-C: enough of them
    SEED=42 python -m tests.labs.simulate              one of them, line by line
    SEED=42 SEEDS=500 python -m tests.labs.simulate    so many, from there on

The dispatcher of ``final`` is a function of state, messages and time. So it can be run without
threads, as often as a processor allows, through orders of events that take luck to see in a
running queue: a commit fails while producers wait, the process ends between a commit and its
answers, a worker that was given up comes back, the clock of the machine is set back. After each
commit and each answer the contract is checked (engine.py, model.py), and at the end of a life
the faults stop, and everything accepted must come to its end.

The same seed gives the same life, so a failure can be looked at as often as one likes.

But: the dispatcher has no threads, so none are simulated here; what goes on between threads is
not seen. Nor are power cuts: a commit is there or it is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.traceback import Traceback

from final.beyond.control import Pause, pause_from
from final.beyond.snooze import Again
from final.beyond.unique import Unique
from final.job import Priority, Status
from tests.labs import choices
from tests.labs.cores import on_all_cores
from tests.labs.engine import KINDS, Beyond, Disk, Engine, Options, Producer
from tests.labs.model import LANES, ContractBroken, Limit

STEPS = 25  # random ones in a life; then the faults stop
MOST_STEPS_TO_THE_END = 500
AT_A_TIME = 250  # seeds for a process: less than a second of work


class Life:
    """What happens to one queue, drawn from the random numbers of ``seed``.

    In a quick one handlers take next to no time at first, so that workers get many jobs each;
    then they turn slow.
    """

    def __init__(self, seed: int, disk: Disk | None = None) -> None:
        self._random = random.Random(seed)
        self.engine = Engine(self._draw_options(), disk)
        self._ids: list[str] = []
        self._quick_steps = self._random.choice((0, 0, 8, 16))
        self._uses = self._random.choice(USES)

    def _draw_options(self) -> Options:
        choice = self._random.choice
        return Options(
            workers=choice((1, 2, 3)),
            capacity=choice((1, 2, 4, 12)),
            max_retries=choice((0, 0, 1, 2, 3)),
            fairness=choice((1, 2, 3, None)),
            overflow=choice(("block", "block", "block", "reject", "drop-newest", "drop-oldest")),
            history=choice((0, 2, 1_000)),
            timeout=choice((None, 2.0)),
            memory=choice((0, 10, 1_000)),
            limits=choice(LIMITS),
            retries=choice(({}, {}, {"deaf": 2, "other": 0})),
            caps=choice(({}, {}, {"other": 1}, {"deaf": 1, "other": 2})),
            every=choice((None, None, None, (5.0, "once"), (30_000.0, "all"))),
            group_limit=choice((None, None, 1, 2)),
        )

    def live(self) -> None:
        """From the first message to the last answer. Raises ContractBroken."""
        events = [event for event, weight in WEIGHTS.items() for _ in range(weight)]
        for step in range(STEPS):
            self._is_quick = step < self._quick_steps
            self._random.choice(events)(self)
            # Messages meet in one turn, or have one each; a turn has time to follow up, or not.
            if self._random.random() < 0.6:
                follow = self.engine.turn if self._random.random() < 0.5 else self.engine.settle
                self._ask_again(follow())
        self._come_to_the_end()

    # ---- what may happen ---------------------------------------------------------------------

    def producer_comes(self) -> None:
        count = self._random.choice((3, 6, 12) if self._is_quick else (1, 1, 2, 3))
        ids = [self.engine.new_id() for _ in range(count)]
        self._ids += ids
        if self._random.random() < 0.1:
            ids[-1] = self._random.choice(self._ids)  # it may be there already, or come twice
        lanes = [self._random.choice(LANES)] * len(ids)
        if self._random.random() < 0.3:
            lanes = [self._random.choice(LANES) for _ in ids]
        self.engine.enqueue(
            list(zip(ids, lanes, strict=True)),
            patience=self._random.choice((None, 0.0, 1.0, 5.0)),
            delay=self._random.choice((None, None, None, 1.5)),
            kind=self._draw_kind(),
            beyond=self._draw_beyond(),
        )

    def _draw_beyond(self) -> Beyond:
        """What this life makes use of: groups, of which one floods, keys, and parents."""
        choice, chance = self._random.choice, self._random.random
        group = choice(("", "big", "big", "big", "small", "tiny")) if "groups" in self._uses else ""
        if "keys" in self._uses and chance() < 0.5:
            return Beyond(group, choice(UNIQUES))
        if "parents" in self._uses and chance() < 0.5:
            there = self.engine.model.having(*LIVE) or list(self.engine.model.jobs) or self._ids
            known = there if chance() < 0.9 else self._ids  # the history may have let go of it
            after = self._random.choices(known, k=choice((0, 1, 1, 2)))
            return Beyond(group, None, after, choice(("cancel", "run")), chance() < 0.4)
        return Beyond(group)

    def _draw_kind(self) -> str:
        return self._random.choice(list(self.engine.handled))

    def worker_goes_on(self) -> None:
        if workers := self.engine.busy_workers():
            ends = (None, None, "fails", "dies in")
            self.engine.go_on(self._random.choice(workers), self._random.choice(ends))

    def worker_rushes(self) -> None:
        if self._is_quick and (workers := self.engine.busy_workers()):
            self.engine.rush(self._random.choice(workers))

    def handler_snoozes(self) -> None:
        workers = [worker for worker in self.engine.busy_workers() if worker.task]
        if workers:
            seconds, by_clock = self._random.choice((0.0, 1.0, 1.5)), self._random.random() < 0.5
            again = Again(seconds + self.engine.wall * by_clock, by_clock)
            self.engine.snooze(self._random.choice(workers), again)

    def handler_enqueues(self) -> None:
        workers = [worker for worker in self.engine.busy_workers() if worker.task]
        if workers:
            job_id = self.engine.new_id()
            self._ids.append(job_id)
            lane = self._random.choice(LANES)
            worker = self._random.choice(workers)
            self.engine.enqueue(
                [(job_id, lane)],
                kind=self._draw_kind(),
                worker=worker,
                beyond=self._draw_beyond(),
            )

    def time_passes(self) -> None:
        moments = (0.0,) if self._is_quick else (0.0005, 0.02, 0.5, 1.0, 3.0)
        self.engine.let_pass(self._random.choice(moments))

    def client_cancels(self) -> None:
        if self._ids:
            self.engine.cancel(self._random.choice(self._ids))

    def client_retries(self) -> None:
        dead = self.engine.model.having("failed")
        job_id = self._random.choice([*dead, None])
        if job_id is None:
            self.engine.retry_all()
        else:
            self.engine.retry(job_id)

    def client_cancels_all(self) -> None:
        self.engine.cancel_all()

    def client_purges(self) -> None:
        self.engine.purge(self._random.choice(PURGED))

    def client_pauses(self) -> None:
        parts = [Pause(), *(Pause(kind=kind) for kind in KINDS), *map(_lane, LANES)]
        self.engine.pause(self._random.choice(parts))

    def client_resumes(self) -> None:
        if paused := sorted(self.engine.model.paused):
            self.engine.pause(pause_from(self._random.choice(paused)), False)

    def client_scales(self) -> None:
        self.engine.set_workers(self._random.choice((1, 2, 3, 5, None)))

    def client_waits(self) -> None:
        if self._ids and self._random.random() < 0.8:
            self.engine.wait(self._random.choice(self._ids))
        else:
            self.engine.join()

    def client_gives_up(self) -> None:
        self.engine.give_up_asking(self._random.randrange(8))

    def client_looks(self) -> None:
        self.engine.measure()

    def queue_closes(self) -> None:
        self.engine.close(drain=self._random.random() < 0.7)

    def closing_takes_too_long(self) -> None:
        if self.engine.closes:
            self.engine.give_up_closing()

    def clock_jumps(self) -> None:
        self.engine.jump(self._random.choice((-86_400.0, -5.0, 5.0, 86_400.0)))

    def disk_fills(self) -> None:
        operation = self._random.choice((1, 2, 3, 1_000))
        self.engine.fail_commits(self._random.choice((1, 2, 5)), operation)

    def handlers_are_changed(self) -> None:
        """A deployment: the next process does not know all kinds."""
        self.engine.deploy(self._random.sample(KINDS, self._random.choice((1, 2, 3))))

    def process_ends(self) -> None:
        point = self._random.choice(("now", "before", "after"))
        if point == "now":
            self._ask_again(self.engine.crash())
        else:
            self.engine.crash_at_commit(point)

    # ---- and then ----------------------------------------------------------------------------

    def _ask_again(self, unanswered: list[Producer]) -> None:
        """A producer whose queue went down with its question does not know: it asks again."""
        for producer in unanswered:
            if producer.request.sender is None and self._random.random() < 0.5:
                jobs = [(task.id, str(task.priority)) for task in producer.request.tasks]
                self.engine.enqueue(jobs, kind=self._draw_kind(), beyond=producer.beyond)

    def _come_to_the_end(self) -> None:
        """No more faults: everything that was accepted ends, and everybody gets an answer."""
        engine, model = self.engine, self.engine.model
        engine.heal()
        engine.deploy(KINDS)
        for _ in range(MOST_STEPS_TO_THE_END):
            engine.resume_all()
            engine.settle()
            if workers := engine.busy_workers():
                engine.go_on(workers[0])
            elif model.to_run(*TO_RUN):
                engine.let_pass(model.until_due(engine.now))
            elif model.having(*LIVE) and not engine.closes:
                engine.close(drain=True)  # the next process handles these, too
            elif not engine.closes:
                break
        else:
            left = model.having(*LIVE)
            raise ContractBroken(f"{left} never come to their end, though nothing fails any more.")
        engine.measure()
        engine.close(drain=True)
        engine.settle()
        engine.measure()
        engine.settle()


def _lane(lane: str) -> Pause:
    return Pause(priority=Priority(lane))


TO_RUN = ("queued", "processing", "retrying", "scheduled")
LIVE = (*TO_RUN, "waiting")

# What a life uses beyond the basics.
USES: tuple[Collection[str], ...] = (
    *[()] * 2,
    ("groups",),
    ("keys",),
    ("parents",),
    ("groups", "keys", "parents"),
)

UNIQUES = (
    Unique("a"),
    Unique("b", until="started"),
    Unique("a", within=2.0),
    Unique("a", then="replace"),
    Unique("b", then="replace", until="ended"),
)

LIMITS: tuple[dict[str, Limit], ...] = (
    *[{}] * 4,
    {"": Limit(1.0, 2)},
    {"other": Limit(1.0, 1)},
    {"other": Limit(2.0, 3), "deaf": Limit(0.5, 1)},
)

# What a client purges.
PURGED = (Status.FAILED, Status.FAILED, Status.COMPLETED, Status.CANCELLED)

# How often each of them happens, in relation to the others.
WEIGHTS: dict[Callable[[Life], None], int] = {
    Life.producer_comes: 24,
    Life.worker_goes_on: 36,
    Life.worker_rushes: 10,
    Life.time_passes: 14,
    Life.handler_snoozes: 4,
    Life.handler_enqueues: 3,
    Life.client_cancels: 5,
    Life.client_retries: 3,
    Life.client_purges: 1,
    Life.client_pauses: 1,
    Life.client_resumes: 2,
    Life.client_scales: 1,
    Life.client_cancels_all: 1,
    Life.client_waits: 4,
    Life.client_gives_up: 1,
    Life.client_looks: 4,
    Life.queue_closes: 1,
    Life.closing_takes_too_long: 2,
    Life.clock_jumps: 2,
    Life.disk_fills: 2,
    Life.handlers_are_changed: 1,
    Life.process_ends: 3,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Failed jobs and full disks are the daily bread here, and no news for the log."""
    log = logging.getLogger("final")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def run(seed: int, disk: Disk | None = None) -> Life:
    """Live the life of ``seed``; an error that ends it has the seed as a note."""
    life = Life(seed, disk)
    try:
        with quiet():
            life.live()
    except Exception as error:
        error.add_note(f"SEED={seed}")
        raise
    return life


# ---- the command line ------------------------------------------------------------------------


def show_history(console: Console, life: Life) -> None:
    """One line an event: virtual seconds, who, what."""
    who_did_what = Table("seconds", "who", "what", box=None, pad_edge=False)
    who_did_what.columns[0].justify = "right"
    for at, who, what in life.engine.history:
        who_did_what.add_row(f"{at:.4f}", who, what, style=STYLES.get(who))
    console.print(who_did_what)


STYLES = {"commit": "green", "disk": "red", "process": "red", "clock": "red"}


def replay(seed: int, console: Console) -> int:
    """Show one life."""
    life = Life(seed)
    error: Exception | None = None
    try:
        with quiet():
            life.live()
    except Exception as raised:
        error = raised
    console.print(f"Seed {seed}: {life.engine.options}\n")
    show_history(console, life)
    if error is None:
        console.print(f"\nSeed {seed} keeps the contract.")
        return 0
    console.print(f"\n[red]Seed {seed} breaks the contract:[/] {error}")
    if not isinstance(error, ContractBroken):
        console.print(Traceback.from_exception(type(error), error, error.__traceback__))
    return 1


def run_many(seeds: range, console: Console) -> int:
    """Shows the first one that breaks the contract. Ctrl-C: so many are enough."""
    tally: Counter[str] = Counter()
    began = time.perf_counter()
    pieces = [seeds[at : at + AT_A_TIME] for at in range(0, len(seeds), AT_A_TIME)]
    try:
        with (
            contextlib.closing(_outcomes(pieces)) as outcomes,  # or the rest would still be lived
            Progress(console=console, transient=True) as bar,
        ):
            task = bar.add_task("simulating", total=len(pieces))
            for lives, broken in outcomes:
                bar.advance(task)
                tally += lives
                if broken is not None:
                    replay(broken, console)
                    console.print(f"To see it again: SEED={broken} python -m tests.labs.simulate")
                    return 1
    except KeyboardInterrupt:
        console.print("Interrupted; until then:")
    show_figures(console, tally, time.perf_counter() - began)
    return 0


def _outcomes(pieces: list[range]) -> Generator[tuple[Counter[str], int | None], None, None]:
    """What comes of each piece, in their order; as many at a time as there are cores."""
    if len(pieces) == 1:  # not worth a process
        yield live_through(pieces[0])
        return
    with on_all_cores() as processes:
        try:
            yield from processes.map(live_through, pieces)
        finally:  # nobody wants the rest
            processes.shutdown(cancel_futures=True)


def live_through(seeds: range) -> tuple[Counter[str], int | None]:
    """The figures of these lives up to the first that breaks the contract, and its seed."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        try:
            tally += run(seed).engine.tally
        except Exception:
            return tally, seed
        tally["lives"] += 1
    return tally, None


def show_figures(console: Console, tally: Counter[str], seconds: float) -> None:
    rate = tally["lives"] / seconds
    console.print(f"Every life kept the contract. {seconds:,.1f} s, {rate:,.0f} lives a second.\n")
    figures = Table("in all", "", box=None, pad_edge=False)
    figures.columns[1].justify = "right"
    for what in FIGURES:
        figures.add_row(what, f"{tally[what]:,}")
    console.print(figures)


FIGURES = (
    "lives",
    "turns",
    "commits",
    "jobs",
    "attempts",
    "snoozes",
    "failed commits",
    "crashes",
    "closes",
    "abandoned workers",
    "clock jumps",
)


def main() -> int:
    console = Console()
    first = choices.whole_number("SEED", 0, least=0)
    if "SEED" in os.environ and "SEEDS" not in os.environ:
        return replay(first, console)
    return run_many(range(first, first + choices.whole_number("SEEDS", 2000)), console)


if __name__ == "__main__":
    sys.exit(main())
