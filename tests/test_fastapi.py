"""Higgsfield inside a FastAPI application, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from msgspec.structs import replace
from pydantic import BaseModel
from serving import Server, served
from test_webhooks import SECRET, flat, signed
from yarl import URL

from higgsfield_async import (
    ApiError,
    AuthenticationFailed,
    BudgetExceeded,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    ContentRejected,
    DownloadError,
    GenerationCanceled,
    GenerationFailed,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    InsufficientCredits,
    InvalidRequest,
    Job,
    JobSet,
    JobStatus,
    JournalError,
    Keyframes,
    MalformedResponse,
    ModelRequest,
    NotCancelable,
    NotFound,
    PermissionDenied,
    PollPolicy,
    RateLimited,
    ServiceUnavailable,
    SubmissionUnknown,
    TaskRef,
    Unsupported,
    UploadError,
    WaitTimeout,
    Webhook,
    WebhookError,
    fastapi as integration,
)
from higgsfield_async.fastapi import (
    Client,
    HiggsfieldRoute,
    event_stream,
    generations_router,
    get_client,
    lifespan,
    problem,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from higgsfield_async.sse import problem_of
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V1, V2, Surface

Make = Callable[..., Higgsfield]
ENDLESS = PollPolicy.fixed(3600)
NEVER = Plan(queued=1e9)
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "proxy": ("image-to-video", {"model": "turbo", "motion_id": MOTION, "prompt": PROMPT, "images": [IMAGE]}),
    "v1": ("keyframes", {"prompt": PROMPT}),
    "v2": (
        "model-request",
        {"model_id": "higgsfield-ai/dop/turbo", "arguments": {"prompt": PROMPT, "image_url": IMAGE}},
    ),
}


class Caller:
    """What a page does."""

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        self.session = session
        self.server = server

    async def __call__(self, method: str, path: str | URL, **settings: Any) -> tuple[int, Any]:
        async with self.session.request(method, path, **settings) as response:
            body = await response.read()
            return response.status, json.loads(body) if "json" in response.content_type else body

    async def submit(self, surface: Surface = V2, **headers: str) -> tuple[int, Any]:
        path, body = BODIES[surface.name]
        return await self("POST", f"/generations/{path}", json=body, headers=headers)

    @asynccontextmanager
    async def watch(self, path: str, **headers: str) -> AsyncGenerator[aiohttp.ClientResponse]:
        async with self.session.get(path, headers=headers) as response:
            yield response


async def told(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """The id and the data of each event."""
    fields: dict[str, str] = {}
    async for line in response.content:
        name, colon, value = line.decode().rstrip("\n").partition(": ")
        if colon:
            fields[name] = value
        elif not name and fields:
            yield fields["id"], json.loads(fields["data"])
            fields = {}


@asynccontextmanager
async def running(app: FastAPI, **settings: Any) -> AsyncGenerator[Caller]:
    async with served(app, **settings) as server, aiohttp.ClientSession(server.url) as session:
        yield Caller(session, server)


def application(make: Callable[[], Higgsfield], **settings: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(make))
    app.include_router(generations_router(**settings), prefix="/generations")
    return app


@pytest.fixture
async def call(sandbox: Sandbox, client: Make) -> AsyncGenerator[Caller]:
    del sandbox
    async with running(application(lambda: client(V2))) as caller:
        yield caller


# The whole of it


async def test_a_whole_application(client: Make, sandbox: Sandbox, surface: Surface) -> None:
    sandbox.plan(Plan(queued=10, running=10))
    async with running(application(lambda: client(surface))) as call:
        path, body = BODIES[surface.name]
        async with call.session.post(f"/generations/{path}", json=body) as response:
            assert response.status == 202
            state = await response.json()
            location = response.headers["Location"]
        assert location == f"/generations/{state['ref']}"
        assert (state["status"], state["ended"], state["charged"]) == ("queued", False, "unknown")
        async with call.watch(f"{location}/events") as response:
            assert response.content_type == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            marks = [mark async for mark, _ in told(response)]
        assert marks == ["q", "i", "c"]
        status, state = await call("GET", location)
        assert (status, state["status"], state["charged"]) == (200, "completed", "yes")
        assert state["outputs"][0]["url"].startswith(sandbox.media_url)
        assert len(sandbox.generations) == 1


async def test_another_process_with_the_same_account_knows_the_location(client: Make) -> None:
    async with running(application(lambda: client(V2))) as call:
        _, state = await call.submit()
    async with running(application(lambda: client(V2))) as again:
        status, found = await again("GET", f"/generations/{state['ref']}")
        assert (status, found["id"]) == (200, state["id"])
        async with again.watch(f"/generations/{state['ref']}/events") as response:
            assert [data["status"] async for _, data in told(response)][-1] == "completed"


# The client in the application


async def test_the_lifespan_is_a_part_of_an_applications_own(client: Make) -> None:
    order: list[str] = []
    hf = client(V2)

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[None]:
        order.append("before")
        async with lifespan(lambda: hf)(app):
            yield
        order.append("after")

    app = FastAPI(lifespan=own)
    app.include_router(generations_router(), prefix="/generations")
    async with running(app) as call:
        assert (await call.submit())[0] == 202
    assert order == ["before", "after"]
    with pytest.raises(ClientClosed):
        await hf.submit(V2.request)
    assert not hasattr(app.state, "higgsfield")


async def test_without_a_lifespan_it_says_so_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.include_router(generations_router(), prefix="/generations")
    async with running(app) as call:
        status, document = await call.submit()
        assert (status, document["error"]) == (500, "ConfigurationError")
        assert document["detail"] == "This server is not set up rightly."
    assert "FastAPI(lifespan=lifespan())" in caplog.text


async def test_a_test_puts_another_client_in_its_place(client: Make) -> None:
    app = FastAPI()
    app.include_router(generations_router(), prefix="/generations")
    async with client(V1) as hf:
        app.dependency_overrides[get_client] = lambda: hf
        async with running(app) as call:
            assert (await call.submit(V1))[0] == 202


async def test_two_clients_two_routers(client: Make, sandbox: Sandbox) -> None:
    async with client("proxy") as proxy, client("platform") as platform:
        app = FastAPI()
        app.include_router(generations_router(client=lambda: proxy, requests=[ImageToVideo]), prefix="/a")
        app.include_router(generations_router(client=lambda: platform, requests=[Keyframes]), prefix="/b")
        async with running(app) as call:
            for prefix, surface in (("/a", PROXY), ("/b", V1)):
                path, body = BODIES[surface.name]
                status, state = await call("POST", f"{prefix}/{path}", json=body)
                assert status == 202
                assert sandbox.generations[state["id"]].surface == surface.name
            assert (await call("POST", "/a/keyframes", json={"prompt": "x"}))[0] == 405


async def test_what_lets_a_caller_in_guards_all_but_the_webhook(client: Make) -> None:
    def nobody() -> None:
        raise HTTPException(403)

    app = application(lambda: client(V2), dependencies=[Depends(nobody)], webhook_secrets=SECRET)
    async with running(app) as call:
        found = {
            (method, path): (await call(method, path.format(ref="x"), params={"ref": "x"}))[0]
            for path, methods in app.openapi()["paths"].items()
            for method in methods
        }
    assert found.pop(("post", "/generations/webhook")) == 401
    assert len(found) >= 12
    assert set(found.values()) == {403}


# A handler that waits


class Order(BaseModel):
    customer: str
    generation: ModelRequest


def waiting(make: Callable[[], Higgsfield]) -> FastAPI:
    app = FastAPI(lifespan=lifespan(make))
    router = APIRouter(route_class=HiggsfieldRoute)

    @router.post("/run")
    async def run(hf: Client, request: Annotated[Keyframes, Body()]) -> dict[str, str]:
        return {"url": (await hf.run(request)).outputs[0].url}

    @router.post("/order")
    async def order(hf: Client, order: Order) -> Response:
        task = await hf.submit(order.generation)
        return event_stream(task, heartbeat=0.01)

    app.include_router(router)
    return app


async def test_a_handler_just_awaits(client: Make, sandbox: Sandbox) -> None:
    async with running(waiting(lambda: client(V1))) as call:
        status, answer = await call("POST", "/run", json={"prompt": PROMPT})
        assert (status, answer["url"].startswith(sandbox.media_url)) == (200, True)
        sandbox.plan(Plan(end="nsfw"))
        status, document = await call("POST", "/run", json={"prompt": PROMPT})
        assert (status, document["error"], document["charged"]) == (422, "ContentRejected", "no")
        assert document["ref"]


async def test_a_request_of_ours_inside_a_model_of_theirs(client: Make) -> None:
    async with running(waiting(lambda: client(V2))) as call:
        kind, body = BODIES["v2"]
        assert kind == "model-request"
        async with call.session.post("/order", json={"customer": "c", "generation": body}) as response:
            assert [mark async for mark, _ in told(response)][-1] == "c"
        status, document = await call("POST", "/order", json={"customer": "c", "generation": {"model_id": "/"}})
        assert (status, document["errors"][0]) == (
            422,
            {"loc": ["arguments"], "msg": "is required", "type": "missing"},
        )
        status, document = await call("POST", "/order", json={})
        assert (status, [error["loc"] for error in document["errors"]]) == (
            422,
            [["body", "customer"], ["body", "generation"]],
        )


def test_the_types_meet() -> None:
    wanted = ModelRequest("a/b", {"n": 1})
    order = Order(customer="c", generation=wanted)
    assert order.generation is wanted
    assert Order.model_validate_json(order.model_dump_json()) == order
    with pytest.raises(ValueError, match=r"ModelRequest\.model_id: Expected a model id"):
        Order.model_validate({"customer": "c", "generation": {"model_id": "/", "arguments": {}}})
    assert Order.model_json_schema()["properties"]["generation"]["required"] == ["model_id", "arguments"]


async def test_when_the_caller_goes_away_the_wait_ends_and_the_generation_does_not(
    client: Make, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "higgsfield_async")
    sandbox.plan(NEVER)
    async with running(waiting(lambda: client(V1))) as call:
        asking = asyncio.create_task(call("POST", "/run", json={"prompt": PROMPT}))
        while not sandbox.generations:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        while "A run was cancelled after its submit" not in caplog.text:
            await asyncio.sleep(0.01)
        ((identifier, generation),) = sandbox.generations.items()
        assert identifier in caplog.text
        assert "The caller of POST '/run' went away." in caplog.text
        assert generation.status == "queued"


async def test_dependencies_see_how_a_request_ended(client: Make, sandbox: Sandbox) -> None:
    seen: list[str] = []

    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            await asyncio.sleep(0.01)  # as a rollback does
            seen.append(type(error).__name__)
            raise
        seen.append("committed")

    def session() -> Iterator[None]:
        try:
            yield
        except HiggsfieldError as error:
            seen.append(f"sync {type(error).__name__}")
            raise

    app = FastAPI()
    async with client(V1) as hf:

        async def own() -> AsyncIterator[Higgsfield]:
            yield hf

        app.dependency_overrides[get_client] = own
        router = generations_router(dependencies=[Depends(transaction), Depends(session)])
        app.include_router(router, prefix="/generations")
        waiting_one = APIRouter(route_class=HiggsfieldRoute, dependencies=[Depends(transaction)])

        @waiting_one.post("/run")
        async def run(hf: Client, request: Annotated[Keyframes, Body()]) -> None:
            await hf.run(request)

        app.include_router(waiting_one)
        async with running(app) as call:
            assert (await call.submit(V1))[0] == 202
            sandbox.script("submit", Fault.answer(403, b'{"detail": "not_enough_credits"}'))
            assert (await call.submit(V1))[0] == 402
            assert (await call("POST", "/generations/keyframes", json={}))[0] == 422
            assert seen == ["committed", "sync InsufficientCredits", "InsufficientCredits", *seen[3:]]
            assert seen[3:] == ["sync InvalidRequest", "InvalidRequest"]
            seen.clear()
            sandbox.plan(NEVER)
            asking = asyncio.create_task(call("POST", "/run", json={"prompt": PROMPT}))
            while len(sandbox.generations) < 2:
                await asyncio.sleep(0.01)
            asking.cancel()
            while not seen:
                await asyncio.sleep(0.01)
            assert seen == ["CancelledError"]


class Limited:
    """A middleware that refuses long bodies where they are received, as some do."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def limited() -> Any:
            message = await receive()
            if len(message.get("body", b"")) > 10:
                raise HTTPException(413)
            return message

        await self.app(scope, limited, send)


