"""The edges at which money or ids are lost: each was a way to lose one."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from cancelling import cancelled_once, until
from higgsfield_async import (
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    Higgsfield,
    HiggsfieldError,
    InvalidRequest,
    JobSet,
    JobStatus,
    Limits,
    ModelRequest,
    PlatformTransport,
    PollPolicy,
    ProxyTransport,
    RateLimited,
    RetryPolicy,
    Speech,
    SubmissionUnknown,
    TaskRef,
    WaitTimeout,
    Webhook,
)
from higgsfield_async._http import HttpResponse
from higgsfield_async._requests import SubmitOptions
from higgsfield_async._transports._answers import clean
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from raw import RawServer, answer, raw_server
from surfaces import IMAGE, PROMPT, PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]
NEVER = Plan(queued=1e9)
WHEN = datetime(2026, 11, 22, tzinfo=UTC)


async def test_a_cancelled_run_shows_its_id_without_any_logging_set_up(
    sandbox: Sandbox, client: Client, surface: Surface, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(NEVER)
    caplog.set_level(logging.WARNING)
    async with client(surface) as hf:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hf.run(surface.request)
    [identifier] = sandbox.generations
    assert f'"id":"{identifier}"' in caplog.text


@pytest.mark.parametrize("settings", [{"timeout": float("nan")}, {"timeout": "30"}, {"on_cancel": "abort"}])
async def test_a_bad_setting_is_refused_before_paying(sandbox: Sandbox, client: Client, settings: Any) -> None:
    async with client() as hf:
        with pytest.raises(ConfigurationError):
            await hf.run(PROXY.request, **settings)
        assert not sandbox.received
        task = await hf.submit(PROXY.request)
        with pytest.raises(ConfigurationError):
            await task.wait(**settings)


@pytest.mark.parametrize("options", [{"idempotency_key": 5}, {"expires_after": "7200"}, {"webhook": "https://a.b/c"}])
async def test_bad_options_name_themselves(sandbox: Sandbox, client: Client, options: Any) -> None:
    async with client("platform") as hf:
        with pytest.raises(InvalidRequest, match=next(iter(options))):
            await hf.submit(V2.request, **options)
        with pytest.raises(ConfigurationError):
            hf.task(None)  # type: ignore[arg-type]  # that is what is refused
    assert not sandbox.received


@pytest.mark.parametrize("status", [401, 403, 422])
async def test_a_refusal_of_a_resumed_submit_says_nothing_of_the_first(
    sandbox: Sandbox, client: Client, status: int
) -> None:
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5, Fault.answer(status, b'{"detail":"no"}'))
    async with client(V2) as hf:
        with pytest.raises(SubmissionUnknown) as first:
            await hf.submit(V2.request)
        with pytest.raises(SubmissionUnknown) as second:
            await hf.submit(V2.request, idempotency_key=first.value.key)
    assert second.value.charged == "unknown"
    assert second.value.key == first.value.key
    assert len(sandbox.generations) == 1


async def test_who_is_cancelled_already_pays_nothing(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    async with client(surface) as hf:

        async def sibling_fails() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(hf.submit, surface.request)
                raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            await sibling_fails()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await hf.run(surface.request)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await hf.submit(surface.request)
        await anyio.sleep(0.05)
    assert not sandbox.received


async def test_fresh_means_fresh_whatever_the_service_answers() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-l")
            )
            await reader.readexactly(length)
            writer.write(b'HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 10\r\n\r\n{"id":"x"}')

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Higgsfield(ProxyTransport("hk-key", url)) as hf:
        for _ in range(3):
            await hf.submit(PROXY.request)
    server.close()
    assert connections == 3


ODD = [
    b'{"id":"gen-1","request_id":"gen-1","jobs":{}}',
    b'{"id":"gen-1","request_id":"gen-1","jobs":[null, 3]}',
    b'{"id":"gen-1","request_id":"gen-1","created_at":1e999}',
    b'{"id":"gen-1","request_id":"gen-1","jobs":[{"id":1,"result":[],"results":"x"}]}',
    b'{"id":"gen-1","request_id":"gen-1","status":"queued","images":["https://a.b/c.png"],"video":3,"audios":{}}',
    b'{"id":"gen-1","request_id":"gen-1","status":["queued"]}',
]


@pytest.mark.parametrize("body", ODD)
async def test_an_id_is_taken_whatever_stands_beside_it(
    sandbox: Sandbox, client: Client, surface: Surface, body: bytes
) -> None:
    sandbox.script("submit", Fault.answer(200, body, accept=True))
    async with client(surface) as hf:
        assert (await hf.submit(surface.request)).id == "gen-1"
    assert len(sandbox.received) == 1


def test_an_odd_field_does_not_hide_a_result() -> None:
    ref = TaskRef(transport="platform", origin="o", account="a", id="mine", kind="m", created_at=WHEN)
    call = PlatformTransport("id", "secret").poll(ref)
    # No id, a bare address, and fields of other forms: the rest is read all the same.
    found = call.decode(
        HttpResponse(200, {}, b'{"status":"completed","images":["https://a.b/c.png",{"url":7}],"video":"","error":3}')
    )
    assert isinstance(found, JobSet)
    assert (found.id, [media.url for media in found.outputs]) == ("mine", ["https://a.b/c.png"])
    assert found.reason is None


async def test_a_submit_cut_short_leaves_its_key_in_the_log(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._client.CLOSE_GRACE", 0.1)
    sandbox.script("submit", Fault.delay(5))
    async with client(V2) as hf:
        await cancelled_once(lambda: sandbox.generations, hf.submit(V2.request))
    [generation] = sandbox.generations.values()
    assert generation.idempotency_key is not None
    assert generation.idempotency_key in caplog.text


async def test_nothing_is_said_of_what_was_never_sent(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "60"}))
    async with client(V2) as hf:
        pace = hf._opened().engine.pace
        await cancelled_once(lambda: pace.held_back("submit"), hf.submit(V2.request))
    assert [received.status for received in sandbox.received] == [429]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_run_does_not_pay_after_its_deadline(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.script("submit", *[Fault.answer(429, headers={"Retry-After": "1"})] * 2)
    async with client(surface) as hf:
        with pytest.raises(RateLimited) as caught:
            await hf.run(surface.request, timeout=0.5)
    assert caught.value.charged == "no"
    assert not sandbox.generations


async def test_an_absurd_retry_after_does_not_end_a_run(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "999999999"}))
    async with client(surface, retry=RetryPolicy(first=0.001, longest=0.01, longest_retry_after=0.05)) as hf:
        assert (await hf.run(surface.request, timeout=10)).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == 1


@pytest.mark.parametrize("native", [True, False])
async def test_closing_that_is_cancelled_goes_on(sandbox: Sandbox, client: Client, *, native: bool) -> None:
    sandbox.plan(NEVER)
    for steps in range(8):
        hf = client(V1)
        task = await hf.submit(V1.request)
        waiting = asyncio.create_task(task.wait())
        await anyio.sleep(0.01)
        if native:
            closing = asyncio.create_task(hf.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
        else:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await hf.close()
        await hf.close()
        with pytest.raises(ClientClosed):
            await waiting
        sandbox.plan(NEVER)


async def test_a_scope_that_is_cancelled_waits_for_what_was_paid_for(
    sandbox: Sandbox, client: Client, surface: Surface, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.delay(0.4))

    async def submit() -> None:
        async with client(surface) as hf:
            await hf.submit(surface.request)

    await cancelled_once(lambda: sandbox.generations, submit())
    [identifier] = sandbox.generations
    assert f'"id":"{identifier}"' in caplog.text


async def test_two_closings_end_together(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    hf = client()
    submitting = asyncio.create_task(hf.submit(PROXY.request))
    await until(lambda: sandbox.received)
    first, second = asyncio.create_task(hf.close()), asyncio.create_task(hf.close())
    await second
    assert submitting.done()
    await first


async def test_a_refusal_while_closing_is_not_tried_again() -> None:
    async def refuse_late(_: RawServer, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer("429 Too Many Requests"))

    async with raw_server(refuse_late) as server:
        hf = Higgsfield(ProxyTransport("hk-key", server.url), retry=RetryPolicy(first=0))
        submitting = asyncio.create_task(hf.submit(PROXY.request))
        await until(lambda: server.heard)
        await hf.close()
        with pytest.raises(RateLimited):
            await submitting
        assert len(server.heard) == 1


async def test_a_cancel_born_while_closing_is_sent(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    sandbox.script("submit", Fault.delay(0.3))
    sandbox.script("cancel", Fault.delay(0.2))
    async with client(V2) as hf:
        await cancelled_once(lambda: sandbox.generations, hf.run(V2.request, on_cancel="cancel"))
    [generation] = sandbox.generations.values()
    assert generation.status == "canceled"
    # And heard out: a request that is dropped halfway need not be carried out.
    assert [received.status for received in sandbox.received if received.operation == "cancel"] == [202]


async def test_an_abandoned_submit_still_recovers_its_id(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.delay(0.4), Fault.answer(429))
    async with client(V2, limits=Limits(first_byte=0.2)) as hf:
        await cancelled_once(lambda: sandbox.generations, hf.submit(V2.request))
    [identifier] = sandbox.generations
    assert f'"id":"{identifier}"' in caplog.text


async def test_an_abandoned_speech_tries_no_other_path() -> None:
    speech = Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], audio="https://example.com/a.wav")

    async def miss_late(_: RawServer, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer("404 Not Found"))

    async with raw_server(miss_late) as server:
        async with Higgsfield(ProxyTransport("hk-key", server.url)) as hf:
            await cancelled_once(lambda: server.heard, hf.submit(speech))
        assert len(server.heard) == 1


async def test_a_session_that_raises_anything_harms_one_exchange(sandbox: Sandbox, client: Client) -> None:
    broken = 3

    async def middleware(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        nonlocal broken
        if request.method == "GET" and broken:
            broken -= 1
            raise LookupError(str(request.headers))
        return await handler(request)

    async with (
        aiohttp.ClientSession(middlewares=(middleware,)) as session,
        client(PROXY, session=session) as hf,
    ):
        task = await hf.submit(PROXY.request)
        with pytest.raises(ConnectionFailed, match="LookupError") as caught:
            await Higgsfield(sandbox.proxy(), session=session, retry=RetryPolicy(attempts=1)).task(task.ref).refresh()
        assert sandbox.proxy_key not in str(caught.value)
        assert (await task.wait()).status is JobStatus.COMPLETED


async def test_saving_after_close(client: Client, tmp_path: Path) -> None:
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        await task.wait()
    with pytest.raises(ClientClosed) as caught:
        await task.save(tmp_path)
    assert caught.value.ref == task.ref
    assert caught.value.charged == "yes"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # new in 3.12
        async with Sandbox(speed=100) as sandbox, Higgsfield(sandbox.platform(), poll=PollPolicy.fixed(0.02)) as hf:
            ref = (await hf.submit(V1.request)).ref
            assert (await hf.task(ref).wait()).outputs
            assert (await hf.run(V2.request)).outputs

    asyncio.run(main())


async def test_a_deadline_says_that_only_the_address_is_missing(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0, linkless=10**6))
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        with pytest.raises(WaitTimeout, match="it was completed when last seen, without an address yet") as caught:
            await task.wait(timeout=0.3)
    assert caught.value.job_set is not None
    assert caught.value.job_set.status is JobStatus.COMPLETED


async def test_a_cancel_during_a_poll_is_heard_of_at_once(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    sandbox.script("poll", Fault.delay(0.3))
    async with client(V2, poll=PollPolicy(first=0.05, longest=60, factor=100)) as hf:
        task = await hf.submit(V2.request)
        waiting = asyncio.create_task(task.wait(check=False))
        await anyio.sleep(0.2)  # the first poll is under way, and will be answered as it was
        await task.cancel()
        with anyio.fail_after(5):
            assert (await waiting).status is JobStatus.CANCELED


async def test_a_second_waiter_during_a_slow_poll_asks_nothing_more(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", Fault.delay(0.3))
    async with client(V2, poll=PollPolicy.fixed(0.05)) as hf:
        task = await hf.submit(V2.request)
        first = asyncio.create_task(task.wait())
        await anyio.sleep(0.15)
        second = asyncio.create_task(hf.task(task.ref).wait())
        await anyio.sleep(0.1)
        assert sum(received.operation == "poll" for received in sandbox.received) == 1
        await asyncio.gather(first, second)


async def test_polls_stop_with_the_last_waiter(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=PollPolicy.fixed(0.1)) as hf:
        task = await hf.submit(V2.request)
        with pytest.raises(WaitTimeout):
            await task.wait(timeout=0.05)
        await anyio.sleep(0.2)
    assert not [received for received in sandbox.received if received.operation == "poll"]


async def test_a_failed_poll_heeds_what_the_service_asks(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", Fault.answer(503, headers={"Retry-After": "1"}))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        await task.wait()
    first, second = [received.at for received in sandbox.received if received.operation == "poll"][:2]
    assert second - first >= 1


async def test_what_nobody_holds_is_forgotten(client: Client, sandbox: Sandbox) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        await task.wait()
        seen = weakref.ref(task._tracked)
        del task
        gc.collect()
        assert seen() is None


def test_secrets_in_any_form_are_hidden() -> None:
    long = 'He said "stop", and\nthe white cat turned its head very slowly'
    said = f"{long} | {long!r} | {json.dumps(long)} | code"
    assert clean(said, {long}) == "… | '…' | \"…\" | code"
    assert clean(f"too long: {long[:40]}...", {long}) == "too long: …"
    assert clean("Invalid credentials", {"a", "in"}) == "Invalid credentials"
    assert clean("see https://a.b/c?d=e, or 'http://?x' http://a") == "see https://a.b/c?… or 'http://?…' http://a"
    many = "http://" * 100_000  # 3 minutes and more, if each of them were followed to the end
    assert clean(many) == many
    assert clean("hk-1234-5678 hk-1234", {"hk-1234", "hk-1234-5678"}) == "… …"


@pytest.mark.parametrize("surface", [V1, V2], ids=str)
def test_a_webhook_is_hidden(surface: Surface) -> None:
    hook = Webhook("https://example.com/hook/T0KEN", "s3cret" if surface is V1 else None)
    call = PlatformTransport("id-1", "secret-1").submit(surface.request, SubmitOptions(webhook=hook))
    for status in (400, 401, 500):
        for body in ({"detail": f"{hook.url} s3cret"}, {"code": "secret-1", "detail": "x"}):
            with pytest.raises(HiggsfieldError) as caught:
                call.decode(HttpResponse(status, {}, json.dumps(body).encode()))
            for private in ("T0KEN", "secret-1", *(["s3cret"] if surface is V1 else [])):
                assert private not in str(caught.value)


async def test_cookies_are_not_kept(sandbox: Sandbox) -> None:
    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b'{"id":"x","jobs":[]}', "Set-Cookie: session=mine"))

    async with raw_server(reply) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        async with Higgsfield(ProxyTransport("hk-key", url)) as hf:
            task = await hf.submit(PROXY.request)
            await task.refresh()
            await task.refresh()
        assert not any(b"cookie" in heard.lower() for heard in server.heard)


async def test_addresses_are_sent_as_they_are_made(sandbox: Sandbox, client: Client) -> None:
    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("404 Not Found"))

    async with raw_server(reply) as server:
        mine = ProxyTransport("hk-key", server.url)
        ref = TaskRef(
            transport="proxy", origin=mine.origin, account=mine.account, id="a b/ü%2F", kind="ad", created_at=WHEN
        )
        async with Higgsfield(mine) as hf:
            with pytest.raises(HiggsfieldError):
                await hf.task(ref).refresh()
        assert server.heard[0].startswith(b"GET /higgsfield/feed/a%20b%2F%C3%BC%252F HTTP/1.1")
    async with client("platform") as hf:
        hook = "https://example.com/h%2Fook?a=b+c&d=%26"
        await hf.submit(V2.request, webhook=Webhook(hook))
    assert sandbox.received[-1].query["hf_webhook"] == hook


async def test_no_money_is_no_reason_to_lose_an_id(client: Client) -> None:
    async with Sandbox(speed=100, points=8) as sandbox, Higgsfield(sandbox.proxy(), poll=PollPolicy.fixed(0.02)) as hf:
        task = await hf.submit(PROXY.request)
        assert sandbox.points == Decimal(1)
        assert (await task.wait()).outputs


@pytest.mark.parametrize("attempts", [2.5, 0, -1, float("nan")])
def test_attempts_are_whole(attempts: Any) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(attempts=attempts)
    with pytest.raises(ConfigurationError):
        Limits(connect=float("inf"))
    with pytest.raises(ConfigurationError):
        Limits(connect=float("nan"))


def test_the_messages_of_a_wrong_key_stay_useful() -> None:
    call = PlatformTransport("id-1", "secret-1").submit(
        ModelRequest("a/b", {"prompt": PROMPT, "aspect_ratio": "16:9"}), SubmitOptions()
    )
    with pytest.raises(AuthenticationFailed, match="Invalid credentials. Check the key"):
        call.decode(HttpResponse(401, {}, b'{"detail":"Invalid credentials"}'))
    with pytest.raises(InvalidRequest, match="aspect_ratio: Input should be '16:9' or '1:1'"):
        call.decode(
            HttpResponse(
                422,
                {},
                msgspec.json.encode(
                    {"detail": [{"loc": ["aspect_ratio"], "msg": "Input should be '16:9' or '1:1'", "type": "enum"}]}
                ),
            )
        )
