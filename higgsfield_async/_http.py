"""One HTTP exchange as values: what is sent, what came back, and how to read it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from higgsfield_async._domain import without_query

T = TypeVar("T")


class HttpRequest(Struct, frozen=True, gc=False):
    """What is sent. Headers hold keys, and bodies prompts: neither is shown."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {without_query(self.url)})"


class HttpResponse(Struct, frozen=True, gc=False):
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: The headers, to be looked up in lower case.
        body: All of the body.
        now: When it came, in seconds since the epoch; only a `Retry-After` that is a date needs it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    now: float = 0.0

    def __repr__(self) -> str:
        return f"HttpResponse({self.status}, {len(self.body):,} bytes)"

    @property
    def retry_after(self) -> float | None:
        """The seconds that `Retry-After` asks for, which may be given as a number or a date, or None."""
        value = self.headers.get("retry-after", "").strip()
        if _SECONDS.fullmatch(value):
            return float(value)
        if not value:
            return None
        when = moment(value)
        return None if when is None else max(0.0, when - self.now)


def moment(date: str) -> float | None:
    """A date as HTTP writes it, in seconds since the epoch, or None where it is none."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)


class Call(Struct, Generic[T], frozen=True):
    """One HTTP exchange, described and not performed.

    Attributes:
        name: What it does, for logs and messages: "submit", "the poll of generation …", ….
        request: What to send.
        decode: Reads the answer: gives the value, gives a further call to perform in its place, or raises one of our
            errors.
        submits: Whether an accepted one costs money.
        polls: Whether it looks at a generation.
        key: The `Idempotency-Key` of a submit. Without one, a submit that may have been accepted is never repeated.
        resumed: Whether an earlier submit with the same key may have been accepted.
        fresh: Whether it needs a connection of its own: on one that was kept alive and has just died, nobody can tell
            whether an unrepeatable submit arrived.
    """

    name: str
    request: HttpRequest
    decode: Callable[[HttpResponse], T | Call[T]]
    submits: bool = False
    polls: bool = False
    key: str | None = None
    resumed: bool = False
    fresh: bool = False

    def __repr__(self) -> str:
        return f"Call({self.name!r}, {self.request!r})"


class Grant(Struct, Generic[T], frozen=True):
    """Leave to put one file somewhere. It is another host: no key of ours goes there.

    Attributes:
        request: What to send, with the file for a body.
        decode: Reads the answer.
    """

    request: HttpRequest
    decode: Callable[[HttpResponse], T]

    def __repr__(self) -> str:
        return f"Grant({self.request!r})"


# How much longer than its caller waits a submit is tried that may have been accepted, in seconds: a limit may keep it
# from being recovered by its key.
DOUBT_GRACE = 60.0


@dataclass(slots=True)
class Ticket:
    """What is known of a submit that is under way, for whoever waits for it.

    Attributes:
        in_flight: Whether it may have been accepted: it is being sent, or was, and no answer has said otherwise.
        doubtful: Whether an earlier try of it may have been accepted, and its answer is lost.
        failures: How many tries of it have failed.
        abandoned: Set when nobody waits any more: what was refused is then not tried again.
        until: When its caller's patience ends, by the monotonic clock: what was refused is not tried again after that.
        doubtful_until: How long that which may have been accepted is tried all the same.
        begin: Called right before each try leaves: it writes down what is about to be paid for. Nothing is sent where
            it fails.
        taken_back: Called when what was begun was refused, and will be tried again much later.
    """

    in_flight: bool = False
    doubtful: bool = False
    failures: int = 0
    abandoned: bool = False
    until: float = math.inf
    doubtful_until: float = -math.inf
    begin: Callable[[], Awaitable[None]] | None = None
    taken_back: Callable[[], None] = lambda: None

    def doubt(self) -> None:
        """Takes down that a try may have been accepted."""
        self.doubtful = True
        self.doubtful_until = time.monotonic() + DOUBT_GRACE

    @property
    def waits_until(self) -> float:
        """How long it is tried, and waits for its turn."""
        return max(-math.inf if self.abandoned else self.until, self.doubtful_until)
