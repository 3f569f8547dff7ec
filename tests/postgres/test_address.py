"""Addresses of queues, and what is said about those that make no sense."""

from __future__ import annotations

import socket

import pytest

from final import JobQueue, StorageError
from final.ledger.postgres.address import parse
from tests.final.helpers import nothing


def test_what_is_ours_is_taken_out() -> None:
    url = "postgres://ann:secret@db:5433/shop?queue=mails&sslmode=require&lease=5&pooler=1"
    address = parse(url)
    assert address.dsn == "postgresql://ann:secret@db:5433/shop?sslmode=require"
    assert (address.schema, address.lease, address.pooler) == ("jobqueue_mails", 5.0, True)
    assert address.listen is None
    assert address.shown == "postgresql://db:5433/shop (jobqueue_mails)"


@pytest.mark.parametrize("query", ["queue=A", "queue=a-b", "queue=", "lease=0", "lease=soon"])
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
