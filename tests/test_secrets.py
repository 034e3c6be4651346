"""Keys, prompts and signed addresses stay where they belong: on the wire, to the service's own address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from higgsfield_async import Higgsfield, HiggsfieldError, PlatformTransport, ProxyTransport, RetryPolicy
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from raw import RawServer, answer, raw_server
from surfaces import IMAGE, PROMPT, SURFACES, V2, Surface

Client = Callable[..., Higgsfield]
KEY, ID, SECRET = "hk-5f3c-topsecret", "key-id-topsecret", "secret:top:secret"


def secrets(surface: Surface) -> tuple[str, ...]:
    return (KEY,) if surface.service == "proxy" else (ID, SECRET)


def transport(surface: Surface, url: str) -> ProxyTransport | PlatformTransport:
    return ProxyTransport(KEY, url) if surface.service == "proxy" else PlatformTransport(ID, SECRET, url)


REPLIES = {
    "echo": answer("400 Bad Request", f'{{"detail":"{KEY} {ID} {SECRET} {PROMPT}"}}'.encode()),
    "auth echo": answer("401 Unauthorized", f'{{"detail":"{KEY} {ID} {SECRET}"}}'.encode()),
    "redirect": answer("307 Temporary Redirect", b"", f"Location: http://127.0.0.1:1/?key={KEY}{SECRET}"),
    "not http": b"\x00\x01 nonsense\r\n\r\n",
    "nothing": b"",
    "html": answer("502 Bad Gateway", f"<html>{KEY} {SECRET}</html>".encode()),
    "odd": answer("200 OK", f"{KEY} {SECRET} {PROMPT}".encode()),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_nothing_private_is_in_an_error_a_log_or_a_repr(
    surface: Surface, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(REPLIES[name])

    shown: list[str] = []
    async with raw_server(reply) as server:
        hf = Higgsfield(transport(surface, server.url), retry=RetryPolicy(attempts=2, first=0))
        async with hf:
            try:
                await hf.submit(surface.request)
            except HiggsfieldError as error:
                again = pickle.loads(pickle.dumps(error))
                chain: BaseException | None = error
                while chain is not None:
                    shown += [str(chain), repr(chain), *map(repr, chain.args)]
                    chain = chain.__cause__ or chain.__context__
                shown += [str(again), repr(again), *traceback.format_exception(error), repr(hf), repr(surface.request)]
    shown.append(caplog.text)
    assert len(shown) > 5
    for text in shown:
        for private in (*secrets(surface), PROMPT):
            assert private not in text


async def test_keys_do_not_follow_a_redirect(surface: Surface) -> None:
    async def serve(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b'{"id":"x","request_id":"x"}'))

    async with raw_server(serve) as elsewhere:

        async def redirect(_: RawServer, writer: asyncio.StreamWriter) -> None:
            writer.write(answer("308 Permanent Redirect", b"", f"Location: {elsewhere.url}/"))

        async with raw_server(redirect) as server, Higgsfield(transport(surface, server.url)) as hf:
            with pytest.raises(HiggsfieldError, match="which is not followed") as caught:
                await hf.submit(surface.request)
        assert caught.value.charged == "no"
        assert not elsewhere.heard


async def test_keys_go_to_the_configured_address_whatever_the_answers_name(tmp_path: Path) -> None:
    async def serve(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b"picture"))

    async with raw_server(serve) as elsewhere:
        body = (
            f'{{"request_id":"x","status":"completed","status_url":"{elsewhere.url}/s","cancel_url":"{elsewhere.url}/c",'
            f'"images":[{{"url":"{elsewhere.url}/x.png"}}]}}'
        ).encode()

        async def platform(_: RawServer, writer: asyncio.StreamWriter) -> None:
            writer.write(answer("200 OK", body))

        async with raw_server(platform) as server, Higgsfield(PlatformTransport(ID, SECRET, server.url)) as hf:
            task = await hf.submit(V2.request)
            await task.refresh()
            await task.cancel()
            await task.save(tmp_path)
            assert len(server.heard) == 3
        assert [heard.split()[1] for heard in elsewhere.heard] == [b"/x.png"]
        for private in (ID, SECRET):
            assert private.encode() not in elsewhere.heard[0]


async def test_a_whole_run_shows_nothing_private(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    sandbox.plan(Plan(), Plan(end="failed", reason="x"), Plan())
    sandbox.script("poll", Fault.answer(500), Fault.answer(401))
    for surface in SURFACES:
        async with client(surface) as hf:
            task = await hf.submit(surface.request)
            with contextlib.suppress(HiggsfieldError):
                await task.save(tmp_path)
    assert "Submitted: " in caplog.text
    for private in (sandbox.proxy_key, sandbox.key_id, sandbox.key_secret, PROMPT, IMAGE):
        assert private not in caplog.text
    for received in sandbox.received:
        for private in (sandbox.proxy_key, sandbox.key_id, sandbox.key_secret):
            assert private not in received.path
            assert private not in str(received.query)
