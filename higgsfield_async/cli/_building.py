"""Requests out of what was typed: on the command line, in a line of JSON, or in the cells of a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, cast

import msgspec

from higgsfield_async._errors import ConfigurationError, InvalidRequest, Unsupported
from higgsfield_async._requests import (
    Ad,
    CharacterTraining,
    DopVideo,
    GenerationRequest,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    Soul,
    Speech,
    TalkingHead,
    read_request,
)
from higgsfield_async._transports import Service, transport_from
from higgsfield_async.cli._options import Options, database_url

Fields: TypeAlias = Mapping[str, object]

# By the names that rows of a batch give them in `type`. `generate` and `speak` are what the service makes of them.
KINDS: Mapping[str, tuple[type[GenerationRequest], ...]] = {
    "generate": (ImageToVideo, DopVideo),
    "speak": (Speech, TalkingHead),
    "ad": (Ad,),
    "keyframes": (Keyframes,),
    "soul": (Soul,),
    "model": (ModelRequest,),
    "character": (CharacterTraining,),
}
_LISTS = frozenset({"images", "image_references"})
_MEDIA = frozenset({*_LISTS, "image", "image_reference", "audio"})
_ADDRESSES = ("http://", "https://", "data:")


def service_of(options: Options, made_by: Service | None) -> Service | None:
    """The service that makes it, where that is known: of a cluster, only what the command was told.

    Raises:
        ConfigurationError: There is no key, or there are two; or a command says what the environment does not.
    """
    if database_url(options) is not None:
        return made_by
    found = cast("Service", transport_from(os.environ, options.service).name)
    if made_by not in (None, found):
        msg = f"The keys in the environment are the {found}'s: leave --made-by out, which is for clusters."
        raise ConfigurationError(msg)
    return found


def request_of(kind: str, fields: Fields, service: Service | None) -> GenerationRequest:
    """A request, from fields that are not given where they are None.

    Args:
        kind: One of `KINDS`.
        fields: As the request has them; a `generate` and a `speak` have those of both services.
        service: Which makes it, where that is known.

    Raises:
        InvalidRequest: There is no such kind, or a field is missing, unknown or wrong.
        Unsupported: This service has no such thing.
    """
    if kind not in KINDS:
        msg = f"{kind!r} is no type of request: give one of {', '.join(KINDS)}."
        raise InvalidRequest(msg)
    given = {name: value for name, value in fields.items() if value is not None}
    if kind in ("generate", "speak"):
        if service is None:
            msg = f"A cluster does not say which service its workers use, and {kind} is another request on each: "
            raise Unsupported(msg + "name it with --made-by proxy, or --made-by platform.")
        one, other = KINDS[kind]
        given = (_video if kind == "generate" else _speech)(given, service)
        return _read(one if service == "proxy" else other, given)
    return _read(KINDS[kind][0], given)


def _read(kind: type[GenerationRequest], given: dict[str, object]) -> GenerationRequest:
    if kind is ModelRequest:
        if "arguments" in given:
            given["arguments"] = with_files(given["arguments"])
        return read_request(ModelRequest, given)
    return read_request(kind, {name: source(value) if name in _MEDIA else value for name, value in given.items()})


def _video(given: dict[str, object], service: Service) -> dict[str, object]:
    if service == "proxy":
        _refuse(given, "motion_strength", "The proxy's motions have one strength: leave --motion-strength out.")
        return given
    for name in ("width", "height"):
        _refuse(given, name, "The platform chooses the size by the picture: leave --width and --height out.")
    strength = given.pop("motion_strength", 1.0)
    if (motion := given.pop("motion_id", None)) is not None:
        given["motions"] = [{"id": motion, "strength": strength}]
    if isinstance(model := given.get("model"), str):
        given["model"] = f"dop-{model.removeprefix('dop-')}"
    return given


def _speech(given: dict[str, object], service: Service) -> dict[str, object]:
    words = {name: given.pop(name) for name in ("text", "voice_id", "sound_id") if name in given}
    if service == "proxy":
        for name in ("quality", "duration", "enhance_prompt", "seed"):
            _refuse(given, name, f"The proxy's avatars have no {name.replace('_', ' ')}: leave it out.")
        return {**given, "speak": words} if words else given
    if words:
        msg = "The platform speaks a recording, and no text: give --audio, and neither --text, --voice nor --sound."
        raise Unsupported(msg)
    for name in ("avatar_preset_id", "width", "height"):
        _refuse(given, name, "The platform speaks with the picture itself: leave --preset, --width and --height out.")
    images = given.pop("images", None)
    if isinstance(images, list):
        if len(cast("list[object]", images)) != 1:
            msg = "The platform takes one picture of who speaks."
            raise InvalidRequest(msg)
        [given["image"]] = cast("list[object]", images)
    return given


def _refuse(given: dict[str, object], name: str, why: str) -> None:
    if name in given:
        raise Unsupported(why)


def source(value: object) -> object:
    """Media: an address and a data URI are what they are, and every other text is the name of a file."""
    if isinstance(value, list):
        return [source(each) for each in cast("list[object]", value)]
    if isinstance(value, str) and not value.startswith(_ADDRESSES):
        return Path(value)
    return value


def with_files(value: object) -> object:
    """Arguments of a model: a text that begins with `@` names a file, and `@@` stands for an `@`."""
    match value:
        case dict():
            return {name: with_files(each) for name, each in cast("dict[str, object]", value).items()}
        case list():
            return [with_files(each) for each in cast("list[object]", value)]
        case str() if value.startswith("@@"):
            return value[1:]
        case str() if value.startswith("@"):
            return Path(value[1:])
        case _:
            return value


def value_of(text: str) -> object:
    """What a text is: JSON where it is some, else itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def arguments_of(pairs: tuple[str, ...]) -> dict[str, object]:
    """The arguments of a model, from `key=value`.

    Raises:
        InvalidRequest: One has no `=`, or no key.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        key, mark, text = pair.partition("=")
        if not key or not mark:
            msg = f"{pair!r} is no argument: write key=value."
            raise InvalidRequest(msg)
        if key in found:
            msg = f"The argument {key} is given twice: write several values as JSON, {key}='[…]'."
            raise InvalidRequest(msg)
        found[key] = value_of(text)
    return found


def fields_of_cells(kind: str, cells: Mapping[str, str]) -> dict[str, object]:
    """Fields, from the cells of a table: an empty one is not given. Of a model, the other columns are its arguments."""
    given = {name: text for name, text in cells.items() if text}
    if kind == "model":
        arguments = {name: value_of(text) for name, text in given.items() if name not in ("model_id", "arguments")}
        fields: dict[str, object] = {"model_id": given["model_id"]} if "model_id" in given else {}
        whole = value_of(given.get("arguments", "{}"))
        if isinstance(whole, dict):
            whole = {**cast("Fields", whole), **arguments}
        return {**fields, "arguments": whole}
    return {name: _of_cell(KINDS.get(kind, ()), name, text) for name, text in given.items()}


def _of_cell(kinds: tuple[type[GenerationRequest], ...], name: str, text: str) -> object:
    if name in _MEDIA:
        value = value_of(text) if text.startswith("[") else text
        return [value] if name in _LISTS and isinstance(value, str) else value
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            if field.name == name and _fits(text, field.type):
                return text
    return value_of(text)


def _fits(text: str, kind: object) -> bool:
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True
