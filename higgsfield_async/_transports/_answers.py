"""What both dialects share: JSON to values, and any error answer to one of our errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypeGuard, TypeVar

import msgspec

from higgsfield_async._domain import suffix_of
from higgsfield_async._errors import (
    ApiError,
    AuthenticationFailed,
    FieldError,
    HiggsfieldError,
    InsufficientCredits,
    InvalidRequest,
    MalformedResponse,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
)
from higgsfield_async._http import HttpResponse

T = TypeVar("T")

_LONGEST_DETAIL = 300
# No service nests its complaints deeper: `data.error.detail`.
_DEEPEST = 3


class Complaint(NamedTuple):
    """An error answer, read: every service on the way has a form of its own for it."""

    message: str
    code: str | None = None
    fields: tuple[FieldError, ...] = ()
    detail: object = None
    html: bool = False


UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""What a decoder raises for a body that it cannot read."""


def read_json(response: HttpResponse, decoder: msgspec.json.Decoder[T], name: str) -> T:
    """The value in the body, whatever the Content-Type says: some answers come without one.

    Raises:
        MalformedResponse: It is not there.
    """
    try:
        return decoder.decode(response.body)
    except UNREADABLE as error:
        raise malformed(response, name, _why(response, error)) from None


def _why(response: HttpResponse, error: Exception) -> str:
    if not response.body.strip():
        return "it is empty"
    if _is_html(response):
        return "it is an HTML page"
    return "it is not the JSON that was expected" if isinstance(error, msgspec.ValidationError) else "it is not JSON"


def malformed(response: HttpResponse, name: str, why: str) -> MalformedResponse:
    msg = f"The answer to {name} (HTTP {response.status}, {len(response.body)} bytes) cannot be read: {why}."
    return MalformedResponse(msg, status=response.status, body=response.body)


def _is_html(response: HttpResponse) -> bool:
    content_type = response.headers.get("content-type", "")
    return "text/html" in content_type or response.body[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))


def read_complaint(response: HttpResponse) -> Complaint:
    """What an error answer says, in whichever form it says it.

    FastAPI's `detail` as a string, an object or a list; the gateway's `error`; `{"code", "message"}`; `{"error_type",
    "text"}`; plain text; an HTML page.
    """
    if _is_html(response):
        return Complaint("an HTML page", html=True)
    try:
        answer: Any = msgspec.json.decode(response.body)
    except UNREADABLE:
        # The gateway writes its messages into its JSON unescaped: a quote in one makes it invalid.
        text = response.body[:2000].decode(errors="replace").strip()
        return Complaint(text, detail=text or None)
    return _from_json(answer, depth=0)


def _from_json(answer: object, *, depth: int) -> Complaint:
    if isinstance(answer, str):
        return Complaint(answer, detail=answer)
    if is_array(answer):
        fields = tuple(_field(item) for item in answer if is_object(item))
        return Complaint("; ".join(str(field) for field in fields), fields=fields, detail=answer)
    if not is_object(answer):
        return Complaint("", detail=answer)
    for key in ("error", "detail", "data"):
        if answer.get(key) and isinstance(answer[key], (str, list, dict)) and depth < _DEEPEST:
            inner = _from_json(answer[key], depth=depth + 1)
            return inner._replace(code=inner.code or _code(answer), detail=answer)
    message = answer.get("message") or answer.get("text") or answer.get("msg") or ""
    return Complaint(str(message), code=_code(answer), detail=answer)


def _field(item: Mapping[str, Any]) -> FieldError:
    loc = tuple(part for part in as_list(item.get("loc")) if isinstance(part, (str, int)))
    return FieldError(loc, str(item.get("msg", "")), str(item.get("type", "")))


def _code(answer: Mapping[str, Any]) -> str | None:
    return text_or_none(answer.get("code")) or text_or_none(answer.get("error_type"))


