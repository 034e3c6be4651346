"""The sandbox itself: three origins on loopback, each a dialect behind a real HTTP server."""

from __future__ import annotations

import asyncio
import itertools
import socket
from contextlib import AsyncExitStack, ExitStack
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiohttp import web
from anyio.from_thread import start_blocking_portal

from ._exchange import Dialect, Received
from ._faults import Fault
from ._origin import Origin
from ._platform import Platform
from ._proxy import SPEECH_PATHS, Proxy
from ._state import Account, Generation, Plan, WebhookForm
from ._storage import Storage
from ._webhooks import Delivery, Webhooks

if TYPE_CHECKING:
    from higgsfield_async._transports import PlatformTransport, ProxyTransport

HOST = "127.0.0.1"
# Long enough to hand out an answer that is being written, short enough for a test suite.
_CLOSING_SECONDS = 1.0

OPERATIONS = frozenset(
    {"submit", "poll", "cancel", "delete", "catalogue", "estimate", "usage", "upload", "download", "any"}
)


class Sandbox:
    """A Higgsfield of your own: an HTTP server on 127.0.0.1 that speaks every dialect as strictly as the services do.

    It has three origins: ``proxy_url`` (the reseller's proxy), ``platform_url`` (the platform, v1 and v2) and
    ``media_url`` (uploads and results). Open it with ``async with`` inside a running loop, or with ``with``: the same
    server in a thread with a loop of its own, for synchronous code and for tests under any plugin.

    ``points`` and ``credits`` are what the accounts begin with. Generations live by sandbox time, which passes
    ``speed`` times as fast as real time: by default an image takes 6 seconds of it, a video 12, a speech 15, and the
    training of a character 22. The agent's turn takes 4: told something that begins with the word "ask" it asks a
    question, with "end" it ends the session, and it answers anything else.
    ``max_concurrent`` refuses a submit on the platform while so many generations are unfinished, ``max_queued`` when
    more than so many results would be queued. ``speech_path`` is the one path the proxy has for speech. ``ports`` are
    those of the proxy, the platform and the media origin; 0 takes a free one.

    The platform reports the end of a generation to the webhook that it was submitted with, as :attr:`Plan.webhooks`
    says. Addresses are checked as the service checks them, so that a v2 one must be public; but nothing is sent beyond
    loopback. Deliveries go to the path and query of the address at ``webhook_origin``, such as
    ``http://127.0.0.1:8000``; without it, only to an address that is itself on loopback. Those of v2 have the form of
    ``webhook_form``, "envelope" or "flat" (as before August 2026), and are signed with each of ``webhook_secrets``:
    several while they rotate, none for an account that never looked at its own. One that gets a status of 500 or more,
    no connection, or no answer in ``webhook_timeout`` real seconds is tried again after a sandbox second, after two
    more, and so on, for ``webhook_retry_for`` sandbox seconds.

    Raises:
        ValueError: If a setting cannot work.
    """

    def __init__(
        self,
        *,
        proxy_key: str = "hk-sandbox-key",
        key_id: str = "11111111-2222-3333-4444-555555555555",
        key_secret: str = "sandbox:secret",
        points: Decimal | int = 100_000,
        credits: Decimal | int = Decimal(10_000),
        speed: float = 1.0,
        max_concurrent: int | None = None,
        max_queued: int | None = None,
        speech_path: str = "/higgsfield/speak",
        ports: tuple[int, int, int] = (0, 0, 0),
        webhook_origin: str | None = None,
        webhook_form: WebhookForm = "envelope",
        webhook_secrets: tuple[str, ...] = ("whsec_c2FuZGJveC13ZWJob29rLXNlY3JldC0x",),
        webhook_retry_for: float = 7200.0,
        webhook_timeout: float = 10.0,
    ) -> None:
        if "-" not in proxy_key:
            msg = f"proxy_key must have a '-' in it, as in hk-…, not {proxy_key!r}: the gateway reads what follows it"
            raise ValueError(msg)
        if speech_path not in SPEECH_PATHS:
            msg = f"speech_path must be one of {', '.join(sorted(SPEECH_PATHS))}, not {speech_path!r}"
            raise ValueError(msg)
        self.proxy_key = proxy_key
        self.key_id = key_id
        self.key_secret = key_secret
        #: Everything received, in order.
        self.received: list[Received] = []
        self._speech_path = speech_path
        self._ports = ports
        self._urls: tuple[str, ...] = ()
        self._account = Account(points=Decimal(points), credits=Decimal(credits), speed=speed)
        self._account.max_concurrent = max_concurrent
        self._account.max_queued = max_queued
        self._webhooks = Webhooks(
            self._account,
            secrets=webhook_secrets,
            form=webhook_form,
            retry_for=webhook_retry_for,
            timeout=webhook_timeout,
        )
        self.webhook_origin = webhook_origin
        self._connections = itertools.count(1)
        self._async_stack = AsyncExitStack()
        self._thread_stack = ExitStack()

    def _url(self, index: int) -> str:
        if not self._urls:
            msg = "the sandbox has no address before it is opened: use `with Sandbox() as sandbox`"
            raise RuntimeError(msg)
        return self._urls[index]

    @property
    def proxy_url(self) -> str:
        """The origin of the reseller's proxy.

        Raises:
            RuntimeError: Before the sandbox is opened; so do the other addresses.
        """
        return self._url(0)

    @property
    def platform_url(self) -> str:
        """The origin of the platform, v1 and v2."""
        return self._url(1)

    @property
    def media_url(self) -> str:
        """The origin of uploads and results."""
        return self._url(2)

    def proxy(self) -> ProxyTransport:
        """A transport for this sandbox's proxy, for ``Higgsfield(...)``."""
        from higgsfield_async._transports import ProxyTransport

        return ProxyTransport(api_key=self.proxy_key, base_url=self.proxy_url)

    def platform(self) -> PlatformTransport:
        """A transport for this sandbox's platform, for ``Higgsfield(...)``."""
        from higgsfield_async._transports import PlatformTransport

        return PlatformTransport(key_id=self.key_id, key_secret=self.key_secret, base_url=self.platform_url)

    @property
    def generations(self) -> dict[str, Generation]:
        """Every accepted (so paid) generation by its id, oldest first."""
        return self._account.generations

    @property
    def points(self) -> Decimal:
        """What is left on the proxy's account."""
        return self._account.points

    @property
    def credits(self) -> Decimal:
        """What is left on the platform's account, refunds included."""
        return self._account.credits

    @property
    def connections(self) -> int:
        """How many connections to it are open, over all origins."""
        return self._account.connections

    @property
    def most_at_once(self) -> int:
        """The most requests that it ever had in hand at one moment, over all origins."""
        return self._account.most_at_once

    @property
    def webhook_origin(self) -> str | None:
        """Where webhooks are delivered; may be set at any time, as when the receiver's port is known.

        Raises:
            ValueError: On setting anything but the scheme, host and port of an address on loopback.
        """
        return self._webhooks.origin

    @webhook_origin.setter
    def webhook_origin(self, url: str | None) -> None:
        self._webhooks.origin = url

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """What v2's webhooks are signed with."""
        return self._webhooks.secrets

    @property
    def deliveries(self) -> list[Delivery]:
        """Every attempt to deliver a webhook, in order."""
        return self._webhooks.deliveries

    def script(self, operation: str, *faults: Fault) -> None:
        """Queue faults: each coming request of this operation consumes one, in order.

        ``operation`` is "submit", "poll", "cancel", "delete", "catalogue", "estimate", "usage", "upload" (the grant
        and the PUT), "download" or "any".

        Raises:
            ValueError: If it is none of these.
        """
        if operation not in OPERATIONS:
            msg = f"operation must be one of {', '.join(sorted(OPERATIONS))}, not {operation!r}"
            raise ValueError(msg)
        self._account.script(operation, *faults)

    def plan(self, *plans: Plan) -> None:
        """Queue plans: each accepted generation consumes one, in order."""
        self._account.plans.extend(plans)

    async def __aenter__(self) -> Self:
        """Start the server in this loop."""
        closing, connections = asyncio.Event(), self._connections
        async with AsyncExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server((HOST, port))) for port in self._ports]
            self._urls = tuple(f"http://{HOST}:{one.getsockname()[1]}" for one in sockets)
            storage = Storage(self._account, self.media_url)
            proxy = Proxy(self._account, key=self.proxy_key, speech_path=self._speech_path, media=self.media_url)
            await stack.enter_async_context(self._webhooks.open())
            platform = Platform(
                self._account,
                storage,
                self._webhooks,
                key_id=self.key_id,
                key_secret=self.key_secret,
                url=self.platform_url,
            )
            dialects: tuple[Dialect, ...] = (proxy, platform, storage)
            for dialect, listening in zip(dialects, sockets, strict=True):
                origin = Origin(dialect, self._account, self.received, connections, closing)
                runner = web.ServerRunner(origin, shutdown_timeout=_CLOSING_SECONDS)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.SockSite(runner, listening, backlog=1024).start()
            # Last in, first out: delays end before the servers wait for their requests.
            stack.callback(closing.set)
            self._async_stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it; delays and deliveries end, and connections that are still open are closed."""
        await self._async_stack.aclose()

    def __enter__(self) -> Self:
        """Start the server in a thread of its own."""
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._thread_stack = stack.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it, and end the thread."""
        self._thread_stack.close()
