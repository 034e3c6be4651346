"""Which services there are, and what they list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec
from store import Row

from higgsfield_async import (
    Ad,
    ConfigurationError,
    Higgsfield,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    PollPolicy,
    Speech,
)
from higgsfield_async.sandbox import Sandbox

# Beside the keys: what is started is made by the workers of a cluster, whose accounts have the names of the services.
DATABASE = "HIGGSFIELD_DATABASE_URL"

Service: TypeAlias = Literal["proxy", "platform"]

REQUESTS: Mapping[Service, tuple[type[Any], ...]] = {
    "proxy": (ImageToVideo, Speech, Ad),
    "platform": (Keyframes, ModelRequest),
}
KEYS: Mapping[Service, tuple[str, ...]] = {
    "proxy": ("HIGGSFIELD_PROXY_KEY",),
    "platform": ("HF_KEY", "HF_API_KEY", "HF_API_SECRET", "HF_CREDENTIALS"),
}
ADDRESSES: Mapping[Service, str] = {"proxy": "HIGGSFIELD_PROXY_BASE_URL", "platform": "HIGGSFIELD_BASE_URL"}
CATALOGUES: Mapping[Service, Mapping[str, Callable[[Higgsfield], AsyncIterator[Any]]]] = {
    "proxy": {
        "motions": lambda hf: hf.motions(size=200),
        "avatar-presets": lambda hf: hf.avatar_presets(size=100),
        "voices": lambda hf: hf.voices(size=100),
        "sounds": lambda hf: hf.sounds(size=100),
    },
    "platform": {"motions": lambda hf: hf.motions()},
}

# Long enough that no page waits for a list twice, short enough that what is new appears on the same day.
CATALOGUE_SECONDS = 3600.0
# What a sandbox makes takes seconds, and its answers cost nothing.
SANDBOX_POLL = PollPolicy.fixed(0.3)


class Services:
    """The services that there are: those that the environment holds a key for, else a sandbox with both."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        named: list[Service] = [name for name in REQUESTS if any(environment.get(key) for key in KEYS[name])]
        self.embedded = not named
        self.names = named or list(REQUESTS)
        # What has the keys; and what submits, and looks at what was submitted: the same, or a cluster.
        self.clients: dict[Service, Higgsfield] = {}
        self.makers: dict[Service, Higgsfield] = {}
        self._environment = environment
        self._lists: dict[tuple[Service, str], tuple[float, list[Any]]] = {}
        self._listing = asyncio.Lock()

    def on_sandbox(self, name: Service) -> bool:
        """Whether nothing is to be paid there: what answers on this machine is a sandbox."""
        host = urlsplit(self._environment.get(ADDRESSES[name], "")).hostname
        return self.embedded or host in {"127.0.0.1", "localhost"}

    async def open(self, stack: AsyncExitStack) -> None:
        """Open a client for each, and the sandbox where there is no key."""
        sandbox = await stack.enter_async_context(Sandbox()) if self.embedded else None
        for name in self.names:
            if sandbox is not None:
                transport = sandbox.proxy() if name == "proxy" else sandbox.platform()
                client = Higgsfield(transport, poll=SANDBOX_POLL)
            elif self.on_sandbox(name):
                client = Higgsfield.from_env(service=name, poll=SANDBOX_POLL)
            else:
                client = Higgsfield.from_env(service=name)
            self.clients[name] = self.makers[name] = await stack.enter_async_context(client)
            if (database := self._environment.get(DATABASE)) and not self.embedded:
                from higgsfield_async.cluster import Cluster  # noqa: PLC0415  # it wants an extra that few have

                maker = Cluster(database, account=name, allow_private=self.on_sandbox(name))
                self.makers[name] = await stack.enter_async_context(maker)

    def client_of(self, name: Service) -> Callable[[], Awaitable[Higgsfield]]:
        """A dependency that gives the client of one, for its router."""

        async def client() -> Higgsfield:
            return self.makers[name]

        return client

    def lost(self, row: Row) -> bool:
        """Whether nobody here can find it again: it is of a sandbox that ended, or was made with another key."""
        if row.ref is None or row.ended:
            return False
        client = self.makers.get(cast("Service", row.service))
        if client is None:
            return True
        try:
            client.task(row.ref)
        except ConfigurationError:
            return True
        return False

    async def listed(self, name: Service, catalogue: str) -> list[Any]:
        """All of a catalogue, which is asked for once an hour."""
        async with self._listing:
            until, items = self._lists.get((name, catalogue), (0.0, []))
            if time.monotonic() > until:
                items = [msgspec.to_builtins(item) async for item in CATALOGUES[name][catalogue](self.clients[name])]
                self._lists[name, catalogue] = time.monotonic() + CATALOGUE_SECONDS, items
            return items
