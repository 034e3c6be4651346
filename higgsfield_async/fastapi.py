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
import itertools
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, cast, get_args
from urllib.parse import quote
from weakref import WeakKeyDictionary

import anyio
import msgspec

from higgsfield_async._client import Higgsfield
from higgsfield_async._domain import Estimate, JobSet, TaskRef
from higgsfield_async._errors import (
    ConfigurationError,
    FieldError,
    HiggsfieldError,
    InvalidRequest,
    NotFound,
    SubmissionUnknown,
)
from higgsfield_async._events import Events, seconds_since_seen
from higgsfield_async._polling import ends_wait
from higgsfield_async._requests import (
    CharacterTraining,
    GenerationRequest,
    ModelRequest,
    Webhook,
    json_schema,
    read_request,
)
from higgsfield_async._task import GenerationTask
from higgsfield_async._telemetry import fields
from higgsfield_async.sse import GenerationState, Problem, is_over, problem_of, state_of

try:
    from fastapi import APIRouter, Depends, Header, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.params import Depends as DependsParam
    from fastapi.routing import APIRoute
    from sse_starlette.sse import EventSourceResponse
    from starlette.requests import HTTPConnection
    from starlette.types import Message, Receive, Scope, Send

    from higgsfield_async.webhooks import checked_secrets, unwrap
except ImportError as error:
    message = f"A FastAPI application needs what is missing ({error.name}): pip install 'higgsfield-async[fastapi]'."
    raise ConfigurationError(message) from error

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


# Not for what it awaits, but since FastAPI runs a plain function in a thread, for each request.
async def get_client(connection: HTTPConnection) -> Higgsfield:
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
        logger.error("Answered with %d: %s", told.status, error, extra=fields(error=error))
    return _problem(told, {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))})


def _problem(told: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(told), told.status, headers=headers, media_type="application/problem+json")


class HiggsfieldRoute(APIRoute):
    """A route whose handler may just await: `APIRouter(route_class=HiggsfieldRoute)`.

    Errors of ours are answered as problem documents, after all dependencies have seen them. When the caller goes away
    before the answer begins, the handler is cancelled: a wait ends, the generation that was paid for does not, and its
    ref is logged.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # noqa: D102  # FastAPI's
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                raise _invalid(error) from error

        return handle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102  # Starlette's
        # Around everything of FastAPI's: what it keeps open for dependencies is entered and left inside.
        handling = asyncio.current_task()
        assert handling is not None  # noqa: S101  # this is a coroutine
        caller = _Caller(receive, send)
        watcher = asyncio.create_task(caller.watch(handling), name="higgsfield_async.watch")
        try:
            await super().handle(scope, caller.receive, caller.send)
        except HiggsfieldError as error:
            if caller.answered:
                raise
            response = await problem(Request(scope), error)
            await response(scope, receive, send)
        except asyncio.CancelledError:
            if not caller.gone or handling.cancelling() > 1:
                raise
            logger.info("The caller of %s %r went away.", scope["method"], scope["path"])
        finally:
            watcher.cancel()
            if caller.gone:
                handling.uncancel()


class _Caller:
    """The two ends of a connection, watched: a caller that goes away before the answer begins ends what is waited for.

    It reads ahead of the handler, which may not read at all; by so many messages, and no body is collected here.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._inbox: asyncio.Queue[Message | Exception] = asyncio.Queue(16)
        self.answered = False
        self.gone = False

    async def watch(self, handling: asyncio.Task[Any]) -> None:
        message: Message | Exception = {}
        while not isinstance(message, Exception) and message.get("type") != "http.disconnect":
            try:
                message = await self._receive()
            except Exception as error:  # noqa: BLE001  # some middleware's: it is raised where it is received
                message = error
            await self._inbox.put(message)
        if not self.answered and not isinstance(message, Exception):
            self.gone = True
            # Once, and not a scope of anyio's: whatever is open may clean up, and await what it needs for that.
            handling.cancel()

    async def receive(self) -> Message:
        message = await self._inbox.get()
        if isinstance(message, Exception) or message["type"] == "http.disconnect":
            self._inbox.put_nowait(message)  # there is no other after it, however often it is asked for
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        self.answered = True
        await self._send(message)


def _invalid(error: RequestValidationError) -> InvalidRequest:
    # A request of ours that was refused inside pydantic has told which fields by itself.
    for each in error.errors():
        cause = getattr(each.get("ctx", {}).get("error"), "__cause__", None)
        if isinstance(cause, InvalidRequest):
            return cause
    errors = tuple(FieldError(tuple(each["loc"]), each["msg"], each["type"]) for each in error.errors())
    return InvalidRequest("; ".join(map(str, errors)), errors=errors)


