"""Webhooks: twenty workers deliver events to a receiver that has a bad day.

``python -m final.examples.webhooks [PATH]``: the jobs are kept in PATH, webhooks.db by default.

Payments overtake orders, and orders page views. Some requests get a 503, some no answer in
time: they are tried again, up to five times, with backoff. One endpoint is broken for good:
its events end as dead letters. Stop it with Ctrl-C or kill -9, and run it again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from functools import partial
from pathlib import Path
from typing import Any

from final import Backoff, Job, JobQueue, Priority
from final.examples.common import report, run, start
from final.examples.servers import WebhookReceiver

TIMEOUT = 0.5  # seconds; 5 to 30 in real life. Without one, silence keeps a worker for ever.
TOPICS = [("seen", Priority.LOW), ("order", Priority.MEDIUM), ("paid", Priority.HIGH)]


class NotDelivered(Exception):
    """Raised by the handler, which for the queue means: try again later."""


def deliver(address: str, job: Job) -> str:
    """The handler: one attempt at one event."""
    event: Any = job.payload
    # No answer doesn't mean not received, so an event may arrive twice. It carries the same
    # id each time: by that the receiver can tell.
    headers = {"Content-Type": "application/json", "Webhook-Id": job.id}
    with contextlib.closing(http.client.HTTPConnection(address, timeout=TIMEOUT)) as connection:
        connection.request("POST", event["endpoint"], json.dumps(event["data"]), headers)
        status = connection.getresponse().status
    if 200 <= status < 300:
        return "delivered"
    if status == http.HTTPStatus.GONE:
        return "unsubscribed"  # an answer, not a failure: another attempt would be a nuisance
    # The rest is worth a retry: a 503 passes, so does a 429, and a 404 is often a mistake that
    # people mend. So are time-outs and refused connections, which were raised above.
    raise NotDelivered(status)


def events(earlier: int) -> list[Job]:
    """A round of 96 events. The job's id is the event's id."""
    jobs = []
    for number in range(earlier + 1, earlier + 97):
        topic, priority = TOPICS[number % len(TOPICS)]
        endpoint = {8: "/broken", 16: "/retired"}.get(number % 32, f"/{topic}")
        event = {"endpoint": endpoint, "data": {"number": number}}
        jobs.append(Job(f"{topic}-{number}", event, priority))
    return jobs


def main(path: Path) -> None:
    receiver = WebhookReceiver()
    queue = JobQueue(
        partial(deliver, receiver.address),
        path=path,
        workers=20,  # they wait for the network nearly all the time, not for the CPU
        max_retries=5,
        backoff=Backoff(base=0.1, maximum=0.8),  # in real life from seconds up to hours
    )
    run(queue, events)
    report(
        queue,
        path,
        f"{receiver.second_copies} events arrived twice in this run, and were known by their id.",
    )


if __name__ == "__main__":
    start(main, default="webhooks.db")
