"""What the services list: AI models with their inputs, motions, styles, avatars, voices and sounds.

The models are those that the package has hints of, and the schemas of the fixed routes a data file beside this module.
The first item of each other list is a real one of the services' documentation; the rest are made up, as many as the
documentation counts.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Literal

import msgspec

from higgsfield_async._hints import documented

from ._validation import Schema


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One AI model of the platform."""

    id: str
    title: str
    output: Literal["image", "video", "audio"]
    #: The input's schema, as listed.
    input: dict[str, Any]
    #: The same, as checked.
    schema: Schema
    #: Whether ``GET /models`` has it: some that are live are not in it.
    listed: bool
    #: Whether it is billed by a description, not by a number.
    described: bool


#: Documented in July 2026, and answered with 404 in September.
_GONE = ("nano-banana", "bytedance/seedance/v1/lite/")
#: Live, with a page of its own, and not in the list.
_UNLISTED = frozenset({"higgsfield-ai/soul/cinema"})
_DESCRIBED = ("alibaba/wan-3.0", "bytedance/seedance-2.5")


def _models() -> Iterator[Model]:
    for hint in documented().values():
        if not hint.id.startswith(_GONE):
            yield Model(
                id=hint.id,
                title=hint.title,
                output=hint.output or "image",
                input=hint.schema,
                schema=msgspec.convert(hint.schema, Schema),
                listed=hint.source == "docs" and hint.id not in _UNLISTED,
                described=hint.id.startswith(_DESCRIBED),
            )
    # Its input is not documented; it stands here for the models that speak.
    speech: dict[str, Any] = {"type": "object", "properties": {"prompt": {"type": "string"}}}
    yield Model(
        id="qwen/qwen-audio-3.0-tts-flash",
        title="Qwen Audio 3.0 TTS Flash",
        output="audio",
        input=speech,
        schema=msgspec.convert(speech, Schema),
        listed=False,
        described=False,
    )


MODELS: Mapping[str, Model] = {model.id: model for model in _models()}
#: By path; `speak` stands for either path of the proxy's speech.
BODIES: Mapping[str, Schema] = msgspec.json.decode(
    resources.files(__package__ or "").joinpath("bodies.json").read_bytes(), type=dict[str, Schema]
)

_MOTIONS = (
    ("f226ac67-43d3-4726-ad9c-132608bda8b3", "Eyes In"),
    ("cd5bfd11-5a1a-46e0-9294-b22b0b733b1e", "Face Punch"),
    ("d2389a9a-91c2-4276-bc9c-c9e35e8fb85a", "General"),
    *(
        (str(uuid.uuid5(uuid.NAMESPACE_URL, name)), name)
        for move in ("Zoom", "Crane", "Dolly", "Orbit", "Pan", "Tilt", "Arc", "Whip")
        for way in ("In", "Out", "Left", "Right", "Up", "Down")
        for name in [f"{move} {way}"]
    ),
)
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _short_id(name: str) -> str:
    """22 characters of base 62, as the lists of the proxy have."""
    return "".join(_ALPHABET[byte % 62] for byte in hashlib.sha256(name.encode()).digest()[:22])


def _named(first_id: str, first: str, kind: str, total: int) -> list[tuple[str, str]]:
    return [(first_id, first), *((_short_id(f"{kind} {n}"), f"{kind} {n}") for n in range(2, total + 1))]


def proxy_lists(media: str) -> dict[str, list[dict[str, Any]]]:
    """The items behind each of ``/higgsfield/tpl/*``, with their files on ``media``."""

    def file(id: str, suffix: str) -> str:
        return f"{media}/templates/{id}{suffix}"

    return {
        "motions": [
            {
                "id": id,
                "name": name,
                "media": {"width": 320, "height": 202, "url": file(id, ".png"), "type": "animated"},
                "priority": -1,
                "tags": [],
                "params": None,
                "categories": ["vfx", "epic_camera_control"],
            }
            for id, name in _MOTIONS
        ],
        "avatar-presets": [
            {
                "id": id,
                "name": name,
                "media": {
                    "url": file(id, ".mp4"),
                    "type": "video",
                    "width": 500,
                    "height": 888,
                    "placeholder": "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=",
                    "thumbnail_url": file(id, ".png"),
                },
                "params": {"quality": "low", "chunks_count": 3},
            }
            for id, name in _named("7f1xkmlzvtCNncSqUYMTbU", "Selfie", "Avatar", 28)
        ],
        "voices": [
            {
                "id": id,
                "name": name,
                "gender": "male",
                "age": "middle age",
                "image_url": file(id, ".png"),
                "categories": ["reporter"],
                "voice_url": file(id, ".wav"),
                "waveform_url": file(id, ".json"),
                "is_gpt": False,
            }
            for id, name in _named("6pBuGbellIksHKibt0je2n", "Marston", "Voice", 92)
        ],
        "sounds": [
            {
                "id": id,
                "name": name,
                "description": "Low hum",
                "sound_url": file(id, ".wav"),
                "waveform_url": file(id, ".json"),
            }
            for id, name in _named("DwUP9LmFKqHsvvWQkjLE6", "room", "Sound", 11)
        ],
    }


def platform_lists(media: str) -> dict[str, list[dict[str, Any]]]:
    """The bare lists of v1, by path."""

    def item(id: str, name: str, suffix: str) -> dict[str, Any]:
        url = f"{media}/templates/{id}{suffix}"
        return {"id": id, "name": name, "description": f"{name} effect", "preview_url": url}

    def styles(version: str, total: int) -> list[dict[str, Any]]:
        names = [f"{version} Style {n}" for n in range(2, total + 1)]
        return [
            item("464ea177-8d40-4940-8d9d-b438bab269c7", "General", ".png"),
            *(item(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), name, ".png") for name in names),
        ]

    return {
        "/v1/motions": [
            {**item(id, name, ".mp4"), "start_end_frame": n % 2 == 0} for n, (id, name) in enumerate(_MOTIONS)
        ],
        "/v1/text2image/soul-styles": styles("Soul", 30),
        "/v1/text2image/soul-styles/v2": styles("Soul V2", 33),
    }


def marketing_presets(media: str) -> list[dict[str, Any]]:
    """The presets of the marketing studio, all of them made up."""
    names = [f"{look} {n}" for look in ("Clean Studio", "Street", "Hero Shot") for n in range(1, 16)]
    return [
        {
            "id": id,
            "name": name,
            "description": f"{name}, for a product",
            "preview_url": f"{media}/templates/{id}.png",
        }
        for name in names
        for id in [str(uuid.uuid5(uuid.NAMESPACE_URL, name))]
    ]
