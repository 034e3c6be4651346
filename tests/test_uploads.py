"""Files on their way into the platform's storage: whole, without our keys, and again where that helps."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import json
import logging
import os
import pickle
import threading
import traceback
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from hypothesis import given, strategies as st

from cancelling import cancelled_once
from higgsfield_async import (
    AuthenticationFailed,
    ClientClosed,
    Higgsfield,
    InvalidRequest,
    Limits,
    MalformedResponse,
    ModelRequest,
    PlatformTransport,
    RetryPolicy,
    Unsupported,
    Upload,
    UploadError,
    _uploads,
)
from higgsfield_async._content import PIECE, content_of
from higgsfield_async._http import Grant, HttpResponse
from higgsfield_async._transports._uploads import TAKEN
from higgsfield_async.sandbox import Fault, Sandbox
from raw import RawServer, answer, raw_server

Client = Callable[..., Higgsfield]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
# More than three pieces, and no whole number of them.
LARGE = PNG + os.urandom(3 * PIECE)
SIGNATURE = "X-Amz-Signature=TOPSECRET"
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
# What the sandbox does by itself: here, when it is asked for leave.
AS_IT_IS = Fault()


def grant_of(url: str, **headers: object) -> bytes:
    named = {"Content-Type": "image/png", "x-amz-tagging": "retention=temporary", **headers}
    wire = {"public_url": "https://cdn.example.com/x.png", "upload_url": f"{url}/put?{SIGNATURE}"}
    return json.dumps({**wire, "content_type": "image/png", "upload_headers": named}).encode()


def open_files(path: Path) -> list[str]:
    found: list[str] = []
    for number in Path("/proc/self/fd").glob("*"):  # on Linux alone
        with contextlib.suppress(FileNotFoundError):  # the listing itself was one of them
            found.append(str(number.readlink()))
    return [each for each in found if each.startswith(str(path.resolve()))]


@pytest.fixture(params=["bytes", "file"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bytes], bytes | Path]:
    def make(content: bytes) -> bytes | Path:
        if request.param == "bytes":
            return content
        path = tmp_path / "upload.bin"
        path.write_bytes(content)
        return path

    return make


@pytest.mark.parametrize("content", [PNG, LARGE, PNG[:8], PNG + bytes(2 * PIECE - len(PNG))], ids=len)
async def test_what_is_sent_is_what_lies_there(
    sandbox: Sandbox, client: Client, made: Callable[[bytes], Any], content: bytes
) -> None:
    async with client("platform") as hf:
        upload = await hf.upload(made(content))
        async with aiohttp.ClientSession() as session, session.get(upload.url) as response:
            assert await response.read() == content
            assert response.content_type == upload.content_type == "image/png"
    assert upload.size == len(content)
    assert upload.expires_at is not None
    assert timedelta(days=6.9) < upload.expires_at - datetime.now(UTC) <= timedelta(days=7)
    asked, put, _ = sandbox.received
    assert (asked.method, asked.path, asked.json()) == (
        "POST",
        "/files/generate-upload-url",
        {"content_type": "image/png"},
    )
    assert (put.method, put.surface) == ("PUT", "media")
    assert put.headers["Content-Length"] == str(len(content))
    assert put.headers["x-amz-tagging"] == "retention=temporary"
    assert put.headers["User-Agent"].startswith("higgsfield-async/")
    assert "Transfer-Encoding" not in put.headers
    shown = str(put.headers).lower()
    for private in ("authorization", "hf-", sandbox.key_id, sandbox.key_secret):
        assert private not in shown


async def test_an_upload_serves_a_request(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        upload = await hf.upload(PNG)
        await hf.run(ModelRequest("higgsfield-ai/dop/turbo", {"prompt": "x", "image_url": upload.url}))
    assert len(sandbox.generations) == 1


TYPES = {
    "image/jpeg": [b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\xff\xd8\xff"],
    "image/png": [b"\x89PNG\r\n\x1a\n"],
    "image/webp": [b"RIFF\x24\x00\n\x00WEBPVP8 "],
    "image/gif": [b"GIF87a", b"GIF89a..."],
    "audio/wav": [b"RIFF\x24\x08\x00\x00WAVEfmt "],
    "video/mp4": [b"\x00\x00\x00\x1cftyp" + brand for brand in (b"isom", b"iso5", b"mp41", b"mp42", b"avc1", b"M4V ")],
}
NONE = [b"x", b"GIF88a", b"\x89PNG", b" \xff\xd8\xff", b"\x00\x00\x00\x1cftyp????", b"RIFF\x24\x08\x00\x00????"]
PLATFORM = PlatformTransport("id", "secret")


def asked_for(head: bytes, content_type: str | None = None) -> str:
    call = PLATFORM.upload(head, len(head), content_type)
    found: str = json.loads(call.request.body or b"")["content_type"]
    return found


@pytest.mark.parametrize(("name", "head"), [(name, head) for name, heads in TYPES.items() for head in heads])
def test_the_type_is_told_by_the_first_bytes(name: str, head: bytes) -> None:
    assert asked_for(head) == name
    assert asked_for(head + b"\n\x00" * 100) == name


@pytest.mark.parametrize("head", NONE)
def test_a_type_that_is_not_taken(head: bytes) -> None:
    with pytest.raises(InvalidRequest, match="does not begin like .* JPEG, PNG, WebP, GIF, WAV and MP4"):
        asked_for(head)


@given(st.binary(min_size=1, max_size=64))
def test_any_beginning_has_a_type_that_is_taken_or_is_refused(head: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert asked_for(head) in TAKEN


@pytest.mark.parametrize("name", TAKEN)
def test_a_type_that_is_given(name: str) -> None:
    assert asked_for(b"?", name) == asked_for(b"?", name.upper()) == name


@pytest.mark.parametrize("name", ["image/heic", "image/png; charset=x", "", "png", 7, "x" * 1000])
def test_a_given_type_that_is_not_taken(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="is none that the platform takes: image/jpeg") as caught:
        asked_for(PNG, name)
    assert repr(str(name)[:100]) in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.errors[0].loc == ("content_type",)


async def test_what_is_refused_before_anything_is_sent(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    secret.chmod(0)
    os.mkfifo(tmp_path / "pipe")
    refused: list[tuple[Any, str]] = [
        (b"", "content: is empty"),
        (empty, "content: is empty"),
        (tmp_path / "missing.png", "cannot be read from .*missing.png: No such file"),
        (tmp_path, "cannot be read from .*: it is not a file"),
        (tmp_path / "pipe", "it is not a file"),
        (tmp_path / "a\0b", "null"),
        ("cat.png", "must be a data URI where it is text; a path is a pathlib.Path, and never a str"),
        (bytearray(PNG), "must be bytes, a pathlib.Path, .* or a Pillow image, not bytearray"),
        (io.StringIO("x"), "open it with"),
        (None, "not NoneType"),
        (b"hello", "does not begin like"),
    ]
    if os.geteuid() != 0:  # nothing is unreadable to root
        refused.append((secret, "Permission denied"))
    async with client("platform") as hf:
        for content, words in refused:
            with pytest.raises(InvalidRequest, match=words) as caught:
                await hf.upload(content)
            assert caught.value.errors[0].loc == ("content",)
        with pytest.raises(InvalidRequest, match="'image/heic' is none"):
            await hf.upload(PNG, content_type="image/heic")
    async with client("proxy") as hf:
        with pytest.raises(Unsupported, match="as base64"):
            await hf.upload(PNG)
    assert not sandbox.received


PASSING = {
    "reset": Fault.reset(),
    "reset after it was taken": Fault.reset(accept=True),
    "503": Fault.answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    "500": Fault.answer(500),
    "429": Fault.answer(429),
    "408": Fault.answer(408),
    "slow": Fault.answer(400, b"<Error><Code>RequestTimeout</Code></Error>"),
    "expired": Fault.answer(403, EXPIRED),
    "its key expired": Fault.answer(400, b"<Error><Code>ExpiredToken</Code></Error>"),
}


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_is_begun_again(
    sandbox: Sandbox, client: Client, made: Callable[[bytes], Any], name: str
) -> None:
    sandbox.script("upload", AS_IT_IS, PASSING[name], AS_IT_IS, PASSING[name])
    async with client("platform") as hf:
        upload = await hf.upload(made(LARGE))
    assert upload.size == len(LARGE)
    # Each time with new leave, and to its address.
    assert [received.method for received in sandbox.received] == ["POST", "PUT"] * 3
    assert len({received.path for received in sandbox.received}) == 4
    assert sandbox.received[-1].body == LARGE


LASTING = {
    "signature": (Fault.answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"), r"403 \(SignatureDoesNot"),
    "too large": (Fault.answer(400, b"<Error><Code>EntityTooLarge</Code></Error>"), r"HTTP 400 \(EntityTooLarge\)\."),
    "without a word": (Fault.answer(403), r"HTTP 403\."),
    "moved": (Fault.answer(307, b"", {"Location": f"http://127.0.0.1:1/?{SIGNATURE}"}), "which is not followed"),
}


@pytest.mark.parametrize("name", LASTING)
async def test_what_does_not_pass_is_not_tried_again(sandbox: Sandbox, client: Client, name: str) -> None:
    fault, words = LASTING[name]
    sandbox.script("upload", AS_IT_IS, fault)
    async with client("platform") as hf:
        with pytest.raises(UploadError, match=words) as caught:
            await hf.upload(PNG)
    assert "TOPSECRET" not in str(caught.value)
    assert fault.answer_with is not None
    assert (caught.value.status, caught.value.transient) == (fault.answer_with.status, False)
    assert len(sandbox.received) == 2


async def test_what_never_passes(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("upload", *[AS_IT_IS, Fault.answer(503, b"", {"Retry-After": "0"})] * 3)
    async with client("platform", retry=RetryPolicy(attempts=3, first=0)) as hf:
        with pytest.raises(UploadError, match="HTTP 503") as caught:
            await hf.upload(PNG)
    assert (caught.value.status, caught.value.retry_after, caught.value.charged) == (503, 0.0, "no")
    assert len(sandbox.received) == 6


async def test_no_leave(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        sandbox.script("upload", Fault.answer(401, b'{"detail":"Invalid credentials"}'))
        with pytest.raises(AuthenticationFailed):
            await hf.upload(PNG)
        sandbox.script("upload", *[Fault.ok_html()] * 5)
        with pytest.raises(MalformedResponse, match="the request for an upload"):
            await hf.upload(PNG)
        sandbox.script("upload", Fault.answer(503), Fault.reset())
        assert (await hf.upload(PNG)).size == len(PNG)
    assert [received.method for received in sandbox.received] == ["POST"] * 9 + ["PUT"]


ASKED = PLATFORM.upload(PNG, 9, None)


def granted(**fields: object) -> Grant[Upload]:
    wire = {**json.loads(grant_of("https://storage.example.com")), **fields}
    wire = {name: value for name, value in wire.items() if value is not ...}
    grant = ASKED.decode(HttpResponse(200, {}, json.dumps(wire).encode()))
    assert isinstance(grant, Grant)
    return grant


def test_headers_of_a_grant() -> None:
    assert granted().request.headers == {"Content-Type": "image/png", "x-amz-tagging": "retention=temporary"}
    # The answers of 2025 had none.
    for none in (None, ...):
        assert granted(upload_headers=none).request.headers == {"Content-Type": "image/png"}
    assert granted(upload_headers={}, content_type="image/x").request.headers == {"Content-Type": "image/x"}
    assert granted(upload_headers={}, content_type=3).request.headers == {"Content-Type": "image/png"}
    assert granted(upload_headers={"content-type": "a", "X": ""}).request.headers == {"content-type": "a", "X": ""}
    framing = {"Content-Length": "1", "transfer-encoding": "chunked", "HOST": "x", "Connection": "close"}
    assert granted(upload_headers=framing).request.headers == {"Content-Type": "image/png"}
    assert repr(granted()) == "Grant(HttpRequest(PUT https://storage.example.com/put?…))"


ODD: list[tuple[str, list[object]]] = [
    ("upload_url", [None, ..., "", 3, "x", "ftp://a/b", "https://", "https:///x", "https://a b/c", "https://a\\b/c"]),
    ("upload_url", ["https://u:p@a/b", "https://a:0/b", "https://a:70000/b", "https://a/b\r\nX: y", "https://a/é"]),
    ("upload_url", ["https://é/b", "http://[::1/"]),
    ("public_url", [None, "cdn.example.com"]),
    ("upload_headers", [[], "x", {"X": 3}, {"X": "a\r\nY: b"}, {"X": "é"}, {"": "x"}, {"X Y": "x"}]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in ODD for value in values])
def test_a_grant_that_is_none(field: str, value: object) -> None:
    with pytest.raises(MalformedResponse, match=rf"its {field} (is no address|are none)"):
        granted(**{field: value})


NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "days"),
    [
        ('expiry-date="Mon, 30 Nov 2026 00:00:00 GMT", rule-id="temporary"', 8),
        ('rule-id="x", expiry-date="Sun, 29 Nov 2026 00:00:00 GMT"', 7),
        ("", 7),
        ('expiry-date="in 8 days"', 7),
        ('expiry-date="Fri, 31 Dec 9999 23:59:59 -2300"', 7),
        ('expiry-date="Sat, 21 Nov 2026 00:00:00 GMT"', 7),
    ],
)
def test_until_when_it_is_kept(header: str, days: int) -> None:
    upload = granted().decode(HttpResponse(200, {"x-amz-expiration": header}, b"", NOW.timestamp()))
    assert upload == Upload(
        url="https://cdn.example.com/x.png", content_type="image/png", size=9, expires_at=NOW + timedelta(days=days)
    )


def test_an_upload_is_shown_without_its_query() -> None:
    upload = Upload(url=f"https://a.b/c.png?{SIGNATURE}", content_type="image/png", size=9)
    assert repr(upload) == "Upload('https://a.b/c.png?…', content_type='image/png', size=9, expires_at=None)"


REPLIES = {
    "stored": answer("200 OK"),
    "echo": answer("403 Forbidden", f"<Error><Code>{SIGNATURE}</Code>{SIGNATURE}</Error>".encode()),
    "redirect": answer("307 Temporary Redirect", b"", f"Location: http://127.0.0.1:1/?{SIGNATURE}"),
    "not http": b"\x00\x01 nonsense\r\n\r\n",
    "nothing": b"",
    "html": answer("502 Bad Gateway", f"<html>{SIGNATURE}</html>".encode()),
}


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("content", [PNG, LARGE], ids=["small", "large"])
async def test_neither_keys_nor_signatures_go_astray(
    sandbox: Sandbox, client: Client, name: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        # Before all of it has come.
        writer.write(REPLIES[name])

    shown: list[str] = []
    async with raw_server(reply) as storage, client("platform", retry=RetryPolicy(attempts=2, first=0)) as hf:
        sandbox.script("upload", *[Fault.answer(200, grant_of(storage.url))] * 2)
        try:
            shown.append(repr(await hf.upload(content)))
        except UploadError as error:
            chain: BaseException | None = error
            while chain is not None:
                shown += [str(chain), repr(chain), *map(repr, chain.args)]
                chain = chain.__cause__ or chain.__context__
            shown += [repr(pickle.loads(pickle.dumps(error))), *traceback.format_exception(error), repr(hf)]
        assert storage.heard
        for heard in storage.heard:
            assert heard.startswith(f"PUT /put?{SIGNATURE} HTTP/1.1\r\n".encode())
            for header in ("authorization", "hf-", sandbox.key_id, sandbox.key_secret):
                assert header.encode() not in heard.lower()
    for text in (*shown, caplog.text):
        for private in ("TOPSECRET", sandbox.key_id, sandbox.key_secret):
            assert private not in text


async def test_storage_that_is_not_there(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("upload", *[Fault.answer(200, grant_of("http://127.0.0.1:1"))] * 2)
    async with client("platform", retry=RetryPolicy(attempts=2, first=0)) as hf:
        with pytest.raises(UploadError, match=r"no connection could be made \(ClientConnectorError\)") as caught:
            await hf.upload(PNG)
    assert (caught.value.transient, caught.value.status) == (True, None)
    assert len(sandbox.received) == 2


async def deaf(_: RawServer, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_a_cancelled_upload_leaves_nothing_open(
    sandbox: Sandbox, client: Client, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(PNG)
    os.truncate(path, 64 * PIECE)
    begun, left = anyio.Event(), anyio.Event()

    async def sip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while await reader.read(PIECE):
                    begun.set()
                    await asyncio.sleep(0.01)
        finally:
            writer.close()
            left.set()

    async with await asyncio.start_server(sip, "127.0.0.1", 0) as server, client("platform") as hf:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sandbox.script("upload", Fault.answer(200, grant_of(url)))
        if how == "scope":
            async with anyio.create_task_group() as group:
                group.start_soon(hf.upload, path)
                with anyio.fail_after(10):
                    await begun.wait()
                group.cancel_scope.cancel()
        else:
            uploading = asyncio.ensure_future(hf.upload(path))
            with anyio.fail_after(10):
                await begun.wait()
            uploading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await uploading
        with anyio.fail_after(10):
            while open_files(path):  # a thread that is reading ends with its piece
                await asyncio.sleep(0.01)
            await left.wait()
        # Its place is free again.
        assert (await hf.upload(PNG)).size == len(PNG)
    gc.collect()


async def test_a_file_is_never_in_memory_as_a_whole(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    path.write_bytes(b"\x00\x00\x00\x1cftypisom")
    os.truncate(path, 48 * PIECE)
    taken = 0

    async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        while taken < 48 * PIECE:
            taken += len(await reader.read(PIECE))
        writer.write(answer("200 OK"))
        writer.close()

    async with await asyncio.start_server(drain, "127.0.0.1", 0) as server, client("platform") as hf:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sandbox.script("upload", Fault.answer(200, grant_of(url)))
        tracemalloc.start()
        try:
            upload = await hf.upload(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert upload.size == taken == 48 * PIECE
    assert peak < 12 * PIECE


async def test_a_file_that_is_not_what_it_was(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"

    async def rewrite(content: bytes | None) -> str:
        path.write_bytes(LARGE)
        before = len(sandbox.received)
        sandbox.script("upload", Fault.delay(0.2))
        async with client("platform") as hf:
            uploading = asyncio.ensure_future(hf.upload(path))
            with anyio.fail_after(10):
                while len(sandbox.received) == before:
                    await asyncio.sleep(0.01)
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(UploadError) as caught:
                await uploading
        assert not caught.value.transient
        assert not open_files(path)
        return str(caught.value)

    assert await rewrite(LARGE) == f"{path} was changed while it was uploaded: upload it when it is whole."
    assert await rewrite(LARGE[:-1]) == f"{path} was changed while it was uploaded: upload it when it is whole."
    assert await rewrite(None) == f"{path} can be read no more: No such file or directory."


async def test_an_upload_has_a_time_limit(sandbox: Sandbox, client: Client) -> None:
    async with raw_server(deaf) as storage:
        sandbox.script("upload", Fault.answer(200, grant_of(storage.url)))
        async with client("platform", limits=Limits(upload=0.1), retry=RetryPolicy(attempts=1)) as hf:
            with pytest.raises(UploadError, match=r"127\.0\.0\.1 was not done within 0\.1 s") as caught:
                await hf.upload(LARGE)
    assert caught.value.transient


async def test_storage_that_is_silent(sandbox: Sandbox, client: Client) -> None:
    async with raw_server(deaf) as storage:
        sandbox.script("upload", Fault.answer(200, grant_of(storage.url)))
        async with client("platform", limits=Limits(first_byte=0.5), retry=RetryPolicy(attempts=1)) as hf:
            with pytest.raises(UploadError, match=r"silent for 0\.5 s"):
                await hf.upload(PNG)


async def test_a_client_that_is_closed(sandbox: Sandbox, client: Client) -> None:
    async with raw_server(deaf) as storage:
        sandbox.script("upload", Fault.answer(200, grant_of(storage.url)))
        async with client("platform") as hf:
            uploading = asyncio.ensure_future(hf.upload(LARGE))
            with anyio.fail_after(10):
                while not storage.heard:
                    await asyncio.sleep(0.01)
        with pytest.raises(ClientClosed):
            await uploading
        with pytest.raises(ClientClosed):
            await hf.upload(PNG)


async def test_a_session_of_ones_own_that_is_closed_in_between(client: Client) -> None:
    async with aiohttp.ClientSession() as session, client("platform", session=session) as hf:
        request = session._request

        async def closing_before_put(method: str, *args: Any, **settings: Any) -> Any:
            if method == "PUT":
                await session.close()
            return await request(method, *args, **settings)

        session._request = closing_before_put  # type: ignore[method-assign]  # a session that closes just then
        with pytest.raises(ClientClosed):
            await hf.upload(PNG)


async def test_many_at_once_leave_room(sandbox: Sandbox, client: Client) -> None:
    async with client("platform", limits=Limits(max_connections=4)) as hf:
        uploads = await asyncio.gather(*(hf.upload(PNG + bytes([number])) for number in range(20)))
    assert len({upload.url for upload in uploads}) == 20


# The same content once


def puts(sandbox: Sandbox) -> list[bytes]:
    return [received.body for received in sandbox.received if received.method == "PUT"]


async def test_the_same_content_is_uploaded_once(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(LARGE)
    ways: list[Any] = [LARGE, path, io.BytesIO(LARGE), f"data:image/png;base64,{base64.b64encode(LARGE).decode()}"]
    async with client("platform") as hf:
        together = await asyncio.gather(*(hf.upload(way) for way in ways * 5))
        later = [await hf.upload(way) for way in ways]
        assert len({upload.url for upload in (*together, *later)}) == 1
        assert puts(sandbox) == [LARGE]
        # Another type is another file, and so is another client's.
        as_gif = await hf.upload(LARGE, content_type="image/gif")
        assert as_gif.content_type == "image/gif"
        path.write_bytes(PNG)
        assert (await hf.upload(path)).size == len(PNG)
        assert len(puts(sandbox)) == 3
    async with client("platform") as another:
        await another.upload(PNG)
    assert len(puts(sandbox)) == 4


@pytest.mark.parametrize(("hours", "sent"), [(23, 3), (25, 1)])
async def test_an_upload_is_used_while_it_lasts(sandbox: Sandbox, client: Client, hours: int, sent: int) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    stored = Fault.answer(200, b"", {"x-amz-expiration": f'expiry-date="{when}", rule-id="temporary"'})
    sandbox.script("upload", *[AS_IT_IS, stored] * sent)
    async with client("platform") as hf:
        for _ in range(3):
            assert (await hf.upload(PNG)).expires_at == parsedate_to_datetime(when)
    assert len(puts(sandbox)) == sent


async def test_so_many_uploads_are_remembered(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_uploads, "MOST_KEPT", 2)
    first, second, third = (PNG + bytes([number]) for number in range(3))
    async with client("platform") as hf:
        for content in (first, second, first, third, first, second):
            await hf.upload(content)
    assert puts(sandbox) == [first, second, third, second]


async def begun(sandbox: Sandbox, uploads: int) -> None:
    with anyio.fail_after(10):
        while len(sandbox.received) < uploads:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # for those that wait for the same


async def test_whoever_leaves_takes_nothing_from_the_others(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        sandbox.script("upload", Fault.delay(0.3))
        first, second, third = (asyncio.ensure_future(hf.upload(PNG)) for _ in range(3))
        await begun(sandbox, 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with anyio.move_on_after(0):
            await hf.upload(PNG)
        assert await second == await third
        assert len(puts(sandbox)) == 1


async def test_when_all_have_left_the_upload_ends(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        sandbox.script("upload", Fault.delay(30))
        await cancelled_once(lambda: sandbox.received, asyncio.gather(hf.upload(PNG), hf.upload(PNG)))
        left = [task for task in asyncio.all_tasks() if task.get_name() == "higgsfield_async.upload"]
        assert not left
        # The next one begins anew.
        assert (await hf.upload(PNG)).size == len(PNG)
    assert [received.method for received in sandbox.received] == ["POST", "POST", "PUT"]


async def test_each_is_told_of_a_failure_by_an_error_of_its_own(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("upload", Fault.delay(0.3), Fault.answer(403))
    async with client("platform") as hf:
        errors = await asyncio.gather(*(hf.upload(PNG) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in errors] == [UploadError] * 3
        assert len({id(error) for error in errors}) == 3
        assert len({str(error) for error in errors}) == 1
        # What failed is not remembered.
        assert (await hf.upload(PNG)).size == len(PNG)


async def test_leave_that_expires_in_line_is_not_asked_for_there(sandbox: Sandbox, client: Client) -> None:
    contents = [PNG + bytes([number]) for number in range(4)]
    async with client("platform", limits=Limits(max_connections=4)) as hf:  # one file at once
        await asyncio.gather(*map(hf.upload, contents))
    # Each is sent as soon as there is leave for it.
    assert [received.method for received in sandbox.received] == ["POST", "PUT"] * 4


async def test_one_connection_suffices(client: Client) -> None:
    async with client("platform", limits=Limits(max_connections=1)) as hf:
        found = await asyncio.gather(*(hf.upload(PNG + bytes([number])) for number in range(3)))
    assert len({upload.url for upload in found}) == 3


async def test_no_credentials_are_taken_from_the_environment(
    sandbox: Sandbox, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with client("platform") as plain:
        grant = await plain._opened().engine.send(plain._transport.upload(PNG, len(PNG), None))
        async with client("platform", trust_env=True) as hf:
            await hf._opened().engine._put(grant, await content_of(PNG))
    put = sandbox.received[-1]
    assert put.method == "PUT"
    assert "Authorization" not in put.headers


async def test_a_client_that_is_closed_while_it_reads(client: Client, tmp_path: Path) -> None:
    async with client("platform") as hf:
        waiting = asyncio.Event()

        class Slow(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                loop.call_soon_threadsafe(waiting.set)
                closed.wait(10)
                return super().read(size)

        loop, closed = asyncio.get_running_loop(), threading.Event()
        uploading = asyncio.ensure_future(hf.upload(Slow(PNG)))
        await waiting.wait()
    closed.set()
    with pytest.raises(ClientClosed, match="closed before the upload was done"):
        await uploading
