"""HTTP, below the dialects: one origin's server, which hands each request to its dialect and disturbs the answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import anyio
import msgspec
from aiohttp import hdrs, web

from ._exchange import Dialect, Received, Reply, find
from ._faults import Fault
from ._state import Account

_NO_FAULT = Fault()
# Linger on, for no time: closing the socket then sends RST instead of FIN.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Origin(web.Server):
    """aiohttp's low-level server, which adds no routes and no errors of its own; it numbers its connections."""

    def __init__(
        self,
        dialect: Dialect,
        account: Account,
        received: list[Received],
        numbers: Iterator[int],
        closing: asyncio.Event,
    ) -> None:
        options: dict[str, Any] = {} if dialect.keep_alive is None else {"keepalive_timeout": dialect.keep_alive}
        super().__init__(self._handle, request_factory=self._request, access_log=None, **options)
        self._dialect = dialect
        self._account = account
        self._received = received
        self._next_number = numbers
        self._numbers: dict[Any, int] = {}
        self._closing = closing

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Give it a number."""
        super().connection_made(handler, transport)
        self._account.connections += 1
        self._numbers[handler] = next(self._next_number)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """Forget its number."""
        super().connection_lost(handler, exc)
        self._account.connections -= 1
        del self._numbers[handler]

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        limit = self._dialect.body_limit
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._account.counted():
            return await self._answer(request)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        dialect = self._dialect
        found = find(dialect.routes, request.method, request.path)
        received = Received(
            surface=found[0].surface if found else dialect.surface,
            operation=found[0].operation if found else "other",
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            body=b"",
            connection=self._numbers.get(request.protocol, 0),
            at=time.monotonic(),
        )
        self._received.append(received)
        too_large = False
        try:
            received.body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            too_large = True
        fault = self._account.next_fault(received.operation) or _NO_FAULT
        await self._wait(fault.wait_before)
        reply = Reply()
        if fault.accept:
            reply = dialect.too_large if too_large else dialect.answer(received, found)
            if callable(reply.body):
                reply = msgspec.structs.replace(reply, body=await asyncio.to_thread(reply.body))
        await self._wait(fault.wait_after)
        reply = dialect.finish(received, fault.answer_with or reply)
        if fault.cut == "reset":
            return _reset(request)
        received.status = reply.status
        body = reply.body if isinstance(reply.body, bytes) else b""
        return await _send(request, reply, body, dialect.keep_alive, half=fault.cut == "half")

    async def _wait(self, seconds: float) -> None:
        if seconds:
            with anyio.move_on_after(seconds):
                await self._closing.wait()


class _Response(web.StreamResponse):
    """A response with the headers it was given and no others: aiohttp adds a Content-Type and a Server."""

    async def _prepare_headers(self) -> None:
        given = set(self.headers)
        await super()._prepare_headers()
        for name in {hdrs.CONTENT_TYPE, hdrs.SERVER} - given:
            self.headers.popall(name, None)


async def _send(
    request: web.BaseRequest, reply: Reply, body: bytes, keep_alive: int | None, *, half: bool
) -> web.StreamResponse:
    response = _Response(status=reply.status, headers=reply.headers)
    if keep_alive is not None and request.keep_alive:
        response.headers.update({"Connection": "keep-alive", "Keep-Alive": f"timeout={keep_alive}"})
    if reply.chunked and not half:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(body)
    # A client may leave before it is answered; what was done for it stays done.
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(body[: len(body) // 2] if half else body)
    if half and request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()
    # Never sent: the connection is gone.
    return web.Response()
