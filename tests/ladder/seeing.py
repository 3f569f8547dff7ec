"""What was seen in a test that failed, in the words of a teacher and not of pytest.

But: only what is known. Where nothing better can be said it is the error as it was.
"""

from __future__ import annotations

import collections
import linecache
import os
import re
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.helpers import LET_IN

COPY = f"{os.sep}copy{os.sep}"  # the folder that holds the tests and the candidate's files

# From which step on the suite's use of an option counts; before, it is left out without a word.
ASKED_FROM = {
    "JobQueue(capacity=)": 3,
    "enqueue(timeout=)": 3,
    "close(timeout=)": 4,
    "Job(priority=)": 5,
    "JobQueue(max_retries=)": 6,
    "JobQueue(backoff=)": 6,
    "JobQueue(path=)": 9,
}

# What the suite's helpers say, and how to say it to somebody who has not read them.
TRANSLATIONS = (
    (
        r"Waited (\d+) s for (\d+) entries; the journal holds (\d+) entries and ends with (.*)\.$",
        r"After \1 s it had happened \3 of the \2 times that were expected.",
    ),
    (
        r"Waited (\d+) s for (.*); the journal holds (\d+) entries and ends with (.*)\.$",
        r"After \1 s \2 had not come; so far there were \3: \4.",
    ),
    (
        r"^close_all\(\) had not returned after (\d+) s\.$",
        r"All of that was right. But then the test closed your queue, and close() had not returned "
        r"after \1 s.",
    ),
    (
        r"^BrokenBarrierError",
        "Handlers that should all have run at the same time waited for each other in vain",
    ),
    (
        r"^AttributeError: '(\w+)' object has no attribute '(id|payload)'$",
        r"A handler was called with a \1, which has no \2: it should get the Job itself.",
    ),
    (r"DID NOT RAISE <class '(?:\w+\.)*(\w+)'>", r"No \1 was raised."),
    (r"^QueueFull is no", "Your QueueFull is no"),
    (r"produce\(\) had not returned", "A producer's enqueue() had not returned"),
    (r"run\(\) had not returned", "What enqueues and then closes had not returned"),
    (r"Regex pattern did not match\.\n\s*(?:Regex|Expected regex): '?(.*?)'?\n\s*(?:Input|Actual "
     r"message): '?(.*?)'?$", r"The message of the exception should hold \1, and was: \2"),
)  # fmt: skip


class Frame(NamedTuple):
    """What a line of a stack says."""

    file: str
    line: int
    function: str


class Stand(NamedTuple):
    """A thread stands at ``place``, in ``function`` of the candidate's, where it says ``code``.

    place: see ``place_of``. calls: the candidate's functions that it is in, from the outermost.
    beyond: those of others that it has called from there.
    """

    place: str
    function: str
    code: str
    calls: list[str]
    beyond: list[str]

    @classmethod
    def of(cls, stack: list[Frame]) -> Stand | None:
        """Of a thread's stack; None where it is not in the candidate's files."""
        own = [frame for frame in stack if is_own(frame.file)]
        if not own:
            return None
        file, line, function = own[0]
        beyond = [frame.function for frame in stack[: stack.index(own[0])]]
        calls = [frame.function for frame in reversed(own)]
        return cls(place_of(file, line), function, code_at(file, line), calls, beyond)

    def __str__(self) -> str:
        return describe(self.place, self.function, self.code)

    @property
    def closes(self) -> bool:
        return "close" in self.calls

    @property
    def waits_for_room(self) -> bool:
        """And not, say, for a lock that somebody holds."""
        return self.calls[0] == "enqueue" and "wait" in self.beyond


class Lines:
    """The last lines that were printed; those that differ in numbers and ids alone are one kind."""

    KINDS = 3
    LONGEST = 200  # characters of a line
    _NUMBERS = re.compile(r"[\w-]*\d[\w-]*")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # any thread may print
        self._kinds: dict[str, tuple[str, int]] = {}  # its last line and how many, latest last

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line := line.strip()[: self.LONGEST]:
                kind = self._NUMBERS.sub("#", line)
                with self._lock:
                    _, before = self._kinds.pop(kind, ("", 0))
                    self._kinds[kind] = line, before + 1
                    if len(self._kinds) > 10 * self.KINDS:
                        del self._kinds[next(iter(self._kinds))]

    def clear(self) -> None:
        with self._lock:
            self._kinds.clear()

    def last(self) -> list[str]:
        """Sentences."""
        with self._lock:
            kinds = list(self._kinds.values())[-self.KINDS :]
        return [
            f'It printed "{line}"' + (f", and {n - 1:,} more like it" if n > 1 else "")
            for line, n in kinds
        ]


WAITED = re.compile(r"Waited|had not returned|Nobody opened|jobs ran\.$|BrokenBarrier")