# The status decides, unless a dialect knows better from the words. `transient` is the class's second half.
_BY_STATUS: Mapping[int, tuple[type[ApiError], bool]] = {
    401: (AuthenticationFailed, False),
    402: (InsufficientCredits, False),
    403: (PermissionDenied, False),
    404: (NotFound, False),
    410: (NotFound, False),
    408: (ServiceUnavailable, True),
    423: (PermissionDenied, False),
    425: (ServiceUnavailable, True),
    429: (RateLimited, True),
}
_INVALID = frozenset({400, 413, 422})
# A redirect is not followed: our keys stay with the address they were given for. These three say of a POST that it
# was not taken (RFC 9110, 15.4).
_MOVED = frozenset({301, 307, 308})

Judge = Callable[[HttpResponse, Complaint], "tuple[type[ApiError], bool] | None"]
"""What a dialect knows from the words of a complaint: the class of error, and whether it may pass."""

_CONCURRENCY = re.compile(r"concurrent requests(?: \((\d{1,6})\))?", re.IGNORECASE)


def by_words(response: HttpResponse, complaint: Complaint) -> tuple[type[ApiError], bool] | None:
    """What is said in the same words by everything that Higgsfield runs."""
    if complaint.code == "rate_limit_reached" or _CONCURRENCY.search(complaint.message):
        return RateLimited, True
    if "not_enough_credits" in (complaint.code, complaint.message):
        return InsufficientCredits, False
    if complaint.html and response.status == 403:
        # The challenge page of the edge in front of the service, not the service's own 403.
        return ServiceUnavailable, True
    return None


def error_from(
    response: HttpResponse,
    name: str,
    *,
    judge: Judge = by_words,
    private: Iterable[str] = (),
    looking: bool = False,
    advice: Mapping[int, str] = {},
) -> HiggsfieldError:
    """The error in an answer that is one.

    Args:
        response: The answer; any status outside 2xx.
        name: What was asked, for the message.
        judge: The dialect's own knowledge.
        private: Strings that must not be repeated in the message: keys, prompts, addresses.
        looking: Whether this answers a look at a generation. What is not the service's own word may pass then: a page
            of some gateway, a redirect to some portal.
        advice: By status, what an answer means here, where its words do not say otherwise.
    """
    complaint = read_complaint(response)
    status = response.status
    found = judge(response, complaint)
    meant = f" {advice[status]}" if found is None and status in advice else ""
    words = clean(complaint.message, private)[:_LONGEST_DETAIL]
    said = f": {words.rstrip('.')}" if words else ", without a word"
    common: dict[str, Any] = {
        "detail": complaint.detail,
        "correlation_id": response.headers.get("x-correlation-id"),
        # 408 is the one 4xx that does not say whether the request was taken.
        "refused": (400 <= status < 500 and status != 408) or status in _MOVED,
        "retry_after": response.retry_after,
    }
    if found is None and status in _INVALID:
        return InvalidRequest(
            f"The service refused {name} with HTTP {status}{said}.{meant}",
            errors=complaint.fields,
            status=status,
            transient=looking and complaint.html,
            **common,
        )
    if found is None:
        found = _BY_STATUS.get(status) or ((ServiceUnavailable, True) if status >= 500 else (ApiError, False))
    kind, transient = found
    transient = transient or (looking and (complaint.html or kind is ApiError))
    where = clean(response.headers.get("location", ""), private)
    said += f"; it redirects to {where}, which is not followed" if 300 <= status < 400 and where else ""
    if name == "submit" and kind is RateLimited:
        said += "; nothing was created"
    if response.retry_after is not None:
        said += f"; it asks to wait {response.retry_after:g} s"
    code = f", {clean(complaint.code, private)}" if complaint.code else ""
    msg = f"The service answered {name} with HTTP {status}{code}{said}.{_ADVICE.get(kind, '')}{meant}"
    common |= {"status": status, "code": complaint.code, "transient": transient}
    if kind is RateLimited:
        return RateLimited(msg, limit=_limit(complaint), **common)
    return kind(msg, **common)


_ADVICE: Mapping[type[ApiError], str] = {
    AuthenticationFailed: " Check the key.",
    InsufficientCredits: " Top the account up.",
}


