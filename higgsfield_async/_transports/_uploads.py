"""Uploads to the platform: leave to put a file into its storage, and what the storage answers.

Source: https://docs.higgsfield.ai/docs/concepts/file-uploads. The storage is S3, with errors of its own:
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from higgsfield_async._domain import Upload
from higgsfield_async._errors import FieldError, InvalidRequest, UploadError
from higgsfield_async._http import Grant, HttpRequest, HttpResponse, moment
from higgsfield_async._media import Attachment
from higgsfield_async._transports._answers import as_object, is_object, malformed, read_json, text_or_none

TAKEN = (
    "image/jpeg",
    "image/jpg",
    "image/png",
    "image/webp",
    "image/gif",
    "audio/wav",
    "audio/x-wav",
    "video/mp4",
)

# How files of these types begin (https://mimesniff.spec.whatwg.org). The container of MP4 is also that of QuickTime,
# HEIC and AVIF: its brand tells them apart (https://mp4ra.org/registered-types/brands).
_BEGINNINGS = (
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("audio/wav", re.compile(rb"RIFF....WAVE", re.DOTALL)),
    ("video/mp4", re.compile(rb"....ftyp(iso[m2-9]|mp4[12]|avc1|dash|MSNV|M4V[ HP])", re.DOTALL)),
)

# Others that are well known, so that a refusal can say what it is. The first row that matches counts.
_NOT_TAKEN = (
    ("HEIC", re.compile(rb"....ftyp(hei[cfmsvx]|hev[cmsx]|mif1|msf1)", re.DOTALL)),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
    ("QuickTime", re.compile(rb"....(ftypqt|moov|mdat|wide)", re.DOTALL)),
    ("M4A", re.compile(rb"....ftypM4[AB] ", re.DOTALL)),
    ("3GP", re.compile(rb"....ftyp3g", re.DOTALL)),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("BMP", re.compile(rb"BM....\0\0\0\0", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("an icon", re.compile(rb"\0\0[\x01\x02]\0")),
    ("a Photoshop file", re.compile(rb"8BPS")),
    ("SVG", re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg", re.IGNORECASE)),
    ("MP3", re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")),
    ("AAC", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    ("Ogg", re.compile(rb"OggS")),
    ("FLAC", re.compile(rb"fLaC")),
    ("AIFF", re.compile(rb"FORM....AIF[FC]", re.DOTALL)),
    ("AVI", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("WebM or Matroska", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("PDF", re.compile(rb"%PDF-")),
    ("a ZIP archive", re.compile(rb"PK\x03\x04")),
    ("HTML", re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)),
)

# How long the storage keeps what was uploaded, where its answer does not say.
_KEPT = timedelta(days=7)
# Anything later is no date that a rule of such a storage makes.
_LATEST = timedelta(days=366)

# Headers that frame the message: they are the engine's own, and no part of what was granted.
_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?([/?][\x21-\x7e]*)?", re.ASCII)

_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
_EXPIRY = re.compile(r'expiry-date="([^"]+)"')


def checked_content_type(head: bytes, size: int, content_type: object) -> str:
    """The type of what is uploaded: the one that is given, or the one that its first bytes tell.

    Raises:
        InvalidRequest: It is empty, or of no type that the service takes.
    """
    if size == 0:
        raise _refused("content", "is empty")
    if content_type is None:
        found = _type_of(head)
        if found is None:
            raise _refused("content", _not_taken(head, "platform", _SORTS[None]))
        return found
    taken = ", ".join(TAKEN)
    if not isinstance(content_type, str) or content_type.lower() not in TAKEN:
        raise _refused("content_type", f"{str(content_type)[:100]!r} is none that the platform takes: {taken}")
    return content_type.lower()


def checked_files(service: str, request: object, files: Sequence[Attachment]) -> list[str]:
    """The types of a request's local files, as their first bytes tell them.

    Args:
        service: Who is to take them, for messages.
        request: What they stand in.
        files: What is known of them.

    Raises:
        InvalidRequest: One is empty, or of a type that is not taken there.
    """
    found: list[str] = []
    wrong: list[FieldError] = []
    for file in files:
        kind = _type_of(file.head)
        if file.size == 0:
            wrong.append(FieldError(file.loc, f"{file.name} is empty".lstrip(), "value_error"))
        elif kind is None or not kind.startswith(file.sort or ""):
            why = _not_taken(file.head, service, _SORTS[file.sort])
            wrong.append(FieldError(file.loc, f"{file.name} {why}".lstrip(), "value_error"))
        else:
            found.append(kind)
    if wrong:
        told = "; ".join(f"{type(request).__name__}.{error}" for error in wrong)
        raise InvalidRequest(told, errors=tuple(wrong))
    return found


# What is taken where nothing else is said, and for each sort.
_SORTS = {
    None: "JPEG, PNG, WebP, GIF, WAV and MP4",
    "image": "JPEG, PNG, WebP and GIF",
    "audio": "WAV",
}


def _type_of(head: bytes) -> str | None:
    return next((name for name, begins in _BEGINNINGS if begins.match(head)), None)


def _not_taken(head: bytes, service: str, taken: str) -> str:
    known = _type_of(head) or next((name for name, begins in _NOT_TAKEN if begins.match(head)), None)
    if known is None:
        return f"does not begin like a file that the {service} takes here: {taken}"
    return f"is {known}, which the {service} does not take here: only {taken}"


def _refused(field: str, why: str) -> InvalidRequest:
    error = FieldError((field,), why, "value_error")
    return InvalidRequest(f"{error}.", errors=(error,))


class _Granted(Struct):
    """`POST /files/generate-upload-url`; the answers of 2025 had no `upload_headers`."""

    public_url: Any = None
    upload_url: Any = None
    content_type: Any = None
    upload_headers: Any = None


_granted_decoder = msgspec.json.Decoder(_Granted)


def read_grant(response: HttpResponse, name: str, content_type: str, size: int) -> Grant[Upload]:
    """Leave to put so many bytes of that type into the storage."""
    wire = read_json(response, _granted_decoder, name)
    public_url = checked_address(response, name, "public_url", wire.public_url)
    content_type = text_or_none(wire.content_type) or content_type
    request = put_request(response, name, wire.upload_url, wire.upload_headers, content_type)

    def decode(response: HttpResponse) -> Upload:
        if 200 <= response.status < 300:
            expires_at = _expiry(response)
            return Upload(url=public_url, content_type=content_type, size=size, expires_at=expires_at)
        raise storage_error(response, request)

    return Grant(request, decode)


def put_request(
    response: HttpResponse, name: str, upload_url: object, upload_headers: object, content_type: str
) -> HttpRequest:
    """How a file is put where an answer says, which must be sound: its address and all its headers."""
    url = checked_address(response, name, "upload_url", upload_url)
    # Each of them is signed: without one of them the storage answers 403.
    headers = as_object(upload_headers)
    sound = upload_headers is None or is_object(upload_headers)
    if not sound or not all(_HEADER_NAME.fullmatch(each) and _is_value(headers[each]) for each in headers):
        raise malformed(response, name, "its upload_headers are none")
    if "content-type" not in map(str.lower, headers):
        headers = {"Content-Type": content_type, **headers}
    headers = {each: value for each, value in headers.items() if each.lower() not in _FRAMING}
    return HttpRequest("PUT", url, headers)


def checked_address(response: HttpResponse, name: str, field: str, url: object) -> str:
    """An address in an answer, which must be one."""
    try:
        if isinstance(url, str) and _ADDRESS.fullmatch(url) and urlsplit(url).port != 0:
            return url
    except ValueError:
        pass
    raise malformed(response, name, f"its {field} is no address")


def _is_value(value: object) -> bool:
    return isinstance(value, str) and _HEADER_VALUE.fullmatch(value) is not None


def _expiry(response: HttpResponse) -> datetime:
    now = datetime.fromtimestamp(response.now, UTC)
    found = _EXPIRY.search(response.headers.get("x-amz-expiration", ""))
    when = moment(found[1]) if found else None
    if when is None or not response.now <= when <= response.now + _LATEST.total_seconds():
        return now + _KEPT
    return datetime.fromtimestamp(when, UTC)


def storage_error(response: HttpResponse, request: HttpRequest) -> UploadError:
    """What the storage says, where it did not take what was put there."""
    status, start, host = response.status, response.body[:4000], urlsplit(request.url).hostname
    # The storage's own words are left out: they may quote the signature, and what was signed.
    found = _CODE.search(start)
    code = found[1].decode() if found else ""
    expired = status in (400, 403) and b"expired" in start.lower()
    passing = status in (408, 425, 429) or status >= 500 or code == "RequestTimeout"
    said = f" ({code})" if code else ""
    said += "; the address had expired" if expired else ""
    said += "; it redirects elsewhere, which is not followed" if 300 <= status < 400 else ""
    return UploadError(
        f"{host} answered the upload with HTTP {status}{said}.",
        status=status,
        transient=expired or passing,
        retry_after=response.retry_after,
    )
