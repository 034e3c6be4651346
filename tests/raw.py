"""A server of bare bytes, for what no decent server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class RawServer:
    url: str
    heard: list[bytes] = field(default_factory=list)
    server: asyncio.Server | None = None

    def stop_listening(self) -> None:
        assert self.server is not None
        self.server.close()


Reply = Callable[[RawServer, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(reply: Reply) -> AsyncGenerator[RawServer]:
    """Reads one request on each connection, hands it to `reply`, and closes."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            running.heard.append(await reader.readuntil(b"\r\n\r\n"))
            await reply(running, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            talks.discard(task)
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    running = RawServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", server=server)
    try:
        yield running
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
