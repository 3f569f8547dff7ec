"""How many examples Hypothesis tries: a few and always the same, or as many new ones as you like.

EXAMPLES=10000 python -m pytest tests/labs/test_model_final.py
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings


def examples(count: int, steps: int = 50) -> settings:
    """``count`` examples, the same in each run; or EXAMPLES other ones. steps: of a machine."""
    wanted = os.environ.get("EXAMPLES")
    return settings(
        max_examples=int(wanted or count),
        stateful_step_count=steps,
        derandomize=wanted is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def until_it_fails(count: int, steps: int = 50) -> settings:
    """For what is broken on purpose: whether it fails, not the shortest way to make it fail."""
    return settings(
        max_examples=count,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
