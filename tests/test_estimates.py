"""What a generation will cost: the service's own figure, or the published one, and never a submit."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from higgsfield_async import (
    Ad,
    ArgumentWarning,
    AuthenticationFailed,
    ClientClosed,
    DopVideo,
    Estimate,
    GenerationRequest,
    Higgsfield,
    ImageToVideo,
    InvalidRequest,
    Keyframes,
    MalformedResponse,
    ModelRequest,
    PlatformTransport,
    ProxyTransport,
    Soul,
    Speak,
    Speech,
    TalkingHead,
    Unsupported,
)
from higgsfield_async._http import Call, HttpResponse
from higgsfield_async.sandbox import Fault, Sandbox
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V2

Client = Callable[..., Higgsfield]
WAV = "https://a.b/c.wav"


def video(model: Any) -> ImageToVideo:
    return ImageToVideo(model=model, motion_id=MOTION, prompt=PROMPT, images=[IMAGE])


POINTS: list[tuple[GenerationRequest, int]] = [
    (video("lite"), 5),
    (video("turbo"), 7),
    (video("standard"), 10),
    (Ad(product_placement_sample_id="x", images=[IMAGE]), 13),
    (Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], audio=WAV), 50),
    (Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], speak=Speak(text="x", voice_id="v")), 50),
]


@pytest.mark.parametrize(("request_", "points"), POINTS)
async def test_on_the_proxy_it_is_what_is_published_and_what_is_charged(
    sandbox: Sandbox, client: Client, request_: GenerationRequest, points: int
) -> None:
    async with client(PROXY) as hf:
        found = await hf.estimate(request_)
        assert not sandbox.received
        assert (found.points, found.credits, found.usd, found.text) == (Decimal(points), None, None, None)
        assert found.source == "https://open-hk.com/docs/en/lab/higgsfield-video.html, read on 2026-11-22"
        before = sandbox.points
        await hf.submit(request_)
    assert before - sandbox.points == points


async def test_the_platform_is_asked_and_nothing_is_made(sandbox: Sandbox, client: Client) -> None:
    credit = sandbox.credits
    sandbox.script("estimate", Fault.answer(500), Fault.reset(), Fault.answer(429))
    async with client(V2) as hf:
        found = await hf.estimate(V2.request)
        assert await hf.estimate(V2.request) == found
        assert found.source == f"{sandbox.platform_url}/estimate/higgsfield-ai/dop/turbo"
        assert not sandbox.generations
        assert sandbox.credits == credit
        assert len(sandbox.received) == 5
        for received in sandbox.received:
            assert received.path == "/estimate/higgsfield-ai/dop/turbo"
            assert "Idempotency-Key" not in received.headers
            assert received.json() == {"prompt": PROMPT, "image_url": IMAGE}
        task = await hf.submit(V2.request)
        await task.wait()
    assert found.credits is not None
    assert credit - sandbox.credits == found.credits
    assert found.usd is not None
    assert (found.points, found.text) == (None, None)


async def test_a_price_in_words(client: Client) -> None:
    async with client(V2) as hf:
        found = await hf.estimate(ModelRequest("alibaba/wan-3.0/text-to-video", {"prompt": "x"}))
    assert (found.credits, found.usd) == (None, None)
    assert found.text
    assert "billed by the second" in found.text


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("proxy", V2.request, Unsupported, "cannot make ModelRequest"),
    ("proxy", "a cat", InvalidRequest, "no request but str"),
    (
        "proxy",
        ImageToVideo(model="lite", motion_id="m", prompt="x", images=["A" * 10_500_000]),
        InvalidRequest,
        "10 MiB",
    ),
    ("platform", PROXY.request, Unsupported, "cannot make ImageToVideo"),
    ("platform", None, InvalidRequest, "no request but NoneType"),
    ("platform", Keyframes(prompt="x"), Unsupported, "its v1, which makes Keyframes, cannot"),
    ("platform", Soul(prompt="x", width_and_height="1536x1536"), Unsupported, "estimates only a ModelRequest"),
    ("platform", DopVideo(model="dop-lite", prompt="x", images=[IMAGE]), Unsupported, "estimates only"),
    ("platform", TalkingHead(prompt="x", image=IMAGE, audio=WAV), Unsupported, "estimates only"),
]


@pytest.mark.parametrize(("service", "request_", "kind", "words"), REFUSED)
async def test_what_has_no_estimate_is_refused_before_anything_is_sent(
    sandbox: Sandbox, client: Client, service: str, request_: Any, kind: type[Exception], words: str
) -> None:
    async with client(service) as hf:
        with pytest.raises(kind, match=words):
            await hf.estimate(request_)
    assert not sandbox.received


async def test_the_services_own_refusals(sandbox: Sandbox, client: Client) -> None:
    with pytest.warns(ArgumentWarning, match="image_url: must be an http"):
        wrong = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": 3})
    async with client(V2) as hf:
        with pytest.raises(InvalidRequest) as caught:
            await hf.estimate(wrong)
        assert caught.value.errors[0].loc == ("body", "image_url")
        sandbox.script("estimate", Fault.answer(401, b'{"detail":"Invalid credentials"}'))
        with pytest.raises(AuthenticationFailed):
            await hf.estimate(V2.request)
        sandbox.script("estimate", *[Fault.ok_html()] * 5)
        with pytest.raises(MalformedResponse) as odd:
            await hf.estimate(V2.request)
        assert odd.value.charged == "no"


async def test_a_closed_client_estimates_nothing(client: Client) -> None:
    for surface in (PROXY, V2):
        hf = client(surface)
        async with hf:
            pass
        with pytest.raises(ClientClosed):
            await hf.estimate(surface.request)


ASKED = PlatformTransport("i", "s").estimate(V2.request)


def read(body: object) -> Estimate:
    assert isinstance(ASKED, Call)
    found = ASKED.decode(HttpResponse(200, {}, json.dumps(body).encode()))
    assert isinstance(found, Estimate)
    return found


PRICES: list[tuple[dict[str, Any], tuple[str | None, str | None, str | None]]] = [
    ({"credits": "0.050", "usd": "0.004", "discount": None}, ("0.050", "0.004", None)),
    ({"credits": "1.5"}, ("1.5", None, None)),
    ({"usd": "0"}, (None, "0", None)),
    ({"credits": 3, "usd": 0.25}, ("3", "0.25", None)),
    (
        {"type": "description", "pricing_description": "By the second: see “Pricing”.\n"},
        (None, None, "By the second: see “Pricing”.\n"),
    ),
    ({"credits": "from 2", "usd": "0.1"}, (None, "0.1", "credits: from 2")),
    ({"credits": "NaN", "usd": "-1"}, (None, None, "credits: NaN; usd: -1")),
    ({"credits": "1e3", "usd": True, "pricing_description": "x"}, (None, None, "x; credits: 1e3")),
    ({"credits": {"a": 1}, "usd": "٣", "pricing_description": ["x"]}, (None, None, "usd: ٣")),
]


@pytest.mark.parametrize(("body", "price"), PRICES)
def test_prices_of_every_form(body: dict[str, Any], price: tuple[str | None, str | None, str | None]) -> None:
    found = read(body)
    credit, usd, text = price
    assert found.credits == (Decimal(credit) if credit else None)
    assert found.usd == (Decimal(usd) if usd else None)
    assert found.text == text


@pytest.mark.parametrize(
    "body", [{}, {"credits": None}, {"credits": "", "pricing_description": ""}, [], "x", {"usd": []}]
)
def test_an_answer_without_a_price(body: object) -> None:
    with pytest.raises(MalformedResponse, match="no price|expected"):
        read(body)


def test_an_estimate_can_never_be_a_submit() -> None:
    assert isinstance(ProxyTransport("hk-key").estimate(PROXY.request), Estimate)
    assert isinstance(ASKED, Call)
    assert (ASKED.submits, ASKED.key, ASKED.request.method) == (False, None, "POST")
    with pytest.raises(InvalidRequest):  # so that no path of a submit is that of an estimate, nor the other way about
        ModelRequest("estimate/higgsfield-ai/dop/turbo", {})
