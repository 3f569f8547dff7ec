"""A worker's process, from the inside: get the handlers, then run a job whenever one comes.

What the two say to each other; the process speaks first:

    process: HERE                  worker:  the handlers, pickled
    process: READY, or, as an Ending, why it is not: say, a module that cannot be imported
    worker:  READY                 process: READY (before each job: does it live?)
    worker:  kind, task, job       process: BEGUN, and, when the handler has ended, an Ending
    process: PARENTS               worker:  their results, or an exception (from a handler)
    process: a Progress                     (from a handler, too)
    worker:  LEAVE

The end of the pipe must mean the end of the process. So nothing that a handler starts has
the pipe, and it stays open until the process has ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, cast

from final.beyond.progress import Progress
from final.job import Task
from final.workers.attempts import Handler, attempt, failure
from final.workers.current import LookUp, Note, enter_job

HERE, READY, BEGUN, PARENTS, LEAVE = "here", "ready", "begun", "parents", "leave"

# The exit code of a process that would have run the program instead of importing it.
NO_GUARD = 78  # EX_CONFIG in sysexits.h; any that nobody else uses would do

# What a terminal, or whoever ends a process group, sends to all of its processes. It is for
# the program to say what ends.
FOR_THE_PROGRAM = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]

_importing_handlers = False


def refuse_in_a_starting_process() -> None:
    """A queue that opens while a worker's process imports its modules would start another one."""
    # Private, but what multiprocessing itself asks. It imports the main module, and all that
    # it could do with an error is to print it; the exit code tells the worker.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(NO_GUARD)
    if _importing_handlers:
        raise RuntimeError(
            "A module with handlers opens a queue when it is imported, and the process of a worker "
            "imports it: put what opens the queue into a function."
        )


def serve(pipe: Connection, max_result: int) -> None:
    """Run jobs until the worker says LEAVE."""
    _leave_signals_to_the_program()
    _keep_to_this_process(pipe)
    _end_with_the_program()
    try:
        pipe.send(HERE)
        try:
            handlers = _import_handlers(pipe.recv_bytes())
        except Exception as error:
            pipe.send(failure(error))
            return
        pipe.send(READY)
        while (message := pipe.recv()) != LEAVE:
            if message == READY:
                pipe.send(READY)
                continue
            kind, task, job = message
            pipe.send(BEGUN)
            with _lines(pipe) as lines:
                enter_job(job, *lines)
                ending = attempt(handlers[kind], task, max_result)
            pipe.send(ending)
    except (EOFError, OSError, MemoryError):
        # The program has ended, or a handler closed what is not its own, or this is a fork that
        # came back from a handler. There is nobody to tell. Or there is no memory for a payload,
        # and the worker will see that this is the end.
        os._exit(1)


@contextlib.contextmanager
def _lines(pipe: Connection) -> Iterator[tuple[LookUp, Note]]:
    """Ways to ask the worker for the results of the parents, and to say how far the job is.

    While the handler runs: what a thread of it says later is not heard any more.
    """
    mutex = threading.Lock()  # guards the pipe and `over`; held while the worker looks
    over = False

    def ask(job_id: str) -> dict[str, Any]:
        with mutex:
            if over:
                raise RuntimeError("The handler has returned: its job's parents are not read now.")
            pipe.send(PARENTS)
            answer = pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return cast("dict[str, Any]", answer)

    def note(task: Task, token: int, progress: Progress) -> None:
        with mutex:
            if not over:
                pipe.send(progress)

    yield ask, note
    with mutex:
        over = True


def _import_handlers(pickled: bytes) -> dict[str, Handler]:
    global _importing_handlers
    _importing_handlers = True
    handlers: dict[str, Handler] = pickle.loads(pickled)
    _importing_handlers = False
    return handlers


def _end_with_the_program() -> None:
    """However the program ends, this process ends, too: its job will run in the next one.

    Linux kills it when the thread has ended that started it. That is its worker, which leaves
    only after it. Elsewhere a thread waits for the program's end. But: it cannot run while C code
    of a handler keeps the interpreter's lock, and it does not see that end while a fork of the
    program lives.
    """
    if not _linux_ends_it():
        threading.Thread(target=_watch, name="final-watch", daemon=True).start()


def _linux_ends_it() -> bool:
    if sys.platform != "linux":
        return False
    try:
        import ctypes
    except ImportError:  # Python can be built without
        return False
    pr_set_pdeathsig = 1
    done: int = ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    program = multiprocessing.parent_process()
    if program is None or program.pid != os.getppid():  # it ended before that
        os._exit(1)
    return done == 0


def _watch() -> None:
    program = multiprocessing.parent_process()
    assert program is not None
    program.join()
    os._exit(1)


# ---- signals and forks -----------------------------------------------------------------------

# On Windows none of this is needed but the first lines; there Ctrl-C may end a process that
# has not got here yet, and another one is started.


def _leave_signals_to_the_program() -> None:
    for number in FOR_THE_PROGRAM:
        # Not SIG_IGN: a program that a handler starts would inherit that.
        signal.signal(number, lambda number, frame: None)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_PROGRAM)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """A process that the calling thread starts meanwhile gets no signal before ``serve``."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        resource_tracker.ensure_running()  # it unblocks them, if multiprocessing has to start it
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PROGRAM)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_to_this_process(pipe: Connection) -> None:
    if sys.platform == "win32":
        return
    mask = threading.local()

    def before_fork() -> None:
        # Or a signal for the fork that comes at once would be taken by our handler, and ignored.
        mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PROGRAM)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.before)

    def in_fork() -> None:
        pipe.close()
        for number in FOR_THE_PROGRAM:
            signal.signal(number, signal.SIG_DFL)
        in_parent()

    os.set_inheritable(pipe.fileno(), False)
    os.register_at_fork(before=before_fork, after_in_parent=in_parent, after_in_child=in_fork)
