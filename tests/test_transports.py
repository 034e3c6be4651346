"""Both transports as pure functions: what they send, and what they make of any answer."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st
from msgspec.structs import replace

from decoders import CALLS, KEY, OPTIONS, PLATFORM, PROXY_TRANSPORT, SECRET, listing
from higgsfield_async import (
    Ad,
    AgentState,
    ApiError,
    AuthenticationFailed,
    Character,
    CharacterTraining,
    ConfigurationError,
    DopMotion,
    DopVideo,
    Estimate,
    GenerationRequest,
    HiggsfieldError,
    ImageToVideo,
    InsufficientCredits,
    InvalidRequest,
    JobSet,
    JobStatus,
    Keyframes,
    MalformedResponse,
    MarketingPreset,
    Model,
    ModelRequest,
    Motion,
    NotCancelable,
    NotFound,
    PermissionDenied,
    PlatformTransport,
    ProxyTransport,
    RateLimited,
    ServiceUnavailable,
    Soul,
    SoulStyle,
    Speak,
    Speech,
    TalkingHead,
    Transport,
    Unsupported,
    UploadError,
    Usage,
    Voice,
)
from higgsfield_async._domain import Page
from higgsfield_async._http import Call, Grant, HttpResponse
from higgsfield_async._media import Attachment
from higgsfield_async._requests import SubmitOptions
from higgsfield_async._transports import _platform, _proxy
from higgsfield_async._transports._answers import clean, private_strings
from higgsfield_async._transports._job_sets import JobSets
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V2

words = st.sampled_from(["queued", "in_progress", "completed", "failed", "nsfw", "canceled", "odd", "", None, 3])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | words
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
files = st.none() | st.fixed_dictionaries({}, optional={"url": st.text(max_size=30) | anything, "type": anything})
jobs = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=10) | anything,
        "status": words | anything,
        "result": files | anything,
        "results": st.fixed_dictionaries({}, optional={"raw": files, "min": files}) | anything,
        "meta": st.fixed_dictionaries({}, optional={"fail_reason": anything, "is_refunded": anything}) | anything,
    },
)
said = st.fixed_dictionaries(
    {},
    optional={
        "message_id": st.text(max_size=10) | anything,
        "role": st.sampled_from(["user", "assistant"]) | anything,
        "message": st.fixed_dictionaries(
            {}, optional={"type": anything, "text": anything, "parts": st.lists(anything, max_size=3) | anything}
        )
        | anything,
        "created_at": st.datetimes().map(str) | anything,
        "llm_cost_usd": st.floats() | st.decimals().map(str) | anything,
    },
)
usage_rows = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(max_size=5) | anything,
        "unit": anything,
        "quantity": st.decimals().map(str) | anything,
        "unit_price": st.floats() | anything,
        "cost": st.decimals().map(str) | anything,
        "auth_method": anything,
    },
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=10) | anything,
        "request_id": st.text(max_size=10) | anything,
        "status": words,
        "jobs": st.lists(jobs, max_size=3) | anything,
        "created_at": st.floats() | st.datetimes().map(str) | anything,
        "type": anything,
        "images": st.lists(files, max_size=3) | anything,
        "video": files,
        "audio": files,
        "audios": st.lists(files, max_size=2) | anything,
        "zip": files,
        "error": st.fixed_dictionaries({}, optional={"message": anything, "code": anything}) | anything,
        "detail": st.lists(st.fixed_dictionaries({}, optional={"loc": anything, "msg": anything})) | anything,
        "items": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "id": st.text(max_size=3) | anything,
                    "slug": st.sampled_from(["higgsfield-ai/dop/turbo", "a/b"]) | anything,
                    "name": anything,
                    "media": anything,
                    "input_schema": anything,
                    "output_type": anything,
                },
            )
        ),
        "time_series": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "bucket": st.datetimes().map(str) | st.integers() | anything,
                    "results": st.lists(usage_rows, max_size=3) | anything,
                    "cost": anything,
                },
            )
            | anything,
            max_size=3,
        )
        | anything,
        "total": anything,
        "cursor": anything,
        "code": anything,
        "message": anything,
        "data": anything,
        "credits": st.decimals().map(str) | anything,
        "usd": st.floats() | anything,
        "pricing_description": anything,
        "public_url": st.just("https://cdn.example.com/a.png") | anything,
        "upload_url": st.just("https://storage.example.com/a?X-Amz-Signature=TOPSECRET") | anything,
        "content_type": anything,
        "upload_headers": st.dictionaries(st.text(max_size=8), st.text(max_size=8)) | anything,
        "url": st.just("https://cdn.example.com/a.png") | anything,
        "total_pages": anything,
        "session_id": st.text(max_size=10) | anything,
        "message_id": st.text(max_size=10) | anything,
        "reference_media": st.lists(st.fixed_dictionaries({}, optional={"media_url": anything})) | anything,
        "in_progress_at": anything,
        "thumbnail_url": anything,
        "messages": st.lists(said) | anything,
    },
)
bodies = (
    st.binary(max_size=300)
    | anything.map(lambda value: json.dumps(value).encode())
    | answers.map(lambda value: json.dumps(value).encode())
    | st.lists(answers, max_size=3).map(lambda value: json.dumps(value).encode())
)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "location", "x-correlation-id"]),
    st.text(max_size=30) | st.sampled_from(["5", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", "text/html"]),
    max_size=3,
)


def check_estimate(found: Estimate) -> None:
    assert found.text or found.credits is not None or found.usd is not None
    assert all(amount is None or (amount.is_finite() and amount >= 0) for amount in (found.credits, found.usd))


def check_page(found: Page[Any]) -> None:
    assert all(item.id for item in found.items if isinstance(item, (Model, MarketingPreset)))


def check_usage(found: tuple[Usage, ...]) -> None:
    assert all(row != Usage(start=row.start) for row in found)
    assert all(row.start is None or row.start.tzinfo for row in found)
    amounts = [amount for row in found for amount in (row.quantity, row.unit_price, row.cost)]
    assert all(amount is None or amount.is_finite() for amount in amounts)


def check_grant(found: Grant[Any]) -> None:
    assert found.request.method == "PUT"
    assert "TOPSECRET" not in repr(found)


def check_character(found: Character) -> None:
    assert found.id
    assert all(isinstance(url, str) for url in found.media)
    assert repr(found)


def check_agent(found: AgentState) -> None:
    assert found.raw_status
    assert repr(found.messages)
    assert isinstance(found.text, str)
    costs = [cost for message in found.messages if (cost := message.llm_cost_usd) is not None]
    assert all(cost.is_finite() and cost >= 0 for cost in costs)


def check_job_set(found: JobSet) -> None:
    assert found.id
    assert isinstance(found.status, JobStatus)
    assert found.charged in ("yes", "no", "unknown")
    assert all(media.url for media in found.outputs)
    assert repr(found)
    msgspec.json.encode(found.jobs)


CHECKS: dict[type, Callable[[Any], None]] = {
    Estimate: check_estimate,
    Page: check_page,
    tuple: check_usage,
    Grant: check_grant,
    Character: check_character,
    AgentState: check_agent,
    JobSet: check_job_set,
}


@pytest.mark.once
@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=75, deadline=None)
@given(status=st.sampled_from([200, 202]) | st.integers(100, 599), headers=headers, body=bodies)
@example(status=200, headers={}, body=b"[" * 100_000)
@example(status=500, headers={}, body=b"[" * 100_000)
@example(status=200, headers={}, body=b'{"id":"\xff","jobs":[]}')
@example(status=200, headers={}, body=b'{"credits":"NaN","usd":' + b"9" * 4000 + b"}")
def test_any_answer_is_a_value_or_one_of_our_errors(
    name: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    call = CALLS[name]()
    response = HttpResponse(status, headers, body, now=1_800_000_000.0)
    for _ in range(2):
        try:
            found = call.decode(response)
        except HiggsfieldError as error:
            assert str(error)
            assert SECRET not in str(error)
            assert error.retry_after is None or error.retry_after >= 0
            return
        if not isinstance(found, Call):
            break
        call = found
    assert 200 <= status < 300
    CHECKS.get(type(found), lambda _: None)(found)
    if isinstance(found, Grant):
        with contextlib.suppress(UploadError):
            assert found.decode(response).size == 8


@pytest.mark.parametrize("name", CALLS)
def test_what_every_call_holds_to(name: str) -> None:
    call = CALLS[name]()
    service = name.split(maxsplit=1)[0]
    origin = "https://api.openai-hk.com/" if service == "proxy" else "https://api.higgsfield.ai/"
    assert call.request.url.startswith(origin)
    shown = repr(call)
    for private in (KEY, SECRET, PROMPT):
        assert private not in shown
        assert private not in call.request.url
    paid = {"proxy submit", "proxy ad", "proxy speech", "v1 submit", "v2 submit", "v2 training", "v2 agent send"}
    assert call.submits == (name in paid)
    assert call.polls == (name.endswith((" poll", " messages")))
    assert call.fresh == (call.submits and call.key is None)
    assert (call.key is not None) == (name == "v2 submit")
    assert ("Content-Type" in call.request.headers) == (call.request.body is not None)
    keys = {
        "proxy": {"Authorization": f"Bearer {KEY}"},
        "v1": {"hf-api-key": "11111111-2222-3333-4444-555555555555", "hf-secret": SECRET},
        "v2": {"Authorization": f"Key 11111111-2222-3333-4444-555555555555:{SECRET}"},
    }
    assert keys["v1" if service == "platform" else service].items() <= call.request.headers.items()


FULL: dict[str, tuple[GenerationRequest, str, dict[str, Any]]] = {
    "image-to-video": (
        ImageToVideo(
            model="standard",
            motion_id="cd5bfd11-5a1a-46e0-9294-b22b0b733b1e",
            prompt="正在吃饭",
            enhance_prompt=True,
            seed=374487,
            width=736,
            height=1312,
            images=["https://media.pixverse.ai/asset/media/fusion4_1.jpg", IMAGE],
        ),
        "/higgsfield/generate",
        {
            "model": "standard",
            "motion_id": "cd5bfd11-5a1a-46e0-9294-b22b0b733b1e",
            "prompt": "正在吃饭",
            "enhance_prompt": True,
            "seed": 374487,
            "width": 736,
            "height": 1312,
            "image": ["https://media.pixverse.ai/asset/media/fusion4_1.jpg", IMAGE],
        },
    ),
    "speech from audio": (
        Speech(avatar_preset_id="p", prompt="good", width=705, height=829, images=[IMAGE], audio="https://a.b/c.wav"),
        "/higgsfield/speak",
        {
            "avatar_preset_id": "p",
            "prompt": "good",
            "width": 705,
            "height": 829,
            "image": [IMAGE],
            "audio": "https://a.b/c.wav",
        },
    ),
    "speech from text": (
        Speech(avatar_preset_id="p", prompt="good", images=[IMAGE], speak=Speak(text="hi", voice_id="v", sound_id="s")),
        "/higgsfield/speak",
        {
            "avatar_preset_id": "p",
            "prompt": "good",
            "image": [IMAGE],
            "speak": {"voice_id": "v", "sound_id": "s", "text": "hi"},
        },
    ),
    "ad": (
        Ad(product_placement_sample_id="3hpZ2HB0xS688KnzMIwU16", images=[IMAGE], size="1024x1024"),
        "/higgsfield/ads",
        {"product_placement_sample_id": "3hpZ2HB0xS688KnzMIwU16", "image": [IMAGE], "size": "1024x1024"},
    ),
    "keyframes": (
        Keyframes(prompt="x", aspect_ratio="3:4", count=2, quality="720p", seed=1, image_references=[IMAGE]),
        "/v1/text2image/keyframes",
        {
            "params": {
                "prompt": "x",
                "aspect_ratio": "3:4",
                "count": 2,
                "quality": "720p",
                "seed": 1,
                "image_references": [{"type": "image_url", "image_url": IMAGE}],
            }
        },
    ),
    "soul": (
        Soul(
            prompt="x",
            width_and_height="1152x2048",
            enhance_prompt=False,
            style_id=MOTION,
            style_strength=1,
            quality="1080p",
            seed=500000,
            custom_reference_id=MOTION,
            custom_reference_strength=0.5,
            image_reference=IMAGE,
            batch_size=4,
        ),
        "/v1/text2image/soul",
        {
            "params": {
                "prompt": "x",
                "width_and_height": "1152x2048",
                "enhance_prompt": False,
                "style_id": MOTION,
                "style_strength": 1.0,
                "quality": "1080p",
                "seed": 500000,
                "custom_reference_id": MOTION,
                "custom_reference_strength": 0.5,
                "image_reference": {"type": "image_url", "image_url": IMAGE},
                "batch_size": 4,
            }
        },
    ),
    "dop": (
        DopVideo(
            model="dop-turbo",
            prompt="x",
            images=[IMAGE],
            motions=[DopMotion(id=MOTION, strength=0.8)],
            seed=42,
            enhance_prompt=True,
        ),
        "/v1/image2video/dop",
        {
            "params": {
                "model": "dop-turbo",
                "prompt": "x",
                "input_images": [{"type": "image_url", "image_url": IMAGE}],
                "motions": [{"id": MOTION, "strength": 0.8}],
                "seed": 42,
                "enhance_prompt": True,
            }
        },
    ),
    "talking head": (
        TalkingHead(
            prompt="x",
            image=IMAGE,
            audio="https://a.b/c.wav",
            quality="high",
            duration=5,
            enhance_prompt=False,
            seed=42,
        ),
        "/v1/speak/higgsfield",
        {
            "params": {
                "prompt": "x",
                "input_image": {"type": "image_url", "image_url": IMAGE},
                "input_audio": {"type": "audio_url", "audio_url": "https://a.b/c.wav"},
                "quality": "high",
                "duration": 5,
                "enhance_prompt": False,
                "seed": 42,
            }
        },
    ),
    "training": (
        CharacterTraining(name="Ann", images=[IMAGE, IMAGE], model_version="v2"),
        "/v1/custom-references",
        {"name": "Ann", "input_images": [{"type": "image_url", "image_url": IMAGE}] * 2, "model_version": "v2"},
    ),
    "model": (
        ModelRequest(
            "kling-video/v2.5-turbo/pro/text-to-video", {"prompt": "x", "duration": 5, "negative_prompt": None}
        ),
        "/kling-video/v2.5-turbo/pro/text-to-video",
        {"prompt": "x", "duration": 5, "negative_prompt": None},
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_requests_as_they_are_sent(name: str) -> None:
    request, path, body = FULL[name]
    of_proxy = isinstance(request, (ImageToVideo, Speech, Ad))
    transport: Transport = ProxyTransport(KEY) if of_proxy else PLATFORM
    call = transport.submit(request, OPTIONS)
    assert call.request.method == "POST"
    assert call.request.url == transport.origin + path
    assert msgspec.json.decode(call.request.body or b"") == body


def response(status: int, body: object, **headers: str) -> HttpResponse:
    encoded = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return HttpResponse(status, headers, encoded)


def error_of(call: Call[Any], answer: HttpResponse) -> HiggsfieldError:
    with pytest.raises(HiggsfieldError) as caught:
        call.decode(answer)
    return caught.value


GATEWAY = {
    "HK KEY ERROR, KEY缺失": (AuthenticationFailed, False),
    "HK KEY ERROR, KEY格式错误！": (AuthenticationFailed, False),
    "HK key error , is no exit  ! HK key 不存在！": (AuthenticationFailed, False),
    "gate way error...": (ServiceUnavailable, True),
    "Insufficient points, please recharge 积分不足，请充值": (InsufficientCredits, False),
    "该KEY被禁用！": (PermissionDenied, False),
    "子key已过期！": (PermissionDenied, False),
    "子key余额积分不足！": (InsufficientCredits, False),
    "子key:ip白名单限制！": (PermissionDenied, False),
    "模型 undefined 未开启！": (PermissionDenied, False),
    "模型 suno-v3 已禁用": (PermissionDenied, False),
    "请将你的IP加入白名单": (PermissionDenied, False),
    "model lite pools no key": (ServiceUnavailable, True),
    "已触发低积分多请求限制(NRPM)": (RateLimited, True),
    "something new": (PermissionDenied, False),
}


@pytest.mark.parametrize("message", GATEWAY)
def test_the_gateways_refusals_are_told_apart_by_their_words(message: str) -> None:
    kind, transient = GATEWAY[message]
    call = CALLS["proxy submit"]()
    # Without a Content-Type, as the gateway sends it.
    error = error_of(call, response(428, {"error": {"message": message, "type": "openai_hk_error"}}))
    assert type(error) is kind
    assert isinstance(error, ApiError)
    assert (error.status, error.transient, error.refused) == (428, transient, True)
    # A quote in a message makes the gateway's JSON invalid: it is read as text then.
    broken = b'{"error":{"message":"' + message.encode() + b' "x"","type":"openai_hk_error"}}'
    assert type(error_of(call, response(428, broken))) is kind


def test_the_gateways_code_tells_too() -> None:
    error = error_of(CALLS["proxy poll"](), response(428, {"error": {"message": "", "code": "gate_check_way_error"}}))
    assert isinstance(error, ServiceUnavailable)


HTML = b"<!DOCTYPE html>\n<html><body><pre>Error</pre></body></html>"
STATUSES: dict[str, tuple[int, object, type[HiggsfieldError], bool, bool]] = {
    # status, body, error, transient, refused
    "concurrency": (
        400,
        {"detail": "Maximum number of concurrent requests (4) has been reached"},
        RateLimited,
        True,
        True,
    ),
    "jsonschema": (400, {"detail": ": 'prompt' is a required property"}, InvalidRequest, False, True),
    "bad json": (400, HTML, InvalidRequest, False, True),
    "ip check": (400, {"error_type": "other", "text": "IP check not finished"}, InvalidRequest, False, True),
    "other dialect": (400, {"code": 400, "data": {"message": "no", "error": {}}}, InvalidRequest, False, True),
    "key": (401, {"detail": "Invalid credentials"}, AuthenticationFailed, False, True),
    "pay": (402, b"", InsufficientCredits, False, True),
    "credits": (403, {"detail": "not_enough_credits"}, InsufficientCredits, False, True),
    "web credits": (
        403,
        {"detail": {"error_type": "not_enough_credits", "text": "x"}},
        InsufficientCredits,
        False,
        True,
    ),
    "web rate": (403, {"detail": {"error_type": "rate_limit_reached"}}, RateLimited, True, True),
    "disabled": (403, {"code": "api_key_disabled", "detail": "API key is disabled"}, PermissionDenied, False, True),
    "edge": (403, HTML, ServiceUnavailable, True, True),
    "unknown": (404, {"detail": "Not found"}, NotFound, False, True),
    "route": (404, HTML, NotFound, False, True),
    "method": (405, {"detail": "Method Not Allowed"}, ApiError, False, True),
    "slow": (408, b"", ServiceUnavailable, True, False),
    "busy": (409, {"detail": "busy"}, ApiError, False, True),
    "too large": (413, HTML, InvalidRequest, False, True),
    "fields": (422, {"detail": [{"loc": ["body", "seed"], "msg": "no", "type": "t"}]}, InvalidRequest, False, True),
    "reused key": (422, {"detail": "Idempotency-Key was used"}, InvalidRequest, False, True),
    "blocked": (423, {"detail": "model blocked"}, PermissionDenied, False, True),
    "early": (425, b"", ServiceUnavailable, True, True),
    "rate": (429, {"detail": "slow down"}, RateLimited, True, True),
    "queue": (429, {"code": "account_queue_full", "limit": 9, "detail": "full"}, RateLimited, True, True),
    "server": (500, "Internal Server Error", ServiceUnavailable, True, False),
    "refused upstream": (500, HTML, ServiceUnavailable, True, False),
    "bad gateway": (502, HTML, ServiceUnavailable, True, False),
    "unavailable": (503, {"detail": "model disabled"}, ServiceUnavailable, True, False),
    "gateway timeout": (504, b"", ServiceUnavailable, True, False),
    "moved": (301, b"", ApiError, False, True),
    "found": (302, b"", ApiError, False, False),
    "see other": (303, b"", ApiError, False, False),
    "kept method": (308, b"", ApiError, False, True),
    "early hints": (103, b"", ApiError, False, False),
    "no content": (204, b"", MalformedResponse, True, False),
}


@pytest.mark.parametrize("name", STATUSES)
@pytest.mark.parametrize("call", ["proxy submit", "v1 submit", "v2 submit"])
def test_every_status_has_its_error(call: str, name: str) -> None:
    status, body, kind, transient, refused = STATUSES[name]
    error = error_of(CALLS[call](), response(status, body, **{"x-correlation-id": "c-1"}))
    assert type(error) is kind
    assert (error.transient, error.refused) == (transient, refused)
    assert f"HTTP {status}" in str(error)
    if isinstance(error, (ApiError, InvalidRequest)):
        assert error.status == status
        assert error.correlation_id == "c-1"


def test_what_errors_carry() -> None:
    call = CALLS["v2 submit"]()
    limited = error_of(call, response(429, STATUSES["queue"][1], **{"retry-after": "7"}))
    assert isinstance(limited, RateLimited)
    assert (limited.limit, limited.code, limited.retry_after) == (9, "account_queue_full", 7.0)
    concurrency = error_of(call, response(400, STATUSES["concurrency"][1]))
    assert isinstance(concurrency, RateLimited)
    assert concurrency.limit == 4
    unsaid = error_of(call, response(400, {"detail": "too many concurrent requests"}))
    assert isinstance(unsaid, RateLimited)
    assert unsaid.limit is None
    fields = error_of(call, response(422, STATUSES["fields"][1]))
    assert isinstance(fields, InvalidRequest)
    [field] = fields.errors
    assert (field.loc, field.msg, field.type, str(field)) == (("body", "seed"), "no", "t", "body.seed: no")
    moved = error_of(call, response(301, b"", location="https://other.example.com/x?token=abc"))
    assert "https://other.example.com/x?…" in str(moved)
    assert "abc" not in str(moved)


def test_messages_do_not_repeat_what_is_private() -> None:
    said = {"detail": f"prompt: '{PROMPT}' is too long; {IMAGE}; key {SECRET}; see https://a.b/c?sig=XYZ\n\x07 now"}
    error = error_of(CALLS["v2 submit"](), response(400, said))
    for private in (PROMPT, IMAGE, SECRET, "XYZ", "\n", "\x07"):
        assert private not in str(error)
    assert isinstance(error, InvalidRequest)
    assert PROMPT in str(error.detail)
    long = error_of(CALLS["v2 submit"](), response(400, {"detail": "x" * 10_000}))
    assert len(str(long)) < 500


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "it is empty"),
        (HTML, "it is an HTML page"),
        (b"{", "it is not JSON"),
        (b"3", "not the JSON that was expected"),
        (b"{}", "has no"),
        (b'{"id":"","request_id":""}', "has no"),
        (b'{"id":7,"request_id":7}', "has no"),
    ],
)
@pytest.mark.parametrize("name", ["proxy submit", "proxy poll", "v1 submit", "v1 poll", "v2 submit", "v2 poll"])
def test_answers_that_are_none(name: str, body: bytes, why: str) -> None:
    error = error_of(CALLS[name](), HttpResponse(200, {}, body))
    assert isinstance(error, MalformedResponse)
    assert why in str(error)
    assert error.transient
    assert not error.refused
    assert error.body == body[:500]


def test_job_sets_of_every_form() -> None:
    poll = CALLS["proxy poll"]()

    def read(**job: object) -> JobSet:
        found = poll.decode(response(200, {"id": "s", "created_at": 1747790390.5, "jobs": [{"id": "j", **job}]}))
        assert isinstance(found, JobSet)
        return found

    raw, small = {"type": "video", "url": "https://a.b/r.mp4"}, {"type": "video", "url": "https://a.b/m.mp4"}
    both = read(status="completed", result=raw, results={"raw": raw, "min": small})
    assert [media.variant for media in both.outputs] == ["raw", "min"]
    assert both.jobs[0].media == both.outputs[0]
    assert both.created_at == datetime.fromtimestamp(1747790390.5, UTC)
    assert both.charged == "yes"
    assert read(status="completed", result=raw, results=None).outputs == both.outputs[:1]
    assert read(status="completed", result=None, results={"raw": raw}).outputs == both.outputs[:1]
    assert read(status="completed", results={"min": small, "raw": small}).outputs[0].variant == "raw"
    assert read(status="completed", results={"min": small}).jobs[0].media == both.outputs[1]
    assert read(status="completed", result=None, results=None).jobs[0].media is None
    odd_times: tuple[object, ...] = (True, "yesterday", 1e300, None, [], "2026-13-01T00:00:00Z")
    for odd_time in odd_times:
        answer = {"id": "s", "created_at": odd_time, "jobs": []}
        found = poll.decode(response(200, answer))
        assert isinstance(found, JobSet)
        assert found.created_at is None
    plain = poll.decode(response(200, {"id": "s", "created_at": "2026-11-22T01:02:03", "jobs": []}))
    assert isinstance(plain, JobSet)
    assert plain.created_at == datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
    failed = read(status="failed", meta={"fail_reason": "why", "is_refunded": True})
    assert (failed.reason, failed.charged) == ("why", "no")
    assert read(status="failed", meta={}).charged == "unknown"
    odd = read(status="ip_detected")
    assert (odd.status, odd.jobs[0].raw_status) == (JobStatus.UNKNOWN, "ip_detected")
    assert read(status="terminated").status is JobStatus.FAILED
    assert read(status="pending").status is JobStatus.QUEUED
    assert read(status="cancelled").status is JobStatus.CANCELED
    assert read().status is JobStatus.UNKNOWN
    assert odd.raw["jobs"][0]["status"] == "ip_detected"


def test_what_became_of_the_money() -> None:
    # By status: what it means as such, and where the record says that it was given back.
    proxy = JobSets(_proxy._WORDS, _proxy._settle)
    assert {word for word, (_, kept, _) in proxy.words.items() if kept == "yes"} == {"completed"}
    assert {kept for word, (_, kept, _) in proxy.words.items() if word != "completed"} == {"unknown"}
    assert {back for word, (_, _, back) in proxy.words.items() if word != "completed"} == {"no"}
    assert proxy.words["terminated"] == (JobStatus.FAILED, "unknown", "no")
    assert proxy.other == (JobStatus.UNKNOWN, "unknown", "no")
    platform = JobSets(_platform._WORDS, _platform._settle)
    assert {word: kept for word, (_, kept, _) in platform.words.items()} == {
        **dict.fromkeys(("queued", "in_progress"), "unknown"),
        "completed": "yes",
        **dict.fromkeys(("failed", "nsfw", "canceled", "cancelled"), "no"),
    }
    assert all(kept == back for _, kept, back in platform.words.values())
    assert platform.other == (JobStatus.UNKNOWN, "unknown", "unknown")


def test_what_is_private_is_hidden_in_every_form() -> None:
    assert clean("say hush and abc", ["hush", "abc"]) == "say … and abc"
    # The longest first: what is left of it may tell the rest.
    assert clean("a blue cat", ["blue cat", "a blue cat"]) == "…"
    spoken = 'a "b"\nit\'s'
    assert clean(f"<{spoken}> <{spoken!r}> <{json.dumps(spoken)}>", [spoken]) == "<…> <'…'> <\"…\">"
    assert clean(f"<{PROMPT[:-1]}> <{PROMPT[:-1]}>", [PROMPT]) == "<…"


def test_what_of_a_request_is_private() -> None:
    body = {
        "model": "turbo",
        "quality": "a" * 12,
        "address": "b" * 13,
        "style": "two words",
        "prompt": "cat",
        "negative_prompt": "dog",
        "speak": {"text": "hi", "voice": "v1"},
        "images": ["c" * 13, {"type": "image_url"}, 7, ""],
        "text": ["", "yes"],
        "context": "no",
    }
    assert private_strings(body) == {"b" * 13, "two words", "cat", "dog", "hi", "c" * 13, "yes"}
    assert private_strings("short") == set()
    assert private_strings("short", "text") == {"short"}


def test_a_message_to_an_agent_is_private_however_short() -> None:
    error = error_of(PLATFORM.agents().send("s1", "hush"), response(400, {"detail": "No answer to hush."}))
    assert str(error).endswith(": No answer to ….")


def test_every_submit_has_a_key_of_its_own() -> None:
    calls = [PLATFORM.submit(V2.request, OPTIONS) for _ in range(3)]
    keys = [call.key for call in calls]
    # With another's, it would bring back the other's generation.
    assert len({*map(uuid.UUID, filter(None, keys))}) == 3
    assert [call.request.headers["Idempotency-Key"] for call in calls] == keys
    # Nobody can have sent a key that was minted here; one that was given may be another try.
    assert not any(call.resumed for call in calls)
    mine = SubmitOptions(idempotency_key="mine")
    assert [PLATFORM.submit(V2.request, replace(mine, resumes=each)).resumed for each in (True, False)] == [True, False]


def test_the_path_of_speech_is_learned() -> None:
    transport = ProxyTransport(KEY)

    def speak() -> Call[Any]:
        speech = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], speak=Speak(text="hi", voice_id="v"))
        return transport.submit(speech, OPTIONS)

    made = response(200, {"id": "s", "jobs": []})
    for missing in (404, 405):
        first = speak()
        second = first.decode(response(missing, b""))
        assert isinstance(second, Call)
        assert second.request.url != first.request.url
        assert second.submits
        # Nothing is learned of what was not taken, or of another kind.
        assert isinstance(error_of(second, response(406, b"")), ApiError)
        assert isinstance(transport.submit(PROXY.request, OPTIONS).decode(made), JobSet)
        assert speak().request.url == first.request.url
        assert isinstance(second.decode(made), JobSet)
        assert speak().request.url == second.request.url


def test_the_longest_request_that_the_proxy_takes() -> None:
    def checked(spare: int) -> None:
        size = 3_000_001  # of which base64 makes as much as of two bytes more
        inside = len("data:image/png;base64,") + 4_000_004

        def request(prompt: str) -> ImageToVideo:
            return ImageToVideo(model="lite", motion_id=MOTION, prompt=prompt, images=["data:image/png;base64,AAAA"])

        rest = len(msgspec.json.encode(_proxy._fields(request("x")))) - 1
        file = Attachment(loc=("images", 0), head=b"\x89PNG\r\n\x1a\n", size=size, name="", sort="image")
        PROXY_TRANSPORT.inlined(request("x" * (_proxy.LONGEST_BODY - rest - inside - spare)), [file])

    checked(0)
    with pytest.raises(InvalidRequest, match="takes 10 MiB"):
        checked(-1)


def test_a_v2_answer_of_every_form() -> None:
    poll = CALLS["v2 poll"]()

    def read(**fields: object) -> JobSet:
        found = poll.decode(response(200, {"request_id": "r", "status": "completed", **fields}))
        assert isinstance(found, JobSet)
        return found

    urls = {name: {"url": f"https://a.b/{name}"} for name in ("video", "audio", "mov", "zip", "jsx", "fbx", "ply")}
    every = read(images=[{"url": "https://a.b/1.png"}, {"url": "https://a.b/2.png"}], audios=[urls["audio"]], **urls)
    assert [media.url.rpartition("/")[2] for media in every.outputs] == [
        *("video", "1.png", "2.png", "audio", "mov", "zip", "jsx", "fbx", "ply")
    ]
    assert [media.kind for media in every.outputs] == ["video", "image", "image", "audio", "video", *["file"] * 4]
    assert every.jobs[0].media is not None
    assert every.jobs[0].media.kind == "video"
    assert every.charged == "yes"
    failed = read(status="failed", error="Generation failed")
    assert (failed.reason, failed.charged, failed.outputs) == ("Generation failed", "no", ())
    assert read(status="queued").charged == "unknown"
    assert read(status="odd").status is JobStatus.UNKNOWN
    assert read(images=[None], video={"url": None}).outputs == ()


def test_cancel_reads_its_answers() -> None:
    call = CALLS["v2 cancel"]()
    assert call.decode(HttpResponse(202, {}, b"")) is None
    late = error_of(call, response(400, {"detail": "too late"}))
    assert isinstance(late, NotCancelable)
    assert late.detail == {"detail": "too late"}
    assert isinstance(error_of(call, response(422, {"detail": "x"})), InvalidRequest)


@pytest.mark.parametrize(
    ("transport", "of", "version"),
    [
        (PROXY_TRANSPORT, SoulStyle, 1),
        (PROXY_TRANSPORT, Motion, 2),
        (PROXY_TRANSPORT, Model, 1),
        (PROXY_TRANSPORT, MarketingPreset, 1),
        (PLATFORM, Model, 2),
        (PLATFORM, Voice, 1),
        (PLATFORM, Motion, 2),
        (PLATFORM, SoulStyle, 3),
    ],
)
def test_catalogues_that_a_service_has_not(transport: Transport, of: type, version: int) -> None:
    with pytest.raises(Unsupported, match=f"lists no {of.__name__}"):
        listing(transport, of, version)


def test_search_where_there_is_none() -> None:
    for transport, of in ((PROXY_TRANSPORT, Voice), (PLATFORM, Motion)):
        with pytest.raises(Unsupported, match="cannot search"):
            transport.catalogue(of, size=None, search="x", cursor=None, version=1)


@pytest.mark.parametrize("key", ["", "no dash", "hk key", "hk-\n", "hk-ключ", None, 7, "hk"])
def test_a_proxy_key_that_is_none(key: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ProxyTransport(key)
    assert not key or str(key) == "hk" or str(key) not in str(caught.value)


@pytest.mark.parametrize(("key_id", "secret"), [("", "s"), ("i", ""), ("i d", "s"), ("i", "s\r\nX: y"), (None, "s")])
def test_a_platform_key_that_is_none(key_id: Any, secret: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"key_id|key_secret"):
        PlatformTransport(key_id, secret)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example.com",
        "ftp://a.b",
        "https://",
        "https://a.b:port",
        "https://a.b:0",
        "https://a..b",
        "https://a b.c",
        "https://a.b/c d",
        "http://[::1",
        None,
        5,
    ],
)
def test_an_address_that_is_none(base_url: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url must be an address"):
        ProxyTransport(KEY, base_url)


@pytest.mark.parametrize("base_url", ["https://user:pass@a.b", "https://a.b/?key=x", "https://a.b/#x"])
def test_an_address_with_a_secret_in_it(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a user") as caught:
        PlatformTransport("i", "s", base_url)
    assert "pass" not in str(caught.value).replace("password", "")


def test_a_speech_path_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="speech_path"):
        ProxyTransport(KEY, speech_path="higgsfield/speak")


def test_transports_show_no_key() -> None:
    for transport in (PROXY_TRANSPORT, PLATFORM):
        assert KEY not in repr(transport)
        assert SECRET not in repr(transport)
        assert transport.account in repr(transport)
    assert ProxyTransport("hk-1").account != ProxyTransport("hk-2").account
    assert PlatformTransport("i", "a").account == PlatformTransport("i", "b").account
    assert PlatformTransport("i", "s", "HTTPS://API.higgsfield.ai/").origin.endswith("api.higgsfield.ai")
    assert not PLATFORM.same_service("https://elsewhere.example.com")
    assert not PlatformTransport("i", "s", "http://127.0.0.1:1").same_service("https://api.higgsfield.ai")
