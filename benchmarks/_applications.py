"""What `service.py` runs in fresh processes: one application with the same three handlers, under uvicorn.

    python benchmarks/_applications.py '{"side": "ours", "platform": "http://127.0.0.1:..."}'

- `ours` is `generations_router`.
- `vendors` is what higgsfield-client is made for: each stream polls with the controller's own `poll_request_status`.
- `shared` goes further than that client does: one poller for each generation, and a queue for each stream.

It prints its address, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal, TypeAlias

import higgsfield_client
import httpx
import msgspec
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from msgspec import Struct
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

from higgsfield_async import Higgsfield, PlatformTransport, PollPolicy
from higgsfield_async.fastapi import generations_router, lifespan

logger = logging.getLogger(__name__)

KEY_ID, KEY_SECRET = "load-key", "load-secret"
Controller: TypeAlias = higgsfield_client.AsyncRequestController
State: TypeAlias = dict[str, Any]


class Settings(Struct, frozen=True):
    """What to serve.

    Attributes:
        side: Which application.
        platform: The address of the stand-in.
        gap: The seconds between two looks at one generation; 0 for the client's own way.
        loop: Which event loop.
    """

    side: Literal["ours", "vendors", "shared"]
    platform: str
    gap: float = 0.0
    loop: Literal["asyncio", "uvloop"] = "asyncio"


def ours(settings: Settings) -> FastAPI:
    policy = PollPolicy.fixed(settings.gap) if settings.gap else PollPolicy()
    app = FastAPI(
        lifespan=lifespan(
            lambda: Higgsfield(PlatformTransport(KEY_ID, KEY_SECRET, base_url=settings.platform), poll=policy)
        )
    )
    app.include_router(generations_router(), prefix="/generations")
    return app


class Asked(BaseModel):
    model_id: str
    arguments: dict[str, Any]


class Generation:
    """A generation as the vendor's client shows it, and what was told of it last.

    Its controller is that of the submit, with the addresses that the service gave: one made of the id alone would ask
    the public service, whatever `base_url` the client has.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.id = controller.request_id
        self.last: State | None = None

    async def told(self, status: higgsfield_client.Status) -> State:
        """A state, and with it the outputs once there are any: a status of that client is a word alone."""
        if self.last is not None and self.last["ended"]:
            return self.last
        completed = isinstance(status, higgsfield_client.Completed)
        result = await self.controller.get() if completed else {}
        ended = isinstance(status, higgsfield_client.DONE_STATUSES)
        outputs = [result["video"]["url"]] if completed else []
        word = type(status).__name__.lower().replace("inprogress", "in_progress")
        self.last = {"ref": self.id, "id": self.id, "status": word, "ended": ended, "outputs": outputs}
        return self.last

    async def state(self) -> State:
        if self.last is not None and self.last["ended"]:
            return self.last
        return await self.told(await self.controller.status())

    async def watch(self) -> AsyncIterator[State]:
        """The changes, by looks of this watcher's own."""
        before = None
        async for status in self.controller.poll_request_status():
            if status != before:
                before = status
                yield await self.told(status)


class SharedGeneration(Generation):
    """Watched by one poller, however many streams there are."""

    def __init__(self, controller: Controller) -> None:
        super().__init__(controller)
        self.queues: set[asyncio.Queue[State | None]] = set()
        self.poller: asyncio.Task[None] | None = None

    async def state(self) -> State:
        return self.last if self.last is not None and self.poller is not None else await super().state()

    async def poll(self) -> None:
        try:
            async for state in super().watch():
                for queue in self.queues:
                    queue.put_nowait(state)
        except (higgsfield_client.HiggsfieldClientError, httpx.HTTPError) as error:
            logger.warning("Polling of %s ended: %r", self.id, error)
            self.poller = None
            for queue in self.queues:
                queue.put_nowait(None)

    async def watch(self) -> AsyncIterator[State]:
        queue: asyncio.Queue[State | None] = asyncio.Queue()
        self.queues.add(queue)
        if self.last is not None and (self.last["ended"] or self.poller is not None):
            queue.put_nowait(self.last)
        if self.poller is None:
            self.poller = asyncio.create_task(self.poll())
        try:
            while (state := await queue.get()) is not None:
                yield state
                if state["ended"]:
                    return
        finally:
            self.queues.discard(queue)
            if not self.queues:
                self.stop()

    def stop(self) -> None:
        if self.poller is not None:
            self.poller.cancel()
            self.poller = None


def vendors(settings: Settings) -> FastAPI:
    client = higgsfield_client.AsyncClient(base_url=settings.platform, api_key=f"{KEY_ID}:{KEY_SECRET}")
    kind = SharedGeneration if settings.side == "shared" else Generation
    generations: dict[str, Generation] = {}
    app = FastAPI()

    def found(ref: str) -> Generation:
        try:
            return generations[ref]
        except KeyError:
            raise HTTPException(404) from None

    @app.post("/generations/model-request")
    async def submit(asked: Asked) -> Response:
        generation = kind(await client.submit(asked.model_id, asked.arguments))
        generations[generation.id] = generation
        return JSONResponse({"ref": generation.id, "id": generation.id, "status": "queued", "ended": False}, 202)

    @app.get("/generations/{ref}")
    async def state(ref: str) -> Response:
        return JSONResponse(await found(ref).state())

    @app.get("/generations/{ref}/events")
    async def watch(ref: str) -> Response:
        generation = found(ref)

        async def events() -> AsyncIterator[dict[str, str]]:
            async for each in generation.watch():
                yield {"data": json.dumps(each)}

        return EventSourceResponse(events())

    # FastAPI keeps them; nothing else names them.
    _ = submit, state, watch
    return app


class Server(uvicorn.Server):
    """Tells its address once it serves, and stops when its input ends."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        threading.Thread(target=self.until_input_ends, daemon=True).start()
        print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)

    def until_input_ends(self) -> None:
        with contextlib.suppress(ValueError):
            sys.stdin.buffer.read()
        self.should_exit = True


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    app = ours(settings) if settings.side == "ours" else vendors(settings)
    # The protocol is named as it is where uvicorn opens the socket itself: of any other, asyncio does not turn off
    # Nagle's algorithm, and an answer in two parts waits for 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, loop=settings.loop, http="h11", access_log=False, log_level="warning", timeout_graceful_shutdown=5
    )
    Server(config).run([listening])


if __name__ == "__main__":
    main()
