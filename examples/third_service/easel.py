"""A transport for a third service, the Easel: whole, and small enough to begin one of your own with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import ClassVar, Literal, NoReturn, TypeVar

import msgspec

from higgsfield_async import Estimate, Job, JobSet, JobStatus, Keyframes, Media, TaskRef, Unsupported, Upload, Usage
from higgsfield_async._budget import Unit
from higgsfield_async._domain import Page
from higgsfield_async._http import Call, Grant, HttpRequest, HttpResponse
from higgsfield_async._media import Attachment
from higgsfield_async._requests import GenerationRequest, SubmitOptions
from higgsfield_async._transports._agents import AgentCalls
from higgsfield_async._transports._answers import error_from, malformed, private_strings, read_json
from higgsfield_async._transports._base import checked_base_url, checked_key, fingerprint
from higgsfield_async._transports._characters import CharacterCalls
from higgsfield_async._transports._paths import path_part

T = TypeVar("T")

# [words] The service's words, and ours. A word that is not here reads as `unknown`: no end, and nothing breaks.
WORDS = {
    "waiting": JobStatus.QUEUED,
    "painting": JobStatus.IN_PROGRESS,
    "ready": JobStatus.COMPLETED,
    "spoiled": JobStatus.FAILED,
    "withdrawn": JobStatus.CANCELED,
}
PRICE = Estimate(credits=Decimal(2), source="the Easel's price list")
# [end words]


# [wire] What comes back, as the service spells it. What is not named is skipped; what may be missing has a default.
class Ticket(msgspec.Struct):
    ticket: str
    stage: str = ""
    canvas: str | None = None
    why: str | None = None


_ticket = msgspec.json.Decoder(Ticket)


def read_ticket(response: HttpResponse, name: str) -> JobSet:
    """What the service said, in our words."""
    told = read_json(response, _ticket, name)
    if not told.ticket:
        raise malformed(response, name, "it has no ticket")
    status = WORDS.get(told.stage, JobStatus.UNKNOWN)
    job = Job(
        id=told.ticket,
        status=status,
        raw_status=told.stage,
        outputs=(Media(told.canvas, kind="image"),) if told.canvas else (),
        reason=told.why,
        # The Easel takes its money for what is ready, and for nothing else.
        charged="yes" if status is JobStatus.COMPLETED else "no" if status.terminal else "unknown",
    )
    return JobSet(id=told.ticket, jobs=(job,), body=response.body)
    # [end wire]


class EaselTransport:
    """The Easel: it paints what `Keyframes` describe, and can take an order back."""

    name: ClassVar[str] = "easel"
    units: ClassVar[frozenset[Unit]] = frozenset({"credits"})

    # [who] Who is asked, and as whom.
    def __init__(self, token: str, base_url: str = "https://easel.example.com") -> None:
        self._token = checked_key("token", token)
        self._base = checked_base_url(base_url)
        self._account = fingerprint(self.name, self._token)

    def __repr__(self) -> str:
        return f"EaselTransport(base_url={self._base!r}, account={self._account!r})"

    @property
    def origin(self) -> str:
        return self._base

    @property
    def account(self) -> str:
        return self._account

    def same_service(self, origin: str) -> bool:
        return origin == self._base

    def _request(self, method: Literal["GET", "POST", "DELETE"], path: str, body: bytes | None = None) -> HttpRequest:
        headers = {"X-Token": self._token, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HttpRequest(method, self._base + path, headers, body)

    # [end who]

    # [submit] The one call that costs money.
    def kind(self, request: GenerationRequest) -> str:
        self._painting(request)
        return "painting"

    def _painting(self, request: GenerationRequest) -> Keyframes:
        if not isinstance(request, Keyframes):
            self._lacks(type(request).__name__)
        return request

    def submit(self, request: GenerationRequest, options: SubmitOptions) -> Call[JobSet]:
        if options != SubmitOptions():
            self._lacks("webhook, idempotency_key or expires_after")
        painting = self._painting(request)
        order = {"what": painting.prompt, "models": list(painting.image_references or ())}
        body = msgspec.json.encode(order)
        private = private_strings(order, "prompt") | {self._token}

        def decode(response: HttpResponse) -> JobSet:
            if response.status == 201:
                return read_ticket(response, "submit")
            raise error_from(response, "submit", private=private)

        # Without an idempotency key: on a connection of its own, and never repeated where it may have been accepted.
        return Call("submit", self._request("POST", "/orders", body), decode, submits=True, fresh=True)

    def price(self, request: GenerationRequest) -> Estimate:
        self.kind(request)
        return PRICE

    def estimate(self, request: GenerationRequest) -> Estimate:
        self.submit(request, SubmitOptions())  # what a submit refuses has no price
        return PRICE

    def inlined(self, request: GenerationRequest, files: Sequence[Attachment]) -> Sequence[str]:
        return ["data:application/octet-stream;base64," for _ in files]

    # [end submit]

    # [poll] Looking, and taking back. Addresses are built from ids, and never taken from an answer.
    def poll(self, ref: TaskRef) -> Call[JobSet]:
        name = f"the poll of generation {ref.id}"

        def decode(response: HttpResponse) -> JobSet:
            if response.status == 200:
                return read_ticket(response, name)
            raise error_from(response, name, private=(self._token,), looking=True)

        return Call(name, self._request("GET", f"/orders/{path_part(ref.id)}"), decode, polls=True)

    def cancel(self, ref: TaskRef) -> Call[None]:
        name = f"the cancelling of generation {ref.id}"

        def decode(response: HttpResponse) -> None:
            if response.status != 204:
                raise error_from(response, name, private=(self._token,))

        return Call(name, self._request("DELETE", f"/orders/{path_part(ref.id)}"), decode)

    # [end poll]

    # [lacks] What it has not, it says.
    def delete(self, ref: TaskRef) -> Call[None]:
        self._lacks("a way to delete")

    def upload(self, head: bytes, size: int, content_type: str | None) -> Call[Grant[Upload]]:
        self._lacks("uploads")

    def catalogue(
        self, of: type[T], *, size: int | None, search: str | None, cursor: int | str | None, version: int
    ) -> Call[Page[T]]:
        self._lacks(f"a list of {of.__name__}")

    def usage(self, start: date | None, end: date | None, timeframe: str) -> Call[tuple[Usage, ...]]:
        self._lacks("an account of what was used")

    def characters(self) -> CharacterCalls:
        self._lacks("characters")

    def agents(self) -> AgentCalls:
        self._lacks("agents")

    def _lacks(self, what: str) -> NoReturn:
        msg = f"The Easel has no {what}."
        raise Unsupported(msg)

    # [end lacks]
