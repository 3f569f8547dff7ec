"""Requests made up from the service's own OpenAPI document: whatever they are, none is a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.final.helpers import nothing
from tests.service.conftest import OpenService

EXAMPLES = 8  # of each endpoint and kind; more of them found nothing more


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["positive", "negative"])
def test_no_request_is_too_strange(open_service: OpenService, manner: str) -> None:
    """positive: as the document says. negative: as it does not."""
    # Here, because it takes more than a second, which every process that collects would pay.
    import schemathesis
    from schemathesis.generation import GenerationMode

    mode = GenerationMode(manner)
    # One handler for all types, so that any type will do.
    live = open_service(nothing, demo=True, capacity=100_000)
    schema = schemathesis.openapi.from_dict(live.http.get("/openapi.json").json())
    schema.config.update(base_url=str(live.http.base_url))
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]
        if operation.path == "/events":  # which has no end
            continue
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # nothing that could be wrong

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            tried.add((case.method, case.path, answer.status_code))

        answers()
    assert ("POST", "/jobs", 201 if mode is GenerationMode.POSITIVE else 422) in tried, tried
