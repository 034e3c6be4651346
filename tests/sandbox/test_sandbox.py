"""The sandbox as a whole: its forms, its record, its clock, its command."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from higgsfield_async import sandbox as package
from higgsfield_async._transports import PlatformTransport, ProxyTransport
from higgsfield_async.sandbox import Fault, Plan, Sandbox

SOUL = "/higgsfield-ai/soul/standard"
PROMPT = {"prompt": "x"}
USERS_TESTS = """
import urllib.request
import aiohttp, pytest

def test_synchronous(sandbox):
    with urllib.request.urlopen(sandbox.media_url + "/templates/x.json") as response:
        assert response.status == 200

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asynchronous(sandbox):
    async with aiohttp.ClientSession() as session, session.get(sandbox.platform_url) as response:
        assert response.status == 405
"""


def test_public_names() -> None:
    assert package.__all__ == sorted(package.__all__)
    assert package.Sandbox.__module__ == package.Generation.__module__ == "higgsfield_async.sandbox"


@pytest.mark.parametrize("settings", [{"proxy_key": "hk"}, {"speech_path": "/speak"}])
def test_settings_that_cannot_work(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sandbox(**settings)


def test_there_is_no_address_before_it_is_open() -> None:
    with pytest.raises(RuntimeError, match="before it is opened"):
        _ = Sandbox().proxy_url


async def test_three_origins(frozen: Any) -> None:
    sandbox = frozen.sandbox
    urls = {sandbox.proxy_url, sandbox.platform_url, sandbox.media_url}
    assert len(urls) == 3
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


async def test_everything_is_recorded(frozen: Any) -> None:
    await frozen.raw("v2", "POST", f"{SOUL}?hf_webhook=x", json=PROMPT, headers={"X-Test": "1"})
    await frozen.raw("v1", "GET", "/v1/motions")
    await frozen.raw("media", "GET", "/x")
    first, second, third = frozen.sandbox.received
    assert (first.surface, first.operation, first.method, first.path) == ("v2", "submit", "POST", SOUL)
    assert (first.query["hf_webhook"], first.headers["x-test"], first.json(), first.status) == ("x", "1", PROMPT, 422)
    assert (second.surface, second.operation, second.body) == ("v1", "catalogue", b"")
    with pytest.raises(msgspec.DecodeError):
        second.json()
    assert (third.surface, third.operation, third.status) == ("media", "other", 404)
    assert first.at <= second.at <= third.at
    assert first.connection == second.connection != third.connection


async def test_connections_are_numbered(frozen: Any) -> None:
    for _ in range(2):
        await frozen.raw("v2", "GET", "/models", headers={"Connection": "close"})
    first, second = frozen.sandbox.received
    assert first.connection != second.connection


async def test_what_is_open_and_in_hand_is_counted(open_sandbox: Any) -> None:
    sandbox = (caller := await open_sandbox()).sandbox
    assert (sandbox.connections, sandbox.most_at_once) == (0, 0)
    sandbox.script("any", Fault.delay(0.1), Fault.delay(0.1, accept=False), Fault.reset())
    await asyncio.gather(
        caller.raw("v1", "GET", "/v1/motions"), caller.raw("media", "GET", "/x"), return_exceptions=True
    )
    assert (sandbox.connections, sandbox.most_at_once) == (2, 2)
    with pytest.raises(aiohttp.ClientError):
        await caller.raw("v2", "POST", SOUL, json=PROMPT)
    await caller.session.close()
    while sandbox.connections:
        await asyncio.sleep(0.001)
    assert sandbox.most_at_once == 2


async def test_time_passes_by_its_own_clock(open_sandbox: Any) -> None:
    caller = await open_sandbox(speed=20)
    _, answer = await caller.json("v2", "POST", SOUL, PROMPT)
    seen = []
    while "completed" not in seen:
        seen.append((await caller.json("v2", "GET", f"/requests/{answer['request_id']}/status"))[1]["status"])
        await asyncio.sleep(0.002)
    assert list(dict.fromkeys(seen)) == ["queued", "in_progress", "completed"]


async def test_refunds_come_in_the_order_of_the_ends(open_sandbox: Any) -> None:
    caller = await open_sandbox(speed=0, credits=1)
    plans = [Plan(end="failed", queued=0, running=running) for running in (5, 0, 3)]
    caller.sandbox.plan(*plans)
    for _ in plans:
        await caller.json("v2", "POST", SOUL, PROMPT)
    assert [one.refunded for one in caller.sandbox.generations.values()] == [False, True, False]
    assert str(caller.sandbox.credits) == "0.900"


def test_importing_the_command_starts_nothing() -> None:
    assert callable(importlib.import_module("higgsfield_async.sandbox.__main__").main)


def get(url: str, authorization: str) -> tuple[int, Any]:
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
        connection.request("GET", parts.path, headers={"Authorization": authorization})
        response = connection.getresponse()
        return response.status, json.load(response)


def ask(sandbox: Sandbox, path: str) -> Any:
    status, answer = get(sandbox.platform_url + path, f"Key {sandbox.key_id}:{sandbox.key_secret}")
    assert status == 200
    return answer


def test_the_thread_form_serves_synchronous_code() -> None:
    before = threading.active_count()
    with Sandbox() as sandbox:
        assert ask(sandbox, "/models")["items"]
        assert len(sandbox.received) == 1
    assert threading.active_count() == before


def test_the_fixture_serves_both_kinds_of_tests(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["higgsfield_async.testing"]\n')
    (tmp_path / "test_it.py").write_text(USERS_TESTS)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout


async def test_closing_does_not_wait_for_connections_that_are_kept_alive(session: aiohttp.ClientSession) -> None:
    async with Sandbox() as sandbox:
        async with session.get(sandbox.media_url) as response:
            await response.read()
        async with session.get(sandbox.proxy_url) as response:
            assert response.headers["Keep-Alive"] == "timeout=5"
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(sandbox.media_url)


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    async with Sandbox() as sandbox:
        port = int(sandbox.platform_url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Sandbox(ports=(0, port, 0)).__aenter__()
    async with Sandbox(ports=(0, port, 0)) as again:
        assert again.platform_url.endswith(f":{port}")


async def test_it_hands_out_transports() -> None:
    async with Sandbox() as sandbox:
        assert isinstance(sandbox.proxy(), ProxyTransport)
        assert isinstance(sandbox.platform(), PlatformTransport)


def first_of_three_free_ports() -> int:
    # Below the range that the system gives out for connections, so that none of the three is taken meanwhile.
    for first in range(20_000 + os.getpid() % 3_000, 30_000, 3):
        try:
            with contextlib.ExitStack() as held:
                for port in range(first, first + 3):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return first
    pytest.fail("no three free ports in a row")


def test_the_command_says_when_a_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-W", "error", "-m", "higgsfield_async.sandbox", "--port", str(port)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert answer.returncode == 1
    assert "Choose another --port" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command(number: signal.Signals) -> None:
    port = first_of_three_free_ports()
    command = [sys.executable, "-W", "error", "-m", "higgsfield_async.sandbox", "--port", str(port), "--speed", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(8)]
        assert lines[0] == ["proxy", f"http://127.0.0.1:{port}"]
        assert lines[2] == ["media", f"http://127.0.0.1:{port + 2}"]
        exports = dict(line[1].split("=", 1) for line in lines[4:])
        assert exports["HIGGSFIELD_PROXY_BASE_URL"] == lines[0][1]
        assert exports["HIGGSFIELD_BASE_URL"] == lines[1][1]
        assert get(f"{lines[0][1]}/higgsfield/tpl/motions", f"Bearer {exports['HIGGSFIELD_PROXY_KEY']}")[0] == 200
        assert get(f"{lines[1][1]}/models", f"Key {exports['HF_KEY']}")[0] == 200
        process.send_signal(number)
        assert process.wait(timeout=10) == 0


def test_a_part_is_given_of_the_same_file_alone() -> None:
    with Sandbox(speed=1000) as sandbox:
        address = urlsplit(sandbox.media_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)

        def ask(method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, "/templates/cat.png", headers=sent)
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()

        status, headers, whole = ask()
        assert status == 200
        tag = headers["ETag"]
        assert ask("HEAD")[1]["ETag"] == tag
        assert ask(Range="bytes=5-", If_Range=tag)[0::2] == (206, whole[5:])
        assert ask(Range="bytes=5-", If_Range='"another"')[0::2] == (200, whole)
        assert ask(Range=f"bytes={len(whole)}-", If_Range=tag)[0] == 416
        connection.close()
