"""The agent API: `/v1/agent/...`, a product of its own, with the header of v2.

No page documents it. Source: the platform's Python and JavaScript SDKs of September 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from higgsfield_async._conversation import AgentMedia, AgentMessage, AgentPart, AgentState, AgentStatus
from higgsfield_async._errors import FieldError, InvalidRequest
from higgsfield_async._http import Call, Grant, HttpRequest, HttpResponse
from higgsfield_async._transports._answers import (
    as_object,
    error_from,
    is_array,
    is_object,
    kind_of_media,
    malformed,
    private_strings,
    read_json,
    read_utc,
    text_or_none,
)
from higgsfield_async._transports._characters import Ask
from higgsfield_async._transports._paths import path_part
from higgsfield_async._transports._uploads import checked_address, put_request, storage_error

AgentMediaKind = Literal["image", "video", "audio", "file"]

_WORDS: Mapping[str, AgentStatus] = {status.value: status for status in AgentStatus if status != AgentStatus.UNKNOWN}

_MEANT = {403: "The agent API is a product of its own: it must be enabled for the account."}
_BUSY = {
    **_MEANT,
    409: "A turn of this session is under way, and this message was not taken: wait for its end, or interrupt it.",
}

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)
# A language model costs little: such a number may come with an exponent.
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", re.ASCII)


class _Session(Struct):
    session_id: Any = None


class _Sent(Struct):
    message_id: Any = None


class _State(Struct):
    status: Any = None
    messages: Any = None


class _Slot(Struct):
    id: Any = None
    url: Any = None
    upload_url: Any = None
    content_type: Any = None
    upload_headers: Any = None


_session_decoder = msgspec.json.Decoder(_Session)
_sent_decoder = msgspec.json.Decoder(_Sent)
_state_decoder = msgspec.json.Decoder(_State)
_slot_decoder = msgspec.json.Decoder(_Slot)


class AgentCalls:
    """What there is to do with agent sessions.

    Args:
        ask: Makes the requests.
        secrets: What no message may repeat.
    """

    def __init__(self, ask: Ask, secrets: set[str]) -> None:
        self._ask = ask
        self._secrets = secrets

    def create(self, config: object) -> Call[str]:
        """Opens a session, which costs nothing by itself, and gives its id."""
        if not isinstance(config, Mapping):
            raise _refused("config", "must be an object")
        body = _encoded("config", dict(cast("Mapping[str, Any]", config)))
        private = private_strings(msgspec.json.decode(body)) | self._secrets
        name = "the opening of an agent session"

        def decode(response: HttpResponse) -> str:
            self._check(response, name, _MEANT, private)
            session_id = text_or_none(read_json(response, _session_decoder, name).session_id)
            if session_id is None:
                raise malformed(response, name, "it has no session_id")
            return session_id

        return Call(name, self._ask("POST", "/v1/agent/sessions", body), decode)

    def send(self, session_id: str, content: object) -> Call[str]:
        """Sends a message, which begins a turn and costs money, and gives the message's id. It is never sent twice."""
        path = _path(session_id, "messages")
        if not isinstance(content, str) or not content.strip():
            raise _refused("content", "must be a text, and not empty")
        body = _encoded("content", content)
        private = private_strings(content, "text") | self._secrets
        name = f"a message to agent session {session_id}"

        def decode(response: HttpResponse) -> str:
            self._check(response, name, _BUSY, private)
            message_id = text_or_none(read_json(response, _sent_decoder, name).message_id)
            if message_id is None:
                raise malformed(response, name, "it has no message_id")
            return message_id

        return Call(name, self._ask("POST", path, body), decode, submits=True, fresh=True)

    def messages(self, session_id: str, after: str | None) -> Call[AgentState]:
        """Asks whose turn it is, and for the messages after one, or for all."""
        path = _path(session_id, "messages")
        if after is not None:
            path_part(after, "after")
            path += "?" + urlencode({"after": after})
        name = f"the messages of agent session {session_id}"

        def decode(response: HttpResponse) -> AgentState:
            self._check(response, name, _MEANT, self._secrets, looking=True)
            return _read_state(response, name)

        return Call(name, self._ask("GET", path), decode, polls=True)

    def interrupt(self, session_id: str) -> Call[None]:
        """Ends a turn that is under way."""
        name = f"the interrupt of agent session {session_id}"

        def decode(response: HttpResponse) -> None:
            self._check(response, name, _MEANT, self._secrets)

        return Call(name, self._ask("POST", _path(session_id, "interrupt")), decode)

    def media(self, size: int, extension: object, kind: object) -> Call[Grant[AgentMedia]]:
        """Asks for leave to upload a file."""
        if size == 0:
            raise _refused("content", "is empty")
        if not isinstance(extension, str) or not _EXTENSION.fullmatch(ending := extension.removeprefix(".")):
            raise _refused("extension", "must be given, as in jpeg: 1 to 16 letters and digits")
        kind = kind_of_media(f"/x.{ending}") if kind is None else kind
        if kind not in get_args(AgentMediaKind):
            raise _refused("kind", f"must be one of {', '.join(get_args(AgentMediaKind))}")
        known = cast("AgentMediaKind", kind)
        name = "the request for an upload for agents"

        def decode(response: HttpResponse) -> Grant[AgentMedia]:
            self._check(response, name, _MEANT, self._secrets)
            return _read_slot(response, name, known, size)

        body = msgspec.json.encode({"extension": ending.lower(), "type": known})
        return Call(name, self._ask("POST", "/v1/agent/media", body), decode)

    def confirm(self, media: AgentMedia) -> Call[None]:
        """Says that a file has been put where leave was given."""
        name = f"the confirmation of media {media.id}"

        def decode(response: HttpResponse) -> None:
            self._check(response, name, _MEANT, self._secrets)

        path = f"/v1/agent/media/{path_part(media.id, 'media')}/confirm"
        return Call(name, self._ask("POST", path, msgspec.json.encode({"type": media.kind})), decode)

    @staticmethod
    def _check(
        response: HttpResponse, name: str, advice: Mapping[int, str], private: set[str], *, looking: bool = False
    ) -> None:
        if not 200 <= response.status < 300:
            raise error_from(response, name, private=private, looking=looking, advice=advice)


