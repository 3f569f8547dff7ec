"""A service in a process of its own: ``python -m tests.service.child OPTIONS`` (JSON).

Besides the options of ``serve``: files, how many file descriptors it may have; patience, how many
seconds uvicorn waits at the end for connections that are still open.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from final import Job
from final.service import server
from final.service.server import HttpServer, serve


def held(job: Job) -> str:
    """Begins with a file of its name, and works until there is one ``go``, in this folder."""
    Path(f"began-{job.id}").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return "done"


def opens(job: Job) -> str:
    """Needs a few files at a time, as handlers do."""
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(open(os.devnull))
    return "done"


def be_patient(seconds: float) -> None:
    class Patient(HttpServer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.config.timeout_graceful_shutdown = int(seconds)

    server.HttpServer = Patient  # type: ignore[misc]


handlers = {"held": held, "opens": opens}

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    if files := options.pop("files", None):
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if patience := options.pop("patience", None):
        be_patient(patience)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    serve("tests.service.child:handlers", **options)