def seen(event: dict[str, Any], step: int) -> list[str]:
    """A line for each thing that the report of a test's end tells; ``step`` is its row's."""
    error = event["error"] + ("" if event["expected"] else event["place"])
    waited = WAITED.search(error)
    lines = [event["evidence"][0].upper() + event["evidence"][1:]] if event["evidence"] else []
    for pattern, better in TRANSLATIONS:
        error = re.sub(pattern, better, error)
    if error:
        lines.append(error)
    stands = [Stand(*stand) for stand in event["stands"]]
    deaths = sorted(set(event["deaths"]))
    if waited:
        lines += stuck(stands, LET_IN in deaths and "JobQueue(capacity=)" not in event["left_out"])
    for death in deaths:
        if death == LET_IN or death in event["error"] + event["place"]:
            continue
        if death.startswith("Broken"):
            death = death.replace("Broken", "the exception that the test's handler raised", 1)
        lines.append(f"A thread was ended by {death}.")
    for option in event["left_out"]:
        if ASKED_FROM.get(option, 99) <= step:
            lines.append(f"{_without(option)}, so the suite had to leave it out.")
    if waited:
        lines += [f"Meanwhile {place}" for place in count(map(str, stands))]
    lines += event["printed"]
    return [line if line.endswith((".", "!", "?")) else f"{line}." for line in lines] or [
        "It was not so, and the test has no number for it."
    ]


def stuck(stands: list[Stand], let_in: bool) -> list[str]:
    """What is known of a close that does not come to its end. let_in: see helpers.LET_IN."""
    closing = [stand for stand in stands if stand.closes]
    waiting = [stand for stand in stands if stand.waits_for_room]
    said = []
    for stand in closing:
        if "put" in stand.beyond:
            said.append(
                f"close() waits at {stand.place} ({stand.code}): the queue is full, and every "
                "worker is held. A sentinel needs a place, too."
            )
    if closing and waiting:
        said.append(
            f"A producer waited for room ({waiting[0].place}) when close() began, and was "
            "never woken."
        )
    elif let_in:
        said.append(f"{LET_IN}. After waking, ask for the end first.")
    return said


def _without(option: str) -> str:
    call, _, argument = option.rstrip(")").partition("(")
    return f"Your {call} takes no {argument.rstrip('=')}"


def hang(stacks: str) -> list[str]:
    """What faulthandler wrote of the threads of a test that hung."""
    header = re.search(r"Timeout \((\d+):(\d+):(\d+)", stacks)
    seconds = sum(int(n) * 60**k for k, n in enumerate(reversed(header.groups()))) if header else 0
    places = []
    for _, stack in threads(stacks):
        tests = [frame for frame in stack if "test_" in frame.file]
        if stand := Stand.of(stack):
            places.append(str(stand))
        elif tests:
            file, line, function = tests[0]
            place = f"{os.path.basename(file)} line {line}"
            places.append(f"the test, {describe(place, function, code_at(file, line))}")
        elif stack:
            places.append(f"{os.path.basename(stack[0].file)} line {stack[0].line}")
    return [f"It hung: after {seconds} s nothing had come of it.", *count(places)]


def threads(stacks: str) -> list[tuple[int, list[Frame]]]:
    """What faulthandler wrote: each thread's ident and stack, the innermost frame first."""
    parts = re.split(r"^(?:Current )?[Tt]hread (0x[0-9a-f]+).*\n", stacks, flags=re.M)[1:]
    found = []
    for ident, text in zip(parts[::2], parts[1::2], strict=True):
        frames = re.findall(r'File "(.+)", line (\d+) in (\S+)', text)
        found.append((int(ident, 16), [Frame(file, int(n), name) for file, n, name in frames]))
    return found


def code_at(file: str, line: int) -> str:
    return linecache.getline(file, line).strip()


def is_own(file: str) -> bool:
    """Whether it is the candidate's: in the copy, and none of the tests."""
    _, in_copy, rest = file.rpartition(COPY)
    return bool(in_copy) and not rest.startswith(f"tests{os.sep}")


def place_of(file: str, line: int) -> str:
    """``line 31``, which is that of job_queue.py, or ``lanes.py, line 31``."""
    name = os.path.basename(file)
    return f"line {line}" if name == "job_queue.py" else f"{name}, line {line}"


def describe(place: str, function: str, code: str) -> str:
    """A place, and what stands there."""
    return f"{place}, in {function}: {code}" if code else f"{place}, in {function}"


def count(places: Iterable[str]) -> list[str]:
    """Each place once, with how many threads are there."""
    counted = collections.Counter(places)
    return [f"{n} thread{'s' * (n > 1)} at {place}" for place, n in counted.most_common()]
