"""Emails: each message once in the mailbox, whatever happens on the way.

``python -m final.examples.emails [PATH]``: the jobs are kept in PATH, emails.db by default, and
what arrives in the folder emails.mailbox beside it.

The job's id is the Message-ID. Password resets overtake invoices, and invoices the newsletter.
Some recipients are refused at first and tried again; one does not exist and ends as a dead
letter. Stop it with Ctrl-C or kill -9, and run it again.
"""

from __future__ import annotations

import email.message
import smtplib
from functools import partial
from pathlib import Path
from typing import Any

from final import Backoff, Job, JobQueue, PermanentFailure, Priority
from final.examples.common import report, run, start
from final.examples.servers import Mailbox

PEOPLE = [f"{name}@home" for name in ("ada", "bob", "cy", "dee")]
PEOPLE += [f"{name}@grey" for name in ("hal", "ida", "jim")] + ["kim@slow"]
LETTERS = [("news", Priority.LOW, to) for to in [*PEOPLE, "nobody@home"]]
LETTERS += [("invoice", Priority.MEDIUM, to) for to in PEOPLE]
LETTERS += [("reset", Priority.HIGH, to) for to in PEOPLE[::4]]


class NotSent(Exception):
    """Raised by the handler, which for the queue means: try again later."""


class NoMailbox(PermanentFailure):
    """The server has said no for good: the queue does not try again, and spares the server."""


def send(port: int, job: Job) -> None:
    """The handler: one attempt at one message."""
    letter: Any = job.payload
    message = email.message.EmailMessage()
    # If the process dies between the server's "250 OK" and the commit of this outcome, the
    # message is sent again: under the same id, so that the receiver can tell.
    message["Message-ID"] = f"<{job.id}>"
    message["From"], message["To"], message["Subject"] = "shop@home", letter["to"], letter["about"]
    message.set_content(f"Hello,\n\nthis is about your {letter['about']}.\n")
    try:
        # Without a timeout smtplib waits for a silent server for ever, and so does the worker.
        with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost", timeout=5) as server:
            server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        code, text = error.recipients[letter["to"]]
        answer = f"{code} {text.decode()}"
        if code >= 500:  # for good; 4xx is for now, and so are time-outs and lost connections
            raise NoMailbox(answer) from error
        raise NotSent(answer) from error


def letters(earlier: int) -> list[Job]:
    """A round. An id says what goes to whom: enqueued twice by mistake, it is refused."""
    number = earlier // len(LETTERS) + 1
    return [
        Job(f"{about}-{number}.{to}", {"to": to, "about": about}, priority)
        for about, priority, to in LETTERS
    ]


def main(path: Path) -> None:
    mailbox = Mailbox(path.with_suffix(".mailbox"))
    queue = JobQueue(
        partial(send, mailbox.port), path=path, workers=4, max_retries=3, backoff=Backoff(base=0.2)
    )
    run(queue, letters)
    received = len(list(mailbox.folder.glob("*.eml")))
    report(
        queue,
        path,
        f"{received} messages are in {mailbox.folder}, each once; "
        f"{mailbox.second_copies} came a second time and were dropped.",
    )


if __name__ == "__main__":
    start(main, default="emails.db")
