"""The rules about money, counted at the server: what is paid for is never more than what was asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import anyio
import pytest

from cancelling import cancelled_once
from higgsfield_async import (
    ArgumentWarning,
    AuthenticationFailed,
    ConnectionFailed,
    Higgsfield,
    InsufficientCredits,
    InvalidRequest,
    Limits,
    MalformedResponse,
    ModelRequest,
    PlatformTransport,
    ProxyTransport,
    RateLimited,
    RetryPolicy,
    ServiceUnavailable,
    SubmissionUnknown,
    TaskRef,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from raw import RawServer, answer, raw_server
from surfaces import PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]

AFTER_ACCEPTANCE = {
    "reset": Fault.reset(accept=True),
    "500": Fault.answer(500, accept=True),
    "502": Fault.html(502, accept=True),
    "503": Fault.answer(503, b'{"detail":"x"}', {"Content-Type": "application/json"}, accept=True),
    "504": Fault.answer(504, accept=True),
    "408": Fault.answer(408, accept=True),
    "truncated": Fault.truncate(),
    "html": Fault.html(200, accept=True),
    "empty": Fault.answer(200, accept=True),
    "no id": Fault.answer(200, b'{"status":"queued"}', accept=True),
}
BEFORE_ACCEPTANCE = {
    "reset": Fault.reset(),
    "500": Fault.answer(500),
    "502": Fault.html(502),
    "504": Fault.answer(504),
    "html": Fault.ok_html(),
}
NOT_ACCEPTED = {
    "429": Fault.answer(429),
    "429 full": Fault.answer(429, b'{"code":"account_queue_full","limit":4,"detail":"full"}', {"Retry-After": "0"}),
    "400 concurrency": Fault.answer(400, b'{"detail":"Maximum number of concurrent requests (4) has been reached"}'),
    "428 gateway": Fault.answer(428, b'{"error":{"message":"gate way error...","code":"gate_check_way_error"}}'),
}


def submits(sandbox: Sandbox) -> int:
    return sum(received.operation == "submit" for received in sandbox.received)


@pytest.mark.parametrize("name", AFTER_ACCEPTANCE)
async def test_an_answer_lost_after_acceptance_is_paid_once(
    sandbox: Sandbox, client: Client, surface: Surface, name: str
) -> None:
    sandbox.script("submit", AFTER_ACCEPTANCE[name])
    async with client(surface) as hf:
        if surface.keyed:
            task = await hf.submit(surface.request)
            assert task.id in sandbox.generations
            assert submits(sandbox) == 2
        else:
            with pytest.raises(SubmissionUnknown) as caught:
                await hf.submit(surface.request)
            assert caught.value.request == surface.request
            assert caught.value.key is None
            assert caught.value.charged == "unknown"
            assert not caught.value.transient
            assert caught.value.cause is caught.value.__cause__
            assert submits(sandbox) == 1
    assert len(sandbox.generations) == 1


@pytest.mark.parametrize("name", BEFORE_ACCEPTANCE)
async def test_what_may_have_been_accepted_is_not_repeated_without_a_key(
    sandbox: Sandbox, client: Client, surface: Surface, name: str
) -> None:
    sandbox.script("submit", BEFORE_ACCEPTANCE[name])
    async with client(surface) as hf:
        if surface.keyed:
            await hf.submit(surface.request)
        else:
            with pytest.raises(SubmissionUnknown):
                await hf.submit(surface.request)
    assert len(sandbox.generations) == int(surface.keyed)


@pytest.mark.parametrize("name", NOT_ACCEPTED)
async def test_what_was_not_accepted_is_tried_again(
    sandbox: Sandbox, client: Client, surface: Surface, name: str
) -> None:
    if name.startswith("428") and surface.service != "proxy":
        pytest.skip("428 is the proxy's")
    sandbox.script("submit", NOT_ACCEPTED[name], NOT_ACCEPTED[name])
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
    assert [task.id] == list(sandbox.generations)
    assert submits(sandbox) == 3


async def test_a_timeout_is_unknown_and_recovered_where_a_key_can(
    sandbox: Sandbox, client: Client, surface: Surface
) -> None:
    sandbox.script("submit", Fault.delay(3))
    async with client(surface, limits=Limits(first_byte=0.3)) as hf:
        if surface.keyed:
            assert (await hf.submit(surface.request)).id in sandbox.generations
        else:
            with pytest.raises(SubmissionUnknown, match="silent for 0.3 s"):
                await hf.submit(surface.request)
    assert len(sandbox.generations) == 1


async def test_a_stalled_body_is_bounded_too() -> None:
    async def drip(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        # A byte now and then keeps the socket from falling silent.
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    async with raw_server(drip) as server:
        transport = ProxyTransport("hk-key", server.url)
        async with Higgsfield(transport, limits=Limits(connect=0.2, first_byte=0.2, read=0.2)) as hf:
            with pytest.raises(SubmissionUnknown, match=r"within 0\.6 s"):
                await hf.submit(PROXY.request)


async def test_all_attempts_of_one_submit_carry_one_key_and_the_same_bytes(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.answer(500), Fault.reset(accept=True), Fault.answer(429), Fault.truncate())
    async with client(V2) as hf:
        await hf.submit(V2.request)
        await hf.submit(V2.request)
    keys = [received.headers["Idempotency-Key"] for received in sandbox.received]
    assert len(keys) == 6
    assert len(set(keys[:5])) == 1
    assert keys[5] != keys[0]
    assert len({received.body for received in sandbox.received}) == 1
    assert len(sandbox.generations) == 2


async def test_a_key_brings_the_original_back_after_a_restart(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5)
    async with client(V2) as hf:
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(V2.request)
    key = caught.value.key
    assert key is not None
    assert key in str(caught.value)
    assert caught.value.request is not None
    async with client(V2) as hf:
        task = await hf.submit(caught.value.request, idempotency_key=key)
    assert [task.id] == list(sandbox.generations)


async def test_doubt_survives_a_later_refusal(sandbox: Sandbox, client: Client) -> None:
    # The first try was accepted and its answer lost; that the second was refused says nothing of the first.
    sandbox.script("submit", Fault.reset(accept=True), Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    async with client(V2) as hf:
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(V2.request)
    assert isinstance(caught.value.cause, AuthenticationFailed)
    assert len(sandbox.generations) == 1


async def test_doubt_survives_refused_connections() -> None:
    async def accept_and_vanish(server: RawServer, _: asyncio.StreamWriter) -> None:
        server.stop_listening()

    async with raw_server(accept_and_vanish) as server:
        transport = PlatformTransport("id", "secret", server.url)
        async with Higgsfield(transport, retry=RetryPolicy(first=0)) as hf:
            with pytest.raises(SubmissionUnknown) as caught:
                await hf.submit(V2.request)
    assert isinstance(caught.value.cause, ConnectionFailed)
    assert caught.value.cause.refused
    assert caught.value.charged == "unknown"


async def test_nothing_listening_is_not_charged(surface: Surface) -> None:
    async with Sandbox() as sandbox:
        transport = sandbox.proxy() if surface.service == "proxy" else sandbox.platform()
    async with Higgsfield(transport, retry=RetryPolicy(first=0)) as hf:
        with pytest.raises(ConnectionFailed, match="nothing was sent") as caught:
            await hf.submit(surface.request)
    assert caught.value.charged == "no"
    assert caught.value.refused


async def test_an_unknown_host_is_not_charged() -> None:
    transport = ProxyTransport("hk-key", "http://nowhere.invalid")
    async with Higgsfield(transport, retry=RetryPolicy(attempts=2, first=0)) as hf:
        with pytest.raises(ConnectionFailed, match="nothing was sent") as caught:
            await hf.submit(PROXY.request)
    assert caught.value.charged == "no"


async def test_refusals_are_typed_and_free(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.script("submit", Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    sandbox.script("submit", Fault.answer(403, b'{"detail":"not_enough_credits"}'))
    sandbox.script("submit", Fault.answer(422, b'{"detail":[{"loc":["body","prompt"],"msg":"bad","type":"value"}]}'))
    async with client(surface) as hf:
        for kind in (AuthenticationFailed, InsufficientCredits, InvalidRequest):
            with pytest.raises(kind) as caught:
                await hf.submit(surface.request)
            assert caught.value.charged == "no"
    assert submits(sandbox) == 3
    assert not sandbox.generations


async def test_limits_that_stay_are_told_as_such(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.script("submit", *[NOT_ACCEPTED["400 concurrency"]] * 1000)
    async with client(surface, limits=Limits(patience=0.2)) as hf:
        with pytest.raises(RateLimited) as caught:
            await hf.submit(surface.request)
    assert caught.value.limit == 4
    assert caught.value.charged == "no"
    assert not sandbox.generations


async def test_unkeyed_submits_use_a_fresh_connection_and_polls_do_not(sandbox: Sandbox, client: Client) -> None:
    async with client(PROXY) as hf:
        for _ in range(3):
            await (await hf.submit(PROXY.request)).refresh()
            await (await hf.submit(PROXY.request)).refresh()
    submitted = [received.connection for received in sandbox.received if received.operation == "submit"]
    polled = [received.connection for received in sandbox.received if received.operation == "poll"]
    assert len(set(submitted)) == len(submitted)
    assert len(set(polled)) == 1
    assert not set(submitted) & set(polled)


async def test_keyed_submits_share_connections(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        await hf.submit(V2.request)
        await hf.submit(V2.request)
    assert len({received.connection for received in sandbox.received}) == 1


async def test_a_cancelled_submit_keeps_its_id(
    sandbox: Sandbox, client: Client, surface: Surface, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    caplog.set_level(logging.WARNING, "higgsfield_async")
    async with client(surface) as hf:
        await cancelled_once(lambda: sandbox.generations, hf.submit(surface.request))
        assert len(sandbox.generations) == 1
    [record] = caplog.records
    ref = TaskRef.from_json(record.getMessage().rpartition(": ")[2])
    assert [ref.id] == list(sandbox.generations)


async def test_a_submit_cancelled_before_it_was_sent_costs_nothing(
    sandbox: Sandbox, client: Client, surface: Surface, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "30"}))
    async with client(surface) as hf:
        pace = hf._opened().engine.pace
        await cancelled_once(lambda: pace.held_back("submit"), hf.submit(surface.request))
        await anyio.sleep(0.05)
    assert submits(sandbox) == 1
    assert not sandbox.generations
    assert not caplog.records


async def test_a_refusal_after_the_caller_has_gone_is_not_tried_again(surface: Surface) -> None:
    async def refuse_late(_: RawServer, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer("429 Too Many Requests"))

    async with raw_server(refuse_late) as server:
        transport = (
            ProxyTransport("hk-key", server.url)
            if surface.service == "proxy"
            else PlatformTransport("id", "secret", server.url)
        )
        async with Higgsfield(transport, retry=RetryPolicy(first=0)) as hf:
            await cancelled_once(lambda: server.heard, hf.submit(surface.request))
        assert len(server.heard) == 1


async def test_run_cancelled_in_the_submit_cancels_the_generation_when_asked(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=1000))
    sandbox.script("submit", Fault.delay(0.2))
    async with client(V2) as hf:
        await cancelled_once(lambda: sandbox.generations, hf.run(V2.request, on_cancel="cancel"))
    [generation] = sandbox.generations.values()
    assert generation.status == "canceled"
    assert generation.refunded


async def test_an_abandoned_submit_that_failed_is_logged(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    async with client(PROXY, limits=Limits(first_byte=0.2)) as hf:
        await cancelled_once(lambda: sandbox.received, hf.submit(PROXY.request))
    assert any("did not succeed" in record.message for record in caplog.records)


async def test_malformed_is_the_cause(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.ok_html())
    async with client(PROXY) as hf:
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(PROXY.request)
    cause = caught.value.cause
    assert isinstance(cause, MalformedResponse)
    assert cause.status == 200
    assert b"<html>" in cause.body


async def test_an_edge_page_is_no_refusal_of_the_key(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", *[Fault.html(403)] * 9)
    async with client(V1) as hf:
        with pytest.raises(ServiceUnavailable) as caught:
            await hf.submit(V1.request)
    assert caught.value.charged == "no"


async def test_an_over_long_answer_is_cut(sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("higgsfield_async._engine.LONGEST_ANSWER", 100)
    sandbox.script("submit", Fault.answer(200, b" " * 500))
    async with client(PROXY) as hf:
        with pytest.raises(SubmissionUnknown, match="longer than 100 bytes"):
            await hf.submit(PROXY.request)


async def test_bytes_that_are_not_http() -> None:
    async def babble(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01\x02 not http at all\r\n\r\n")

    async with raw_server(babble) as server, Higgsfield(ProxyTransport("hk-key", server.url)) as hf:
        with pytest.raises(SubmissionUnknown, match="not HTTP that can be read"):
            await hf.submit(PROXY.request)


@pytest.mark.parametrize("arguments", [{"seed": 0}, {"prompt": "x"}])
async def test_the_service_refuses_with_its_fields(
    sandbox: Sandbox, client: Client, arguments: dict[str, object]
) -> None:
    with pytest.warns(ArgumentWarning, match="image_url: is required"):
        request = ModelRequest("higgsfield-ai/dop/turbo", arguments)
    async with client(V2) as hf:
        with pytest.raises(InvalidRequest) as caught:
            await hf.submit(request)
    assert caught.value.errors
    assert caught.value.status == 422
    assert caught.value.correlation_id
    assert ("body", "image_url") in [error.loc for error in caught.value.errors]
