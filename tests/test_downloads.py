"""Results on their way: taken up where they were cut, checked, handed on, and from nowhere inside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import shutil
import socket
import subprocess
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from cancelling import cancelled_once, until
from higgsfield_async import (
    ClientClosed,
    ConfigurationError,
    DownloadError,
    Higgsfield,
    Keyframes,
    Limits,
    Media,
    PlatformTransport,
    Progress,
    RetryPolicy,
    _downloads,
)
from higgsfield_async._engine import HttpEngine, _Outward
from higgsfield_async.sandbox import Fault, Sandbox
from higgsfield_async.sandbox._exchange import Reply
from raw import RawServer, Reply as Serve, answer, raw_server
from surfaces import PROXY, V1, V2

Client = Callable[..., Higgsfield]
MP4 = b"\x00\x00\x00\x18ftypisom"
# More than is collected before it is written.
LONG = MP4 + bytes(range(256)) * 6000
OTHER = MP4 + bytes(range(255, -1, -1)) * 6000


class Script:
    """A server that gives one answer after the other, the last one for good."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def __call__(self, _: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        await writer.drain()


def cut(body: bytes, at: int, *headers: str, status: str = "200 OK") -> bytes:
    """An answer that ends too early."""
    whole = answer(status, body, *headers)
    return whole[: len(whole) - len(body) + at]


def chunked(body: bytes, *headers: str, end: bytes = b"0\r\n\r\n") -> bytes:
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + b"%x\r\n%s\r\n" % (len(body), body) + end


@pytest.fixture
def hf(client: Client) -> Higgsfield:
    return client(V2)


async def saved(hf: Higgsfield, script: Serve, folder: Path, kind: Any = "video") -> tuple[bytes, list[bytes]]:
    """What is saved from a server, and the requests that it took; nothing else may be left in the folder."""
    async with raw_server(script) as server, hf:
        try:
            path = await hf.save(Media(f"{server.url}/x.mp4", kind), folder / "x.mp4")
        except DownloadError:
            assert not list(folder.iterdir())
            raise
    assert list(folder.iterdir()) == [path]
    return path.read_bytes(), server.heard


def ranges(heard: list[bytes]) -> list[bytes]:
    return [line for each in heard for line in each.split(b"\r\n") if line.startswith(b"Range: ")]


