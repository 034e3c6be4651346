"""What schemathesis is told of the router, beside its OpenAPI document."""

from __future__ import annotations

from typing import Any

import schemathesis

# What a data URI holds, and whom an address names, no schema says.
MEDIA = (
    "that the platform takes here",
    "which the platform does not take here",
    "its base64 is none",
    "must not hold a user or a password",
)


@schemathesis.check
def what_the_schema_allows_is_refused_by_the_service_alone(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A service knows limits that stand in no schema; the router itself knows those of media alone."""
    if case.meta is not None and case.meta.generation.mode.is_positive and response.status_code == 422:
        detail = response.json()["detail"]
        assert any(words in detail for words in ("The service refused", *MEDIA)), detail
