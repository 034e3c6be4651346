"""Requests out of what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from higgsfield_async import (
    Ad,
    DopVideo,
    GenerationRequest,
    HiggsfieldError,
    ImageToVideo,
    InvalidRequest,
    Keyframes,
    ModelRequest,
    Speech,
    TalkingHead,
    Unsupported,
)
from higgsfield_async._requests import DopMotion, Speak
from higgsfield_async.cli._building import arguments_of, fields_of_cells, request_of

ADDRESS = "https://images.example.com/cat.jpg"


@pytest.mark.parametrize(
    ("kind", "service", "fields", "request_"),
    [
        (
            "generate",
            "proxy",
            {"model": "lite", "motion_id": "zoom", "prompt": "p", "images": [ADDRESS, "cat.png"], "width": 64},
            ImageToVideo(model="lite", motion_id="zoom", prompt="p", images=[ADDRESS, Path("cat.png")], width=64),
        ),
        (
            "generate",
            "platform",
            {"model": "lite", "motion_id": "zoom", "prompt": "p", "images": ["cat.png"], "seed": None},
            DopVideo(
                model="dop-lite", motions=[DopMotion(id="zoom", strength=1)], prompt="p", images=[Path("cat.png")]
            ),
        ),
        (
            "generate",
            "platform",
            {"model": "dop-preview", "motion_id": "zoom", "motion_strength": 0.5, "prompt": "p", "images": [ADDRESS]},
            DopVideo(model="dop-preview", motions=[DopMotion(id="zoom", strength=0.5)], prompt="p", images=[ADDRESS]),
        ),
        (
            "speak",
            "proxy",
            {"prompt": "p", "images": [ADDRESS], "text": "Hello", "voice_id": "anna", "avatar_preset_id": "selfie"},
            Speech(prompt="p", images=[ADDRESS], speak=Speak(text="Hello", voice_id="anna"), avatar_preset_id="selfie"),
        ),
        (
            "speak",
            "proxy",
            {"prompt": "p", "images": [ADDRESS], "audio": ADDRESS, "avatar_preset_id": "selfie"},
            Speech(prompt="p", images=[ADDRESS], audio=ADDRESS, avatar_preset_id="selfie"),
        ),
        (
            "speak",
            "platform",
            {"prompt": "p", "images": ["cat.png"], "audio": "words.wav", "duration": 5},
            TalkingHead(prompt="p", image=Path("cat.png"), audio=Path("words.wav"), duration=5),
        ),
        (
            "speak",
            "platform",
            {"prompt": "p", "image": ADDRESS, "audio": ADDRESS},
            TalkingHead(prompt="p", image=ADDRESS, audio=ADDRESS),
        ),
        (
            "ad",
            None,
            {"product_placement_sample_id": "box", "images": ["data:image/png;base64,aGVsbG8="]},
            Ad(product_placement_sample_id="box", images=["data:image/png;base64,aGVsbG8="]),
        ),
        ("keyframes", None, {"prompt": "-5 degrees", "count": 2.0}, Keyframes(prompt="-5 degrees", count=2)),
    ],
)
def test_a_request_is_what_was_typed(
    kind: str, service: Literal["proxy", "platform"] | None, fields: dict[str, object], request_: GenerationRequest
) -> None:
    assert request_of(kind, fields, service) == request_


@pytest.mark.parametrize(
    ("kind", "service", "fields", "error", "words"),
    [
        ("film", "proxy", {}, InvalidRequest, "'film' is no type of request"),
        ("generate", None, {}, Unsupported, "--made-by proxy, or --made-by platform"),
        ("generate", "proxy", {"motion_strength": 1}, Unsupported, "leave --motion-strength out"),
        ("generate", "platform", {"height": 64}, Unsupported, "leave --width and --height out"),
        ("generate", "platform", {"prompt": "p", "images": [ADDRESS]}, InvalidRequest, "DopVideo.model: is required"),
        ("speak", "proxy", {"seed": 1}, Unsupported, "have no seed"),
        ("speak", "platform", {"text": "Hello"}, Unsupported, "speaks a recording"),
        ("speak", "platform", {"avatar_preset_id": "selfie"}, Unsupported, "leave --preset"),
        ("speak", "platform", {"images": [ADDRESS, ADDRESS]}, InvalidRequest, "one picture"),
        ("keyframes", "platform", {"prompt": "p", "colour": "red"}, InvalidRequest, "colour"),
        ("model", "platform", {}, InvalidRequest, "arguments"),
    ],
)
def test_what_makes_none_is_said(
    kind: str,
    service: Literal["proxy", "platform"] | None,
    fields: dict[str, object],
    error: type[HiggsfieldError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        request_of(kind, fields, service)


def test_the_arguments_of_a_model_are_json_where_they_are_some() -> None:
    typed = ("prompt=a cat", "seed=17", "loud=true", 'tags=["a","@b.png"]', "image_url=@cat.png", "handle=@@cat", "x=")
    request = request_of("model", {"model_id": "some/model", "arguments": arguments_of(typed)}, None)
    assert request == ModelRequest(
        "some/model",
        {
            "prompt": "a cat",
            "seed": 17,
            "loud": True,
            "tags": ["a", Path("b.png")],
            "image_url": Path("cat.png"),
            "handle": "@cat",
            "x": "",
        },
    )


@pytest.mark.parametrize(
    ("typed", "words"), [(("prompt",), "key=value"), (("=x",), "key=value"), (("a=1", "a=2"), "twice")]
)
def test_an_argument_that_is_none_is_said(typed: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        arguments_of(typed)


@pytest.mark.parametrize(
    ("kind", "cells", "fields"),
    [
        ("keyframes", {"prompt": "17", "count": "3", "seed": ""}, {"prompt": "17", "count": 3}),
        ("keyframes", {"image_references": "a.png"}, {"image_references": ["a.png"]}),
        ("keyframes", {"image_references": '["a.png", "b.png"]'}, {"image_references": ["a.png", "b.png"]}),
        ("generate", {"images": "[a.png", "motion_strength": "0.5"}, {"images": ["[a.png"], "motion_strength": 0.5}),
        ("soul", {"image_reference": "a.png"}, {"image_reference": "a.png"}),
        ("nothing", {"prompt": "x", "count": "3"}, {"prompt": "x", "count": 3}),
        (
            "model",
            {"model_id": "1", "seed": "3", "prompt": "x"},
            {"model_id": "1", "arguments": {"seed": 3, "prompt": "x"}},
        ),
        ("model", {"arguments": '{"seed": 3}', "prompt": "x"}, {"arguments": {"seed": 3, "prompt": "x"}}),
        ("model", {"arguments": "seed"}, {"arguments": "seed"}),
    ],
)
def test_cells_are_what_their_fields_take(kind: str, cells: dict[str, str], fields: dict[str, object]) -> None:
    assert fields_of_cells(kind, cells) == fields
