"""Higgsfield inside a FastAPI application.

::

    app = FastAPI(lifespan=lifespan())
    app.include_router(generations_router(), prefix="/generations")

It needs the extra `fastapi`: `pip install 'higgsfield-async[fastapi]'`.
"""

# Annotations are evaluated here, unlike elsewhere: some name a dependency that is an argument of `generations_router`.

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from typing import Annotated, Any, TypeAlias, cast, get_args

import anyio
import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as DependsParam
from fastapi.routing import APIRoute
from sse_starlette.sse import EventSourceResponse
from starlette.requests import HTTPConnection
from starlette.types import Message

from higgsfield_async._client import Higgsfield
from higgsfield_async._domain import Estimate
from higgsfield_async._errors import (
    ConfigurationError,
    FieldError,
    HiggsfieldError,
    InvalidRequest,
    NotFound,
    SubmissionUnknown,
)
from higgsfield_async._events import Events, seconds_since_seen
from higgsfield_async._requests import (
    GenerationRequest,
    ModelRequest,
    Webhook,
    json_schema,
    read_request,
)
from higgsfield_async._task import GenerationTask
from higgsfield_async.sse import GenerationState, Problem, is_over, problem_of, state_of
from higgsfield_async.webhooks import unwrap

__all__ = ["Client", "HiggsfieldRoute", "event_stream", "generations_router", "get_client", "lifespan", "problem"]

logger = logging.getLogger("higgsfield_async.fastapi")

Dependency: TypeAlias = Callable[..., Any]
LastEventId: TypeAlias = Annotated[str | None, Header(description="Sent by a browser that connects again.")]


def lifespan(
    make: Callable[[], Higgsfield] = Higgsfield.from_env,
) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """A lifespan that opens one client with the application and closes it after it.

    Of an application with a lifespan of its own, it is a part: `async with lifespan(make)(app): …`.

    Args:
        make: Makes the client; called when the application starts.
    """

    @contextlib.asynccontextmanager
    async def opened(app: Any) -> AsyncGenerator[None]:
        async with make() as hf:
            app.state.higgsfield = hf
            try:
                yield
            finally:
                del app.state.higgsfield

    return opened


def get_client(connection: HTTPConnection) -> Higgsfield:
    """The application's client, as a dependency; a test puts another in its place by `app.dependency_overrides`.

    Raises:
        ConfigurationError: The application has not been started with `lifespan`.
    """
    hf = getattr(connection.app.state, "higgsfield", None)
    if not isinstance(hf, Higgsfield):
        msg = "This application has no client: make it with FastAPI(lifespan=lifespan()), or open one in its lifespan."
        raise ConfigurationError(msg)
    return hf


Client: TypeAlias = Annotated[Higgsfield, Depends(get_client)]
"""The application's client, as the type of a handler's argument."""


async def problem(request: Request, error: Exception) -> Response:  # noqa: ARG001  # what FastAPI calls it with
    """Answers with an error of ours as a problem document: `app.add_exception_handler(HiggsfieldError, problem)`.

    Nothing of this side is told: no key, no address, no word of the service about the account. The log has it, as an
    error where the fault is not the caller's.
    """
    if not isinstance(error, HiggsfieldError):
        raise error
    told = problem_of(error)
    if told.status >= 500:
        logger.error("Answered with %d: %s", told.status, error)
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    return Response(msgspec.json.encode(told), told.status, headers=headers, media_type="application/problem+json")