async def test_what_is_cut_is_taken_up_there(hf: Higgsfield, tmp_path: Path) -> None:
    beginning = cut(LONG, 700_000, 'ETag: "a"')
    rest = answer("206 Partial Content", LONG[700_000:], f"Content-Range: bytes 700000-{len(LONG) - 1}/{len(LONG)}")

    async def serve(server: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(rest if ranges(server.heard[-1:]) else beginning)
        await writer.drain()

    found, heard = await saved(hf, serve, tmp_path)
    assert found == LONG
    assert ranges(heard) == [b"Range: bytes=700000-"]
    assert b'If-Range: "a"' in heard[-1]


async def test_the_sandbox_serves_the_rest(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    sandbox.script("download", Fault.truncate(), Fault.truncate())
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        [path] = await task.save(tmp_path)
        whole = b"".join([piece async for piece in hf.stream((await task.wait()).outputs[0])])
    assert path.read_bytes() == whole
    asked = [each.headers.get("Range") for each in sandbox.received if each.operation == "download"]
    assert asked[0] is asked[-1] is None
    assert [each.status for each in sandbox.received if each.operation == "download"][-2:] == [206, 200]


@pytest.mark.parametrize("at", [3000, 700_000])
@pytest.mark.parametrize(
    "second",
    [
        answer("200 OK", OTHER, 'ETag: "b"'),
        answer("206 Partial Content", OTHER[700_000:], f"Content-Range: bytes 0-{len(LONG) - 1}/{len(LONG)}"),
        answer("416 Range Not Satisfiable", b"", "Content-Range: bytes */10"),
    ],
)
async def test_what_has_changed_is_begun_anew(hf: Higgsfield, tmp_path: Path, second: bytes, at: int) -> None:
    script = Script(cut(LONG, at, 'ETag: "a"'), second, answer("200 OK", OTHER, 'ETag: "b"'))
    found, _ = await saved(hf, script, tmp_path)
    assert found == OTHER


async def test_what_is_cut_at_its_beginning_needs_no_range(hf: Higgsfield, tmp_path: Path) -> None:
    found, heard = await saved(hf, Script(cut(LONG, 100), cut(LONG, 3000), answer("200 OK", LONG)), tmp_path)
    assert found == LONG
    assert not ranges(heard)


async def test_without_ranges_it_is_begun_anew_as_often_as_the_policy_has_it(client: Client, tmp_path: Path) -> None:
    retry = RetryPolicy(attempts=3, first=0)
    with pytest.raises(DownloadError, match=r"cut after [\d,]+ bytes, and cannot be taken up there") as caught:
        await saved(client(V2, retry=retry), Script(cut(LONG, 700_000)), tmp_path)
    assert caught.value.transient
    found, heard = await saved(client(V2, retry=retry), Script(cut(LONG, 700_000), answer("200 OK", LONG)), tmp_path)
    assert found == LONG
    assert len(heard) == 2


async def test_it_is_taken_up_only_so_often(hf: Higgsfield, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_downloads, "CUTS", 2)
    size = len(LONG)
    script = Script(
        cut(LONG, 700_000, 'ETag: "a"'),
        *(
            cut(LONG[at:], 10, f"Content-Range: bytes {at}-{size - 1}/{size}", status="206 Partial Content")
            for at in range(700_000, 700_100, 10)
        ),
    )
    with pytest.raises(DownloadError, match="could not be fetched whole"):
        await saved(hf, script, tmp_path)
    assert len(script.answers) == 8


async def test_a_part_may_end_early_too(hf: Higgsfield, tmp_path: Path) -> None:
    size = len(LONG)
    parts = [
        answer("206 Partial Content", LONG[at:end], f"Content-Range: bytes {at}-{end - 1}/{size}")
        for at, end in ((700_000, 800_000), (800_000, size))
    ]
    found, heard = await saved(hf, Script(cut(LONG, 700_000, 'ETag: "a"'), *parts), tmp_path)
    assert found == LONG
    assert len(heard) == 3


def begun(at: int) -> bytes:
    """Of an answer that does not say how long it is, the first bytes."""
    return chunked(LONG, 'ETag: "a"', end=b"").replace(b"%x\r\n" % len(LONG) + LONG, b"%x\r\n" % at + LONG[:at])


async def test_the_rest_may_be_the_first_to_say_how_long_it_is(client: Client, tmp_path: Path) -> None:
    size = len(LONG)
    parts = [
        answer("206 Partial Content", LONG[at:end], f"Content-Range: bytes {at}-{end - 1}/{size}")
        for at, end in ((700_000, 800_000), (800_000, size))
    ]
    found, heard = await saved(client(V2), Script(begun(700_000), *parts), tmp_path)
    assert found == LONG
    assert ranges(heard) == [b"Range: bytes=700000-", b"Range: bytes=800000-"]
    (tmp_path / "x.mp4").unlink()
    with pytest.raises(DownloadError, match="larger than the 1,000,000 bytes"):
        await saved(client(V2, limits=Limits(largest=1_000_000)), Script(begun(700_000), *parts), tmp_path)


@pytest.mark.parametrize("length", [True, False])
async def test_what_is_no_range_is_all_of_it(hf: Higgsfield, tmp_path: Path, *, length: bool) -> None:
    changed = answer("203 Non-Authoritative Information", OTHER) if length else chunked(OTHER)
    changed = changed.replace(b"200 OK", b"203 Non-Authoritative Information")
    found, _ = await saved(hf, Script(begun(700_000), changed), tmp_path)
    assert found == OTHER


async def test_nothing_may_be_left(hf: Higgsfield, tmp_path: Path) -> None:
    async def serve(server: RawServer, writer: asyncio.StreamWriter) -> None:
        asked = ranges(server.heard)
        if not asked:
            writer.write(chunked(LONG, 'ETag: "a"', end=b""))
            return
        offset = asked[0].removeprefix(b"Range: bytes=").rstrip(b"-").decode()
        writer.write(answer("416 Range Not Satisfiable", b"", f"Content-Range: bytes */{offset}"))

    async with raw_server(serve) as server, hf:
        path = await hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4")
    # All of it, as far as this server knows.
    assert LONG.startswith(path.read_bytes())
    assert path.stat().st_size >= 512


async def test_a_length_need_not_be_said(hf: Higgsfield, tmp_path: Path) -> None:
    found, _ = await saved(hf, Script(chunked(LONG)), tmp_path)
    assert found == LONG


async def test_more_than_was_said_is_refused(hf: Higgsfield, tmp_path: Path) -> None:
    more = answer("206 Partial Content", LONG, f"Content-Range: bytes 700000-{len(LONG) - 1}/{len(LONG)}")
    with pytest.raises(DownloadError, match="has more than the"):
        await saved(hf, Script(cut(LONG, 700_000, 'ETag: "a"'), more), tmp_path)


@pytest.mark.parametrize("reply", [answer("200 OK", LONG), chunked(LONG)])
async def test_too_large(client: Client, tmp_path: Path, reply: bytes) -> None:
    script = Script(reply)
    with pytest.raises(DownloadError, match="larger than the 1,000,000 bytes") as caught:
        await saved(client(V2, limits=Limits(largest=1_000_000)), script, tmp_path)
    assert not caught.value.transient


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
async def test_a_page_of_errors_is_none(client: Client, tmp_path: Path, kind: str) -> None:
    page = answer("200 OK", b"<!DOCTYPE html><html><title>Sign in</title></html>", "Content-Type: text/html")
    with pytest.raises(DownloadError, match=f"is no {kind}: what was answered is an HTML page"):
        await saved(client(V2), Script(page), tmp_path, kind)
    # A gateway's that passes does no harm, and a file may be anything.
    assert (await saved(client(V2), Script(page, answer("200 OK", LONG)), tmp_path, kind))[0] == LONG
    (tmp_path / "x.mp4").unlink()
    assert (await saved(client(V2), Script(page), tmp_path, "file"))[0].startswith(b"<!DOCTYPE")


class Static:
    """A server of one body that honours ranges, as those of static files do."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __call__(self, server: RawServer, writer: asyncio.StreamWriter) -> None:
        asked = ranges(server.heard[-1:])
        at, size = int(asked[0].rstrip(b"-").rpartition(b"=")[2]) if asked else 0, len(self.body)
        if not asked:
            writer.write(answer("200 OK", self.body, 'ETag: "a"'))
        elif at < size:
            said = f"Content-Range: bytes {at}-{size - 1}/{size}"
            writer.write(answer("206 Partial Content", self.body[at:], said, 'ETag: "a"'))
        else:
            writer.write(answer("416 Range Not Satisfiable", b"", f"Content-Range: bytes */{size}"))
        await writer.drain()


@pytest.mark.parametrize("size", [100, 5000, 900_000])
async def test_a_page_of_errors_is_none_however_often_it_is_asked_for(
    client: Client, tmp_path: Path, size: int
) -> None:
    page = Static(b"<!DOCTYPE html><html>".ljust(size))
    with pytest.raises(DownloadError, match="what was answered is an HTML page"):
        await saved(client(V2, retry=RetryPolicy(attempts=4, first=0)), page, tmp_path)


async def test_nothing_at_all(client: Client, tmp_path: Path) -> None:
    for nothing in (answer("200 OK"), chunked(b"", end=b"")):
        with pytest.raises(DownloadError, match="what was answered is empty"):
            await saved(client(V2), Script(nothing), tmp_path)
    assert (await saved(client(V2), Script(answer("200 OK")), tmp_path, "file"))[0] == b""


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "410 Gone"])
async def test_an_expired_address(client: Client, tmp_path: Path, sandbox: Sandbox, status: str) -> None:
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        await task.wait()
        sandbox.script("download", Fault.answer(int(status[:3])))
        with pytest.raises(DownloadError, match="about 7 days; until then, poll the task again") as caught:
            await task.save(tmp_path)
    assert (caught.value.status, caught.value.ref, caught.value.transient) == (int(status[:3]), task.ref, False)
    assert caught.value.charged == "yes"


async def test_what_is_asked_for_meanwhile(client: Client, tmp_path: Path) -> None:
    limited = answer("503 Service Unavailable", b"", "Retry-After: 0")
    assert (await saved(client(V2), Script(limited, answer("200 OK", LONG)), tmp_path))[0] == LONG
    with pytest.raises(DownloadError, match="HTTP 204"):
        await saved(client(V2), Script(answer("204 No Content")), tmp_path / "new")


# Redirects, and what is inside.


def redirect(to: str, *, status: str = "302 Found") -> Script:
    return Script(answer(status, b"", f"Location: {to}"))


async def test_a_few_redirects_are_followed(hf: Higgsfield, tmp_path: Path) -> None:
    turns = 0

    async def turn(_: RawServer, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        last = turns == 6
        writer.write(answer("200 OK", LONG) if last else answer("307 Temporary Redirect", b"", f"Location: /{turns}"))

    async with raw_server(turn) as server, hf:
        path = await hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4")
        assert path.read_bytes() == LONG
        turns = -100
        with pytest.raises(DownloadError, match="redirects more than 5 times"):
            await hf.save(Media(f"{server.url}/x.mp4", "video"), path)
        assert turns == -94


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://[::1", "ftp://a.b/c"])
async def test_a_redirect_to_nowhere(hf: Higgsfield, tmp_path: Path, to: str) -> None:
    with pytest.raises(DownloadError, match="not an address that can be fetched|which is not followed"):
        await saved(hf, redirect(to), tmp_path)


async def test_a_redirect_without_an_address_is_an_answer(hf: Higgsfield, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="HTTP 302"):
        await saved(hf, Script(answer("302 Found")), tmp_path)


def engine_of(hf: Higgsfield) -> HttpEngine:
    return hf._opened().engine


async def test_nothing_is_redirected_to_plain_http(client: Client) -> None:
    secure, plain = URL("https://a.b/x?Signature=1"), URL("http://a.b/x?Signature=2")
    async with client(V2) as hf:
        assert engine_of(hf)._redirected(plain, plain) == plain
        with pytest.raises(DownloadError, match="not followed") as caught:
            engine_of(hf)._redirected(secure, plain)
        assert "Signature" not in str(caught.value)
    async with client(V2, allow_private=False) as hf:
        assert engine_of(hf)._redirected(plain, secure) == secure
        with pytest.raises(DownloadError, match="not followed"):
            engine_of(hf)._redirected(plain, plain)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "10.0.0.1"])
async def test_nothing_inside_is_asked_unless_allowed(client: Client, tmp_path: Path, host: str) -> None:
    async with raw_server(Script(answer("200 OK", LONG))) as server, client(V2, allow_private=False) as hf:
        port = URL(server.url).port
        with pytest.raises(DownloadError, match="leads inside a private network") as caught:
            await hf.save(Media(f"http://{host}:{port}/x.mp4?Signature=1", "video"), tmp_path / "x.mp4")
        assert not server.heard
    assert "allow_private=True" in str(caught.value)
    assert "Signature" not in str(caught.value)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What names lead to, beside the true ones."""
    names: dict[str, str] = {}
    true = socket.getaddrinfo

    def found(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(host, str) and host.endswith(".example.com"):
            if host not in names:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[host], port))]
        return true(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return names


@pytest.mark.parametrize("own", [True, False])
async def test_a_name_that_leads_inside_is_not_followed(
    client: Client,
    tmp_path: Path,
    name_server: dict[str, str],
    *,
    own: bool,
) -> None:
    name_server["results.example.com"] = "127.0.0.1"
    name_server["public.example.com"] = "93.184.215.14"
    async with raw_server(Script(answer("200 OK", LONG))) as server, aiohttp.ClientSession() as session:
        settings = {} if own else {"session": session}
        async with client(V2, allow_private=False, **settings) as hf:
            media = Media(f"http://results.example.com:{URL(server.url).port}/x.mp4", "video")
            with pytest.raises(DownloadError, match="leads inside a private network"):
                await hf.save(media, tmp_path / "x.mp4")
            unknown = Media("http://unknown.example.com/x.mp4", "video")
            with pytest.raises(DownloadError, match="could not be fetched whole"):
                await hf.save(unknown, tmp_path / "x.mp4")
            if not own:
                await engine_of(hf)._look_up(URL("http://public.example.com/"))
        assert not server.heard
    resolver = _Outward()
    assert [each["host"] for each in await resolver.resolve("public.example.com", 80)] == ["93.184.215.14"]
    await resolver.close()


async def test_a_proxy_inside_is_used_for_what_is_outside(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_server(Script(answer("200 OK", LONG))) as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1,direct.example.com")
        async with client(V2, allow_private=False, trust_env=True) as hf:
            path = await hf.save(Media("http://results.example.com/x.mp4", "video"), tmp_path / "x.mp4")
            assert path.read_bytes() == LONG
            assert proxy.heard[0].startswith(b"GET http://results.example.com/x.mp4 ")
            assert await engine_of(hf)._proxy_for(URL("http://direct.example.com/x.mp4")) is None
            assert await engine_of(hf)._proxy_for(URL("http://results.example.com/")) == URL(proxy.url)
            with pytest.raises(DownloadError, match="leads inside"):
                await hf.save(Media("http://10.0.0.1/x.mp4", "video"), path)
    assert len(proxy.heard) == 1


async def test_a_sessions_own_credentials_follow_no_redirect(client: Client, tmp_path: Path) -> None:
    async with (
        raw_server(Script(answer("200 OK", LONG))) as elsewhere,
        raw_server(redirect(f"{elsewhere.url}/y")) as server,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp will have another way
            auth = aiohttp.BasicAuth("x", "y")
            sessions = [aiohttp.ClientSession(auth=auth), aiohttp.ClientSession(headers={"Authorization": "Key x"})]
        for own in sessions:
            async with own, client(V2, session=own) as hf:
                with pytest.raises(DownloadError, match="the session's own credentials"):
                    await hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4")
        assert not elsewhere.heard
        async with aiohttp.ClientSession() as session, client(V2, session=session) as hf:
            await hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4")
        assert len(elsewhere.heard) == 1


@pytest.mark.parametrize("what", ["X-Api-Key", "Cookie", "hf-secret", "Proxy-Authorization", "cookies", "User-Agent"])
async def test_what_may_be_a_secret_of_a_session_follows_no_redirect(client: Client, tmp_path: Path, what: str) -> None:
    async with (
        raw_server(Script(answer("200 OK", LONG))) as elsewhere,
        raw_server(redirect(f"{elsewhere.url}/y")) as server,
    ):
        jar = aiohttp.CookieJar(unsafe=True)
        if what == "cookies":
            jar.update_cookies({"session": "x"})
        async with (
            aiohttp.ClientSession(headers={} if what == "cookies" else {what: "x"}, cookie_jar=jar) as own,
            client(V2, session=own) as hf,
        ):
            media = Media(f"{server.url}/x.mp4", "video")
            if what == "User-Agent":
                await hf.save(media, tmp_path / "x.mp4")
            else:
                with pytest.raises(DownloadError, match="the session's own credentials"):
                    await hf.save(media, tmp_path / "x.mp4")
        assert len(elsewhere.heard) == (what == "User-Agent")


@pytest.mark.parametrize("private", [True, False])
async def test_no_credentials_are_taken_from_the_environment(
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    private: bool,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_server(Script(answer("200 OK", LONG))) as server:
        if not private:
            monkeypatch.setenv("http_proxy", server.url)
            monkeypatch.setenv("no_proxy", "")
        url = server.url if private else "http://results.example.com"
        async with client(V2, trust_env=True, allow_private=private) as hf:
            await hf.save(Media(f"{url}/x.mp4", "video"), tmp_path / "x.mp4")
    assert b"authorization" not in server.heard[0].lower()


async def test_an_address_is_asked_for_as_it_is(hf: Higgsfield, tmp_path: Path) -> None:
    async with raw_server(Script(answer("200 OK", LONG))) as server, hf:
        for path in ("/a%2Fb%7E.mp4?X=%2b%20+", "/caf\u00e9.mp4"):
            await hf.save(Media(f"{server.url}{path}", "video"), tmp_path / "x.mp4")
    assert [each.split()[1] for each in server.heard] == [b"/a%2Fb%7E.mp4?X=%2b%20+", b"/caf%C3%A9.mp4"]


# The stream.


async def test_a_stream_is_all_of_it(hf: Higgsfield) -> None:
    async with raw_server(Script(answer("200 OK", LONG, "Content-Type: video/mp4"))) as server, hf:
        stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
        assert (stream.size, stream.content_type, stream.head) == (None, None, b"")
        async with stream:
            assert (stream.size, stream.content_type) == (len(LONG), "video/mp4")
            assert stream.head == LONG[:512]
            assert b"".join([piece async for piece in stream]) == LONG
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert len(server.heard) == 1


async def test_a_stream_goes_on_where_it_was_cut(hf: Higgsfield) -> None:
    rest = answer("206 Partial Content", LONG[700_000:], f"Content-Range: bytes 700000-{len(LONG) - 1}/{len(LONG)}")
    async with raw_server(Script(cut(LONG, 700_000, 'ETag: "a"'), rest)) as server, hf:
        assert b"".join([piece async for piece in hf.stream(Media(f"{server.url}/x.mp4", "video"))]) == LONG


@pytest.mark.parametrize("second", [answer("200 OK", OTHER, 'ETag: "b"'), answer("410 Gone")])
async def test_a_stream_that_cannot_go_on_says_so(hf: Higgsfield, second: bytes) -> None:
    found = b""
    async with raw_server(Script(cut(LONG, 700_000, 'ETag: "a"'), second)) as server, hf:
        stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
        try:
            async for piece in stream:
                found += piece
        except DownloadError as error:
            assert "cannot be taken up there" in str(error) or "has expired" in str(error)
        assert found != LONG
        assert LONG.startswith(found)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_that_does_not_begin(hf: Higgsfield) -> None:
    async with raw_server(Script(answer("410 Gone"))) as server, hf:
        stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
        with pytest.raises(DownloadError, match="has expired"):
            await stream.begin()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_has_one_reader(client: Client) -> None:
    async def halting(_: RawServer, writer: asyncio.StreamWriter) -> None:
        whole = answer("200 OK", LONG)
        writer.write(whole[: len(whole) - len(LONG) + 600])
        await writer.drain()
        await go_on.wait()
        writer.write(LONG[600:])
        await writer.drain()

    go_on = asyncio.Event()
    # There is one place for downloads.
    async with raw_server(halting) as server, client(V2, limits=Limits(max_connections=4)) as hf:
        for _ in range(2):
            stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
            go_on.clear()
            first, second, third = await asyncio.gather(
                anext(stream), anext(stream), stream.begin(), return_exceptions=True
            )
            assert isinstance(second, RuntimeError)
            assert isinstance(third, RuntimeError)
            go_on.set()
            # Whoever reads it is not disturbed.
            assert isinstance(first, bytes)
            assert first + await _all(stream) == LONG


async def reading(stream: AsyncIterator[bytes], count: int) -> asyncio.Task[bytes]:
    """A task that reads it all, and has read so much."""
    found = 0

    async def read() -> bytes:
        nonlocal found
        async for piece in stream:
            found += len(piece)
        return b""

    task = asyncio.create_task(read())
    with anyio.fail_after(5):
        while found < count:
            await anyio.sleep(0.01)
    return task


async def test_closing_a_stream_ends_whoever_reads_it(hf: Higgsfield) -> None:
    async with raw_server(slow) as server, hf:
        stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
        task = await reading(stream, 700_000)
        await stream.aclose()
        # Not as if it had come to its end.
        with pytest.raises(DownloadError, match="was not read whole"):
            await task
        await stream.begin()
        assert len(server.heard) == 1
        assert engine_of(hf).pace._lanes["download"].under_way == 0


async def test_a_cancelled_read_is_no_end(hf: Higgsfield) -> None:
    async with raw_server(slow) as server, hf:
        stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
        task = await reading(stream, 700_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(DownloadError, match="was not read whole"):
            await anext(stream)


async def test_only_an_output_is_streamed(hf: Higgsfield) -> None:
    async with hf:
        with pytest.raises(ConfigurationError, match="by its Media, not by a str"):
            hf.stream("https://a.b/c.mp4")  # type: ignore[arg-type]  # that is what is refused
        gc.collect()


async def connections(sandbox: Sandbox, count: int) -> None:
    with anyio.fail_after(5):
        while sandbox.connections != count:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("how", ["left", "closed", "dropped", "cancelled"])
async def test_leaving_a_stream_closes_its_connection(sandbox: Sandbox, client: Client, how: str) -> None:
    body = Reply(body=LONG * 20, headers={"Accept-Ranges": "bytes"})
    sandbox.script("download", *[Fault(accept=False, answer_with=body)] * 2)
    async with client(V2, limits=Limits(max_connections=4)) as hf:
        media = Media(f"{sandbox.media_url}/results/x/y.mp4", "video")
        stream = hf.stream(media)
        await anext(stream)
        assert sandbox.connections == 1
        if how == "left":
            async with stream:
                pass
        elif how == "closed":
            await stream.aclose()
        elif how == "cancelled":
            with anyio.move_on_after(0.01):
                async for _ in stream:
                    await anyio.sleep(1)
        del stream
        gc.collect()
        await connections(sandbox, 0)
        # There is one place for downloads: it is free again.
        with anyio.fail_after(5):
            await anext(hf.stream(media))


def test_a_stream_that_outlives_its_loop(tmp_path: Path) -> None:
    async def main() -> AsyncIterator[bytes]:
        async with raw_server(Script(cut(LONG * 20, 700_000))) as server:
            hf = Higgsfield(PlatformTransport("id", "secret", server.url))
            stream = hf.stream(Media(f"{server.url}/x.mp4", "video"))
            await anext(stream)
            # Not closed: the loop may end at any time.
            await hf._opened().engine._session.close()
            await hf.close()
            return stream

    stream = asyncio.run(main())
    del stream
    gc.collect()


async def slow(_: RawServer, writer: asyncio.StreamWriter) -> None:
    writer.write(answer("200 OK", LONG)[: len(LONG) // 2])
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("own", [True, False])
async def test_closing_the_client_ends_what_is_fetched(client: Client, tmp_path: Path, *, own: bool) -> None:
    async with raw_server(slow) as server, aiohttp.ClientSession() as session:
        hf = client(V2, **({} if own else {"session": session}))
        media = Media(f"{server.url}/x.mp4", "video")
        stream = hf.stream(media)
        await stream.begin()
        saving = asyncio.create_task(hf.save(media, tmp_path / "x.mp4"))
        while not list(tmp_path.iterdir()):
            await anyio.sleep(0.01)
        reading = asyncio.create_task(_all(stream))
        await anyio.sleep(0.05)
        await hf.close()
        for ended in (saving, reading):
            with pytest.raises(ClientClosed):
                await ended
    assert not list(tmp_path.iterdir())
    with pytest.raises(ClientClosed):
        hf.stream(media)
    with pytest.raises(ClientClosed):
        await hf.save(media, tmp_path)


async def _all(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("natively", [True, False])
async def test_cancelling_leaves_nothing(hf: Higgsfield, tmp_path: Path, *, natively: bool) -> None:
    async with raw_server(slow) as server, hf:
        media = Media(f"{server.url}/x.mp4", "video")
        if natively:
            saving = asyncio.create_task(hf.save(media, tmp_path / "x.mp4"))
            await until(lambda: list(tmp_path.iterdir()))
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving
        else:
            await cancelled_once(lambda: list(tmp_path.iterdir()), hf.save(media, tmp_path / "x.mp4"))
    with anyio.fail_after(5):
        while list(tmp_path.iterdir()):
            await anyio.sleep(0.01)


@pytest.mark.parametrize("turns", range(6))
async def test_cancelling_twice_leaves_nothing(hf: Higgsfield, tmp_path: Path, turns: int) -> None:
    async with raw_server(slow) as server, hf:
        saving = asyncio.create_task(hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4"))
        while not list(tmp_path.iterdir()):
            await anyio.sleep(0.01)
        saving.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        await hf.close()
        assert not list(tmp_path.iterdir())


async def test_a_pause_is_no_longer_than_what_is_left(client: Client, tmp_path: Path) -> None:
    script = Script(answer("503 Service Unavailable", b"", "Retry-After: 30"))
    with pytest.raises(DownloadError, match="HTTP 503"):
        await saved(client(V2, limits=Limits(download=30)), script, tmp_path)
    # Those before it count: with what they leave, there is no time for as long a pause once more.
    retry = RetryPolicy(attempts=9, first=0.2, longest=0.2)
    script = Script(*[answer("503 Service Unavailable", b"")] * 8, answer("200 OK", LONG))
    with pytest.raises(DownloadError, match=r"HTTP 503|not fetched within 0\.3 s"):
        await saved(client(V2, limits=Limits(download=0.3), retry=retry), script, tmp_path)


async def test_a_pause_ends_with_the_client(client: Client, tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def busy(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("503 Service Unavailable", b"", "Retry-After: 30"))
        await writer.drain()
        asked.set()

    async with raw_server(busy) as server:
        hf = client(V2)
        saving = asyncio.create_task(hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4"))
        await asked.wait()
        await anyio.sleep(0.05)
        await hf.close()
        with anyio.fail_after(5), pytest.raises(ClientClosed):
            await saving


async def test_an_answer_that_comes_after_the_end(client: Client, tmp_path: Path) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def late(_: RawServer, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await closed.wait()
        writer.write(answer("200 OK", LONG))
        await writer.drain()

    async with raw_server(late) as server, aiohttp.ClientSession() as session:
        hf = client(V2, session=session)
        saving = asyncio.create_task(hf.save(Media(f"{server.url}/x.mp4", "video"), tmp_path / "x.mp4"))
        await asked.wait()
        await hf.close()
        closed.set()
        with pytest.raises(ClientClosed, match="was closed before"):
            await saving
    assert not list(tmp_path.iterdir())


# Where it goes.


class Encoded:
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"x"


@pytest.mark.parametrize("to", ["a\0b", Path("a\0b"), "\ud800", Encoded()])
async def test_a_place_that_cannot_be(sandbox: Sandbox, hf: Higgsfield, to: Any) -> None:
    async with hf:
        before = len(sandbox.received)
        for refused in (
            lambda: hf.run(V2.request, save=to),
            lambda: hf.gather([V2.request], save=to),
            lambda: hf.save(Media(f"{sandbox.media_url}/x.mp4", "video"), to),
        ):
            with pytest.raises(ConfigurationError, match="is no path"):
                await refused()
        assert len(sandbox.received) == before


async def test_a_name_that_is_too_long(hf: Higgsfield, tmp_path: Path) -> None:
    async with raw_server(Script(answer("200 OK", LONG))) as server, hf:
        media = Media(f"{server.url}/x.mp4", "video")
        with pytest.raises(DownloadError, match="could not be written: File name too long"):
            await hf.save(media, tmp_path / ("n" * 300))
        with pytest.raises(DownloadError, match="could not be made: File name too long"):
            await hf.save(media, tmp_path / ("n" * 300) / "x.mp4")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_removed_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    part = _downloads._Part(folder)
    part.write([LONG], 0, None)
    shutil.rmtree(folder)
    folder.touch()
    part.discard()
    assert part.over


async def test_a_place_for_one(hf: Higgsfield, tmp_path: Path) -> None:
    async with raw_server(Script(answer("200 OK", LONG))) as server, hf:
        media = Media(f"{server.url}/1/raw.mp4", "video")
        told: list[Progress] = []
        path = await hf.save(media, tmp_path / "a" / "b.mp4", progress=told.append)
        assert path == tmp_path / "a" / "b.mp4"
        assert {(each.media, each.name, each.total) for each in told} == {(media, "b.mp4", len(LONG))}
        assert [each.received for each in told] == sorted(each.received for each in told)
        assert told[-1].received == len(LONG)
        named = await hf.save(media, f"{tmp_path}/new/")
        assert named.parent == tmp_path / "new"
        assert named.name.startswith("raw_")
        assert named.suffix == ".mp4"
        assert await hf.save(media, tmp_path / "new") == named
        for bad in ((media, 5), ("https://a.b/c", tmp_path)):
            with pytest.raises(ConfigurationError):
                await hf.save(*bad)


async def test_the_content_names_the_file(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        await task.wait()
        sandbox.script("download", Fault.answer(200, b"RIFF\x24\x00\x00\x00WEBPVP8 "))
        [path] = await task.save(tmp_path)
    assert path.name == f"{task.id}.webp"


async def test_either_variant(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    async with client(PROXY) as hf:
        task = await hf.submit(PROXY.request)
        [raw], [small] = await task.save(tmp_path), await task.save(tmp_path, variant="min")
        assert (raw.name, small.name) == (f"{task.id}.mp4", f"{task.id}-min.mp4")
        assert raw.read_bytes() != small.read_bytes()
        with pytest.raises(ConfigurationError, match="variant must be"):
            await task.save(tmp_path, variant="best")  # type: ignore[call-overload]  # that is what is refused
        with pytest.raises(ConfigurationError, match="to a directory or to an async writer"):
            await task.save(5)  # type: ignore[call-overload]  # that is what is refused
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        [path] = await task.save(tmp_path, variant="min")
        assert path.name == f"{task.id}.mp4"


class Store:
    """Files elsewhere."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.at_once = self.most = 0

    async def put(self, name: str, pieces: AsyncIterator[bytes]) -> str:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.files[name] = b"".join([piece async for piece in pieces])
        self.at_once -= 1
        return f"store://{name}"


async def test_a_writer_takes_it_elsewhere(client: Client, tmp_path: Path) -> None:
    store = Store()
    told: list[Progress] = []
    async with client(V1) as hf:
        task = await hf.submit(Keyframes(prompt="x", count=3))
        names = [f"{task.id}-{number}.png" for number in (1, 2, 3)]
        assert await task.save(store.put, progress=told.append) == [f"store://{name}" for name in names]
        assert [store.files[path.name] for path in await task.save(tmp_path)] == [store.files[name] for name in names]
    assert {each.name for each in told} == set(names)
    assert max(each.received for each in told) == max(map(len, store.files.values()))


async def test_a_writer_that_fails(sandbox: Sandbox, client: Client) -> None:
    async def broken(_: str, pieces: AsyncIterator[bytes]) -> None:
        await anext(pieces)
        raise ZeroDivisionError

    async def refusing(name: str, _: AsyncIterator[bytes]) -> None:
        raise DownloadError(f"{name} is not wanted.", ref=other)

    async def covering_up(_: str, pieces: AsyncIterator[bytes]) -> None:
        try:
            await _all(pieces)
        except DownloadError:
            raise RuntimeError from None

    async def swallowing(_: str, pieces: AsyncIterator[bytes]) -> None:
        try:
            await _all(pieces)
        except DownloadError:
            return

    async with client(V1) as hf:
        other = (await hf.submit(V1.request)).ref
        task = await hf.submit(V1.request)
        await task.wait()
        with pytest.raises(DownloadError, match="the writer failed with ZeroDivisionError") as caught:
            await task.save(broken)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.ref == task.ref
        with pytest.raises(DownloadError, match="is not wanted") as caught:
            await task.save(refusing)
        assert caught.value.ref == other
        page = Reply(body=LONG, headers={})
        for writer in (swallowing, covering_up):
            sandbox.script("download", Fault(accept=False, answer_with=page, cut="half"))
            with pytest.raises(DownloadError, match="cannot be taken up there"):
                await task.save(writer)


async def test_a_writer_with_a_time_limit(sandbox: Sandbox, client: Client) -> None:
    async def impatient(_: str, pieces: AsyncIterator[bytes]) -> None:
        async with asyncio.timeout(0.1):
            await _all(pieces)

    async def waiting(_: str, pieces: AsyncIterator[bytes]) -> None:
        while True:
            await asyncio.wait_for(anext(pieces), 0.1)

    async def content(_: str, pieces: AsyncIterator[bytes]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await _all(pieces)
        await _all(pieces)

    async with raw_server(slow) as server, client(V2) as hf:
        body = b'{"request_id":"x","status":"completed","video":{"url":"%s/x.mp4"}}' % server.url.encode()
        for writer, what in (
            (impatient, "failed with TimeoutError"),
            (waiting, "failed with TimeoutError"),
            (content, "was not read whole"),
        ):
            task = await hf.submit(V2.request)
            sandbox.script("poll", Fault.answer(200, body))
            with pytest.raises(DownloadError, match=what) as caught:
                await task.save(writer)
            assert caught.value.ref == task.ref


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
@pytest.mark.parametrize("count", [1, 3])
async def test_what_progress_raises_goes_to_the_caller(
    client: Client, tmp_path: Path, error: type[BaseException], count: int
) -> None:
    def broken(_: Progress) -> None:
        raise error

    async with client(V1) as hf:
        task = await hf.submit(Keyframes(prompt="x", count=count))
        for to in (tmp_path, Store().put):
            with pytest.raises(error):
                await task.save(to, progress=broken)
    assert not list(tmp_path.glob(".*"))


async def test_where_one_fails_the_others_are_saved(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    async with client(V1) as hf:
        task = await hf.submit(Keyframes(prompt="x", count=4))
        await task.wait()
        sandbox.script("download", Fault.answer(410))
        with pytest.raises(DownloadError, match="HTTP 410") as caught:
            await task.save(tmp_path)
        assert caught.value.ref == task.ref
    assert len(list(tmp_path.iterdir())) == 3


@pytest.fixture
def _small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_small_files")
async def test_a_file_that_the_system_does_not_allow(hf: Higgsfield, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not be written: File too large"):
        await saved(hf, Script(answer("200 OK", LONG)), tmp_path)


async def test_a_full_disk(hf: Higgsfield, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(small)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nobody but root may make a small disk")
    try:
        with pytest.raises(DownloadError, match="could not be written: No space left on device"):
            await saved(hf, Script(answer("200 OK", LONG)), small)
    finally:
        subprocess.run(["umount", str(small)], check=True)  # where it is differs


def test_a_thread_that_comes_late_writes_nothing(tmp_path: Path) -> None:
    part = _downloads._Part(tmp_path)
    part.write([LONG], 0, None)
    assert len(list(tmp_path.iterdir())) == 1
    part.discard()
    part.write([LONG], 0, tmp_path / "x.mp4")
    part.discard()
    assert not list(tmp_path.iterdir())


async def test_a_session_that_was_closed(client: Client, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session, client(V2, session=session) as hf:
        await session.close()
        with pytest.raises(ClientClosed, match="was closed before"):
            await hf.save(Media("http://127.0.0.1:1/x.mp4", "video"), tmp_path / "x.mp4")


async def test_closing_waits_for_what_is_cleaned_up(hf: Higgsfield) -> None:
    done: list[bool] = []
    may = threading.Event()

    def clean_up() -> None:
        done.append(may.wait(10))

    async with hf:
        cleaning = asyncio.create_task(hf._opened().engine.behind(clean_up))
        await asyncio.sleep(0)
        cleaning.cancel()
        asyncio.get_running_loop().call_later(0.05, may.set)
    assert done == [True]
