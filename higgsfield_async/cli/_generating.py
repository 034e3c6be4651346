"""The commands that make one thing each."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Group, Parameter

from higgsfield_async._errors import InvalidRequest
from higgsfield_async.cli._building import Fields, arguments_of, request_of, service_of
from higgsfield_async.cli._making import Making, make
from higgsfield_async.cli._options import Options

Made: TypeAlias = Coroutine[Any, Any, int]
_Images = Annotated[tuple[str, ...], Parameter(name=["--image", "-i"])]
_Enhance = Annotated[bool | None, Parameter(name="--enhance-prompt", negative="--no-enhance-prompt")]


@Parameter(name="*", group=Group("Making", sort_key=90))
@dataclass(frozen=True, kw_only=True)
class One:
    """What a command takes that makes one thing."""

    key: str | None = None
    """Names it in the journal: the same key again is the same generation, and is not paid for again."""

    dry_run: Annotated[bool, Parameter(show_default=False)] = False
    """Say what it would cost, and make nothing."""


def _made(kind: str, fields: Fields, making: Making, one: One, options: Options) -> Made:
    # Before there is a loop: Ctrl-C ends the reading of a prompt.
    if isinstance(prompt := fields.get("prompt"), str):
        fields = {**fields, "prompt": _words(prompt)}
    service = service_of(options, making.made_by)
    request = request_of(kind, fields, service)
    if not one.dry_run:
        making.prepare()
    return make(request, making, options, key=one.key, dry_run=one.dry_run)


def _words(text: str) -> str:
    if not text.startswith("@") or text.startswith("@@"):
        return text.removeprefix("@")
    try:
        return sys.stdin.read().strip() if text == "@-" else Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        msg = f"The prompt {text} cannot be read: {why}. A prompt that begins with @ is written @@."
        raise InvalidRequest(msg) from None


def generate(
    prompt: str,
    /,
    *,
    images: _Images,
    model: Literal["lite", "turbo", "standard"] = "turbo",
    motion: str | None = None,
    motion_strength: float | None = None,
    enhance: _Enhance = None,
    seed: int | None = None,
    width: int | None = None,
    height: int | None = None,
    making: Making = Making(),
    one: One = One(),
    options: Options = Options(),
) -> Made:
    """Make a video from a picture, on either service.

    Parameters
    ----------
    prompt
        What happens in it; @FILE reads it from a file, @- from the standard input.
    images
        A file, or an address; on the proxy, a second one is the last frame.
    model
        The quality, and the price.
    motion
        The id of a motion, as `higgsfield-async motions` shows it; the proxy wants one.
    motion_strength
        On the platform, 0 to 1; 1 without it.
    enhance
        Whether the service rewrites the prompt.
    seed
        1 to 1,000,000.
    width
        On the proxy, in pixels.
    height
        On the proxy, in pixels.
    """
    fields = {
        "prompt": prompt,
        "images": [*images],
        "model": model,
        "motion_id": motion,
        "motion_strength": motion_strength,
        "enhance_prompt": enhance,
        "seed": seed,
        "width": width,
        "height": height,
    }
    return _made("generate", fields, making, one, options)


def speak(
    prompt: str,
    /,
    *,
    images: _Images,
    audio: str | None = None,
    text: str | None = None,
    voice: str | None = None,
    sound: str | None = None,
    preset: str | None = None,
    quality: Literal["mid", "high"] | None = None,
    duration: Literal[5, 10, 15] | None = None,
    enhance: _Enhance = None,
    seed: int | None = None,
    width: int | None = None,
    height: int | None = None,
    making: Making = Making(),
    one: One = One(),
    options: Options = Options(),
) -> Made:
    """Make somebody in a picture speak: a recording on either service, words on the proxy.

    Parameters
    ----------
    prompt
        How it is spoken; @FILE reads it from a file, @- from the standard input.
    images
        Who speaks: a file, or an address.
    audio
        The recording: an address, or on the platform a WAV file.
    text
        On the proxy, the words.
    voice
        On the proxy, the id of a voice, as `higgsfield-async voices` shows it.
    sound
        On the proxy, the id of a sound to hear behind it.
    preset
        On the proxy, the id of an avatar preset.
    quality
        On the platform.
    duration
        On the platform, in seconds.
    enhance
        On the platform, whether it rewrites the prompt.
    seed
        On the platform, 1 to 1,000,000.
    width
        On the proxy, in pixels.
    height
        On the proxy, in pixels.
    """
    fields = {
        "prompt": prompt,
        "images": [*images],
        "audio": audio,
        "text": text,
        "voice_id": voice,
        "sound_id": sound,
        "avatar_preset_id": preset,
        "quality": quality,
        "duration": duration,
        "enhance_prompt": enhance,
        "seed": seed,
        "width": width,
        "height": height,
    }
    return _made("speak", fields, making, one, options)


def ad(
    *,
    template: str,
    images: _Images,
    size: str | None = None,
    making: Making = Making(),
    one: One = One(),
    options: Options = Options(),
) -> Made:
    """Make an advertisement from a picture of a product, on the proxy.

    Parameters
    ----------
    template
        The last part of the address of a template on https://higgsfield.ai/ads.
    images
        The product: a file, or an address.
    size
        Such as 1024x1024.
    """
    fields = {"product_placement_sample_id": template, "images": [*images], "size": size}
    return _made("ad", fields, making, one, options)


def keyframes(
    prompt: str,
    /,
    *,
    aspect_ratio: Literal["3:4", "2:3", "3:2", "9:16", "1:1", "4:3", "16:9"] | None = None,
    count: int | None = None,
    quality: Literal["720p", "1600p"] | None = None,
    seed: int | None = None,
    images: _Images = (),
    making: Making = Making(),
    one: One = One(),
    options: Options = Options(),
) -> Made:
    """Make images that belong together, on the platform.

    Parameters
    ----------
    prompt
        What to make; @FILE reads it from a file, @- from the standard input.
    aspect_ratio
        3:4 without it.
    count
        How many; 1 without it.
    quality
        720p without it.
    seed
        1 to 1,000,000.
    images
        Pictures to go by, up to 8: files, or addresses.
    """
    fields = {
        "prompt": prompt,
        "aspect_ratio": aspect_ratio,
        "count": count,
        "quality": quality,
        "seed": seed,
        "image_references": [*images] or None,
    }
    return _made("keyframes", fields, making, one, options)


def soul(
    prompt: str,
    /,
    *,
    size: str = "1536x1536",
    style: str | None = None,
    style_strength: float | None = None,
    quality: Literal["720p", "1080p"] | None = None,
    batch_size: Literal[1, 4] | None = None,
    character: str | None = None,
    character_strength: float | None = None,
    image: Annotated[str | None, Parameter(name=["--image", "-i"])] = None,
    enhance: _Enhance = None,
    seed: int | None = None,
    making: Making = Making(),
    one: One = One(),
    options: Options = Options(),
) -> Made:
    """Make a photograph, on the platform.

    Parameters
    ----------
    prompt
        What to make; @FILE reads it from a file, @- from the standard input.
    size
        One of thirteen; a wrong one is told all of them.
    style
        The id of a style, as `higgsfield-async styles` shows it.
    style_strength
        0 to 1; 1 without it.
    quality
        720p or 1080p.
    batch_size
        How many.
    character
        The UUID of a trained character.
    character_strength
        0 to 1; 1 without it.
    image
        A picture to go by: a file, or an address.
    enhance
        Whether the service rewrites the prompt.
    seed
        1 to 1,000,000.
    """
    fields = {
        "prompt": prompt,
        "width_and_height": size,
        "style_id": style,
        "style_strength": style_strength,
        "quality": quality,
        "batch_size": batch_size,
        "custom_reference_id": character,
        "custom_reference_strength": character_strength,
        "image_reference": image,
        "enhance_prompt": enhance,
        "seed": seed,
    }
    return _made("soul", fields, making, one, options)


def model(
    id: str,  # noqa: A002  # its name in the help
    /,
    *pairs: str,
    making: Making = Making(),
    one: One = One(),
    options: Options = Options(),
) -> Made:
    """Make what any AI model of the platform makes.

    Parameters
    ----------
    id
        Such as higgsfield-ai/dop/turbo; `higgsfield-async models` lists them.
    pairs
        key=value: the value as JSON where it is some, else as text. key=@FILE is a file, which is uploaded; key=@@text
        is a text that begins with @.
    """
    fields = {"model_id": id, "arguments": arguments_of(pairs)}
    return _made("model", fields, making, one, options)
