"""The studio: a page on which videos and images are made, on a Higgsfield of its own or on a real one.

    python3 noxfile.py -s studio                  on the embedded sandbox: no key, nothing to pay
    HF_KEY=id:secret python3 noxfile.py -s studio on the services that the environment holds keys for
    python3 noxfile.py -s studio -- --port 8000 --no-open

The router of `higgsfield_async.fastapi` does the work. What is here: which services there are, the catalogues, uploads,
and the list of what was started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import sqlite3
import sys
import threading
import time
import webbrowser
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles
from guard import Guard
from recorder import MOST_BYTES, Recorder, whole_body
from store import Row, Store

from higgsfield_async import (
    Ad,
    ConfigurationError,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    PollPolicy,
    Speech,
)
from higgsfield_async.fastapi import generations_router, problem
from higgsfield_async.sandbox import Sandbox

Service: TypeAlias = Literal["proxy", "platform"]

STATIC = Path(__file__).resolve().parent / "static"
REQUESTS: Mapping[Service, tuple[type[Any], ...]] = {
    "proxy": (ImageToVideo, Speech, Ad),
    "platform": (Keyframes, ModelRequest),
}
KEYS: Mapping[Service, tuple[str, ...]] = {
    "proxy": ("HIGGSFIELD_PROXY_KEY",),
    "platform": ("HF_KEY", "HF_API_KEY", "HF_API_SECRET", "HF_CREDENTIALS"),
}
ADDRESSES: Mapping[Service, str] = {"proxy": "HIGGSFIELD_PROXY_BASE_URL", "platform": "HIGGSFIELD_BASE_URL"}
CATALOGUES: Mapping[Service, Mapping[str, Callable[[Higgsfield], AsyncIterator[Any]]]] = {
    "proxy": {
        "motions": lambda hf: hf.motions(size=200),
        "avatar-presets": lambda hf: hf.avatar_presets(size=100),
        "voices": lambda hf: hf.voices(size=100),
        "sounds": lambda hf: hf.sounds(size=100),
    },
    "platform": {"motions": lambda hf: hf.motions()},
}

# Long enough that no page waits for a list twice, short enough that what is new appears on the same day.
CATALOGUE_SECONDS = 3600.0
# What a sandbox makes takes seconds, and its answers cost nothing.
SANDBOX_POLL = PollPolicy.fixed(0.3)


class Services:
    """The services that there are: those that the environment holds a key for, else a sandbox with both."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        named = [name for name in REQUESTS if any(environment.get(key) for key in KEYS[name])]
        self.embedded = not named
        self.names: list[Service] = named or list(REQUESTS)
        self.clients: dict[Service, Higgsfield] = {}
        self._environment = environment
        self._lists: dict[tuple[Service, str], tuple[float, list[Any]]] = {}
        self._listing = asyncio.Lock()

    def on_sandbox(self, name: Service) -> bool:
        """Whether nothing is to be paid there: what answers on this machine is a sandbox."""
        host = urlsplit(self._environment.get(ADDRESSES[name], "")).hostname
        return self.embedded or host in {"127.0.0.1", "localhost"}

    async def open(self, stack: AsyncExitStack) -> None:
        """Open a client for each, and the sandbox where there is no key."""
        sandbox = await stack.enter_async_context(Sandbox()) if self.embedded else None
        for name in self.names:
            if sandbox is not None:
                transport = sandbox.proxy() if name == "proxy" else sandbox.platform()
                client = Higgsfield(transport, poll=SANDBOX_POLL)
            elif self.on_sandbox(name):
                client = Higgsfield.from_env(service=name, poll=SANDBOX_POLL)
            else:
                client = Higgsfield.from_env(service=name)
            self.clients[name] = await stack.enter_async_context(client)

    def client_of(self, name: Service) -> Callable[[], Awaitable[Higgsfield]]:
        """A dependency that gives the client of one, for its router."""

        async def client() -> Higgsfield:
            return self.clients[name]

        return client

    def lost(self, row: Row) -> bool:
        """Whether nobody here can find it again: it is of a sandbox that ended, or was made with another key."""
        if row.ref is None or row.ended:
            return False
        client = self.clients.get(cast("Service", row.service))
        try:
            return client is None or not client.task(row.ref)
        except ConfigurationError:
            return True

    async def listed(self, name: Service, catalogue: str) -> list[Any]:
        """All of a catalogue, which is asked for once an hour."""
        async with self._listing:
            until, items = self._lists.get((name, catalogue), (0.0, []))
            if time.monotonic() > until:
                items = [msgspec.to_builtins(item) async for item in CATALOGUES[name][catalogue](self.clients[name])]
                self._lists[name, catalogue] = time.monotonic() + CATALOGUE_SECONDS, items
            return items


