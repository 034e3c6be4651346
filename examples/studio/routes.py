"""The studio's own routes, beside the router's: the catalogues, uploads, and the list of what was started."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from recorder import MOST_BYTES, whole_body
from services import CATALOGUES, Service, Services
from store import Store

# Of the kinds that are nothing but pictures: an SVG may hold a script.
INLINE = re.compile(r"data:(image/(?:png|jpeg|webp|gif));base64,([A-Za-z0-9+/=]+)")


def service_routes(services: Services) -> APIRouter:
    """What the page asks of the services, and the router does not offer."""
    router = APIRouter()

    @router.get("/services")
    def offered() -> dict[str, Any]:
        return {name: {"sandbox": services.on_sandbox(name)} for name in services.names}

    @router.get("/catalogues/{service}/{name}")
    async def catalogue(service: Service, name: str) -> list[Any]:
        if service not in services.names or name not in CATALOGUES[service]:
            raise HTTPException(404)
        return await services.listed(service, name)

    @router.post("/platform/uploads", status_code=201)
    async def upload(request: Request) -> dict[str, str]:
        if "platform" not in services.clients:
            raise HTTPException(404)
        content = await whole_body(request.receive, MOST_BYTES)
        if content is None:
            raise HTTPException(413)
        content_type = request.headers.get("Content-Type")
        return {"url": (await services.clients["platform"].upload(content, content_type=content_type)).url}

    return router


def started_routes(store: Store, services: Services, in_flight: Counter[str]) -> APIRouter:
    """What was started: the list, and what the page says of it."""
    router = APIRouter(prefix="/started")

    @router.get("")
    async def started() -> list[Any]:
        rows = await store.rows()
        return [row.as_json(in_flight=row.key in in_flight, gone=services.lost(row)) for row in rows]

    @router.get("/{key}/body")
    async def body(key: str) -> Response:
        if (row := await store.row(key)) is None:
            raise HTTPException(404)
        return Response(row.body, media_type="application/json")

    @router.get("/{key}/picture")
    async def picture(key: str) -> Response:
        row = await store.row(key)
        found = row and first_picture(json.loads(row.body))
        if not found:
            raise HTTPException(404)
        content_type, content = found
        return Response(content, media_type=content_type, headers={"Cache-Control": "private, max-age=86400"})

    @router.put("/{key}", status_code=204)
    async def see(key: str, generation: dict[str, Any]) -> None:
        await store.see(key, generation)

    @router.delete("/{key}", status_code=204)
    async def hide(key: str) -> None:
        await store.hide(key)

    return router


def first_picture(body: dict[str, Any]) -> tuple[str, bytes] | None:
    """The type and the bytes of the first picture that stands in a request itself."""
    images: Any = body.get("images")
    found = INLINE.fullmatch(images[0]) if isinstance(images, list) and images and isinstance(images[0], str) else None
    return (found[1], base64.b64decode(found[2])) if found else None
