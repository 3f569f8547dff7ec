"""A service in a process of its own: ``python -m tests.service.child OPTIONS`` (JSON).

files: how many file descriptors it may have, besides the options of ``serve``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path

from final import Job
from final.service.server import serve


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


handlers = {"held": held, "opens": opens}

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    if files := options.pop("files", None):
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    logging.basicConfig(format="%(levelname)s: %(message)s")
    serve("tests.service.child:handlers", **options)
