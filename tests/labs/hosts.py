"""Three processes on one database, each killed, stopped and cut off, and the database as well.

``make lab-hosts`` (SECONDS=30 for each of the six, FAULT=no-fence, early-ack or, for
failover, async):

- kill: kill -9 of one of three, again and again; another takes its place;
- stop: SIGSTOP of one beyond its lease, then SIGCONT: it comes back with results of yesterday;
- cut: a proxy cuts connections before, in, half-way through and after transactions, or goes silent;
- partition: each process is on a host with an address of its own (network.py), and the cable of one
  is pulled out, for less than its lease or for more, and put in again;
- server: the database is stopped at once ("immediate") or killed (-9), and started again;
- failover: it is killed for good, and a replica that streams from it is promoted. Under
  ``synchronous_standby_names`` what was acknowledged is there.

What must hold is read from two books: what ``enqueue`` has acknowledged, and what a trigger in the
database wrote down of every outcome. Lost 0, outcomes applied twice for one claim 0, and
everything ends. With a fault the run must fail.

But: all of it on one machine, with one clock. Processes of one host are told apart by name, so that
it is the lease that tells who is gone. And no power is cut: the server of this lab does not sync.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import psutil
import psycopg

from final.ledger.postgres.address import parse
from final.ledger.postgres.migrate import in_schema, migrate
from tests.labs import network
from tests.labs.network import Network
from tests.postgres.proxy import Proxy
from tests.postgres_server import MISSING, Server, Standby, programs

ROOT = Path(__file__).parents[2]
LEASE = 2.0
PROCESSES = 3
PATIENCE = 60.0  # seconds, for everything to end

AUDIT = """
CREATE TABLE jobqueue.audit (id text, token bigint, status text);
CREATE FUNCTION jobqueue.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO jobqueue.audit VALUES (new.id, old.token, new.status); RETURN new; END $$;
CREATE TRIGGER note AFTER UPDATE OF status ON jobqueue.job FOR EACH ROW
    WHEN (new.status = 'completed') EXECUTE FUNCTION jobqueue.note();
"""


class Verdict(NamedTuple):
    """attacks: how many. again: jobs that ran more than once, as at-least-once allows."""

    attacks: int
    acknowledged: int
    lost: int
    unfinished: int
    twice: int
    again: int

    @property
    def holds(self) -> bool:
        return not (self.lost or self.unfinished or self.twice) and self.acknowledged > 0


def attack(name: str, seconds: float, fault: str = "", seed: int = 0) -> Verdict:
    """One kind of attack for so long, then the audit."""
    with Hosts(fault, seed) as hosts, ATTACKS[name](hosts, seconds) as enemy:
        for number in range(PROCESSES):
            hosts.start(number, enemy.dsn(number), enemy.on_host(number))
        hosts.wait_for_all()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            enemy.strike(hosts.chance.randrange(PROCESSES))
        hosts.stop_producing()
        return _audit(enemy.count(), hosts.folder, enemy.survivor().dsn)


class Hosts:
    """The processes, the database that they share, and the folder of what they write down."""

    def __init__(self, fault: str, seed: int) -> None:
        self.fault = fault
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="jobqueue-hosts-"))
        self.server = Server()
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.server.start()
        with psycopg.connect(self.server.dsn, autocommit=True) as connection:
            migrate(connection, parse(self.server.dsn))
            connection.execute(in_schema(AUDIT, "jobqueue"))
        return self

    def __exit__(self, *_: object) -> None:
        for number in self.children:
            self.kill(number)
        self.server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, number: int, dsn: str, on_host: list[str]) -> None:
        command = [sys.executable, "-m", "tests.labs.hosts_child"]
        command += [f"{dsn}&lease={LEASE}", str(self.folder), self.fault]
        environment = os.environ | {"JOBQUEUE_HOST": f"host-{number}"}
        with open(self.folder / "log", "ab") as log:
            self.children[number] = subprocess.Popen(
                [*on_host, *command], cwd=ROOT, env=environment, stderr=log
            )

    def kill(self, number: int) -> None:
        self.children[number].kill()
        self.children[number].wait()

    def wait_for_all(self) -> None:
        """Until each of the processes has had a job acknowledged."""
        until = time.monotonic() + PATIENCE
        while sum(file.stat().st_size > 0 for file in self.folder.glob("ack.*")) < PROCESSES:
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop_producing(self) -> None:
        (self.folder / "stop").touch()


# ---- what is done to them --------------------------------------------------------------------


class Attack:
    """What is done to one of ``hosts``, again and again for so many ``seconds``."""

    def __init__(self, hosts: Hosts, seconds: float) -> None:
        self.hosts = hosts
        self.seconds = seconds
        self.chance = hosts.chance
        self.struck = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Undo what ``__enter__`` did."""

    def dsn(self, number: int) -> str:
        """The database, for process ``number``."""
        return self.hosts.server.dsn

    def on_host(self, number: int) -> list[str]:
        """What its command begins with."""
        return []

    def strike(self, victim: int) -> None:
        self.struck += 1

    def count(self) -> int:
        return self.struck

    def survivor(self) -> Server:
        """Who has the books in the end."""
        return self.hosts.server