class HiggsfieldRoute(APIRoute):
    """A route whose handler may just await: `APIRouter(route_class=HiggsfieldRoute)`.

    Errors of ours are answered as problem documents. When the caller goes away the handler is cancelled: a wait ends,
    the generation that was paid for does not, and its ref is logged.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # noqa: D102  # FastAPI's
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await _while_connected(handler, request)
            except HiggsfieldError as error:
                return await problem(request, error)
            except RequestValidationError as error:
                return await problem(request, _invalid(error))

        return handle


def _invalid(error: RequestValidationError) -> InvalidRequest:
    # A request of ours that was refused inside pydantic has told which fields by itself.
    for each in error.errors():
        cause = getattr(each.get("ctx", {}).get("error"), "__cause__", None)
        if isinstance(cause, InvalidRequest):
            return cause
    errors = tuple(FieldError(tuple(each["loc"]), each["msg"], each["type"]) for each in error.errors())
    return InvalidRequest("; ".join(map(str, errors)), errors=errors)


async def _while_connected(handler: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
    inbox: asyncio.Queue[Message] = asyncio.Queue(1)

    async def watch(scope: anyio.CancelScope) -> None:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                scope.cancel()
                return
            # No further than one message ahead of the handler: a body is not collected here.
            await inbox.put(message)

    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(watch(scope), name="higgsfield_async.watch")
        try:
            return await handler(Request(request.scope, inbox.get))
        finally:
            watcher.cancel()
    logger.info("The caller of %s %s went away.", request.method, request.url.path)
    # Nobody reads it: it says to the server's own log what became of the request.
    return Response(status_code=499)


def event_stream(*tasks: GenerationTask, last_event_id: str | None = None, heartbeat: float = 15.0) -> Response:
    """The states of some generations as server-sent events, or 204 where all was told before.

    It ends when all of them have ended, when the caller goes away, and when uvicorn shuts down.

    Args:
        tasks: What to watch.
        last_event_id: The request's `Last-Event-ID`.
        heartbeat: Seconds after which a comment is sent when there was nothing to tell.
    """
    if is_over(last_event_id or ""):
        return Response(status_code=204)
    stream = Events(tasks, last_event_id or "", heartbeat)
    return EventSourceResponse(
        stream, ping=0, shutdown_event=cast("anyio.Event", _Shutdown(stream)), shutdown_grace_period=STOPPING
    )


# How long a stream has to end by itself when the server shuts down, in seconds.
STOPPING = 2.0


class _Shutdown:
    """What sse-starlette sets when uvicorn shuts down: no more of an event than that is used.

    Without it, the response is cut off in the middle, and uvicorn takes that for an error of the application.
    """

    def __init__(self, stream: Events) -> None:
        self.set = stream.stop


def generations_router(  # noqa: C901  # one function for each route
    *,
    client: Dependency = get_client,
    requests: Sequence[type[GenerationRequest]] = get_args(GenerationRequest),
    webhook: Webhook | None = None,
    webhook_secrets: str | Iterable[str] = (),
    dependencies: Sequence[DependsParam] = (),
) -> APIRouter:
    """Everything a page needs: what it costs, submit, look, watch, cancel, and the service's webhooks.

    A request is posted to the kebab-case name of its class (`/image-to-video`, `/model-request`), with its fields as
    JSON, and answered with 202, a `Location` and a `GenerationState`. With an `Idempotency-Key` the same post again,
    after a lost answer or a second click, gives the same generation. `/estimate` behind it tells what it would cost.
    Whoever may reach this router spends money.

    Args:
        client: The dependency that gives the client. An application with two clients makes two routers.
        requests: The request classes to offer.
        webhook: Where the platform reports ends: the public address of this router's `/webhook`.
        webhook_secrets: As for `higgsfield_async.webhooks.unwrap`. Without them, a webhook is a hint to look.
        dependencies: For every route but the webhook, which the service calls: what lets a caller in, or not.
    """
    router = APIRouter(route_class=HiggsfieldRoute, tags=["generations"])
    looks = _Looks()
    submits = _Submits(webhook)
    secrets = (webhook_secrets,) if isinstance(webhook_secrets, str) else tuple(webhook_secrets)

    def offer(kind: type[GenerationRequest]) -> None:
        path = "/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
        body = {"required": True, "content": {"application/json": {"schema": json_schema(kind)}}}
        words = path[1:].replace("-", " ")

        @router.post(
            path,
            name=f"submit_{words}",
            summary=f"Submit: {words}",
            status_code=202,
            response_class=Response,
            responses=_answers({202: GenerationState}, 402, 404, 409, 413, 422, 429, 502, 503),
            openapi_extra={"requestBody": body},
            dependencies=[*dependencies],
        )
        async def submit(
            request: Request,
            hf: Annotated[Higgsfield, Depends(client)],
            idempotency_key: Annotated[str | None, Header(pattern=r"^[\x21-\x7e]{1,255}$")] = None,
        ) -> Response:
            raw = await _body(request, LONGEST_BODY)
            task = await submits.submit(hf, _parsed(kind, raw), raw, idempotency_key)
            location = request.url.path.rpartition("/")[0] + "/" + task.ref.short
            return _told(task, 202, {"Location": location})

        @router.post(
            f"{path}/estimate",
            name=f"estimate_{words}",
            summary=f"What it will cost: {words}",
            response_class=Response,
            responses=_answers({200: Estimate}, 404, 409, 413, 422, 429, 502, 503),
            openapi_extra={"requestBody": body},
            dependencies=[*dependencies],
        )
        async def estimate(request: Request, hf: Annotated[Higgsfield, Depends(client)]) -> Response:
            estimated = await hf.estimate(_parsed(kind, await _body(request, LONGEST_BODY)))
            return Response(msgspec.json.encode(estimated), media_type="application/json")

    # Before what takes any ref: of two routes that a path may mean, the first answers for the methods that it has not.
    for each in requests:
        offer(each)

    @router.post(
        "/webhook",
        name="webhook",
        summary="For the service: the end of a generation",
        status_code=204,
        response_class=Response,
        responses=_answers({204: None}, 400, 401, 413, 422, 503),
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _REPORT}}}},
    )
    async def receive(request: Request, hf: Annotated[Higgsfield, Depends(client)]) -> Response:
        raw = await _body(request, LONGEST_WEBHOOK)
        hf.deliver(unwrap(raw, request.headers, secrets=secrets))
        return Response(status_code=204)

    @router.get(
        "/events",
        name="watch_several",
        summary="Watch several generations, as server-sent events",
        response_class=Response,
        responses=_answers({200: _STREAM, 204: None}, 404, 422),
        dependencies=[*dependencies],
    )
    async def watch_several(
        hf: Annotated[Higgsfield, Depends(client)],
        ref: Annotated[list[str], Query(min_length=1, max_length=MOST_WATCHED)],
        last_event_id: LastEventId = None,
    ) -> Response:
        return event_stream(*(_found(hf, each) for each in ref), last_event_id=last_event_id)

    @router.get(
        "/{ref}/events",
        name="watch",
        summary="Watch a generation, as server-sent events",
        response_class=Response,
        responses=_answers({200: _STREAM, 204: None}, 404, 422),
        dependencies=[*dependencies],
    )
    async def watch(
        ref: str, hf: Annotated[Higgsfield, Depends(client)], last_event_id: LastEventId = None
    ) -> Response:
        task = _found(hf, ref)
        if task.job_set is None and not is_over(last_event_id or ""):
            # A browser takes an error for final: only what is so may be answered with one.
            with anyio.move_on_after(FIRST_LOOK):
                try:
                    await looks.fresh(task)
                except HiggsfieldError as error:
                    if not error.transient:
                        raise
        return event_stream(task, last_event_id=last_event_id)

    @router.get(
        "/{ref}",
        name="state",
        summary="The state of a generation",
        response_class=Response,
        responses=_answers({200: GenerationState}, 404, 422, 429, 502, 503),
        dependencies=[*dependencies],
    )
    async def state(ref: str, hf: Annotated[Higgsfield, Depends(client)]) -> Response:
        task = _found(hf, ref)
        await looks.fresh(task)
        return _told(task, 200)

    @router.post(
        "/{ref}/cancel",
        name="cancel",
        summary="Cancel a generation that is still queued",
        status_code=202,
        response_class=Response,
        responses=_answers({202: GenerationState}, 404, 409, 422, 429, 502, 503),
        dependencies=[*dependencies],
    )
    async def cancel(ref: str, hf: Annotated[Higgsfield, Depends(client)]) -> Response:
        task = _found(hf, ref)
        await task.cancel()
        return _told(task, 202)

    return router


# The proxy takes 10 MiB, the platform less.
LONGEST_BODY, LONGEST_WEBHOOK = 11 * 1024 * 1024, 1024 * 1024
# In one stream: a longer query would not pass every gateway.
MOST_WATCHED = 50
# What was seen within so many seconds is not asked for again: the platform's own guidance for the first poll.
FRESH = 2.0
# How long a stream's headers may wait for the first look at a generation that this process does not know.
FIRST_LOOK = 5.0
# So many submits are remembered by their keys, for so many seconds.
KEYS_AT_MOST, KEYS_KEPT = 10_000, 24 * 3600.0
_STREAM = "text/event-stream"


def _answers(good: dict[int, Any], *bad: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer, for its OpenAPI document."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status, kind in good.items():
        if kind is None:
            answers[status] = {"description": "Nothing more to say"}
        elif kind is _STREAM:
            answers[status] = {"description": "Events", "content": {_STREAM: {"schema": _event_schema()}}}
        else:
            schema = json_schema(kind)
            answers[status] = {
                "description": schema["description"],
                "content": {"application/json": {"schema": schema}},
            }
    told = {"application/problem+json": {"schema": json_schema(Problem)}}
    return answers | {status: {"description": "A problem document", "content": told} for status in sorted({*bad, 500})}


def _event_schema() -> dict[str, Any]:
    told = {"anyOf": [json_schema(GenerationState), json_schema(Problem)]}
    fields = {
        "id": {"type": "string"},
        "event": {"enum": ["message", "problem"]},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": told},
    }
    return {"type": "object", "properties": fields, "required": ["id", "data"]}


# The three forms that the platform's reports have had.
_REPORT = {
    "type": "object",
    "anyOf": [
        {
            "properties": {
                "request_id": {"type": "string", "minLength": 1},
                "status": {"type": "string", "minLength": 1},
            },
            "required": ["request_id", "status"],
        },
        {
            "properties": {
                "request_id": False,
                "id": {"type": "string", "minLength": 1},
                "jobs": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            },
            "required": ["id", "jobs"],
        },
    ],
}


def _told(task: GenerationTask, status: int, headers: dict[str, str] | None = None) -> Response:
    # A state is true for a moment: nobody on the way is to keep it.
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(state_of(task)), status, headers=headers, media_type="application/json")


def _found(hf: Higgsfield, ref: str) -> GenerationTask:
    try:
        return hf.task(ref)
    except ConfigurationError:
        msg = "There is no such generation."
        raise NotFound(msg, status=404, charged="unknown") from None


async def _body(request: Request, most: int) -> bytes:
    """The whole body, refused as soon as it is too long."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            error = FieldError(("body",), f"is longer than {most:,} bytes", "too_long")
            raise InvalidRequest(f"{error}.", errors=(error,), status=413)
        parts.append(part)
    return b"".join(parts)


