"""Results on disk: whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from cancelling import cancelled_once
from higgsfield_async import DownloadError, GenerationFailed, Higgsfield, Keyframes, Limits
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from raw import RawServer, answer, raw_server
from surfaces import PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]


async def test_every_output_as_it_was_made(sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path) -> None:
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        [path] = await task.save(tmp_path / "new" / "folder")
    assert path.name == f"{task.id}{'.png' if surface is V1 else '.mp4'}"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" or path.read_bytes()[4:8] == b"ftyp"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    downloads = [received for received in sandbox.received if received.operation == "download"]
    assert len(downloads) == 1
    for received in downloads:
        shown = str(received.headers).lower()
        assert "authorization" not in shown
        assert "hf-" not in shown
        assert "higgsfield-async/" in shown


async def test_several_are_numbered(client: Client, tmp_path: Path) -> None:
    async with client(V1) as hf:
        task = await hf.submit(Keyframes(prompt="x", count=3))
        paths = await task.save(str(tmp_path))
        assert await task.save(tmp_path) == paths
    assert [path.name for path in paths] == [f"{task.id}-{number}.png" for number in (1, 2, 3)]
    assert len({path.read_bytes() for path in paths}) == 3


async def test_a_failed_generation_saves_nothing(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    sandbox.plan(Plan(end="failed"))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        with pytest.raises(GenerationFailed):
            await task.save(tmp_path)
    assert not list(tmp_path.iterdir())


async def test_faults_that_pass(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    sandbox.script("download", Fault.answer(503), Fault.truncate(), Fault.answer(429), Fault.reset())
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        [path] = await task.save(tmp_path)
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.answer(404), "answered with HTTP 404"),
        (Fault.answer(403), "answered with HTTP 403"),
        (Fault.truncate(), "could not be fetched whole"),
    ],
)
async def test_faults_that_do_not(sandbox: Sandbox, client: Client, tmp_path: Path, fault: Fault, words: str) -> None:
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        await task.wait()
        sandbox.script("download", *[fault] * 60)
        with pytest.raises(DownloadError, match=words) as caught:
            await task.save(tmp_path)
    assert caught.value.ref == task.ref
    assert not list(tmp_path.iterdir())


async def test_places_that_cannot_be_written(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        with pytest.raises(DownloadError, match="could not be made") as caught:
            await task.save(tmp_path / "file" / "x")
        assert caught.value.ref == task.ref
        (tmp_path / f"{task.id}.png").mkdir()
        with pytest.raises(DownloadError, match="could not be written"):
            await task.save(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["file", f"{task.id}.png"])


async def test_a_cancelled_download_leaves_nothing(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        await task.wait()
        sandbox.script("download", Fault.delay(5))
        before = len(sandbox.received)
        await cancelled_once(lambda: sandbox.received[before:], task.save(tmp_path))
    assert not list(tmp_path.iterdir())


async def test_a_download_has_a_time_limit(client: Client, tmp_path: Path, sandbox: Sandbox) -> None:
    async def drip(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.02)

    async with raw_server(drip) as server, client(V2, limits=Limits(download=0.1)) as hf:
        url = f"{server.url}/x.png".encode()
        task = await hf.submit(V2.request)
        body = b'{"request_id":"x","status":"completed","images":[{"url":"' + url + b'"}]}'
        sandbox.script("poll", Fault.answer(200, body))
        with pytest.raises(DownloadError, match=r"not fetched within 0\.1 s"):
            await task.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["nonsense", "http://", "file:///etc/passwd", "http://[::1"])
async def test_an_address_that_is_none(client: Client, tmp_path: Path, sandbox: Sandbox, url: str) -> None:
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        body = f'{{"request_id":"x","status":"completed","video":{{"url":"{url}"}}}}'
        sandbox.script("poll", Fault.answer(200, body.encode()))
        with pytest.raises(DownloadError, match="not an address that can be fetched"):
            await task.save(tmp_path)
    assert not list(tmp_path.iterdir())


async def test_a_redirect_is_followed(client: Client, tmp_path: Path, sandbox: Sandbox) -> None:
    async def redirect(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("302 Found", b"", f"Location: {target.url}/y.png"))

    async def serve(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b"picture"))

    async with raw_server(serve) as target, raw_server(redirect) as server, client(V2) as hf:
        task = await hf.submit(V2.request)
        url = f"{server.url}/x.png?Signature=1".encode()
        sandbox.script(
            "poll",
            Fault.answer(200, b'{"request_id":"x","status":"completed","images":[{"url":"' + url + b'"}]}'),
        )
        [path] = await task.save(tmp_path)
        assert path.read_bytes() == b"picture"
        for heard in (*target.heard, *server.heard):
            assert b"authorization" not in heard.lower()


async def test_the_proxys_optimised_variant_is_left(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    async with client(PROXY) as hf:
        task = await hf.submit(PROXY.request)
        assert len((await task.wait()).outputs) == 2
        assert len(await task.save(tmp_path)) == 1
    assert sum(received.operation == "download" for received in sandbox.received) == 1
