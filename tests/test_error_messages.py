"""What every error says, in full: `golden/errors.txt`, to be read as its users read it.

    GOLDEN=write python3 noxfile.py -s tests -- tests/test_error_messages.py

writes the file anew. Each error is met as a user meets it: from the sandbox, from the disk, from what was typed.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from higgsfield_async import (
    Budget,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    Limits,
    Media,
    ModelRequest,
    PlatformTransport,
    PollPolicy,
    ProxyTransport,
    RetryPolicy,
    TaskRef,
    webhooks,
)
from higgsfield_async.cli._exits import hint_of
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V1, V2, WRONG

pytestmark = pytest.mark.once

GOLDEN = Path(__file__).with_name("golden") / "errors.txt"
NEVER = Plan(queued=1e9)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NO_SUCH = "11111111-2222-4333-8444-000000000000"


class Place:
    """Where one error is met: a sandbox, a folder, and clients that wait for nothing."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder

    @asynccontextmanager
    async def client(self, transport: Any = None, **settings: Any) -> AsyncIterator[Higgsfield]:
        usual: dict[str, Any] = {
            "poll": PollPolicy.fixed(0.02, deadline=5),
            "retry": RetryPolicy(attempts=2, first=0.001, longest=0.01),
            "limits": Limits(connect=5, first_byte=5, read=5, patience=0),
        }
        async with Higgsfield(transport or self.sandbox.platform(), **usual | settings) as hf:
            yield hf

    def proxy(self, **settings: Any) -> Any:
        return self.client(self.sandbox.proxy(), **settings)

    async def submit(self, request: Any, *faults: Fault, proxy: bool = False) -> None:
        self.sandbox.script("submit", *faults)
        async with self.proxy() if proxy else self.client() as hf:
            await hf.submit(request)

    async def run(self, plan: Plan) -> None:
        self.sandbox.plan(plan)
        async with self.client() as hf:
            await hf.run(V2.request)


Situation = Callable[[Place], Awaitable[None]]
SITUATIONS: dict[str, Situation] = {}


def situation(title: str) -> Callable[[Situation], Situation]:
    def keep(function: Situation) -> Situation:
        SITUATIONS[title] = function
        return function

    return keep


def plain(title: str, make: Callable[[], object]) -> None:
    @situation(title)
    async def _(_: Place) -> None:
        make()


plain("A key with a space in it", lambda: ProxyTransport("hk key"))
plain("An address that is none", lambda: ProxyTransport("hk-key", base_url="api.example.com"))
plain("A policy that cannot be", lambda: PollPolicy.fixed(0))
plain("A ref that is none", lambda: TaskRef.from_json("{}"))
plain("A picture in the place of its address", lambda: Keyframes(prompt=PROMPT, image_references=["cat.jpg"]))
plain(
    "A model that there is not",
    lambda: ImageToVideo(model="best", motion_id=MOTION, prompt=PROMPT, images=[IMAGE]),  # type: ignore[arg-type]
)
plain("A field that is missing", lambda: ImageToVideo(model="lite", motion_id="", prompt=PROMPT, images=[]))
plain("A webhook that proves nothing", lambda: webhooks.unwrap(b"{}", {}, secrets=SECRET))
plain("A webhook that cannot be read", lambda: webhooks.unwrap(b"{", {}))
plain("A webhook's secret that is none", lambda: webhooks.unwrap(b"{}", {}, secrets="whsec_?"))


@situation("No key in the environment")
async def _(_: Place) -> None:
    Higgsfield.from_env()


@situation("A client that is closed")
async def _(place: Place) -> None:
    async with place.client() as hf:
        pass
    await hf.submit(V1.request)


@situation("A client that is closed while a generation is waited for")
async def _(place: Place) -> None:
    place.sandbox.plan(NEVER)
    async with place.client() as hf:
        waiting = asyncio.create_task((await hf.submit(V2.request)).wait())
        await asyncio.sleep(0.05)
    await waiting


@situation("A client of the platform that is given a ref of the proxy's")
async def _(place: Place) -> None:
    async with place.proxy() as hf:
        ref = (await hf.submit(PROXY.request)).ref
    async with place.client() as hf:
        hf.task(ref)


@situation("The proxy, asked to cancel")
async def _(place: Place) -> None:
    async with place.proxy() as hf:
        await (await hf.submit(PROXY.request)).cancel()


