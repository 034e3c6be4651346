"""A web application on loopback, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """uvicorn in the test's own loop, with its address."""

    url: str = ""


@asynccontextmanager
async def served(app: Any, **settings: Any) -> AsyncGenerator[Server]:
    """An ASGI application behind uvicorn, at `.url`."""
    # Of the protocol by name: asyncio does not delay small packets where it knows that it is TCP.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    server = Server(uvicorn.Config(app, log_level="warning", lifespan="on", **settings))
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving
