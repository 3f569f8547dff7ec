"""The one list of steps. ``make steps`` prints it, ``make mine`` climbs it, notebook 9 and
``docs/ladder.md`` are made from it.

The order is a way of thinking. *Bounded* comes before *closes*, because the tests see a closing
queue only by the producer that it refuses; *retries* before *counts*, which count them; *fair*
before the file, because it is the last idea that needs none; *restart* before *kill -9*, because
sqlite3's default transaction survives the one and loses everything to the other.

But: a step is judged by rows of the shared suite. What no row sees (a lock held for too long, a
method of 80 lines) is for ``make mine-diff`` and for a friend.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.diff_stages import sections

ROOT = Path(__file__).parents[2]
SOLUTIONS = Path(__file__).parent / "solutions"


@dataclass(frozen=True)
class Step:
    """A step of the ladder.

    rows: the capabilities of the suite that turn green with it.
    asks: what the suite uses from here on. story: why, from production.
    predict: a question to answer before reading. hints: three; the last names a line, written
    ``{file:Class.method}``. read: what to read after. idea: where in the solution to look first.
    """

    number: int
    name: str
    title: str
    minutes: int
    rows: tuple[str, ...]
    story: str
    asks: str
    predict: str
    hints: tuple[str, str, str]
    read: str
    learned: str
    idea: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"step {self.number} ({self.title})"

    @property
    def stars(self) -> bool:
        """Whether its rows are independent of each other: a star for each."""
        return self.number == len(STEPS)

    @property
    def solution(self) -> Path:
        """The worked solution: a file, or for the stars the package ``final``."""
        return ROOT / "final" if self.stars else SOLUTIONS / f"step{self.number:02}_{self.name}.py"

    def hint(self, number: int) -> str:
        """Hint 1, 2 or 3, with the lines it names looked up."""
        return re.sub(r"\{([^:}]+):([^}]+)\}", _line, self.hints[number - 1])


def _line(place: re.Match[str]) -> str:
    """``file:Class.method`` as an editor opens it: ``file:line (Class.method)``."""
    file, name = place.groups()
    source = (ROOT / file).read_text(encoding="utf-8").splitlines()
    section = "\n".join(sections(source)[name])
    line = "\n".join(source).index(section)
    number = "\n".join(source)[:line].count("\n") + 1
    return f"{file}:{number} ({name})"


_LADDER = "tests/ladder/solutions"

# ruff: noqa: E501  (stories are prose)
# fmt: off
STEPS = (
    Step(
        1, "naive", "runs a job", 20,
        rows=("enqueue", "delivery", "fifo", "concurrency", "stress", "close-twice"),
        story="A web request sends an email before it answers, and the mail server takes three seconds. The request should say \"accepted\" and go; somebody else does the sending.",
        asks="JobQueue(handler, workers=4), enqueue(job), close(). The handler gets the very job that went in, each job once, in the order in which they came, and N workers run N jobs at once. Threads should be daemons, so that a forgotten queue does not keep the process alive.",
        predict="Two workers call get() on the same queue.SimpleQueue while one job is in it. What happens to the worker that gets none?",
        hints=(
            "Two parts: something that holds jobs and that many threads may use at once, and threads that repeat \"take one, run it\".",
            "queue.SimpleQueue is the first part: put never waits, get waits while it is empty. threading.Thread(target=self._work, daemon=True) is the second; start `workers` of them in the constructor, after everything that they use.",
            "The loop is three lines: {naive/job_queue.py:JobQueue._work}.",
        ),
        read="docs/concepts/threads-and-queues.md",
        learned="a thread-safe queue, and threads that take from it",
        idea=("JobQueue._work", "JobQueue.__init__"),
    ),
    Step(
        2, "survives", "survives its handlers", 10,
        rows=("worker-survival",),
        story="At 02:11 a customer with an empty name came along, and the template raised. At 02:40 three more. At 02:41 nothing ran any more: four workers, four bad jobs.",
        asks="The same. A handler may raise whatever it likes, SystemExit too.",
        predict="A library that the handler calls says sys.exit(1). Which part of the process ends?",
        hints=(
            "Whose code is the handler? Not yours: expect anything of it.",
            "An exception that leaves the function of a thread ends the thread. Catch it around the one call, inside the loop, and say so in the log. SystemExit and KeyboardInterrupt are no Exception.",
            "See where the try stands, and what it catches: {" + _LADDER + "/step02_survives.py:JobQueue._work}.",
        ),
        read="docs/concepts/workers.md",
        learned="a handler is somebody else's code",
        idea=("JobQueue._work",),
    ),
    Step(
        3, "bounded", "is bounded", 40,
        rows=("backpressure", "backpressure-timeout", "bounded-memory"),
        story="The newsletter enqueued two million jobs in a minute. The workers would have needed a day; the kernel killed the process after twenty minutes, and every job in it was gone.",
        asks="JobQueue(..., capacity=1000): how many jobs may wait; one that is with a worker waits no more. enqueue(job, timeout=None) waits while it is full: for ever by default, not at all with 0, and raises QueueFull (a queue.Full) when the time is up. A refused job must not run.",
        predict="Two producers wait for room, one place becomes free, and both wake up. What must the second one do?",
        hints=(
            "Somebody waits for a job, somebody else waits for room. Each needs to be woken by the other.",
            "One threading.Lock around a deque, and two threading.Condition on this same lock: one for workers, one for producers. condition.wait_for(predicate, timeout) looks again after every wake-up, and returns whether the predicate came true. (queue.Queue(maxsize=) passes this step as well; the next one needs more: close() must wake who waits in its put(), and it cannot.)",
            "Three lines: in enqueue `if not self._room.wait_for(lambda: there is room, timeout): raise QueueFull`, before the job is added ({" + _LADDER + "/step03_bounded.py:JobQueue.enqueue}); after it `self._runnable.notify()`; and where a worker has taken a job `self._room.notify()` ({" + _LADDER + "/step03_bounded.py:JobQueue._take}), all under the one lock.",
        ),
        read="docs/concepts/backpressure.md",
        learned="one lock, one condition for each reason to wait; look again after waking",
        idea=("JobQueue.enqueue", "JobQueue._take", "JobQueue.__init__"),
    ),
    Step(
        4, "closes", "closes politely", 45,
        rows=("enqueue-after-close", "close-drains", "close-in-flight", "close-wakes-producer"),
        story="Deploys go out at five. Each cuts off the jobs in flight: the card is charged, the order is not written. And now and then the old process does not end at all, because a thread in it waits for room that nobody will make.",
        asks="close() takes no more jobs (enqueue raises QueueClosed, a RuntimeError), runs all that it accepted, and then returns. A producer that waits for room is woken and gets QueueClosed, too. Also close(timeout=None): True if everything ran, False if the time was up; the suite closes with timeout=0 when a test is over.",
        predict="close() waits until nothing is queued. A worker has just taken the last job and works on it. What has close() forgotten?",
        hints=(
            "Closing is a state that everybody who waits must hear of: producers, workers, and close itself.",
            "Count what is with a worker. close waits on a third condition until nothing is queued *and* nothing is running. A producer waits for room *or* the end: both belong in its predicate, and afterwards ask for the end first. An idle worker waits for a job or the end.",
            "Who hears of the end: in enqueue the predicate is `closing or there is room`, and after it `if closing: raise` stands first ({" + _LADDER + "/step04_closes.py:JobQueue.enqueue}); workers leave when {" + _LADDER + "/step04_closes.py:JobQueue._stopping} says so; close() sets the flag, calls notify_all on everybody's condition, and waits for the same line to be true ({" + _LADDER + "/step04_closes.py:JobQueue.close}). A queue.Queue wakes nobody: a deque of your own does, as in {" + _LADDER + "/step03_bounded.py:JobQueue.enqueue}.",
        ),
        read="docs/concepts/shutdown.md",
        learned="closing is a state that all who wait must hear of",
        idea=("JobQueue.close", "JobQueue._take", "JobQueue._record", "JobQueue._stopping", "JobQueue._unfinished", "JobQueue.enqueue"),
    ),
    Step(
        5, "priority", "urgent jobs first", 20,
        rows=("priority",),
        story="\"I asked for a new password twenty minutes ago.\" It is in the queue, behind a hundred thousand newsletters.",
        asks="Job(priority=\"high\" | \"medium\" | \"low\"), medium by default; a member of your own Priority (an enum.StrEnum) is as good. Within one priority: first in, first out. capacity counts for each priority, so that a full LOW keeps no HIGH out.",
        predict="One heap of (priority, job), or three deques: which of them keeps first in, first out by itself?",
        hints=(
            "A heap needs a number to break ties, and a count for each priority. Is there something simpler?",
            "A deque for each priority, in a dict whose order is the order of service. A worker takes from the first that is not empty. A producer waits for room in its own.",
            "{improved/job_queue.py:_Lane}, and the loop over the lanes in {" + _LADDER + "/step05_priority.py:JobQueue._take}.",
        ),
        read="docs/concepts/fairness.md",
        learned="what HIGH gains, LOW pays",
        idea=("JobQueue._take", "_Lane", "Priority", "Job", "JobQueue.enqueue"),
    ),
    Step(
        6, "retries", "tries again, later", 45,
        rows=("retry", "backoff", "retry-frees-worker"),
        story="The mail server restarts for a minute, every night. Each night eleven letters are lost. The first mend slept in the worker before trying again: the next night four failing jobs put all four workers to sleep.",
        asks="JobQueue(..., max_retries=3, backoff=Backoff(...)): up to four attempts. Backoff(base=1.0, maximum=60.0, jitter=0.1) with delay(retry), seconds before retry 1, 2, ...: d = min(maximum, base * 2 ** (retry - 1)), and of that random.uniform((1 - jitter) * d, d). While a job waits for its retry its worker does other work, and no other thread sleeps for it; then it goes to the end of its lane. close() waits for retries, too.",
        predict="An idle worker waits for a job. A retry falls due in two seconds. Who tells the worker?",
        hints=(
            "A waiting retry is data, not a sleeping thread: when it is due, and for which job.",
            "A heap of (due, number, job and its attempts), the number from itertools.count(), because jobs do not compare. A worker with nothing to do waits on its condition *until the first of them is due*; time.monotonic() is the clock. What waits for its retry is unfinished, so close waits for it.",
            "{improved/job_queue.py:JobQueue._record} puts it there, {improved/job_queue.py:JobQueue._requeue_due_retries} takes it out, {improved/job_queue.py:JobQueue._until_next_retry} says how long to wait.",
        ),
        read="docs/concepts/retries.md",
        learned="waiting is an entry in a heap, not a sleeping thread",
        idea=("JobQueue._record", "JobQueue._take", "JobQueue._requeue_due_retries", "JobQueue._until_next_retry", "Backoff", "_Task"),
    ),
    Step(
        7, "improved", "counts", 25,
        rows=("metrics", "metrics-by-priority", "dead-letter"),
        story="\"Is it slow, or does it stand still?\" Nobody can say. Somebody counts log lines; the sum is three off, and an hour goes by until it is clear that it always was.",
        asks="metrics() with the attributes accepted, queued, processing, retrying, completed, failed, and by_priority: the same for each priority (by_priority[\"high\"] must work; a StrEnum as key does). What metrics() has returned does not change afterwards, and at every instant accepted = queued + processing + retrying + completed + failed (the tests look a thousand times, which is not always; the lock is what makes it always). A job whose retries are used up has failed.",
        predict="A worker takes a job: two counts change. Between the two somebody calls metrics(). What does the sum say, and what keeps that from happening?",
        hints=(
            "Write the invariant down. Which five places in your code move a job from one word of it to another?",
            "Change both counts under the one lock, in the same `with` in which the job itself moves, and copy them under it in metrics(). dataclasses.replace copies a dataclass.",
            "{improved/job_queue.py:Counts} and {improved/job_queue.py:JobQueue.metrics}.",
        ),
        read="docs/concepts/waiting.md",
        learned="counts that change under one lock add up",
        idea=("Counts", "Metrics", "JobQueue.metrics", "JobQueue._take", "JobQueue._record", "JobQueue.enqueue", "JobQueue._requeue_due_retries"),
    ),
    Step(
        8, "fair", "no lane starves", 25,
        rows=("no-starvation",),
        story="The nightly clean-up is LOW. Since spring there is always something HIGH. In August the disk is full, and the clean-up has not run since May.",
        asks="While HIGH never empties, a LOW job at the head of its lane starts within 12 picks, and so does a MEDIUM one while neither of the others does. Urgent jobs still come first otherwise: 5 MEDIUM and 1 HIGH before 100 LOW.",
        predict="\"Every eleventh pick goes to the lowest lane that has a job.\" HIGH and MEDIUM never empty, LOW is empty most of the time. What does that rule give to MEDIUM?",
        hints=(
            "A bound needs no clock. What can you count?",
            "For each lane: how often in a row a more urgent one was served while a job waited in it. At ten it is due, and a lane that is due comes first. When it is served its count is zero again. A lane that is empty is not passed over.",
            "Twelve lines: {" + _LADDER + "/step08_fair.py:JobQueue._pick}. Where it was called: {" + _LADDER + "/step08_fair.py:JobQueue._take}.",
        ),
        read="docs/concepts/fairness.md",
        learned="a bound by counting picks, without a clock",
        idea=("JobQueue._pick", "JobQueue._take", "_Lane"),
    ),
    Step(
        9, "restart", "survives a restart", 45,
        rows=("restart",),
        story="Every deploy is a restart. The queue drains before it closes, says the runbook, up to thirty seconds; then the rest is dropped, and the rest is what came in when it was busy.",
        asks="JobQueue(..., path=\":memory:\"): a file (use sqlite3). What is unfinished when a queue closes runs when the next one opens the same file, in its old order; what was in flight runs again. The payload (bytes, or any JSON value) comes out as it went in; a job's id is as it was, and no later process gives it to another job.",
        predict="Job ids were job-1, job-2, ... What happens with the first job that the second process makes?",
        hints=(
            "The file is the truth, and the lanes in memory are its index: write the job before you put it in its lane, read the file when you open it.",
            "A table job(place INTEGER PRIMARY KEY, id UNIQUE, priority, payload). INSERT in enqueue, DELETE when it has ended, SELECT ... ORDER BY place in the constructor, before the workers start. sqlite3.connect(path, check_same_thread=False), used under your lock; commit and close in close(). JSON as TEXT, bytes as BLOB. A late outcome after close must not touch the file. Ids: uuid.uuid4().",
            "{" + _LADDER + "/step09_restart.py:JobQueue._recover}, {" + _LADDER + "/step09_restart.py:SCHEMA} and {" + _LADDER + "/step09_restart.py:JobQueue._let_go}.",
        ),
        read="docs/concepts/persistence.md",
        learned="the file is the truth, memory its index",
        idea=("JobQueue._recover", "JobQueue._write", "JobQueue._let_go", "SCHEMA", "JobQueue.enqueue", "JobQueue._record"),
    ),
    Step(
        10, "kill9", "survives kill -9", 20,
        rows=("kill-9",),
        story="The out-of-memory killer closes nothing. The customer has the answer \"accepted\" on the screen, and the file has no such job.",
        asks="The same. When enqueue returns, the job is in the file and will be there, whatever ends the process.",
        predict="Your step 9 wrote every job with INSERT. kill -9, and the table is empty. Where were they?",
        hints=(
            "When is a job accepted: when the statement has run, or when something else has happened?",
            "sqlite3 opens a transaction before an INSERT, and leaves it open until commit(). isolation_level=None commits each statement at once. PRAGMA journal_mode = WAL and synchronous = FULL: a commit returns when it would survive a power cut. First the file, then the memory: if the file refuses, nothing has happened.",
            "{" + _LADDER + "/step10_kill9.py:_open}, four PRAGMAs and their reasons.",
        ),
        read="docs/reliability.md",
        learned="\"yes\" means committed",
        idea=("_open", "JobQueue._write", "JobQueue._let_go"),
    ),
    Step(
        11, "attempts", "retries keep their count and time", 40,
        rows=("retry-restart",),
        story="A picture of 40,000 pixels kills the process that opens it. The process restarts, takes the first job of the file, and opens the picture. For four hours.",
        asks="The same. After a restart a job has the attempts that it had left, and a retry comes when it would have come anyway, also on a machine that was started anew. An attempt that ended with the process counts.",
        predict="time.monotonic() is the right clock in memory. What does its value mean in a file, tomorrow?",
        hints=(
            "Write down what you are about to do: else nobody knows that it was tried.",
            "Columns status, attempts, due_at. Claim in the file before the handler runs: status processing, attempts + 1. A retry: status retrying, due_at in wall-clock time (time.time()), the heap in memory stays monotonic. On opening: what is processing was interrupted; it runs again if it has an attempt left. A job that close() took back unfinished is not charged.",
            "{" + _LADDER + "/step11_attempts.py:JobQueue._take} claims, {" + _LADDER + "/step11_attempts.py:JobQueue._recover} takes over, {" + _LADDER + "/step11_attempts.py:JobQueue._let_go} gives back.",
        ),
        read="docs/concepts/claiming.md",
        learned="write down what you are about to do; wall time in the file, monotonic in memory",
        idea=("JobQueue._take", "JobQueue._recover", "JobQueue._record", "JobQueue._requeue_due_retries", "JobQueue._retry_in", "JobQueue._let_go", "SCHEMA"),
    ),
    Step(
        12, "kept", "an id is accepted once", 25,
        rows=("duplicate-id",),
        story="The connection broke while the client waited for \"accepted\". Did the order go in? It sends it again, to be sure. The customer gets two.",
        asks="enqueue raises DuplicateJob (a ValueError) for an id that the file has or ever had, and its message holds the id. Then asking again is safe: \"it is in\".",
        predict="The job has completed, and its row is deleted. The client asks again. What does your queue say?",
        hints=(
            "To know an id again you have to remember it. What is the price?",
            "Do not delete what has ended: status completed or failed, with its latest error. The UNIQUE index raises sqlite3.IntegrityError: turn that into DuplicateJob, with the id in the message. And if a producer was woken for a place that it does not take, who should hear of the place?",
            "{" + _LADDER + "/step12_kept.py:JobQueue.enqueue} and {" + _LADDER + "/step12_kept.py:JobQueue._end}.",
        ),
        read="docs/concepts/idempotency-and-order.md",
        learned="an id makes asking again safe; the price is history",
        idea=("JobQueue.enqueue", "JobQueue._end", "DuplicateJob", "JobQueue._record", "JobQueue._recover", "SCHEMA"),
    ),
    Step(
        13, "durable", "a job is found by its id", 40,
        rows=("status", "unknown-id"),
        story="\"Where is my report?\" The totals say that two of a million failed. Somebody reads logs.",
        asks="status(id) is one of queued, processing, retrying, completed, failed (text, or a StrEnum), and a KeyError that names the id for one that never was. wait(id, timeout=None) returns when the job has ended, a record with status; TimeoutError when the time is up.",
        predict="A thousand threads wait for a thousand jobs on one condition. One job ends. Who wakes up?",
        hints=(
            "Look up where the truth is.",
            "SELECT under the lock. For wait: a dict of id to concurrent.futures.Future; whoever writes that a job has ended sets the result of its Future, and close tells the others. So each end wakes only those it concerns.",
            "{" + _LADDER + "/step13_durable.py:JobQueue.wait}, {" + _LADDER + "/step13_durable.py:JobQueue._end}, {" + _LADDER + "/step13_durable.py:JobQueue._look_up}.",
        ),
        read="docs/ladder.md",
        learned="look up where the truth is; wake only who waits for that job",
        idea=("JobQueue.wait", "JobQueue._end", "JobQueue._look_up", "JobQueue.get", "JobQueue.status", "JobRecord"),
    ),
    Step(
        14, "beyond", "beyond: a star each", 240,
        rows=("schedule", "periodic", "missed-ticks", "cancel", "results", "retry-by-hand", "events", "overflow", "rate-limit", "timeout", "processes", "kind-retries", "kind-workers", "pause", "scale", "groups", "group-limit", "unique", "debounce", "after", "fan-in", "parent-failed", "meta", "cancel-all", "asyncio", "snooze", "progress", "middleware"),
        story="Real work asks for more, and never for all of it at once. Take the stars in any order.",
        asks="Each row's test says what it uses: Job(run_at=), periodic=[Every(seconds, job, name=, missed=)] with periodic() and pause_periodic(name), cancel(id), map(payloads), dead_letters() and retry(id), subscribe(callback), overflow=, rate_limit=TokenBucket(rate, burst), timeout=, executor=\"process\", Kind(handler, max_retries=, workers=), pause(kind=) and resume(kind=), set_workers(number), Job(group=) and group_limit=, Job(unique=Unique(key, then=, max_wait=)), Job(after=[ids], if_failed=) and current_job().parents, Job(meta={...}) and jobs(meta={...}), cancel_all(meta={...}, dry_run=), async with AsyncJobQueue(handler), raise Snooze(seconds), current_job().progress(fraction, message), middleware=[m(job, call_next)].",
        predict="Which of them can be had without touching _take?",
        hints=(
            "Begin with cancel and schedule: your heap and your lanes have all that they need.",
            "A scheduled job is a retry that was never tried. A dead letter that runs again is a row whose status goes back to queued. A subscriber is called outside the lock, from one thread, in order.",
            "Read how final does it, from {final/job_queue.py:JobQueue} on; docs/inside-final.md leads through its rooms.",
        ),
        read="docs/inside-final.md",
        learned="what a queue may do without, until it has to run real work",
    ),
)
# fmt: on

ROWS = tuple(row for step in STEPS for row in step.rows)


def step_of(row: str) -> Step:
    """The step whose row it is."""
    return next(step for step in STEPS if row in step.rows)
