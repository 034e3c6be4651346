"""The client's life: made, opened, used, closed; and what it refuses before anything is sent."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from aiohttp import web

from cancelling import cancelled_once, until
from higgsfield_async import (
    Ad,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    InvalidRequest,
    Limits,
    NotFound,
    PlatformTransport,
    ProxyTransport,
    RetryPolicy,
    Soul,
    Speak,
    Speech,
    SubmissionUnknown,
    TaskRef,
    Unsupported,
    Webhook,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from raw import RawServer, answer, raw_server
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]
WHEN = datetime(2026, 11, 22, tzinfo=UTC)


async def test_a_picture_in_the_request_itself(client: Client, sandbox: Sandbox) -> None:
    picture = "data:image/png;base64," + "A" * 5_000_000
    async with client() as hf:
        sandbox.script("submit", Fault.answer(428, b'{"error": {"message": "nrpm"}}'))
        await hf.submit(ImageToVideo(model="lite", motion_id=MOTION, prompt=PROMPT, images=[picture]))
    refused, accepted = sandbox.received
    assert refused.body == accepted.body
    assert accepted.json()["image"] == [picture]
    assert accepted.headers["Content-Length"] == str(len(accepted.body))
    assert accepted.headers["Content-Type"] == "application/json"


def test_made_before_the_loop_runs_and_bound_to_the_first() -> None:
    with Sandbox(speed=100) as sandbox:
        hf = Higgsfield(sandbox.proxy())
        assert repr(hf).endswith("new)")

        async def use() -> None:
            await hf.submit(PROXY.request)
            assert repr(hf).endswith("open)")

        async def misuse() -> None:
            for attempt in (hf.submit(PROXY.request), hf.close()):
                with pytest.raises(ClientClosed, match="another event loop, and nothing was sent"):
                    await attempt

        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        asyncio.run(misuse())
        assert len(sandbox.generations) == 1
        loop.run_until_complete(hf.close())
        loop.close()
        assert repr(hf).endswith("closed)")


def test_outside_any_loop() -> None:
    hf = Higgsfield(ProxyTransport("hk-key"))
    ref = TaskRef(transport="proxy", origin="x", account="y", id="z", kind="ad", created_at=WHEN)
    with pytest.raises(ClientClosed, match="running event loop"):
        hf.task(ref)
    asyncio.run(hf.close())


async def test_use_after_close(sandbox: Sandbox, client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
    await hf.close()
    for use in (hf.submit(PROXY.request), hf.run(PROXY.request), anext(hf.motions())):
        with pytest.raises(ClientClosed, match="make a new one"):
            await use
    with pytest.raises(ClientClosed):
        hf.task(task.ref)
    assert len(sandbox.generations) == 1


async def test_a_client_that_was_never_used_closes(client: Client) -> None:
    await client().close()


async def test_opened_in_one_task_and_closed_in_another(sandbox: Sandbox, client: Client) -> None:
    hf = client()
    await asyncio.create_task(hf.__aenter__())
    assert (await asyncio.create_task(hf.run(PROXY.request))).outputs
    await asyncio.create_task(hf.close())


async def test_a_session_of_the_users_own_is_used_and_left_open(sandbox: Sandbox, client: Client) -> None:
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}, raise_for_status=True) as session:
        sandbox.script("submit", Fault.answer(429))
        async with client(session=session) as hf:
            assert (await hf.run(PROXY.request)).outputs
        assert not session.closed
        assert {received.headers["X-Mine"] for received in sandbox.received} == {"yes"}
        submitted = [received.connection for received in sandbox.received if received.operation == "submit"]
        assert len(set(submitted)) == len(submitted) == 2
        async with client(session=session) as hf:
            await session.close()
            with pytest.raises(ClientClosed) as caught:
                await hf.submit(PROXY.request)
            assert caught.value.charged == "no"


async def test_proxies_of_the_environment_only_when_trusted(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append(str(request.rel_url))
        return web.json_response({"id": "through-the-proxy"})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    monkeypatch.setenv("http_proxy", f"http://{host}:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with client(V1) as hf:
        assert (await hf.submit(V1.request)).id in sandbox.generations
    assert not seen
    async with client(V1, trust_env=True) as hf:
        assert (await hf.submit(V1.request)).id == "through-the-proxy"
    assert len(seen) == 1
    await runner.cleanup()


async def test_closing_waits_for_an_answer_that_was_paid_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    hf = client()
    submitting = asyncio.create_task(hf.submit(PROXY.request))
    await until(lambda: sandbox.received)
    await hf.close()
    assert [(await submitting).id] == list(sandbox.generations)


async def test_closing_waits_no_longer_than_it_says(
    sandbox: Sandbox, client: Client, surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._client.CLOSE_GRACE", 0.1)
    sandbox.script("submit", Fault.delay(5))
    hf = client(surface)
    submitting = asyncio.create_task(hf.submit(surface.request))
    await until(lambda: sandbox.generations)
    with anyio.fail_after(2):
        await hf.close()
    with pytest.raises(SubmissionUnknown) as caught:
        await submitting
    assert isinstance(caught.value.cause, ClientClosed)
    assert (caught.value.key is not None) == surface.keyed
    assert len(sandbox.generations) == 1


async def test_closing_that_is_itself_cancelled_still_closes(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.delay(5))
    hf = client(PROXY)
    submitting = asyncio.create_task(hf.submit(PROXY.request))
    await until(lambda: sandbox.received)
    closing = asyncio.create_task(hf.close())
    await anyio.sleep(0.1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(SubmissionUnknown):
        await submitting


async def test_closing_does_not_wait_for_what_was_not_sent(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "60"}))
    hf = client(surface)
    submitting = asyncio.create_task(hf.submit(surface.request))
    while not (sandbox.received and hf._opened().engine.pace.held_back("submit")):
        await anyio.sleep(0.01)
    with anyio.fail_after(5):
        await hf.close()
    with pytest.raises(ClientClosed, match="before the submit was answered") as caught:
        await submitting
    assert caught.value.charged == "no"
    assert not sandbox.generations


async def test_a_submit_given_up_and_then_cut_short_is_logged(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._client.CLOSE_GRACE", 0.1)
    sandbox.script("submit", Fault.delay(5))
    async with client() as hf:
        await cancelled_once(lambda: sandbox.received, hf.submit(PROXY.request))
    assert "may have been accepted" in caplog.text


async def test_requests_of_the_other_service_are_refused_by_name(sandbox: Sandbox, client: Client) -> None:
    ad = Ad(product_placement_sample_id="3hpZ2HB0xS688KnzMIwU16", images=[IMAGE])
    speech = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], speak=Speak(text="hi", voice_id="v"))
    async with client("platform") as hf:
        for request in (PROXY.request, ad, speech):
            with pytest.raises(Unsupported, match=f"cannot make {type(request).__name__}: use a ProxyTransport"):
                await hf.submit(request)
    async with client("proxy") as hf:
        for request in (V1.request, V2.request, Soul(prompt=PROMPT, width_and_height="1536x1536")):
            with pytest.raises(Unsupported, match=f"cannot make {type(request).__name__}: use a PlatformTransport"):
                await hf.submit(request)
    assert not sandbox.received


@pytest.mark.parametrize("request_", [{"prompt": PROMPT}, PROMPT, None, Speak(text="hi", voice_id="v"), ImageToVideo])
async def test_what_is_no_request_at_all(sandbox: Sandbox, client: Client, request_: Any) -> None:
    async with client("platform") as hf:
        with pytest.raises(InvalidRequest, match="no request"):
            await hf.submit(request_)
    assert not sandbox.received


async def test_options_that_a_service_has_not(sandbox: Sandbox, client: Client) -> None:
    hook = Webhook("https://example.com/hook")
    async with client(PROXY) as proxy, client(V1) as platform:
        for hf, surface, options in (
            (proxy, PROXY, {"webhook": hook}),
            (proxy, PROXY, {"expires_after": 3600}),
            (proxy, PROXY, {"idempotency_key": "k"}),
            (platform, V1, {"expires_after": 3600}),
            (platform, V1, {"idempotency_key": "k"}),
        ):
            with pytest.raises(Unsupported, match=f"takes no {next(iter(options))}"):
                await hf.submit(surface.request, **options)
        for refused in (
            {"idempotency_key": "with space"},
            {"idempotency_key": ""},
            {"idempotency_key": "k" * 256},
            {"expires_after": 3599},
            {"webhook": Webhook("http://example.com/hook")},
            {"webhook": Webhook("https://example.com/hook", secret="s")},
        ):
            with pytest.raises(InvalidRequest, match=next(iter(refused))) as caught:
                await platform.submit(V2.request, **refused)
            assert caught.value.charged == "no"
    assert not sandbox.received


async def test_options_as_the_platform_wants_them(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        hook = Webhook("https://example.com/hook?a=b&c=d")
        await hf.submit(V2.request, webhook=hook, expires_after=7200, idempotency_key="mine")
        await hf.submit(V1.request, webhook=Webhook("https://example.com/hook", secret="s3cret"))
    v2, v1 = sandbox.received
    assert v2.query["hf_webhook"] == hook.url
    assert v2.headers["Hf-Expires-After"] == "7200"
    assert v2.headers["Idempotency-Key"] == "mine"
    assert v1.json()["webhook"] == {"url": "https://example.com/hook", "secret": "s3cret"}


async def test_unset_fields_are_not_sent(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    async with client(surface) as hf:
        await hf.submit(surface.request)
    sent = sandbox.received[0].json()
    assert b"null" not in sandbox.received[0].body
    assert "seed" not in sent.get("params", sent)


async def test_a_body_beyond_the_proxys_limit_is_not_sent(sandbox: Sandbox, client: Client) -> None:
    request = ImageToVideo(model="lite", motion_id=MOTION, prompt=PROMPT, images=["A" * 11_000_000])
    async with client() as hf:
        with pytest.raises(InvalidRequest, match=r"the request would have 11\.00 MB, and the proxy takes 10 MiB"):
            await hf.submit(request)
    assert not sandbox.received


async def test_refs_of_elsewhere_are_refused(sandbox: Sandbox, client: Client) -> None:
    async with client(PROXY) as hf:
        ref = (await hf.submit(PROXY.request)).ref
    async with client("platform") as hf:
        with pytest.raises(ConfigurationError, match="another transport") as caught:
            hf.task(ref)
        assert caught.value.ref == ref
    for transport, what in (
        (ProxyTransport("hk-other", sandbox.proxy_url), "account"),
        (ProxyTransport(sandbox.proxy_key, "http://127.0.0.1:1"), "origin"),
    ):
        async with Higgsfield(transport) as hf:
            with pytest.raises(ConfigurationError, match=f"another {what} than this client's"):
                hf.task(ref)
    async with client() as hf:
        with pytest.raises(ConfigurationError, match="not a TaskRef"):
            hf.task("nonsense")


async def test_both_of_the_platforms_hosts_know_a_generation() -> None:
    new = PlatformTransport("id", "secret")
    old = PlatformTransport("id", "other-secret", "https://platform.higgsfield.ai/")
    ref = TaskRef(transport="platform", origin=old.origin, account=old.account, id="x", kind="m", created_at=WHEN)
    async with Higgsfield(new) as hf:
        assert hf.task(ref).ref == ref


async def test_an_id_cannot_lead_elsewhere() -> None:
    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("404 Not Found"))

    async with raw_server(reply) as server:
        mine = PlatformTransport("id", "secret", server.url)
        ref = TaskRef(
            transport="platform", origin=mine.origin, account=mine.account, id="a/../b?c", kind="m", created_at=WHEN
        )
        async with Higgsfield(mine) as hf:
            with pytest.raises(NotFound):
                await hf.task(ref).refresh()
            for identifier in ("..", ".", ""):
                with pytest.raises(InvalidRequest):
                    await hf.task(msgspec.structs.replace(ref, id=identifier)).refresh()
        assert [heard.splitlines()[0] for heard in server.heard] == [b"GET /requests/a%2F..%2Fb%3Fc/status HTTP/1.1"]


async def test_speech_finds_the_other_path_and_remembers(client: Client) -> None:
    speech = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], audio="https://example.com/a.wav")
    async with Sandbox(speech_path="/higgsfield/speech") as sandbox:
        transport = sandbox.proxy()
        async with Higgsfield(transport) as hf:
            await hf.submit(speech)
            await hf.submit(speech)
        paths = [received.path for received in sandbox.received]
        assert paths == ["/higgsfield/speak", "/higgsfield/speech", "/higgsfield/speech"]
        assert len(sandbox.generations) == 2


@pytest.mark.parametrize("status", [400, 403, 428, 500, 502])
async def test_speech_tries_the_other_path_for_nothing_but_a_missing_route(
    sandbox: Sandbox, client: Client, status: int
) -> None:
    speech = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], audio="https://example.com/a.wav")
    sandbox.script("submit", *[Fault.answer(status)] * 9)
    async with client() as hf:
        with pytest.raises(HiggsfieldError):
            await hf.submit(speech)
    assert {received.path for received in sandbox.received} == {"/higgsfield/speak"}


async def test_speech_that_has_no_path_at_all(sandbox: Sandbox, client: Client) -> None:
    speech = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], audio="https://example.com/a.wav")
    sandbox.script("submit", Fault.answer(405), Fault.answer(404))
    async with client() as hf:
        with pytest.raises(NotFound) as caught:
            await hf.submit(speech)
    assert caught.value.charged == "no"


async def test_a_path_prefix(sandbox: Sandbox) -> None:
    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b'{"id":"x"}'))

    async with raw_server(reply) as server:
        async with Higgsfield(ProxyTransport("hk-key", f"{server.url}/a/b/")) as hf:
            assert (await hf.submit(PROXY.request)).id == "x"
        assert server.heard[0].startswith(b"POST /a/b/higgsfield/generate HTTP/1.1")


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    import ssl

    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with Higgsfield(ProxyTransport("hk-key", url), retry=RetryPolicy(attempts=3, first=5, longest=5)) as hf:
        with pytest.raises(ConnectionFailed, match="certificate is not trusted; nothing was sent") as caught:
            await hf.submit(PROXY.request)
    assert caught.value.charged == "no"
    server.close()


async def test_a_connection_that_is_never_made() -> None:
    # A listener whose queue is full and that never accepts.
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    transport = ProxyTransport("hk-key", f"http://127.0.0.1:{port}")
    async with Higgsfield(transport, limits=Limits(connect=0.2), retry=RetryPolicy(attempts=2, first=0)) as hf:
        with pytest.raises(ConnectionFailed, match=r"no connection was made in time; nothing was sent") as caught:
            await hf.submit(PROXY.request)
    assert caught.value.charged == "no"
    for each in (listener, *fillers):
        each.close()


async def test_more_exchanges_than_connections_wait_their_turn(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", *[Fault.delay(0.1)] * 8)
    async with client(limits=Limits(max_connections=2, first_byte=0.25)) as hf:
        await asyncio.gather(*(hf.submit(PROXY.request) for _ in range(8)))
    assert len(sandbox.generations) == 8


async def test_nothing_is_left_when_all_of_it_is_cancelled(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[Plan(queued=1e9)] * 20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with client(V2) as hf, anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(hf.run, V2.request)
            while len(sandbox.generations) < 10:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        gc.collect()
    assert not caught
    ours = [task for task in asyncio.all_tasks() if "higgsfield" in task.get_name()]
    assert not ours


async def test_what_is_logged_when_a_wait_is_cancelled(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(Plan(queued=1e9))
    caplog.set_level(logging.INFO, "higgsfield_async")
    async with client() as hf:
        await cancelled_once(lambda: "poll" in [each.operation for each in sandbox.received], hf.run(PROXY.request))
    [identifier] = sandbox.generations
    assert f'"id":"{identifier}"' in caplog.text


CTRL_C = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # an ignored one is inherited
from higgsfield_async import Higgsfield, ProxyTransport
sys.path.insert(0, sys.argv[2])
from surfaces import PROXY
async def main():
    async with Higgsfield(ProxyTransport("hk-sandbox-key", sys.argv[1])) as hf:
        print("submitting", flush=True)
        await hf.submit(PROXY.request)
asyncio.run(main())
"""


def test_ctrl_c_in_the_middle_of_a_submit_shows_the_id() -> None:
    import signal

    with Sandbox() as sandbox:
        sandbox.script("submit", Fault.delay(1))
        process = subprocess.Popen(
            [sys.executable, "-c", CTRL_C, sandbox.proxy_url, str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        while not sandbox.generations:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        [identifier] = sandbox.generations
    assert f'"id":"{identifier}"' in errors
    assert "Unclosed" not in errors