@situation("The platform, given a request of the proxy's")
async def _(place: Place) -> None:
    async with place.client() as hf:
        await hf.submit(PROXY.request)


@situation("A model's arguments that the service refuses")
async def _(place: Place) -> None:
    await place.submit(WRONG)


@situation("Too large for the service")
async def _(place: Place) -> None:
    await place.submit(PROXY.request, Fault.answer(413), proxy=True)


@situation("A wrong key, on the platform")
async def _(place: Place) -> None:
    async with place.client(PlatformTransport("id", "secret", base_url=place.sandbox.platform_url)) as hf:
        await hf.submit(V2.request)


@situation("A wrong key, on the proxy")
async def _(place: Place) -> None:
    async with place.client(ProxyTransport("hk-wrong", base_url=place.sandbox.proxy_url)) as hf:
        await hf.submit(PROXY.request)


@situation("A key that may not do this")
async def _(place: Place) -> None:
    await place.submit(V2.request, Fault.answer(403, b'{"detail":"Forbidden"}'))


@situation("No credits left")
async def _(place: Place) -> None:
    async with Sandbox(credits=0) as poor, place.client(poor.platform()) as hf:
        await hf.submit(V2.request)


@situation("No points left")
async def _(place: Place) -> None:
    async with Sandbox(points=0) as poor, place.client(poor.proxy()) as hf:
        await hf.submit(PROXY.request)


@situation("A generation that there is not")
async def _(place: Place) -> None:
    place.sandbox.plan(NEVER)
    async with place.client() as hf:
        ref = (await hf.submit(V2.request)).ref
        await hf.task(TaskRef.from_json(ref.to_json().replace(ref.id, NO_SUCH))).wait()


@situation("A model that the service does not have")
async def _(place: Place) -> None:
    await place.submit(ModelRequest("nobody/nothing", {"prompt": PROMPT}))


@situation("Too late to cancel")
async def _(place: Place) -> None:
    place.sandbox.plan(Plan(queued=0, running=1e9))
    async with place.client() as hf:
        await (await hf.submit(V2.request)).cancel()


@situation("Too many requests")
async def _(place: Place) -> None:
    await place.submit(V2.request, *[Fault.answer(429, headers={"Retry-After": "7"})] * 9)


@situation("Too many generations at once")
async def _(place: Place) -> None:
    detail = b'{"detail":"Maximum number of concurrent requests (4) has been reached"}'
    await place.submit(V1.request, *[Fault.answer(400, detail)] * 9)


@situation("The service is down, before a submit that carries a key")
async def _(place: Place) -> None:
    await place.submit(V2.request, *[Fault.html(502)] * 9)


@situation("The service is down, before a submit without a key")
async def _(place: Place) -> None:
    await place.submit(V1.request, *[Fault.html(502)] * 9)


@situation("The service is down, and a price is asked for")
async def _(place: Place) -> None:
    place.sandbox.script("estimate", *[Fault.answer(503, headers={"Retry-After": "3"})] * 9)
    async with place.client() as hf:
        await hf.estimate(V2.request)


@situation("A word of the service's for which there is no class")
async def _(place: Place) -> None:
    place.sandbox.script("estimate", *[Fault.answer(418, b'{"detail":"I am a teapot"}')] * 9)
    async with place.client() as hf:
        await hf.estimate(V2.request)


