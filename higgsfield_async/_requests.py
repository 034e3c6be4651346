"""What a caller wants, typed, and checked as it is written down: before any I/O and before any money."""

from __future__ import annotations

import copy
import functools
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from higgsfield_async import _hints
from higgsfield_async._domain import Upload
from higgsfield_async._errors import ArgumentWarning, FieldError, InvalidRequest
from higgsfield_async._media import Arguments, MediaSource, Place, Sort, arguments_of, copied, is_local

logger = logging.getLogger("higgsfield_async.requests")

# Forms of strings, and how a message calls them. They stand in JSON schemas too, where a pattern is ECMAScript's: that
# has another `\s` than Python, whose `$` alone lets a last newline pass.
_SPACES = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_END = r"$(?!\n)"
# What no host may have in it (https://url.spec.whatwg.org/#forbidden-host-code-point); an IPv6 address has brackets.
_HOST = rf"(\[[0-9a-fA-F:.]+\](:[0-9]{{1,5}})?|[^{_SPACES}/?#\[\]<>^|\\]+)"
_URL = rf"^https?://{_HOST}([/?#][^{_SPACES}]*)?{_END}"
# The proxy takes an address, or the picture itself in base64: as a data URI or bare. Forty such characters tell a bare
# one from a file's name; the rest is not read here, since it may be megabytes.
_PICTURE = rf"{_URL}|^(data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]{{4}}|[A-Za-z0-9+/]{{40}})"
# The platform takes an address of at most 2083 characters (a pydantic HttpUrl); a data URI is uploaded for it.
_IMAGE, _AUDIO = (
    rf"^(?![\s\S]{{2084}})https?://{_HOST}([/?#][^{_SPACES}]*)?{_END}|^data:{sort}/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]{{4}}"
    for sort in ("image", "audio")
)
_IDENTIFIER = rf"^[^{_SPACES}/]+{_END}"
_UUID = rf"^[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}{_END}"
_SIZE = rf"^[1-9][0-9]*x[1-9][0-9]*{_END}"
_MODEL_ID = rf"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*{_END}"
# The platform's own rule.
_IDEMPOTENCY_KEY = rf"^[\x21-\x7e]{{1,255}}{_END}"
_FORMS = {
    _IDEMPOTENCY_KEY: "1 to 255 visible ASCII characters without spaces",
    _URL: "an http(s) address",
    _PICTURE: "an http(s) address, a data URI or base64",
    _IMAGE: "an http(s) address of at most 2083 characters, or an image as a data URI",
    _AUDIO: "an http(s) address of at most 2083 characters, or a recording as a data URI",
    _IDENTIFIER: "an id",
    _UUID: "a UUID",
    _SIZE: "a size such as 1024x1024",
    _MODEL_ID: "a model id such as higgsfield-ai/dop/turbo",
}

# Both services give 1..1,000,000 for every seed of these requests, and call anything outside an error.
Seed: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
# The limit of the platform's `image_url` (a pydantic HttpUrl).
Url: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2083, pattern=_URL)]
if TYPE_CHECKING:
    # What a caller may give. Below is what it is as text, and in JSON; the rest is put aside while a field is checked.
    Picture: TypeAlias = MediaSource
    Image: TypeAlias = MediaSource
    Audio: TypeAlias = MediaSource
else:
    Picture = Annotated[str, Meta(pattern=_PICTURE)]
    Image = Annotated[str, Meta(pattern=_IMAGE)]
    Audio = Annotated[str, Meta(pattern=_AUDIO)]
Identifier: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200, pattern=_IDENTIFIER)]
Uuid: TypeAlias = Annotated[str, Meta(pattern=_UUID)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Pixels: TypeAlias = Annotated[int, Meta(ge=1)]
ModelId: TypeAlias = Annotated[str, Meta(max_length=200, pattern=_MODEL_ID)]


def _in_words(error: msgspec.ValidationError) -> str:
    message = str(error)
    for pattern, form in _FORMS.items():
        message = message.replace(f"`str` matching regex {pattern!r}", form)
    return message


class _Checked(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Checks every field against its type and limits, and keeps prompts out of its `repr`."""

    shown: ClassVar[frozenset[str]] = frozenset()
    # What a JSON schema leaves out: it is taken from JSON all the same.
    untold: ClassVar[frozenset[str]] = frozenset()
    # What a JSON schema says beyond the fields' types.
    rules: ClassVar[Mapping[str, Any]] = {}
    # The fields that take media, and of which sort; and whether the service takes base64 in their place.
    media: ClassVar[Mapping[str, Sort]] = {}
    takes_base64: ClassVar[bool] = False

    def __post_init__(self) -> None:
        wrong: list[FieldError] = []
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            aside: dict[int, MediaSource] = {}
            if field.name in self.media:
                value, aside = _put_aside(value)
            try:
                value = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                wrong.append(FieldError((field.name,), _in_words(error), "value_error"))
            else:
                if not _is_writable(value):
                    wrong.append(FieldError((field.name,), "has half a character in it (a surrogate)", "value_error"))
                value = _put_back(value, aside) if aside else value
                # What was checked is what is kept: a copy of a list, a struct made of a dict.
                msgspec.structs.force_setattr(self, field.name, value)
        if wrong:
            self._refuse(*wrong)

    def _refuse(self, *errors: FieldError) -> None:
        raise _refusal(type(self), *errors)

    # pydantic asks a type for these two. It is answered in plain dicts, so that nothing of it is imported here.

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, Any]:
        def validate(value: object) -> object:
            try:
                return value if isinstance(value, cls) else read_request(cls, value)
            except InvalidRequest as error:
                # What pydantic takes for a refusal.
                raise ValueError(str(error)) from error

        return {
            "type": "function-plain",
            "function": {"type": "no-info", "function": validate},
            "serialization": {"type": "function-plain", "function": _plain},
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, _core_schema: object, _handler: object) -> dict[str, Any]:
        return json_schema(cls)

    def __repr__(self) -> str:
        fields = (
            f"{name}={value!r}" if name in self.shown or isinstance(value, (bool, int, float)) else f"{name}=…"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not None
        )
        return f"{type(self).__name__}({', '.join(fields)})"


def _is_writable(value: object) -> bool:
    """Whether text, or a list of texts, can be written as UTF-8: half of a pair of surrogates cannot."""
    if isinstance(value, str):
        try:
            return value.isascii() or bool(value.encode())
        except UnicodeEncodeError:
            return False
    return not isinstance(value, list) or all(map(_is_writable, cast("list[object]", value)))


_fields = functools.cache(msgspec.structs.fields)

CheckedT = TypeVar("CheckedT", bound=_Checked)

# Passes for any media while a field is checked; alone in its field, its index is this one.
_STAND_IN, _ALONE = "https://a", -1
_WEB = ("http://", "https://")


def _put_aside(value: Any) -> tuple[Any, dict[int, MediaSource]]:
    if not isinstance(value, (list, tuple)):
        return (_STAND_IN, {_ALONE: value}) if type(value) is not str and is_local(value) else (value, {})
    given = cast("Sequence[Any]", value)
    aside = {index: each for index, each in enumerate(given) if type(each) is not str and is_local(each)}
    return [_STAND_IN if index in aside else each for index, each in enumerate(given)] if aside else given, aside


def _put_back(value: Any, aside: Mapping[int, MediaSource]) -> Any:
    if _ALONE in aside:
        return aside[_ALONE]
    return [aside.get(index, each) for index, each in enumerate(value)]


def _plain(request: _Checked) -> Any:
    """A request as JSON. What lies on this side alone is told as `…`: nobody could read it there."""
    places, _ = media_in(request)
    return msgspec.to_builtins(filled(request, places, [_told(place.value) for place in places]))


def _told(value: MediaSource) -> str:
    return value if isinstance(value, str) else value.url if isinstance(value, Upload) else "…"


def media_in(request: _Checked) -> tuple[Sequence[Place], Sequence[Place]]:
    """What in a request must be sent before it, or in it; and the addresses that the service is to fetch.

    Of a `ModelRequest`, addresses are what stands under names that end with `url` or `urls`.
    """
    if isinstance(request, ModelRequest):
        arguments = request.arguments
        return (arguments.sources, arguments.addresses) if isinstance(arguments, Arguments) else ((), ())
    sources: list[Place] = []
    addresses: list[Place] = []
    for name, sort in request.media.items():
        value: MediaSource | list[MediaSource] | None = getattr(request, name)
        if value is None:
            continue
        given = value if isinstance(value, list) else [value]
        for index, each in enumerate(given):
            place = Place((name, index) if given is value else (name,), each, sort)
            if not isinstance(each, str):
                sources.append(place)
            elif each.startswith(_WEB):
                addresses.append(place)
            elif not request.takes_base64:
                sources.append(place)
    return sources, addresses


def filled(request: CheckedT, places: Sequence[Place], texts: Sequence[str]) -> CheckedT:
    """The same request with these texts in those places. It was checked, and is not checked again."""
    if not places:
        return request
    fields: dict[str, Any] = {}
    for place, text in zip(places, texts, strict=True):
        name, *further = place.loc
        if not further:
            fields[str(name)] = text
            continue
        if name not in fields:
            value = getattr(request, str(name))
            fields[str(name)] = copied(value) if isinstance(request, ModelRequest) else [*value]
        at = fields[str(name)]
        for step in further[:-1]:
            at = at[step]
        at[further[-1]] = text
    made = copy.copy(request)
    for name, value in fields.items():
        msgspec.structs.force_setattr(made, name, value)
    return made


def _refusal(kind: type[_Checked], *errors: FieldError) -> InvalidRequest:
    return InvalidRequest("; ".join(f"{kind.__name__}.{error}" for error in errors), errors=errors)


# No more are told: whoever sends thousands of unknown fields is not helped by a list of them.
MOST_ERRORS = 20


def read_request(kind: type[CheckedT], value: object) -> CheckedT:
    """A request from JSON, decoded: an object with the fields of the kind.

    Raises:
        InvalidRequest: With every field that is missing, unknown or wrong.
    """
    if not isinstance(value, dict):
        raise _refusal(kind, FieldError((), "must be an object", "model_type"))
    # To JSON a number is a whole one however it is written.
    given = {
        name: int(each) if isinstance(each, float) and each.is_integer() else each
        for name, each in cast("dict[str, Any]", value).items()
    }
    known = {field.name: field for field in _fields(kind)}
    wrong = [FieldError((name,), "is no field of it", "extra_forbidden") for name in given if name not in known]
    wrong += [
        FieldError((name,), "is required", "missing")
        for name, field in known.items()
        if field.required and name not in given
    ]
    if wrong:
        raise _refusal(kind, *wrong[:MOST_ERRORS])
    reading = _reading.set(True)
    try:
        return kind(**given)
    finally:
        _reading.reset(reading)


# Whether a request is being made of JSON: then nobody wrote the line that makes it.
_reading: ContextVar[bool] = ContextVar("reading", default=False)


def json_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type, whole: what it refers to stands in it."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="{name}")

    def inline(part: object) -> Any:
        if isinstance(part, list):
            return [inline(each) for each in cast("list[object]", part)]
        if not isinstance(part, dict):
            return part
        fields = cast("dict[str, object]", part)
        if isinstance(name := fields.get("$ref"), str):
            return inline(definitions[name])
        for name, each in fields.items():
            if name == "description" and isinstance(each, str):
                fields[name] = each.partition("\n\n")[0]  # of a docstring, what the type is
            elif name == "pattern" and isinstance(each, str):
                fields[name] = each.replace(_END, "$")
            else:
                fields[name] = inline(each)
        return fields

    whole = {**inline(schema), **getattr(kind, "rules", {})}
    for name in getattr(kind, "untold", ()):
        del whole["properties"][name]
    return whole


class ImageToVideo(_Checked, frozen=True):
    """A video from one or two images, on the proxy.

    Source: `POST /higgsfield/generate` of https://open-hk.com/docs/en/lab/higgsfield-video.html.

    Attributes:
        model: `lite` (5 points), `turbo` (7) or `standard` (10).
        motion_id: The `id` of a `Motion`.
        prompt: In any language.
        images: The first frame and, if given, the last: each a `MediaSource`, or bare base64. Local ones go out in the
            request, which may have 10 MiB as a whole, in base64.
        enhance_prompt: Whether the service rewrites the prompt; it does unless told otherwise.
        seed: 1 to 1,000,000; the service's choice when not given.
        width: Of the video, in pixels.
        height: Of the video, in pixels.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"model", "motion_id"})
    media = {"images": "image"}
    takes_base64 = True

    model: Literal["lite", "standard", "turbo"]
    motion_id: Identifier
    prompt: str
    images: Annotated[Sequence[Picture], Meta(min_length=1, max_length=2)]
    enhance_prompt: bool | None = None
    seed: Seed | None = None
    width: Pixels | None = None
    height: Pixels | None = None


class Speak(_Checked, frozen=True):
    """Words for the service to speak.

    Attributes:
        text: What is said.
        voice_id: The `id` of a `Voice`.
        sound_id: The `id` of a `Sound` to hear behind it.
    """

    shown = frozenset({"voice_id", "sound_id"})

    text: str
    voice_id: Identifier
    sound_id: Identifier | None = None


class Speech(_Checked, frozen=True):
    """A speaking avatar, on the proxy (50 points): from a recording, or from words and a voice.

    Source: "Generate Speech Task" of https://open-hk.com/docs/en/lab/higgsfield-video.html.

    Attributes:
        avatar_preset_id: The `id` of an `AvatarPreset`.
        prompt: How it speaks.
        images: The face: each a `MediaSource`, or bare base64.
        audio: The address of a WAV or MP3 of at most 13 seconds: the proxy takes none in
            the request. Exactly one of `audio` and `speak` is given.
        speak: What to say, and with which voice.
        width: Of the video, in pixels.
        height: Of the video, in pixels.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"avatar_preset_id"})
    media = {"images": "image"}
    takes_base64 = True
    rules = {
        "oneOf": [
            {"required": ["audio"], "properties": {"audio": {"type": "string"}, "speak": {"type": "null"}}},
            {"required": ["speak"], "properties": {"speak": {"type": "object"}, "audio": {"type": "null"}}},
        ]
    }

    avatar_preset_id: Identifier
    prompt: str
    images: Annotated[Sequence[Picture], Meta(min_length=1)]
    audio: Url | None = None
    speak: Speak | None = None
    width: Pixels | None = None
    height: Pixels | None = None

    def __post_init__(self) -> None:
        if is_local(self.audio):
            why = "the proxy takes a recording by its address alone: put the file where it can be fetched"
            self._refuse(FieldError(("audio",), why, "value_error"))
        super().__post_init__()
        if (self.audio is None) == (self.speak is None):
            self._refuse(FieldError(("audio",), "give exactly one of audio and speak", "value_error"))


class Ad(_Checked, frozen=True):
    """An advertisement made from a picture of the product, on the proxy (13 points).

    Source: `POST /higgsfield/ads` of https://open-hk.com/docs/en/lab/higgsfield-video.html.

    Attributes:
        product_placement_sample_id: The last part of the address of a template on https://higgsfield.ai/ads.
        images: Pictures of the product, typically one: each a `MediaSource`, or bare base64.
        size: Width and height in pixels, as in `1024x1024`.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"product_placement_sample_id", "size"})
    media = {"images": "image"}
    takes_base64 = True

    product_placement_sample_id: Identifier
    images: Annotated[Sequence[Picture], Meta(min_length=1)]
    size: Annotated[str, Meta(pattern=_SIZE)] | None = None


