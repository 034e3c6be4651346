"""An error as it is told from a worker to whoever waits: a class of ours by its name, and plain fields. No pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from higgsfield_async._errors import (
    ApiError,
    AuthenticationFailed,
    Charged,
    ConfigurationError,
    ConnectionFailed,
    FieldError,
    HiggsfieldError,
    InsufficientCredits,
    InvalidRequest,
    NotCancelable,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
    SubmissionUnknown,
    Unsupported,
    UploadError,
)

# What may become of a submit, a look or a cancel on a worker; anything else is told as the last one.
_KINDS: Mapping[str, type[HiggsfieldError]] = {
    kind.__name__: kind
    for kind in (
        AuthenticationFailed,
        ConfigurationError,
        InsufficientCredits,
        InvalidRequest,
        NotCancelable,
        NotFound,
        PermissionDenied,
        RateLimited,
        ServiceUnavailable,
        SubmissionUnknown,
        Unsupported,
        UploadError,
        ConnectionFailed,
    )
}


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it stands in the database."""

    kind: str
    message: str
    charged: Charged = "no"
    transient: bool = False
    refused: bool = False
    retry_after: float | None = None
    status: int | None = None
    code: str | None = None
    detail: Any = None
    correlation_id: str | None = None
    errors: tuple[FieldError, ...] = ()
    limit: int | None = None
    key: str | None = None
    journal_key: str | None = None
    cause: Told | None = None


_decoder = msgspec.json.Decoder(Told)


def written(error: HiggsfieldError) -> str:
    """An error as JSON."""
    return msgspec.json.encode(_told(error)).decode()


def _told(error: HiggsfieldError) -> Told:
    kind = type(error).__name__
    return Told(
        kind=kind if kind in _KINDS else "ConnectionFailed",
        message=str(error),
        charged=error.charged,
        transient=error.transient,
        refused=error.refused,
        retry_after=error.retry_after,
        status=getattr(error, "status", None),
        code=getattr(error, "code", None),
        detail=_plain(getattr(error, "detail", None)),
        correlation_id=getattr(error, "correlation_id", None),
        errors=getattr(error, "errors", ()),
        limit=error.limit if isinstance(error, RateLimited) else None,
        key=error.key if isinstance(error, SubmissionUnknown) else None,
        journal_key=error.journal_key if isinstance(error, SubmissionUnknown) else None,
        cause=_told(error.cause) if isinstance(error, SubmissionUnknown) else None,
    )


def _plain(detail: object) -> Any:
    try:
        return msgspec.to_builtins(detail)
    except TypeError:
        return str(detail)


def read(text: str) -> HiggsfieldError:
    """The error that `written` wrote."""
    return _made(_decoder.decode(text))


def _made(told: Told) -> HiggsfieldError:
    kind = _KINDS.get(told.kind, ConnectionFailed)
    fields: dict[str, Any] = {
        "charged": told.charged,
        "transient": told.transient,
        "refused": told.refused,
        "retry_after": told.retry_after,
    }
    if issubclass(kind, (ApiError, InvalidRequest)):
        fields |= {"status": told.status, "detail": told.detail, "correlation_id": told.correlation_id}
    if issubclass(kind, ApiError):
        fields["code"] = told.code
        fields["status"] = told.status or 0
    if issubclass(kind, UploadError):
        fields["status"] = told.status
    if issubclass(kind, InvalidRequest):
        fields["errors"] = told.errors
    if issubclass(kind, RateLimited):
        fields["limit"] = told.limit
    if issubclass(kind, SubmissionUnknown):
        cause = ConnectionFailed(told.message) if told.cause is None else _made(told.cause)
        fields |= {"request": None, "key": told.key, "journal_key": told.journal_key, "cause": cause}
    return kind(told.message, **fields)