async def test_what_a_middleware_raises_where_a_body_is_received_is_raised(client: Make) -> None:
    app = waiting(lambda: client(V1))
    app.add_middleware(Limited)
    async with running(app) as call:
        assert (await call("POST", "/run", json={"prompt": PROMPT}))[0] in (400, 413)


async def test_a_route_that_reads_the_body_for_itself(client: Make) -> None:
    class Reading(HiggsfieldRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                await request.body()
                assert await request.is_disconnected() is False
                return await handler(request)

            return handle

    app = FastAPI(lifespan=lifespan(lambda: client(V1)))
    router = APIRouter(route_class=Reading)

    @router.post("/run")
    async def run(hf: Client, request: Annotated[Keyframes, Body()]) -> str:
        return (await hf.submit(request)).id

    app.include_router(router)
    async with running(app) as call:
        assert (await call("POST", "/run", json={"prompt": PROMPT}))[0] == 200


async def test_a_caller_that_goes_away_is_noticed_though_its_body_is_not_read(client: Make, sandbox: Sandbox) -> None:
    sandbox.plan(NEVER)
    ended = asyncio.Event()
    app = FastAPI(lifespan=lifespan(lambda: client(V1)))
    router = APIRouter(route_class=HiggsfieldRoute)

    @router.post("/run")
    async def run(hf: Client) -> None:
        try:
            await hf.run(V1.request)
        finally:
            ended.set()

    app.include_router(router)
    async with running(app) as call:
        asking = asyncio.create_task(call("POST", "/run", data=b"x" * 400_000))
        while not sandbox.generations:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_handler_passes_a_result_on(client: Make, sandbox: Sandbox) -> None:
    app = FastAPI(lifespan=lifespan(lambda: client(V1)))

    @app.get("/{ref}")
    async def result(ref: str, hf: Client) -> StreamingResponse:
        job_set = await hf.task(ref).wait()
        return StreamingResponse(hf.stream(job_set.outputs[0]), media_type="image/png")

    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        async with hf.stream((await task.wait()).outputs[0]) as stream:
            whole = b"".join([piece async for piece in stream])
    async with running(app) as call:
        async with call.session.get(f"/{task.ref.short}") as response:
            assert (response.status, response.content_type) == (200, "image/png")
            assert await response.read() == whole
        # A caller that goes away lets go of the connection behind it.
        sandbox.script("download", *[Fault.delay(0.2)] * 3)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), call.session.get(f"/{task.ref.short}") as response:
                    await response.read()
        async with call.session.get(f"/{task.ref.short}") as response:
            assert await response.read() == whole