class Keyframes(_Checked, frozen=True):
    """Images that belong together, on the platform.

    Source: the reference of `POST /v1/text2image/keyframes`. What is not given is the service's choice.

    Attributes:
        prompt: What to make.
        aspect_ratio: The service's default is `3:4`.
        count: How many images; the service's default is 1.
        quality: The service's default is `720p`.
        seed: 1 to 1,000,000.
        image_references: Up to 8, each a `MediaSource`; local ones are uploaded.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"aspect_ratio", "quality"})
    media = {"image_references": "image"}

    prompt: str
    aspect_ratio: Literal["3:4", "2:3", "3:2", "9:16", "1:1", "4:3", "16:9"] | None = None
    count: Annotated[int, Meta(ge=1)] | None = None
    quality: Literal["720p", "1600p"] | None = None
    seed: Seed | None = None
    image_references: Annotated[Sequence[Image], Meta(max_length=8)] | None = None


class Soul(_Checked, frozen=True):
    """A photograph, on the platform.

    Source: the reference of `POST /v1/text2image/soul`. What is not given is the service's choice.

    Attributes:
        prompt: What to make.
        width_and_height: One of the thirteen sizes, in pixels.
        enhance_prompt: Whether the service rewrites the prompt.
        style_id: The `id` of a `SoulStyle`.
        style_strength: 0 to 1; the service's default is 1.
        quality: `720p` or `1080p`.
        seed: 1 to 1,000,000.
        custom_reference_id: The UUID of a trained character.
        custom_reference_strength: 0 to 1; the service's default is 1.
        image_reference: An image to go by, a `MediaSource`; a local one is uploaded.
        batch_size: 1 or 4 images.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"width_and_height", "quality", "style_id"})
    media = {"image_reference": "image"}

    prompt: str
    width_and_height: Literal[
        "1152x2048",
        "2048x1152",
        "2048x1536",
        "1536x2048",
        "1344x2016",
        "2016x1344",
        "960x1696",
        "1536x1536",
        "1536x1152",
        "1696x960",
        "1152x1536",
        "1088x1632",
        "1632x1088",
    ]
    enhance_prompt: bool | None = None
    style_id: Uuid | None = None
    style_strength: Fraction | None = None
    quality: Literal["720p", "1080p"] | None = None
    seed: Seed | None = None
    custom_reference_id: Uuid | None = None
    custom_reference_strength: Fraction | None = None
    image_reference: Image | None = None
    batch_size: Literal[1, 4] | None = None