def event_stream(*tasks: GenerationTask, last_event_id: str | None = None, heartbeat: float = 15.0) -> Response:
    """The states of some generations as server-sent events, or 204 where all was told before.

    It ends when all of them have ended, when the caller goes away, and when uvicorn shuts down.

    Args:
        tasks: What to watch.
        last_event_id: The request's `Last-Event-ID`.
        heartbeat: Seconds after which a comment is sent when there was nothing to tell.
    """
    if is_over(last_event_id or "", len(tasks)):
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
    after a lost answer or a second click, gives the same generation: the client's journal knows it as `post:` and that
    key; without one, the platform knows the key of a `ModelRequest`, and this process any other, for a day. A post with
    a key is finished even when its caller goes away. `/estimate` behind it tells what it would cost.
    Whoever may reach this router spends money.

    Args:
        client: The dependency that gives the client. An application with two clients makes two routers.
        requests: The request classes to offer.
        webhook: Where the platform reports ends: the public address of this router's `/webhook`, which is there when
            this or `webhook_secrets` is given.
        webhook_secrets: As for `higgsfield_async.webhooks.unwrap`. Without them, a webhook is a hint to look.
        dependencies: For every route but the webhook, which the service calls: what lets a caller in, or not.
    """
    router = APIRouter(route_class=HiggsfieldRoute, tags=["generations"])
    looks = _Looks()
    submits = _Submits(webhook)
    secrets = checked_secrets(webhook_secrets)

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
            wanted = await _read(request, kind)
            # Made before anything is paid for: nothing that may fail stands between that and the answer.
            here = _path(request).rpartition("/")[0]
            ref = await submits.submit(hf, wanted, idempotency_key)
            if isinstance(ref, Problem):
                return _problem(ref)
            logger.info("Accepted: %s", ref.to_json(), extra=fields(ref))
            return _told(hf.task(ref), 202, {"Location": f"{here}/{ref.short}"})

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
            estimated = await hf.estimate(await _read(request, kind))
            return Response(msgspec.json.encode(estimated), media_type="application/json")

    # Before what takes any ref: of two routes that a path may mean, the first answers for the methods that it has not.
    for each in requests:
        offer(each)

    if webhook is not None or secrets:

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
                    await looks.fresh(hf, task)
                except HiggsfieldError as error:
                    if ends_wait(error):
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
        await looks.fresh(hf, task)
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


# Pictures and recordings may stand in any request as base64: 10 MiB, as the proxy takes them. Nothing else is long, and
# to look through it is work. Of a longer body, so many parts: each has one of these marks, which base64 has not.
LONGEST_WITH_PICTURES, LONGEST_BODY, LONGEST_WEBHOOK = 10 * 2**20 + 2**16, 2**20, 2**18
MOST_PARTS, _MARKS = 10_000, (b",", b"[", b"{")
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
        if not ref.startswith("{"):
            return hf.task(ref)
    except ConfigurationError:
        pass
    msg = "There is no such generation."
    raise NotFound(msg, status=404, charged="unknown")


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


async def _read(request: Request, kind: type[GenerationRequest]) -> GenerationRequest:
    """The request in the body.

    Raises:
        InvalidRequest: There is none, or it is too long.
    """
    raw = await _body(request, LONGEST_WITH_PICTURES)
    try:
        if len(raw) > LONGEST_BODY:
            if sum(raw.count(mark) for mark in _MARKS) > MOST_PARTS:
                error = FieldError(("body",), f"is longer than {LONGEST_BODY:,} bytes, and not by pictures", "too_long")
                raise InvalidRequest(f"{error}.", errors=(error,), status=413)
            # Decoded as what it is to be, it fails at the first thing that is not: nothing of this length is explained.
            return msgspec.json.decode(raw, type=kind)
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        error = FieldError(("body",), "is not the JSON that was expected", "json_invalid")
        raise InvalidRequest(f"{error}.", errors=(error,)) from None
    return read_request(kind, value)


def _path(request: Request) -> str:
    """The path that the caller asked for, as it stands in an address."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    return quote(path if path.startswith(root) else root + path)


class _Looks:
    """Looks for callers that ask once: one for all who ask at the same moment, and none where the last is new."""

    def __init__(self) -> None:
        self._under_way: WeakKeyDictionary[Higgsfield, dict[str, asyncio.Task[JobSet]]] = WeakKeyDictionary()

    async def fresh(self, hf: Higgsfield, task: GenerationTask) -> None:
        if seconds_since_seen(task) < FRESH:
            return
        key, under_way = task.ref.short, self._under_way.setdefault(hf, {})
        look = under_way.get(key)
        if look is None:
            look = under_way[key] = asyncio.create_task(task.refresh(), name="higgsfield_async.look_once")
            look.add_done_callback(lambda look: _looked(under_way, key, look))
        await asyncio.shield(look)


