"""Everything the transports send, and what they make of every kind of answer: written down, to be read by people.

`python tests/wire_record.py` takes what they do now for right, and writes `tests/recorded/wire.json`. What it changes
there is what callers and services will see change.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from higgsfield_async import (
    Ad,
    AgentMedia,
    AvatarPreset,
    CharacterTraining,
    DopVideo,
    HiggsfieldError,
    ImageToVideo,
    JobSet,
    MarketingPreset,
    Model,
    Motion,
    PlatformTransport,
    ProxyTransport,
    Soul,
    SoulStyle,
    Sound,
    Speak,
    Speech,
    TalkingHead,
    TaskRef,
    Transport,
    Voice,
    Webhook,
)
from higgsfield_async._http import Call, Grant, HttpRequest, HttpResponse
from higgsfield_async._media import Attachment, Sort
from higgsfield_async._requests import SubmitOptions
from higgsfield_async._transports._environment import transport_from
from higgsfield_async._transports._listings import unlisted
from higgsfield_async._transports._platform import read_report
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V1, V2

RECORD = Path(__file__).parent / "recorded" / "wire.json"

KEY, SECRET = "hk-0123456789abcdef", "s3cret:with:colons"
PROXY_SIDE = ProxyTransport(KEY)
PLATFORM = PlatformTransport("11111111-2222-3333-4444-555555555555", SECRET)
NOW = 1_800_000_000.0
NONE = SubmitOptions()
HOOK = Webhook(url="https://hooks.example.com/higgsfield?of=me", secret="hush hush hush")
OPEN_HOOK = Webhook(url="https://hooks.example.com/higgsfield?of=me")
TURBO = "higgsfield-ai/dop/turbo"
PNG = b"\x89PNG\r\n\x1a\n"


def ref(transport: Transport, kind: str, identifier: str = "abc") -> TaskRef:
    return TaskRef(
        transport=transport.name,
        origin=transport.origin,
        account=transport.account,
        id=identifier,
        kind=kind,
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


def listed(transport: Transport, of: type, version: int = 1, **asked: Any) -> Call[Any]:
    return transport.catalogue(of, **{"size": None, "search": None, "cursor": None, "version": version, **asked})


def long(millions: int) -> str:
    return "data:image/png;base64," + "A" * 1_000_000 * millions


def submitted_with(*images: str) -> Any:
    request = ImageToVideo(model="lite", motion_id=MOTION, prompt=PROMPT, images=images)
    return PROXY_SIDE.submit(request, NONE)


def inlined(transport: Transport, *files: Attachment) -> Any:
    return transport.inlined(ImageToVideo(model="lite", motion_id=MOTION, prompt=PROMPT, images=[IMAGE]), files)


AD = Ad(product_placement_sample_id="x", images=[IMAGE])
SPEECH = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], speak=Speak(text="hi", voice_id="v"))


def speaking(transport: ProxyTransport) -> Call[Any]:
    return transport.submit(SPEECH, NONE)


def attached(head: bytes, size: int = 8, name: str = "", index: int = 0, sort: Sort | None = "image") -> Attachment:
    return Attachment(loc=("images", index), head=head, size=size, name=name, sort=sort)


MEDIA = AgentMedia(id="m1.png", url="https://cdn.example.com/m1.png", kind="image", content_type="image/png", size=8)
KEYED = SubmitOptions(idempotency_key="once", expires_after=3600, webhook=OPEN_HOOK)

CALLS: dict[str, Callable[[], Any]] = {
    "proxy submit": lambda: PROXY_SIDE.submit(PROXY.request, NONE),
    "proxy speech": lambda: speaking(ProxyTransport(KEY)),
    "proxy speech, the other path": lambda: speaking(ProxyTransport(KEY, speech_path="/higgsfield/speech")),
    "proxy ad": lambda: PROXY_SIDE.submit(AD, NONE),
    "proxy poll": lambda: PROXY_SIDE.poll(ref(PROXY_SIDE, "ad")),
    "proxy motions": lambda: listed(PROXY_SIDE, Motion),
    "proxy motions, asked for": lambda: listed(PROXY_SIDE, Motion, size=5, search="zoom in", cursor=3),
    "proxy presets": lambda: listed(PROXY_SIDE, AvatarPreset),
    "proxy voices": lambda: listed(PROXY_SIDE, Voice, cursor="next"),
    "proxy sounds": lambda: listed(PROXY_SIDE, Sound),
    "v1 submit": lambda: PLATFORM.submit(V1.request, NONE),
    "v1 submit with a webhook": lambda: PLATFORM.submit(V1.request, SubmitOptions(webhook=HOOK)),
    "v1 poll": lambda: PLATFORM.poll(ref(PLATFORM, "v1/text2image/keyframes", "a b/c")),
    "v2 submit": lambda: PLATFORM.submit(V2.request, KEYED),
    "v2 submit, resumed": lambda: PLATFORM.submit(V2.request, SubmitOptions(idempotency_key="once", resumes=True)),
    "v2 estimate": lambda: PLATFORM.estimate(V2.request),
    "v2 poll of an odd id": lambda: PLATFORM.poll(ref(PLATFORM, TURBO, "X/?#%é")),
    "v2 poll": lambda: PLATFORM.poll(ref(PLATFORM, TURBO, "a b/c")),
    "v2 cancel": lambda: PLATFORM.cancel(ref(PLATFORM, TURBO)),
    "v2 delete": lambda: PLATFORM.delete(ref(PLATFORM, TURBO)),
    "v2 upload": lambda: PLATFORM.upload(PNG, 8, None),
    "v2 upload of a type": lambda: PLATFORM.upload(b"any", 3, "Image/JPEG"),
    "v2 models": lambda: listed(PLATFORM, Model),
    "v2 presets": lambda: listed(PLATFORM, MarketingPreset, size=2, search="a b", cursor="c"),
    "v2 usage": lambda: PLATFORM.usage(date(2026, 11, 1), datetime(2026, 11, 22, 3, tzinfo=UTC), "day"),
    "v2 usage of all": lambda: PLATFORM.usage(None, None, "month"),
    "v2 training": lambda: PLATFORM.submit(
        CharacterTraining(name=PROMPT, images=[IMAGE, IMAGE], model_version="v2"), NONE
    ),
    "v2 training poll": lambda: PLATFORM.poll(ref(PLATFORM, "v1/custom-references")),
    "v2 character": lambda: PLATFORM.characters().get("a b"),
    "v2 characters": lambda: PLATFORM.characters().page(20, None),
    "v2 characters, the second page": lambda: PLATFORM.characters().page(None, "2"),
    "v2 character delete": lambda: PLATFORM.delete(ref(PLATFORM, "v1/custom-references", "a b")),
    "v2 agent": lambda: PLATFORM.agents().create({"system_prompt": PROMPT, "tools": ["é"]}),
    "v2 agent send": lambda: PLATFORM.agents().send("s/1", PROMPT),
    "v2 agent messages": lambda: PLATFORM.agents().messages("s/1", "u 1"),
    "v2 agent messages of all": lambda: PLATFORM.agents().messages("s1", None),
    "v2 agent interrupt": lambda: PLATFORM.agents().interrupt("s1"),
    "v2 agent media": lambda: PLATFORM.agents().media(8, ".PNG", None),
    "v2 agent media of a kind": lambda: PLATFORM.agents().media(8, "x", "file"),
    "v2 agent confirm": lambda: PLATFORM.agents().confirm(MEDIA),
    "platform motions": lambda: listed(PLATFORM, Motion),
    "platform styles": lambda: listed(PLATFORM, SoulStyle),
    "platform styles 2": lambda: listed(PLATFORM, SoulStyle, 2),
}

AHEAD = datetime(2026, 11, 22, 3, tzinfo=timezone(timedelta(hours=8)))
# What needs no answer: a value, or a refusal before anything is sent.
FOUND: dict[str, Callable[[], Any]] = {
    **{
        f"the proxy cannot {name}": call
        for name, call in {
            "cancel": lambda: PROXY_SIDE.cancel(ref(PROXY_SIDE, "ad")),
            "delete": lambda: PROXY_SIDE.delete(ref(PROXY_SIDE, "ad")),
            "upload": lambda: PROXY_SIDE.upload(PNG, 8, None),
            "make characters": PROXY_SIDE.characters,
            "run agents": PROXY_SIDE.agents,
            "say what was used": lambda: PROXY_SIDE.usage(None, None, "day"),
            "make keyframes": lambda: PROXY_SIDE.submit(V1.request, NONE),
            "call a webhook": lambda: PROXY_SIDE.submit(PROXY.request, SubmitOptions(webhook=HOOK)),
            "expire": lambda: PROXY_SIDE.submit(PROXY.request, SubmitOptions(expires_after=3600)),
            "take a key": lambda: PROXY_SIDE.submit(PROXY.request, SubmitOptions(idempotency_key="k")),
            "list models": lambda: listed(PROXY_SIDE, Model),
            "list motions twice": lambda: listed(PROXY_SIDE, Motion, 2),
            "search voices": lambda: listed(PROXY_SIDE, Voice, search="x"),
            "take a long one": lambda: submitted_with(IMAGE, long(11)),
            "take two long ones": lambda: submitted_with(long(6), long(6)),
        }.items()
    },
    **{
        f"the platform cannot {name}": call
        for name, call in {
            "cancel v1": lambda: PLATFORM.cancel(ref(PLATFORM, "v1/text2image/soul")),
            "delete v1": lambda: PLATFORM.delete(ref(PLATFORM, "v1/text2image/soul")),
            "make an image to video": lambda: PLATFORM.submit(PROXY.request, NONE),
            "take a key for v1": lambda: PLATFORM.submit(V1.request, SubmitOptions(idempotency_key="k")),
            "expire v1": lambda: PLATFORM.submit(V1.request, SubmitOptions(expires_after=3600)),
            "estimate v1": lambda: PLATFORM.estimate(V1.request),
            "take a secret": lambda: PLATFORM.submit(V2.request, SubmitOptions(webhook=HOOK)),
            "call http": lambda: PLATFORM.submit(
                V2.request, SubmitOptions(webhook=Webhook(url="http://hooks.example.com/"))
            ),
            "list voices": lambda: listed(PLATFORM, Voice),
            "search motions": lambda: listed(PLATFORM, Motion, search="x"),
            "upload nothing": lambda: PLATFORM.upload(b"", 0, None),
            "upload anything": lambda: PLATFORM.upload(b"anything", 8, None),
            "upload HEIC": lambda: PLATFORM.upload(b"\0\0\0\x18ftypheic", 12, None),
            "upload text": lambda: PLATFORM.upload(b"text", 4, "text/plain" + "n" * 200),
            "take an id": lambda: PLATFORM.poll(ref(PLATFORM, TURBO, "..")),
            "take half a character": lambda: PLATFORM.poll(ref(PLATFORM, TURBO, "\ud800")),
            "say what was used without a zone": lambda: PLATFORM.usage(datetime(2026, 11, 1), None, "day"),  # noqa: DTZ001
            "say what was used backwards": lambda: PLATFORM.usage(date(2026, 11, 2), date(2026, 11, 1), "day"),
            "say what was used in no time": lambda: PLATFORM.usage(date(2026, 11, 2), date(2026, 11, 2), "day"),
            "say what was used by what": lambda: PLATFORM.usage(date(2026, 11, 2), datetime(2026, 11, 1), "DAY!"),  # noqa: DTZ001
            "train with a webhook": lambda: PLATFORM.submit(
                CharacterTraining(name="n", images=[IMAGE]), SubmitOptions(webhook=OPEN_HOOK)
            ),
            "train in time": lambda: PLATFORM.submit(
                CharacterTraining(name="n", images=[IMAGE]), SubmitOptions(expires_after=3600)
            ),
            "train once": lambda: PLATFORM.submit(
                CharacterTraining(name="n", images=[IMAGE]), SubmitOptions(idempotency_key="k")
            ),
            "find a character": lambda: PLATFORM.characters().get("."),
            "delete a character": lambda: PLATFORM.characters().delete(""),
            "run a list": lambda: PLATFORM.agents().create([PROMPT]),
            "run what is no JSON": lambda: PLATFORM.agents().create({"x": float("nan")}),
            "send nothing": lambda: PLATFORM.agents().send("s1", " "),
            "send bytes": lambda: PLATFORM.agents().send("s1", b"text"),
            "send to": lambda: PLATFORM.agents().send("..", "text"),
            "tell what came after": lambda: PLATFORM.agents().messages("s1", ".."),
            "take empty media": lambda: PLATFORM.agents().media(0, "png", None),
            "take media without an ending": lambda: PLATFORM.agents().media(8, "", None),
            "take media of a kind": lambda: PLATFORM.agents().media(8, "png", "picture"),
            "confirm": lambda: PLATFORM.agents().confirm(msgspec.structs.replace(MEDIA, id="..")),
        }.items()
    },
    "usage ahead of Greenwich": lambda: PLATFORM.usage(AHEAD, None, "day").request.url,
    "prices of the proxy": lambda: [PROXY_SIDE.estimate(each) for each in (PROXY.request, AD, SPEECH)],
    "price of a training": lambda: PLATFORM.estimate(CharacterTraining(name="n", images=[IMAGE])),
    "price of anything else": lambda: PLATFORM.price(V1.request),
    "kinds": lambda: [
        *(PROXY_SIDE.kind(each) for each in (PROXY.request, AD, SPEECH)),
        *(PLATFORM.kind(each) for each in (V1.request, V2.request, CharacterTraining(name="n", images=[IMAGE]))),
        PLATFORM.kind(Soul(prompt=PROMPT, width_and_height="1536x1536")),
        PLATFORM.kind(DopVideo(model="dop-lite", prompt=PROMPT, images=[IMAGE])),
        PLATFORM.kind(TalkingHead(prompt=PROMPT, image=IMAGE, audio="https://a.b/c.wav", quality="mid", duration=5)),
    ],
    "a proxy key that is none": lambda: ProxyTransport("hk"),
    "a proxy key with a space": lambda: ProxyTransport("hk- 1"),
    "a speech path that is none": lambda: ProxyTransport(KEY, speech_path="speak"),
    "a key id that is none": lambda: PlatformTransport("", SECRET),
    "a key secret that is none": lambda: PlatformTransport("i", "s\n"),
    "an address that is none": lambda: PlatformTransport("i", "s", "ftp://x"),
    "an address with a path": lambda: PlatformTransport("i", "s", "https://B.Example.com/XX/").origin,
    "an address with a password": lambda: PlatformTransport("i", "s", "https://me:pass@b.example.com"),
    "what each is": lambda: [repr(PROXY_SIDE), repr(PLATFORM), PLATFORM.account, PROXY_SIDE.account],
    "same service": lambda: [
        PLATFORM.same_service("https://platform.higgsfield.ai"),
        PLATFORM.same_service("https://elsewhere.example.com"),
        PlatformTransport("i", "s", "http://127.0.0.1:1").same_service("http://127.0.0.1:1"),
        PROXY_SIDE.same_service("https://api.openai-hk.com"),
        PROXY_SIDE.same_service("https://platform.higgsfield.ai"),
    ],
    "pictures inlined": lambda: inlined(PROXY_SIDE, attached(PNG)),
    "pictures not inlined": lambda: inlined(
        PROXY_SIDE,
        attached(PNG, 0, "empty.png"),
        attached(b"RIFF....WAVE", 20, "a.wav", 1),
        attached(b"?", 1),
        attached(b"", 0),
    ),
    "pictures not taken": lambda: inlined(PLATFORM, attached(b"BM....\0\0\0\0", 20), attached(b"?", 1, "b", 1, None)),
    "a picture that is too long": lambda: inlined(PROXY_SIDE, attached(PNG, 9_000_000, "big.png")),
    "a picture without a name that is too long": lambda: inlined(PROXY_SIDE, attached(PNG, 9_000_000)),
    "models that are not listed": lambda: len(unlisted(set())) - len(unlisted({TURBO})),
    "a model that is not listed": lambda: unlisted({each.id for each in unlisted(set())} - {TURBO}),
}

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "both": {"HIGGSFIELD_PROXY_KEY": KEY, "HF_KEY": "i:s"},
    "proxy": {"HIGGSFIELD_PROXY_KEY": KEY},
    "proxy elsewhere": {"HIGGSFIELD_PROXY_KEY": KEY, "HIGGSFIELD_PROXY_BASE_URL": "https://p.example.com"},
    "platform": {"HF_KEY": "i:s:t"},
    "platform elsewhere": {"HF_KEY": "i:s", "HIGGSFIELD_BASE_URL": "https://h.example.com"},
    "platform by two": {"HF_API_KEY": "i", "HF_API_SECRET": "s", "HF_CREDENTIALS": "other:one"},
    "platform by credentials": {"HF_API_KEY": "i", "HF_CREDENTIALS": "i:s"},
    "half": {"HF_API_KEY": "i"},
    "the other half": {"HF_API_SECRET": "s"},
    "no colon": {"HF_KEY": "hf_face"},
    "no colon there": {"HF_CREDENTIALS": ":s"},
    "an empty one": {"HF_KEY": "", "HIGGSFIELD_PROXY_KEY": ""},
}
for _name, _environment in ENVIRONMENTS.items():
    for _service in (None, "proxy", "platform"):
        FOUND[f"from the environment: {_name}, {_service}"] = partial(transport_from, _environment, _service)
FOUND["from the environment: neither"] = partial(transport_from, {}, "v3")  # type: ignore[arg-type]


def answer(status: int, body: object = b"", **headers: str) -> HttpResponse:
    encoded = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return HttpResponse(status, headers, encoded, now=NOW)


HTML = b"<!DOCTYPE html>\n<html><body><pre>Error</pre></body></html>"
# What may be said to everything.
ERRORS: dict[str, HttpResponse] = {
    "what is private": answer(
        400,
        {"detail": f"'{PROMPT}' of {IMAGE} by {SECRET} and {KEY} for {HOOK.url} {HOOK.secret}: no."},
        **{"x-correlation-id": "c-1"},
    ),
    "not found": answer(404, {"detail": f"Not found by {KEY} {SECRET}."}, **{"x-correlation-id": "c-1"}),
    "conflict": answer(409),
    "too many": answer(
        429, {"code": "account_queue_full", "limit": 9, "detail": "full"}, **{"retry-after": "7", "location": "/x"}
    ),
    "a page": answer(403, HTML),
    "moved": answer(302, b"", location="https://b.example.com/x?token=abc"),
    # It looks as if it had been accepted.
    "a choice": answer(
        300,
        {"id": "x", "request_id": "x", "status": "queued", "jobs": [], "credits": "1", "items": [], "time_series": []},
    ),
    "a new word": answer(418, "I am a teapot"),
    "gateway": answer(428, {"error": {"message": "model lite pools no key", "type": "openai_hk_error"}}),
}
# To these, everything else.
MAIN = {"proxy submit", "v2 submit", "v2 poll"}
MORE_ERRORS: dict[str, HttpResponse] = {
    "key": answer(401, {"detail": "Invalid credentials"}),
    "pay": answer(402, {"error_type": "not_enough_credits", "text": "no more"}),
    "no credits": answer(403, {"detail": "not_enough_credits"}),
    "concurrency": answer(
        400, {"detail": "Maximum number of CONCURRENT requests (4) has been reached"}, location="https://b.example.com/"
    ),
    "moved to what is private": answer(302, b"", location=f"https://b.example.com/{KEY}/{SECRET}"),
    "a code that is private": answer(409, {"code": f"{KEY} {SECRET}"}),
    "a list": answer(400, [{"loc": ["a"], "msg": "b"}]),
    "a word with an X": answer(400, {"detail": "Send it by FAX."}),
    "a choice of addresses": answer(300, b"", location="https://b.example.com/"),
    "concurrency without a number": answer(400, {"message": "too many concurrent requests"}),
    "rate": answer(403, {"code": "rate_limit_reached", "msg": "slowly"}),
    "a limit that is none": answer(429, {"limit": True}),
    "disabled": answer(403, {"code": "api_key_disabled", "detail": "API key is disabled"}),
    "gone": answer(410),
    "slow": answer(408),
    "method": answer(405),
    "locked": answer(423, {"detail": "model blocked"}),
    "early": answer(425),
    "fields": answer(
        422,
        {
            "detail": [
                {"loc": ["body", "seed"], "msg": "no", "type": "t"},
                7,
                {"loc": [None, "images", 3], "msg": "neither"},
                {"loc": "x"},
            ]
        },
    ),
    "large": answer(413, HTML),
    "bad": answer(400, HTML),
    "a page after a blank line": answer(502, b"\n  <HTML><body>502</body></HTML>"),
    "a page by type": answer(500, b"page", **{"content-type": "text/html; charset=utf-8"}),
    "server": answer(500, b"Internal Server Error"),
    "unavailable": answer(503, {"detail": "model disabled"}, **{"retry-after": "1.5"}),
    "kept": answer(308, b"", location="https://b.example.com/x"),
    "moved away": answer(301),
    "not modified": answer(304),
    "continue": answer(103),
    "deep": answer(400, {"error": {"detail": {"data": {"message": "in the deep", "code": "d"}}, "code": "e"}}),
    "too deep": answer(400, {"data": {"data": {"data": {"data": {"message": "deeper"}, "message": "here"}}}}),
    "a number": answer(400, 7),
    "empty": answer(400, {"detail": "", "error": None, "message": "after all", "code": 7, "error_type": "t"}),
    "broken": answer(400, b'{"error":{"message":"a "quote""}}'),
    "not text": answer(400, b"\xff\xfe"),
    "long": answer(400, {"detail": "x" * 1000}),
    "lines": answer(400, {"detail": "one\n\ttwo\x07 https://a.b/c?sig=XYZ&x=1 http://a.b/d 'https://a.b/e?f'"}),
    "cut": answer(400, {"detail": f"near {PROMPT[:30]} and so on"}),
    "quoted": answer(400, {"detail": f"near {PROMPT!r}"}),
    "gateway: points": answer(428, {"error": {"message": "子key余额积分不足！", "type": "openai_hk_error"}}),
    "gateway: key": answer(428, {"error": {"message": "HK KEY ERROR", "type": "openai_hk_error"}}),
    "gateway: rate": answer(428, {"error": {"message": "(NRPM)", "type": "openai_hk_error"}}),
    "gateway: address": answer(428, {"error": {"message": "请将你的IP加入白名单", "type": "openai_hk_error"}}),
    "gateway: code": answer(428, {"error": {"message": "", "code": "gate_check_way_error"}}),
    "gateway: new": answer(428, {"error": {"message": "something new"}}),
}

UNREADABLE: dict[str, HttpResponse] = {
    "nothing": answer(200, b" \n"),
    "HTML": answer(200, HTML),
    "no JSON": answer(200, b"{"),
    "JSON of another kind": answer(200, 3),
    "an empty object": answer(200, {}),
    "an empty list": answer(200, []),
    "no body": answer(204),
}

RAW = {"type": "video", "url": "https://a.b/r.mp4"}
JOB_SETS: dict[str, object] = {
    "full": {
        "id": "set",
        "type": "image2video",
        "created_at": 1747790390.5,
        "jobs": [
            {
                "id": "job",
                "status": "completed",
                "result": {"type": "image", "url": "https://a.b/x.png"},
                "results": {"raw": RAW, "min": {"url": "https://a.b/m.webm"}},
                "meta": {"fail_reason": None, "is_refunded": False},
            },
            {"id": "j2", "status": "failed", "meta": {"fail_reason": "why", "is_refunded": True}},
            {"id": "j3", "status": "nsfw", "result": RAW, "results": {"raw": RAW, "min": RAW}},
            {"status": "ip_detected", "result": {"url": "https://a.b/a.mp3"}},
            {"status": "terminated", "result": {"url": "https://a.b/without"}},
        ],
    },
    "bare": {"id": "set", "jobs": [{}]},
    "without an id": {"jobs": [{"id": "job", "status": "pending"}]},
    "without jobs": {"id": "set", "created_at": "2026-11-22T01:02:03"},
    "odd": {
        "id": "set",
        "type": 7,
        "created_at": "2026-11-22 01:02:03+01:00",
        "jobs": [
            7,
            {"id": 7, "status": ["x"], "result": "https://a.b/r.mp4", "results": [], "meta": {"is_refunded": "0"}},
            {"id": "j2", "status": "completed", "result": 7, "results": {"raw": RAW, "min": "https://a.b/m.mp4"}},
            {"id": "j3", "status": "failed", "meta": {"fail_reason": "why", "is_refunded": True}},
            {"id": "j4", "status": "queued", "result": {"type": "hologram", "url": "https://a.b/h.mp4"}},
            *(
                {"id": "j5", "result": {"type": kind, "url": "https://a.b/without"}, "results": 7}
                for kind in ("image", "video", "audio")
            ),
        ],
    },
    "odd jobs": {"id": "set", "created_at": 7, "jobs": {"id": 7}},
    "half a body": b'{"id":"set","jobs":[{"id":"j","status":"\xff"}]}',
}
REQUESTS: dict[str, object] = {
    "full": {
        "request_id": "id",
        "status": "completed",
        "error": "",
        "video": {"url": "https://a.b/v.mp4"},
        "images": [{"url": "https://a.b/1.png"}, {"url": "https://a.b/1.png"}, {"url": "https://a.b/2.png"}],
        "audio": {"url": "https://a.b/a.wav"},
        "audios": [{"url": "https://a.b/a.wav"}, {"url": "https://a.b/b.wav"}],
        **{name: {"url": f"https://a.b/x.{name}"} for name in ("mov", "zip", "jsx", "fbx", "ply")},
    },
    **{word: {"request_id": "id", "status": word} for word in ("queued", "in_progress", "nsfw", "cancelled", "odd")},
    "failed": {"request_id": "id", "status": "failed", "error": "why"},
    "without an id": {"status": "queued"},
    "without a status": {"request_id": "id"},
    "odd": {
        "request_id": "id",
        "status": "completed",
        "error": {"message": "x"},
        "video": "https://a.b/v.mp4",
        "images": [7, "https://a.b/1.png", {"url": "https://a.b/2.png"}],
        "audio": "https://a.b/a.wav",
        "audios": {"url": "https://a.b/b.wav"},
        **{name: f"https://a.b/x.{name}" for name in ("mov", "zip", "jsx", "fbx", "ply")},
    },
    "odd lists": {
        "request_id": "id",
        "status": "completed",
        "images": "x",
        "audio": ["x"],
        "audios": ["https://a.b/b.wav", None],
    },
    "half a body": b'{"request_id":"id","status":"\xff"}',
}
ITEM = {
    "id": "i1",
    "name": "Name",
    "title": "Title",
    "description": "Said",
    "preview_url": "https://a.b/p.png",
    "start_end_frame": True,
    "categories": ["a", 7, "b"],
    "media": {"url": "https://a.b/u.mp4", "thumbnail_url": "https://a.b/t.png"},
    "gender": "f",
    "age": "old",
    "voice_url": "https://a.b/v.wav",
    "image_url": "https://a.b/i.png",
    "sound_url": "https://a.b/s.wav",
    "output_type": "video",
    "operation_type": "text-to-video",
    "input_schema": {"type": "object"},
}
ODD_ITEM = {**dict.fromkeys(ITEM, 7), "id": "i2", "categories": 7, "media": 7}
LISTS: dict[str, object] = {
    "bare": [ITEM, {"id": "i3"}, ODD_ITEM],
    "enveloped": {"items": [ITEM, {"id": 7}, {}], "total": 30, "cursor": 2, "total_pages": 3},
    "enveloped, with odd counts": {"items": [ITEM], "total": "30", "cursor": "next", "total_pages": True},
    "enveloped, with no counts": {"items": [ODD_ITEM], "total": True, "cursor": [7]},
    "enveloped, with a cursor that is none": {"items": [ITEM], "total": [7], "cursor": True},
    "empty": {"items": [], "total": 0, "cursor": None},
    "no items": {"items": 7},
    "titles": [{"id": "i4", "title": "Title"}],
    "models": [
        {"slug": TURBO, "name": "Named", "output_type": "image"},
        {"slug": TURBO},
        {"id": "vendor/unknown", "input_schema": [7]},
        {"slug": "", "title": "none"},
        7,
    ],
}
GRANTS: dict[str, object] = {
    "full": {
        "id": "m1",
        "url": "https://cdn.example.com/a.png",
        "public_url": "https://cdn.example.com/a.png",
        "upload_url": "https://storage.example.com:443/a?X-Amz-Signature=TOPSECRET",
        "content_type": "image/png",
        "upload_headers": {"content-type": "image/x", "x-amz-tagging": "a=b", "Host": "h", "Content-Length": "8"},
    },
    "as of 2025": {
        "id": "m1",
        "url": "https://cdn.example.com/a.png",
        "public_url": "https://cdn.example.com/a.png",
        "upload_url": "https://storage.example.com/a",
    },
}
for _field, _value in {
    "id": 7,
    "url": "ftp://x",
    "public_url": "https://a.b:99999/",
    "upload_url": "https://a.b:0/",
    "content_type": 7,
    "upload_headers": {"a b": "c"},
}.items():
    GRANTS[f"an odd {_field}"] = {**msgspec.convert(GRANTS["full"], dict), _field: _value}
GRANTS["no headers"] = {**msgspec.convert(GRANTS["full"], dict), "upload_headers": [7]}
GRANTS["a header of two lines"] = {**msgspec.convert(GRANTS["full"], dict), "upload_headers": {"a": "b\r\nc: d"}}
CHARACTERS: dict[str, object] = {
    word: {"id": "c1", "status": word} for word in ("not_ready", "queued", "in_progress", "odd")
}
CHARACTER = {
    "id": "c1",
    "name": "Ann",
    "status": "completed",
    "model_version": "v2",
    "created_at": "2026-11-22T01:02:03",
    "in_progress_at": "2026-11-22T01:02:04Z",
    "fail_reason": "why",
    "thumbnail_url": "https://a.b/t.png",
    "reference_media": [{"media_url": "https://a.b/1.png"}, {"media_url": 7}, 7],
}
CHARACTERS |= {
    "full": CHARACTER,
    "odd": {**dict.fromkeys(CHARACTER, 7), "id": "c1"},
    "failed": {"id": "c1", "status": "failed", "fail_reason": "why"},
    "without an id": {"status": "queued"},
    "without a status": {"id": "c1"},
    "half a body": b'{"id":"c1","status":"\xff"}',
    "a page": {"items": [CHARACTER, {"id": ""}, 7], "total": 40, "total_pages": 2},
    "a page without an end": {"items": [CHARACTER], "total": True},
    "the last page": {"items": [CHARACTER], "total": 1, "total_pages": 1},
    "an empty page": {"items": [], "total_pages": 9},
}
AGENT: dict[str, object] = {
    "a session": {"session_id": "s1", "message_id": "m1"},
    "an odd one": {"session_id": 7, "message_id": ""},
    "messages": {
        "status": "in_progress",
        "messages": [
            {
                "message_id": "m1",
                "role": "assistant",
                "status": "done",
                "created_at": "2026-11-22T01:02:03",
                "llm_cost_usd": "0.5e-3",
                "message": {"id": "other", "role": "user", "parts": [{"type": "text", "text": "a"}, "b", 7, {}]},
            },
            {"message": {"id": "m2", "role": "user", "type": "text", "text": "c"}, "llm_cost_usd": 0.25},
            {"message": "d", "llm_cost_usd": True},
            {"message": 7, "llm_cost_usd": "NaN", "created_at": "once"},
            7,
        ],
    },
    **{word: {"status": word} for word in ("idle", "waiting", "done", "odd")},
    "no messages": {"status": "idle", "messages": 7},
}
USAGE: dict[str, object] = {
    "rows": {
        "time_series": [
            7,
            {
                "bucket": "2026-11-01T00:00:00",
                "results": [
                    {
                        "model": TURBO,
                        "unit": "second",
                        "quantity": "5",
                        "unit_price": 0.25,
                        "cost": "-1.25",
                        "auth_method": "key",
                    },
                    {"model": 7, "quantity": "NaN", "cost": True},
                    7,
                ],
            },
            {"bucket": {"start": "2026-11-02T00:00:00+02:00"}, "cost": 7},
            {"bucket": 7, "model": "m", "results": 7},
            7,
        ]
    },
    "bare": [{"bucket": "2026-11-01", "results": [{"cost": "1e2"}]}],
    "none": {"time_series": 7},
}
PRICES: dict[str, object] = {
    "both": {"credits": "1.5", "usd": 0.25},
    "one": {"credits": 2, "pricing_description": "by the second"},
    "prose": {"pricing_description": "by the second", "credits": "some", "usd": "NaN"},
    "odd": {"credits": True, "usd": [], "pricing_description": 7},
}
STORED: dict[str, HttpResponse] = {
    "stored": answer(200, b"", **{"x-amz-expiration": 'expiry-date="Sat, 16 Jan 2027 00:00:00 GMT", rule-id="r"'}),
    "stored for ever": answer(204, b"", **{"x-amz-expiration": 'expiry-date="Sat, 16 Jan 2077 00:00:00 GMT"'}),
    "stored until then": answer(200, b"", **{"x-amz-expiration": 'expiry-date="Sat, 16 Jan 2016 00:00:00 GMT"'}),
    "stored, oddly": answer(200, b"", **{"x-amz-expiration": 'expiry-date="some day"'}),
    "refused": answer(403, b"<Error><Code>SignatureDoesNotMatch</Code><Signature>TOPSECRET</Signature></Error>"),
    "expired": answer(403, b"<Error><Code>AccessDenied</Code><Message>Request has EXPIRED</Message></Error>"),
    "expired and moved": answer(400, b"<Error><Code>ExpiredToken</Code></Error>"),
    "too slow": answer(400, b"<Error><Code>RequestTimeout</Code></Error>", **{"retry-after": "3"}),
    "busy": answer(503, b"expired"),
    "elsewhere": answer(307),
    **{str(status): answer(status) for status in (400, 404, 408, 425, 429, 500, 300, 400)},
}
# By what a call's name has in it; the first that fits.
GOOD: tuple[tuple[tuple[str, ...], dict[str, object]], ...] = (
    (("agent media", "upload"), GRANTS),
    (("agent",), AGENT),
    (("character", "training"), CHARACTERS),
    (("usage",), USAGE),
    (("estimate",), PRICES),
    (("motions", "presets", "voices", "sounds", "models", "styles"), LISTS),
    (("v2 submit", "v2 poll"), REQUESTS),
    (("cancel", "delete"), {}),
    (("",), JOB_SETS),
)


def shown(value: object) -> Any:
    """A value as JSON: what a caller gets of it."""
    if isinstance(value, HiggsfieldError):
        told = {name: each for name, each in vars(value).items() if each not in (None, "", (), False)}
        return {"error": f"{type(value).__name__}: {value}"} | {
            name.lstrip("_"): each.id if isinstance(each, TaskRef) else shown(each)
            for name, each in sorted(told.items())
            if name not in ("body", "request")
        }
    if isinstance(value, (ProxyTransport, PlatformTransport)):
        return repr(value)
    if isinstance(value, HttpRequest):
        body = {} if value.body is None else {"body": value.body.decode()}
        return {"sent": f"{value.method} {value.url}", "headers": dict(value.headers), **body}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [shown(each) for each in value]
    if isinstance(value, Model):
        # What is documented of it stands elsewhere.
        value = {
            "id": value.id,
            "title": value.title,
            "output": value.output,
            "operation": value.operation,
            "schema": value.schema if len(value.schema) < 2 else "documented",
            "documented": value.documented is not None,
            "listed": value.listed,
        }
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__ if name != "body"}
        return {name: shown(each) for name, each in fields.items() if each not in (None, "", (), {})}
    return msgspec.to_builtins(value, enc_hook=str)


def attempt(make: Callable[[], Any]) -> Any:
    try:
        return shown(make())
    except HiggsfieldError as error:
        return shown(error)


def answers_to(name: str) -> Iterator[tuple[str, HttpResponse]]:
    yield from ERRORS.items()
    if name in MAIN:
        yield from MORE_ERRORS.items()
    good = next(answers for words, answers in GOOD if any(word in name for word in words))
    yield from UNREADABLE.items()
    for what, body in good.items():
        yield f"read: {what}", answer(200, body)


def told(call: Call[Any], response: HttpResponse) -> Any:
    found: Any = None

    def decode() -> object:
        nonlocal found
        found = call.decode(response)
        if isinstance(found, Call):
            return found.name, found.request
        return found.request if isinstance(found, Grant) else found

    said = attempt(decode)
    if isinstance(found, Grant):
        grant = found
        stored = {what: attempt(partial(grant.decode, each)) for what, each in STORED.items()}
        said = {"granted": said, "stored": stored}
    if isinstance(found, JobSet):
        said["kept as it came"] = found.body == response.body
    return said


def described(name: str) -> dict[str, Any]:
    """One call: what is sent, and what is made of the answers."""
    call = CALLS[name]()
    flags = {
        each: getattr(call, each)
        for each in ("submits", "polls", "key", "resumed", "fresh")
        if getattr(call, each) not in (None, False)
    }
    made = {what: told(call, response) for what, response in answers_to(name)}
    if name not in MAIN:
        for each in ERRORS:
            if isinstance(made[each], dict):
                made[each].pop("detail", None)
    return {"name": call.name, **shown(call.request), **flags, "answers": made}


REPORTED: Mapping[str, object] = {
    **REQUESTS,
    **{f"v1, {name}": each for name, each in JOB_SETS.items()},
    "envelope": {"request_id": "id", "status": "completed", "error": None, "payload": REQUESTS["full"]},
    "odd envelope": {"request_id": "id", "status": "failed", "payload": 7},
}


def reported(name: str) -> Any:
    """One webhook."""
    body = answer(200, REPORTED[name]).body

    def read() -> Any:
        found = read_report(body)
        return {**shown(found), "kept as it came": found.body == body}

    return attempt(read)


def record() -> dict[str, Any]:
    return {
        "calls": {name: described(name) for name in CALLS},
        "values": {name: attempt(make) for name, make in FOUND.items()},
        "reports": {name: reported(name) for name in REPORTED},
    }


def written(value: Any, depth: int = 0) -> str:
    """JSON with a line for each answer."""
    if depth == 4 or not value or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    inner = ",\n".join(f"{' ' * depth} {json.dumps(key)}: {written(each, depth + 1)}" for key, each in value.items())
    return f"{{\n{inner}\n{' ' * depth}}}"


def main() -> None:
    RECORD.write_text(written(record()) + "\n", encoding="utf-8")
    sys.stdout.write(f"Written: {RECORD}\n")


if __name__ == "__main__":
    main()