def create_app(database: Path | str, environment: Mapping[str, str] = os.environ) -> FastAPI:
    """The application. What is started is kept in `database`, a file that is made where there is none."""
    services = Services(environment)
    store = Store(database)
    in_flight: Counter[str] = Counter()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(store.close)
            await services.open(stack)
            yield

    # Without FastAPI's own pages about the API: they load from other hosts.
    app = FastAPI(title="Higgsfield studio", lifespan=lifespan, docs_url=None, redoc_url=None)
    types = [kebab(request) for name in services.names for request in REQUESTS[name]]
    app.add_middleware(Recorder, store=store, types=types, in_flight=in_flight)
    app.add_middleware(Guard, local_media=any(services.on_sandbox(name) for name in services.names))

    app.add_exception_handler(HiggsfieldError, problem)

    @app.get("/api/services")
    def offered() -> dict[str, Any]:
        return {name: {"sandbox": services.on_sandbox(name)} for name in services.names}

    @app.get("/api/catalogues/{service}/{name}")
    async def catalogue(service: Service, name: str) -> list[Any]:
        if service not in services.names or name not in CATALOGUES[service]:
            raise HTTPException(404)
        return await services.listed(service, name)

    @app.get("/api/started")
    async def started() -> list[Any]:
        rows = await store.rows()
        return [row.as_json(in_flight=row.key in in_flight, gone=services.lost(row)) for row in rows]

    @app.get("/api/started/{key}/body")
    async def body(key: str) -> Any:
        if (row := await store.row(key)) is None:
            raise HTTPException(404)
        return row.body

    @app.put("/api/started/{key}", status_code=204)
    async def see(key: str, generation: dict[str, Any]) -> None:
        await store.see(key, generation)

    @app.delete("/api/started/{key}", status_code=204)
    async def hide(key: str) -> None:
        await store.hide(key)

    if "platform" in services.names:

        @app.post("/api/platform/uploads", status_code=201)
        async def upload(request: Request) -> Any:
            content = await whole_body(request.receive, MOST_BYTES)
            if content is None:
                raise HTTPException(413)
            uploaded = await services.clients["platform"].upload(content, content_type=request.headers.get("Content-Type"))
            return {"url": uploaded.url}

    for name in services.names:
        router = generations_router(client=services.client_of(name), requests=REQUESTS[name])
        app.include_router(router, prefix=f"/api/{name}")
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def kebab(request: type[Any]) -> str:
    """The name of a request in a route: `image-to-video`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", request.__name__).lower()


def main() -> None:
    """Serve the studio on 127.0.0.1, until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="A page on which videos and images are made.")
    parser.add_argument("--port", type=int, default=8765, help="where to listen on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--database", type=Path, default=Path("studio.db"), help="where to keep what was started")
    parser.add_argument("--no-open", action="store_true", help="do not open it in a browser")
    options = parser.parse_args()
    try:
        app = create_app(options.database)
        # Of this machine only: whoever reaches it can spend money.
        listening = socket.create_server(("127.0.0.1", options.port))
    except (ConfigurationError, OSError, sqlite3.Error) as error:
        sys.exit(f"The studio cannot start: {error}")
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    print(f"The studio is at {address}   (Ctrl-C ends it)", flush=True)
    if not options.no_open:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    # Event streams have no end of their own: they are cut off. A submit that is under way has the time to be answered.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
