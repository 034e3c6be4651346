from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from higgsfield_async.sandbox import Sandbox

IMAGE = "https://example.com/cat.png"


class Caller:
    """Speaks raw HTTP to a sandbox, with the right keys unless told otherwise."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.keys = {
            "proxy": {"Authorization": f"Bearer {sandbox.proxy_key}"},
            "v1": {"hf-api-key": sandbox.key_id, "hf-secret": sandbox.key_secret},
            "v2": {"Authorization": f"Key {sandbox.key_id}:{sandbox.key_secret}"},
            "media": {},
        }

    def url(self, surface: str, path: str) -> str:
        origins = {"proxy": self.sandbox.proxy_url, "media": self.sandbox.media_url}
        return origins.get(surface, self.sandbox.platform_url) + path

    async def raw(
        self, surface: str, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any, bytes]:
        url = path if path.startswith("http") else self.url(surface, path)
        headers = self.keys[surface] | (headers or {})
        async with self.session.request(method, url, headers=headers, **options) as response:
            return response.status, response.headers, await response.read()

    async def json(self, surface: str, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        if body is not None:
            options["json"] = body
        async with self.session.request(
            method, self.url(surface, path), headers=self.keys[surface] | options.pop("headers", {}), **options
        ) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Stands in for that of all tests, which needs a loop: many tests here are synchronous, and none has a client."""


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def generate() -> dict[str, Any]:
    return {
        "model": "lite",
        "motion_id": "cd5bfd11-5a1a-46e0-9294-b22b0b733b1e",
        "prompt": "正在吃饭",
        "image": [IMAGE],
    }


@pytest.fixture
async def open_sandbox(session: aiohttp.ClientSession) -> AsyncIterator[Callable[..., Any]]:
    """Opens sandboxes with settings of the test's own, and closes them after it."""
    opened: list[Sandbox] = []

    async def open_one(**settings: Any) -> Caller:
        sandbox = await Sandbox(**settings).__aenter__()
        opened.append(sandbox)
        return Caller(sandbox, session)

    yield open_one
    for sandbox in opened:
        await sandbox.__aexit__(None, None, None)


@pytest.fixture
async def frozen(open_sandbox: Callable[..., Any]) -> Caller:
    """A sandbox whose clock stands still: whatever is accepted stays queued, unless a plan gives it no time at all."""
    caller: Caller = await open_sandbox(speed=0)
    return caller
