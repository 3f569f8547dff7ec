"""The other side of the examples: a web server and a mail server, real ones, having a bad day.

They run in the example's own process, to save you a second terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import http
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from final.examples.common import log, write_atomically

LONGEST_PAUSE = 1.0  # seconds


class WebhookReceiver(ThreadingHTTPServer):
    """Takes events by POST and tells them apart by their Webhook-Id.

    Every sixth event gets a 503 at first. Every twentieth is taken in, but the answer comes
    late. /broken always fails, /retired wants no more events.
    """

    request_queue_size = 64  # twenty workers knock at once; by default there is room for five

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _WebhookRequest)
        self.address = f"127.0.0.1:{self.server_port}"
        self.asked: list[str] = []  # the id of each request
        self.taken: list[str] = []  # and of each that was taken in
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def second_copies(self) -> int:
        return len(self.taken) - len(set(self.taken))


class _WebhookRequest(BaseHTTPRequestHandler):
    server: WebhookReceiver

    def do_POST(self) -> None:
        event = self.headers["Webhook-Id"]
        number = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["number"]
        self.server.asked.append(event)
        first_time = self.server.asked.count(event) == 1
        time.sleep(0.1)
        if self.path == "/broken":
            self._answer(http.HTTPStatus.INTERNAL_SERVER_ERROR)
        elif self.path == "/retired":
            self._answer(http.HTTPStatus.GONE)
        elif first_time and number % 6 == 0:
            self._answer(http.HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self.server.taken.append(event)
            if first_time and number % 20 == 1:
                time.sleep(LONGEST_PAUSE)
            self._answer(http.HTTPStatus.OK)

    def _answer(self, status: http.HTTPStatus) -> None:
        with contextlib.suppress(ConnectionError):  # the sender may have hung up
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not a line for every request."""


class Mailbox:
    """An SMTP server that keeps each message once, as a file named by its Message-ID.

    It greylists: strangers at @grey are to come back later. There is no nobody@home. After a
    message is stored its answer takes a while, for kim@slow a long while.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.second_copies = 0
        self._strangers = {"hal@grey", "ida@grey", "jim@grey"}
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        listen = loop.create_server(lambda: SMTP(self, hostname="localhost"), "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listen, loop).result()
        self.port: int = server.sockets[0].getsockname()[1]

    # aiosmtpd finds these two by their names.

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == "nobody@home":
            return "550 no such mailbox"
        if address in self._strangers:
            self._strangers.remove(address)
            return "451 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content: Any = envelope.content
        message_id = email.message_from_bytes(content)["Message-ID"].strip("<>")
        file = self.folder / f"{message_id}.eml"
        if file.exists():
            self.second_copies += 1
            log.info("second copy dropped: %s", message_id)
        else:
            write_atomically(file, content)
            log.info("in the mailbox: %s", message_id)
        # A sender that dies now doesn't know that we have it.
        await asyncio.sleep(LONGEST_PAUSE if message_id.endswith("@slow") else 0.1)
        return "250 OK"
