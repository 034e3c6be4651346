"""Every recorded or documented answer of the two services decodes to what it says.

The recordings lie beside the checkout, in `shared/wire/payloads`; where they do not, these tests are skipped. The
project's own fixtures, in `recorded/`, are always there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, strategies as st

from higgsfield_async import (
    AuthenticationFailed,
    AvatarPreset,
    DopMotion,
    DopVideo,
    Estimate,
    HiggsfieldError,
    ImageToVideo,
    InsufficientCredits,
    InvalidRequest,
    JobSet,
    JobStatus,
    Keyframes,
    MalformedResponse,
    Motion,
    NotFound,
    PermissionDenied,
    PlatformTransport,
    ProxyTransport,
    RateLimited,
    ServiceUnavailable,
    Soul,
    SoulStyle,
    Sound,
    TaskRef,
    Voice,
    Webhook,
)
from higgsfield_async._domain import Page
from higgsfield_async._http import Call, Grant, HttpResponse
from higgsfield_async._requests import SubmitOptions
from higgsfield_async._transports import _job_sets, _platform
from surfaces import PROXY, V1, V2

PAYLOADS = Path(__file__).parents[2] / "shared" / "wire" / "payloads"
RECORDED = Path(__file__).parent / "recorded"
recordings = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the recordings do not lie beside this checkout")

PROXY_SIDE = ProxyTransport("hk-key")
PLATFORM = PlatformTransport("id", "secret")
OPTIONS = SubmitOptions()


def ref(kind: str) -> TaskRef:
    when = datetime(2026, 11, 22, tzinfo=UTC)
    return TaskRef(transport="t", origin="o", account="a", id="i", kind=kind, created_at=when)


def catalogue(transport: ProxyTransport | PlatformTransport, of: type) -> Call[Any]:
    return transport.catalogue(of, size=None, search=None, cursor=None, version=1)


SUBMIT_PROXY = PROXY_SIDE.submit(PROXY.request, OPTIONS)
POLL_PROXY = PROXY_SIDE.poll(ref("ad"))
SUBMIT_V1 = PLATFORM.submit(V1.request, OPTIONS)
POLL_V1 = PLATFORM.poll(ref("v1/text2image/keyframes"))
SUBMIT_V2 = PLATFORM.submit(V2.request, OPTIONS)
POLL_V2 = PLATFORM.poll(ref("higgsfield-ai/dop/turbo"))


def raw_http(text: bytes) -> HttpResponse:
    head, _, body = text.partition(b"\r\n\r\n") if b"\r\n\r\n" in text else text.partition(b"\n\n")
    lines = head.decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return HttpResponse(
        int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}, body.strip()
    )


def load(name: str, status: int = 200) -> HttpResponse:
    text = (PAYLOADS / name).read_bytes()
    return raw_http(text) if name.endswith(".txt") else HttpResponse(status, {}, text)


# What an answer says: status, number of jobs, the kinds of its outputs, and where the best one lies.
Said = tuple[JobStatus, int, list[str], str | None]
CDN = "https://d8j0ntlcm91z4.cloudfront.net/user_2xIzuhTaLzSSkbGluAOou1fpp32/5c0ac5f8-b3ff-4161-a77b-c248f02bfeca.mp4"
OUT = "https://d3u0tzju9qaucj.cloudfront.net/780762c8-a5c4-4a27-a8e5-0f8be7d0b116/"
CLOUD = "https://cloud-cdn.higgsfield.ai/780762c8-a5c4-4a27-a8e5-0f8be7d0b116/8e1fe10c-ee10-4d04-899c-af80eae1f80f.mp4"
Q, C, F = JobStatus.QUEUED, JobStatus.COMPLETED, JobStatus.FAILED
JOB_SETS: dict[str, tuple[Call[JobSet], Said]] = {
    "proxy_generate_response.json": (SUBMIT_PROXY, (Q, 0, [], None)),
    "proxy_feed_completed.json": (POLL_PROXY, (C, 1, ["video", "video"], CDN)),
    "v1_jobset_completed.js-sdk-test-fixture.json": (
        POLL_V1,
        (C, 1, ["image", "image"], "https://example.com/raw.jpg"),
    ),
    "v1_jobset_create_soul.REAL-2026-05-27.json": (SUBMIT_V1, (Q, 1, [], None)),
    "v1_jobset_create_soul.reseller-302ai-2025-12-18.json": (SUBMIT_V1, (Q, 1, [], None)),
    "v1_jobset_response_example.docs-2025.json": (POLL_V1, (Q, 1, ["file"], "<string>")),
    "v2_status_completed_audio.docs-2026-09.json": (POLL_V2, (C, 1, ["audio"], "https://cdn.example.com/audio.mp3")),
    "v2_status_completed_image_and_video.js-sdk-readme.json": (
        POLL_V2,
        (C, 1, ["video", "image"], "https://video.url/example.mp4"),
    ),
    "v2_status_completed_image_marketing_studio.REAL-2026-09-17.json": (
        POLL_V2,
        (C, 1, ["image"], OUT + "a05747d8-46fb-49ac-83bf-eb93405cd6c3.png"),
    ),
    "v2_status_completed_image_soul2.REAL-2026-09-17.json": (
        POLL_V2,
        (C, 1, ["image"], OUT + "b6dd9d9c-399b-4dd3-ab26-459603adecef.png"),
    ),
    "v2_status_completed_images_multi.docs-2026-09.json": (
        POLL_V2,
        (C, 1, ["image", "image"], "https://cdn.example.com/image-1.jpg"),
    ),
    "v2_status_completed_video.docs-2026-09.json": (POLL_V2, (C, 1, ["video"], "https://cdn.example.com/video.mp4")),
    "v2_status_completed_video_dop_turbo.REAL-2026-09-17.json": (POLL_V2, (C, 1, ["video"], CLOUD)),
    "v2_status_failed.docs-2026-09.json": (POLL_V2, (F, 1, [], None)),
    "v2_status_of_v1_jobset_completed.REAL-2026-05-27.json": (
        POLL_V2,
        (C, 1, ["image"], "https://d3u0tzju9qauci.cloudfront.net/..."),
    ),
    "v2_submit_queued.docs-2025-11.json": (SUBMIT_V2, (Q, 1, [], None)),
    "v2_submit_queued.docs-2026-09.json": (SUBMIT_V2, (Q, 1, [], None)),
    "v2_submit_queued_dop_turbo.REAL-2026-09-17.json": (SUBMIT_V2, (Q, 1, [], None)),
    "v2_submit_queued_marketing_studio.REAL-2026-09-17.json": (SUBMIT_V2, (Q, 1, [], None)),
}


@recordings
@pytest.mark.parametrize("name", JOB_SETS)
def test_job_sets(name: str) -> None:
    call, (status, jobs, kinds, best) = JOB_SETS[name]
    answer = load(name)
    found = call.decode(answer)
    assert isinstance(found, JobSet)
    sent = json.loads(answer.body)
    assert found.id == sent.get("request_id", sent.get("id"))
    assert found.status is status
    assert len(found.jobs) == jobs
    assert [media.kind for media in found.outputs] == kinds
    media = found.jobs[0].media if found.jobs else None
    assert (media.url if media else None) == best
    assert found.raw == sent
    assert found.kind == sent.get("type")
    assert (found.created_at is None) == ("created_at" not in sent)


@recordings
def test_details_that_only_some_answers_have() -> None:
    feed = POLL_PROXY.decode(load("proxy_feed_completed.json"))
    assert isinstance(feed, JobSet)
    assert feed.created_at == datetime.fromtimestamp(1747790390.044471, UTC)
    assert [media.variant for media in feed.outputs] == ["raw", "min"]
    created = SUBMIT_V1.decode(load("v1_jobset_create_soul.REAL-2026-05-27.json"))
    assert isinstance(created, JobSet)
    assert created.created_at == datetime(2026, 5, 27, 14, 4, 38, 106870, UTC)
    failed = POLL_V2.decode(load("v2_status_failed.docs-2026-09.json"))
    assert isinstance(failed, JobSet)
    assert failed.reason == "Generation failed"


WEB_JOBS = {
    "proxy_web_job_completed.json": (C, 2, None),
    "proxy_web_job_in_progress.json": (JobStatus.IN_PROGRESS, 0, None),
    "proxy_web_job_failed.json": (F, 0, "Input audio duration is not supported. Please try a shorter audio."),
}


@recordings
@pytest.mark.parametrize("name", WEB_JOBS)
def test_jobs_of_the_web_service_inside_a_feed(name: str) -> None:
    # The proxy's feed mirrors the web service's records; these are its jobs, with all the fields of today.
    status, outputs, reason = WEB_JOBS[name]
    job = json.loads((PAYLOADS / name).read_bytes())
    feed = {"id": job["job_set_id"], "type": job["job_set_type"], "created_at": job["created_at"], "jobs": [job]}
    found = POLL_PROXY.decode(HttpResponse(200, {}, json.dumps(feed).encode()))
    assert isinstance(found, JobSet)
    assert (found.status, len(found.outputs), found.reason) == (status, outputs, reason)


@recordings
def test_the_web_services_enqueue_answer_holds_a_job_set() -> None:
    inner = json.loads((PAYLOADS / "proxy_web_enqueue_response.json").read_bytes())["job_sets"][0]
    found = POLL_PROXY.decode(HttpResponse(200, {}, json.dumps(inner).encode()))
    assert isinstance(found, JobSet)
    assert found.status is Q


ERRORS: dict[str, tuple[Call[Any], int, type[HiggsfieldError]]] = {
    "error_400_concurrency.docs-2026-08.json": (SUBMIT_V2, 400, RateLimited),
    "error_400_jsonschema_missing.REAL-2026-09-17.json": (SUBMIT_V2, 400, InvalidRequest),
    "error_400_jsonschema_type.REAL-2026-09-17.json": (SUBMIT_V2, 400, InvalidRequest),
    "error_401_invalid_credentials.docs+REAL.json": (SUBMIT_V2, 401, AuthenticationFailed),
    "error_403_not_enough_credits.REAL-2026-09-17.json": (SUBMIT_V2, 403, InsufficientCredits),
    "error_404_request_not_found.REAL-2026-09-17.json": (POLL_V2, 404, NotFound),
    "error_422_dop_motions_nested_loc.REAL-2026-09-17.json": (SUBMIT_V2, 422, InvalidRequest),
    "error_422_missing_fields_dop.REAL-2026-09-17.json": (SUBMIT_V2, 422, InvalidRequest),
    "error_422_soul_cinema_enums.REAL-2026-09-17.json": (SUBMIT_V2, 422, InvalidRequest),
    "error_422_soul_v2_uuid.REAL-2026-09-17.json": (SUBMIT_V2, 422, InvalidRequest),
    "error_422_v1_literal.js-sdk-0.1.2-test-fixture.json": (SUBMIT_V1, 422, InvalidRequest),
    "proxy_error_428_bad_key_format.json": (SUBMIT_PROXY, 428, AuthenticationFailed),
    "proxy_error_428_gateway.json": (SUBMIT_PROXY, 428, ServiceUnavailable),
    "proxy_error_428_insufficient_points.json": (POLL_PROXY, 428, InsufficientCredits),
    "proxy_error_428_ip_whitelist.json": (SUBMIT_PROXY, 428, PermissionDenied),
    "proxy_error_428_key_disabled.json": (SUBMIT_PROXY, 428, PermissionDenied),
    "proxy_error_428_missing_key.json": (SUBMIT_PROXY, 428, AuthenticationFailed),
    "proxy_error_428_subkey_expired.json": (SUBMIT_PROXY, 428, PermissionDenied),
    "proxy_error_428_subkey_model.json": (POLL_PROXY, 428, PermissionDenied),
    "proxy_error_428_subkey_quota.json": (SUBMIT_PROXY, 428, InsufficientCredits),
    "proxy_error_428_unknown_key.json": (SUBMIT_PROXY, 428, AuthenticationFailed),
    "proxy_web_error_400_ip_check.json": (SUBMIT_PROXY, 400, InvalidRequest),
    "proxy_http_400_bad_json.txt": (SUBMIT_PROXY, 0, InvalidRequest),
    "proxy_http_404_route.txt": (POLL_PROXY, 0, NotFound),
    "proxy_http_413_too_large.txt": (SUBMIT_PROXY, 0, InvalidRequest),
    "proxy_http_428_gateway.txt": (SUBMIT_PROXY, 0, ServiceUnavailable),
    "proxy_http_428_missing_key.txt": (SUBMIT_PROXY, 0, AuthenticationFailed),
    "proxy_http_500_upstream_refused.txt": (SUBMIT_PROXY, 0, ServiceUnavailable),
    "proxy_http_504_upstream_reset.txt": (SUBMIT_PROXY, 0, ServiceUnavailable),
    # Other resellers' dialects, with the same paths: not ours, and still told as what they are.
    "proxy_alt_gptproto_error.json": (SUBMIT_PROXY, 401, AuthenticationFailed),
    "proxy_alt_unifically_error.json": (SUBMIT_PROXY, 400, InvalidRequest),
    "proxy_alt_unifically_generate_response.json": (SUBMIT_PROXY, 200, MalformedResponse),
    "proxy_alt_unifically_feed_completed.json": (POLL_PROXY, 200, MalformedResponse),
}


@recordings
@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, status, kind = ERRORS[name]
    answer = load(name, status)
    with pytest.raises(HiggsfieldError) as caught:
        call.decode(answer)
    assert type(caught.value) is kind
    if isinstance(caught.value, InvalidRequest) and name.startswith("error_422"):
        sent = json.loads(answer.body)["detail"]
        assert [(list(e.loc), e.msg, e.type) for e in caught.value.errors] == [
            (each["loc"], each["msg"], each["type"]) for each in sent
        ]


LISTINGS: dict[str, tuple[Call[Any], Any, int | None, int | None]] = {
    "proxy_tpl_motions.json": (
        catalogue(PROXY_SIDE, Motion),
        Motion(
            id="f226ac67-43d3-4726-ad9c-132608bda8b3",
            name="Eyes In",
            preview_url="https://d1xarpci4ikg0w.cloudfront.net/a8caa3db-bcf2-4e30-b5fe-37fafdd59140.webp",
            categories=("vfx", "epic_camera_control"),
        ),
        None,
        None,
    ),
    "proxy_tpl_avatar_presets.json": (
        catalogue(PROXY_SIDE, AvatarPreset),
        AvatarPreset(
            id="7f1xkmlzvtCNncSqUYMTbU",
            name="Selfie",
            preview_url="https://d1xarpci4ikg0w.cloudfront.net/7d1ce555-ebb4-46ca-8932-d3f6b2d15459.mp4",
            thumbnail_url="https://d1xarpci4ikg0w.cloudfront.net/d10ddb13-22f7-4182-ba8c-0007fe7f7369.webp",
        ),
        28,
        2,
    ),
    "proxy_tpl_voices.json": (
        catalogue(PROXY_SIDE, Voice),
        Voice(
            id="6pBuGbellIksHKibt0je2n",
            name="Marston",
            gender="male",
            age="middle age",
            categories=("reporter",),
            voice_url="https://dqv0cqkoy5oj7.cloudfront.net/voices_avatar/all/rTOopItG6FIkKMIVxsl5/2.wav",
            image_url="https://d1xarpci4ikg0w.cloudfront.net/5503b4b2-6398-4542-ad31-9fa6edb96d7c.webp",
        ),
        92,
        2,
    ),
    "proxy_tpl_sounds.json": (
        catalogue(PROXY_SIDE, Sound),
        Sound(
            id="DwUP9LmFKqHsvvWQkjLE6",
            name="room",
            description="Low hum",
            sound_url="https://dqv0cqkoy5oj7.cloudfront.net/voices_preset/room.wav",
        ),
        11,
        2,
    ),
    "v1_motions_response.js-sdk-test-fixture.json": (
        catalogue(PLATFORM, Motion),
        Motion(
            id="motion-1",
            name="Zoom In",
            description="Smooth zoom effect",
            preview_url="https://example.com/motion.mp4",
            start_end_frame=True,
        ),
        1,
        None,
    ),
    "v1_soul_styles_response.js-sdk-test-fixture.json": (
        catalogue(PLATFORM, SoulStyle),
        SoulStyle(
            id="style-1",
            name="Oil Painting",
            description="Classic oil painting style",
            preview_url="https://example.com/preview.jpg",
        ),
        1,
        None,
    ),
}


@recordings
@pytest.mark.parametrize("name", LISTINGS)
def test_catalogues(name: str) -> None:
    call, item, total, cursor = LISTINGS[name]
    page = call.decode(load(name))
    assert isinstance(page, Page)
    assert (page.items, page.total, page.cursor) == ((item,), total, cursor)


ESTIMATE = PLATFORM.estimate(V2.request)
ESTIMATES = {
    "v2_estimate.docs-2026-08.json": (Decimal("1.5"), Decimal("0.094")),
    "v2_estimate_soul_v2.REAL-2026-09-17.json": (Decimal("0.05"), Decimal("0.004")),
}


@recordings
@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates(name: str) -> None:
    assert isinstance(ESTIMATE, Call)
    price = ESTIMATE.decode(load(name))
    assert isinstance(price, Estimate)
    assert (price.credits, price.usd) == ESTIMATES[name]
    assert (price.points, price.text) == (None, None)


GRANT = "v2_generate_upload_url_response.docs-2026-08.json"


@recordings
def test_leave_to_upload() -> None:
    ask = PLATFORM.upload(b"\xff\xd8\xff", 3, None)
    assert ask.request.body == msgspec.json.encode(
        json.loads((PAYLOADS / "v2_generate_upload_url_request.json").read_bytes())
    )
    grant = ask.decode(load(GRANT))
    assert isinstance(grant, Grant)
    assert grant.request.url == "https://storage.example.com/presigned-upload-url"
    assert grant.request.headers == {"Content-Type": "image/jpeg", "x-amz-tagging": "retention=temporary"}
    stored = grant.decode(HttpResponse(200, {}, b""))
    assert (stored.url, stored.content_type) == ("https://cdn.example.com/input/example.jpeg", "image/jpeg")


# Answers of operations that this SDK does not have, requests, schemas, catalogues and deliveries: no answers to read.
OTHER = (
    "agent_",
    "models_from_",
    "openapi_",
    "v1_custom_reference_",
    "v2_generate_upload_url_response_keys",
    "webhook_",
)


@recordings
def test_no_recorded_answer_is_left_out() -> None:
    there = {path.name for path in PAYLOADS.iterdir() if "request" not in path.name.split(".")[0].split("_")[-2:]}
    there -= {name for name in there if name.startswith(OTHER) or "_schema" in name or "_request" in name}
    read = {
        *JOB_SETS,
        *WEB_JOBS,
        *ERRORS,
        *LISTINGS,
        *ESTIMATES,
        "proxy_web_enqueue_response.json",
        "v2_generate_upload_url_response.docs-2026-08.json",
    }
    assert there - read == set()


IMAGES = ["https://media.pixverse.ai/asset/media/fusion4_1.jpg", "https://media.pixverse.ai/asset/media/fusion4_2.png"]
REQUESTS: dict[str, Callable[[], Call[Any]]] = {
    "proxy_generate_request.json": lambda: PROXY_SIDE.submit(
        ImageToVideo(
            model="standard",
            motion_id="cd5bfd11-5a1a-46e0-9294-b22b0b733b1e",
            prompt="正在吃饭",
            enhance_prompt=True,
            seed=374487,
            width=736,
            height=1312,
            images=IMAGES,
        ),
        OPTIONS,
    ),
    "v1_image2video_dop_request.js-sdk-readme.json": lambda: PLATFORM.submit(
        DopVideo(
            model="dop-turbo",
            prompt="Apply zoom motion to the subject",
            images=["https://example.com/image.jpg"],
            motions=[DopMotion(id="<motion-uuid>", strength=0.8)],
            seed=42,
            enhance_prompt=True,
        ),
        SubmitOptions(webhook=Webhook("https://your-webhook-url.com/callback", "your-webhook-secret")),
    ),
    "v1_text2image_soul_request_working.REAL-2026-05-27.json": lambda: PLATFORM.submit(
        Soul(
            prompt="A premium cinematic keyframe for a vertical social video",
            quality="720p",
            batch_size=1,
            enhance_prompt=True,
            style_strength=1,
            width_and_height="1152x2048",
        ),
        OPTIONS,
    ),
}


@recordings
@pytest.mark.parametrize("name", REQUESTS)
def test_requests_as_they_were_documented(name: str) -> None:
    sent = msgspec.json.decode(REQUESTS[name]().request.body or b"")
    documented = json.loads((PAYLOADS / name).read_bytes())
    # An unset field is left out where the recorded request had null: both were seen to work.
    params = {key: value for key, value in documented.get("params", {}).items() if value is not None}
    documented = {key: value for key, value in documented.items() if value is not None} | (
        {"params": params} if params else {}
    )
    assert sent == documented


def test_our_own_fixtures() -> None:
    feed = POLL_PROXY.decode(HttpResponse(200, {}, (RECORDED / "proxy_feed_two_ends.json").read_bytes()))
    assert isinstance(feed, JobSet)
    assert [job.status for job in feed.jobs] == [C, F, JobStatus.UNKNOWN]
    assert [job.charged for job in feed.jobs] == ["yes", "no", "unknown"]
    assert feed.status is JobStatus.IN_PROGRESS
    assert feed.jobs[1].reason == "Input image could not be read."
    status = POLL_V2.decode(HttpResponse(200, {}, (RECORDED / "v2_status_every_file.json").read_bytes()))
    assert isinstance(status, JobSet)
    assert len(status.outputs) == 8


def test_keyframes_as_in_the_reference() -> None:
    reference = Keyframes(prompt="", aspect_ratio="3:4", count=1, quality="720p", seed=1)
    sent = msgspec.json.decode(PLATFORM.submit(reference, OPTIONS).request.body or b"")
    assert sent == {"params": {"seed": 1, "count": 1, "prompt": "", "quality": "720p", "aspect_ratio": "3:4"}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats(-1e12, 1e12) | st.text("az0/.:", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "url", "type"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def record(*always: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with these fields, or some of them, where now and then one is odd."""
    odd = {name: oddly(value) for name, value in fields.items()}
    return st.fixed_dictionaries({name: odd.pop(name) for name in always}, optional=odd)


