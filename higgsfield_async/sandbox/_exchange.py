"""What is received, what is answered, and how a path finds its handler: plain values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
from multidict import CIMultiDictProxy

Operation: TypeAlias = Literal[
    "submit", "poll", "cancel", "delete", "catalogue", "estimate", "usage", "upload", "download", "other"
]
Surface: TypeAlias = Literal["proxy", "v1", "v2", "platform", "media"]


class Received(msgspec.Struct, eq=False, kw_only=True):
    """One request as the sandbox received it.

    ``surface`` is "proxy", "v1", "v2", "platform" (what v1 and v2 share) or "media" (the storage origin);
    ``operation`` is one of the words of :meth:`Sandbox.script`, or "other" for a path that no service has.
    """

    surface: Surface
    operation: Operation = "other"
    method: str
    path: str
    query: Mapping[str, str]
    #: Case-insensitive.
    headers: CIMultiDictProxy[str]
    body: bytes
    #: The status answered; None while it is being worked on, and for good when the connection was reset.
    status: int | None = None
    #: A number for the TCP connection it came in on, never used twice.
    connection: int
    #: ``time.monotonic()`` of its arrival, in seconds.
    at: float

    def json(self) -> Any:
        """The body decoded as JSON.

        Raises:
            msgspec.DecodeError: If it is not JSON.
        """
        return msgspec.json.decode(self.body)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer; a body that takes long to make is a function, called in a thread."""

    status: int = 200
    body: bytes | Callable[[], bytes] = b""
    headers: Mapping[str, str] = {}
    chunked: bool = False


class Refused(Exception):
    """Ends the handling of a request with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


Handler: TypeAlias = Callable[..., Reply]


class Route(msgspec.Struct, frozen=True):
    """A method and path pattern; its named groups become the handler's arguments."""

    method: str
    path: re.Pattern[str]
    surface: Surface
    operation: Operation
    handler: Handler

    @classmethod
    def to(cls, request: str, surface: Surface, operation: Operation, handler: Handler) -> Route:
        """``request`` is written as in "GET /requests/{id}/status"; ``{name:path}`` also takes slashes."""
        method, _, path = request.partition(" ")
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
        pattern = re.sub(r"\\{(\w+):path\\}", r"(?P<\1>.+)", pattern)
        return cls(method, re.compile(pattern), surface, operation, handler)


Found: TypeAlias = tuple[Route, dict[str, str]] | None


class Dialect(Protocol):
    """How one origin answers; pure, and told of every request whether or not it has such a path."""

    #: Of requests to paths it does not have.
    surface: Surface
    routes: tuple[Route, ...]
    #: The most bytes of a body it takes; 0 for no limit.
    body_limit: int
    #: The answer to a body beyond the limit.
    too_large: Reply
    #: Seconds after which it closes an idle connection, where it says so.
    keep_alive: int | None

    def answer(self, received: Received, found: Found) -> Reply:
        """The true answer."""
        ...

    def finish(self, received: Received, reply: Reply) -> Reply:
        """The reply with what this origin adds to every one of them."""
        ...


def find(routes: Iterable[Route], method: str, path: str) -> Found:
    """The first route that takes this request, with what its pattern captured."""
    for route in routes:
        if route.method == method and (match := route.path.fullmatch(path)):
            return route, match.groupdict()
    return None


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """``value`` as JSON."""
    return Reply(
        status=status, body=msgspec.json.encode(value), headers={"Content-Type": "application/json", **(headers or {})}
    )