def _path(session_id: str, what: str) -> str:
    return f"/v1/agent/sessions/{path_part(session_id, 'session_id')}/{what}"


def _encoded(field: str, value: object) -> bytes:
    """The body that holds nothing but this field."""
    try:
        # The standard library's encoder is the strict one: msgspec's writes NaN as null.
        return json.dumps({field: value}, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        # Without what it says: it may quote what was given.
        raise _refused(field, "cannot be written as JSON") from None


def _refused(field: str, why: str) -> InvalidRequest:
    error = FieldError((field,), why, "value_error")
    return InvalidRequest(f"{error}.", errors=(error,))


def _read_state(response: HttpResponse, name: str) -> AgentState:
    wire = read_json(response, _state_decoder, name)
    word = text_or_none(wire.status)
    if word is None:
        raise malformed(response, name, "it has no status")
    if wire.messages is not None and not is_array(wire.messages):
        raise malformed(response, name, "its messages are none")
    return AgentState(
        status=_WORDS.get(word, AgentStatus.UNKNOWN),
        raw_status=word,
        messages=tuple(_message(each) for each in wire.messages or () if is_object(each)),
    )


def _message(record: Mapping[str, Any]) -> AgentMessage:
    # It says the same inside and outside; what is outside is documented.
    inner = record.get("message")
    within = as_object(inner)
    parts = within.get("parts") if is_array(within.get("parts")) else [inner]
    return AgentMessage(
        id=text_or_none(record.get("message_id")) or text_or_none(within.get("id")) or "",
        role=text_or_none(record.get("role")) or text_or_none(within.get("role")) or "",
        status=text_or_none(record.get("status")) or "",
        parts=tuple(part for each in cast("list[object]", parts) if (part := _part(each)) is not None),
        created_at=read_utc(record.get("created_at")),
        llm_cost_usd=_amount(record.get("llm_cost_usd")),
    )


def _part(value: object) -> AgentPart | None:
    if isinstance(value, str):
        return AgentPart(type="text", text=value, fields={"type": "text", "text": value})
    if not is_object(value):
        return None
    return AgentPart(
        type=text_or_none(value.get("type")) or "", text=text_or_none(value.get("text")) or "", fields=value
    )


def _amount(value: object) -> Decimal | None:
    number = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return Decimal(str(value)) if number and _AMOUNT.fullmatch(str(value)) else None


def _read_slot(response: HttpResponse, name: str, kind: AgentMediaKind, size: int) -> Grant[AgentMedia]:
    wire = read_json(response, _slot_decoder, name)
    identifier = text_or_none(wire.id)
    if identifier is None:
        raise malformed(response, name, "it has no id")
    url = checked_address(response, name, "url", wire.url)
    content_type = text_or_none(wire.content_type) or "application/octet-stream"
    request: HttpRequest = put_request(response, name, wire.upload_url, wire.upload_headers, content_type)

    def decode(response: HttpResponse) -> AgentMedia:
        if 200 <= response.status < 300:
            return AgentMedia(id=identifier, url=url, kind=kind, content_type=content_type, size=size)
        raise storage_error(response, request)

    return Grant(request, decode)
