"""What one extra alone is for works, and what needs another one says what to install: `python check.py EXTRA`.

The session `extras` of noxfile.py runs this where the wheel is installed with that extra and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp

from higgsfield_async import (
    ConfigurationError,
    DownloadError,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    InvalidRequest,
    Keyframes,
    ModelRequest,
    PollPolicy,
)
from higgsfield_async.sandbox import Sandbox

POLL = PollPolicy.fixed(0.05, deadline=20)
VIDEO = ImageToVideo(
    model="turbo",
    motion_id="d2389a9a-91c2-4276-bc9c-c9e35e8fb85a",
    prompt="a white cat",
    images=["https://images.example.com/cat.jpg"],
    width=64,
    height=64,
)
# Port 9 discards: nobody listens there.
NOWHERE = "postgresql://somebody@127.0.0.1:9/nothing"


def command(extra: str) -> str:
    return f"pip install 'higgsfield-async[{extra}]'"


def refused(extra: str, call: Callable[[], object]) -> None:
    """It is said, in one of our errors, what to install."""
    try:
        call()
    except ConfigurationError as error:
        assert command(extra) in str(error), error
    else:
        raise AssertionError(f"without {extra}, this should not work")


async def core() -> None:
    """What works without any extra: make, wait, save, write down."""
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox(speed=100) as sandbox:
            async with Higgsfield(sandbox.platform(), poll=POLL, journal=Path(folder, "journal.db")) as hf:
                (picture,) = await (await hf.submit(Keyframes(prompt="a cat"), key="one")).save(folder)
                assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
                assert (await hf.submit(Keyframes(prompt="a cat"), key="one")).status.terminal
            assert len(sandbox.generations) == 1


async def sandbox(*, there: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox(speed=100) as server, Higgsfield(server.proxy(), poll=POLL) as hf:
            task = await hf.submit(VIDEO)
            try:
                (film,) = await task.save(folder)
            except DownloadError as error:
                assert not there, error
                assert error.status == 501, error
                address = (await task.wait()).outputs[0].url
                async with aiohttp.ClientSession() as session, session.get(address) as answer:
                    assert command("sandbox") in await answer.text()
            else:
                assert there
                assert film.read_bytes()[4:8] == b"ftyp"


async def webhooks(*, there: bool) -> None:
    def unwrap(body: bytes, headers: dict[str, str], secret: str) -> Any:
        from higgsfield_async import webhooks

        return webhooks.unwrap(body, headers, secrets=secret)

    secret = "whsec_" + base64.b64encode(b"a secret of 24 bytes....").decode()
    body = json.dumps({"request_id": "an-id", "status": "completed", "video": {"url": "https://a.b/c.mp4"}}).encode()
    if not there:
        refused("webhooks", lambda: unwrap(body, {}, secret))
        return
    from standardwebhooks.webhooks import Webhook

    at = datetime.now(UTC)
    signature = Webhook(secret).sign("msg_1", at, body.decode())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    event = unwrap(body, headers, secret)
    assert event.verified
    assert event.job_set.id == "an-id"


async def fastapi(*, there: bool) -> None:
    def application() -> Any:
        from higgsfield_async.fastapi import generations_router, lifespan

        import fastapi  # isort: skip  # ours says what is missing

        app = fastapi.FastAPI(lifespan=lifespan(lambda: hf))
        app.include_router(generations_router(client=lambda: hf), prefix="/generations")
        return app

    async with Sandbox(speed=100) as server, Higgsfield(server.platform(), poll=POLL) as hf:
        if not there:
            refused("fastapi", application)
            return
        said: list[Any] = []
        body = json.dumps({"prompt": "a cat"}).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/generations/keyframes",
            "raw_path": b"/generations/keyframes",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await application()(scope, receive, send)
        assert said[0]["status"] in {201, 202}, said
        assert len(server.generations) == 1


async def pillow(*, there: bool) -> None:
    async with Sandbox(speed=100) as server, Higgsfield(server.platform(), poll=POLL) as hf:
        if there:
            from PIL import Image

            assert (await hf.upload(Image.new("RGB", (8, 8)))).content_type == "image/png"
            return
        # Nobody has such an image here.
        assert find_spec("PIL") is None
        try:
            await hf.upload(object())  # type: ignore[arg-type]  # what is no image
        except InvalidRequest:
            return
        raise AssertionError("what is no image was uploaded")


async def cluster(*, there: bool) -> None:
    def make() -> Any:
        from higgsfield_async.cluster import Cluster

        return Cluster(NOWHERE)

    if not there:
        refused("cluster", make)
        return
    try:
        async with make():
            raise AssertionError("there is a Postgres where none should be")
    except HiggsfieldError as error:
        assert "127.0.0.1" in str(error), error


async def cli(*, there: bool) -> None:
    program = Path(sys.executable).with_name("higgsfield-async.exe" if sys.platform == "win32" else "higgsfield-async")
    found = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=60)
    if there:
        assert found.returncode == 0, found
        assert "higgsfield-async" in found.stdout
    else:
        assert found.returncode != 0
        assert command("cli") in found.stderr
        assert "Traceback" not in found.stderr


async def otel(*, there: bool) -> None:
    if not there and find_spec("opentelemetry") is None:
        return  # nothing is told, and nothing is missing: `core` has seen that
    # What other extras need may need it too.
    from opentelemetry import trace

    names: list[str] = []

    class Tracer(trace.NoOpTracer):
        def start_span(self, name: str, *arguments: Any, **settings: Any) -> trace.Span:
            names.append(name)
            return super().start_span(name, *arguments, **settings)

    class Provider(trace.NoOpTracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            return Tracer()

    trace.set_tracer_provider(Provider())
    async with Sandbox(speed=100) as server, Higgsfield(server.platform(), poll=POLL) as hf:
        await hf.run(ModelRequest("higgsfield-ai/soul/standard", {"prompt": "a cat"}))
    assert names, "nothing was told to OpenTelemetry"


# What there is to check, and the extras that bring it.
CHECKS: dict[str, tuple[Callable[..., Coroutine[Any, Any, None]], set[str]]] = {
    "sandbox": (sandbox, {"sandbox"}),
    "webhooks": (webhooks, {"webhooks", "fastapi"}),
    "fastapi": (fastapi, {"fastapi"}),
    "pillow": (pillow, {"pillow"}),
    "cluster": (cluster, {"cluster"}),
    "cli": (cli, {"cli"}),
    "otel": (otel, {"otel"}),
}


async def main(extra: str) -> None:
    declared = set(metadata("higgsfield-async").get_all("Provides-Extra") or [])
    if unchecked := declared - CHECKS.keys():
        raise SystemExit(f"This file has no check for {', '.join(sorted(unchecked))}")
    if extra not in {"bare", *declared}:
        raise SystemExit(f"There is no extra {extra!r}; there are {', '.join(sorted(declared))}")
    await core()
    for name in sorted(declared):
        check, brought_by = CHECKS[name]
        await check(there=extra in brought_by)
    print(f"{extra}: works; {len(declared)} extras looked at")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
