"""The reseller proxy: `/higgsfield/...` with a Bearer key.

Its gateway checks the key and the balance on every call, and then hands everything on unchanged, so that two kinds of
error come back: its own, and whatever the service behind it says.
Source: https://open-hk.com/docs/en/lab/higgsfield-video.html, and the gateway's code, https://github.com/Dooy/chatgpt-web.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from higgsfield_async._budget import Unit
from higgsfield_async._domain import (
    AvatarPreset,
    Estimate,
    JobSet,
    JobStatus,
    Motion,
    Page,
    Sound,
    TaskRef,
    Upload,
    Usage,
    Voice,
)
from higgsfield_async._errors import (
    ApiError,
    AuthenticationFailed,
    Charged,
    ConfigurationError,
    FieldError,
    InsufficientCredits,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
    Unsupported,
)
from higgsfield_async._http import Call, Grant, HttpRequest, HttpResponse
from higgsfield_async._media import Attachment, Loc
from higgsfield_async._requests import Ad, GenerationRequest, ImageToVideo, Speech, SubmitOptions
from higgsfield_async._transports._agents import AgentCalls
from higgsfield_async._transports._answers import (
    Complaint,
    as_object,
    by_words,
    error_from,
    private_strings,
    read_json,
    strings,
    text_or_none,
)
from higgsfield_async._transports._base import checked_base_url, checked_key, fingerprint
from higgsfield_async._transports._characters import CharacterCalls
from higgsfield_async._transports._job_sets import JobSets
from higgsfield_async._transports._paths import path_part
from higgsfield_async._transports._uploads import checked_files

T = TypeVar("T")

# The gateway's body limit: beyond it, 413 with an HTML page.
LONGEST_BODY = 10 * 1024 * 1024

# What a generation costs, by its kind. The page states it of an ad and of speech, and says of each kind how many times
# the price of `lite` it is: turbo 1.4, standard 2, an ad 2.6, speech 10. Either of the stated ones makes that price 5.
_POINTS: Mapping[str, Decimal] = {
    "image-to-video/lite": Decimal(5),
    "image-to-video/turbo": Decimal(7),
    "image-to-video/standard": Decimal(10),
    "ad": Decimal(13),
    "speech": Decimal(50),
}
_POINTS_FROM = "https://open-hk.com/docs/en/lab/higgsfield-video.html, read on 2026-11-22"
_PRICES = {kind: Estimate(points=points, source=_POINTS_FROM) for kind, points in _POINTS.items()}

_WORDS: Mapping[str, JobStatus] = {
    "pending": JobStatus.QUEUED,
    "queued": JobStatus.QUEUED,
    "in_progress": JobStatus.IN_PROGRESS,
    "completed": JobStatus.COMPLETED,
    "failed": JobStatus.FAILED,
    "terminated": JobStatus.FAILED,
    "nsfw": JobStatus.NSFW,
    "canceled": JobStatus.CANCELED,
    "cancelled": JobStatus.CANCELED,
    # `ip_detected` is left out: one client takes it for an end, another for a hold that passes. As `unknown` it is
    # looked at again, and nobody submits, and pays, a second time too early.
}

# The gateway answers 428 to everything it refuses, with neither code nor type to tell the reasons apart: only the words
# do. The first row that matches counts: a sub-key without points says both "key" and "points".
_GATEWAY_WORDS: tuple[tuple[tuple[str, ...], type[ApiError], bool], ...] = (
    (("积分不足", "insufficient points"), InsufficientCredits, False),
    (("nrpm",), RateLimited, True),
    (("pools no key", "gate way", "gate_"), ServiceUnavailable, True),
    (("白名单", "未开启", "禁用", "过期"), PermissionDenied, False),
    (("key",), AuthenticationFailed, False),
)


def _judge(response: HttpResponse, complaint: Complaint) -> tuple[type[ApiError], bool] | None:
    if response.status != 428:
        return by_words(response, complaint)
    said = f"{complaint.code or ''} {complaint.message}".lower()
    for words, kind, transient in _GATEWAY_WORDS:
        if any(word in said for word in words):
            return kind, transient
    # A refusal in new words. Waiting does not mend most of them.
    return PermissionDenied, False


def _settle(status: JobStatus, *, refunded: bool) -> Charged:
    if status is JobStatus.COMPLETED:
        return "yes"
    # Whether the reseller gives points back for what failed is nowhere said; the record says so when Higgsfield did.
    return "no" if refunded else "unknown"


_RECORDS = JobSets(_WORDS, _settle)


class _Listing(Struct):
    items: list[dict[str, Any]]
    total: Any = None
    cursor: Any = None


_listing_decoder = msgspec.json.Decoder(list[dict[str, Any]] | _Listing)


def _motion(item: Mapping[str, Any]) -> Motion:
    return Motion(
        id=item["id"],
        name=str(item.get("name", "")),
        preview_url=text_or_none(_media(item).get("url")),
        categories=strings(item.get("categories")),
    )


def _avatar_preset(item: Mapping[str, Any]) -> AvatarPreset:
    media = _media(item)
    return AvatarPreset(
        id=item["id"],
        name=str(item.get("name", "")),
        preview_url=text_or_none(media.get("url")),
        thumbnail_url=text_or_none(media.get("thumbnail_url")),
    )


def _voice(item: Mapping[str, Any]) -> Voice:
    return Voice(
        id=item["id"],
        name=str(item.get("name", "")),
        gender=text_or_none(item.get("gender")),
        age=text_or_none(item.get("age")),
        categories=strings(item.get("categories")),
        voice_url=text_or_none(item.get("voice_url")),
        image_url=text_or_none(item.get("image_url")),
    )


def _sound(item: Mapping[str, Any]) -> Sound:
    return Sound(
        id=item["id"],
        name=str(item.get("name", "")),
        description=text_or_none(item.get("description")),
        sound_url=text_or_none(item.get("sound_url")),
    )


def _media(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return as_object(item.get("media"))


# What is listed: where, how it is read, the documented page size, and whether `search` is documented for it.
_CATALOGUES: Mapping[type, tuple[str, Any, int, bool]] = {
    Motion: ("motions", _motion, 30, True),
    AvatarPreset: ("avatar-presets", _avatar_preset, 30, True),
    Voice: ("voices", _voice, 14, False),
    Sound: ("sounds", _sound, 14, False),
}


class ProxyTransport:
    """The reseller proxy.

    It has no way to cancel, no webhooks and no idempotency keys: a submit whose answer is lost is never repeated.

    Args:
        api_key: The key, `hk-…`.
        base_url: Where the proxy is; with a path prefix if it has one.
        speech_path: Where speech is made. The proxy's own page names no path, and other sources name two: when this
            one answers 404 or 405, the other is tried once, and remembered.

    Raises:
        ConfigurationError: The key has not the form of one, or the address is none.
    """

    name: ClassVar[str] = "proxy"
    units: ClassVar[frozenset[Unit]] = frozenset({"points"})

    def __init__(
        self,
        api_key: str,
        base_url: str = "https://api.openai-hk.com",
        *,
        speech_path: str = "/higgsfield/speak",
    ) -> None:
        self._key = checked_key("api_key", api_key)
        # The gateway takes what stands between the first and the second "-" for the key.
        if "-" not in self._key:
            msg = "api_key must hold a “-”, as in hk-…: the proxy's gateway refuses any other."
            raise ConfigurationError(msg)
        self._base = checked_base_url(base_url)
        if not speech_path.startswith("/"):
            msg = "speech_path must begin with “/”."
            raise ConfigurationError(msg)
        self._speech_path = speech_path
        self._account = fingerprint(self.name, self._key)
        self._headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}

    def __repr__(self) -> str:
        return f"ProxyTransport(base_url={self._base!r}, account={self.account!r})"

    @property
    def origin(self) -> str:
        return self._base

    @property
    def account(self) -> str:
        return self._account

    def same_service(self, origin: str) -> bool:
        return origin == self._base

    def kind(self, request: GenerationRequest) -> str:
        match request:
            case ImageToVideo():
                return f"image-to-video/{request.model}"
            case Speech():
                return "speech"
            case Ad():
                return "ad"
            case _:
                msg = f"The proxy cannot make {type(request).__name__}: use a PlatformTransport."
                raise Unsupported(msg)

    def submit(self, request: GenerationRequest, options: SubmitOptions) -> Call[JobSet]:
        kind = self.kind(request)
        for option, what in (
            (options.webhook, "webhook"),
            (options.expires_after, "expires_after"),
            (options.idempotency_key, "idempotency_key"),
        ):
            if option is not None:
                msg = f"The proxy takes no {what}: use a PlatformTransport."
                raise Unsupported(msg)
        match request:
            case ImageToVideo():
                return self._submission("/higgsfield/generate", kind, request)
            case Ad():
                return self._submission("/higgsfield/ads", kind, request)
            case _:
                other = "/higgsfield/speech" if self._speech_path != "/higgsfield/speech" else "/higgsfield/speak"
                return self._submission(self._speech_path, kind, request, other)

    def inlined(self, request: GenerationRequest, files: Sequence[Attachment]) -> Sequence[str]:
        prefixes = [f"data:{name};base64," for name in checked_files("proxy", request, files)]
        # Known before anything of them is in memory.
        sizes = {
            file.loc: (file, len(prefix) + -(-file.size // 3) * 4) for prefix, file in zip(prefixes, files, strict=True)
        }
        length = len(msgspec.json.encode(_fields(request))) + sum(size for _, size in sizes.values())
        if length > LONGEST_BODY:
            raise _too_long(request, length, sizes)
        return prefixes

    def _submission(self, path: str, kind: str, request: GenerationRequest, other: str | None = None) -> Call[JobSet]:
        fields = _fields(request)
        body = msgspec.json.encode(fields)
        if len(body) > LONGEST_BODY:
            raise _too_long(request, len(body), {})
        private = private_strings(fields) | {self._key}

        def decode(response: HttpResponse) -> JobSet | Call[JobSet]:
            if other is not None and response.status in (404, 405):
                # A route that is not there cannot have been billed; no other answer is a reason to try the other one.
                return self._submission(other, kind, request)
            if 200 <= response.status < 300:
                self._remember(path, kind)
                return _RECORDS.read(response, "submit")
            raise error_from(response, "submit", judge=_judge, private=private)

        return Call("submit", self._request("POST", path, body), decode, submits=True, fresh=True)

    def price(self, request: GenerationRequest) -> Estimate:
        return _PRICES[self.kind(request)]

    def estimate(self, request: GenerationRequest) -> Estimate:
        # Built and thrown away: what a submit refuses has no price.
        self.submit(request, SubmitOptions())
        return self.price(request)

    def _remember(self, path: str, kind: str) -> None:
        if kind == "speech":
            self._speech_path = path

    def poll(self, ref: TaskRef) -> Call[JobSet]:
        name = f"the poll of generation {ref.id}"

        def decode(response: HttpResponse) -> JobSet:
            if 200 <= response.status < 300:
                return _RECORDS.read(response, name, ref)
            raise error_from(response, name, judge=_judge, private=(self._key,), looking=True)

        return Call(name, self._request("GET", f"/higgsfield/feed/{path_part(ref.id)}"), decode, polls=True)

    def cancel(self, ref: TaskRef) -> Call[None]:
        msg = f"The proxy cannot cancel: it has no way to end generation {ref.id}."
        raise Unsupported(msg, ref=ref, charged="unknown")

    def delete(self, ref: TaskRef) -> Call[None]:
        msg = f"The proxy cannot delete what generation {ref.id} made."
        raise Unsupported(msg, ref=ref, charged="unknown")

    def upload(self, head: bytes, size: int, content_type: str | None) -> Call[Grant[Upload]]:
        msg = "The proxy takes no uploads: an image may stand in the request itself, as base64."
        raise Unsupported(msg)

    def characters(self) -> CharacterCalls:
        msg = "The proxy has no characters: use a PlatformTransport."
        raise Unsupported(msg)

    def agents(self) -> AgentCalls:
        msg = "The proxy has no agents: use a PlatformTransport."
        raise Unsupported(msg)

    def catalogue(
        self, of: type[T], *, size: int | None, search: str | None, cursor: int | str | None, version: int
    ) -> Call[Page[T]]:
        if of not in _CATALOGUES or version != 1:
            msg = f"The proxy lists no {of.__name__}: use a PlatformTransport."
            raise Unsupported(msg)
        path, read, usual_size, searchable = _CATALOGUES[of]
        if search is not None and not searchable:
            msg = f"The proxy cannot search for {of.__name__}: search is documented for Motion and AvatarPreset."
            raise Unsupported(msg)
        query: dict[str, int | str] = {"size": usual_size if size is None else size}
        if searchable:
            query["search"] = search or ""
        if cursor is not None:
            query["cursor"] = cursor
        name = f"the catalogue of {of.__name__}"

        def decode(response: HttpResponse) -> Page[T]:
            if response.status != 200:
                raise error_from(response, name, judge=_judge, private=(self._key,))
            found = read_json(response, _listing_decoder, name)
            # Motions come as a bare list, without a total and without a cursor; the others in an envelope.
            listing = found if isinstance(found, _Listing) else _Listing(found)
            return Page(
                items=tuple(cast("T", read(item)) for item in listing.items if isinstance(item.get("id"), str)),
                size=int(query["size"]),
                received=len(listing.items),
                # To Python, JSON's `true` is a number too.
                total=listing.total if type(listing.total) is int else None,
                cursor=listing.cursor if type(listing.cursor) in (int, str) else None,
            )

        return Call(name, self._request("GET", f"/higgsfield/tpl/{path}?{urlencode(query)}"), decode)

    def usage(self, start: date | None, end: date | None, timeframe: str) -> Call[tuple[Usage, ...]]:
        msg = "The proxy does not say what was used: its web page does."
        raise Unsupported(msg)

    def _request(self, method: Any, path: str, body: bytes | None = None) -> HttpRequest:
        headers = self._headers.copy()
        if body is not None:
            # Required: with any other type the gateway skips the body and hands on `{}`.
            headers["Content-Type"] = "application/json"
        return HttpRequest(method, self._base + path, headers, body)


def _fields(request: GenerationRequest) -> dict[str, Any]:
    """A request's fields as the proxy spells them."""
    return {"image" if name == "images" else name: value for name, value in msgspec.to_builtins(request).items()}


def _too_long(request: GenerationRequest, length: int, files: Mapping[Loc, tuple[Attachment, int]]) -> InvalidRequest:
    told: list[str] = []
    for index, image in enumerate(cast("Sequence[str]", _fields(request)["image"])):
        attached = files.get(("images", index))
        if attached is not None:
            file, size = attached
            name = f" ({file.name})" if file.name else ""
            told.append(f"images[{index}]{name} has {_megabytes(file.size)}, {_megabytes(size)} as base64")
        elif not image.startswith("http"):
            told.append(f"images[{index}] has {_megabytes(len(image))} as base64")
    most = f"10 MiB ({_megabytes(LONGEST_BODY)}) as a whole"
    what = f"the request would have {_megabytes(length)}, and the proxy takes {most}: {', '.join(told)}"
    error = FieldError(("images",), what, "too_long")
    return InvalidRequest(f"{type(request).__name__}.{error}", errors=(error,))


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.2f} MB"
