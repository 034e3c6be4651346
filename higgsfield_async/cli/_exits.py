"""What the exit code says, and what to do about an error."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

from higgsfield_async._errors import (
    ApiError,
    AuthenticationFailed,
    BudgetExceeded,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    DownloadError,
    GenerationError,
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


class Exit(enum.IntEnum):
    """The exit codes. Those from 64 on are those of BSD's `sysexits.h`, as a worker's of a cluster are."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    UNKNOWN = 3
    GOES_ON = 4
    UNAVAILABLE = 69
    FAULT = 70
    FILES = 74
    AGAIN = 75
    REFUSED = 77
    SETUP = 78
    INTERRUPTED = 130
    TERMINATED = 143


# The first row that fits counts.
_ROWS: Mapping[type[HiggsfieldError], Exit] = {
    InvalidRequest: Exit.WRONG,
    Unsupported: Exit.WRONG,
    NotFound: Exit.WRONG,
    NotCancelable: Exit.WRONG,
    GenerationError: Exit.FAILED,
    SubmissionUnknown: Exit.UNKNOWN,
    WaitTimeout: Exit.GOES_ON,
    AuthenticationFailed: Exit.REFUSED,
    PermissionDenied: Exit.REFUSED,
    InsufficientCredits: Exit.REFUSED,
    BudgetExceeded: Exit.REFUSED,
    RateLimited: Exit.AGAIN,
    ServiceUnavailable: Exit.AGAIN,
    ConnectionFailed: Exit.AGAIN,
    ApiError: Exit.UNAVAILABLE,
    MalformedResponse: Exit.UNAVAILABLE,
    ClientClosed: Exit.GOES_ON,
    DownloadError: Exit.FILES,
    UploadError: Exit.FILES,
    JournalError: Exit.FILES,
    WebhookError: Exit.UNAVAILABLE,
    ConfigurationError: Exit.SETUP,
}


def exit_of(error: HiggsfieldError) -> Exit:
    """The exit code of an error."""
    return next(code for kind, code in _ROWS.items() if isinstance(error, kind))


# The one that most wants a person comes first.
_GRAVEST = (
    Exit.UNKNOWN,
    Exit.REFUSED,
    Exit.SETUP,
    Exit.WRONG,
    Exit.UNAVAILABLE,
    Exit.AGAIN,
    Exit.FILES,
    Exit.GOES_ON,
    Exit.FAILED,
    Exit.DONE,
)


def gravest(codes: Collection[Exit]) -> Exit:
    """The exit code of a command that met with several things; 0 where it met with none."""
    return next((code for code in _GRAVEST if code in codes), Exit.DONE)


def hint_of(error: HiggsfieldError) -> str | None:
    """What to do about an error on the command line, where its own sentence does not say so."""
    if isinstance(error, SubmissionUnknown):
        return "It may have been paid for and is not sent again: `higgsfield-async recover` shows it."
    if isinstance(error, GenerationError):
        return None
    if error.ref is not None and not isinstance(error, NotFound):
        short = error.ref.short
        again = f"save {short} --output FOLDER" if isinstance(error, DownloadError) else f"wait {short}"
        return f"To go on with it: higgsfield-async {again}"
    if isinstance(error, ConfigurationError) and "service='proxy'" in str(error):
        return "On the command line: --service proxy, or --service platform."
    if isinstance(error, (AuthenticationFailed, ConfigurationError)):
        return "`higgsfield-async doctor` says what is set up, and what is wrong with it."
    return None