@situation("Nobody listens")
async def _(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with place.client(ProxyTransport("hk-key", base_url=f"http://127.0.0.1:{port}")) as hf:
        await hf.submit(PROXY.request)


@situation("The answer to a submit without a key is lost")
async def _(place: Place) -> None:
    await place.submit(PROXY.request, Fault.reset(accept=True), proxy=True)


@situation("The same, with a journal, and the same key again")
async def _(place: Place) -> None:
    place.sandbox.script("submit", Fault.reset(accept=True))
    async with place.proxy(journal=place.folder / "again.db") as hf:
        await asyncio.gather(hf.submit(PROXY.request, key="order-17"), return_exceptions=True)
        await hf.submit(PROXY.request, key="order-17")


@situation("A page in place of an answer")
async def _(place: Place) -> None:
    place.sandbox.script("estimate", *[Fault.ok_html()] * 9)
    async with place.client() as hf:
        await hf.estimate(V2.request)


@situation("A generation that fails")
async def _(place: Place) -> None:
    await place.run(Plan(end="failed", reason="The input image could not be read."))


@situation("A generation that the moderation refuses")
async def _(place: Place) -> None:
    await place.run(Plan(end="nsfw"))


@situation("A generation that was canceled")
async def _(place: Place) -> None:
    await place.run(Plan(end="canceled"))


@situation("A wait that is over before the generation is")
async def _(place: Place) -> None:
    place.sandbox.plan(NEVER)
    async with place.client() as hf:
        await hf.run(V2.request, timeout=0.1)


@situation("A budget that does not suffice")
async def _(place: Place) -> None:
    async with place.proxy(budget=Budget(points=1)) as hf:
        await hf.submit(PROXY.request)


@situation("A journal that is none")
async def _(place: Place) -> None:
    (place.folder / "text.db").write_text("This is no journal, but it is long enough to look like one to some." * 20)
    async with place.proxy(journal=place.folder / "text.db") as hf:
        await hf.submit(PROXY.request)


@situation("A key of a unit of work, and no journal")
async def _(place: Place) -> None:
    async with place.proxy() as hf:
        await hf.submit(PROXY.request, key="order-17")


@situation("A key of a unit of work that names another request")
async def _(place: Place) -> None:
    async with place.client(journal=place.folder / "one.db") as hf:
        await hf.submit(V1.request, key="order-17")
        await hf.submit(V2.request, key="order-17")


@situation("A result that is gone")
async def _(place: Place) -> None:
    place.sandbox.script("download", *[Fault.answer(404)] * 9)
    async with place.client() as hf:
        await (await hf.submit(V1.request)).save(place.folder)


@situation("A result inside a private network")
async def _(place: Place) -> None:
    async with place.client(allow_private=False) as hf:
        await hf.save(Media("http://127.0.0.1:9/a.mp4", "video"), place.folder / "a.mp4")


@situation("A local file that there is not")
async def _(place: Place) -> None:
    async with place.client() as hf:
        await hf.upload(place.folder / "cat.jpg")


@situation("A storage that does not take a file")
async def _(place: Place) -> None:
    place.sandbox.script("upload", Fault(), *[Fault.answer(403)] * 9)
    async with place.client() as hf:
        await hf.upload(b"\xff\xd8\xff\xe0 a picture")


CHANGEABLE = {
    r"127\.0\.0\.1:\d+": "127.0.0.1:<port>",
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}": "<id>",
    r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}": "<when>",
    r"\d+\.\d+ seconds": "<some> seconds",
    r"\bWy[IJ][\w-]+": "<ref>",  # in its short form
}


def written(title: str, error: HiggsfieldError, folder: Path) -> str:
    told = [f"charged: {error.charged}"]
    told += [word for word in ("transient", "refused") if getattr(error, word)]
    told += ["with its ref"] if error.ref is not None else []
    told += [f"retry after {error.retry_after:g} s"] if error.retry_after is not None else []
    lines = [f"# {title}", f"{type(error).__name__} ({', '.join(told)})", str(error)]
    if (hint := hint_of(error)) is not None:
        lines.append(f"Hint: {hint}")
    text = "\n".join(lines).replace(str(folder), "<folder>")
    for pattern, word in CHANGEABLE.items():
        text = re.sub(pattern, word, text)
    return f"{text}\n"


def concrete(kind: type[HiggsfieldError] = HiggsfieldError) -> set[type[HiggsfieldError]]:
    """Every public error that can be raised."""
    below = {each for child in kind.__subclasses__() for each in concrete(child)}
    public = kind.__module__ == "higgsfield_async" and not kind.abstract
    return below | ({kind} if public else set())


@pytest.mark.timeout(90)
async def test_what_every_error_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HF_", "HIGGSFIELD_")):
            monkeypatch.delenv(name)
    met: dict[str, HiggsfieldError] = {}
    for title, meet in SITUATIONS.items():
        async with Sandbox(speed=100) as sandbox:
            with pytest.raises(HiggsfieldError) as caught:
                await meet(Place(sandbox, tmp_path))
        met[title] = caught.value
        said = f"{caught.value!s} {caught.value!r}"
        assert not [secret for secret in (sandbox.key_secret, sandbox.proxy_key, SECRET, PROMPT) if secret in said]
    assert {type(error) for error in met.values()} == concrete()
    text = "\n".join(written(title, error, tmp_path) for title, error in met.items())
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "if this is meant: GOLDEN=write, and run this test again"
