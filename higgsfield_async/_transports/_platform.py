"""The platform of Higgsfield itself: v1 (`/v1/...` with two headers) and v2 (`/{model_id}` with one).

One transport serves both; the type of the request decides. Source: https://docs.higgsfield.ai.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from higgsfield_async._budget import Unit
from higgsfield_async._domain import (
    Estimate,
    Job,
    JobSet,
    JobStatus,
    Media,
    Motion,
    Page,
    SoulStyle,
    TaskRef,
    Upload,
    Usage,
)
from higgsfield_async._errors import (
    Charged,
    FieldError,
    HiggsfieldError,
    InvalidRequest,
    MalformedResponse,
    NotCancelable,
    Unsupported,
)
from higgsfield_async._http import Call, Grant, HttpRequest, HttpResponse
from higgsfield_async._media import Attachment
from higgsfield_async._requests import (
    CharacterTraining,
    DopVideo,
    GenerationRequest,
    Keyframes,
    ModelRequest,
    Soul,
    SubmitOptions,
    TalkingHead,
)
from higgsfield_async._transports._agents import AgentCalls
from higgsfield_async._transports._answers import (
    UNREADABLE,
    MediaKind,
    as_list,
    as_object,
    error_from,
    kind_of_media,
    malformed,
    private_strings,
    read_json,
    text_or_none,
    url_of,
)
from higgsfield_async._transports._base import checked_base_url, checked_key, fingerprint
from higgsfield_async._transports._characters import CHARACTER_KIND, TRAINING_PRICE, CharacterCalls
from higgsfield_async._transports._job_sets import JobSets
from higgsfield_async._transports._listings import LISTINGS, read_listing
from higgsfield_async._transports._paths import path_part
from higgsfield_async._transports._uploads import checked_content_type, checked_files, read_grant
from higgsfield_async._transports._usage import read_usage, usage_query

T = TypeVar("T")

# Today's host and the older one: a generation submitted at either can be looked at on both.
HOSTS = frozenset({"https://api.higgsfield.ai", "https://platform.higgsfield.ai"})

_WORDS: Mapping[str, JobStatus] = {
    "queued": JobStatus.QUEUED,
    "in_progress": JobStatus.IN_PROGRESS,
    "completed": JobStatus.COMPLETED,
    "failed": JobStatus.FAILED,
    "nsfw": JobStatus.NSFW,
    "canceled": JobStatus.CANCELED,
    "cancelled": JobStatus.CANCELED,
}


def _settle(status: JobStatus, *, refunded: bool) -> Charged:  # noqa: ARG001  # the status tells it here
    # Charged on success alone; failed, nsfw and canceled in the queue are given back
    # (https://docs.higgsfield.ai/docs/concepts/billing-and-retention).
    if status is JobStatus.COMPLETED:
        return "yes"
    return "no" if status.terminal else "unknown"


_RECORDS = JobSets(_WORDS, _settle)


# As in the job sets: what is not named is skipped, the order is the service's own, and none needs the collector.
class _File(Struct, gc=False):
    url: str | None = None


class _Request(Struct, gc=False):
    """`GET /requests/{id}/status`, and the answer to a submit."""

    status: str | None = None
    request_id: str | None = None
    error: str | None = None
    video: _File | None = None
    images: list[_File] | None = None
    audio: _File | None = None
    audios: list[_File] | None = None
    mov: _File | None = None
    zip: _File | None = None
    jsx: _File | None = None
    fbx: _File | None = None
    ply: _File | None = None

    def outputs(self) -> tuple[Media, ...]:
        """Every file, the best first and each once: `audio` stands again in `audios`."""
        others = (self.zip, self.jsx, self.fbx, self.ply)
        # Most answers come before there is any file.
        if not any((self.video, self.images, self.audio, self.audios, self.mov, *others)):
            return ()
        files: tuple[tuple[MediaKind | None, Sequence[_File | None]], ...] = (
            ("video", (self.video,)),
            ("image", self.images or ()),
            ("audio", (self.audio,)),
            ("audio", self.audios or ()),
            ("video", (self.mov,)),
            (None, others),
        )
        found: dict[str, Media] = {}
        for kind, under in files:
            for file in under:
                if file is not None and (url := file.url) and url not in found:
                    found[url] = Media(url, kind or kind_of_media(url))
        return tuple(found.values())


_decode = msgspec.json.Decoder(_Request).decode


class _Odd(Struct):
    status: Any = None
    request_id: Any = None
    error: Any = None
    video: Any = None
    images: Any = None
    audio: Any = None
    audios: Any = None
    mov: Any = None
    zip: Any = None
    jsx: Any = None
    fbx: Any = None
    ply: Any = None


class _Bare(Struct):
    request_id: Any = None


_odd_decoder = msgspec.json.Decoder(_Odd)
_bare_decoder = msgspec.json.Decoder(_Bare)


def _mended(response: HttpResponse, name: str, *, submitted: bool) -> _Request:
    """What an answer says of which some part has not the expected form: such a part is as if it were not there."""
    try:
        odd = read_json(response, _odd_decoder, name)
    except MalformedResponse:
        if not submitted:
            raise
        # What was paid for has an id, whatever became of the rest.
        odd = _Odd(status="queued", request_id=read_json(response, _bare_decoder, name).request_id)
    return _Request(
        text_or_none(odd.status),
        text_or_none(odd.request_id),
        text_or_none(odd.error),
        _File(url_of(odd.video)),
        [_File(url_of(file)) for file in as_list(odd.images)],
        _File(url_of(odd.audio)),
        [_File(url_of(file)) for file in as_list(odd.audios)],
        *(_File(url_of(file)) for file in (odd.mov, odd.zip, odd.jsx, odd.fbx, odd.ply)),
    )


def _read_request(response: HttpResponse, name: str, ref: TaskRef | None = None) -> JobSet:
    try:
        wire = _decode(response.body)
    except UNREADABLE:
        wire = _mended(response, name, submitted=ref is None)
    identifier = wire.request_id or (ref and ref.id)
    if not identifier:
        raise malformed(response, name, "it has no request_id")
    raw_status = wire.status or ""
    if ref is not None and not raw_status:
        raise malformed(response, name, "it has no status")
    status, charged, _ = _RECORDS.words.get(raw_status, _RECORDS.other)
    # One status stands for the whole request, however many files it makes: one job.
    job = Job(
        id=identifier,
        status=status,
        raw_status=raw_status,
        outputs=wire.outputs(),
        reason=wire.error or None,
        charged=charged,
    )
    return JobSet(id=identifier, jobs=(job,), body=response.body)


class _Price(Struct):
    """`POST /estimate/{model_id}`: either the numbers, written as strings, or a description."""

    credits: Any = None
    usd: Any = None
    pricing_description: Any = None


_price_decoder = msgspec.json.Decoder(_Price)
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


def _read_price(response: HttpResponse, name: str, source: str) -> Estimate:
    wire = read_json(response, _price_decoder, name)
    credits_, usd = _amount(wire.credits), _amount(wire.usd)
    prose = [text_or_none(wire.pricing_description)]
    # A price in other words is no price, and not to be kept back.
    prose += [
        f"{unit}: {value}"
        for unit, value, amount in (("credits", wire.credits, credits_), ("usd", wire.usd, usd))
        if amount is None and text_or_none(value)
    ]
    text = "; ".join(filter(None, prose))
    if credits_ is None and usd is None and not text:
        raise malformed(response, name, "it has no price")
    return Estimate(credits=credits_, usd=usd, text=text or None, source=source)


def _amount(value: object) -> Decimal | None:
    number = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    # Not whatever Decimal reads: to it "NaN" is a number too.
    return Decimal(str(value)) if number and _AMOUNT.fullmatch(str(value)) else None


class _Item(Struct):
    id: str
    name: Any = None
    description: Any = None
    preview_url: Any = None
    start_end_frame: Any = None


_items_decoder = msgspec.json.Decoder(list[_Item])


def _motion(item: _Item) -> Motion:
    return Motion(
        id=item.id,
        name=text_or_none(item.name) or "",
        description=text_or_none(item.description),
        preview_url=text_or_none(item.preview_url),
        start_end_frame=item.start_end_frame if isinstance(item.start_end_frame, bool) else None,
    )


def _soul_style(item: _Item) -> SoulStyle:
    return SoulStyle(
        id=item.id,
        name=text_or_none(item.name) or "",
        description=text_or_none(item.description),
        preview_url=text_or_none(item.preview_url),
    )


# What is listed: where, and how it is read. Each is one bare list, without pages.
_CATALOGUES: Mapping[tuple[type, int], tuple[str, Any]] = {
    (Motion, 1): ("/v1/motions", _motion),
    (SoulStyle, 1): ("/v1/text2image/soul-styles", _soul_style),
    (SoulStyle, 2): ("/v1/text2image/soul-styles/v2", _soul_style),
}

_V1_ROUTES: Mapping[type, str] = {
    Keyframes: "v1/text2image/keyframes",
    Soul: "v1/text2image/soul",
    DopVideo: "v1/image2video/dop",
    TalkingHead: "v1/speak/higgsfield",
}


def _image(url: str) -> dict[str, str]:
    return {"type": "image_url", "image_url": url}


def _images(urls: list[str]) -> list[dict[str, str]]:
    return [_image(url) for url in urls]


def _audio(url: str) -> dict[str, str]:
    return {"type": "audio_url", "audio_url": url}


# Fields of ours that v1 spells otherwise.
_V1_SPELLING: Mapping[tuple[type, str], tuple[str, Callable[[Any], object]]] = {
    (Keyframes, "image_references"): ("image_references", _images),
    (Soul, "image_reference"): ("image_reference", _image),
    (DopVideo, "images"): ("input_images", _images),
    (TalkingHead, "image"): ("input_image", _image),
    (TalkingHead, "audio"): ("input_audio", _audio),
}


def _v1_params(request: GenerationRequest) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, value in msgspec.to_builtins(request).items():
        spelled, form = _V1_SPELLING.get((type(request), name), (name, None))
        params[spelled] = form(value) if form else value
    return params


_report_decoder = msgspec.json.Decoder(dict[str, Any])


def read_report(body: bytes) -> JobSet:
    """The state that a webhook reports: flat, as until August 2026; in today's envelope; or v1's job set.

    Raises:
        MalformedResponse: It is none of these.
    """
    name = "a webhook"
    response = HttpResponse(200, {}, body)
    report = read_json(response, _report_decoder, name)
    if "request_id" not in report:
        job_set = _RECORDS.read(response, name)
        if not job_set.jobs:
            raise malformed(response, name, "it has no jobs")
        return job_set
    # What an envelope holds besides is what the flat form holds: the files.
    flat = {
        **as_object(report.pop("payload", None)),
        **{name: each for name, each in report.items() if each is not None},
    }
    job_set = _read_request(HttpResponse(200, {}, msgspec.json.encode(flat)), name)
    if not job_set.jobs[0].raw_status:
        raise malformed(response, name, "it has no status")
    return msgspec.structs.replace(job_set, body=body)


class PlatformTransport:
    """The platform of Higgsfield itself.

    A `ModelRequest` goes to v2, with an `Idempotency-Key`: when its answer is lost, the same key and the same bytes
    bring back the original generation. The other requests go to v1, which knows no such key. (So does a
    `CharacterTraining`, with the header of v2.)

    Args:
        key_id: The key's id.
        key_secret: The key's secret.
        base_url: Where the platform is; `https://platform.higgsfield.ai` is its older address.

    Raises:
        ConfigurationError: The key has not the form of one, or the address is none.
    """

    name: ClassVar[str] = "platform"
    units: ClassVar[frozenset[Unit]] = frozenset({"credits", "usd"})

    def __init__(self, key_id: str, key_secret: str, base_url: str = "https://api.higgsfield.ai") -> None:
        self._key_id = checked_key("key_id", key_id)
        self._key_secret = checked_key("key_secret", key_secret)
        self._base = checked_base_url(base_url)
        self._account = fingerprint(self.name, self._key_id)
        self._v1_headers = {"hf-api-key": self._key_id, "hf-secret": self._key_secret, "Accept": "application/json"}
        # With v1's headers a generation of v2 is accepted, and then stays queued.
        self._v2_headers = {"Authorization": f"Key {self._key_id}:{self._key_secret}", "Accept": "application/json"}

    def __repr__(self) -> str:
        return f"PlatformTransport(base_url={self._base!r}, account={self.account!r})"

    @property
    def origin(self) -> str:
        return self._base

    @property
    def account(self) -> str:
        return self._account

    def same_service(self, origin: str) -> bool:
        return origin == self._base or {origin, self._base} <= HOSTS

    def kind(self, request: GenerationRequest) -> str:
        match request:
            case ModelRequest():
                return request.model_id
            case Keyframes() | Soul() | DopVideo() | TalkingHead():
                return _V1_ROUTES[type(request)]
            case CharacterTraining():
                return CHARACTER_KIND
            case _:
                msg = f"The platform cannot make {type(request).__name__}: use a ProxyTransport."
                raise Unsupported(msg)

    def submit(self, request: GenerationRequest, options: SubmitOptions) -> Call[JobSet]:
        kind = self.kind(request)
        if isinstance(request, ModelRequest):
            return self._submit_v2(request, options)
        if isinstance(request, CharacterTraining):
            return self.characters().train(request, options)
        return self._submit_v1(kind, request, options)

    def _submit_v1(self, route: str, request: GenerationRequest, options: SubmitOptions) -> Call[JobSet]:
        if options.idempotency_key is not None or options.expires_after is not None:
            what = "idempotency_key" if options.idempotency_key is not None else "expires_after"
            msg = f"The platform takes no {what} for {type(request).__name__}: only for a ModelRequest."
            raise Unsupported(msg)
        body: dict[str, Any] = {"params": _v1_params(request)}
        if options.webhook is not None:
            body["webhook"] = msgspec.to_builtins(options.webhook)
        private = private_strings(body) | self._secrets | _private_options(options)

        def decode(response: HttpResponse) -> JobSet:
            if 200 <= response.status < 300:
                return _RECORDS.read(response, "submit")
            raise error_from(response, "submit", private=private)

        http = self._v1("POST", f"/{route}", msgspec.json.encode(body))
        return Call("submit", http, decode, submits=True, fresh=True)

    def _submit_v2(self, request: ModelRequest, options: SubmitOptions) -> Call[JobSet]:
        key = options.idempotency_key if options.idempotency_key is not None else str(uuid.uuid4())
        headers = {"Idempotency-Key": key}
        if options.expires_after is not None:
            headers["Hf-Expires-After"] = str(options.expires_after)
        path = f"/{request.model_id}"
        if options.webhook is not None:
            if urlsplit(options.webhook.url).scheme != "https":
                raise _refused("webhook", "must be an https address for a ModelRequest")
            if options.webhook.secret is not None:
                raise _refused("webhook", "takes no secret for a ModelRequest: the account's own signs its deliveries")
            path += "?" + urlencode({"hf_webhook": options.webhook.url})
        private = private_strings(dict(request.arguments)) | self._secrets | _private_options(options)

        def decode(response: HttpResponse) -> JobSet:
            if 200 <= response.status < 300:
                return _read_request(response, "submit")
            raise error_from(response, "submit", private=private)

        http = self._v2("POST", path, msgspec.json.encode(request.arguments), headers)
        resumed = options.idempotency_key is not None and options.resumes
        return Call("submit", http, decode, submits=True, key=key, resumed=resumed)

    def price(self, request: GenerationRequest) -> Estimate | None:
        """That of a training; any other differs by model and arguments, and is not published as a list."""
        return TRAINING_PRICE if isinstance(request, CharacterTraining) else None

    def inlined(self, request: GenerationRequest, files: Sequence[Attachment]) -> None:
        checked_files("platform", request, files)

    def estimate(self, request: GenerationRequest) -> Call[Estimate] | Estimate:
        self.kind(request)
        if (known := self.price(request)) is not None:
            return known
        if not isinstance(request, ModelRequest):
            msg = f"The platform estimates only a ModelRequest: its v1, which makes {type(request).__name__}, cannot."
            raise Unsupported(msg)
        name = f"the estimate of {request.model_id}"
        private = private_strings(dict(request.arguments)) | self._secrets
        http = self._v2("POST", f"/estimate/{request.model_id}", msgspec.json.encode(request.arguments))

        def decode(response: HttpResponse) -> Estimate:
            if 200 <= response.status < 300:
                return _read_price(response, name, http.url)
            raise error_from(response, name, private=private)

        return Call(name, http, decode)

    def poll(self, ref: TaskRef) -> Call[JobSet]:
        if ref.kind == CHARACTER_KIND:
            return self.characters().look(ref)
        v1 = _is_v1(ref)
        name = f"the poll of generation {ref.id}"

        def decode(response: HttpResponse) -> JobSet:
            if not 200 <= response.status < 300:
                raise error_from(response, name, private=self._secrets, looking=True)
            if v1:
                return _RECORDS.read(response, name, ref)
            return _read_request(response, name, ref)

        # The answer to a submit names addresses of its own, even on another host: ours is built from the id.
        part = path_part(ref.id)
        http = self._v1("GET", f"/v1/job-sets/{part}") if v1 else self._v2("GET", f"/requests/{part}/status")
        return Call(name, http, decode, polls=True)

    def cancel(self, ref: TaskRef) -> Call[None]:
        if _is_v1(ref):
            msg = f"The platform's v1 cannot cancel: generation {ref.id} goes on."
            raise Unsupported(msg, ref=ref, charged="unknown")

        name = f"the cancel of generation {ref.id}"

        def decode(response: HttpResponse) -> None:
            if 200 <= response.status < 300:
                return
            error = error_from(response, name, private=self._secrets)
            if isinstance(error, InvalidRequest) and error.status == 400:
                msg = (
                    f"Generation {ref.id} can no longer be canceled: the platform cancels only while all of it is still"
                    f" queued. It goes on, and is charged when it completes."
                )
                raise NotCancelable(msg, status=400, detail=error.detail, correlation_id=error.correlation_id)
            raise error

        return Call(name, self._v2("POST", f"/requests/{path_part(ref.id)}/cancel"), decode)

    def delete(self, ref: TaskRef) -> Call[None]:
        if ref.kind == CHARACTER_KIND:
            return self.characters().delete(ref.id)
        if _is_v1(ref):
            msg = f"The platform's v1 cannot delete what generation {ref.id} made."
            raise Unsupported(msg, ref=ref, charged="unknown")

        name = f"the delete of generation {ref.id}"

        def decode(response: HttpResponse) -> None:
            if not 200 <= response.status < 300:
                raise error_from(response, name, private=self._secrets)

        return Call(name, self._v2("DELETE", f"/requests/{path_part(ref.id)}"), decode)

    def upload(self, head: bytes, size: int, content_type: str | None) -> Call[Grant[Upload]]:
        checked = checked_content_type(head, size, content_type)
        name = "the request for an upload"

        def decode(response: HttpResponse) -> Grant[Upload]:
            if 200 <= response.status < 300:
                return read_grant(response, name, checked, size)
            raise error_from(response, name, private=self._secrets)

        http = self._v2("POST", "/files/generate-upload-url", msgspec.json.encode({"content_type": checked}))
        return Call(name, http, decode)

    def catalogue(
        self, of: type[T], *, size: int | None, search: str | None, cursor: int | str | None, version: int
    ) -> Call[Page[T]]:
        if version == 1 and of in LISTINGS:
            return self._listing(of, size, search, cursor)
        if (of, version) not in _CATALOGUES:
            msg = f"The platform lists no {of.__name__} (version {version}): use a ProxyTransport, or a version it has."
            raise Unsupported(msg)
        if search is not None:
            msg = f"The platform cannot search for {of.__name__}: take the whole list."
            raise Unsupported(msg)
        path, read = _CATALOGUES[of, version]
        name = f"the catalogue of {of.__name__}"

        def decode(response: HttpResponse) -> Page[T]:
            if response.status != 200:
                raise error_from(response, name, private=self._secrets)
            found = tuple(cast("T", read(item)) for item in read_json(response, _items_decoder, name))
            return Page(items=found, total=len(found))

        return Call(name, self._v1("GET", path), decode)

    def characters(self) -> CharacterCalls:
        return CharacterCalls(self._v2, self._secrets)

    def agents(self) -> AgentCalls:
        return AgentCalls(self._v2, self._secrets)

    def _listing(self, of: type[T], size: int | None, search: str | None, cursor: int | str | None) -> Call[Page[T]]:
        listing = LISTINGS[of]
        given = {"search": search, "size": size, "cursor": cursor}
        query = {name: value for name, value in given.items() if value is not None}
        name = f"the catalogue of {of.__name__}"

        def decode(response: HttpResponse) -> Page[T]:
            if response.status != 200:
                raise error_from(response, name, private=self._secrets)
            return cast("Page[T]", read_listing(response, name, listing.read, size))

        return Call(name, self._v2("GET", listing.path + ("?" + urlencode(query) if query else "")), decode)

    def usage(self, start: date | None, end: date | None, timeframe: str) -> Call[tuple[Usage, ...]]:
        name = "the usage"
        query = usage_query(start, end, timeframe)

        def decode(response: HttpResponse) -> tuple[Usage, ...]:
            if response.status != 200:
                raise error_from(response, name, private=self._secrets)
            return read_usage(response, name)

        return Call(name, self._v2("GET", f"/models/usage?{query}"), decode)

    @property
    def _secrets(self) -> set[str]:
        return {self._key_id, self._key_secret}

    def _v1(self, method: Literal["GET", "POST"], path: str, body: bytes | None = None) -> HttpRequest:
        return self._request(method, path, body, self._v1_headers.copy())

    def _v2(
        self,
        method: Literal["GET", "POST", "DELETE"],
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpRequest:
        return self._request(method, path, body, {**self._v2_headers, **(headers or {})})

    def _request(
        self, method: Literal["GET", "POST", "DELETE"], path: str, body: bytes | None, headers: dict[str, str]
    ) -> HttpRequest:
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HttpRequest(method, self._base + path, headers, body)


def _is_v1(ref: TaskRef) -> bool:
    # No model's id begins with "v1/": it is a route of the platform's own.
    return ref.kind.startswith("v1/")


def _private_options(options: SubmitOptions) -> set[str]:
    webhook = options.webhook
    return set() if webhook is None else {webhook.url, *([webhook.secret] if webhook.secret else [])}


def _refused(option: str, why: str) -> HiggsfieldError:
    error = FieldError((option,), why, "value_error")
    return InvalidRequest(f"{error}.", errors=(error,))
