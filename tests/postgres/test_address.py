"""Addresses of queues, and what is said about those that make no sense."""

from __future__ import annotations

import socket

import pytest
from psycopg.conninfo import conninfo_to_dict

from final import JobQueue, StorageError
from final.ledger.postgres.address import parse
from tests.final.helpers import nothing


def test_what_is_ours_is_taken_out() -> None:
    url = "postgres://ann:secret@db:5433/shop?queue=mails&sslmode=require&lease=5&pooler=1"
    address = parse(url)
    assert address.dsn == "postgres://ann:secret@db:5433/shop?sslmode=require"
    assert (address.schema, address.lease, address.pooler) == ("jobqueue_mails", 5.0, True)
    assert address.listen is None
    assert address.shown == "postgres://db:5433/shop (jobqueue_mails)"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///shop",
        "postgresql:///shop?host=/run&port=5433",
        "postgresql://ann:s#e[cret@db/shop",
        "postgresql:///shop?user=ann&password=a+b%26c&options=-c%20jit%3Doff",
        "postgresql://one:1,two:2/shop?target_session_attrs=read-write",
    ],
)
def test_the_rest_is_what_libpq_reads(url: str) -> None:
    mark = "&" if "?" in url else "?"
    address = parse(f"{url}{mark}queue=mails")
    assert conninfo_to_dict(address.dsn) == conninfo_to_dict(url)
    assert "cret" not in address.shown


def test_the_address_to_listen_at_may_be_that_of_the_queue() -> None:
    address = parse(
        "postgresql://pooler/shop?pooler=1&listen=postgresql://db/shop?queue=a%26lease=5"
    )
    assert address.listen == "postgresql://db/shop"


@pytest.mark.parametrize(
    "query", ["queue=A", "queue=a-b", "queue=", "lease=0", "lease=soon", "listen=db"]
)
def test_what_makes_no_sense_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=query.partition("=")[0]):
        JobQueue(nothing, path=f"postgresql:///postgres?{query}")


def test_a_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        path = f"postgresql://ann:secret@127.0.0.1:{taken.getsockname()[1]}/shop"
        with pytest.raises(
            StorageError, match=r"Cannot use postgresql://127.0.0.1:\d+/shop"
        ) as told:
            JobQueue(nothing, path=path)
    assert "secret" not in str(told.value)


def test_a_queue_without_workers_takes_a_database() -> None:
    with pytest.raises(ValueError, match="workers"):
        JobQueue(nothing, workers=0)