async def test_an_error_in_the_middle_of_an_answer_is_the_servers(client: Make) -> None:
    app = FastAPI(lifespan=lifespan(lambda: client(V1)))
    router = APIRouter(route_class=HiggsfieldRoute)

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"begun"
            raise ConnectionFailed(INSIDE)

        return StreamingResponse(chunks())

    app.include_router(router)
    async with running(app) as call:
        with pytest.raises(aiohttp.ClientError):
            await call("GET", "/stream")


async def test_a_handler_that_is_cancelled_by_others_stays_so() -> None:
    app = FastAPI()
    router = APIRouter(route_class=HiggsfieldRoute)
    never = asyncio.Event()

    @router.get("/")
    async def wait() -> None:
        await never.wait()

    app.include_router(router)

    async def receive() -> dict[str, Any]:
        await never.wait()
        return {}

    async def send(_message: object) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    handling = asyncio.create_task(app(scope, receive, send))
    await asyncio.sleep(0.05)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling


# The same post again


async def test_keys_are_of_one_client(client: Make, sandbox: Sandbox) -> None:
    async with client(V1) as one, client(V1) as other:
        clients = {"one": one, "other": other}

        def chosen(request: Request) -> Higgsfield:
            return clients[request.headers["name"]]

        app = FastAPI()
        app.include_router(generations_router(client=chosen), prefix="/generations")
        async with running(app) as call:
            refs = {(await call.submit(V1, name=name, **{"Idempotency-Key": "k"}))[1]["ref"] for name in clients}
            assert len(refs) == len(sandbox.generations) == 2