def oddly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda drawn: usual if drawn else JSON)


TEXT = st.none() | st.text('azé"', max_size=3)
URL = st.sampled_from(["", "https://a.b/c.mp4", "https://a.b/c.PNG?x", "https://a.b/c", "http://["])
FILE = record("url", url=URL, type=st.sampled_from(["video", "image", "audio", "text", None]))
TIME = (
    st.none()
    | st.floats(0, 1e11)
    | st.integers(-1, 10**11)
    | st.datetimes(timezones=st.none() | st.just(UTC)).map(datetime.isoformat)
    | st.sampled_from(["1747790390.5", "null", "2026-11-22", "20261122T010203Z", "2026-11-22T01:02:03.1234567+02:00"])
)
JOB = record(
    "status",
    "results",
    id=TEXT,
    status=st.sampled_from(["queued", "completed", "failed", "nsfw", "ip_detected", "", None]),
    result=st.none() | FILE,
    results=st.none() | record(raw=FILE, min=FILE),
    meta=st.none() | record(fail_reason=TEXT, is_refunded=st.sampled_from([True, False, None, 1, "true"])),
    params=JSON,
)
FEED = record(
    "id", "jobs", id=TEXT, type=TEXT, created_at=TIME, jobs=st.none() | st.lists(oddly(JOB), max_size=3), params=JSON
)
REQUEST = record(
    "request_id",
    "status",
    request_id=TEXT,
    status=st.sampled_from(["queued", "completed", "failed", "odd", "", None]),
    error=TEXT,
    images=st.none() | st.lists(oddly(FILE), max_size=2),
    audios=st.none() | st.lists(FILE, max_size=2),
    **dict.fromkeys(("video", "audio", "mov", "zip", "jsx", "fbx", "ply"), st.none() | FILE),
)


def outcome(call: Call[Any], body: bytes) -> object:
    try:
        return call.decode(HttpResponse(200, {}, body))
    except MalformedResponse as error:
        return str(error)


@pytest.mark.parametrize(
    ("calls", "module", "answers"),
    [
        ((SUBMIT_PROXY, POLL_PROXY, SUBMIT_V1, POLL_V1), _job_sets, FEED),
        ((SUBMIT_V2, POLL_V2), _platform, REQUEST),
    ],
    ids=["job set", "request"],
)
@given(data=st.data())
def test_an_answer_reads_the_same_whether_or_not_a_part_of_it_is_odd(
    calls: tuple[Call[Any], ...], module: Any, answers: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    # What has the expected form is read by one decoder, and the rest by another.
    body = json.dumps(data.draw(answers)).encode()
    for call in calls:
        usual = outcome(call, body)
        with mock.patch.object(module, "_decode", side_effect=msgspec.ValidationError):
            assert outcome(call, body) == usual
