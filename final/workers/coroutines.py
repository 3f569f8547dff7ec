"""Handlers that are coroutine functions: one event loop runs them all."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import Any

from final.job import Job, Task
from final.messages import Batch
from final.workers.attempts import Ending, Handler, Runner, attempt
from final.workers.current import current_job, enter_job


class CoroutineRunner(Runner):
    """Runs the handler on the queue's event loop; the worker waits for it.

    But: there is one loop for all. A handler that blocks it holds up every other one: with
    ``time.sleep``, ``current_job().sleep``, or ``enqueue``, which is refused if the lane is full.
    Instead there are ``await asyncio.sleep(seconds)`` and
    ``await asyncio.to_thread(queue.enqueue, job)``.
    """

    can_stop = True

    def __init__(self, handler: Handler, max_result: int, loop: EventLoop) -> None:
        super().__init__(handler, max_result)
        self._loop = loop

    def run(self, batch: Batch, task: Task) -> Ending:
        def call(job: Job) -> object:
            # The coroutine inherits it, and may outlast this batch: a `finally:` takes its time.
            enter_job(current_job())
            coroutine: Any = self._handler(job)
            future = self._loop.submit(coroutine)
            batch.stop = future.cancel
            if batch.told is task:  # told before it could be heard
                future.cancel()
            return future.result()

        return attempt(call, task, self._max_result)

    def close(self) -> None:
        self._loop.close()


class EventLoop:
    """One asyncio event loop in a thread of its own, started for the first coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="final-asyncio")
        self._thread.daemon = True
        self._thread.start()
        self._closing = threading.Lock()  # held by whoever closes; the next one finds it closed

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Any) -> concurrent.futures.Future[object]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel what still runs, and end the thread. May be called again, from any thread."""
        with self._closing:
            if self._loop.is_closed():
                return
            with contextlib.suppress(
                concurrent.futures.TimeoutError, concurrent.futures.CancelledError
            ):
                self.submit(_cancel_all()).result(timeout=1.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=1.0)
            if not self._thread.is_alive():  # else a coroutine blocks it: it is a daemon
                self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
