"""Webhooks: what is delivered, to whom, how it is signed, and when it is delivered again."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from higgsfield_async.sandbox import Delivery, Fault, Hook, Plan, Sandbox

RECORDED = Path(__file__).with_name("recorded")
SOUL = "/higgsfield-ai/soul/standard"
KEYFRAMES = "/v1/text2image/keyframes"
DOP = "/higgsfield-ai/dop/turbo"
AUDIO = "/qwen/qwen-audio-3.0-tts-flash"
PROMPT: dict[str, Any] = {"prompt": "a cat"}
HOOK = "https://example.com/hooks/1?x=a%26b"
SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldC0x"
SECOND_SECRET = "whsec_YW5vdGhlciB3ZWJob29rIHNlY3JldCE="
# A closed door: nothing listens on port 1.
NOBODY = "http://127.0.0.1:1"

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def done(end: str = "completed", *webhooks: Hook, **more: Any) -> Plan:
    """At its end when it begins; with `webhooks` of the test's own, where there are any."""
    return Plan(end=end, queued=0, running=0, **more, webhooks=webhooks or (Hook(),))


class Heard:
    def __init__(self, request: web.BaseRequest, body: bytes) -> None:
        self.method = request.method
        self.target = request.raw_path
        self.headers = dict(request.headers)
        self.body = body
        self.json = json.loads(body)


