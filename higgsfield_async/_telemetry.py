"""What is told of the work: spans and metrics, where OpenTelemetry is installed, and the fields of log records.

Every name in any of them is in this module. Nothing is told that is secret: no key, no prompt, no signed address.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

from higgsfield_async._domain import Estimate, JobStatus, TaskRef
from higgsfield_async._errors import HiggsfieldError

# Of OpenTelemetry's conventions: https://opentelemetry.io/docs/specs/semconv/
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
ERROR_TYPE = "error.type"
HTTP_METHOD = "http.request.method"
HTTP_RESENDS = "http.request.resend_count"
HTTP_STATUS = "http.response.status_code"
MODEL = "gen_ai.request.model"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
RESPONSE_ID = "gen_ai.response.id"
SERVER = "server.address"
SERVER_PORT = "server.port"
URL_FULL = "url.full"

# Our own.
SERVICE = "higgsfield.service"
GENERATION = "higgsfield.generation.id"
KIND = "higgsfield.generation.kind"
STATUS = "higgsfield.generation.status"
REF = "higgsfield.generation.ref"
PAID = "higgsfield.paid"
CHARGED = "higgsfield.generation.charged"
MEDIA_KIND = "higgsfield.media.kind"
RETRIED = "higgsfield.retry.of"
VERIFIED = "higgsfield.webhook.verified"

# The metrics.
DURATION = "gen_ai.client.operation.duration"
DELAY = "higgsfield.client.generation.delay"
OPEN = "higgsfield.client.generations.open"
WAITING = "higgsfield.client.submits.waiting"
RETRIES = "higgsfield.client.retries"
SPENT = "higgsfield.client.spent"

Tried: TypeAlias = Literal["submit", "poll", "other", "download", "upload"]


class Observed(Protocol):
    """One piece of work that is under way. While it is entered, what begins is a part of it; left, it has ended.

    Attributes:
        origin: What a later piece of work can be linked to, or None.
    """

    @property
    def origin(self) -> object: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def generation(self, identifier: str) -> None:
        """Tells which generation it came to."""
        ...

    def status(self, status: JobStatus) -> None:
        """Tells the status that was seen last."""
        ...

    def answered(self, status: int) -> None:
        """Tells the HTTP status of the answer."""
        ...

    def keep(self) -> None:
        """Has it go on when it is left, until its `end`. It may be entered again."""
        ...

    def until(self, task: asyncio.Task[Any]) -> None:
        """Has it go on when it is left, until this task has ended."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Ends it. To be cancelled is no error. Only the first time counts."""
        ...


class Counts(Protocol):
    """A client's counts at one moment: see `Stats`."""

    @property
    def waiting(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def running(self) -> int: ...


class Counted(Protocol):
    """A client."""

    def stats(self) -> Counts:
        """Its counts now. It may be asked from another thread."""
        ...


class Telemetry(Protocol):
    """Where it is told. `submitted` is the `origin` of a generation's submit, or None where that is not known here."""

    def submit(self, service: str, origin: str, kind: str) -> Observed:
        """A submit begins, with whatever must be done for it first."""
        ...

    def wait(self, ref: TaskRef, submitted: object) -> Observed:
        """A caller begins to wait."""
        ...

    def poll(self, ref: TaskRef, submitted: object, *, scheduled: bool) -> Observed:
        """A look at a generation begins: the schedule's, which is nobody's part, or a caller's own."""
        ...

    def webhook(self, ref: TaskRef | None, submitted: object, *, verified: bool) -> Observed:
        """What a webhook says is taken."""
        ...

    def download(self, kind: str) -> Observed:
        """An output begins to be fetched."""
        ...

    def exchange(self, method: str, url: str, resends: int = 0) -> Observed:
        """A request is sent, after so many tries of the same."""
        ...

    def retried(self, what: Tried, error: HiggsfieldError) -> None:
        """Something will be tried again."""
        ...

    def ended(self, ref: TaskRef, status: JobStatus, *, lasted: float | None, late: float | None) -> None:
        """The end of a generation was seen.

        Args:
            ref: What it is.
            status: How it ended.
            lasted: The seconds since its submit was answered here; None where it was not submitted here.
            late: The most seconds that it can have ended before; None where nobody can tell.
        """
        ...

    def spent(self, kind: str, charged: str, price: Estimate, times: int) -> None:
        """So many generations were charged, or may have been; below zero, they were not after all."""
        ...

    def watch(self, client: Counted, service: str) -> None:
        """Has a client counted until it is forgotten, or gone."""
        ...

    def forget(self, client: Counted) -> None:
        """Ends what `watch` began."""
        ...


class _Nothing:
    __slots__ = ()
    origin: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def generation(self, identifier: str) -> None:
        pass

    def status(self, status: JobStatus) -> None:
        pass

    def answered(self, status: int) -> None:
        pass

    def keep(self) -> None:
        pass

    def until(self, task: asyncio.Task[Any]) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


NOTHING = _Nothing()


class _Silent:
    """Tells nobody."""

    def submit(self, service: str, origin: str, kind: str) -> Observed:
        return NOTHING

    def wait(self, ref: TaskRef, submitted: object) -> Observed:
        return NOTHING

    def poll(self, ref: TaskRef, submitted: object, *, scheduled: bool) -> Observed:
        return NOTHING

    def webhook(self, ref: TaskRef | None, submitted: object, *, verified: bool) -> Observed:
        return NOTHING

    def download(self, kind: str) -> Observed:
        return NOTHING

    def exchange(self, method: str, url: str, resends: int = 0) -> Observed:
        return NOTHING

    def retried(self, what: Tried, error: HiggsfieldError) -> None:
        pass

    def ended(self, ref: TaskRef, status: JobStatus, *, lasted: float | None, late: float | None) -> None:
        pass

    def spent(self, kind: str, charged: str, price: Estimate, times: int) -> None:
        pass

    def watch(self, client: Counted, service: str) -> None:
        pass

    def forget(self, client: Counted) -> None:
        pass


SILENT: Telemetry = _Silent()


@functools.cache
def telemetry() -> Telemetry:
    """Where it is told in this process. It takes an import, the first time: not for the event loop."""
    try:
        found: Telemetry = importlib.import_module("higgsfield_async._otel").TELEMETRY
    except (ImportError, TypeError):
        # Not there; or something else has brought one that is older than the extra asks for.
        return SILENT
    return found


def fields(ref: TaskRef | None = None, error: BaseException | None = None, *, paid: bool = False) -> dict[str, object]:
    """The fields of a log record, for its `extra`: named as the attributes of spans are.

    Args:
        ref: The generation that it is about; else that of the error.
        error: What happened.
        paid: Whether the record is all that is left of what was paid for, or may have been.
    """
    ref = ref or getattr(error, "ref", None)
    found: dict[str, object] = {PAID: True} if paid else {}
    if ref is not None:
        found |= {SERVICE: ref.transport, GENERATION: ref.id, KIND: ref.kind, REF: ref.to_json()}
    if error is not None:
        found[ERROR_TYPE] = type(error).__name__
        if (status := getattr(error, "status", None)) is not None:
            found[HTTP_STATUS] = status
    return found


class LastWords(logging.Handler):
    """Prints nothing, but what nobody else hears and must not be lost: what is `paid`."""

    def emit(self, record: logging.LogRecord) -> None:
        if PAID in record.__dict__ and logging.lastResort is not None and not self._is_heard(record):
            logging.lastResort.handle(record)

    def _is_heard(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False
