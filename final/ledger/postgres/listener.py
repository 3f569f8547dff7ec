"""What other processes tell, by LISTEN and NOTIFY: there is work, look at your jobs, this happened.

A notification is a hint. It may be lost with the connection; whoever was told nothing finds out
when he looks the next time (the poll).

But: it decides nothing. What it hears goes into the dispatcher's inbox.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psycopg

from final.ledger.base import Told
from final.ledger.postgres.address import Address
from final.ledger.postgres.lookups import PostgresLookups
from final.ledger.postgres.notices import Notices, parsed
from final.ledger.postgres.session import Session, break_off, connect


class Listener:
    """A thread that calls ``tell`` with each ``Told`` that another process has sent.

    It also breaks off what gets no answer: of the dispatcher's ``session`` after ``patience``
    seconds, and look-ups, which may take their time, after ten times as many.
    """

    def __init__(
        self,
        address: Address,
        session: Session,
        look_ups: Sequence[PostgresLookups],
        notices: Notices,
        patience: float,
        tell: Callable[[Told], object],
    ) -> None:
        self._address = address
        self._session = session
        self._look_ups = look_ups
        self._notices = notices
        self._patience = patience
        self._look_seconds = min(0.5, patience / 2)
        self._tell = tell
        self._closed = threading.Event()
        self._connection: psycopg.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="final-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._connection is not None:
            break_off(self._connection)
        self._thread.join(5)

    def _run(self) -> None:
        hears = not self._address.pooler or self._address.listen is not None
        while not self._closed.wait(0 if hears else self._look_seconds):
            if not hears:
                self._break_off()
                continue
            try:
                with connect(self._address, self._address.listen) as self._connection:
                    self._hear(self._connection)
            except psycopg.Error:
                self._closed.wait(self._look_seconds)
                self._break_off()

    def _break_off(self) -> None:
        self._session.break_off_if_stuck(self._patience)
        for look_ups in self._look_ups:
            look_ups.break_off_if_stuck(10 * self._patience)

    def _hear(self, connection: psycopg.Connection) -> None:
        connection.execute(f"LISTEN {self._address.schema}".encode())
        self._tell(Told())  # something may have come in between
        while not self._closed.is_set():
            for notification in connection.notifies(timeout=self._look_seconds, stop_after=1):
                told = parsed(notification.payload, self._notices.owner)
                if told is not None:
                    self._tell(told)
            self._break_off()
