"""Everything that can go wrong, as one tree.

    HiggsfieldError                     the root, never raised itself
    ├─ ConfigurationError               before any I/O: a missing key, a bad setting, a ref of another account
    ├─ Unsupported                      before any I/O: this service has no such operation
    ├─ ClientClosed                     the client is closed, or belongs to another event loop
    ├─ InvalidRequest                   before any I/O, or the service's own 400, 413 or 422
    ├─ ConnectionFailed                 no answer
    ├─ SubmissionUnknown                a submit that may have been accepted; its answer is lost
    ├─ MalformedResponse                an answer that cannot be read
    ├─ ApiError                         the service answered with an error
    │  ├─ AuthenticationFailed          the key is missing, malformed or unknown
    │  ├─ PermissionDenied              the key is right, and not allowed to do this
    │  ├─ InsufficientCredits           the balance does not suffice
    │  ├─ NotFound                      no such generation, model or route
    │  ├─ NotCancelable                 too late: the generation has left the queue
    │  ├─ RateLimited                   too many requests, or too many generations at once
    │  └─ ServiceUnavailable            5xx, and the HTML pages of the gateways in between
    ├─ GenerationError                  the exchange was fine, the generation was not; never raised itself
    │  ├─ GenerationFailed
    │  ├─ ContentRejected               nsfw
    │  └─ GenerationCanceled
    ├─ BudgetExceeded                   before the submit: it costs more than is left of a budget
    ├─ JournalError                     paid work cannot be written down, so that nothing is submitted
    ├─ WaitTimeout                      the deadline of a wait has passed; the generation goes on (a TimeoutError)
    ├─ DownloadError                    a result could not be fetched or written
    ├─ UploadError                      a file could not be read or put where the service takes it
    └─ WebhookError                     a webhook that cannot be read, or that does not prove where it is from

Every error pickles, with its `ref`. No message holds a key, a prompt or the query of an address.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict, Unpack

import msgspec

if TYPE_CHECKING:
    from higgsfield_async._domain import JobSet, TaskRef
    from higgsfield_async._requests import GenerationRequest

Charged = Literal["yes", "no", "unknown"]
"""What became of the money: it was taken, it was not, or nobody can tell yet."""


class FieldError(msgspec.Struct, frozen=True):
    """One field that was refused, in the form of FastAPI's `HTTPValidationError`.

    Attributes:
        loc: Where: names of fields and indexes of items, outermost first.
        msg: What is wrong with it.
        type: A word for the kind of mistake, such as `missing`.
    """

    loc: tuple[str | int, ...]
    msg: str
    type: str

    def __str__(self) -> str:
        return f"{'.'.join(str(part) for part in self.loc)}: {self.msg}"


class Common(TypedDict, total=False):
    """What every error takes: see `HiggsfieldError`."""

    ref: TaskRef | None
    charged: Charged
    transient: bool
    refused: bool
    retry_after: float | None


class Answered(Common, total=False):
    """What every error takes that is an answer: see `ApiError`."""

    status: Required[int]
    code: str | None
    detail: object
    correlation_id: str | None


class HiggsfieldError(Exception):
    """The root of the tree.

    Attributes:
        ref: The generation this is about, where there is one. `hf.task(error.ref)` picks it up again.
        charged: What became of the money: `"yes"`, `"no"` or `"unknown"`.
        transient: Whether the same thing may go well a little later.
        retry_after: How many seconds the service asked to wait, where it did.
        refused: Whether the service cannot have accepted what was sent.
    """

    abstract = True

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        cls.abstract = abstract

    def __init__(
        self,
        message: str,
        *,
        ref: TaskRef | None = None,
        charged: Charged = "no",
        transient: bool = False,
        refused: bool = False,
        retry_after: float | None = None,
    ) -> None:
        if type(self).abstract:
            msg = f"{type(self).__name__} is for catching, not for raising"
            raise TypeError(msg)
        super().__init__(message)
        self.ref = ref
        self.charged: Charged = charged
        self.transient = transient
        self.refused = refused
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way would call __init__ with `args` alone and drop the cause. A foreign cause is left
        # behind: not all of aiohttp's exceptions can be pickled.
        cause = self.__cause__ if isinstance(self.__cause__, HiggsfieldError) else None
        return _revive, (type(self), self.args, self.__dict__.copy(), cause)


def _revive(
    cls: type[HiggsfieldError], args: tuple[Any, ...], state: dict[str, Any], cause: HiggsfieldError | None
) -> HiggsfieldError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error.__cause__ = cause
    return error


class ArgumentWarning(UserWarning):
    """A `ModelRequest` that is not as its AI model is documented: it may be refused, or made otherwise, and billed."""


class ConfigurationError(HiggsfieldError):
    """A key is missing, a setting is out of range, or a ref belongs to another service or account."""


class Unsupported(HiggsfieldError):
    """This service has no such operation. The message names the transport that has it, where there is one."""


class ClientClosed(HiggsfieldError):
    """The client is closed, or was opened in another event loop.

    A wait that was under way when the client closed ends with this; its `ref` picks the generation up again.
    """


class InvalidRequest(HiggsfieldError):
    """The request is not one that the service takes.

    Attributes:
        errors: The fields that were refused, ours or the service's own.
        status: The HTTP status, or None when it was refused before anything was sent.
        detail: What the service said, word for word, or None.
        correlation_id: The service's `X-Correlation-ID`, to quote to its support.
    """

    def __init__(
        self,
        message: str,
        *,
        errors: tuple[FieldError, ...] = (),
        status: int | None = None,
        detail: object = None,
        correlation_id: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(message, **common)
        self.errors = errors
        self.status = status
        self.detail = detail
        self.correlation_id = correlation_id


class ConnectionFailed(HiggsfieldError):
    """There was no answer: not reached, cut off, or out of time. The foreign error is its `__cause__`."""


class SubmissionUnknown(HiggsfieldError):
    """A submit may have been accepted, and paid for, and its answer is lost.

    Attributes:
        request: The request that was submitted; None for a message to an agent session.
        key: The `Idempotency-Key` it carried, or None where the service knows none. With a key,
            `hf.submit(request, idempotency_key=key)` brings back the original generation and pays nothing twice.
            Without one, look at the service's own list of generations before submitting again.
        journal_key: Its key in the journal, for `hf.resolve` and `hf.forget`; None without a journal.
        cause: What was seen instead of an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        request: GenerationRequest | None,
        key: str | None,
        cause: HiggsfieldError,
        journal_key: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("charged", "unknown")
        super().__init__(message, **common)
        self.request = request
        self.key = key
        self.journal_key = journal_key
        self.cause = cause


