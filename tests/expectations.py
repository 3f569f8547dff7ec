"""The one table: what each stage can do, which flaw keeps it from that, what it never had.

Everything else follows from here: the suite marks its known flaws by it, the
scoreboard draws it, and ``README.md``, ``docs/scoreboard.md`` and ``docs/flaws.md``
are written from it.

But: it claims, it does not prove. The proof is the run: a cell that says PASSES must
pass, one that names a flaw must fail, and one that says ABSENT must fail for want of
what the row needs. All else turns the run red.
"""
# ruff: noqa: E501  (a table is read along its rows and down its columns)

from __future__ import annotations

from dataclasses import dataclass

STAGES = ("naive", "improved", "final")
# What the suite runs on: the stages, and final once more, with a database instead of a file.
POSTGRES = "postgres"
COLUMNS = (*STAGES, POSTGRES)
# A queue that a reader wrote, graded by tests/ladder/: it passes a test or fails it, and nothing is
# expected of it.
CANDIDATE = "mine"

PASSES = None
# Not in this stage: a feature that it was never meant to have. To lack it is no flaw.
ABSENT = "absent"
MANY = 'JobQueue(path="postgresql://...")'  # what it takes for several processes


@dataclass(frozen=True)
class Flaw:
    """A thing that a stage gets wrong on purpose; ``# FLAW <id>`` marks the line.

    ``question`` is how an interviewer would ask for it, ``exhibit`` the capability whose
    evidence shows it best.
    """

    id: str
    stage: str
    what: str
    question: str
    exhibit: str

    def shown_by(self) -> list[Capability]:
        """The capabilities that the stage lacks because of this flaw."""
        return [row for row in CAPABILITIES.values() if row.flaw(self.stage) == self]


@dataclass(frozen=True)
class Capability:
    """A row of the scoreboard: for each stage PASSES, the id of the flaw that it shows, or ABSENT.

    ``needs`` is what its test uses and an ABSENT stage lacks: a method, an option, a name.
    ``instead`` is what to do in such a stage.
    """

    name: str
    group: str
    title: str
    naive: str | None
    improved: str | None
    final: str | None
    needs: str = ""
    instead: str = ""
    postgres: str | None = PASSES

    @property
    def test_file(self) -> str:
        """The file in tests/suite/ that shows it."""
        return f"test_{self.name.replace('-', '_')}.py"

    def flaw(self, stage: str) -> Flaw | None:
        """The flaw that ``stage`` is expected to show here; None where it passes."""
        expected = self._expected(stage)
        return None if expected is PASSES or expected == ABSENT else FLAWS[expected]

    def is_absent(self, stage: str) -> bool:
        """Whether ``stage`` was never meant to have it."""
        return self._expected(stage) == ABSENT

    def fixed_in(self, stage: str) -> str:
        """The first stage after ``stage`` that has this capability."""
        later = STAGES[STAGES.index(stage) + 1 :]
        return next(name for name in later if self._expected(name) is PASSES)

    def _expected(self, stage: str) -> str | None:
        expected: str | None = getattr(self, stage)
        return expected