def _parsed(kind: type[GenerationRequest], raw: bytes) -> GenerationRequest:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        error = FieldError(("body",), "is not JSON", "json_invalid")
        raise InvalidRequest(f"{error}.", errors=(error,)) from None
    return read_request(kind, value)


class _Looks:
    """Looks for callers that ask once: one for all who ask at the same moment, and none where the last is new."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    async def fresh(self, task: GenerationTask) -> None:
        if seconds_since_seen(task) < FRESH:
            return
        key = task.ref.short
        look = self._under_way.get(key)
        if look is None:
            look = self._under_way[key] = asyncio.create_task(task.refresh(), name="higgsfield_async.look_once")
            look.add_done_callback(lambda done: self._done(key, done))
        await asyncio.shield(look)

    def _done(self, key: str, look: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        _ = look.cancelled() or look.exception()  # whoever asked may be gone


class _Submits:
    """Submits, each key once.

    The platform keeps a `ModelRequest`'s key itself. For all else this process does, so that a post that is made again
    does not pay again; not beyond a restart.
    """

    def __init__(self, webhook: Webhook | None) -> None:
        self._webhook = webhook
        self._known: OrderedDict[str, tuple[float, bytes, asyncio.Task[GenerationTask]]] = OrderedDict()

    async def submit(self, hf: Higgsfield, request: GenerationRequest, raw: bytes, key: str | None) -> GenerationTask:
        webhook = self._webhook
        if webhook is not None and isinstance(request, ModelRequest):
            webhook = Webhook(webhook.url)  # the account's own secret signs these
        if key is None:
            return await hf.submit(request, webhook=webhook)
        now = time.monotonic()
        while self._known and (len(self._known) > KEYS_AT_MOST or next(iter(self._known.values()))[0] < now):
            self._known.popitem(last=False)
        fingerprint = hashlib.blake2b(type(request).__name__.encode() + raw).digest()
        known = self._known.get(key)
        if known is not None and known[1] != fingerprint:
            error = FieldError(("header", "Idempotency-Key"), "was used with another request", "value_error")
            raise InvalidRequest(f"{error}.", errors=(error,), status=409)
        keyed = key if isinstance(request, ModelRequest) else None
        resumes = known is not None and keyed is not None and _is_lost(known[2])
        if known is None or resumes:
            submitting = asyncio.create_task(
                hf.submit(request, webhook=webhook, idempotency_key=keyed, resumes=resumes),
                name="higgsfield_async.keyed_submit",
            )
            known = self._known[key] = now + KEYS_KEPT, fingerprint, submitting
            submitting.add_done_callback(lambda done: self._done(key, done))
        try:
            return await asyncio.shield(known[2])
        except asyncio.CancelledError:
            known[2].add_done_callback(_left_behind)
            raise

    def _done(self, key: str, submitting: asyncio.Task[GenerationTask]) -> None:
        # What was not accepted may be tried again.
        if submitting.cancelled() or (submitting.exception() is not None and not _is_lost(submitting)):
            self._known.pop(key, None)


def _is_lost(submitting: asyncio.Task[GenerationTask]) -> bool:
    return submitting.done() and not submitting.cancelled() and isinstance(submitting.exception(), SubmissionUnknown)


def _left_behind(submitting: asyncio.Task[GenerationTask]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        logger.warning("A submit whose caller went away was accepted: %s", submitting.result().ref.to_json())