def _limit(complaint: Complaint) -> int | None:
    limit = as_object(complaint.detail).get("limit")
    if isinstance(limit, int) and not isinstance(limit, bool):
        return limit
    found = _CONCURRENCY.search(complaint.message)
    return int(found[1]) if found and found[1] else None


# With a query or without: to look for one behind every `http` of a long text would take the square of its length.
_ADDRESS = re.compile(r"https?://[^\s\"'<>]*")


def clean(text: str, private: Iterable[str] = ()) -> str:
    """A text from the service without what must not be shown: signed addresses, and what the caller sent."""
    for secret in sorted((each for each in private if len(each) >= _SHORTEST), key=len, reverse=True):
        # As it is, and as it stands inside another quotation of it.
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            text = text.replace(form, "…")
        # One that was cut short takes what follows with it: nobody can tell where it ends.
        head = secret[:_TELLING]
        if len(secret) > _TELLING and head in text:
            text = text[: text.index(head)] + "…"
    printable = "".join(char if char.isprintable() else " " for char in text)
    return _ADDRESS.sub(_without_query, " ".join(printable.split()))


def _without_query(address: re.Match[str]) -> str:
    shown, asked, _ = address[0].partition("?")
    return f"{shown}?…" if asked else shown


# A shorter prompt stands in every text by chance: hiding it would hide what the service says.
_SHORTEST = 4
# So many characters of a prompt are no coincidence.
_TELLING = 24


_HOLDERS = frozenset({str, list, dict})


def private_strings(value: object, key: str = "") -> set[str]:
    """The strings in a request's body that a message must not repeat: what is, or may be, a prompt or an address."""
    found: set[str] = set()
    waiting: list[tuple[str, object]] = [(key, value)]
    # No recursion: how deep it goes, and how much there is, is the caller's doing.
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            if value and (len(value) > 12 or " " in value or "prompt" in key or key == "text"):
                found.add(value)
        elif is_array(value):
            waiting += [(key, item) for item in value if type(item) in _HOLDERS]
        else:
            waiting += [(name, item) for name, item in as_object(value).items() if type(item) in _HOLDERS]
    return found


def read_time(value: object) -> datetime | None:
    """A `created_at` of any form, or None: beyond what decoding reads by itself, any other ISO 8601."""
    try:
        return msgspec.convert(value, datetime | None, strict=False)
    except (msgspec.ValidationError, ValueError):
        pass  # the latter for a year beyond 9999
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def read_utc(value: object) -> datetime | None:
    """As `read_time`; a time without a zone is UTC."""
    time = read_time(value)
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


MediaKind: TypeAlias = Literal["image", "video", "audio"]

_SUFFIXES: Mapping[str, MediaKind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif"), "image"),
    **dict.fromkeys((".mp4", ".webm", ".mov", ".m4v"), "video"),
    **dict.fromkeys((".wav", ".mp3", ".m4a", ".ogg", ".flac", ".aac"), "audio"),
}


def media_word(value: object) -> MediaKind | None:
    """The service's word for what a file is, where it is one, or None."""
    return value if value in ("image", "video", "audio") else None


def kind_of_media(url: str) -> MediaKind | Literal["file"]:
    """What a file is, by its name: for where the service has no word for it."""
    return _SUFFIXES.get(suffix_of(url), "file")


def url_of(file: object) -> str | None:
    """The address of a file: an object with a `url`, or, some day, the bare address."""
    return text_or_none(as_object(file).get("url")) if is_object(file) else text_or_none(file)


def text_or_none(value: object) -> str | None:
    """A string that is there, or None."""
    return value if isinstance(value, str) and value else None


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether this is a JSON object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Whether this is a JSON array."""
    return isinstance(value, list)


def as_object(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if is_object(value) else {}


def as_list(value: object) -> Sequence[Any]:
    """A JSON array, or an empty one."""
    return value if is_array(value) else []


def strings(value: object) -> tuple[str, ...]:
    """The strings of a JSON array."""
    return tuple(item for item in as_list(value) if isinstance(item, str))
