"""What jobs are about (``final/beyond/meta.py``), in a database.

But: a turn without such jobs asks nothing. They are found in ``matching.py``, and forgotten by the
statements that delete jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from final.beyond.meta import pairs
from final.job import Task

WRITE = """WITH new AS (UPDATE jobqueue.job SET meta = o.meta
        FROM unnest(%s::text[], %s::text[]) AS o (id, meta)
        WHERE job.id = o.id RETURNING job.seq, job.meta)
    INSERT INTO jobqueue.meta
    SELECT name, value, seq FROM new, json_each_text(new.meta::json) AS pair (name, value)"""


def write(ask: Any, tasks: Iterable[Task]) -> None:
    """When these jobs are in, or have come in the place of others."""
    if metas := {task.id: pairs(task.meta) for task in tasks if task.meta}:
        ask(WRITE, (list(metas), list(metas.values())))
