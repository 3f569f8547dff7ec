"""Whatever servers, roles and environments set for sessions, the queue says what it counts on."""

from __future__ import annotations

import pytest

from final import Job, JobQueue, Kind, TokenBucket
from tests.helpers import DEADLINE, Background
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import sql

REPEATABLE = "-c%20default_transaction_isolation%3Drepeatable%5C%20read"


def test_nobody_is_refused_whatever_the_default_isolation_is(
    address: str, open_queue: OpenQueue
) -> None:
    path = f"{address.replace('lease=1', 'lease=10')}&options={REPEATABLE}"
    limits = {"a": Kind(lambda job: None, workers=3, rate_limit=TokenBucket(1000, 10))}
    queues = [open_queue(limits, path=path) for _ in range(3)]

    def bring(queue: JobQueue) -> None:
        for _ in range(60):
            queue.enqueue(Job(kind="a"))

    for producer in [Background(bring, queue) for queue in queues]:
        producer.result()
    queues[0].join(DEADLINE)
    assert queues[0].metrics().completed == 180


def test_text_is_utf8_whatever_the_environment_says(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    queue = open_queue()
    assert queue.wait(queue.enqueue(Job(payload="漢字")), DEADLINE).result == "漢字"


def test_what_the_address_says_goes_before_what_is_usual(
    address: str, open_queue: OpenQueue
) -> None:
    open_queue(path=f"{address}&application_name=web-{address[-8:]}")
    names = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    assert sql(address, names, f"web-{address[-8:]}") >= [(1,)]
