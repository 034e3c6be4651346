"""Requests as a journal keeps them: to be told apart, and to be read by people, without what is secret in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, cast

import anyio.to_thread
import msgspec
from msgspec import Struct

from higgsfield_async._content import content_of
from higgsfield_async._domain import Upload, without_query
from higgsfield_async._requests import (
    GenerationRequest,
    ModelRequest,
    SubmitOptions,
    Webhook,
    filled,
    media_in,
    read_request,
)

# Text that is longer is told by its hash: it is base64, or nothing that anybody reads.
LONGEST_TEXT = 16 * 1024
# A request with more in it is hashed in a thread.
_LARGE = 256 * 1024


class Frozen(Struct, frozen=True):
    """One request, to be told from any other.

    Attributes:
        told: Its JSON: local files and long texts as their hashes, addresses without their queries.
        digest: Of that. Two signatures of one address are one to it.
        content: Of all of it, queries too.
    """

    told: bytes
    digest: str
    content: str


async def frozen(request: GenerationRequest) -> Frozen:
    """The frozen form of a request.

    Raises:
        InvalidRequest: A local file in it cannot be read.
        UploadError: One was changed meanwhile.
    """
    places, _ = media_in(request)
    if not places:
        value = msgspec.to_builtins(request)
    else:
        texts = [
            place.value.url
            if isinstance(place.value, Upload)
            else f"blake2b:{(await (await content_of(place.value, place.loc)).digest()).hex()}"
            for place in places
        ]
        value = msgspec.to_builtins(filled(request, places, texts))
    name = type(request).__name__
    if _size(value) > _LARGE:
        return await anyio.to_thread.run_sync(_freeze, name, value)
    return _freeze(name, value)


def _freeze(name: str, value: object) -> Frozen:
    whole = msgspec.json.encode([name, _mapped(value, _shortened)], order="sorted")
    told = msgspec.json.encode({"type": name, "request": _mapped(value, _readable)}, order="sorted")
    return Frozen(told, _digest(told), _digest(whole))


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _shortened(text: str) -> str:
    return f"blake2b:{_digest(text.encode())}" if len(text) > LONGEST_TEXT else text


def _readable(text: str) -> str:
    # As it is shown elsewhere: the query of a signed address is as good as a password.
    return without_query(text) if text[:8].lower().startswith(("http://", "https://")) else _shortened(text)


def _mapped(value: object, text: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_mapped(each, text) for each in cast("list[object]", value)]
    if isinstance(value, dict):
        return {str(name): _mapped(each, text) for name, each in cast("dict[object, object]", value).items()}
    return value


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_size, cast("list[object]", value)))
    if isinstance(value, dict):
        return sum(map(_size, cast("dict[str, object]", value).values()))
    return 1


class _Replay(Struct, frozen=True, omit_defaults=True):
    model_id: str
    arguments: dict[str, Any]
    webhook: str | None = None
    expires_after: int | None = None


_replays = msgspec.json.Decoder(_Replay)


def replay_of(request: GenerationRequest, options: SubmitOptions) -> bytes | None:
    """What a submit is repeated with, word for word, or None where the service honours no key for it.

    What the platform compares of two submits with one key: model, arguments, webhook and expiry.
    Source: https://docs.higgsfield.ai/docs/concepts/idempotency.

    Args:
        request: As it goes out, with text wherever media stands.
        options: What goes beside it.
    """
    if not isinstance(request, ModelRequest):
        return None
    webhook = None if options.webhook is None else options.webhook.url
    return msgspec.json.encode(_Replay(request.model_id, dict(request.arguments), webhook, options.expires_after))


def replayed(replay: bytes, idempotency_key: str) -> tuple[GenerationRequest, SubmitOptions]:
    """The request and the options that `replay_of` wrote, to be submitted with the same key."""
    read = _replays.decode(replay)
    request = read_request(ModelRequest, {"model_id": read.model_id, "arguments": read.arguments})
    options = SubmitOptions(
        webhook=None if read.webhook is None else Webhook(read.webhook),
        expires_after=read.expires_after,
        idempotency_key=idempotency_key,
    )
    return request, options
