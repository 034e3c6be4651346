"""Whatever reads bytes that others wrote, as one table: hypothesis and the fuzzer feed it.

Each takes any bytes, and gives a value or raises one of our errors, whatever they are. What reads more than a body (a
status, a header) takes it from the first byte, or as text.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from higgsfield_async import (
    Ad,
    AgentMedia,
    AvatarPreset,
    CharacterTraining,
    Estimate,
    HiggsfieldError,
    ImageToVideo,
    MarketingPreset,
    Model,
    ModelRequest,
    Motion,
    PlatformTransport,
    ProxyTransport,
    SoulStyle,
    Sound,
    Speak,
    Speech,
    TaskRef,
    Transport,
    Voice,
    sse,
)
from higgsfield_async._hints import problems
from higgsfield_async._http import Call, HttpResponse
from higgsfield_async._ledger import read_spilled
from higgsfield_async._ranges import answered, entity_of, resuming, with_total
from higgsfield_async._requests import SubmitOptions, read_request
from higgsfield_async._signatures import suffix_for, unlike
from higgsfield_async.webhooks import unwrap
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V1, V2

KEY = "hk-0123456789abcdef"
SECRET = "s3cret:with:colons"
PROXY_TRANSPORT = ProxyTransport(KEY)
PLATFORM = PlatformTransport("11111111-2222-3333-4444-555555555555", SECRET)
OPTIONS = SubmitOptions()


def ref(transport: Transport, kind: str) -> TaskRef:
    return TaskRef(
        transport=transport.name,
        origin=transport.origin,
        account=transport.account,
        id="abc",
        kind=kind,
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


def listing(transport: Transport, of: type, version: int = 1) -> Call[Any]:
    return transport.catalogue(of, size=None, search=None, cursor=None, version=version)


def asked(estimate: Call[Estimate] | Estimate) -> Call[Estimate]:
    assert isinstance(estimate, Call)
    return estimate


MEDIA = AgentMedia(id="m1.png", url="https://cdn.example.com/m1.png", kind="image", content_type="image/png", size=8)

# Every operation that there is: what the contract below holds for.
CALLS: dict[str, Callable[[], Call[Any]]] = {
    "proxy submit": lambda: PROXY_TRANSPORT.submit(PROXY.request, OPTIONS),
    "proxy ad": lambda: PROXY_TRANSPORT.submit(Ad(product_placement_sample_id="x", images=[IMAGE]), OPTIONS),
    "proxy speech": lambda: ProxyTransport(KEY).submit(
        Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], speak=Speak(text="hi", voice_id="v")), OPTIONS
    ),
    "proxy poll": lambda: PROXY_TRANSPORT.poll(ref(PROXY_TRANSPORT, "ad")),
    "proxy motions": lambda: listing(PROXY_TRANSPORT, Motion),
    "proxy presets": lambda: listing(PROXY_TRANSPORT, AvatarPreset),
    "proxy voices": lambda: listing(PROXY_TRANSPORT, Voice),
    "proxy sounds": lambda: listing(PROXY_TRANSPORT, Sound),
    "v1 submit": lambda: PLATFORM.submit(V1.request, OPTIONS),
    "v1 poll": lambda: PLATFORM.poll(ref(PLATFORM, "v1/text2image/keyframes")),
    "v2 submit": lambda: PLATFORM.submit(V2.request, OPTIONS),
    "v2 estimate": lambda: asked(PLATFORM.estimate(V2.request)),
    "v2 poll": lambda: PLATFORM.poll(ref(PLATFORM, "higgsfield-ai/dop/turbo")),
    "v2 cancel": lambda: PLATFORM.cancel(ref(PLATFORM, "higgsfield-ai/dop/turbo")),
    "v2 upload": lambda: PLATFORM.upload(b"\x89PNG\r\n\x1a\n", 8, None),
    "v2 models": lambda: listing(PLATFORM, Model),
    "v2 presets": lambda: listing(PLATFORM, MarketingPreset),
    "v2 usage": lambda: PLATFORM.usage(None, None, "day"),
    "v2 delete": lambda: PLATFORM.delete(ref(PLATFORM, "higgsfield-ai/dop/turbo")),
    "v2 training": lambda: PLATFORM.submit(CharacterTraining(name=PROMPT, images=[IMAGE]), OPTIONS),
    "v2 training poll": lambda: PLATFORM.poll(ref(PLATFORM, "v1/custom-references")),
    "v2 character": lambda: PLATFORM.characters().get("abc"),
    "v2 characters": lambda: PLATFORM.characters().page(20, None),
    "v2 character delete": lambda: PLATFORM.characters().delete("abc"),
    "v2 agent": lambda: PLATFORM.agents().create({"system_prompt": PROMPT}),
    "v2 agent send": lambda: PLATFORM.agents().send("abc", PROMPT),
    "v2 agent messages": lambda: PLATFORM.agents().messages("abc", "u1"),
    "v2 agent interrupt": lambda: PLATFORM.agents().interrupt("abc"),
    "v2 agent media": lambda: PLATFORM.agents().media(8, "png", None),
    "v2 agent confirm": lambda: PLATFORM.agents().confirm(MEDIA),
    "platform motions": lambda: listing(PLATFORM, Motion),
    "platform styles": lambda: listing(PLATFORM, SoulStyle),
    "platform styles 2": lambda: listing(PLATFORM, SoulStyle, 2),
}

# The first byte of what a call reads.
STATUSES = (200, 202, 204, 301, 400, 401, 403, 404, 408, 409, 413, 422, 428, 429, 500, 502, 503, 504)
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def answer(make: Callable[[], Call[Any]]) -> Callable[[bytes], object]:
    """What reads the answer to a call: its status is told by the first byte."""

    def decode(data: bytes) -> object:
        response = HttpResponse(STATUSES[data[0] % len(STATUSES)] if data else 200, {}, data[1:], 1.8e9)
        found: object = make().decode(response)
        for _ in range(2):  # a call that is answered with a call
            if isinstance(found, Call):
                found = found.decode(response)
        return found

    return decode


def text(data: bytes) -> str:
    """As headers come."""
    return data.decode("utf-8", "surrogateescape")


def retry_after(data: bytes) -> float | None:
    found = HttpResponse(429, {"retry-after": text(data)}, b"", 1.8e9).retry_after
    assert found is None or found >= 0
    return found


def ranges(data: bytes) -> object:
    lines = text(data).split("\n")
    names = ("content-range", "content-length", "etag", "last-modified", "content-encoding")
    headers = dict(zip(names, lines, strict=False))
    entity = entity_of(headers)
    assert entity.total is None or entity.total >= 0
    return resuming(entity, 5), with_total(entity, headers), answered(206, headers, entity, 5)


def signature(data: bytes) -> object:
    return suffix_for("", "file", data), unlike("image", data), unlike("video", data), unlike("audio", data)


def signed(data: bytes) -> object:
    names = ("webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-secret-key")
    headers = dict(zip(names, text(data).split("\n"), strict=False))
    return unwrap(b"{}", headers, secrets=[WEBHOOK_SECRET, "a secret of v1"])


def json_request(kind: Any) -> Callable[[bytes], object]:
    """A request as a service takes it from its own callers, who may write any JSON."""

    def decode(data: bytes) -> object:
        try:
            value = msgspec.json.decode(data)
        except (ValueError, RecursionError):
            return None  # no JSON: whoever reads it says so
        return read_request(kind, value)

    return decode


def arguments(data: bytes) -> object:
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
    return problems("higgsfield-ai/dop/turbo", value)


DECODERS: dict[str, Callable[[bytes], object]] = {
    **{name: answer(make) for name, make in CALLS.items()},
    "ref": TaskRef.from_json,
    "short ref": lambda data: TaskRef.from_short(text(data), transport="t", origin="o", account="a"),
    "webhook": lambda data: unwrap(data, {}),
    "signed webhook": signed,
    "Retry-After": retry_after,
    "ranges": ranges,
    "signature": signature,
    "image": lambda data: ImageToVideo(model="lite", motion_id=MOTION, prompt=PROMPT, images=[text(data)]),
    "request": json_request(ImageToVideo),
    "model request": json_request(ModelRequest),
    "arguments": arguments,
    "Last-Event-ID": lambda data: sse.is_over(text(data)),
    "spilled id": read_spilled,
}


def fed(name: str, data: bytes) -> None:
    """Feeds one of them: anything but a value or one of our errors is raised."""
    try:
        DECODERS[name](data)
    except HiggsfieldError as error:
        assert str(error)  # it is to say something
