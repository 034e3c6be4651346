"""The Easel itself: a small real server, to try its transport on. It paints one stroke each time it is looked at."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

# A picture of one pixel.
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
STAGES = ("waiting", "painting", "varnishing", "ready")


@dataclass
class Easel:
    """The running service: what was ordered, and how often each order was looked at.

    Attributes:
        url: Where it is.
        token: What it lets in.
        orders: What was ordered, by ticket.
        stages: How far each is.
    """

    url: str = ""
    token: str = "t0ken"  # noqa: S105 (it guards nothing)
    orders: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    stages: dict[str, str] = field(default_factory=dict[str, str])

    async def order(self, request: web.Request) -> web.Response:
        self._check(request)
        order = await request.json()
        if not order.get("what"):
            return web.json_response({"error": "an order needs a “what”"}, status=422)
        ticket = f"t-{len(self.orders) + 1}"
        self.orders[ticket], self.stages[ticket] = order, STAGES[0]
        return web.json_response({"ticket": ticket, "stage": STAGES[0]}, status=201)

    async def look(self, request: web.Request) -> web.Response:
        ticket, stage = self._found(request)
        if stage in STAGES[:-1]:
            stage = self.stages[ticket] = STAGES[STAGES.index(stage) + 1]
        canvas = f"{self.url}/canvases/{ticket}.png" if stage == "ready" else None
        return web.json_response({"ticket": ticket, "stage": stage, "canvas": canvas})

    async def withdraw(self, request: web.Request) -> web.Response:
        ticket, stage = self._found(request)
        if stage != "waiting":
            return web.json_response({"error": "the brush is wet"}, status=409)
        self.stages[ticket] = "withdrawn"
        return web.Response(status=204)

    async def canvas(self, request: web.Request) -> web.Response:
        return web.Response(body=PICTURE, content_type="image/png")

    def _check(self, request: web.Request) -> None:
        if request.headers.get("X-Token") != self.token:
            raise web.HTTPUnauthorized(text='{"error": "who are you?"}', content_type="application/json")

    def _found(self, request: web.Request) -> tuple[str, str]:
        self._check(request)
        ticket = request.match_info["ticket"]
        if ticket not in self.stages:
            raise web.HTTPNotFound(text='{"error": "no such ticket"}', content_type="application/json")
        return ticket, self.stages[ticket]


@asynccontextmanager
async def serving() -> AsyncGenerator[Easel]:
    """The Easel, on loopback."""
    easel = Easel()
    application = web.Application()
    application.router.add_post("/orders", easel.order)
    application.router.add_get("/orders/{ticket}", easel.look)
    application.router.add_delete("/orders/{ticket}", easel.withdraw)
    application.router.add_get("/canvases/{name}", easel.canvas)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        easel.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield easel
    finally:
        await runner.cleanup()
