"""The lab with a database that fails over, for a few seconds. (With FAULT=async it loses jobs.)"""

from __future__ import annotations

import pytest

from tests import postgres_server
from tests.labs import hosts

pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.skipif(
        postgres_server.programs() is None or postgres_server.WINDOWS,
        reason=postgres_server.MISSING,
    ),
]


def test_what_was_acknowledged_survives_a_failover() -> None:
    verdict = hosts.attack("failover", seconds=4)
    assert verdict.holds, verdict
