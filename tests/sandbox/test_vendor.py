"""The vendor's own client, unmodified, takes the sandbox for the service."""

from __future__ import annotations

from typing import Any

import pytest
from higgsfield_client import AsyncClient, Completed, Failed, Queued, SyncClient
from higgsfield_client.exceptions import HiggsfieldClientError

from higgsfield_async.sandbox import Plan, Sandbox

DOP = "higgsfield-ai/dop/turbo"
ARGUMENTS = {"prompt": "x", "image_url": "https://example.com/cat.png"}
DONE = Plan(queued=0, running=0)
STUCK = Plan(queued=1e12)


@pytest.fixture
async def client(frozen: Any) -> Any:
    client = AsyncClient(
        base_url=frozen.sandbox.platform_url, api_key=f"{frozen.sandbox.key_id}:{frozen.sandbox.key_secret}"
    )
    yield client
    # It has no way to be closed.
    await client._client.aclose()
    await client._upload_client.aclose()


async def test_it_submits_and_polls_to_the_end(frozen: Any, client: AsyncClient) -> None:
    frozen.sandbox.plan(DONE, Plan(end="failed", queued=0, running=0))
    controller = await client.submit(DOP, ARGUMENTS, webhook_url="https://example.com/hook")
    result = await controller.get()
    assert result["status"] == "completed"
    assert result["video"]["url"].startswith(frozen.sandbox.media_url)
    assert isinstance(await (await client.submit(DOP, ARGUMENTS)).status(), Failed)
    assert [one.webhook for one in frozen.sandbox.generations.values()] == ["https://example.com/hook", None]


async def test_it_cancels(frozen: Any, client: AsyncClient) -> None:
    controller = await client.submit(DOP, ARGUMENTS)
    assert isinstance(await controller.status(), Queued)
    await controller.cancel()
    assert frozen.sandbox.generations[controller.request_id].status == "canceled"
    with pytest.raises(HiggsfieldClientError):
        await controller.cancel()


async def test_it_uploads(frozen: Any, client: AsyncClient) -> None:
    url = await client.upload(b"png", "image/png")
    assert (await frozen.raw("media", "GET", url))[2] == b"png"


async def test_it_is_told_what_is_wrong(client: AsyncClient) -> None:
    with pytest.raises(HiggsfieldClientError):
        await client.submit(DOP, {})


def test_the_synchronous_one() -> None:
    with Sandbox(speed=1e6) as sandbox:
        client = SyncClient(base_url=sandbox.platform_url, api_key=f"{sandbox.key_id}:{sandbox.key_secret}")
        try:
            seen: list[Any] = []
            result = client.subscribe(DOP, ARGUMENTS, on_queue_update=seen.append)
            assert result["status"] == "completed"
            assert isinstance(seen[-1], Completed)
            sandbox.plan(STUCK)
            controller = client.submit(DOP, ARGUMENTS)
            controller.cancel()
            assert sandbox.generations[controller.request_id].refunded
            assert client.upload(b"png", "image/png").startswith(sandbox.media_url)
        finally:
            client._client.close()
            client._upload_client.close()