async def test_a_key_that_the_router_told_is_known_to_it(client: Make, sandbox: Sandbox) -> None:
    sandbox.script("submit", *[Fault.reset(accept=True)] * 20)
    async with running(application(lambda: client(V2))) as call:
        status, document = await call.submit()
        assert (status, document["charged"]) == (502, "unknown")
        sandbox._account._faults.clear()
        sandbox.script("submit", Fault.answer(403, b'{"detail": "not_enough_credits"}'))
        key = {"Idempotency-Key": document["idempotency_key"]}
        status, document = await call.submit(V2, **key)
        # A refusal now says nothing of what may have been accepted then.
        assert (status, document["error"], document["charged"]) == (502, "SubmissionUnknown", "unknown")
        status, state = await call.submit(V2, **key)
        assert (status, list(sandbox.generations)) == (202, [state["id"]])


async def test_a_lost_one_that_has_no_key_to_tell(client: Make, sandbox: Sandbox) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with running(application(lambda: client(V1))) as call:
        status, document = await call.submit(V1)
        assert (status, "idempotency_key" in document) == (502, False)


async def test_another_request_of_the_same_fields_is_another(client: Make) -> None:
    async with running(application(lambda: client(V1))) as call:
        url = "https://images.example.com/a.png"
        body = {"prompt": PROMPT, "images": [url], "model": "dop-lite"}
        header = {"Idempotency-Key": "k"}
        assert (await call("POST", "/generations/dop-video", json=body, headers=header))[0] == 202
        # However it is written down.
        again = json.dumps(body, indent=1)
        assert (await call("POST", "/generations/dop-video", data=again, headers=header))[0] == 202
        status, document = await call("POST", "/generations/keyframes", json={"prompt": PROMPT}, headers=header)
        assert (status, document["errors"][0]["loc"]) == (409, ["header", "Idempotency-Key"])


@pytest.mark.parametrize("root", ["", "/outside"])
async def test_the_location_stands_in_an_address(client: Make, sandbox: Sandbox, root: str) -> None:
    app = FastAPI(lifespan=lifespan(lambda: client(V1)))
    app.include_router(generations_router(), prefix="/t/{tenant}")
    async with running(app, root_path=root) as call:
        async with call.session.post("/t/生 %25/keyframes", json={"prompt": PROMPT}) as response:
            assert response.status == 202
            location = response.headers["Location"]
            ref = (await response.json())["ref"]
        assert location == f"{root}/t/%E7%94%9F%20%25/{ref}"
        assert (await call("GET", URL(location.removeprefix(root), encoded=True)))[0] == 200
        assert len(sandbox.generations) == 1


async def test_the_same_key_gives_the_same_generation(client: Make, sandbox: Sandbox, surface: Surface) -> None:
    async with running(application(lambda: client(surface))) as call:
        answers = await asyncio.gather(*(call.submit(surface, **{"Idempotency-Key": "k"}) for _ in range(5)))
        assert {status for status, _ in answers} == {202}
        assert len({state["ref"] for _, state in answers}) == 1
        assert len(sandbox.generations) == 1
        other = {"prompt": "something else"}
        status, document = await call("POST", "/generations/keyframes", json=other, headers={"Idempotency-Key": "k"})
        assert (status, document["errors"][0]["loc"]) == (409, ["header", "Idempotency-Key"])
        assert (await call.submit(surface, **{"Idempotency-Key": "l"}))[0] == 202
        assert len(sandbox.generations) == 2


async def test_a_key_is_the_platforms_own_where_it_knows_keys(call: Caller, sandbox: Sandbox) -> None:
    await call.submit(V2, **{"Idempotency-Key": "my-key"})
    assert [generation.idempotency_key for generation in sandbox.generations.values()] == ["my-key"]


async def test_what_was_refused_may_be_tried_again_with_its_key(client: Make, sandbox: Sandbox) -> None:
    sandbox.script("submit", Fault.answer(403, b'{"detail": "not_enough_credits"}'))
    async with running(application(lambda: client(V1))) as call:
        status, document = await call.submit(V1, **{"Idempotency-Key": "k"})
        assert (status, document["error"], document["charged"]) == (402, "InsufficientCredits", "no")
        assert (await call.submit(V1, **{"Idempotency-Key": "k"}))[0] == 202


async def test_what_may_have_been_accepted_is_not_paid_for_again(client: Make, sandbox: Sandbox) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with running(application(lambda: client(V1))) as call:
        for _ in range(3):
            status, document = await call.submit(V1, **{"Idempotency-Key": "k"})
            assert (status, document["error"], document["charged"]) == (502, "SubmissionUnknown", "unknown")
        assert len(sandbox.generations) == 1


async def test_what_may_have_been_accepted_is_recovered_where_the_platform_knows_the_key(
    client: Make, sandbox: Sandbox
) -> None:
    sandbox.script("submit", *[Fault.reset(accept=True)] * 20)
    async with running(application(lambda: client(V2))) as call:
        status, document = await call.submit(V2, **{"Idempotency-Key": "k"})
        assert (status, document["error"], document["idempotency_key"]) == (502, "SubmissionUnknown", "k")
        sandbox._account._faults.clear()
        status, state = await call.submit(V2, **{"Idempotency-Key": "k"})
        assert status == 202
        assert list(sandbox.generations) == [state["id"]]


async def test_a_caller_that_goes_away_may_come_back_for_what_was_submitted(
    call: Caller, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    asking = asyncio.create_task(call.submit(V2, **{"Idempotency-Key": "k"}))
    while not sandbox.generations:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking])
    while "whose caller went away was accepted" not in caplog.text:
        await asyncio.sleep(0.01)
    (identifier,) = sandbox.generations
    assert identifier in caplog.text
    status, state = await call.submit(V2, **{"Idempotency-Key": "k"})
    assert (status, state["id"]) == (202, identifier)