class DopMotion(_Checked, frozen=True):
    """A motion of a `DopVideo`.

    Attributes:
        id: The `id` of a `Motion`.
        strength: 0 to 1.
    """

    shown = frozenset({"id"})

    id: Identifier
    strength: Fraction


class DopVideo(_Checked, frozen=True):
    """A video of five seconds from an image, on the platform.

    Source: the reference of `POST /v1/image2video/dop`. What is not given is the service's choice.

    Attributes:
        model: `dop-lite`, `dop-turbo` or `dop-standard`; accounts of old also have `dop-preview`.
        prompt: What happens.
        images: The input images, each a `MediaSource`; local ones are uploaded.
        motions: At most two.
        seed: 1 to 1,000,000.
        enhance_prompt: Whether the service rewrites the prompt.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"model"})
    media = {"images": "image"}

    model: Literal["dop-lite", "dop-turbo", "dop-standard", "dop-preview"]
    prompt: str
    images: Annotated[Sequence[Image], Meta(min_length=1)]
    motions: Annotated[Sequence[DopMotion], Meta(max_length=2)] | None = None
    seed: Seed | None = None
    enhance_prompt: bool | None = None


class TalkingHead(_Checked, frozen=True):
    """A portrait that speaks a recording, on the platform.

    Source: the reference of `POST /v1/speak/higgsfield`. What is not given is the service's choice.

    Attributes:
        prompt: How it speaks.
        image: The portrait, a `MediaSource`; a local one is uploaded.
        audio: The recording, a WAV: the same.
        quality: `mid` or `high`.
        duration: 5, 10 or 15 seconds.
        enhance_prompt: Whether the service rewrites the prompt.
        seed: 1 to 1,000,000.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"quality"})
    media = {"image": "image", "audio": "audio"}

    prompt: str
    image: Image
    audio: Audio
    quality: Literal["mid", "high"] | None = None
    duration: Literal[5, 10, 15] | None = None
    enhance_prompt: bool | None = None
    seed: Seed | None = None


class CharacterTraining(_Checked, frozen=True):
    """The training of a character (a "Soul ID") from images of one person, on the platform (40 credits).

    What comes of it is no file: the id of the generation is the `custom_reference_id` of Soul's requests from then on.

    Source: `POST /v1/custom-references` of https://docs.higgsfield.ai. What is not given is the service's choice.

    Attributes:
        name: What to call it: 1 to 100 characters.
        images: 1 to 100, each a `MediaSource`; the service advises many. Local ones are uploaded.
        model_version: What it is for: `v1`, `v2` (for the models of Soul v2) or `cinema`; the service's default is
            `v1`.

    Raises:
        InvalidRequest: A field is not what the service documents.
    """

    shown = frozenset({"model_version"})
    media = {"images": "image"}

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    images: Annotated[Sequence[Image], Meta(min_length=1, max_length=100)]
    model_version: Literal["v1", "v2", "cinema"] | None = None


# First parts that are routes of the platform's own.
_RESERVED = frozenset({"requests", "files", "estimate", "models", "v1"})


