"""Requests, refs, policies and the other values: what they refuse, and what they show."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

import higgsfield_async
from higgsfield_async import (
    Ad,
    AvatarPreset,
    CharacterTraining,
    ConfigurationError,
    DopMotion,
    DopVideo,
    GenerationError,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    InsufficientCredits,
    InvalidRequest,
    Job,
    JobSet,
    JobStatus,
    Keyframes,
    Limits,
    MarketingPreset,
    Media,
    ModelRequest,
    Motion,
    PollPolicy,
    RateLimited,
    RetryPolicy,
    ServiceUnavailable,
    Soul,
    SoulStyle,
    Sound,
    Speak,
    Speech,
    TalkingHead,
    TaskRef,
    Voice,
    Webhook,
)
from higgsfield_async._domain import without_query
from higgsfield_async._http import Call, HttpRequest, HttpResponse
from higgsfield_async._polling import ends_wait
from higgsfield_async._retry import may_repeat
from higgsfield_async.sandbox import Fault, Sandbox
from surfaces import IMAGE, MOTION, PROMPT

VIDEO: dict[str, Any] = {"model": "lite", "motion_id": MOTION, "prompt": PROMPT, "images": [IMAGE]}
SPEECH: dict[str, Any] = {"avatar_preset_id": "a", "prompt": PROMPT, "images": [IMAGE]}
SOUL: dict[str, Any] = {"prompt": PROMPT, "width_and_height": "1536x1536"}
DOP: dict[str, Any] = {"model": "dop-lite", "prompt": PROMPT, "images": [IMAGE]}
HEAD: dict[str, Any] = {"prompt": PROMPT, "image": IMAGE, "audio": "https://a.b/c.wav"}
WAV = "https://a.b/c.wav"

REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (ImageToVideo, VIDEO | {"model": "turbo-max"}, "model"),
    (ImageToVideo, VIDEO | {"motion_id": ""}, "motion_id"),
    (ImageToVideo, VIDEO | {"motion_id": "a b"}, "motion_id"),
    (ImageToVideo, VIDEO | {"prompt": None}, "prompt"),
    (ImageToVideo, VIDEO | {"prompt": b"x"}, "prompt"),
    (ImageToVideo, VIDEO | {"images": []}, "images"),
    (ImageToVideo, VIDEO | {"images": [IMAGE] * 3}, "images"),
    (ImageToVideo, VIDEO | {"images": IMAGE}, "images"),
    (ImageToVideo, VIDEO | {"images": ["cat.jpg"]}, "images"),
    (ImageToVideo, VIDEO | {"images": ["/home/me/cat.jpg"]}, "images"),
    (ImageToVideo, VIDEO | {"images": ["ftp://a.b/c.jpg"]}, "images"),
    (ImageToVideo, VIDEO | {"images": ["https://a.b/c d.jpg"]}, "images"),
    (ImageToVideo, VIDEO | {"images": ["https:///c.jpg"]}, "images"),
    (ImageToVideo, VIDEO | {"images": ["data:text/html;base64,AAAA"]}, "images"),
    (ImageToVideo, VIDEO | {"seed": 0}, "seed"),
    (ImageToVideo, VIDEO | {"seed": 1_000_001}, "seed"),
    (ImageToVideo, VIDEO | {"seed": True}, "seed"),
    (ImageToVideo, VIDEO | {"seed": "7"}, "seed"),
    (ImageToVideo, VIDEO | {"width": 0}, "width"),
    (ImageToVideo, VIDEO | {"height": -1}, "height"),
    (ImageToVideo, VIDEO | {"enhance_prompt": "yes"}, "enhance_prompt"),
    (Speech, SPEECH, "audio"),
    (Speech, SPEECH | {"audio": WAV, "speak": Speak(text="x", voice_id="v")}, "audio"),
    (Speech, SPEECH | {"audio": "c.wav"}, "audio"),
    (Speech, SPEECH | {"audio": WAV, "images": []}, "images"),
    (Speech, SPEECH | {"speak": {"text": "x"}}, "speak"),
    (Speak, {"text": "x", "voice_id": ""}, "voice_id"),
    (Ad, {"product_placement_sample_id": "x", "images": [IMAGE], "size": "1024"}, "size"),
    (Ad, {"product_placement_sample_id": "x", "images": [IMAGE], "size": "0x5"}, "size"),
    (Ad, {"product_placement_sample_id": "", "images": [IMAGE]}, "product_placement_sample_id"),
    (Keyframes, {"prompt": PROMPT, "aspect_ratio": "5:4"}, "aspect_ratio"),
    (Keyframes, {"prompt": PROMPT, "count": 0}, "count"),
    (Keyframes, {"prompt": PROMPT, "quality": "1080p"}, "quality"),
    (Keyframes, {"prompt": PROMPT, "seed": 1_000_001}, "seed"),
    (Keyframes, {"prompt": PROMPT, "image_references": [IMAGE] * 9}, "image_references"),
    (Keyframes, {"prompt": PROMPT, "image_references": ["https://a.b/" + "c" * 2083]}, "image_references"),
    (Keyframes, {"prompt": PROMPT, "image_references": [""]}, "image_references"),
    (Soul, SOUL | {"width_and_height": "100x100"}, "width_and_height"),
    (Soul, SOUL | {"style_id": ""}, "style_id"),
    (Soul, SOUL | {"style_strength": 1.1}, "style_strength"),
    (Soul, SOUL | {"style_strength": math.nan}, "style_strength"),
    (Soul, SOUL | {"batch_size": 2}, "batch_size"),
    (Soul, SOUL | {"custom_reference_id": "x"}, "custom_reference_id"),
    (Soul, SOUL | {"image_reference": "data:text/html;base64,AAAA"}, "image_reference"),
    (DopVideo, DOP | {"model": "turbo"}, "model"),
    (DopVideo, DOP | {"motions": [DopMotion(id="m", strength=1)] * 3}, "motions"),
    (DopVideo, DOP | {"images": []}, "images"),
    (DopMotion, {"id": "m", "strength": -0.1}, "strength"),
    (TalkingHead, HEAD | {"duration": 7}, "duration"),
    (TalkingHead, HEAD | {"quality": "low"}, "quality"),
    (TalkingHead, HEAD | {"audio": "x"}, "audio"),
    (CharacterTraining, {"name": "", "images": [IMAGE]}, "name"),
    (CharacterTraining, {"name": "a" * 101, "images": [IMAGE]}, "name"),
    (CharacterTraining, {"name": "Ann", "images": []}, "images"),
    (CharacterTraining, {"name": "Ann", "images": [IMAGE] * 101}, "images"),
    (CharacterTraining, {"name": "Ann", "images": ["ann.jpg"]}, "images"),
    (CharacterTraining, {"name": "Ann", "images": [IMAGE], "model_version": "v3"}, "model_version"),
    (ModelRequest, {"model_id": "", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "/a", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "a//b", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "a/../b", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "a?b", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "requests/x", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "v1/text2image/soul", "arguments": {}}, "model_id"),
    (ModelRequest, {"model_id": "a/b", "arguments": []}, "arguments"),
    (ModelRequest, {"model_id": "a/b", "arguments": {"x": object()}}, "arguments"),
    (ModelRequest, {"model_id": "a/b", "arguments": {"x": math.nan}}, "arguments"),
    (Webhook, {"url": "example.com"}, "url"),
    (Webhook, {"url": "https://user:pass@example.com/"}, "url"),
    (Webhook, {"url": "https://example.com/", "secret": ""}, "secret"),
]


@pytest.mark.parametrize(("kind", "fields", "name"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_what_a_request_refuses(kind: Callable[..., Any], fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        kind(**fields)
    assert [error.loc[0] for error in caught.value.errors] == [name]
    assert str(caught.value).startswith(f"{getattr(kind, '__name__', '')}.{name}: ")
    assert "matching regex" not in str(caught.value)
    assert PROMPT not in str(caught.value)
    assert caught.value.charged == "no"
    assert caught.value.status is None


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ImageToVideo(model="lite", motion_id="", prompt="", images=["x"], seed=0)
    assert [error.loc for error in caught.value.errors] == [("motion_id",), ("images",), ("seed",)]


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        "http://a.b/c?d=e",
        "data:image/png;base64,iVBORw0KGgo=",
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk",
    ],
)
def test_pictures_that_the_proxy_takes(image: str) -> None:
    assert ImageToVideo(**{**VIDEO, "images": (image,)}).images == [image]


def test_a_request_keeps_what_was_checked() -> None:
    images = [IMAGE]
    request = ImageToVideo(**{**VIDEO, "images": images})
    images.append("cat.jpg")
    assert request.images == [IMAGE]
    speech = Speech(**(SPEECH | {"speak": {"text": "x", "voice_id": "v"}}))
    assert speech.speak == Speak(text="x", voice_id="v")
    with pytest.raises(InvalidRequest):
        msgspec.structs.replace(request, seed=0)


def test_requests_pickle_and_hide_what_is_private() -> None:
    for request in (
        ImageToVideo(**VIDEO, seed=3),
        Speech(**SPEECH, speak=Speak(text=PROMPT, voice_id="v")),
        ModelRequest("a/b", {"prompt": PROMPT}),
        Webhook("https://a.b/c?token=x", secret="s3cret"),
    ):
        assert pickle.loads(pickle.dumps(request)) == request
        shown = repr(request)
        for private in (PROMPT, IMAGE, "s3cret", "token"):
            assert private not in shown
    assert repr(ImageToVideo(**VIDEO, seed=3)) == (
        f"ImageToVideo(model='lite', motion_id='{MOTION}', prompt=…, images=…, seed=3)"
    )


REF = TaskRef(
    transport="proxy", origin="https://a.b", account="0123456789ab", id="i", kind="ad", created_at=datetime.now(UTC)
)


@settings(max_examples=200)
@given(st.text(max_size=50), st.text(max_size=50))
def test_refs_go_to_json_and_back(identifier: str, kind: str) -> None:
    ref = msgspec.structs.replace(REF, id=identifier, kind=kind)
    assert TaskRef.from_json(ref.to_json()) == ref
    assert TaskRef.from_json(ref.to_json().encode()) == ref
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert "\n" not in ref.to_json()


@pytest.mark.once
@settings(max_examples=500)
@given(st.binary(max_size=200) | st.text(max_size=100))
def test_anything_else_is_no_ref(text: str | bytes) -> None:
    with pytest.raises(ConfigurationError):
        TaskRef.from_json(text)


def job(status: JobStatus, charged: Any = "unknown") -> Job:
    return Job(id="j", status=status, raw_status=status.value, charged=charged)


Q, P, C, F, N, X, U = (
    JobStatus.QUEUED,
    JobStatus.IN_PROGRESS,
    JobStatus.COMPLETED,
    JobStatus.FAILED,
    JobStatus.NSFW,
    JobStatus.CANCELED,
    JobStatus.UNKNOWN,
)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], Q),
        ([Q, Q], Q),
        ([Q, P], P),
        ([Q, C], P),
        ([U, C], P),
        ([U, Q], Q),
        ([U], U),
        ([C, F, N, X], C),
        ([F, N, X], F),
        ([N, X], N),
        ([X], X),
    ],
)
def test_the_status_of_a_set_comes_from_its_jobs(jobs: list[JobStatus], expected: JobStatus) -> None:
    assert JobSet(id="s", jobs=tuple(map(job, jobs))).status is expected


@given(st.lists(st.sampled_from(list(JobStatus)), max_size=5))
def test_a_set_has_ended_when_all_its_jobs_have(statuses: list[JobStatus]) -> None:
    found = JobSet(id="s", jobs=tuple(map(job, statuses)))
    assert found.status.terminal == (bool(statuses) and all(status.terminal for status in statuses))


def test_the_money_of_a_set() -> None:
    assert JobSet(id="s").charged == "unknown"
    assert JobSet(id="s", jobs=(job(C, "yes"), job(C, "yes"))).charged == "yes"
    assert JobSet(id="s", jobs=(job(C, "yes"), job(F, "no"))).charged == "unknown"
    assert JobSet(id="s").raw == {}
    assert JobSet(id="s").reason is None


def test_addresses_are_shown_without_their_query() -> None:
    media = Media("https://a.b/c.mp4?Signature=x", "video")
    assert repr(media) == "Media('https://a.b/c.mp4?…', kind='video', variant='raw')"
    assert "Signature" not in repr(JobSet(id="s", jobs=(Job(id="j", status=C, raw_status="c", outputs=(media,)),)))
    signed = "https://a.b/c.mp4?Signature=x"
    for kind in (Motion, AvatarPreset, Voice, Sound, SoulStyle, MarketingPreset):
        urls: dict[str, Any] = {name: signed for name in kind.__struct_fields__ if name.endswith("_url")}
        shown = repr(kind(id="i", name="N", **urls))
        assert urls
        assert "Signature" not in shown
        assert shown.count("'https://a.b/c.mp4?…'") == len(urls)
    assert repr(Sound(id="i", name="N")) == "Sound(id='i', name='N', description=None, sound_url=None)"
    assert without_query("https://user:pass@a.b/c") == "https://a.b/c"
    assert without_query("data:image/png;base64,AAAA") == "data:…"
    assert without_query("http://[") == "…"
    for odd in (
        "http:user:pass@a.b/c?x",
        "https:///user:pass@a.b/c",
        "user:pass@a.b/c",
        "///user:pass@a.b",
        "//:pass@",
    ):
        assert "pass" not in without_query(odd)
    assert without_query("//user:pass@a.b/c") == "//a.b/c"
    assert without_query("/a/b?c") == "/a/b?…"
    request = HttpRequest("GET", "https://a.b/c?x=secret", {"Authorization": "Key secret"}, b"secret")
    assert repr(request) == "HttpRequest(GET https://a.b/c?…)"
    assert repr(HttpResponse(200, {"Set-Cookie": "secret"}, b"secret")) == "HttpResponse(200, 6 bytes)"
    call = Call("submit", request, lambda _: None, submits=True, key="secret")
    assert repr(call) == "Call('submit', HttpRequest(GET https://a.b/c?…))"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 1.5 ", 1.5),
        ("999999999999999", 999999999999999.0),
        ("Sun, 22 Nov 2026 00:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 00:00:30 -0000", 30.0),
        ("Sat, 21 Nov 2026 00:00:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1e400", None),
        ("9" * 400, None),
        ("٧", None),
        ("Sun, 22 Nov 99999 00:00:30 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    assert HttpResponse(429, {"retry-after": value}, b"", now).retry_after == seconds


@settings(max_examples=500)
@given(st.text(max_size=40))
def test_any_retry_after_is_read_or_left(value: str) -> None:
    found = HttpResponse(429, {"retry-after": value}, b"", 1e9).retry_after
    assert found is None or found >= 0


def test_retries_wait_longer_and_longer_and_never_less_than_asked() -> None:
    policy = RetryPolicy(first=1, factor=2, longest=8, longest_retry_after=60)
    assert [policy.delay(failures, None, 1) for failures in range(1, 6)] == [1, 2, 4, 8, 8]
    assert policy.delay(3, None, 0) == 0
    assert policy.delay(100_000, None, 1) == 8
    assert policy.delay(1, 30, 0.5) == 30.5
    assert policy.delay(1, 1e15, 0) == 60


@given(st.integers(1, 10**6), st.none() | st.floats(0, 1e15), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_always_bounded(failures: int, retry_after: float | None, chance: float) -> None:
    policy = RetryPolicy()
    delay = policy.delay(failures, retry_after, chance)
    assert 0 <= delay <= policy.longest + policy.longest_retry_after
    assert delay >= min(retry_after or 0, policy.longest_retry_after)


def test_gaps_between_looks() -> None:
    assert [PollPolicy.backoff().gap(looks, 0) for looks in range(6)] == [2, 3, 4.5, 6.75, 10, 10]
    assert PollPolicy().gap(10**6, 1) == 8
    assert {PollPolicy.fixed(5).gap(looks, 0.7) for looks in range(9)} == {5}
    assert PollPolicy.fixed(5, deadline=7).deadline == PollPolicy.backoff(deadline=7).deadline == 7


def test_policies_by_name_are_policies_spelt_out() -> None:
    assert PollPolicy.fixed(5) == PollPolicy(first=5, factor=1, longest=5, jitter=0, adaptive=False)
    assert PollPolicy.backoff() == PollPolicy(adaptive=False)
    assert PollPolicy.backoff(3, 2, 40) == PollPolicy(first=3, factor=2, longest=40, adaptive=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"first": 10, "longest": 10},
        {"first": 1e-9},
        {"factor": 1},
        {"factor": 100},
        {"jitter": 0},
        {"jitter": 1},
        {"deadline": 0.1},
        {"deadline": math.inf},
    ],
)
def test_a_poll_policy_may_go_to_its_bounds(settings: dict[str, Any]) -> None:
    assert 0 < PollPolicy(**settings).gap(3, 0.5) <= 10


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({"attempts": 1}, 4),
        ({"first": 0}, 0),
        ({"first": 0, "longest": 0}, 0),
        ({"first": 20}, 20),
        ({"factor": 1}, 0.5),
        ({"factor": 100}, 20),
        ({"longest_retry_after": 0.5}, 4),
        ({"longest_retry_after": 0}, 4),
    ],
)
def test_a_retry_policy_may_go_to_its_bounds(settings: dict[str, Any], longest: float) -> None:
    policy = RetryPolicy(**settings)
    assert policy.delay(4, None, 1) == longest
    assert policy.delay(4, 0, 1) == longest


TRANSIENT = ServiceUnavailable("busy", status=503, transient=True)


@pytest.mark.parametrize(
    ("error", "submits", "key", "again"),
    [
        # What does not pass by itself is not tried again, whatever it costs.
        (InvalidRequest("x"), False, None, False),
        (InvalidRequest("x", refused=True), True, "key", False),
        # What costs nothing is.
        (TRANSIENT, False, None, True),
        # Nobody knows whether this one was accepted; nothing but its key keeps a second one from being paid for.
        (TRANSIENT, True, None, False),
        (TRANSIENT, True, "key", True),
        (RateLimited("x", status=429, refused=True, transient=True), True, None, True),
    ],
)
def test_what_may_be_sent_again(error: HiggsfieldError, key: str | None, *, submits: bool, again: bool) -> None:
    call = Call("submit", HttpRequest("POST", "https://example.com", {}), lambda _: None, submits=submits, key=key)
    assert may_repeat(call, error) is again


POLLING = "PollPolicy needs 0 < first <= longest, factor 1 to 100, jitter from 0 to 1 and deadline > 0."
RETRYING = (
    "RetryPolicy needs a whole number of attempts >= 1, 0 <= first <= longest, factor 1 to 100 "
    "and longest_retry_after >= 0."
)


@pytest.mark.parametrize(
    ("make", "needs"),
    [
        (lambda: PollPolicy(first=0), POLLING),
        (lambda: PollPolicy(first=20), POLLING),
        (lambda: PollPolicy(factor=0.5), POLLING),
        (lambda: PollPolicy(factor=100.5), POLLING),
        (lambda: PollPolicy(jitter=2), POLLING),
        (lambda: PollPolicy(deadline=0), POLLING),
        (lambda: PollPolicy.fixed(-1), POLLING),
        (lambda: PollPolicy.fixed(math.nan), POLLING),
        (lambda: RetryPolicy(attempts=0), RETRYING),
        (lambda: RetryPolicy(first=-1), RETRYING),
        (lambda: RetryPolicy(first=30), RETRYING),
        (lambda: RetryPolicy(factor=0), RETRYING),
        (lambda: RetryPolicy(factor=100.5), RETRYING),
        (lambda: RetryPolicy(longest_retry_after=-1), RETRYING),
        (lambda: Limits(max_connections=0), "Limits needs whole numbers >= 1"),
        (lambda: Limits(read=-1), "The times of Limits"),
        (lambda: Limits(upload=0), "The times of Limits"),
    ],
)
def test_settings_out_of_range(make: Callable[[], object], needs: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(needs)}"):
        make()


def test_what_ends_a_wait() -> None:
    assert ends_wait(InvalidRequest("x"))
    assert not ends_wait(InsufficientCredits("x", status=428))
    assert not ends_wait(ServiceUnavailable("x", status=500, transient=True))


def every_error() -> list[type[HiggsfieldError]]:
    found = [getattr(higgsfield_async, name) for name in higgsfield_async.__all__]
    return [each for each in found if isinstance(each, type) and issubclass(each, HiggsfieldError)]


def make(kind: type[HiggsfieldError]) -> HiggsfieldError:
    values: dict[str, Any] = {
        "status": 500,
        "body": b"x",
        "job_set": JobSet(id="s"),
        "request": ModelRequest("a/b", {}),
        "key": "k",
        "cause": RateLimited("inner", status=429, limit=4, ref=REF),
        "unit": "usd",
        "limit": Decimal(5),
        "left": Decimal(1),
        "needed": None,
    }
    import inspect

    wanted = [
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name in values and parameter.default is inspect.Parameter.empty
    ]
    return kind(
        "what happened", ref=REF, charged="unknown", **{name: values[name] for name in [*wanted, *needed(kind)]}
    )


def needed(kind: type[HiggsfieldError]) -> list[str]:
    return ["status"] if issubclass(kind, RateLimited) else []


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[HiggsfieldError]) -> None:
    if kind.abstract:
        with pytest.raises(TypeError, match="for catching"):
            GenerationError("x", job_set=JobSet(id="s")) if kind is GenerationError else kind("x")
        return
    error = make(kind)
    error.add_note("a note")
    try:
        raise error from RateLimited("inner", status=429, limit=4, ref=REF)
    except HiggsfieldError as raised:
        for again in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
            assert type(again) is kind
            assert str(again) == "what happened"
            assert (again.ref, again.charged) == (REF, "unknown")
            assert again.__notes__ == ["a note"]
            assert isinstance(again.__cause__, RateLimited)
            assert again.__cause__.limit == 4
            assert again.__dict__.keys() == raised.__dict__.keys()


def test_a_foreign_cause_does_not_hinder_pickling() -> None:
    error = RateLimited("x", status=429)
    error.__cause__ = OSError(lambda: None)
    assert pickle.loads(pickle.dumps(error)).__cause__ is None


def test_the_tree_as_it_is_drawn() -> None:
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (higgsfield_async._errors.__doc__ or "").splitlines():
        stripped = line.lstrip(" │├└─")
        if not line.startswith("    ") or not stripped:
            continue
        depth, name = len(line) - len(stripped), stripped.split()[0]
        while stack and stack[-1][0] >= depth:
            stack.pop()
        drawn[name] = stack[-1][1] if stack else "Exception"
        # Siblings may share a line: they are leaves.
        stack.append((depth, name))
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in every_error()}


def test_arguments_nested_too_deeply() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"deeper": deep}
    with pytest.raises(InvalidRequest, match="cannot be written as JSON") as caught:
        ModelRequest("a/b", deep)
    assert caught.value.errors[0].loc == ("arguments",)


HALF = "a cat \ud83d"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Keyframes(prompt=HALF),
        lambda: Keyframes(prompt="x", image_references=["https://example.com/\ud83d.png"]),
        lambda: CharacterTraining(name=HALF, images=["https://example.com/a.png"]),
        lambda: ModelRequest("a/b", {"prompt": HALF}),
        lambda: ModelRequest("a/b", {"list": [{HALF: 1}]}),
    ],
)
def test_half_a_character_is_refused_and_not_repeated(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest, match="half a character") as caught:
        make()
    assert "cat" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("arguments", [{"x": {None: 1}}, {"prompt": type("Text", (str,), {})("x")}])
def test_what_only_one_encoder_writes_is_refused(arguments: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written as JSON"):
        ModelRequest("a/b", arguments)


@pytest.mark.parametrize("created_at", [253402300800, 1e300, "253402300800"])
async def test_a_year_that_no_calendar_has(
    sandbox: Sandbox, client: Callable[..., Higgsfield], created_at: Any
) -> None:
    body = json.dumps({"id": "c1", "name": "Ann", "status": "completed", "created_at": created_at, "jobs": []}).encode()
    sandbox.script("submit", *[Fault.answer(200, body)] * 2)
    async with client("platform") as hf:
        task = await hf.characters.create("Ann", ["https://example.com/a.png"])
        assert (task.id, task.job_set and task.job_set.created_at) == ("c1", None)
        assert (await hf.submit(Keyframes(prompt="x"))).id == "c1"