async def test_a_caller_that_goes_away_before_a_refusal_leaves_nothing(
    call: Caller, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", replace(Fault.answer(401, b"{}"), wait_before=0.2))
    asking = asyncio.create_task(call.submit(V2, **{"Idempotency-Key": "k"}))
    while not sandbox.received:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.sleep(0.4)
    assert not sandbox.generations
    assert "was accepted" not in caplog.text


async def test_keys_are_not_remembered_without_end(
    client: Make, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "KEYS_AT_MOST", 1)
    async with running(application(lambda: client(V1))) as call:
        sandbox.script("submit", Fault.reset(accept=True))
        assert (await call.submit(V1, **{"Idempotency-Key": "lost"}))[0] == 502
        for key in ("1", "2", "3", "1"):
            await call.submit(V1, **{"Idempotency-Key": key})
        assert len(sandbox.generations) == 5
        # What may have been paid for is not forgotten for others.
        assert (await call.submit(V1, **{"Idempotency-Key": "lost"}))[0] == 502
        assert len(sandbox.generations) == 5
        monkeypatch.setattr(integration, "KEYS_KEPT", -1.0)
        for key in ("4", "4"):
            await call.submit(V1, **{"Idempotency-Key": key})
        assert len(sandbox.generations) == 7


async def test_a_journal_knows_keys_beyond_a_restart(
    client: Make, sandbox: Sandbox, surface: Surface, tmp_path: Path
) -> None:
    refs: list[str] = []
    for _ in range(2):
        async with running(application(lambda: client(surface, journal=tmp_path / "generations.db"))) as call:
            status, state = await call.submit(surface, **{"Idempotency-Key": "k"})
            assert status == 202
            refs.append(state["ref"])
    assert len({*refs}) == len(sandbox.generations) == 1


async def test_what_was_lost_is_found_by_hand(client: Make, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    hf = client(V1, journal=tmp_path / "generations.db")
    async with running(application(lambda: hf)) as call:
        for _ in range(2):
            status, document = await call.submit(V1, **{"Idempotency-Key": "k"})
            assert (status, document["error"]) == (502, "SubmissionUnknown")
        [paid] = sandbox.generations
        assert (await hf.resolve("post:k", paid)).id == paid
        status, state = await call.submit(V1, **{"Idempotency-Key": "k"})
        assert (status, state["id"]) == (202, paid)
    assert len(sandbox.generations) == 1


async def test_what_is_under_way_is_not_forgotten(
    client: Make, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "KEYS_AT_MOST", 0)
    sandbox.script("submit", Fault.delay(0.3))
    async with running(application(lambda: client(V1))) as call:
        first = asyncio.create_task(call.submit(V1, **{"Idempotency-Key": "k"}))
        while not sandbox.received:
            await asyncio.sleep(0.01)
        _, again = await call.submit(V1, **{"Idempotency-Key": "k"})
        assert again["ref"] == (await first)[1]["ref"]
        assert len(sandbox.generations) == 1


async def test_a_key_that_cannot_be_one_is_refused(call: Caller, sandbox: Sandbox) -> None:
    status, document = await call.submit(V2, **{"Idempotency-Key": "with a space"})
    assert (status, document["error"]) == (422, "InvalidRequest")
    assert not sandbox.generations


# Bad input


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", ["body"]),
        (b"{", ["body"]),
        (b"[]", []),
        (b'{"count": 0}', ["prompt"]),
        (b'{"prompt": 1, "count": 0, "seed": null}', ["prompt", "count"]),
        (b'{"prompt": "x", "colour": "red"}', ["colour"]),
        (b'{"prompt": "x", "seed": 5.5}', ["seed"]),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    call: Caller, sandbox: Sandbox, body: bytes, fields: list[str]
) -> None:
    status, document = await call("POST", "/generations/keyframes", data=body)
    assert (status, document["title"], document["charged"]) == (422, "Invalid request", "no")
    assert [error["loc"][0] for error in document["errors"] if error["loc"]] == fields
    assert not sandbox.received


@pytest.mark.parametrize(
    "body",
    [
        b'{"model_id": "a/b", "arguments": ' + b'{"a":' * 700 + b"0" + b"}" * 700 + b"}",
        b'{"model_id": "a/b", "arguments": ' + b"[" * 100_000,
        b"{" + b",".join(b'"%d": 0' % number for number in range(50_000)) + b"}",
    ],
)
async def test_bodies_made_to_hurt(call: Caller, sandbox: Sandbox, body: bytes) -> None:
    for path in ("", "/estimate"):
        status, document = await call("POST", f"/generations/model-request{path}", data=body)
        assert status in (404, 422)
        assert len(document.get("errors", [])) <= 20
    assert not sandbox.generations


async def test_a_long_one_is_not_explained(client: Make, sandbox: Sandbox) -> None:
    async with running(application(lambda: client(PROXY))) as call:
        picture = "data:image/png;base64," + "A" * 2_000_000
        fine = {**BODIES["proxy"][1], "images": [picture]}
        path = "/generations/image-to-video"
        assert (await call("POST", path, data=io.BytesIO(json.dumps(fine).encode())))[0] == 202
        for change in ({"model": 7}, {"seed": 0}, {"colour": "red"}):
            wrong = io.BytesIO(json.dumps({**fine, **change}).encode())
            status, document = await call("POST", path, data=wrong)
            assert (status, document["error"]) == (422, "InvalidRequest")
        assert len(sandbox.generations) == 1


@pytest.mark.parametrize("kind", ["keyframes", "image-to-video", "model-request"])
async def test_how_long_a_body_may_be(call: Caller, kind: str) -> None:
    most = 10 * 2**20 + 2**16
    for length, expected in ((most, 422), (most + 1, 413)):
        body = io.BytesIO(b'{"x": "' + b"y" * (length - 9) + b'"}')
        assert (await call("POST", f"/generations/{kind}", data=body))[0] == expected


@pytest.mark.parametrize("part", [b"[],", b"{},", b'"",', b"1," + b" " * 100])
async def test_a_long_body_is_long_by_pictures(call: Caller, sandbox: Sandbox, part: bytes) -> None:
    parts = part * (3 * 2**20 // len(part))
    body = b'{"model_id": "a/b", "arguments": {"x": [' + parts + b"0]}}"
    status, document = await call("POST", "/generations/model-request", data=io.BytesIO(body))
    assert (status, document["errors"][0]["type"]) == (413, "too_long")
    assert not sandbox.received


async def test_pictures_in_the_body_reach_the_platform(client: Make, sandbox: Sandbox) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(2 * 2**20)
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    async with running(application(lambda: client(V2))) as call:
        for path, body in (
            ("keyframes", {"prompt": PROMPT, "image_references": [uri]}),
            ("model-request", {**BODIES["v2"][1], "arguments": {"prompt": PROMPT, "image_url": uri}}),
        ):
            status, _ = await call("POST", f"/generations/{path}", data=io.BytesIO(json.dumps(body).encode()))
            assert status == 202
        wrong = {"prompt": PROMPT, "image_references": ["data:image/png;base64,JVBERi0xLjcK"]}
        status, document = await call("POST", "/generations/keyframes", json=wrong)
        assert (status, document["errors"][0]["loc"]) == (422, ["image_references", 0])
    assert [received.body for received in sandbox.received if received.method == "PUT"] == [png]
    assert len(sandbox.generations) == 2


async def test_a_body_that_does_not_say_how_long_it_is(call: Caller, sandbox: Sandbox) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(120):
            yield b"x" * 100_000

    status, document = await call("POST", "/generations/keyframes", data=pieces())
    assert (status, document["errors"][0]["type"]) == (413, "too_long")
    assert not sandbox.received


# What it will cost


async def test_what_it_will_cost(client: Make, sandbox: Sandbox) -> None:
    async with running(application(lambda: client(PROXY))) as call:
        path, body = BODIES["proxy"]
        status, estimate = await call("POST", f"/generations/{path}/estimate", json=body)
        assert (status, estimate["points"], estimate["credits"], estimate["usd"]) == (200, "7", None, None)
    async with running(application(lambda: client(V2))) as call:
        path, body = BODIES["v2"]
        status, estimate = await call("POST", f"/generations/{path}/estimate", json=body)
        assert (status, estimate["credits"]) == (200, "1.500")
        status, document = await call("POST", "/generations/keyframes/estimate", json={"prompt": PROMPT})
        assert (status, document["error"]) == (409, "Unsupported")
    assert not sandbox.generations


# One generation


async def test_a_state_that_is_new_is_not_asked_for_again(client: Make, sandbox: Sandbox) -> None:
    sandbox.plan(NEVER)
    async with running(application(lambda: client(V2, poll=ENDLESS))) as call:
        _, made = await call.submit()
        for _ in range(3):
            assert (await call("GET", f"/generations/{made['ref']}"))[1]["status"] == "queued"
        assert [received.operation for received in sandbox.received] == ["submit"]


async def test_all_who_ask_at_once_cost_one_poll(
    client: Make, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "FRESH", 0.0)
    sandbox.plan(Plan(queued=0, running=1e9))
    sandbox.script("poll", Fault.delay(0.2))
    async with running(application(lambda: client(V2, poll=ENDLESS))) as call:
        _, made = await call.submit()
        answers = await asyncio.gather(*(call("GET", f"/generations/{made['ref']}") for _ in range(20)))
        assert {state["status"] for _, state in answers} == {"in_progress"}
        assert [received.operation for received in sandbox.received] == ["submit", "poll"]
        # One of them that goes away takes the look from nobody.
        sandbox.script("poll", Fault.delay(0.2))
        impatient = asyncio.create_task(call("GET", f"/generations/{made['ref']}"))
        patient = asyncio.create_task(call("GET", f"/generations/{made['ref']}"))
        await asyncio.sleep(0.1)
        impatient.cancel()
        assert (await patient)[0] == 200
        assert len(sandbox.received) == 3


async def test_a_state_is_not_kept_on_the_way(call: Caller) -> None:
    _, made = await call.submit()
    async with call.session.get(f"/generations/{made['ref']}") as response:
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/generations/{}", "/generations/{}/events", "/generations/events?ref={}"])
async def test_what_is_no_ref_is_not_found(call: Caller, path: str) -> None:
    for ref in (
        "x",
        "WyJhIl0",
        "%7B%7D",
        "é",
        "%7B" + "[" * 3000,
        base64.urlsafe_b64encode(b'["a","b",1e99]').decode(),
    ):
        status, document = await call("GET", path.format(ref))
        assert (status, document["error"], document["charged"]) == (404, "NotFound", "unknown")


async def test_a_generation_that_the_service_does_not_know(call: Caller) -> None:
    _, made = await call.submit()
    ref = TaskRef.from_short(made["ref"], transport="platform", origin="", account="")
    other = TaskRef.from_json(ref.to_json().replace(ref.id, "no-such-id")).short
    for path in (f"/generations/{other}", f"/generations/{other}/events"):
        status, document = await call("GET", path)
        assert (status, document["ref"], document["detail"]) == (404, other, "There is no such generation or model.")
    async with call.watch(f"/generations/events?ref={made['ref']}&ref={other}") as response:
        assert {data.get("error") async for _, data in told(response)} == {"NotFound", None}


async def test_cancel(call: Caller, sandbox: Sandbox) -> None:
    sandbox.plan(NEVER, Plan(queued=0, running=1e9))
    _, queued = await call.submit()
    assert (await call("POST", f"/generations/{queued['ref']}/cancel"))[0] == 202
    async with call.watch(f"/generations/{queued['ref']}/events") as response:
        assert [data["status"] async for _, data in told(response)][-1] == "canceled"
    _, running_one = await call.submit()
    status, document = await call("POST", f"/generations/{running_one['ref']}/cancel")
    assert (status, document["error"]) == (409, "NotCancelable")
    _, v1 = await call.submit(V1)
    status, document = await call("POST", f"/generations/{v1['ref']}/cancel")
    assert (status, document["error"]) == (409, "Unsupported")


# Events


async def test_a_browser_that_comes_again_is_told_what_changed_and_then_stops(call: Caller, sandbox: Sandbox) -> None:
    sandbox.plan(Plan(queued=30, running=30))
    _, made = await call.submit()
    events = f"/generations/{made['ref']}/events"
    async with call.watch(events) as response:
        assert [mark async for mark, _ in told(response)] == ["q", "i", "c"]
    async with call.watch(events, **{"Last-Event-ID": "i"}) as response:
        assert [mark async for mark, _ in told(response)] == ["c"]
    async with call.watch(events, **{"Last-Event-ID": "c"}) as response:
        assert response.status == 204


async def test_several_in_one_stream(call: Caller) -> None:
    refs = [(await call.submit())[1]["ref"] for _ in range(3)]
    async with call.watch("/generations/events?" + "&".join(f"ref={ref}" for ref in refs)) as response:
        last = {data["ref"]: data["status"] async for _, data in told(response)}
    assert last == dict.fromkeys(refs, "completed")


async def test_how_many_may_be_watched_in_one_stream(call: Caller) -> None:
    for refs in ([], ["x"] * 51):
        status, document = await call("GET", "/generations/events", params=[("ref", ref) for ref in refs])
        assert (status, document["errors"][0]["loc"]) == (422, ["query", "ref"])


async def test_an_empty_balance_ends_no_stream(client: Make, sandbox: Sandbox) -> None:
    async with running(application(lambda: client(PROXY))) as call:
        _, made = await call.submit(PROXY)
    sandbox.script("poll", Fault.answer(428, b'{"error": {"message": "insufficient points"}}'))
    path = f"/generations/{made['ref']}/events"
    async with running(application(lambda: client(PROXY))) as again, again.watch(path) as response:
        assert response.status == 200
        assert [data["status"] async for _, data in told(response)][-1] == "completed"


async def test_a_first_look_that_fails_for_a_moment_ends_no_stream(client: Make, sandbox: Sandbox) -> None:
    async with running(application(lambda: client(V2))) as call:
        _, made = await call.submit()
    sandbox.script("poll", *[Fault.html(503)] * 10)
    path = f"/generations/{made['ref']}/events"
    async with running(application(lambda: client(V2))) as again, again.watch(path) as response:
        assert response.status == 200
        assert [data["status"] async for _, data in told(response)][-1] == "completed"


async def test_a_service_that_is_slow_to_answer_does_not_keep_the_headers_back(
    client: Make, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "FIRST_LOOK", 0.05)
    async with running(application(lambda: client(V2))) as call:
        _, made = await call.submit()
    sandbox.script("poll", Fault.delay(0.5))
    path = f"/generations/{made['ref']}/events"
    async with running(application(lambda: client(V2))) as again, again.watch(path) as response:
        assert (await response.content.readline(), sandbox.received[-1].status) == (b":\n", None)
        assert [data["status"] async for _, data in told(response)][-1] == "completed"


async def test_a_watcher_that_is_cut_is_noticed_at_once(client: Make, sandbox: Sandbox) -> None:
    sandbox.plan(NEVER)
    async with client(V2) as hf:
        app = FastAPI()
        app.include_router(generations_router(client=lambda: hf), prefix="/generations")
        async with running(app) as call:
            _, made = await call.submit()
            (task,) = hf.open_tasks()
            async with call.watch(f"/generations/{made['ref']}/events") as response:
                assert (await anext(told(response)))[0] == "q"
                while not task._tracked.listeners:
                    await asyncio.sleep(0.005)
                response.close()
            async with asyncio.timeout(1):
                while task._tracked.listeners:
                    await asyncio.sleep(0.005)


async def test_open_streams_do_not_hold_up_a_server_that_stops(client: Make, sandbox: Sandbox) -> None:
    sandbox.plan(NEVER)
    async with asyncio.timeout(5):
        async with running(application(lambda: client(V2))) as call:
            _, made = await call.submit()
            async with call.watch(f"/generations/{made['ref']}/events") as response:
                assert (await anext(told(response)))[0] == "q"
                call.server.should_exit = True
                assert [mark async for mark, _ in told(response)] == []


# Webhooks


async def test_a_webhook_ends_a_stream_without_a_poll(client: Make, sandbox: Sandbox) -> None:
    sandbox.plan(NEVER, NEVER)
    hook = Webhook("https://app.example.com/generations/webhook", "v1-secret")
    settings: dict[str, Any] = {"webhook": hook, "webhook_secrets": [SECRET, "v1-secret"]}
    async with running(application(lambda: client(V2, poll=ENDLESS), **settings)) as call:
        _, made = await call.submit()
        _, v1 = await call.submit(V1)
        assert [generation.webhook for generation in sandbox.generations.values()] == [hook.url] * 2
        assert sandbox.generations[v1["id"]].request["webhook"]["secret"] == "v1-secret"
        async with call.watch(f"/generations/{made['ref']}/events") as response:
            stream = told(response)
            assert (await anext(stream))[0] == "q"
            body = flat(made["id"])
            for _ in range(2):
                status, _ = await call("POST", "/generations/webhook", data=body, headers=signed(body))
                assert status == 204
            assert (await anext(stream))[1]["outputs"][0]["url"] == "https://media.example.com/a.mp4"
        assert {received.operation for received in sandbox.received} == {"submit"}


async def test_a_training_is_submitted_where_there_are_webhooks_too(client: Make, sandbox: Sandbox) -> None:
    hook = Webhook("https://app.example.com/generations/webhook")
    training = {"name": "Ann", "images": ["https://images.example.com/ann.jpg"]}
    async with running(application(lambda: client(V2), webhook=hook)) as call:
        status, state = await call("POST", "/generations/character-training", json=training)
        assert (status, state["kind"], state["status"]) == (202, "v1/custom-references", "queued")
        _, price = await call("POST", "/generations/character-training/estimate", json=training)
        assert price["credits"] == "40"
    assert [generation.webhook for generation in sandbox.generations.values()] == [None]


async def test_without_webhooks_there_is_no_route_for_them(call: Caller) -> None:
    assert (await call("POST", "/generations/webhook", data=flat()))[0] == 405


def test_secrets_are_checked_when_the_router_is_made() -> None:
    with pytest.raises(ConfigurationError):
        generations_router(webhook_secrets="whsec_!")


async def test_webhooks_that_are_refused(client: Make) -> None:
    async with running(application(lambda: client(V2), webhook_secrets=SECRET)) as call:
        for body, headers, expected in (
            (flat(), {}, 401),
            (b"{}", signed(b"{}"), 400),
            (b"x" * (2**18 + 1), {}, 413),
        ):
            content = io.BytesIO(body)
            status, document = await call("POST", "/generations/webhook", data=content, headers=headers)
            assert (status, document["status"]) == (expected, expected)


# Errors


REF = TaskRef.from_short(
    TaskRef.from_json(
        '{"transport":"platform","origin":"https://a.example.com","account":"abc","id":"the-id","kind":"k",'
        '"created_at":"2026-01-01T00:00:00Z"}'
    ).short,
    transport="platform",
    origin="https://secret-host.example.com",
    account="secret-account",
)
INSIDE = "inside: hk-key at 10.0.0.5"
JOB_SET = JobSet(id="the-id", jobs=(Job(id="j", status=JobStatus.FAILED, raw_status="failed"),))
ERRORS: list[tuple[HiggsfieldError, int, bool]] = [
    (InvalidRequest("Keyframes.prompt: is required"), 422, True),
    (InvalidRequest("too long", status=413), 413, True),
    (Unsupported("The proxy cannot cancel."), 409, True),
    (NotFound(INSIDE, status=404), 404, False),
    (NotCancelable("Too late.", status=400), 409, True),
    (InsufficientCredits(INSIDE, status=403), 402, False),
    (RateLimited(INSIDE, status=429, retry_after=7.2), 429, False),
    (AuthenticationFailed(INSIDE, status=401), 502, False),
    (PermissionDenied(INSIDE, status=403), 502, False),
    (ServiceUnavailable(INSIDE, status=500), 503, False),
    (ApiError(INSIDE, status=418), 502, False),
    (ConnectionFailed(INSIDE), 502, False),
    (MalformedResponse(INSIDE, status=200, body=b""), 502, False),
    (SubmissionUnknown(INSIDE, request=V2.request, key="k", cause=ConnectionFailed(INSIDE)), 502, False),
    (GenerationFailed("It failed.", job_set=JOB_SET), 502, True),
    (ContentRejected("It was refused.", job_set=JOB_SET), 422, True),
    (GenerationCanceled("It was canceled.", job_set=JOB_SET), 409, True),
    (WaitTimeout(INSIDE, job_set=None), 504, False),
    (BudgetExceeded(INSIDE, unit="usd", limit=Decimal(5), left=Decimal(1), needed=Decimal(2)), 402, False),
    (JournalError(INSIDE), 503, False),
    (DownloadError(INSIDE), 502, False),
    (UploadError(INSIDE), 502, False),
    (WebhookError("It cannot be read.", status=400), 400, True),
    (ClientClosed(INSIDE), 503, False),
    (ConfigurationError(INSIDE), 500, False),
]


@pytest.mark.parametrize(("error", "status", "told"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS])
async def test_errors_as_problem_documents(error: HiggsfieldError, status: int, *, told: bool) -> None:
    error.ref = REF
    app = FastAPI()
    app.add_exception_handler(HiggsfieldError, problem)

    @app.get("/")
    async def fail() -> None:
        raise error

    async with running(app) as call, call.session.get("/") as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"
        text = await response.text()
        document = json.loads(text)
        assert document["type"].startswith("urn:problem-type:higgsfield:")
        assert (document["status"], document["error"]) == (status, type(error).__name__)
        assert (document["charged"], document["ref"]) == (error.charged, REF.short)
        assert (document["detail"] == str(error)) is told
        assert "secret" not in text
        assert "inside" not in text
        assert response.headers.get("Retry-After") == ("7" if error.retry_after else None)


def test_every_error_has_a_row() -> None:
    def leaves(kind: type[HiggsfieldError]) -> set[type[HiggsfieldError]]:
        below = kind.__subclasses__()
        return {leaf for each in below for leaf in leaves(each)} | (set() if kind.abstract else {kind})

    assert leaves(HiggsfieldError) <= {type(error) for error, *_ in ERRORS}
    for error, status, _ in ERRORS:
        assert problem_of(error).status == status


async def test_an_error_of_others_is_left_to_others(call: Caller) -> None:
    del call
    with pytest.raises(ZeroDivisionError):
        await problem(None, ZeroDivisionError())  # type: ignore[arg-type]  # it is not looked at


async def test_what_is_the_servers_fault_goes_to_its_log(
    client: Make, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.answer(401, b'{"detail": "Invalid credentials"}'))
    async with running(application(lambda: client(V2))) as call:
        status, document = await call.submit()
        assert (status, document["detail"]) == (502, "The generation service does not accept this server's key.")
    assert "Invalid credentials" in caplog.text
    assert sandbox.key_secret not in caplog.text
