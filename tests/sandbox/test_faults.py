"""Scripted disturbances: what is answered, and what was done and charged all the same."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from higgsfield_async.sandbox import Fault, Plan, Sandbox

SOUL = "/higgsfield-ai/soul/standard"
PROMPT = {"prompt": "x"}


async def received(sandbox: Sandbox, count: int) -> None:
    while len(sandbox.received) < count:
        await asyncio.sleep(0.001)


async def submit(caller: Any) -> Any:
    return await caller.raw("v2", "POST", SOUL, json=PROMPT)


@pytest.mark.parametrize("accept", [False, True])
async def test_an_answer_of_the_tests_choice(frozen: Any, *, accept: bool) -> None:
    frozen.sandbox.script("submit", Fault.answer(503, b"{}", {"X-Test": "1"}, accept=accept))
    status, headers, body = await submit(frozen)
    assert (status, headers["X-Test"], body) == (503, "1", b"{}")
    assert "Content-Type" not in headers
    assert headers["X-Correlation-ID"]
    assert len(frozen.sandbox.generations) == accept
    assert frozen.sandbox.received[-1].status == 503
    assert (await submit(frozen))[0] == 200


@pytest.mark.parametrize("accept", [False, True])
async def test_a_reset(frozen: Any, *, accept: bool) -> None:
    frozen.sandbox.script("submit", Fault.reset(accept=accept))
    with pytest.raises(aiohttp.ClientOSError):
        await submit(frozen)
    assert len(frozen.sandbox.generations) == accept
    assert frozen.sandbox.received[-1].status is None
    assert (await submit(frozen))[0] == 200


@pytest.mark.parametrize("surface", ["v2", "proxy"])
async def test_half_an_answer(frozen: Any, surface: str) -> None:
    frozen.sandbox.script("poll", Fault.truncate())
    frozen.keys["proxy"] = {}
    path = "/requests/x/status" if surface == "v2" else "/higgsfield/feed/x"
    async with frozen.session.get(frozen.url(surface, path), headers=frozen.keys[surface]) as response:
        length = int(response.headers["Content-Length"])
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        half = response.content.read_nowait() if not response.content.exception() else b""
    assert len(half) < length
    assert frozen.sandbox.received[-1].status == response.status


@pytest.mark.parametrize("accept", [False, True])
async def test_a_late_answer(frozen: Any, *, accept: bool) -> None:
    frozen.sandbox.script("any", Fault.delay(0.05, accept=accept))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(submit(frozen))
        await received(frozen.sandbox, 1)
        await asyncio.sleep(0.01)
        assert len(frozen.sandbox.generations) == accept
    assert waiting.result()[0] == 200
    assert len(frozen.sandbox.generations) == 1


async def test_pages(frozen: Any) -> None:
    frozen.sandbox.script("submit", Fault.html(), Fault.html(504, accept=True), Fault.ok_html())
    answers = [await submit(frozen) for _ in range(3)]
    assert [status for status, _, _ in answers] == [502, 504, 200]
    for _, headers, body in answers:
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert body.startswith(b"<html>")
    assert len(frozen.sandbox.generations) == 1


async def test_faults_wait_for_their_operation(frozen: Any) -> None:
    sandbox = frozen.sandbox
    operations = ["submit", "poll", "cancel", "delete", "catalogue", "estimate", "usage", "upload", "download"]
    for number, operation in enumerate(operations):
        sandbox.script(operation, Fault.answer(520 + number))
    calls = [
        ("media", "GET", "/results/x/y.png"),
        ("v2", "POST", "/files/generate-upload-url"),
        ("v2", "GET", "/models/usage"),
        ("v2", "POST", f"/estimate{SOUL}"),
        ("proxy", "GET", "/higgsfield/tpl/motions"),
        ("v2", "DELETE", "/requests/x"),
        ("v2", "POST", "/requests/x/cancel"),
        ("v1", "GET", "/v1/job-sets/x"),
        ("proxy", "POST", "/higgsfield/generate"),
    ]
    statuses = [(await frozen.raw(*call))[0] for call in calls]
    assert statuses == list(reversed([520 + number for number in range(len(operations))]))
    assert [one.operation for one in sandbox.received] == list(reversed(operations))
    sandbox.script("any", Fault.answer(599))
    assert (await frozen.raw("v2", "GET", "/nothing"))[0] == 599
    assert sandbox.received[-1].operation == "other"
    with pytest.raises(ValueError, match="operation must be one of any, cancel"):
        sandbox.script("pool", Fault.reset())


async def test_closing_does_not_wait_for_delays(session: aiohttp.ClientSession) -> None:
    async with Sandbox() as sandbox:
        sandbox.script("poll", Fault.delay(3600), Fault.delay(3600, accept=False))

        async def poll() -> int:
            async with session.get(f"{sandbox.platform_url}/requests/x/status") as response:
                return response.status

        polls = [asyncio.create_task(poll()) for _ in range(2)]
        await received(sandbox, 2)
    assert await asyncio.gather(*polls) == [401, 401]


@pytest.mark.parametrize("fault", [Fault.delay(0.05), Fault(cut="reset", wait_after=0.05)])
async def test_a_client_that_leaves_is_no_error(frozen: Any, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    frozen.sandbox.script("submit", fault)
    leaving = asyncio.create_task(frozen.raw("v2", "POST", SOUL, json=PROMPT))
    await received(frozen.sandbox, 1)
    leaving.cancel()
    with pytest.raises((asyncio.CancelledError, aiohttp.ClientError)):
        await leaving
    await asyncio.sleep(0.1)
    assert len(frozen.sandbox.generations) == 1
    assert caplog.records == []


async def test_resets_leave_nothing_in_the_log(frozen: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    frozen.sandbox.script("cancel", Fault.reset(), Fault.truncate())
    for _ in range(2):
        with pytest.raises(aiohttp.ClientError):
            await frozen.raw("v2", "POST", "/requests/x/cancel")
    assert (await frozen.raw("v2", "POST", "/requests/x/cancel"))[0] == 404
    assert caplog.records == []


async def test_plans_are_taken_in_order(frozen: Any) -> None:
    frozen.sandbox.plan(Plan(end="nsfw", queued=0, running=0), Plan(end="failed", queued=0, running=0))
    for _ in range(3):
        await submit(frozen)
    assert [one.status for one in frozen.sandbox.generations.values()] == ["nsfw", "failed", "queued"]
