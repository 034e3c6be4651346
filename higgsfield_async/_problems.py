"""Any error as what a service tells its own callers: a problem document (RFC 9457), with nothing that is not theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from higgsfield_async._errors import (
    AuthenticationFailed,
    BudgetExceeded,
    Charged,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    ContentRejected,
    DownloadError,
    FieldError,
    GenerationCanceled,
    GenerationFailed,
    HiggsfieldError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    MalformedResponse,
    NotCancelable,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
    SubmissionUnknown,
    Unsupported,
    UploadError,
    WaitTimeout,
    WebhookError,
)


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document.

    Attributes:
        type: Names the kind of problem.
        title: The same in words.
        status: The HTTP status.
        detail: What happened, and what can be done.
        error: The name of the error's class.
        charged: What became of the money.
        ref: The short ref of the generation, where there is one.
        errors: The fields that were refused.
        idempotency_key: What brings back a generation of which nobody knows whether it was accepted.
    """

    type: str
    title: str
    status: int
    detail: str
    error: str
    charged: Charged
    ref: str | None = None
    errors: tuple[FieldError, ...] = ()
    idempotency_key: str | None = None


# The status, and a sentence in place of the error's own where that speaks of what lies behind: of this side's key, its
# account, its network. The first row that fits counts.
_ROWS: Mapping[type[HiggsfieldError], tuple[int, str | None]] = {
    InvalidRequest: (422, None),
    Unsupported: (409, None),
    NotFound: (404, "There is no such generation or model."),
    NotCancelable: (409, None),
    BudgetExceeded: (402, "This server's budget does not suffice."),
    InsufficientCredits: (402, "The account's balance does not suffice."),
    RateLimited: (429, "Too many generations or requests at once. Try again a little later."),
    AuthenticationFailed: (502, "The generation service does not accept this server's key."),
    PermissionDenied: (502, "The generation service does not let this server do that."),
    ServiceUnavailable: (503, "The generation service is in trouble. Try again a little later."),
    ConnectionFailed: (502, "The generation service could not be reached."),
    MalformedResponse: (502, "The generation service gave an answer that cannot be read."),
    SubmissionUnknown: (
        502,
        "The generation was submitted, and may have been accepted and paid for: the answer is lost.",
    ),
    GenerationFailed: (502, None),
    ContentRejected: (422, None),
    GenerationCanceled: (409, None),
    WaitTimeout: (504, "The generation did not end in time. It goes on."),
    DownloadError: (502, "A result could not be fetched."),
    JournalError: (503, "This server cannot write down what it would submit. Try again a little later."),
    UploadError: (502, "A file could not be handed to the generation service."),
    WebhookError: (401, None),
    ClientClosed: (503, "This server is stopping. Try again a little later."),
    ConfigurationError: (500, "This server is not set up rightly."),
}
_OTHERWISE = 502, "The generation service answered with an error."


def problem_of(error: HiggsfieldError) -> Problem:
    """The problem document of an error, for a caller who may know what they asked for and what it cost, no more."""
    status, sentence = next((row for kind, row in _ROWS.items() if isinstance(error, kind)), _OTHERWISE)
    if isinstance(error, WebhookError) or (isinstance(error, InvalidRequest) and error.status in (409, 413)):
        status = error.status or status
    name = type(error).__name__
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return Problem(
        type=f"urn:problem-type:higgsfield:{words.replace(' ', '-')}",
        title=words.capitalize(),
        status=status,
        detail=str(error) if sentence is None else sentence,
        error=name,
        charged=error.charged,
        ref=None if error.ref is None else error.ref.short,
        errors=error.errors if isinstance(error, InvalidRequest) else (),
        idempotency_key=error.key if isinstance(error, SubmissionUnknown) else None,
    )
