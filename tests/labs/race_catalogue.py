"""Which scenarios are played on what: the stages as they are, and some with a planted bug.

``naive`` breaks where its flaws are, every planted bug breaks its scenario, and nothing else
does. A result that is not what stands here is a surprise, and turns the lab red.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any
from unittest import mock

import final
import final.job_queue
import improved
import improved.job_queue
import naive
import naive.job_queue
from final import job
from final.engine import dispatcher, events, flight, messages
from final.ledger import database, local
from final.workers import attempts, coroutines, current, event_loop, handlers, pool, processes
from tests.labs import race_bugs as bugs
from tests.labs import race_scenarios as scenarios
from tests.labs.exploration import Verdict, explore, only
from tests.stages import NeverRaised


@dataclass(frozen=True)
class Subject:
    """What a scenario is played on.

    names: what a scenario gets: JobQueue, Job, errors.
    places: the code in which a switch can be forced; every line, if there are none.
    """

    name: str
    names: Any
    modules: tuple[types.ModuleType, ...]
    places: tuple[Any, ...] = ()

    def with_bug(self, bug: type) -> Subject:
        """The same with another JobQueue, from race_bugs.py."""
        make = functools.partial(_repeatable, bug) if issubclass(bug, final.JobQueue) else bug
        return Subject(
            bug.__name__,
            types.SimpleNamespace(**{**vars(self.names), "JobQueue": make}),
            (*self.modules, bugs),
            (*self.places, bug) if self.places else (),
        )


@dataclass(frozen=True)
class Entry:
    """A scenario on a subject. ``breaks``: whether a schedule is to be found that fails."""

    scenario: Any
    subject: Subject
    breaks: bool = False

    @property
    def name(self) -> str:
        """What it is called on the command line and in the report."""
        return f"{self.title} on {self.subject.name}"

    @property
    def is_planted(self) -> bool:
        return bugs in self.subject.modules

    @property
    def title(self) -> str:
        return str(self.scenario.__name__).replace("_", " ")

    def explore(self, switches: int, every: int = 1) -> Verdict:
        """every: see ``exploration.explore``."""
        play = functools.partial(self.scenario, self.subject.names)
        where = only(*self.subject.places) if self.subject.places else None
        return explore(play, *self.subject.modules, switches=switches, where=where, every=every)


class _InOrder(dict[Any, None]):
    """A set that is gone through in the order of joining, not in that of memory addresses."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


def _repeatable(JobQueue: type[final.JobQueue], *args: Any, **options: Any) -> final.JobQueue:
    """A queue of ``final`` that does the same every time, and that nobody closes at exit."""
    # Its log is written where it is told: a courier is a real thread, which would stay behind when
    # a run is abandoned.
    with mock.patch.object(events.Events, "start"):
        queue = JobQueue(*args, **{"shutdown_timeout": None, **options})
    queue._dispatcher.unanswered = _InOrder()  # type: ignore[assignment]
    final.job_queue._open.discard(queue)  # its threads may be gone by then
    return queue


NAIVE = Subject(
    "naive",
    types.SimpleNamespace(**vars(naive), QueueClosed=NeverRaised),
    (naive.job_queue,),
)

IMPROVED = Subject("improved", improved, (improved.job_queue,))

