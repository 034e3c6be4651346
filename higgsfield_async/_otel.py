"""Tells OpenTelemetry, through its API alone: whether anybody listens is for the application to say.

Imported when a client is first opened, where the package is installed.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import threading
import time
from collections.abc import Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from higgsfield_async._domain import Estimate, JobStatus, TaskRef, without_query
from higgsfield_async._errors import HiggsfieldError
from higgsfield_async._telemetry import (
    CHARGED,
    DELAY,
    DURATION,
    ERROR_TYPE,
    GENERATION,
    HTTP_METHOD,
    HTTP_RESENDS,
    HTTP_STATUS,
    KIND,
    MEDIA_KIND,
    MODEL,
    NOTHING,
    OPEN,
    OPERATION,
    PROVIDER,
    RESPONSE_ID,
    RETRIED,
    RETRIES,
    SCHEMA,
    SERVER,
    SERVER_PORT,
    SERVICE,
    SPENT,
    STATUS,
    URL_FULL,
    VERIFIED,
    WAITING,
    Counted,
    Observed,
    Tried,
)

_NAME = "higgsfield_async"
_VERSION = importlib.metadata.version("higgsfield-async")
# Of the operations that the conventions know, this is what makes images and videos.
_OPERATION, _PROVIDER = "generate_content", "higgsfield"

# For so many seconds it is taken for granted that nobody listens: to ask costs more than a span that nobody takes.
_ASKED = 1.0

_GENERATIONS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0)
_DELAYS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0)

_Attributes = Mapping[str, str | int | bool]


class _Observed:
    """A span, current while it is entered."""

    __slots__ = ("_base", "_kept", "_span", "_token")

    def __init__(self, span: trace.Span, base: Context | None = None) -> None:
        self._span = span
        self._base = base
        self._kept = False
        self._token: Token[Context] | None = None

    @property
    def origin(self) -> SpanContext:
        return self._span.get_span_context()

    def __enter__(self) -> Self:
        self._token = attach(trace.set_span_in_context(self._span, self._base))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is closed as it is collected is closed in some other context.
        if self._token is not None and kind is not GeneratorExit:
            detach(self._token)
        if not self._kept:
            self.end(error)

    def generation(self, identifier: str) -> None:
        self._span.set_attributes({GENERATION: identifier, RESPONSE_ID: identifier})

    def status(self, status: JobStatus) -> None:
        self._span.set_attribute(STATUS, status.value)

    def answered(self, status: int) -> None:
        self._span.set_attribute(HTTP_STATUS, status)
        if status >= 400:
            self._fail(str(status))

    def keep(self) -> None:
        self._kept = True

    def until(self, task: asyncio.Task[Any]) -> None:
        self._kept = True
        task.add_done_callback(self._over)

    def end(self, error: BaseException | None = None) -> None:
        # To be cancelled is none, and no exception in that sense.
        if isinstance(error, Exception):
            self._fail(type(error).__name__)
        self._span.end()
        self._span = trace.INVALID_SPAN

    def _over(self, task: asyncio.Task[Any]) -> None:
        self.end(None if task.cancelled() else task.exception())

    def _fail(self, what: str) -> None:
        # Its kind alone: what a service or a library says of an error may hold what was sent.
        self._span.set_attribute(ERROR_TYPE, what)
        self._span.set_status(Status(StatusCode.ERROR))


class _Telemetry:
    """One in a process: its metrics count every client."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(_NAME, _VERSION, schema_url=SCHEMA)
        meter = metrics.get_meter(_NAME, _VERSION, schema_url=SCHEMA)
        self._on = False
        self._ask_at = -1.0
        self._clients: WeakKeyDictionary[Counted, str] = WeakKeyDictionary()
        # Metrics are read in a thread of their own.
        self._lock = threading.Lock()
        self._duration = meter.create_histogram(
            DURATION,
            "s",
            "From the answer to the submit of a generation until its end was known.",
            explicit_bucket_boundaries_advisory=_GENERATIONS,
        )
        self._delay = meter.create_histogram(
            DELAY,
            "s",
            "The most that a generation can have ended before its end was known.",
            explicit_bucket_boundaries_advisory=_DELAYS,
        )
        self._retries = meter.create_counter(RETRIES, "{retry}", "What failed and is tried again.")
        self._spent = {
            unit: meter.create_up_down_counter(f"{SPENT}.{unit}", f"{{{one}}}", f"What was charged, in {unit}.")
            for unit, one in (("points", "point"), ("credits", "credit"), ("usd", "USD"))
        }
        meter.create_observable_up_down_counter(
            OPEN, [self._open], "{generation}", "Generations that are not seen to have ended."
        )
        meter.create_observable_up_down_counter(
            WAITING, [self._waiting], "{submit}", "Submits that wait for a place, are held back, or are under way."
        )

    # Spans.

    def submit(self, service: str, origin: str, kind: str) -> Observed:
        attributes = {
            OPERATION: _OPERATION,
            PROVIDER: _PROVIDER,
            MODEL: kind,
            SERVICE: service,
            KIND: kind,
            **_server(origin),
        }
        return self._begin(f"submit {kind}", attributes, kind=SpanKind.CLIENT)

    def wait(self, ref: TaskRef, submitted: object) -> Observed:
        return self._begin(f"wait {ref.kind}", _about(ref), submitted)

    def poll(self, ref: TaskRef, submitted: object, *, scheduled: bool) -> Observed:
        # Nothing is told of most of them.
        if not self._listening():
            return NOTHING
        return self._begin(f"poll {ref.kind}", _about(ref), submitted, base=Context() if scheduled else None)

    def webhook(self, ref: TaskRef | None, submitted: object, *, verified: bool) -> Observed:
        # Of one that is not known here, nothing: anybody may have sent it.
        about = {} if ref is None else _about(ref)
        return self._begin(
            "webhook" if ref is None else f"webhook {ref.kind}", {**about, VERIFIED: verified}, submitted
        )

    def download(self, kind: str) -> Observed:
        return self._begin(f"download {kind}", {MEDIA_KIND: kind})

    def exchange(self, method: str, url: str, resends: int = 0) -> Observed:
        if not self._listening():
            return NOTHING
        attributes = {HTTP_METHOD: method, URL_FULL: without_query(url), **_server(url)}
        if resends:
            attributes[HTTP_RESENDS] = resends
        return self._begin(method, attributes, kind=SpanKind.CLIENT)

    def _begin(
        self,
        name: str,
        attributes: _Attributes,
        submitted: object = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        base: Context | None = None,
    ) -> Observed:
        if not self._listening():
            return NOTHING
        links = [Link(submitted)] if isinstance(submitted, SpanContext) else None
        span = self._tracer.start_span(name, context=base, kind=kind, attributes=attributes, links=links)
        return _Observed(span, base)

    def _listening(self) -> bool:
        if not self._on and (now := time.monotonic()) >= self._ask_at:
            self._ask_at = now + _ASKED
            self._on = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        return self._on

    # Metrics.

    def retried(self, what: Tried, error: HiggsfieldError) -> None:
        self._retries.add(1, {RETRIED: what, ERROR_TYPE: type(error).__name__})

    def ended(self, ref: TaskRef, status: JobStatus, *, lasted: float | None, late: float | None) -> None:
        attributes = {OPERATION: _OPERATION, PROVIDER: _PROVIDER, MODEL: ref.kind, **_server(ref.origin)}
        if status is not JobStatus.COMPLETED:
            attributes[ERROR_TYPE] = status.value
        if lasted is not None:
            self._duration.record(lasted, attributes)
        if late is not None:
            self._delay.record(late, {MODEL: ref.kind, SERVICE: ref.transport})

    def spent(self, kind: str, charged: str, price: Estimate, times: int) -> None:
        for unit, counter in self._spent.items():
            amount = getattr(price, unit)
            if amount is not None:
                counter.add(times * float(amount), {MODEL: kind, CHARGED: charged})

    def watch(self, client: Counted, service: str) -> None:
        self._ask_at = -1.0  # whoever listens may have begun since another client was opened
        with self._lock:
            self._clients[client] = service

    def forget(self, client: Counted) -> None:
        with self._lock:
            self._clients.pop(client, None)

    def _open(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        sums: dict[tuple[str, str], int] = {}
        for client, service in self._watched():
            counts = client.stats()
            for status, count in (("queued", counts.queued), ("in_progress", counts.running)):
                sums[service, status] = sums.get((service, status), 0) + count
        return [metrics.Observation(count, {SERVICE: at[0], STATUS: at[1]}) for at, count in sums.items()]

    def _waiting(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        sums: dict[str, int] = {}
        for client, service in self._watched():
            sums[service] = sums.get(service, 0) + client.stats().waiting
        return [metrics.Observation(count, {SERVICE: service}) for service, count in sums.items()]

    def _watched(self) -> list[tuple[Counted, str]]:
        with self._lock:
            return list(self._clients.items())


def _about(ref: TaskRef) -> dict[str, str | int | bool]:
    return {SERVICE: ref.transport, KIND: ref.kind, GENERATION: ref.id}


@functools.lru_cache(maxsize=256)
def _server_of(scheme: str, netloc: str) -> dict[str, str | int | bool]:
    parts = urlsplit(f"{scheme}://{netloc}")
    return {SERVER: parts.hostname or "", SERVER_PORT: parts.port or (443 if scheme == "https" else 80)}


def _server(url: str) -> dict[str, str | int | bool]:
    parts = urlsplit(url)
    return _server_of(parts.scheme, parts.netloc)


TELEMETRY = _Telemetry()
