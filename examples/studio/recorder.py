"""Between the browser and the router: what is started is written down first, and its answer after.

It is done here, and not by the page: a tab that is closed while a submit is under way loses nothing.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Collection
from typing import Any

import anyio
import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from store import Store

# The proxy takes no more, and the pictures are in it.
MOST_BYTES = 10 * 1024 * 1024


class Recorder:
    """Records every submit in the store, under the Idempotency-Key that the router gets too."""

    def __init__(self, app: ASGIApp, *, store: Store, types: Collection[str], in_flight: Counter[str]) -> None:
        self._app = app
        self._store = store
        self._submit = re.compile(rf"/api/(proxy|platform)/({'|'.join(types)})")
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._submit.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await whole_body(receive, MOST_BYTES)
        if body is None:
            await too_large(scope, receive, send)
            return
        if not is_json_object(body):
            await self._app(scope, again(body), send)  # it says what is wrong with it
            return
        key = Headers(scope=scope).get("Idempotency-Key")
        if key is None:
            key = str(uuid.uuid4())
            scope = {**scope, "headers": list(scope["headers"])}
            MutableHeaders(scope=scope)["Idempotency-Key"] = key
        new = await self._store.begin(key, found[1], found[2], body)
        answer = _Answer(send)
        self._in_flight[key] += 1
        try:
            await self._app(scope, again(body), answer.hold)
            await self._note(key, answer, new=new)
        finally:
            self._in_flight -= Counter([key])
        await answer.release()

    async def _note(self, key: str, answer: _Answer, *, new: bool) -> None:
        content = answer.json()
        if answer.status < 400:
            await self._store.accept(key, content)
        elif answer.status == 422 and new and content.get("charged") == "no":
            await self._store.forget(key)  # the form says what is wrong with it
        else:
            await self._store.refuse(key, content)


class _Answer:
    """Holds an answer back until it has been written down."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._messages: list[Message] = []

    async def hold(self, message: Message) -> None:
        self._messages.append(message)

    async def release(self) -> None:
        for message in self._messages:
            await self._send(message)

    @property
    def status(self) -> int:
        return next((message["status"] for message in self._messages if "status" in message), 500)

    def json(self) -> dict[str, Any]:
        body = b"".join(message.get("body", b"") for message in self._messages)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return {"detail": "The studio itself failed.", "charged": "unknown"}


async def whole_body(receive: Receive, most: int) -> bytes | None:
    """What was sent, or None if it is more than that."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return bytes(body)


def again(body: bytes) -> Receive:
    """A body that was read already, to be read once more. After it comes nothing, not even that the page went away.

    The router would stop waiting for the answer then, and the answer has the ref of what is paid for.
    """
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        if not unread:
            await anyio.sleep_forever()
        return unread.pop()

    return read


def is_json_object(body: bytes) -> bool:
    """Whether it can be a request at all."""
    try:
        msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


async def too_large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that it is."""
    detail = "This is more than 10 MB, which the service does not take. Use smaller pictures, or addresses of pictures."
    content = {"title": "Too large", "status": 413, "detail": detail, "charged": "no"}
    await JSONResponse(content, 413, media_type="application/problem+json")(scope, receive, send)
