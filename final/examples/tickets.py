"""Tickets: a shop takes the orders that it can serve in time, and turns the others away at once.

``python -m final.examples.tickets [PATH]``: the jobs are kept in PATH, tickets.db by default.

The bank accepts fifty payments a second, and the lane has room for half a second's. Who finds
it full hears so at once, and stands in no line. Stop it with Ctrl-C or kill -9, and run it again.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from final import DuplicateJob, Job, JobQueue, LeakyBucket, QueueClosed, QueueFull
from final.examples.common import log, report, run, start

PAYMENTS = 50  # a second
BUYERS = [("before the sale", 20), ("during the sale", 500), ("after the sale", 20)]  # a second


def pay(job: Job) -> None:
    """The handler: one payment."""
    time.sleep(0.2)  # the bank takes its time


class Shop(ThreadingHTTPServer):
    request_queue_size = 128  # buyers knock all at once; by default there is room for five

    def __init__(self, queue: JobQueue) -> None:
        super().__init__(("127.0.0.1", 0), OrderPage)
        self.queue = queue
        threading.Thread(target=self.serve_forever, daemon=True).start()


class OrderPage(BaseHTTPRequestHandler):
    server: Shop

    def do_POST(self) -> None:
        answer = HTTPStatus.ACCEPTED  # it is on disk, and will be paid for
        try:
            with contextlib.suppress(DuplicateJob):  # a buyer who has not heard our answer
                self.server.queue.enqueue(Job(self.headers["Order-Id"]))
        except (QueueFull, QueueClosed):
            answer = HTTPStatus.SERVICE_UNAVAILABLE
        with contextlib.suppress(ConnectionError):  # the buyer may have gone
            self.send_response(answer)
            self.send_header("Retry-After", "1")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not a line for every request."""


def buy(port: int) -> tuple[int, float]:
    """What a buyer gets: a status, after so many seconds."""
    began = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as shop:
        shop.request("POST", "/orders", headers={"Order-Id": str(uuid.uuid4())})
        return shop.getresponse().status, time.monotonic() - began


def sell(shop: Shop, earlier: int) -> list[Job]:
    """Let the buyers come. Their orders are jobs then, so there are none left to enqueue."""
    for when, many in BUYERS:
        with ThreadPoolExecutor(32) as buyers:
            answers = []
            for _ in range(many):
                answers.append(buyers.submit(buy, shop.server_port))
                time.sleep(1 / many)
        statuses, seconds = zip(*(answer.result() for answer in answers), strict=True)
        taken = statuses.count(HTTPStatus.ACCEPTED)
        text = "%-15s  %3d taken, %3d turned away; slowest answer %3.0f ms"
        log.info(text, when, taken, many - taken, 1000 * max(seconds))
    return []


def main(path: Path) -> None:
    queue = JobQueue(
        pay,
        path=path,
        workers=20,
        capacity=PAYMENTS // 2,
        overflow="reject",
        rate_limit=LeakyBucket(PAYMENTS),
    )
    run(queue, partial(sell, Shop(queue)))
    report(queue, path, f"99 of 100 orders waited {queue.metrics().wait.p99:.2f} s at most.")


if __name__ == "__main__":
    start(main, default="tickets.db")
