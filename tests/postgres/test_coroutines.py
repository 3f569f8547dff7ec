"""Coroutine handlers that wait on PostgreSQL: many of them, and no thread for each."""

from __future__ import annotations

import threading

from final import Job
from tests.final.test_coroutines import Crowd
from tests.helpers import DEADLINE
from tests.postgres.conftest import OpenQueue


def test_hundreds_wait_at_once_in_a_handful_of_threads(open_queue: OpenQueue, address: str) -> None:
    crowd, before = Crowd(300), threading.active_count()
    # On a busy machine none of them is to lose its lease.
    queue = open_queue(crowd, path=address.replace("lease=1", "lease=30"), workers=300)
    queue.enqueue_many([Job() for _ in range(300)])
    crowd.gather()
    assert threading.active_count() - before < 20
    crowd.let_go()
    queue.join(DEADLINE)
    assert queue.metrics().completed == 300
