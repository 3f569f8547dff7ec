"""A service in a process of its own: ``python -m tests.service.child OPTIONS`` (JSON)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from final import Job
from final.service.server import serve


def held(job: Job) -> str:
    """Works until there is a file ``go`` in the current folder."""
    while not Path("go").exists():
        time.sleep(0.01)
    return "done"


handlers = {"held": held}

if __name__ == "__main__":
    serve("tests.service.child:handlers", **json.loads(sys.argv[1]))