# fmt: off
FLAWS = {
    flaw.id: flaw
    for flaw in (
        Flaw("N1", "naive", "unbounded queue: a fast producer fills the memory",
             "The producers are faster than the workers. What happens to your queue?",
             exhibit="bounded-memory"),
        Flaw("N2", "naive", "FIFO only: an urgent job waits behind everything",
             "How does a password reset get past a million newsletters?",
             exhibit="priority"),
        Flaw("N3", "naive", "memory only: jobs are gone with the process",
             "The process dies. Which jobs are left?",
             exhibit="kill-9"),
        Flaw("N4", "naive", "close() returns at once: queued and in-flight jobs are lost",
             "A deployment stops your service. What becomes of the jobs it is working on?",
             exhibit="close-drains"),
        Flaw("N5", "naive", "no retry: a failed job is lost",
             "The network was down for a second and a job failed. What now?",
             exhibit="retry"),
        Flaw("N6", "naive", "a raising handler kills its worker: four bad jobs stop the queue",
             "One job in a thousand raises an exception. What does that do to your workers?",
             exhibit="worker-survival"),
        Flaw("N7", "naive", "nothing to look at: no metrics, no status",
             "How do you know whether your queue keeps up?",
             exhibit="metrics"),
        Flaw("I1", "improved", "memory only: jobs are gone with the process",
             "The process dies. What may the producer believe about the jobs you accepted?",
             exhibit="kill-9"),
        Flaw("I2", "improved", "starvation: while HIGH is never empty, LOW never runs",
             "With strict priority, when does a job of low priority run?",
             exhibit="no-starvation"),
        Flaw("I3", "improved", "no status by id: the totals say how many failed, not which",
             "A customer asks what became of one job out of a million. Where do you look?",
             exhibit="status"),
        Flaw("I4", "improved", "attempts and due times of retries are lost on restart",
             "A job waits for its third retry when the process restarts. What must it know?",
             exhibit="retry-restart"),
    )
}

