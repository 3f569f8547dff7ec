"""The tables of a queue: made once, whoever comes first, and never taken back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from final import Job, StorageError
from final.ledger.postgres import migrate
from final.ledger.postgres.address import Address, parse
from tests.helpers import DEADLINE, Background
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, sql


def connect(address: Address) -> psycopg.Connection:
    return psycopg.connect(address.dsn, autocommit=True)


def test_of_many_who_come_at_once_one_makes_the_tables(address: str) -> None:
    place = parse(address)

    def bring(_: int) -> list[str]:
        with connect(place) as connection:
            return migrate.migrate(connection, place)

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(bring, range(6)))
    names = [file.name for file in migrate.migrations()]
    assert [each for each in done if each] == [names]


def test_a_later_migration_is_carried_out_alone(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = parse(address)
    with connect(place) as connection:
        migrate.migrate(connection, place)
        monkeypatch.setattr(migrate, "FOLDER", _with_one_more(tmp_path))
        assert migrate.migrate(connection, place) == ["9000_colour.sql"]
        assert migrate.migrate(connection, place) == []


def test_processes_go_on_while_a_migration_waits_for_a_transaction(
    address: str, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(path=address.replace("lease=1", "lease=2"))
    place = parse(address)
    monkeypatch.setattr(migrate, "FOLDER", _with_one_more(tmp_path))
    with connect(place) as connection, closing(psycopg.connect(place.dsn)) as caller:
        queue.enqueue(_job(), connection=caller)
        migrating = Background(migrate.migrate, connection, place)
        table = f"{place.schema}.job"
        waits = "SELECT pid FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
        becomes(lambda: sql(address, waits, table))
        for _ in range(3):
            assert queue.wait(queue.enqueue(_job()), DEADLINE).result == "a"
        caller.commit()
        assert migrating.result() == ["9000_colour.sql"]


def test_a_migration_says_what_is_in_its_way(
    address: str, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(workers=0)
    monkeypatch.setattr(migrate, "FOLDER", _with_one_more(tmp_path))
    monkeypatch.setattr(migrate, "PATIENCE", 0.2)
    with closing(psycopg.connect(parse(address).dsn, application_name="report")) as caller:
        queue.enqueue(_job(), connection=caller)
        number = caller.info.backend_pid
        opening = Background(open_queue)
        with pytest.raises(StorageError, match=rf"0.2 seconds .* {number} \(report\)"):
            opening.result()


def _with_one_more(folder: Path) -> Path:
    """The migrations, and another one."""
    for file in migrate.migrations():
        (folder / file.name).write_text(file.read_text())
    more = "ALTER TABLE jobqueue.job ADD COLUMN colour text;"
    (folder / "9000_colour.sql").write_text(more)
    return folder


def test_a_release_before_goes_on_beside_additions_and_not_beside_breaks(
    address: str, open_queue: OpenQueue
) -> None:
    open_queue()
    place = parse(address)
    insert = f"INSERT INTO {place.schema}.migration VALUES (%s)".encode()
    with connect(place) as connection:
        connection.execute(insert, ("9000_more.sql",))
        open_queue()
        connection.execute(insert, ("9001_breaking.sql",))
    with pytest.raises(StorageError, match=r"newer release \(9001_breaking.sql\)"):
        open_queue()


def test_queues_of_other_names_do_not_see_each_other(address: str, open_queue: OpenQueue) -> None:
    one, other = open_queue(), open_queue(path=address + "x")
    job_id = one.enqueue(open_job := _job())
    assert other.enqueue(open_job) == job_id
    assert one.wait(job_id, 10).result == other.wait(job_id, 10).result == "a"


def test_a_database_that_cannot_keep_all_text_is_refused(
    address: str, open_queue: OpenQueue
) -> None:
    name = f"latin_{address[-8:]}"
    with connect(parse(address)) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0"
            " LC_COLLATE 'C' LC_CTYPE 'C'".encode()
        )
        try:
            with pytest.raises(StorageError, match=r"LATIN1.*createdb --encoding=UTF8"):
                open_queue(path=f"{address}&dbname={name}")
        finally:
            connection.execute(f"DROP DATABASE {name}".encode())


def test_a_schema_that_is_there_is_enough(address: str, open_queue: OpenQueue) -> None:
    place = parse(address)
    with connect(place) as connection:
        role = f"owner_{place.schema}"
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        connection.execute(f"CREATE SCHEMA {place.schema} AUTHORIZATION {role}".encode())
        try:
            queue = open_queue(path=f"{address}&user={role}")
            assert queue.wait(queue.enqueue(_job()), 10)
            queue.close()
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_release_before_needs_no_right_to_make_tables_that_are_there(
    address: str, open_queue: OpenQueue
) -> None:
    """It starts anew while the next one is rolled out, whose migration was carried out first."""
    open_queue().close()
    place = parse(address)
    with connect(place) as connection:
        role = f"user_{place.schema}"
        for statement in (
            f"INSERT INTO {place.schema}.migration VALUES ('9000_more.sql')",
            f"CREATE ROLE {role} LOGIN",
            f"GRANT USAGE ON SCHEMA {place.schema} TO {role}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA {place.schema} TO {role}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {place.schema} TO {role}",
        ):
            connection.execute(statement.encode())
        try:
            queue = open_queue(path=f"{address}&user={role}")
            assert queue.wait(queue.enqueue(_job()), 10)
            queue.close()
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def _job() -> Job:
    return Job(payload="a")
