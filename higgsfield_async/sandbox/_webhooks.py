"""Webhooks: what is sent when a generation has ended, how it is signed, and when it is sent again."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from ._state import Account, Generation, Hook, WebhookForm

#: Ends that are reported. The documentation does not say what becomes of "canceled".
_REPORTED = frozenset({"completed", "failed", "nsfw"})
#: Sandbox seconds before the second attempt; each pause is twice the one before.
_FIRST_PAUSE = 1.0
_PREFIX = "whsec_"

#: The body of a webhook: of that generation, with that status (None: its end), in that form.
Report: TypeAlias = Callable[[Generation, str | None, WebhookForm], object]


class Delivery(msgspec.Struct, eq=False, kw_only=True):
    """One attempt to deliver a webhook.

    ``error`` is "network" or "timeout", after which it is tried again; or "not_sent": the address is not one on
    loopback and there is no ``webhook_origin``, or HTTP cannot carry it.
    """

    generation_id: str
    #: The same for every attempt and every repetition of one event. None: sent without one, as by v1 or unsigned.
    webhook_id: str | None
    #: Where it went, which is at the ``webhook_origin`` if there is one.
    url: str
    #: Case-insensitive.
    headers: CIMultiDictProxy[str]
    body: bytes
    #: 1 for the first.
    attempt: int
    #: ``time.monotonic()`` of its beginning, in seconds.
    at: float
    #: The status answered; as ``error``, None while there is no answer, and for good when the sandbox was closed first.
    status: int | None = None
    error: Literal["network", "timeout", "not_sent"] | None = None

    def json(self) -> Any:
        """The body decoded as JSON."""
        return msgspec.json.decode(self.body)


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key or not secret.startswith(_PREFIX):
        msg = f"webhook_secrets must each be {_PREFIX} and base64, not {secret!r}"
        raise ValueError(msg)
    return key


def _signatures(keys: Iterable[bytes], id: str, timestamp: str, body: bytes) -> str:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    content = f"{id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)


class Webhooks:
    """Every delivery of a sandbox: each is a task, which sleeps until it is due and ends with :meth:`open`."""

    def __init__(
        self, account: Account, *, secrets: tuple[str, ...], form: WebhookForm, retry_for: float, timeout: float
    ) -> None:
        if form not in get_args(WebhookForm):
            msg = f"webhook_form must be one of {', '.join(get_args(WebhookForm))}, not {form!r}"
            raise ValueError(msg)
        if timeout <= 0:
            msg = f"webhook_timeout must be more than 0 seconds, not {timeout!r}"
            raise ValueError(msg)
        self.deliveries: list[Delivery] = []
        self.secrets = secrets
        self._account = account
        self._keys = tuple(map(_key, secrets))
        self._form: WebhookForm = form
        self._retry_for = retry_for
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._origin: str | None = None
        self._session: aiohttp.ClientSession
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str | None:
        """Where deliveries go, whatever the host they are addressed to."""
        return self._origin

    @origin.setter
    def origin(self, url: str | None) -> None:
        if url is not None:
            parts = urlsplit(url)
            alone = url == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
            if not alone or parts.scheme not in {"http", "https"} or not _is_loopback(parts.hostname):
                msg = f"webhook_origin must be an origin on loopback, as in http://127.0.0.1:8000, not {url!r}"
                raise ValueError(msg)
        self._origin = url

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Deliver until this ends; what is not delivered by then never is."""
        # A connection for each delivery: one that is kept alive may close just as the next is sent.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            try:
                yield
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def follow(self, generation: Generation, report: Report) -> None:
        """Deliver what its plan says, once it has ended."""
        for hook in generation.plan.webhooks:
            name = f"higgsfield_async.sandbox webhook {generation.id}"
            task = asyncio.create_task(self._deliver(generation, hook, report), name=name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, generation: Generation, hook: Hook, report: Report) -> None:
        account = self._account
        await account.sleep_until(generation.ends + hook.after)
        if generation.status not in _REPORTED:
            return
        body = msgspec.json.encode(report(generation, hook.status, hook.form or self._form))
        last, pause, attempt = account.now() + self._retry_for, _FIRST_PAUSE, 1
        while await self._attempt(generation, hook, body, attempt) and (due := account.now() + pause) <= last:
            await account.sleep_until(due)
            pause, attempt = pause * 2, attempt + 1

    async def _attempt(self, generation: Generation, hook: Hook, body: bytes, attempt: int) -> bool:
        """Send it once; whether to do so again."""
        headers = self._headers(generation, hook, body)
        delivery = Delivery(
            generation_id=generation.id,
            webhook_id=headers.get("webhook-id"),
            url=self._address(generation),
            headers=CIMultiDictProxy(CIMultiDict(headers)),
            body=body,
            attempt=attempt,
            at=time.monotonic(),
        )
        self.deliveries.append(delivery)
        if _is_loopback(urlsplit(delivery.url).hostname):
            await self._send(delivery)
        else:
            delivery.error = "not_sent"
        return delivery.error in {"network", "timeout"} or (delivery.status or 0) >= 500

    def _headers(self, generation: Generation, hook: Hook, body: bytes) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json"}
        if generation.surface == "v1":
            secret = generation.order.webhook_secret
            if hook.signature == "wrong":
                secret = secrets.token_hex()
            if secret is not None and hook.signature != "none":
                headers["X-Webhook-Secret-Key"] = secret
            return headers
        keys = {"right": self._keys, "wrong": (secrets.token_bytes(),), "none": ()}[hook.signature]
        if keys:
            event = uuid.uuid5(uuid.UUID(generation.id), hook.status or generation.status)
            # The receiver's clock is the real one.
            id, timestamp = f"msg_{event.hex}", str(int(time.time()))
            headers |= {"webhook-id": id, "webhook-timestamp": timestamp}
            headers["webhook-signature"] = _signatures(keys, id, timestamp, body)
        return headers

    def _address(self, generation: Generation) -> str:
        given = generation.webhook or ""
        if self._origin is None:
            return given
        parts = urlsplit(given)
        return self._origin + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def _send(self, delivery: Delivery) -> None:
        try:
            async with self._session.post(
                delivery.url,
                data=delivery.body,
                headers=delivery.headers,
                allow_redirects=False,
                timeout=self._timeout,
            ) as response:
                delivery.status = response.status
        except TimeoutError:
            delivery.error = "timeout"
        except ValueError:
            # No port of that number, or a secret that is no header.
            delivery.error = "not_sent"
        except aiohttp.ClientError:
            delivery.error = "network"
