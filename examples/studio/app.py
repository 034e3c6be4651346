"""The studio: a page on which videos and images are made, on a Higgsfield of its own or on a real one.

    python3 noxfile.py -s studio                       on the embedded sandbox: no key, nothing to pay
    HF_KEY=id:secret python3 noxfile.py -s studio      on the services that the environment holds keys for
    python3 noxfile.py -s studio -- --port 8000 --no-open

The router of `higgsfield_async.fastapi` does the work. What is here puts a list of what was started beside it, and the
page in front of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sqlite3
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from guard import Guard
from recorder import Recorder
from routes import service_routes, started_routes
from services import REQUESTS, Services
from store import Store

from higgsfield_async import ConfigurationError, HiggsfieldError
from higgsfield_async.fastapi import generations_router, problem

STATIC = Path(__file__).resolve().parent / "static"


def create_app(database: Path | str, environment: Mapping[str, str] = os.environ) -> FastAPI:
    """The application. What is started is kept in `database`, a file that is made where there is none."""
    services = Services(environment)
    store = Store(database)
    in_flight: Counter[str] = Counter()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
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
    app.include_router(service_routes(services), prefix="/api")
    app.include_router(started_routes(store, services, in_flight), prefix="/api")
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