def _looked(under_way: dict[str, asyncio.Task[JobSet]], key: str, look: asyncio.Task[JobSet]) -> None:
    del under_way[key]
    _ = look.cancelled() or look.exception()  # whoever asked may be gone


class _Keyed:
    """What became of the submit with one key.

    Attributes:
        until: When it is forgotten, by the monotonic clock.
        fingerprint: Tells one request from another.
        submitting: While it is under way.
        ref: Where it was accepted.
        lost: Where nobody knows whether it was.
        waiting: How many callers wait for it.
    """

    __slots__ = ("fingerprint", "lost", "ref", "submitting", "until", "waiting")

    def __init__(self, fingerprint: bytes) -> None:
        self.until = time.monotonic() + KEYS_KEPT
        self.fingerprint = fingerprint
        self.submitting: asyncio.Task[GenerationTask] | None = None
        self.ref: TaskRef | None = None
        self.lost: Problem | None = None
        self.waiting = 0


class _Submits:
    """Submits, each key once for each client.

    A client's journal keeps every key, beyond a restart and for all processes that share it. Without one, the platform
    keeps a `ModelRequest`'s key itself; for all else this process does.
    """

    def __init__(self, webhook: Webhook | None) -> None:
        self._webhook = webhook
        self._known: WeakKeyDictionary[Higgsfield, OrderedDict[str, _Keyed]] = WeakKeyDictionary()

    async def submit(self, hf: Higgsfield, request: GenerationRequest, key: str | None) -> TaskRef | Problem:
        """The ref of what was submitted, or the problem of what was lost before.

        Raises:
            HiggsfieldError: As `Higgsfield.submit` does.
        """
        webhook = self._webhook
        if webhook is not None and isinstance(request, ModelRequest):
            webhook = Webhook(webhook.url)  # the account's own secret signs these
        if isinstance(request, CharacterTraining):
            webhook = None  # nothing reports the end of a training
        if key is None:
            return await self._first(hf, request, webhook)
        known = self._known.setdefault(hf, OrderedDict())
        _forget_old(known)
        fingerprint = _fingerprint(request)
        keyed = known.setdefault(key, _Keyed(fingerprint))
        if keyed.fingerprint != fingerprint:
            error = FieldError(("header", "Idempotency-Key"), "was used with another request", "value_error")
            raise InvalidRequest(f"{error}.", errors=(error,), status=409)
        if keyed.ref is not None:
            return keyed.ref
        theirs = isinstance(request, ModelRequest)
        kept = hf.journal is not None
        if keyed.lost is not None and not (theirs or kept):
            return keyed.lost
        if keyed.submitting is None:
            keyed.submitting = asyncio.create_task(
                hf.submit(
                    request,
                    webhook=webhook,
                    idempotency_key=key if theirs else None,
                    resumes=keyed.lost is not None,
                    key=f"post:{key}" if kept else None,
                ),
                name="higgsfield_async.keyed_submit",
            )
            keyed.submitting.add_done_callback(lambda submitted: _settle(known, key, keyed, submitted))
        keyed.waiting += 1
        try:
            return (await asyncio.shield(keyed.submitting)).ref
        finally:
            keyed.waiting -= 1

    async def _first(self, hf: Higgsfield, request: GenerationRequest, webhook: Webhook | None) -> TaskRef:
        try:
            return (await hf.submit(request, webhook=webhook)).ref
        except SubmissionUnknown as error:
            if error.key is not None:
                # The caller is told this key, and may come back with it.
                keyed = self._known.setdefault(hf, OrderedDict())[error.key] = _Keyed(_fingerprint(request))
                keyed.lost = problem_of(error)
            raise


def _fingerprint(request: GenerationRequest) -> bytes:
    return hashlib.blake2b(type(request).__name__.encode() + msgspec.json.encode(request)).digest()


def _forget_old(known: OrderedDict[str, _Keyed]) -> None:
    """Forgets what is too old or too much; never what is under way, or what may have been paid for."""
    now = time.monotonic()
    for key, keyed in list(itertools.islice(known.items(), 64)):
        if keyed.until < now or (len(known) > KEYS_AT_MOST and keyed.ref is not None):
            del known[key]


def _settle(known: OrderedDict[str, _Keyed], key: str, keyed: _Keyed, submitted: asyncio.Task[GenerationTask]) -> None:
    keyed.submitting = None
    error = None if submitted.cancelled() else submitted.exception()
    if isinstance(error, SubmissionUnknown):
        keyed.lost = problem_of(error)
    elif submitted.cancelled() or error is not None:
        # It was not accepted, and may be tried again.
        known.pop(key, None)
    else:
        keyed.ref = submitted.result().ref
        if not keyed.waiting:
            msg = "A submit whose caller went away was accepted: %s"
            logger.warning(msg, keyed.ref.to_json(), extra=fields(keyed.ref, paid=True))