class ModelRequest(_Checked, frozen=True, kw_only=False):
    """Anything that any AI model of the platform makes.

    Source: `POST /{model_id}` of https://docs.higgsfield.ai. The catalogue grows without us: no id is refused that has
    the form of one, and the arguments go out as they are. The service ignores an argument it does not know, and bills:
    so what is not as the model's own page has it, as far as the page is known here, is an `ArgumentWarning`. Of a
    request that is made of JSON, it is a line in the log of `higgsfield_async.requests`.

    Attributes:
        model_id: Such as `higgsfield-ai/dop/turbo`.
        arguments: The model's own fields, as JSON. Wherever a value is local media (bytes, a `pathlib.Path`, an open
            file, a Pillow image, a whole data URI under any name but that of a prompt), it is uploaded, and its address
            put in its place; an `Upload` stands for its address.
        strict: Whether what is not documented is refused instead, and with it any model that nothing is known of. It is
            not sent.

    Raises:
        InvalidRequest: The id has not the form of one, or the arguments cannot be written as JSON; when strict, they
            are not what is documented.
    """

    shown = frozenset({"model_id"})
    # What it refuses cannot be said in a schema: that would be one for each model.
    untold = frozenset({"strict"})
    rules = {"not": {"properties": {"model_id": {"pattern": rf"^({'|'.join(sorted(_RESERVED))})(/|$)"}}}}

    model_id: ModelId
    arguments: Mapping[str, Any]
    strict: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_id.partition("/")[0] in _RESERVED:
            self._refuse(FieldError(("model_id",), "begins with a route of the platform's own", "value_error"))
        if (why := _unwritable(self.arguments)) is not None:
            self._refuse(FieldError(("arguments",), f"cannot be written as JSON: {why}", "value_error"))
        msgspec.structs.force_setattr(self, "arguments", arguments_of(self.arguments))
        wrong = _hints.problems(self.model_id, self.arguments)
        if wrong is None and self.strict:
            unknown = FieldError(("model_id",), _hints.undocumented(self.model_id), "unknown_model")
            raise InvalidRequest(f"ModelRequest.{unknown}.", errors=(unknown,))
        if not wrong:
            return
        message = _hints.in_words(self.model_id, wrong)
        if self.strict:
            raise InvalidRequest(message, errors=tuple(wrong))
        if _reading.get():
            logger.warning("%s", message)
        else:
            # The line that makes the request: msgspec's own __init__ is no frame.
            warnings.warn(message, ArgumentWarning, stacklevel=2)


def _unwritable(arguments: Mapping[str, Any]) -> str | None:
    """Why arguments cannot be written as JSON, or None where they can."""
    try:
        # The standard library's encoder is the strict one: msgspec's writes NaN as null.
        json.dumps(arguments, allow_nan=False, default=_put_out)
        msgspec.json.encode(arguments, enc_hook=_put_out)
    except UnicodeEncodeError:
        # Its own words have all of the text with them.
        return "a text has half a character in it (a surrogate)"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return str(error)
    return None


def _put_out(value: object) -> str:
    if is_local(value):
        return _STAND_IN
    msg = f"Object of type {type(value).__name__} is not JSON serializable"
    raise TypeError(msg)


GenerationRequest: TypeAlias = (
    ImageToVideo | Speech | Ad | Keyframes | Soul | DopVideo | TalkingHead | CharacterTraining | ModelRequest
)
"""Every request that `hf.submit` takes."""


def checked_request(value: object) -> GenerationRequest:
    """A request, from whoever does not heed the types.

    Raises:
        InvalidRequest: It is none.
    """
    if isinstance(value, GenerationRequest):
        return value
    msg = (
        f"This is no request but {type(value).__name__}: give an ImageToVideo, a Keyframes, a ModelRequest or the like."
    )
    raise InvalidRequest(msg)


class Webhook(_Checked, frozen=True, kw_only=False):
    """Where the platform reports the end of a generation.

    Attributes:
        url: An address that the service can reach. It must be `https` for a `ModelRequest`.
        secret: For the requests of v1 only: the service sends it back in `X-Webhook-Secret-Key`.

    Raises:
        InvalidRequest: The address is none, or has a user or a password in it.
    """

    url: Url
    secret: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "@" in urlsplit(self.url).netloc:
            self._refuse(FieldError(("url",), "must not hold a user or a password", "value_error"))


class SubmitOptions(_Checked, frozen=True):
    """What goes beside a request: see `Higgsfield.submit`."""

    webhook: Webhook | None = None
    expires_after: Annotated[int, Meta(ge=3600)] | None = None
    idempotency_key: Annotated[str, Meta(pattern=_IDEMPOTENCY_KEY)] | None = None
    resumes: bool = True
