"""The studio on a cluster: its server asks, and workers make."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import anyio
import pytest

# Playwright comes with it, and is asked for there.
from test_studio import Studio, environment
from workers import WorkerProcess

from higgsfield_async.sandbox import Sandbox

pytestmark = pytest.mark.once


async def test_what_is_started_is_made_by_a_worker(sandbox: Sandbox, cluster_dsn: str, tmp_path: Path) -> None:
    studio = Studio(tmp_path, {**environment(sandbox), "HIGGSFIELD_DATABASE_URL": cluster_dsn})
    accounts = {"proxy": "proxy", "platform": "platform"}
    async with WorkerProcess(cluster_dsn, sandbox, accounts) as worker:
        await worker.ready()
        await studio.start()
        try:
            async with aiohttp.ClientSession(studio.url) as session:
                # What needs a key is asked with the studio's own.
                async with session.get("/api/catalogues/platform/motions") as response:
                    assert await response.json()
                headers = {"Idempotency-Key": "card-17", "Origin": studio.url.rstrip("/")}
                body = {"prompt": "A lighthouse in a storm"}
                async with session.post("/api/platform/keyframes", json=body, headers=headers) as response:
                    state = await response.json()
                    assert response.status == 202, state
                with anyio.fail_after(20):
                    while not state["ended"]:
                        await anyio.sleep(0.05)
                        async with session.get(f"/api/platform/{state['ref']}") as response:
                            state = await response.json()
                            assert response.status == 200, state
                assert state["status"] == "completed"
                assert state["outputs"]
                async with session.get("/api/started") as response:
                    [row] = await response.json()
                    assert (row["key"], row["state"]) == ("card-17", "accepted")
        finally:
            await studio.stop()
    [made] = sandbox.generations.values()
    assert made.status == "completed"
    assert not studio.errors
