"""Where files are: uploads through presigned addresses, and results. It is an origin of its own and knows no keys."""

from __future__ import annotations

import functools
import hashlib
import mimetypes
import re
import uuid
from collections.abc import Callable
from email.utils import format_datetime
from pathlib import PurePosixPath

import msgspec

from ._exchange import Found, Handler, Received, Reply, Route, Surface
from ._media import CONTENT_TYPES, MISSING_ENCODER, can_encode_video, render
from ._state import Account, Generation, Kind

_TAGGING = "retention=temporary"
_SUFFIXES: dict[Kind, str] = {"image": ".png", "video": ".mp4", "speech": ".mp4", "audio": ".wav"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_DOCUMENT = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'


def _error(status: int, code: str, message: str) -> Reply:
    body = _DOCUMENT.format(code, message).encode()
    return Reply(status=status, body=body, headers={"Content-Type": "application/xml"})


_MISSING = _error(404, "NoSuchKey", "The specified key does not exist.")
_UNSIGNED = _error(
    403,
    "SignatureDoesNotMatch",
    "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
)
_CHUNKED = _error(
    501,
    "NotImplemented",
    "A header you provided implies functionality that is not implemented: Transfer-Encoding",
)


class _Upload(msgspec.Struct):
    content_type: str
    signature: str
    tagging: str | None = _TAGGING
    data: bytes | None = None


class Storage:
    """S3 and the CDN before it."""

    surface: Surface = "media"
    body_limit = 0
    too_large = _error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.")
    keep_alive: int | None = None
    routes: tuple[Route, ...]

    def __init__(self, account: Account, url: str) -> None:
        self._account = account
        self.url = url
        self._uploads: dict[str, _Upload] = {}
        reads: tuple[tuple[str, Handler], ...] = (
            ("/results/{id}/{name}", self._result),
            ("/templates/{name}", self._template),
            ("/input/{name}", self._uploaded),
        )
        self.routes = (
            *(Route.to(f"GET {path}", "media", "download", handler) for path, handler in reads),
            *(Route.to(f"HEAD {path}", "media", "download", handler) for path, handler in reads),
            Route.to("PUT /upload/{name}", "media", "upload", self._put),
        )

    def answer(self, received: Received, found: Found) -> Reply:
        """The answer to an upload or a download."""
        if found is None:
            return _MISSING
        route, arguments = found
        return route.handler(received, **arguments)

    def finish(self, received: Received, reply: Reply) -> Reply:
        """The part asked for with ``Range``, where the file allows parts; each has an ``ETag``, of its content."""
        body = reply.body
        if not isinstance(body, bytes) or "Accept-Ranges" not in reply.headers:
            return reply
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        reply = msgspec.structs.replace(reply, headers={"ETag": tag, **reply.headers})
        match = _RANGE.fullmatch(received.headers.get("Range", ""))
        if match is None:
            return reply
        condition = received.headers.get("If-Range")
        if condition is not None and condition not in (reply.headers.get("ETag"), reply.headers.get("Last-Modified")):
            return reply
        first, last = match.groups()
        length = len(body)
        start = int(first) if first else max(0, length - int(last or 0))
        stop = min(int(last) + 1, length) if first and last else length
        if start >= stop:
            return Reply(status=416, headers={"Content-Range": f"bytes */{length}"})
        headers = {**reply.headers, "Content-Range": f"bytes {start}-{stop - 1}/{length}"}
        return Reply(status=206, body=body[start:stop], headers=headers)

    def grant_plain(self, content_type: str) -> tuple[str, str, str]:
        """A presigned address that signs nothing but the type: the file's name, where to put it, and where it is."""
        granted = self.grant(content_type)
        public_url, upload_url = str(granted["public_url"]), str(granted["upload_url"])
        name = public_url.rpartition("/")[2]
        self._uploads[name].tagging = None
        return name, upload_url.replace("%3Bx-amz-tagging", ""), public_url

    def has(self, name: str) -> bool:
        """Whether the file of that name was put here."""
        upload = self._uploads.get(name)
        return upload is not None and upload.data is not None

    def grant(self, content_type: str) -> dict[str, object]:
        """A presigned address; every header of ``upload_headers`` is signed, so none may be left out."""
        name = f"{uuid.uuid4()}{mimetypes.guess_extension(content_type) or ''}"
        signature = uuid.uuid4().hex * 2
        self._uploads[name] = _Upload(content_type, signature)
        signed = "X-Amz-Expires=3600&X-Amz-SignedHeaders=content-type%3Bhost%3Bx-amz-tagging"
        return {
            "public_url": f"{self.url}/input/{name}",
            "upload_url": f"{self.url}/upload/{name}?{signed}&X-Amz-Signature={signature}",
            "content_type": content_type,
            "upload_headers": {"Content-Type": content_type, "x-amz-tagging": _TAGGING},
        }

    def result_url(self, generation: Generation, job: str, *, small: bool = False) -> str:
        """Where the result of one job is, as made or (``small``) as optimised."""
        return f"{self.url}/results/{generation.id}/{job}{'_min' if small else ''}{_SUFFIXES[generation.kind]}"

    def _put(self, received: Received, name: str) -> Reply:
        upload = self._uploads.get(name)
        if "Transfer-Encoding" in received.headers:
            # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
            return _CHUNKED
        sent = received.headers.get("Content-Type"), received.headers.get("x-amz-tagging")
        signature = received.query.get("X-Amz-Signature")
        if upload is None or upload.signature != signature or sent != (upload.content_type, upload.tagging):
            return _UNSIGNED
        upload.data = received.body
        return Reply(headers={"x-amz-expiration": 'expiry-date="in 7 days", rule-id="temporary"'})

    def _uploaded(self, received: Received, name: str) -> Reply:
        upload = self._uploads.get(name)
        if upload is None or upload.data is None:
            return _MISSING
        return _file(upload.data, upload.content_type)

    def _result(self, received: Received, id: str, name: str) -> Reply:
        generation = self._account.generations.get(id)
        path = PurePosixPath(name)
        job = path.stem.removesuffix("_min")
        if generation is None or generation.deleted or not generation.finished or job not in generation.jobs:
            return _MISSING
        width, height = generation.order.size
        if job != path.stem:
            width, height = max(2, width // 2), max(2, height // 2)
        reply = _rendered(path.suffix, path.stem, (width, height), generation.order.seconds)
        made = {"Last-Modified": format_datetime(generation.created, usegmt=True), **reply.headers}
        return msgspec.structs.replace(reply, headers=made)

    def _template(self, received: Received, name: str) -> Reply:
        path = PurePosixPath(name)
        return _rendered(path.suffix, path.stem, (320, 202), 2.0)


def _rendered(suffix: str, seed: str, size: tuple[int, int], seconds: float) -> Reply:
    if suffix not in CONTENT_TYPES:
        return _MISSING
    if suffix == ".mp4" and not can_encode_video():
        return Reply(status=501, body=MISSING_ENCODER, headers={"Content-Type": "text/plain; charset=utf-8"})
    return _file(functools.partial(render, suffix, seed, size, seconds), CONTENT_TYPES[suffix])


def _file(body: bytes | Callable[[], bytes], content_type: str) -> Reply:
    return Reply(body=body, headers={"Content-Type": content_type, "Accept-Ranges": "bytes"})
