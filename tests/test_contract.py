"""The router does what its OpenAPI document says: schemathesis asks everything, and finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from fastapi import FastAPI
from serving import served

from higgsfield_async import (
    Ad,
    CharacterTraining,
    DopVideo,
    Higgsfield,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    Soul,
    Speech,
    TalkingHead,
    Webhook,
)
from higgsfield_async.fastapi import generations_router
from higgsfield_async.sandbox import Sandbox

PROXY = [ImageToVideo, Speech, Ad]
PLATFORM = [Keyframes, Soul, DopVideo, TalkingHead, CharacterTraining, ModelRequest]
# What a service may answer to what is in form: 402 and 422 are its own, of prices and limits that stand in no schema.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 402, 404, 409, 422]
"""


@pytest.mark.once
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("service", "requests"), [("proxy", PROXY), ("platform", PLATFORM)])
async def test_schemathesis_finds_nothing(service: str, requests: list[type], tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    async with Sandbox(speed=100, points=10**9, credits=10**9) as sandbox:
        transport = sandbox.proxy() if service == "proxy" else sandbox.platform()
        async with Higgsfield(transport) as hf:
            app = FastAPI()
            webhook = None if service == "proxy" else Webhook("https://app.example.com/generations/webhook")
            router = generations_router(client=lambda: hf, requests=requests, webhook=webhook)
            app.include_router(router, prefix="/generations")
            async with served(app) as server:
                found = await anyio.run_process(
                    [
                        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                        *("--max-examples=5", "--generation-deterministic", "--request-timeout=20", "--no-color"),
                    ],
                    check=False,
                    cwd=tmp_path,
                    stderr=subprocess.STDOUT,
                    env={
                        **os.environ,
                        "SCHEMATHESIS_HOOKS": "contract_hooks",
                        "PYTHONPATH": str(Path(__file__).parent),
                    },
                )
    report = found.stdout.decode()
    assert found.returncode == 0, report
    assert f"Tested: {2 * len(requests) + 4 + (webhook is not None)}" in report