CAPABILITIES = {
    row.name: row
    for row in (
        #          name                     group             title                                         naive   improved final
        Capability("enqueue",               "Running jobs",   "the handler gets the job that went in",      PASSES, PASSES, PASSES),
        Capability("delivery",              "Running jobs",   "on a good day every job runs once",                PASSES, PASSES, PASSES),
        Capability("fifo",                  "Running jobs",   "first in, first out within a lane",          PASSES, PASSES, PASSES),
        Capability("concurrency",           "Running jobs",   "N workers run N jobs at once",               PASSES, PASSES, PASSES),
        Capability("stress",                "Running jobs",   "100,000 jobs from 64 producers, once each",  PASSES, PASSES, PASSES),
        Capability("worker-survival",       "Running jobs",   "a raising handler kills no worker",          "N6",   PASSES, PASSES),
        Capability("backpressure",          "Overload",       "a full lane blocks its producer",            "N1",   PASSES, PASSES),
        Capability("backpressure-timeout",  "Overload",       "a blocked producer can give up",             "N1",   PASSES, PASSES),
        Capability("bounded-memory",        "Overload",       "a fast producer does not fill the memory",   "N1",   PASSES, PASSES),
        Capability("priority",              "Priority",       "urgent jobs run first",                      "N2",   PASSES, PASSES),
        Capability("no-starvation",         "Priority",       "LOW runs while HIGH never empties",          PASSES, "I2",   PASSES),
        Capability("retry",                 "Failure",        "a failed job is tried again",                "N5",   PASSES, PASSES),
        Capability("backoff",               "Failure",        "retries wait longer each time",              "N5",   PASSES, PASSES),
        Capability("dead-letter",           "Failure",        "retries end; the job counts as failed",      "N5",   PASSES, PASSES),
        Capability("retry-frees-worker",    "Failure",        "a waiting retry holds no worker",            "N5",   PASSES, PASSES),
        Capability("close-in-flight",       "Shutdown",       "close waits for the jobs in flight",         "N4",   PASSES, PASSES),
        Capability("close-drains",          "Shutdown",       "close runs what is queued",                  "N4",   PASSES, PASSES),
        Capability("close-wakes-producer",  "Shutdown",       "close wakes a blocked producer",             "N1",   PASSES, PASSES),
        Capability("enqueue-after-close",   "Shutdown",       "a closed queue refuses jobs",                "N4",   PASSES, PASSES),
        Capability("close-twice",           "Shutdown",       "closing twice is harmless",                  PASSES, PASSES, PASSES),
        Capability("metrics",               "Visibility",     "metrics add up",                             "N7",   PASSES, PASSES),
        Capability("metrics-by-priority",   "Visibility",     "metrics per priority",                       "N7",   PASSES, PASSES),
        Capability("status",                "Visibility",     "the life of a job can be followed by id",    "N7",   "I3",   PASSES),
        Capability("unknown-id",            "Visibility",     "an unknown id is an error, not a guess",     "N7",   "I3",   PASSES),
        Capability("restart",               "Persistence",    "jobs survive a restart",                     "N3",   "I1",   PASSES),
        Capability("kill-9",                "Persistence",    "jobs survive kill -9",                       "N3",   "I1",   PASSES),
        Capability("retry-restart",         "Persistence",    "retries keep their count and time",          "N3",   "I4",   PASSES),

        # What a queue may do without, until it has to run real work.
        Capability("schedule",              "Beyond the basics", "a job can wait for its time",             ABSENT, ABSENT, PASSES,
                   needs="Job(run_at=)",          instead="a threading.Timer can enqueue it, if the process lives that long"),
        Capability("periodic",              "Beyond the basics", "each tick of a schedule is one job",       ABSENT, ABSENT, PASSES,
                   needs="JobQueue(periodic=)",   instead="a line of cron can start a program that enqueues it, on one machine"),
        Capability("missed-ticks",          "Beyond the basics", "ticks that nobody saw are made up for",   ABSENT, ABSENT, PASSES,
                   needs="JobQueue(periodic=)",   instead="a program can remember when it ran last, and look at its start"),
        Capability("cancel",                "Beyond the basics", "a job that waits can be called off",      ABSENT, ABSENT, PASSES,
                   needs="cancel()",              instead="the handler can look whether the job is still wanted"),
        Capability("duplicate-id",          "Beyond the basics", "an id is accepted only once",             ABSENT, ABSENT, PASSES,
                   needs="DuplicateJob",          instead="the handler can remember what it has done"),
        Capability("results",               "Beyond the basics", "results come in the order of the jobs",   ABSENT, ABSENT, PASSES,
                   needs="map()",                 instead="the handler can write its result to where the caller looks"),
        Capability("retry-by-hand",         "Beyond the basics", "dead letters can be read and run again",  ABSENT, ABSENT, PASSES,
                   needs="dead_letters()",        instead="somebody can read the log, and enqueue the job anew"),
        Capability("events",                "Beyond the basics", "every change of a job is told",           ABSENT, ABSENT, PASSES,
                   needs="subscribe()",           instead="the handler can tell of its own start and end"),
        Capability("overflow",              "Beyond the basics", "a full lane can refuse or drop jobs",     ABSENT, ABSENT, PASSES,
                   needs="JobQueue(overflow=)",   instead="the producer can give up, where enqueue has a timeout"),
        Capability("rate-limit",            "Beyond the basics", "jobs start no faster than a limit",       ABSENT, ABSENT, PASSES,
                   needs="JobQueue(rate_limit=)", instead="the handler can wait for its turn, and holds its worker"),
        Capability("timeout",               "Beyond the basics", "a hanging job does not hold its worker",  ABSENT, ABSENT, PASSES,
                   needs="JobQueue(timeout=)",    instead="the handler can put a time-out on whatever it calls"),
        Capability("processes",             "Beyond the basics", "a crash costs one attempt, nothing else", ABSENT, ABSENT, PASSES,
                   needs="JobQueue(executor=)",   instead="the handler can start a process of its own for each job"),
        Capability("unique",                "Beyond the basics", "one job with a key at a time",            ABSENT, ABSENT, PASSES,
                   needs="Job(unique=)",          instead="the producer can remember which keys it has sent, until it ends"),
        Capability("debounce",              "Beyond the basics", "of many jobs in a row one runs, the last", ABSENT, ABSENT, PASSES,
                   needs="Job(run_at=)",          instead="a threading.Timer that each new one sets anew, in one process"),
        Capability("kind-retries",          "Beyond the basics", "a kind has its own number of retries",    ABSENT, ABSENT, PASSES,
                   needs="Kind",                  instead="the handler can try again itself, and holds its worker"),
        Capability("kind-workers",          "Beyond the basics", "a slow kind leaves workers to the others", ABSENT, ABSENT, PASSES,
                   needs="Kind",                  instead="a queue of its own for each kind"),
        Capability("snooze",                "Beyond the basics", "a job can be put off by its handler",     ABSENT, ABSENT, PASSES,
                   needs="Snooze",                instead="the handler can sleep, and holds its worker; or fail, and uses up an attempt"),
        Capability("progress",              "Beyond the basics", "a handler can say how far it is",         ABSENT, ABSENT, PASSES,
                   needs="current_job().progress()", instead="the handler can write to where whoever asks looks"),
        Capability("middleware",            "Beyond the basics", "code of your own runs around every job",  ABSENT, ABSENT, PASSES,
                   needs="JobQueue(middleware=)", instead="a decorator on each handler"),
        Capability("pause",                 "Beyond the basics", "a kind can be paused, and resumed",        ABSENT, ABSENT, PASSES,
                   needs="pause()",               instead="the handler can look whether it may, and enqueue its job anew"),
        Capability("scale",                 "Beyond the basics", "workers can be added and taken away",     ABSENT, ABSENT, PASSES,
                   needs="set_workers()",         instead="a restart with another number, which interrupts what runs"),
        Capability("after",                 "Beyond the basics", "a job can run after others",              ABSENT, ABSENT, PASSES,
                   needs="Job(after=)",           instead="the handler of the first can enqueue the second"),
        Capability("fan-in",                "Beyond the basics", "a job gets the results of a whole batch", ABSENT, ABSENT, PASSES,
                   needs="Job(after=)",           instead="each handler can count down, and the last one enqueues the next job"),
        Capability("parent-failed",         "Beyond the basics", "a failed job takes those after it along", ABSENT, ABSENT, PASSES,
                   needs="Job(after=)",           instead="the handler of the second can look whether the first one did its part"),

        Capability("meta",                  "Beyond the basics", "jobs are found by what they are about",   ABSENT, ABSENT, PASSES,
                   needs="Job(meta=)",            instead="a table beside the queue: which job is about what"),

        Capability("cancel-all",            "Beyond the basics", "all jobs of one user can be called off",  ABSENT, ABSENT, PASSES,
                   needs="Job(meta=)",            instead="somebody keeps the ids of each user, and cancels one after the other"),

        Capability("groups",                "Beyond the basics", "one tenant's flood holds up nobody else", ABSENT, ABSENT, PASSES,
                   needs="Job(group=)",           instead="a queue for each tenant, and somebody who takes from them in turn"),
        Capability("group-limit",           "Beyond the basics", "of a tenant only so many jobs run",       ABSENT, ABSENT, PASSES,
                   needs="JobQueue(group_limit=)", instead="the handler can count, and puts back what is too much"),

        Capability("asyncio",               "Beyond the basics", "asyncio awaits it, and no thread waits", ABSENT, ABSENT, PASSES,
                   needs="AsyncJobQueue",         instead="asyncio.to_thread(queue.enqueue, job), and a thread for each that waits"),

        # What takes a database: several processes, on one host or many, with one queue.
        Capability("shared-backlog",        "Many processes",    "processes share a backlog, each job once",ABSENT, ABSENT, ABSENT,
                   needs=MANY, instead="one process owns the jobs, and the others ask it over HTTP (docs/service.md)"),
        Capability("host-killed",           "Many processes",    "a killed process's jobs run elsewhere",   ABSENT, ABSENT, ABSENT,
                   needs=MANY, instead="somebody starts the process again; in final the jobs are still there"),
        Capability("late-result",           "Many processes",    "a paused process's late result is refused", ABSENT, ABSENT, ABSENT,
                   needs=MANY, instead="there is no second process that could have run the job meanwhile"),
        Capability("shared-limit",          "Many processes",    "a rate limit holds for all processes",    ABSENT, ABSENT, ABSENT,
                   needs=MANY, instead="each of n processes gets a share of the limit"),
        Capability("transaction",           "Many processes",    "a job commits with the caller's own row", ABSENT, ABSENT, ABSENT,
                   needs=MANY, instead="an outbox: a row beside the data, and a relay that enqueues it (docs/concepts/outbox.md)"),
    )
}
# fmt: on