class Kill(Attack):
    def strike(self, victim: int) -> None:
        super().strike(victim)
        time.sleep(self.chance.uniform(0.5, 1.5))
        self.hosts.kill(victim)
        self.hosts.start(victim, self.dsn(victim), [])


class Stop(Attack):
    def strike(self, victim: int) -> None:
        super().strike(victim)
        process = psutil.Process(self.hosts.children[victim].pid)
        process.suspend()
        time.sleep(LEASE + self.chance.uniform(1, 2))
        process.resume()
        time.sleep(1)


class Cut(Attack):
    """The proxy strikes by itself, once all have begun."""

    def __enter__(self) -> Self:
        self._proxy = Proxy(self.hosts.server.dsn, seed=self.hosts.seed).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._proxy.__exit__(*error)

    def dsn(self, number: int) -> str:
        return self._proxy.dsn

    def strike(self, victim: int) -> None:
        self._proxy.rate = 0.02
        time.sleep(0.5)

    def count(self) -> int:
        return len(self._proxy.done)


class Partition(Attack):
    def __enter__(self) -> Self:
        self._network = Network(PROCESSES).__enter__()
        self.hosts.server.listen("0.0.0.0", network.NET)
        return self

    def __exit__(self, *error: object) -> None:
        self._network.__exit__(*error)

    def dsn(self, number: int) -> str:
        return f"postgresql://postgres@/postgres?host={self._network.address(number)}&port=5432"

    def on_host(self, number: int) -> list[str]:
        return self._network.on_host(number)

    def strike(self, victim: int) -> None:
        super().strike(victim)
        self._network.cut(victim)
        time.sleep(self.chance.choice((0.5, LEASE + 1, LEASE + 2)))
        self._network.heal(victim)
        time.sleep(1)


class Restart(Attack):
    def strike(self, victim: int) -> None:
        super().strike(victim)
        time.sleep(self.chance.uniform(2, 4))
        self.hosts.server.stop(self.chance.choice((signal.SIGQUIT, signal.SIGKILL)))
        time.sleep(self.chance.uniform(0, 1))
        self.hosts.server.start()


class Failover(Attack):
    """Once, in the middle. With the fault "async" commits do not wait for the replica."""

    def __enter__(self) -> Self:
        self._standby = _standby_of(self.hosts.server, self.hosts.fault)
        return self

    def __exit__(self, *_: object) -> None:
        self._standby.remove()

    def dsn(self, number: int) -> str:
        folders = f"{self.hosts.server.folder},{self._standby.folder}"
        both = f"postgresql://postgres@/postgres?host={folders}&port=5432,5432"
        return f"{both}&target_session_attrs=read-write"

    def strike(self, victim: int) -> None:
        super().strike(victim)
        time.sleep(self.seconds / 2)
        if self.hosts.fault == "async":
            _stop_receiving(self._standby)
            time.sleep(1)
        self.hosts.server.stop(signal.SIGKILL)
        self._standby.promote()
        time.sleep(self.seconds / 2)

    def survivor(self) -> Server:
        return self._standby


