"""What schemathesis is told of the router, beside its OpenAPI document."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def what_the_schema_allows_is_refused_by_the_service_alone(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A service knows limits that stand in no schema; the router itself knows none."""
    if case.meta is not None and case.meta.generation.mode.is_positive and response.status_code == 422:
        assert "The service refused" in response.json()["detail"]
