"""What the platform reports of a generation by itself, read and not yet believed.

Source: https://docs.higgsfield.ai/how-to/webhooks and https://docs.higgsfield.ai/docs/enterprise/webhook-security.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from higgsfield_async._domain import JobSet
from higgsfield_async._errors import MalformedResponse, WebhookError
from higgsfield_async._transports import read_report


class WebhookEvent(Struct, frozen=True, kw_only=True):
    """One webhook, for `Higgsfield.deliver`.

    Attributes:
        key: The same for each delivery of the same event: its `webhook-id`, else the id and the status.
        job_set: What it says of the generation.
        verified: Whether it proved where it is from, by a signature or by v1's secret. One that did not is a hint to
            look, and no more.
    """

    key: str
    job_set: JobSet
    verified: bool


def read_event(body: bytes, headers: Mapping[str, str], *, verified: bool) -> WebhookEvent:
    """The event in a webhook.

    Args:
        body: The raw body.
        headers: Its headers, to be looked up in lower case.
        verified: Whether it proved where it is from.

    Raises:
        WebhookError: It cannot be read.
    """
    try:
        job_set = read_report(body)
    except MalformedResponse as error:
        msg = f"A webhook of {len(body)} bytes cannot be read as a report of a generation."
        raise WebhookError(msg, status=400) from error
    key = headers.get("webhook-id") or f"{job_set.id}:{job_set.status.value}"
    return WebhookEvent(key=key, job_set=job_set, verified=verified)
