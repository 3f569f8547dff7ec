"""The service under load: ``make load``. Over real sockets, on a real file.

    python -m tests.load                a minute or two; writes docs/load.md
    SIZE=full python -m tests.load      longer

Two questions. How fast are jobs created durably, by 1, 16 and 64 connections, and by 16 while many
others read events or say nothing (company.py)? And what happens
when twice as many come as the workers can do? In both every job that was answered with 201 has
to be completed in the end, and no other may be in the file: the ids are compared.

But: the client runs on the same machine. Close what else does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tests.benchmarks import machine, measure
from tests.benchmarks import report as tables
from tests.benchmarks.measure import scratch
from tests.load import report
from tests.load.client import Answers, Load, create_jobs
from tests.load.service import Service

WORKERS = 4
# In overload: enough that those who wait for room leave some to send what is due.
CONNECTIONS = 64
IN_COMPANY = 16


@dataclass(frozen=True)
class Size:
    """rounds and seconds: of each number of connections.

    overload: seconds of it. work: seconds that a job takes then. capacity: of a lane.
    """

    rounds: int
    seconds: float
    connections: tuple[int, ...]
    overload: float
    work: float
    capacity: int


SIZES = {
    "tiny": Size(1, 0.3, (1, 16), 2.0, 0.1, 20),  # for the tests
    "normal": Size(3, 4.0, (1, 16, 64), 20.0, 0.02, 1_000),
    "full": Size(5, 15.0, (1, 16, 64), 120.0, 0.02, 1_000),
}


@dataclass
class Books:
    """accepted: how many were answered with 201. lost: of those, how many are not completed.

    unasked: how many are in the file without a 201.
    """

    accepted: int
    lost: int
    unasked: int

    @classmethod
    def of(cls, accepted: set[str], stored: dict[str, str]) -> Books:
        completed = {job_id for job_id, status in stored.items() if status == "completed"}
        return cls(len(accepted), len(accepted - completed), len(stored.keys() - accepted))


@dataclass
class Creation:
    """Of one number of connections; a figure for each round.

    in_company: whether others were there beside them. seconds: those of all answers. client: the
    share of a core that the client took.
    """

    connections: int
    in_company: bool = False
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    books: list[Books] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass
class Overload:
    """What became of twice as many jobs as the workers can do.

    possible: how many they can do in a second, at best. seconds: how long it lasted.
    created, refused: seconds that each answer took. memory: bytes, when the lane was first full
    and at the end.
    """

    possible: float
    seconds: float
    created: list[float]
    refused: list[float]
    memory_full: int
    memory_end: int
    books: Books


def run(size: Size, docs: Path | None, console: Console) -> tuple[list[Creation], Overload]:
    """Measure, show, and write the page into ``docs``."""
    began = time.monotonic()
    here = machine.look()
    tables.show_machine(console, here)
    creations = [Creation(count) for count in size.connections]
    creations.append(Creation(IN_COMPANY, in_company=True))
    with tables.progress(console, "creation"):
        for number in range(size.rounds):
            for creation in creations:
                measure.announce(f"round {number + 1}: {creation.connections} connections")
                _create(size, creation)
    with tables.progress(console, "twice the capacity"):
        overload = asyncio.run(_overload(size))
    found = [report.creation_table(creations), report.overload_table(overload)]
    for table in found:
        tables.show(console, table)
    console.print(f"  {time.monotonic() - began:.0f} seconds in all.")
    if docs:
        console.print(f"  Written: {report.write(docs, here, found)}")
    return creations, overload


def _create(size: Size, creation: Creation) -> None:
    """One round on a service of its own: as many requests as are answered."""
    with scratch() as folder, _service(folder, size) as service:
        warm_up, answers = Answers(), Answers()
        with service.in_company() if creation.in_company else contextlib.nullcontext():
            for seconds, name, these in (
                (size.seconds / 10, "warm-up", warm_up),
                (size.seconds, "load", answers),
            ):
                load = Load(name, creation.connections, seconds)
                asyncio.run(create_jobs(service.port, load, these))
        accepted = {*warm_up.created, *answers.created}
        creation.rates.append(len(answers.created) / answers.seconds)
        creation.seconds += answers.created.values()
        creation.client.append(answers.client_seconds / answers.seconds)
        creation.books.append(Books.of(accepted, service.finish()))


async def _overload(size: Size) -> Overload:
    """Twice as many jobs as the workers can do, until the lane is full and for long after."""
    rate = 2 * WORKERS / size.work
    with scratch() as folder, _service(folder, size) as service:
        answers = Answers()
        load = Load("load", CONNECTIONS, size.overload, size.work, rate)
        applying = asyncio.create_task(create_jobs(service.port, load, answers))
        filling = asyncio.create_task(answers.filled.wait())
        await asyncio.wait((applying, filling), return_when=asyncio.FIRST_COMPLETED)
        filling.cancel()
        memory_full = service.memory()
        await applying
        memory_end = service.memory()
        stored = await asyncio.to_thread(service.finish)
    return Overload(
        WORKERS / size.work,
        answers.seconds,
        list(answers.created.values()),
        list(answers.refused.values()),
        memory_full,
        memory_end,
        Books.of(set(answers.created), stored),
    )


def _service(folder: Path, size: Size) -> Service:
    return Service(folder, workers=WORKERS, capacity=size.capacity)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=DESCRIPTION)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    arguments = parser.parse_args()
    run(SIZES[measure.chosen_size()], arguments.docs, tables.terminal())


DESCRIPTION = (
    "How fast the service creates jobs, and what it does with too many. SIZE=full: longer."
)

if __name__ == "__main__":
    main()
