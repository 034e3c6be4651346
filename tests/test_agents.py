"""Agents: a message is paid for once, a turn is waited for whatever the network does, and a question is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import pickle
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from conftest import POLL, RETRY
from hypothesis import given, strategies as st

from cancelling import cancelled_once
from higgsfield_async import (
    AgentMedia,
    AgentMessage,
    AgentState,
    AgentStatus,
    ApiError,
    AuthenticationFailed,
    ClientClosed,
    ConnectionFailed,
    Higgsfield,
    InsufficientCredits,
    InvalidRequest,
    Limits,
    MalformedResponse,
    NotFound,
    PermissionDenied,
    PlatformTransport,
    PollPolicy,
    RateLimited,
    SubmissionUnknown,
    Unsupported,
    UploadError,
    WaitTimeout,
)
from higgsfield_async._agents import OnQuestion
from higgsfield_async._http import Grant, HttpResponse
from higgsfield_async.sandbox import Fault, Sandbox
from raw import RawServer, answer, raw_server

Client = Callable[..., Higgsfield]

PROMPT = "Make three storyboards of a lighthouse, at night"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))

PAYLOADS = Path(__file__).parents[2] / "shared" / "wire" / "payloads"
RECORDED = Path(__file__).parent / "recorded"
recordings = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the recordings do not lie beside this checkout")

CALLS = PlatformTransport("id", "secret").agents()
CREATE, SEND, MESSAGES = CALLS.create({}), CALLS.send("s1", PROMPT), CALLS.messages("s1", None)
SLOT = CALLS.media(len(PNG), "jpeg", None)


@pytest.fixture
async def hf(client: Client) -> AsyncIterator[Higgsfield]:
    async with client("platform") as opened:
        yield opened


@pytest.fixture
async def frozen() -> AsyncIterator[Sandbox]:
    """Its clock stands still: a turn that has begun does not end."""
    async with Sandbox(speed=0) as running:
        yield running


def paid(sandbox: Sandbox) -> int:
    """How many messages the service was sent."""
    return sum(received.operation == "submit" for received in sandbox.received)


# A conversation


async def test_a_turn(sandbox: Sandbox, hf: Higgsfield) -> None:
    before = sandbox.credits
    session = await hf.agents.create()
    assert (await session.messages()).status is AgentStatus.IDLE
    sent = await session.send(PROMPT)
    state = await session.wait()
    assert (state.status, state.raw_status) == (AgentStatus.IDLE, "idle")
    (answered,) = state.messages
    assert (answered.role, answered.status, answered.text) == ("assistant", "completed", f"Done: {PROMPT}")
    assert [part.type for part in answered.parts] == ["step-start", "reasoning", "text"]
    assert answered.parts[1].text == "It was asked for."
    assert answered.parts[1].fields["state"] == "done"
    assert answered.llm_cost_usd == Decimal("0.01")
    assert answered.created_at is not None
    assert state.text == answered.text
    every = await session.messages()
    assert [message.role for message in every.messages] == ["user", "assistant"]
    assert every.messages[0].id == sent
    assert every.text == answered.text
    assert (await session.messages(after=answered.id)).messages == ()
    assert before - sandbox.credits == Decimal("0.160")
    assert not sandbox.generations
    created, *_ = sandbox.received
    assert (created.method, created.path, created.json()) == ("POST", "/v1/agent/sessions", {"config": {}})
    for received in sandbox.received:
        assert received.headers["Authorization"] == f"Key {sandbox.key_id}:{sandbox.key_secret}"
        assert "hf-secret" not in received.headers


async def test_a_session_is_picked_up(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        first = await hf.agents.create({"mode": "fast"})
        await first.send(PROMPT)
    asked = len(sandbox.received)
    async with client("platform") as hf:
        session = hf.agents.session(first.id)
        assert repr(session) == f"AgentSession({first.id!r})"
        assert len(sandbox.received) == asked
        state = await session.wait()
        assert [message.role for message in state.messages] == ["user", "assistant"]
    assert sandbox.received[0].json() == {"config": {"mode": "fast"}}


async def test_questions_are_answered(sandbox: Sandbox, hf: Higgsfield) -> None:
    heard: list[str] = []

    def answer_at_once(messages: tuple[AgentMessage, ...]) -> str:
        heard.extend(message.text for message in messages)
        return "ask again" if len(heard) == 1 else "the red one"

    session = await hf.agents.create()
    state = await session.run("ask me", on_question=answer_at_once)
    assert heard == ["Which one?", "Which one?"]
    assert (state.status, state.text) == (AgentStatus.IDLE, "Done: the red one")
    assert paid(sandbox) == 3

    async def answer_later(messages: tuple[AgentMessage, ...]) -> str:
        await anyio.lowlevel.checkpoint()
        return messages[-1].text

    state = await session.run("ask me", on_question=answer_later, timeout=math.inf)
    assert state.text == "Done: Which one?"
    # Without anybody to ask, a question is an end, and answered by the next message.
    assert (await session.run("ask me")).status is AgentStatus.AWAITING_INPUT
    assert (await session.run("the blue one")).text == "Done: the blue one"


async def test_a_session_that_is_terminated(hf: Higgsfield) -> None:
    session = await hf.agents.create()
    assert (await session.run("end")).status is AgentStatus.TERMINATED
    with pytest.raises(InvalidRequest, match="Session is terminated"):
        await session.send(PROMPT)


async def test_an_interrupt(frozen: Sandbox) -> None:
    async with Higgsfield(frozen.platform(), poll=POLL) as hf:
        session = await hf.agents.create()
        await session.send(PROMPT)
        assert (await session.messages()).status is AgentStatus.PROCESSING
        await session.interrupt()
        state = await session.wait()
        assert (state.status, state.messages[0].status) == (AgentStatus.IDLE, "failed")
        await session.interrupt()
        await session.send(PROMPT)
    assert paid(frozen) == 2


async def test_only_one_turn_at_a_time(frozen: Sandbox) -> None:
    async with Higgsfield(frozen.platform(), poll=POLL) as hf:
        session = await hf.agents.create()
        first = await session.send(PROMPT)
        with pytest.raises(ApiError, match=r"already running\. A turn of this session is under way") as caught:
            await session.send(PROMPT)
        assert (caught.value.status, caught.value.charged, caught.value.refused) == (409, "no", True)
        assert not isinstance(caught.value, RateLimited)
        # Nothing else is held up by it.
        other = await hf.agents.create()
        await other.send(PROMPT)
        assert [message.id for message in (await session.messages()).messages] == [first]
    assert paid(frozen) == 3


# Waiting


async def test_the_network_ends_no_wait(sandbox: Sandbox, hf: Higgsfield) -> None:
    session = await hf.agents.create()
    await session.send(PROMPT)
    broken = (Fault.reset(), Fault.answer(500), Fault.html(502), Fault.ok_html(), Fault.answer(402), Fault.answer(429))
    odd = [b"{}", b'{"status":"thinking"}', b'{"status":"idle","messages":7}', b'{"status":7}', b"[]"]
    sandbox.script("poll", *broken, *(Fault.answer(200, body) for body in odd), *[Fault.answer(503)] * 7)
    state = await session.wait()
    assert state.text == f"Done: {PROMPT}"
    assert paid(sandbox) == 1


async def test_a_deadline(frozen: Sandbox) -> None:
    async with Higgsfield(frozen.platform(), poll=POLL, retry=RETRY) as hf:
        session = await hf.agents.create()
        await session.send(PROMPT)
        with pytest.raises(WaitTimeout, match=rf"session {session.id}.*was processing when last seen") as caught:
            await session.wait(0.2)
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert (error.ref, error.job_set, error.charged) == (None, None, "unknown")
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        with pytest.raises(WaitTimeout, match="was not seen yet"):
            await hf.agents.session(session.id).wait(0)
        frozen.script("poll", *[Fault.answer(500)] * 1000)
        with pytest.raises(WaitTimeout, match="The last look at it failed"):
            await session.wait(0.2)
    assert frozen.credits == 10_000 - Decimal("0.160")


async def test_a_deadline_of_a_whole_run(frozen: Sandbox) -> None:
    async with Higgsfield(frozen.platform(), poll=PollPolicy.fixed(0.02, deadline=0.2)) as hf:
        session = await hf.agents.create()
        with pytest.raises(WaitTimeout):
            await session.run(PROMPT)
        # It names the whole of it, whatever was left of it by then.
        await session.interrupt()
        frozen.script("submit", Fault.delay(0.3))
        with pytest.raises(WaitTimeout, match=r"did not end within 0\.2 seconds"):
            await session.run(PROMPT)
        frozen.script("submit", Fault.answer(429, b"", {"Retry-After": "100"}))
        with pytest.raises(RateLimited):
            await session.run(PROMPT, timeout=0.1)


async def test_a_question_that_is_answered_too_late(sandbox: Sandbox, hf: Higgsfield) -> None:
    cut: list[bool] = []

    async def never(_: tuple[AgentMessage, ...]) -> str:
        try:
            await anyio.sleep(60)
        finally:
            cut.append(True)
        return "too late"

    def slowly(_: tuple[AgentMessage, ...]) -> str:
        until = time.monotonic() + 1.1
        while time.monotonic() < until:  # the code of a user that takes its time
            pass
        return "the red one"

    callbacks: tuple[OnQuestion, ...] = (never, slowly)
    for number, on_question in enumerate(callbacks, 1):
        session = await hf.agents.create()
        with anyio.fail_after(10), pytest.raises(WaitTimeout, match=r"not answered within 1 seconds") as caught:
            await session.run("ask me", on_question=on_question, timeout=1)
        assert session.id in str(caught.value)
        assert caught.value.job_set is None
        # Of each, the question alone was paid for.
        assert paid(sandbox) == number
        assert (await session.messages()).status is AgentStatus.AWAITING_INPUT
    assert cut == [True]


async def test_a_question_that_was_answered_is_not_answered_again(sandbox: Sandbox, hf: Higgsfield) -> None:
    heard: list[int] = []

    def once(messages: tuple[AgentMessage, ...]) -> str:
        heard.append(len(messages))
        sandbox.script("poll", behind, behind)
        return "the red one"

    session = await hf.agents.create()
    # Looks that are behind: one before the question is there, and others after its answer was taken.
    behind = Fault.answer(200, b'{"status":"awaiting_input","messages":[]}')
    sandbox.script("poll", behind)
    assert (await session.run("ask me", on_question=once)).text == "Done: the red one"
    assert heard == [1]
    assert paid(sandbox) == 2
    # Whoever waits and answers for themselves is told as it is.
    await session.send(PROMPT)
    sandbox.script("poll", behind)
    assert (await session.wait()).status is AgentStatus.AWAITING_INPUT
    # And the wait for what is never said has an end.
    await session.wait()
    sandbox.script("poll", *[behind] * 1000)
    with pytest.raises(WaitTimeout, match=r"within 0\.3 seconds: it was awaiting_input when last seen"):
        await session.run(PROMPT, on_question=once, timeout=0.3)
    assert heard == [1]


async def test_what_ends_a_wait(sandbox: Sandbox, hf: Higgsfield) -> None:
    session = await hf.agents.create()
    sandbox.script("poll", Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    with pytest.raises(AuthenticationFailed):
        await session.wait()
    with pytest.raises(NotFound):
        await hf.agents.session("another").wait()
    with pytest.raises(NotFound):
        await hf.agents.session("another").interrupt()
    with pytest.raises(NotFound):
        await session.messages(after="another")


async def test_a_wait_that_is_cancelled_leaves_the_turn_alone(sandbox: Sandbox, hf: Higgsfield) -> None:
    session = await hf.agents.create()
    await session.send(PROMPT)
    sandbox.script("poll", Fault.delay(5))
    await cancelled_once(lambda: sandbox.received[-1].operation == "poll", session.wait())
    assert (await session.wait()).text == f"Done: {PROMPT}"


async def test_closing_cuts_a_message_short(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.delay(5))
    hf = client("platform")
    session = await hf.agents.create()
    sending = asyncio.create_task(session.send(PROMPT))
    while paid(sandbox) == 0:
        await asyncio.sleep(0.001)
    with anyio.fail_after(4):
        await hf.close()
        with pytest.raises(SubmissionUnknown, match=f"agent session {session.id} may have been taken"):
            await sending
    assert paid(sandbox) == 1


@pytest.mark.parametrize("pause", [0.01, 100.0], ids=["looking", "resting"])
async def test_closing_ends_a_wait_at_once(frozen: Sandbox, pause: float) -> None:
    hf = Higgsfield(frozen.platform(), poll=PollPolicy.fixed(pause))
    session = await hf.agents.create()
    await session.send(PROMPT)
    waiting = asyncio.create_task(hf.agents.session(session.id).wait())
    while frozen.received[-1].operation != "poll":
        await asyncio.sleep(0.001)
    await hf.close()
    with anyio.fail_after(5):
        with pytest.raises(ClientClosed, match=f"agent session {session.id} was waited for"):
            await waiting
        with pytest.raises(ClientClosed):
            await session.wait()
        with pytest.raises(ClientClosed):
            await session.send(PROMPT)
    with pytest.raises(ClientClosed):
        hf.agents.session(session.id)


# Money


LOST = {
    "reset": Fault.reset(accept=True),
    "500": Fault.answer(500, accept=True),
    "gateway": Fault.html(502, accept=True),
    "truncated": Fault.truncate(),
    "a page": Fault.html(200, accept=True),
    "no id": Fault.answer(200, b'{"status":"processing"}', accept=True),
}


@pytest.mark.parametrize("name", LOST)
async def test_a_lost_answer_is_one_message(sandbox: Sandbox, hf: Higgsfield, name: str) -> None:
    session = await hf.agents.create()
    sandbox.script("submit", LOST[name])
    with pytest.raises(SubmissionUnknown, match="may have been taken") as caught:
        await session.send(PROMPT)
    assert (caught.value.request, caught.value.key, caught.value.charged) == (None, None, "unknown")
    assert not caught.value.transient
    assert caught.value.cause is caught.value.__cause__
    assert session.id in str(caught.value)
    assert PROMPT not in str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), SubmissionUnknown)
    state = await session.wait()
    assert [message.role for message in state.messages] == ["user", "assistant"]
    assert paid(sandbox) == 1
    assert sandbox.credits == 10_000 - Decimal("0.160")


async def test_what_was_not_taken_is_sent_again(sandbox: Sandbox, hf: Higgsfield) -> None:
    session = await hf.agents.create()
    sandbox.script("submit", Fault.answer(429), Fault.answer(429, b"", {"Retry-After": "0"}))
    await session.send(PROMPT)
    assert paid(sandbox) == 3
    assert len((await session.messages()).messages) >= 1


async def test_nothing_listening_is_not_charged() -> None:
    async with Sandbox() as gone:
        transport = gone.platform()
    async with Higgsfield(transport, retry=RETRY) as hf:
        with pytest.raises(ConnectionFailed) as caught:
            await hf.agents.session("abc").send(PROMPT)
        assert caught.value.charged == "no"


async def test_patience(frozen: Sandbox) -> None:
    limits = Limits(patience=0.1)
    async with Higgsfield(frozen.platform(), poll=POLL, retry=RETRY, limits=limits) as hf:
        session = await hf.agents.create()
        frozen.script("submit", Fault.answer(429, b"", {"Retry-After": "100"}))
        with pytest.raises(RateLimited) as caught:
            await session.send(PROMPT)
        assert caught.value.charged == "no"
    assert paid(frozen) == 1


async def test_a_message_that_is_cancelled_is_sent_once(
    sandbox: Sandbox, hf: Higgsfield, caplog: pytest.LogCaptureFixture
) -> None:
    session = await hf.agents.create()
    sandbox.script("submit", Fault.delay(5))
    sending = asyncio.create_task(session.send(PROMPT))
    while paid(sandbox) == 0:
        await asyncio.sleep(0.001)
    sending.cancel()
    with anyio.fail_after(3), pytest.raises(asyncio.CancelledError):
        await sending
    assert f"agent session {session.id} was cancelled on its way" in caplog.text
    state = await session.wait()
    assert [message.role for message in state.messages] == ["user", "assistant"]
    assert paid(sandbox) == 1


async def test_a_message_that_is_cancelled_before_it_is_sent_costs_nothing(
    frozen: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    async with Higgsfield(frozen.platform()) as hf:
        session = await hf.agents.create()
        frozen.script("submit", Fault.answer(429, b"", {"Retry-After": "100"}))
        sending = asyncio.create_task(session.send(PROMPT))
        pace = hf._opened().engine.pace
        while not pace.held_back("submit"):  # until it is: then this one waits for its turn
            await asyncio.sleep(0.001)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (await session.messages()).messages == ()
    assert "was cancelled on its way" not in caplog.text
    assert paid(frozen) == 1


async def test_each_message_goes_out_on_a_connection_of_its_own(frozen: Sandbox) -> None:
    async with Higgsfield(frozen.platform()) as hf:
        for _ in range(2):
            await (await hf.agents.create()).send(PROMPT)
    created, first, _, second = frozen.received
    assert len({created.connection, first.connection, second.connection}) == 3


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (402, b'{"detail":"no credits left"}', InsufficientCredits),
        (403, b'{"detail":"forbidden"}', PermissionDenied),
        (403, b'{"detail":"not_enough_credits"}', InsufficientCredits),
        (404, b'{"detail":"Not found"}', NotFound),
        (422, b'{"detail":[{"loc":["body","content"],"msg":"too long","type":"x"}]}', InvalidRequest),
    ],
)
async def test_refusals(sandbox: Sandbox, hf: Higgsfield, status: int, body: bytes, kind: type[ApiError]) -> None:
    session = await hf.agents.create()
    sandbox.script("submit", Fault.answer(status, body, {"Content-Type": "application/json"}))
    with pytest.raises(kind) as caught:
        await session.send(PROMPT)
    assert caught.value.charged == "no"
    assert caught.value.detail == json.loads(body)
    assert ("must be enabled for the account" in str(caught.value)) == (kind is PermissionDenied)
    assert paid(sandbox) == 1


async def test_no_credit() -> None:
    async with Sandbox(credits=0) as poor, Higgsfield(poor.platform()) as hf:
        session = await hf.agents.create()
        with pytest.raises(InsufficientCredits):
            await session.send(PROMPT)


async def test_what_is_refused_before_anything_is_sent(sandbox: Sandbox, hf: Higgsfield) -> None:
    session = hf.agents.session("abc")
    refused: list[tuple[Any, str]] = [
        *((lambda content=content: session.send(content), "content") for content in ("", " ", None, 7, "\ud800")),
        *((lambda name=name: hf.agents.session(name).messages(), "session_id") for name in ("", "..", None)),
        (lambda: session.messages(after="\ud800"), "after"),
        *(
            (lambda config=config: hf.agents.create(config), "config")
            for config in ({"x": math.nan}, {"x": object()}, 7)
        ),
        (lambda: hf.agents.upload(b""), "content"),
        (lambda: hf.agents.upload(b"x"), "extension"),
        *((lambda end=end: hf.agents.upload(b"x", extension=end), "extension") for end in ("", "a/b", "a" * 17, 7)),
        (lambda: hf.agents.upload(b"x", extension="png", kind=cast("Any", 7)), "kind"),
        (lambda: hf.agents.upload(cast("Any", "x.png")), "content"),
        (lambda: hf.agents.upload(Path("no-such-file.png")), "content"),
    ]
    for make, field in refused:
        with pytest.raises(InvalidRequest) as caught:
            await make()
        assert [error.loc for error in caught.value.errors] == [(field,)]
    assert not sandbox.received


async def test_the_proxy_has_none(sandbox: Sandbox, client: Client) -> None:
    async with client("proxy") as hf:
        for refused in (hf.agents.create(), hf.agents.upload(b"x")):
            with pytest.raises(Unsupported, match="PlatformTransport"):
                await refused
        with pytest.raises(Unsupported):
            hf.agents.session("abc")
    assert not sandbox.received


async def test_nothing_private_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"detail": f"secret:top:secret {PROMPT}"}).encode()

    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("400 Bad Request", echo, "Content-Type: application/json"))

    async with raw_server(reply) as server, Higgsfield(PlatformTransport("id", "secret:top:secret", server.url)) as hf:
        session = hf.agents.session("abc")
        for failing in (session.send(PROMPT), hf.agents.create({"system": PROMPT})):
            with pytest.raises(InvalidRequest) as caught:
                await failing
            for private in ("top:secret", PROMPT):
                assert private not in str(caught.value)
        with pytest.raises(InvalidRequest) as caught:
            await session.interrupt()
        assert "top:secret" not in str(caught.value)
    for private in ("top:secret", PROMPT):
        assert private not in caplog.text


# Media


@pytest.mark.parametrize(
    ("name", "kind", "sent"),
    [
        ("a.png", None, {"extension": "png", "type": "image"}),
        ("a.JPEG", None, {"extension": "jpeg", "type": "image"}),
        ("a.mp4", None, {"extension": "mp4", "type": "video"}),
        ("a.wav", None, {"extension": "wav", "type": "audio"}),
        ("a.pdf", None, {"extension": "pdf", "type": "file"}),
        ("a.png", "file", {"extension": "png", "type": "file"}),
    ],
)
@pytest.mark.parametrize("form", ["path", "bytes"])
async def test_a_file_is_uploaded_and_confirmed(
    sandbox: Sandbox, hf: Higgsfield, tmp_path: Path, name: str, kind: Any, sent: dict[str, str], form: str
) -> None:
    path = tmp_path / name
    path.write_bytes(PNG)
    if form == "path":
        media = await hf.agents.upload(path, kind=kind)
    else:
        media = await hf.agents.upload(PNG, extension=path.suffix, kind=kind)
    assert (media.kind, media.size) == (sent["type"], len(PNG))
    async with aiohttp.ClientSession() as session, session.get(media.url) as response:
        assert await response.read() == PNG
        assert response.content_type == media.content_type
    asked, put, confirmed, _ = sandbox.received
    assert (asked.path, asked.json()) == ("/v1/agent/media", sent)
    assert (confirmed.path, confirmed.json()) == (f"/v1/agent/media/{media.id}/confirm", {"type": sent["type"]})
    assert (put.surface, put.headers["Content-Type"]) == ("media", media.content_type)
    assert put.headers["Content-Length"] == str(len(PNG))
    for private in ("authorization", "hf-", sandbox.key_id, sandbox.key_secret):
        assert private not in str(put.headers).lower()
    assert media.url in media.url + (await (await hf.agents.create()).run(f"Use {media.url}")).text


async def test_an_upload_is_tried_again_with_new_leave(sandbox: Sandbox, hf: Higgsfield) -> None:
    as_it_is = Fault()
    sandbox.script("upload", Fault.answer(500), as_it_is, Fault.reset(), as_it_is, as_it_is, Fault.answer(502))
    media = await hf.agents.upload(PNG, extension="png")
    assert media.size == len(PNG)
    paths = [received.path.split("/")[-1] for received in sandbox.received]
    assert paths.count("media") == 3
    assert paths.count("confirm") == 2
    sandbox.script("upload", as_it_is, Fault.answer(403, b"<Error><Code>AccessDenied</Code></Error>"))
    with pytest.raises(UploadError, match="AccessDenied"):
        await hf.agents.upload(PNG, extension="png")
    sandbox.script("upload", Fault.answer(403))
    with pytest.raises(PermissionDenied, match="must be enabled"):
        await hf.agents.upload(PNG, extension="png")
    sandbox.script("upload", as_it_is, as_it_is, Fault.answer(404))
    with pytest.raises(NotFound):
        await hf.agents.upload(PNG, extension="png")


# What the service may say


@recordings
def test_as_the_sdks_have_it() -> None:
    assert CREATE.decode(load("agent_session_create_response")) == "s1"
    assert SEND.decode(load("agent_send_message_response")) == "u1"
    state = MESSAGES.decode(load("agent_messages_poll_done"))
    assert isinstance(state, AgentState)
    assert state.status is AgentStatus.IDLE
    assert [part.type for part in state.messages[0].parts] == ["step-start", "reasoning", "text"]
    assert state.text == "Done: https://cdn.test/a.png."
    assert state.messages[0].created_at == datetime(2026, 9, 1, 0, 0, 1, tzinfo=UTC)
    grant = SLOT.decode(load("agent_media_slot_response"))
    assert isinstance(grant, Grant)
    assert (grant.request.method, grant.request.url) == ("PUT", "https://storage.test/upload")
    assert grant.request.headers == {"Content-Type": "image/jpeg"}
    media = grant.decode(HttpResponse(200, {}, b""))
    assert (media.id, media.url, media.kind) == ("m1.jpeg", "https://cdn.test/m1.jpeg", "image")
    assert CALLS.confirm(media).request.url.endswith("/v1/agent/media/m1.jpeg/confirm")


def load(name: str) -> HttpResponse:
    return HttpResponse(200, {}, (PAYLOADS / f"{name}.js-sdk-test-fixture.json").read_bytes())


def said(value: object) -> HttpResponse:
    return HttpResponse(200, {}, json.dumps(value).encode())


def test_our_own_fixture() -> None:
    state = MESSAGES.decode(HttpResponse(200, {}, (RECORDED / "agent_messages_odd.json").read_bytes()))
    assert isinstance(state, AgentState)
    assert (state.status, state.raw_status) == (AgentStatus.UNKNOWN, "summarizing")
    assert not state.status.over
    assert [message.id for message in state.messages] == ["u1", "a1", "a2", "a3", ""]
    assert [message.text for message in state.messages] == ["Hello", "Hi", "One, two", "", "bare"]
    assert [message.llm_cost_usd for message in state.messages] == [
        None,
        Decimal("0.000012"),
        Decimal("0.0031"),
        None,
        None,
    ]
    assert state.text == "Hi\n\nOne, two"
    assert "Hello" not in repr(state) + repr(state.messages) + repr(state.messages[0].parts)


def test_what_cannot_be_read() -> None:
    slot = {"id": "m", "url": "https://a.b/c", "upload_url": "https://a.b/d?sig=TOPSECRET"}
    for call, bodies in (
        (CREATE, [{}, {"session_id": 7}, {"session_id": ""}, []]),
        (SEND, [{}, {"message_id": None}, []]),
        (MESSAGES, [{}, {"status": ""}, {"status": "idle", "messages": {}}, []]),
        (SLOT, [slot | odd for odd in ({"id": 7}, {"url": "x"}, {"upload_url": None}, {"upload_headers": 7})]),
    ):
        for body in bodies:
            with pytest.raises(MalformedResponse) as caught:
                call.decode(said(body))
            assert "TOPSECRET" not in str(caught.value)
    grant = SLOT.decode(said(slot | {"upload_headers": {"Content-Type": "image/png", "x-signed": "1", "Host": "evil"}}))
    assert isinstance(grant, Grant)
    assert grant.request.headers == {"Content-Type": "image/png", "x-signed": "1"}
    assert "TOPSECRET" not in repr(grant)
    assert SLOT.decode(said(slot)).request.headers == {"Content-Type": "application/octet-stream"}
    media = AgentMedia(id="m", url="https://a.b/c?sig=TOPSECRET", kind="file", content_type="x/y", size=1)
    assert "TOPSECRET" not in repr(media)


@pytest.mark.parametrize("status", AgentStatus)
def test_whose_turn_it_is(status: AgentStatus) -> None:
    found = MESSAGES.decode(said({"status": status.value}))
    assert isinstance(found, AgentState)
    assert found.status is status
    assert found.status.over == (status not in (AgentStatus.PROCESSING, AgentStatus.UNKNOWN))


NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ODD = st.none() | st.booleans() | NUMBER | st.text(max_size=5) | st.lists(st.none(), max_size=2)
PART = st.fixed_dictionaries({}, optional={"type": st.sampled_from(["text", "reasoning"]) | ODD, "text": ODD}) | ODD
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("message_id", "role", "status", "created_at", "llm_cost_usd"), ODD),
        "message": PART | st.fixed_dictionaries({"parts": st.lists(PART, max_size=3) | ODD}, optional={"id": ODD}),
    },
)


@given(st.text(min_size=1, max_size=9), st.lists(MESSAGE | ODD, max_size=3))
def test_every_field_but_the_status_may_be_odd(word: str, messages: list[Any]) -> None:
    found = MESSAGES.decode(said({"status": word, "messages": messages}))
    assert isinstance(found, AgentState)
    assert found.raw_status == word
    assert len(found.messages) == sum(isinstance(message, dict) for message in messages)
    for message in found.messages:
        assert message.text == "".join(part.text for part in message.parts if part.type == "text")
        assert message.created_at is None or message.created_at.tzinfo is not None
        assert message.llm_cost_usd is None or message.llm_cost_usd >= 0
        assert repr(message).startswith("AgentMessage(")


@given(st.floats(1e-90, 1e12) | st.decimals(0, 10**9, places=12))
def test_what_a_message_costs(cost: float | Decimal) -> None:
    wire = str(cost) if isinstance(cost, Decimal) else cost
    found = MESSAGES.decode(said({"status": "idle", "messages": [{"llm_cost_usd": wire}]}))
    assert isinstance(found, AgentState)
    assert found.messages[0].llm_cost_usd == Decimal(str(cost))


async def test_a_new_word_ends_no_turn(sandbox: Sandbox, hf: Higgsfield) -> None:
    session = await hf.agents.create()
    await session.send(PROMPT)
    sandbox.script("poll", *[Fault.answer(200, b'{"status":"dreaming","messages":[]}')] * 3)
    assert (await session.wait()).status is AgentStatus.IDLE
    sandbox.script("poll", *[Fault.answer(200, b'{"status":"dreaming"}')] * 500)
    with pytest.raises(WaitTimeout, match="was dreaming when last seen"):
        await session.wait(0.2)