class MalformedResponse(HiggsfieldError):
    """An answer that cannot be read.

    Attributes:
        status: Its HTTP status.
        body: The first 500 bytes of it.
    """

    def __init__(self, message: str, *, status: int, body: bytes, **common: Unpack[Common]) -> None:
        common.setdefault("transient", True)
        super().__init__(message, **common)
        self.status = status
        self.body = body[:500]


class ApiError(HiggsfieldError):
    """The service answered with an error.

    Attributes:
        status: The HTTP status. The reseller proxy gives 428 for every fault of key, balance or permission.
        code: The service's own word for it, where it has one, such as `not_enough_credits`.
        detail: What the service said, word for word.
        correlation_id: The service's `X-Correlation-ID`, to quote to its support.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        detail: object = None,
        correlation_id: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(message, **common)
        self.status = status
        self.code = code
        self.detail = detail
        self.correlation_id = correlation_id


class AuthenticationFailed(ApiError):
    """The key is missing, malformed or unknown."""


class PermissionDenied(ApiError):
    """The key is known, and not allowed to do this: disabled, expired, an address or a model not on its list."""


class InsufficientCredits(ApiError):
    """The balance does not suffice. Met while polling, it does not end the generation."""


class NotFound(ApiError):
    """The service knows no such generation, model or route."""


class NotCancelable(ApiError):
    """Too late: the service cancels only what is still queued. The generation goes on."""


class RateLimited(ApiError):
    """Too many requests, or too many generations at once. Nothing was created.

    Attributes:
        limit: How many generations the account may have at once, where the service said so.
    """

    def __init__(self, message: str, *, limit: int | None = None, **answered: Unpack[Answered]) -> None:
        super().__init__(message, **answered)
        self.limit = limit


class ServiceUnavailable(ApiError):
    """The service, or a gateway before it, is in trouble."""


class GenerationError(HiggsfieldError, abstract=True):
    """The service did all it was asked, and the generation did not succeed.

    Attributes:
        job_set: The generation's last state.
        reason: What the service gave as the reason, or None.
    """

    def __init__(self, message: str, *, job_set: JobSet, **common: Unpack[Common]) -> None:
        super().__init__(message, **common)
        self.job_set = job_set

    @property
    def reason(self) -> str | None:
        return self.job_set.reason


class GenerationFailed(GenerationError):
    """The generation ended as `failed`."""


class ContentRejected(GenerationError):
    """The generation ended as `nsfw`: the service's moderation refused the input or the result."""


class GenerationCanceled(GenerationError):
    """The generation ended as `canceled`."""


class BudgetExceeded(HiggsfieldError):
    """A generation was not submitted: it costs more than is left of a `Budget`, or its price is not known.

    Attributes:
        unit: What the budget counts: `points`, `credits` or `usd`.
        limit: The budget's limit.
        left: What was left of it.
        needed: What the generation costs, or None where the service does not tell.
    """

    def __init__(
        self,
        message: str,
        *,
        unit: str,
        limit: Decimal,
        left: Decimal,
        needed: Decimal | None,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("refused", True)
        super().__init__(message, **common)
        self.unit = unit
        self.limit = limit
        self.left = left
        self.needed = needed


class JournalError(HiggsfieldError):
    """The journal cannot be read or written, or has not what is asked of it.

    From a submit it says that nothing was sent: what cannot be written down first is not paid for.
    """


class WaitTimeout(HiggsfieldError, TimeoutError):
    """The deadline of a wait has passed. The generation goes on, and can be waited for again.

    Attributes:
        job_set: The last state that was seen, or None. The last poll's error, if it failed, is the `__cause__`.
    """

    def __init__(self, message: str, *, job_set: JobSet | None, **common: Unpack[Common]) -> None:
        super().__init__(message, **common)
        self.job_set = job_set


class DownloadError(HiggsfieldError):
    """A result could not be fetched or written.

    Attributes:
        status: The HTTP status of the answer, or None.
    """

    def __init__(self, message: str, *, status: int | None = None, **common: Unpack[Common]) -> None:
        super().__init__(message, **common)
        self.status = status


class UploadError(HiggsfieldError):
    """A file could not be read, or could not be put where the service takes it.

    Attributes:
        status: The HTTP status of the answer, or None.
    """

    def __init__(self, message: str, *, status: int | None = None, **common: Unpack[Common]) -> None:
        super().__init__(message, **common)
        self.status = status


class WebhookError(HiggsfieldError):
    """A webhook that cannot be read, or that does not prove where it is from. Nothing was done with it.

    Attributes:
        status: The HTTP status to answer it with: 400 or 401. The service does not send it again after either.
    """

    def __init__(self, message: str, *, status: int, **common: Unpack[Common]) -> None:
        common.setdefault("charged", "unknown")
        super().__init__(message, **common)
        self.status = status
