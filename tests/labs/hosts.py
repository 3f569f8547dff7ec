"""Three processes on one database, each killed, stopped and cut off, and the database as well.

``make lab-hosts`` (SECONDS=30 for each of the five, FAULT=no-fence, early-ack or, for
failover, async):

- kill: kill -9 of one of three, again and again; another takes its place;
- stop: SIGSTOP of one beyond its lease, then SIGCONT: it comes back with results of yesterday;
- cut: a proxy cuts connections before, in, half-way through and after transactions, or goes silent;
- server: the database is stopped at once ("immediate") or killed (-9), and started again;
- failover: it is killed for good, and a replica that streams from it is promoted. Under
  ``synchronous_standby_names`` what was acknowledged is there.

What must hold is read from three books: what ``enqueue`` has acknowledged, what the database says,
and a trigger that wrote down every outcome. Lost 0, outcomes applied twice for one claim 0, and
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
from typing import NamedTuple

import psutil
import psycopg

from final.ledger.postgres.address import parse
from final.ledger.postgres.migrate import in_schema, migrate
from tests.postgres.proxy import Proxy
from tests.postgres_server import MISSING, Server, Standby, programs

ROOT = Path(__file__).parents[2]
LEASE = 2.0
PROCESSES = 3
ATTACKS = ("kill", "stop", "cut", "server", "failover")
PATIENCE = 60.0  # seconds, for everything to end

AUDIT = """
CREATE TABLE jobqueue.audit (seq bigint, token bigint, status text);
CREATE FUNCTION jobqueue.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO jobqueue.audit VALUES (new.seq, old.token, new.status); RETURN new; END $$;
CREATE TRIGGER note AFTER UPDATE ON jobqueue.job FOR EACH ROW
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
    folder = Path(tempfile.mkdtemp(prefix="jobqueue-hosts-"))
    server = Server()
    chance = random.Random(seed)
    children: list[subprocess.Popen[bytes]] = []
    standby: Standby | None = None
    try:
        server.start()
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection, parse(server.dsn))
            connection.execute(in_schema(AUDIT, "jobqueue"))
        standby = _standby_of(server, fault) if name == "failover" else None
        with Proxy(server.dsn, seed=seed) as proxy:
            dsn = proxy.dsn if name == "cut" else server.dsn
            if standby is not None:
                folders = f"{server.folder},{standby.folder}"
                dsn = f"postgresql://postgres@/postgres?host={folders}&port=5432,5432"
                dsn += "&target_session_attrs=read-write"

            def start(number: int) -> subprocess.Popen[bytes]:
                address = f"{dsn}&lease={LEASE}"
                command = [
                    sys.executable,
                    "-m",
                    "tests.labs.hosts_child",
                    address,
                    str(folder),
                    fault,
                ]
                environment = os.environ | {"JOBQUEUE_HOST": f"host-{number}"}
                log = open(folder / "log", "ab")  # noqa: SIM115
                with log:
                    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)

            children = [start(number) for number in range(PROCESSES)]
            _wait_for_all(folder)
            proxy.rate = 0.02 if name == "cut" else 0.0
            until = time.monotonic() + seconds
            attacks = 0
            while time.monotonic() < until:
                victim = chance.randrange(PROCESSES)
                if name == "kill":
                    time.sleep(chance.uniform(0.5, 1.5))
                    children[victim].kill()
                    children[victim].wait()
                    children[victim] = start(victim)
                elif name == "stop":
                    psutil.Process(children[victim].pid).suspend()
                    time.sleep(LEASE + chance.uniform(1, 2))
                    psutil.Process(children[victim].pid).resume()
                    time.sleep(1)
                elif name == "server":
                    time.sleep(chance.uniform(2, 4))
                    server.stop(chance.choice((signal.SIGQUIT, signal.SIGKILL)))
                    time.sleep(chance.uniform(0, 1))
                    server.start()
                elif standby is not None:
                    time.sleep(seconds / 2)
                    if fault == "async":
                        _stop_receiving(standby)
                        time.sleep(1)
                    server.stop(signal.SIGKILL)
                    standby.promote()
                    time.sleep(max(0.0, until - time.monotonic()))
                else:
                    time.sleep(0.5)
                attacks += 1
            attacks = len(proxy.done) if name == "cut" else attacks
            (folder / "stop").touch()
            return _audit(attacks, folder, server.dsn if standby is None else standby.dsn)
    finally:
        for child in children:
            child.kill()
            child.wait()
        server.remove()
        if standby is not None:
            standby.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_all(folder: Path) -> None:
    """Each of the processes has had a job acknowledged."""
    until = time.monotonic() + PATIENCE
    while sum(file.stat().st_size > 0 for file in folder.glob("ack.*")) < PROCESSES:
        assert time.monotonic() < until, (folder / "log").read_text()[-2000:]
        time.sleep(0.05)


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
        there: dict[str, str] = dict(
            connection.execute("SELECT id, status FROM jobqueue.job").fetchall()
        )
        ((twice,),) = connection.execute(
            "SELECT count(*) FROM (SELECT FROM jobqueue.audit"
            " GROUP BY seq HAVING count(*) > 1) AS more"
        ).fetchall()
    acknowledged = list(_lines(folder, "ack"))
    ran = Counter(_lines(folder, "run"))
    lost = sum(there.get(job_id) != "completed" for job_id in acknowledged)
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
    print(f"{'':8}{'attacks':>8}{'acknowledged':>14}{'lost':>6}{'unfinished':>12}", end="")
    print(f"{'twice':>7}{'ran again':>11}")
    holds = True
    for name in ATTACKS:
        verdict = attack(name, seconds, fault, seed)
        holds = holds and verdict.holds
        print(f"{name:8}{verdict.attacks:8}{verdict.acknowledged:14,}{verdict.lost:6}", end="")
        print(f"{verdict.unfinished:12}{verdict.twice:7}{verdict.again:11}", flush=True)
    print("\nNothing lost, nothing twice." if holds else "\nBROKEN: see the numbers above 0.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