class Receiver:
    """A user's own server: answers 200, or what is queued in `answers`."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: deque[int | Answer] = deque()
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._heard.put_nowait(Heard(request, await request.read()))
        answer = self.answers.popleft() if self.answers else 200
        if isinstance(answer, int):
            return web.Response(status=answer, headers={"Location": "/elsewhere"})
        return await answer(request)

    async def next(self) -> Heard:
        return await self._heard.get()

    @property
    def nothing_more(self) -> bool:
        return self._heard.empty()


async def reset(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def never(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    running = Receiver()
    runner = web.ServerRunner(web.Server(running.handle, access_log=None), shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    running.url = f"http://{host}:{port}"
    yield running
    await runner.cleanup()


@pytest.fixture
async def delivering(open_sandbox: Callable[..., Any], receiver: Receiver) -> Callable[..., Any]:
    """Opens sandboxes that deliver to the receiver, and are fast."""

    async def open_one(**settings: Any) -> Any:
        return await open_sandbox(**{"speed": 100, "webhook_origin": receiver.url, **settings})

    return open_one


async def submit(caller: Any, body: Any = PROMPT, path: str = SOUL, **headers: str) -> str:
    status, answer = await caller.json("v2", "POST", f"{path}?hf_webhook={quote(HOOK)}", body, headers=headers)
    assert status == 200
    return str(answer["request_id"])


async def submit_v1(caller: Any, url: str = HOOK, secret: str | None = "s") -> str:
    body = {"params": PROMPT, "webhook": {"url": url, "secret": secret}}
    status, answer = await caller.json("v1", "POST", KEYFRAMES, body)
    assert status == 200
    return str(answer["id"])


async def settled(sandbox: Sandbox, count: int = 1) -> list[Delivery]:
    """So many attempts, the last of which has ended."""
    while len(sandbox.deliveries) < count or not (sandbox.deliveries[-1].status or sandbox.deliveries[-1].error):
        await asyncio.sleep(0.001)
    assert len(sandbox.deliveries) == count
    return sandbox.deliveries


async def quiet() -> None:
    """No delivery is under way or to come."""
    while [task for task in asyncio.all_tasks() if "webhook" in task.get_name()]:
        await asyncio.sleep(0.001)


def verified(heard: Heard, secret: str = SECRET) -> Any:
    return Webhook(secret).verify(heard.body, heard.headers)


# What is said


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (SOUL, {**PROMPT, "batch_size": 4}, "images"),
        (DOP, {**PROMPT, "image_url": "https://example.com/cat.png"}, "video"),
        (AUDIO, {}, "audio"),
    ],
)
async def test_an_end_is_reported(delivering: Any, receiver: Receiver, path: str, body: Any, field: str) -> None:
    caller = await delivering()
    request_id = await submit(caller, body, path)
    heard = await receiver.next()
    assert (heard.method, heard.target) == ("POST", "/hooks/1?x=a%26b")
    assert heard.headers["Content-Type"] == "application/json"
    _, status = await caller.json("v2", "GET", f"/requests/{request_id}/status")
    outputs = {key: value for key, value in status.items() if key.startswith(field)}
    assert outputs
    assert verified(heard) == {"request_id": request_id, "status": "completed", "error": None, "payload": outputs}
    (delivery,) = await settled(caller.sandbox)
    assert (delivery.generation_id, delivery.url) == (request_id, receiver.url + heard.target)
    assert (delivery.attempt, delivery.status, delivery.error) == (1, 200, None)
    assert (delivery.body, delivery.json()) == (heard.body, heard.json)
    assert {key: heard.headers[key] for key in delivery.headers} == dict(delivery.headers)
    assert delivery.webhook_id == heard.headers["webhook-id"]
    assert delivery.webhook_id.startswith("msg_")


@pytest.mark.parametrize(
    ("plan", "status", "error"),
    [
        (done("failed"), "failed", "Generation failed"),
        (done("failed", reason="x"), "failed", "x"),
        (done("nsfw"), "nsfw", None),
    ],
)
async def test_bad_ends_have_no_payload(
    delivering: Any, receiver: Receiver, plan: Plan, status: str, error: Any
) -> None:
    caller = await delivering()
    caller.sandbox.plan(plan)
    request_id = await submit(caller)
    assert verified(await receiver.next()) == {
        "request_id": request_id,
        "status": status,
        "error": error,
        "payload": None,
    }


@pytest.mark.parametrize(
    ("name", "path", "plan"),
    [
        ("completed_image", SOUL, done()),
        ("completed_video", DOP, done()),
        ("failed", SOUL, done("failed", reason="Generation fail message")),
        ("nsfw", SOUL, done("nsfw")),
    ],
)
async def test_the_flat_form_is_as_recorded(
    delivering: Any, receiver: Receiver, name: str, path: str, plan: Plan
) -> None:
    caller = await delivering(webhook_form="flat")
    caller.sandbox.plan(plan)
    body = {**PROMPT, "image_url": "https://example.com/cat.png"} if path == DOP else PROMPT
    request_id = await submit(caller, body, path, **{"Hf-Expires-After": "3600"})
    said = verified(await receiver.next())
    expected = json.loads((RECORDED / f"webhook_flat_{name}.json").read_text())
    assert list(said) == list(expected)
    text = json.dumps(expected).replace("https://platform.higgsfield.ai", caller.sandbox.platform_url)
    expected = json.loads(text.replace(expected["request_id"], request_id))
    for field in {"images", "video"} & set(said):
        (media,) = said[field] if field == "images" else [said[field]]
        assert list(media) == ["url"]
        expected[field] = said[field]
    assert said == expected


async def test_what_expires_says_when(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done("completed", Hook(), Hook(status="in_progress", after=1)))
    request_id = await submit(caller, **{"Hf-Expires-After": "3600"})
    _, status = await caller.json("v2", "GET", f"/requests/{request_id}/status")
    assert verified(await receiver.next())["expires_at"] == status["expires_at"]
    assert "expires_at" not in verified(await receiver.next())


async def test_what_was_deleted_has_no_results(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done("completed", Hook(after=5)))
    request_id = await submit(caller)
    assert (await caller.json("v2", "DELETE", f"/requests/{request_id}"))[0] == 200
    assert verified(await receiver.next())["payload"] is None


@pytest.mark.parametrize("plan", [done(ends=("completed", "nsfw"), outputs=2), done("failed"), done(linkless=1)])
async def test_v1_reports_the_job_set(delivering: Any, receiver: Receiver, plan: Plan) -> None:
    caller = await delivering()
    caller.sandbox.plan(plan)
    request_id = await submit_v1(caller, secret="the secret")
    heard = await receiver.next()
    answers = [await caller.json("v1", "GET", f"/v1/job-sets/{request_id}") for _ in range(2)]
    assert heard.json == answers[-1][1]
    assert heard.headers["X-Webhook-Secret-Key"] == "the secret"
    assert not [name for name in heard.headers if name.lower().startswith("webhook-")]
    (delivery,) = await settled(caller.sandbox)
    assert delivery.webhook_id is None


async def test_v1_may_have_no_secret(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    await submit_v1(caller, secret=None)
    assert "X-Webhook-Secret-Key" not in (await receiver.next()).headers


# Signatures


async def test_while_secrets_rotate_each_signs(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering(webhook_secrets=(SECRET, SECOND_SECRET))
    assert caller.sandbox.webhook_secrets == (SECRET, SECOND_SECRET)
    await submit(caller)
    heard = await receiver.next()
    first, second = heard.headers["webhook-signature"].split(" ")
    assert first != second
    assert verified(heard) == verified(heard, SECOND_SECRET)


async def test_without_a_secret_nothing_is_signed(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering(webhook_secrets=())
    await submit(caller)
    assert not [name for name in (await receiver.next()).headers if name.lower().startswith("webhook-")]


async def test_signatures_that_are_wrong_or_missing(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    hooks = [Hook(signature="wrong"), Hook(signature="none", after=2)]
    caller.sandbox.plan(done("completed", *hooks), done("completed", *hooks))
    await submit(caller)
    for problem in "No matching signature", "Missing required headers":
        with pytest.raises(WebhookVerificationError, match=problem):
            verified(await receiver.next())
    await submit_v1(caller, secret="s")
    assert (await receiver.next()).headers["X-Webhook-Secret-Key"] != "s"
    assert "X-Webhook-Secret-Key" not in (await receiver.next()).headers


# When told to: late, twice, out of order


async def test_twice_is_the_same_event(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done("completed", Hook(), Hook(after=1, form="flat"), Hook(after=2, status="in_progress")))
    request_id = await submit(caller)
    first, second, third = [await receiver.next() for _ in range(3)]
    assert first.headers["webhook-id"] == second.headers["webhook-id"] != third.headers["webhook-id"]
    assert (list(verified(first)), list(verified(second))) == (
        ["request_id", "status", "error", "payload"],
        ["status", "request_id", "status_url", "cancel_url", "images"],
    )
    assert verified(third) == {"request_id": request_id, "status": "in_progress", "error": None, "payload": None}


async def test_two_generations_are_two_events(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done(), done())
    ids = {await submit(caller), await submit(caller)}
    heard = [await receiver.next() for _ in ids]
    assert {one.json["request_id"] for one in heard} == ids
    assert len({one.headers["webhook-id"] for one in heard}) == 2


async def test_stale_news_of_a_job_set(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done("completed", Hook(status="queued"), outputs=2))
    await submit_v1(caller)
    assert [(job["status"], job["results"]) for job in (await receiver.next()).json["jobs"]] == [("queued", None)] * 2


async def test_late_is_by_the_clock_of_the_sandbox(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(Plan(queued=1, running=2, webhooks=(Hook(after=3),)))
    async with asyncio.timeout(5):
        before = asyncio.get_running_loop().time()
        await submit(caller)
        await receiver.next()
    assert asyncio.get_running_loop().time() - before >= 0.06


async def test_a_clock_that_stands_still_comes_to_no_end(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering(speed=0)
    await submit(caller)
    caller.sandbox.plan(done())
    request_id = await submit(caller)
    assert (await receiver.next()).json["request_id"] == request_id
    await settled(caller.sandbox)


@pytest.mark.parametrize(
    "plan", [Plan(webhooks=()), done("archived"), done("canceled"), done("canceled", Hook(status="x"))]
)
async def test_nothing_is_said(delivering: Any, receiver: Receiver, plan: Plan) -> None:
    caller = await delivering()
    caller.sandbox.plan(plan)
    await submit(caller)
    await quiet()
    assert caller.sandbox.deliveries == []
    assert receiver.nothing_more


async def test_nothing_is_said_of_what_was_canceled(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(Plan(queued=20, running=1))
    request_id = await submit(caller)
    assert (await caller.raw("v2", "POST", f"/requests/{request_id}/cancel"))[0] == 202
    await quiet()
    assert caller.sandbox.deliveries == []


async def test_without_a_webhook_there_is_none(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done(), done())
    await caller.json("v2", "POST", SOUL, PROMPT)
    await caller.json("v1", "POST", KEYFRAMES, {"params": PROMPT, "webhook": None})
    await quiet()
    assert caller.sandbox.deliveries == []


async def test_a_replayed_submit_is_one_event(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done())
    ids = {await submit(caller, **{"Idempotency-Key": "k"}) for _ in range(2)}
    assert len(ids) == 1
    await quiet()
    assert len(caller.sandbox.deliveries) == 1


# Again


async def test_failures_are_tried_again_with_growing_pauses(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering(webhook_timeout=0.05)
    receiver.answers += [500, reset, never, 599]
    caller.sandbox.plan(done())
    await submit(caller)
    heard = [await receiver.next() for _ in range(5)]
    attempts = await settled(caller.sandbox, 5)
    assert [(one.attempt, one.status, one.error) for one in attempts] == [
        (1, 500, None),
        (2, None, "network"),
        (3, None, "timeout"),
        (4, 599, None),
        (5, 200, None),
    ]
    assert len({one.headers["webhook-id"] for one in heard}) == len({one.body for one in heard}) == 1
    assert all(verified(one) for one in heard)
    pauses = [later.at - one.at for one, later in itertools.pairwise(attempts)]
    assert all(pause >= 0.01 * 2**number for number, pause in enumerate(pauses))
    assert pauses[2] >= 0.05 + 0.04


async def test_each_attempt_has_the_time_of_its_own(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering(speed=1)
    receiver.answers += [503]
    caller.sandbox.plan(done())
    await submit(caller)
    first, second = await receiver.next(), await receiver.next()
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    verified(second)


@pytest.mark.parametrize("status", [204, 301, 307, 400, 404, 410, 429])
async def test_any_other_answer_is_the_last(delivering: Any, receiver: Receiver, status: int) -> None:
    caller = await delivering()
    receiver.answers += [status]
    caller.sandbox.plan(done())
    await submit(caller)
    await quiet()
    (delivery,) = caller.sandbox.deliveries
    assert (delivery.status, delivery.error) == (status, None)
    assert (await receiver.next()).target == "/hooks/1?x=a%26b"
    assert receiver.nothing_more


@pytest.mark.parametrize(("seconds", "attempts"), [(0, 1), (2, 2), (5, 3)])
async def test_it_is_given_up_in_the_end(delivering: Any, seconds: float, attempts: int) -> None:
    caller = await delivering(speed=10, webhook_retry_for=seconds, webhook_origin=NOBODY)
    caller.sandbox.plan(done())
    await submit(caller)
    await quiet()
    assert [one.error for one in caller.sandbox.deliveries] == ["network"] * attempts


# Where to


async def test_a_receiver_may_come_late(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering(webhook_origin=NOBODY)
    caller.sandbox.plan(done())
    await submit(caller)
    await settled(caller.sandbox)
    caller.sandbox.webhook_origin = receiver.url
    verified(await receiver.next())
    assert caller.sandbox.webhook_origin == receiver.url
    assert [one.url.startswith(receiver.url) for one in (await settled(caller.sandbox, 2))] == [False, True]


@pytest.mark.parametrize("surface", ["v1", "v2"])
async def test_public_addresses_are_sent_nothing(open_sandbox: Any, surface: str) -> None:
    caller = await open_sandbox(speed=100)
    caller.sandbox.plan(done())
    await (submit(caller) if surface == "v2" else submit_v1(caller))
    await quiet()
    (delivery,) = caller.sandbox.deliveries
    assert (delivery.url, delivery.attempt, delivery.status, delivery.error) == (HOOK, 1, None, "not_sent")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_v1_takes_an_address_on_loopback(open_sandbox: Any, receiver: Receiver, host: str) -> None:
    caller = await open_sandbox(speed=100)
    caller.sandbox.plan(done())
    url = receiver.url.replace("127.0.0.1", host)
    await submit_v1(caller, url)
    assert (await receiver.next()).target == "/"
    (delivery,) = await settled(caller.sandbox)
    assert (delivery.url, delivery.status) == (url, 200)


async def test_an_address_may_have_no_path(delivering: Any, receiver: Receiver) -> None:
    caller = await delivering()
    caller.sandbox.plan(done())
    await submit_v1(caller, "http://example.com")
    assert (await receiver.next()).target == "/"


@pytest.mark.parametrize("change", [{"url": "http://127.0.0.1:99999/"}, {"secret": "a\r\nb"}])
async def test_what_http_cannot_carry_is_not_sent(open_sandbox: Any, receiver: Receiver, change: Any) -> None:
    caller = await open_sandbox(speed=100)
    caller.sandbox.plan(done())
    await submit_v1(caller, **({"url": receiver.url} | change))
    await quiet()
    (delivery,) = caller.sandbox.deliveries
    assert (delivery.status, delivery.error) == (None, "not_sent")
    assert receiver.nothing_more


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://10.0.0.1:80",
        "http://0.0.0.0:80",
        "http://127.0.0.1:80/",
        "http://127.0.0.1:80/hook",
        "http://user@127.0.0.1:80",
        "ftp://127.0.0.1",
        "127.0.0.1:80",
        "http://",
        "",
    ],
)
def test_deliveries_stay_on_loopback(url: str) -> None:
    with pytest.raises(ValueError, match="webhook_origin"):
        Sandbox(webhook_origin=url)
    sandbox = Sandbox()
    with pytest.raises(ValueError, match="webhook_origin"):
        sandbox.webhook_origin = url


@pytest.mark.parametrize("url", ["http://127.0.0.1:80", "https://127.9.9.9", "http://[::1]:80", "http://localhost:80"])
def test_any_loopback_will_do(url: str) -> None:
    sandbox = Sandbox(webhook_origin=url)
    assert sandbox.webhook_origin == url
    sandbox.webhook_origin = None
    assert sandbox.webhook_origin is None


@pytest.mark.parametrize(
    "settings",
    [
        {"webhook_form": "xml"},
        {"webhook_timeout": 0},
        {"webhook_secrets": ("c2VjcmV0",)},
        {"webhook_secrets": ("whsec_",)},
        {"webhook_secrets": (SECRET, "whsec_?")},
    ],
)
def test_settings_that_cannot_work(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sandbox(**settings)


# The end of the sandbox


async def test_closing_ends_all_deliveries(receiver: Receiver, session: aiohttp.ClientSession) -> None:
    async with Sandbox(speed=100, webhook_origin=receiver.url) as sandbox:
        sandbox.plan(Plan(), done(), done())
        receiver.answers += [500, never]
        sandbox.script("submit", Fault(), Fault(), Fault(), Fault.delay(3600, accept=False))
        keys = {"Authorization": f"Key {sandbox.key_id}:{sandbox.key_secret}"}

        async def send() -> int:
            url = f"{sandbox.platform_url}{SOUL}?hf_webhook={quote(HOOK)}"
            async with session.post(url, json=PROMPT, headers=keys) as response:
                return response.status

        for _ in range(3):
            assert await send() == 200
        delayed = asyncio.create_task(send())
        while len(sandbox.received) < 4 or len(sandbox.deliveries) < 2:
            await asyncio.sleep(0.001)
    assert await delayed == 200
    assert not [task for task in asyncio.all_tasks() if "webhook" in task.get_name()]
    assert len(sandbox.generations) == 4
    assert any((one.status, one.error) == (None, None) for one in sandbox.deliveries)


def test_the_thread_form_delivers_too() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listening, Sandbox(speed=100) as sandbox:
        sandbox.webhook_origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
        sandbox.plan(done())
        asyncio.run(submit_from_outside(sandbox))
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as stream:
            assert stream.readline() == b"POST /hooks/1?x=a%26b HTTP/1.1\r\n"
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            (delivery,) = asyncio.run(settled(sandbox))
        assert delivery.status == 204
    assert threading.active_count() == before


async def submit_from_outside(sandbox: Sandbox) -> None:
    keys = {"Authorization": f"Key {sandbox.key_id}:{sandbox.key_secret}"}
    url = f"{sandbox.platform_url}{SOUL}?hf_webhook={quote(HOOK)}"
    async with aiohttp.ClientSession() as session, session.post(url, json=PROMPT, headers=keys) as response:
        assert response.status == 200