ATTACKS: dict[str, type[Attack]] = {
    "kill": Kill,
    "stop": Stop,
    "cut": Cut,
    "partition": Partition,
    "server": Restart,
    "failover": Failover,
}


def _standby_of(server: Server, fault: str) -> Standby:
    """A replica that streams; with the fault "async", commits do not wait for it."""
    standby = Standby(server)
    standby.start()
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        until = time.monotonic() + PATIENCE
        while connection.execute("SELECT FROM pg_stat_replication").rowcount < 1:
            assert time.monotonic() < until, "The replica does not stream."
            time.sleep(0.05)
        if fault != "async":
            names = f"ALTER SYSTEM SET synchronous_standby_names = '{Standby.NAME}'"
            connection.execute(names.encode())
            connection.execute("SELECT pg_reload_conf()")
    return standby


def _stop_receiving(standby: Standby) -> None:
    """What the primary writes from now on, the replica does not get."""
    with psycopg.connect(standby.dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        connection.execute("SELECT pg_reload_conf()")


def _audit(attacks: int, folder: Path, dsn: str) -> Verdict:
    with psycopg.connect(dsn, autocommit=True) as connection:
        until = time.monotonic() + PATIENCE
        unfinished = 1
        while unfinished and time.monotonic() < until:
            time.sleep(0.2)
            query = "SELECT count(*) FROM jobqueue.job WHERE ended_at IS NULL"
            ((unfinished,),) = connection.execute(query).fetchall()
        # Not from the jobs themselves: of many the history lets go.
        ended = Counter(
            job_id for (job_id,) in connection.execute("SELECT id FROM jobqueue.audit").fetchall()
        )
    acknowledged = list(_lines(folder, "ack"))
    ran = Counter(_lines(folder, "run"))
    lost = sum(job_id not in ended for job_id in acknowledged)
    twice = sum(count > 1 for count in ended.values())
    again = sum(count > 1 for count in ran.values())
    return Verdict(attacks, len(acknowledged), lost, unfinished, twice, again)


def _lines(folder: Path, name: str) -> Iterator[str]:
    for file in folder.glob(f"{name}.*"):
        # The last line of a killed process may be half of one.
        yield from (line for line in file.read_text().splitlines() if len(line) == 36)


def main() -> int:
    if programs() is None or os.name == "nt":
        print(MISSING if os.name != "nt" else "This lab takes signals and Unix sockets.")
        return 0
    seconds = float(os.environ.get("SECONDS") or 30)
    fault = os.environ.get("FAULT") or ""
    seed = int(os.environ.get("SEED") or time.time())
    print(f"{PROCESSES} processes on one database, {seconds:.0f} s for each attack, SEED={seed}\n")
    print(f"{'':10}{'attacks':>8}{'acknowledged':>14}{'lost':>6}{'unfinished':>12}", end="")
    print(f"{'twice':>7}{'ran again':>11}")
    holds = True
    for name in ATTACKS:
        if name == "partition" and not network.is_possible():
            print(f"{name:10}left out. {network.MISSING}")
            continue
        verdict = attack(name, seconds, fault, seed)
        holds = holds and verdict.holds
        print(f"{name:10}{verdict.attacks:8}{verdict.acknowledged:14,}{verdict.lost:6}", end="")
        print(f"{verdict.unfinished:12}{verdict.twice:7}{verdict.again:11}", flush=True)
    print("\nNothing lost, nothing twice." if holds else "\nBROKEN: see the numbers above 0.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