# A turn of final is hundreds of lines, nearly all of which touch what the dispatcher's thread
# alone owns: a switch in their midst is the same as one before or after. So switches are forced
# before each operation on a lock or a queue, and before the lines in which one thread looks at
# what another may change without a lock. Those are in these functions.
FINAL = Subject(
    "final",
    types.SimpleNamespace(
        **{**vars(final), "JobQueue": functools.partial(_repeatable, final.JobQueue)}
    ),
    (
        final.job_queue,
        dispatcher,
        events,
        flight,
        job,
        local,
        messages,
        database,
        attempts,
        coroutines,
        current,
        event_loop,
        handlers,
        pool,
        processes,
    ),
    (
        final.JobQueue._ask,
        final.JobQueue._await,
        final.JobQueue.close,
        current.CurrentJob,
        dispatcher.Dispatcher._end,
        dispatcher.Dispatcher._end_now,
        dispatcher.Dispatcher.ask,
        flight.Flight._check_time,
        flight.Flight._collect,
        flight.Flight._replace_worker,
        flight.Flight._take_unstarted,
        flight.Flight.tell,
        local.LocalLedger.exchange,
        messages.Request.answer,
        messages.Request.refuse,
        messages.Request.result,
        pool.WorkerPool._attempt,
        pool.WorkerPool._work,
        pool.WorkerPool._work_off,
        pool.WorkerPool.is_calling,
        pool.WorkerPool.join,
        pool.WorkerPool.replace,
        pool.WorkerPool.stop,
        pool.WorkerPool.tell,
    ),
)

CATALOGUE = [
    # FLAW N4: what is queued is dropped, and a closed queue swallows jobs.
    Entry(scenarios.close_against_enqueue, NAIVE, breaks=True),
    Entry(scenarios.two_workers_claiming, NAIVE),
    # ---- improved: every line is a point
    Entry(scenarios.close_against_enqueue, IMPROVED),
    Entry(scenarios.two_workers_claiming, IMPROVED),
    Entry(scenarios.notify_against_wait, IMPROVED),
    Entry(scenarios.giving_up_against_room, IMPROVED),
    Entry(scenarios.close_timeout_against_completion, IMPROVED),
    Entry(scenarios.retry_due_against_close, IMPROVED),
    Entry(scenarios.metrics_against_work, IMPROVED),
    # ---- final: where threads meet
    Entry(scenarios.close_against_enqueue, FINAL),
    Entry(scenarios.two_workers_claiming, FINAL),
    Entry(scenarios.notify_against_wait, FINAL),
    Entry(scenarios.giving_up_against_room, FINAL),
    Entry(scenarios.close_timeout_against_completion, FINAL),
    Entry(scenarios.retry_due_against_close, FINAL),
    Entry(scenarios.metrics_against_work, FINAL),
    Entry(scenarios.cancel_against_claim, FINAL),
    Entry(scenarios.timeout_against_completion, FINAL),
    Entry(scenarios.failed_commit_against_producers, FINAL),
    Entry(scenarios.wait_against_completion, FINAL),
    Entry(scenarios.retry_due_against_leaving, FINAL),
    Entry(scenarios.batch_against_leaving, FINAL),
    # ---- planted bugs: each must be found
    Entry(scenarios.close_against_enqueue, IMPROVED.with_bug(bugs.LooksBeforeItLocks), True),
    Entry(scenarios.notify_against_wait, IMPROVED.with_bug(bugs.LooksOnceAfterWaking), True),
    Entry(scenarios.notify_against_wait, IMPROVED.with_bug(bugs.SleepsOnOldNews), True),
    Entry(scenarios.two_workers_claiming, IMPROVED.with_bug(bugs.PeeksThenPops), True),
    Entry(scenarios.metrics_against_work, IMPROVED.with_bug(bugs.CountsInTwoSteps), True),
    Entry(scenarios.metrics_against_work, IMPROVED.with_bug(bugs.TwoLocksTwoOrders), True),
    Entry(scenarios.close_against_enqueue, FINAL.with_bug(bugs.AsksTheDead), True),
    Entry(scenarios.cancel_against_claim, FINAL.with_bug(bugs.ReachesIn), True),
    Entry(scenarios.timeout_against_completion, FINAL.with_bug(bugs.EndsBothWays), True),
    Entry(
        scenarios.failed_commit_against_producers,
        FINAL.with_bug(bugs.AnswersBeforeTheCommit),
        True,
    ),
    Entry(
        scenarios.failed_commit_against_producers, FINAL.with_bug(bugs.ForgetsTheNextInLine), True
    ),
]
