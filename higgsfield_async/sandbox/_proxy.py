"""The reseller's proxy: a gateway of Express that checks keys and points, and the service behind it.

The gateway is known from its source (https://github.com/Dooy/chatgpt-web, ``service/src``), requests and answers from
https://open-hk.com/docs/en/lab/higgsfield-video.html. How the service behind it words a refusal is known to nobody
outside; the sandbox lets it answer as FastAPI services do.
"""

from __future__ import annotations

import html
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from ._catalogue import BODIES, proxy_lists
from ._exchange import Found, Received, Refused, Reply, Route, Surface, json_reply
from ._media import size_of
from ._state import Account, Generation, Order
from ._validation import Violation, pydantic_errors, violations

SPEECH_PATHS = frozenset({"/higgsfield/speak", "/higgsfield/speech"})
POINTS: Mapping[str, Decimal] = {
    "lite": Decimal(5),
    "turbo": Decimal(7),
    "standard": Decimal(10),
    "ads": Decimal(13),
    "speech": Decimal(50),
}
_DEFAULT_SIZES = {"motions": 30, "avatar-presets": 30, "voices": 14, "sounds": 14}
_FAIL_REASON = "Generation failed"

_EXPRESS = {"X-Powered-By": "Express", "Access-Control-Allow-Origin": "*"}
# The body is parsed before the CORS middleware runs, so its two errors have only the first of these headers.
_CORS = {
    **_EXPRESS,
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Methods": "*",
    "Access-Control-Max-Age": "3600",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Error</title>
</head>
<body>
<pre>{}</pre>
</body>
</html>
"""
_AT = "<br> &nbsp; &nbsp;at "
_BAD_JSON = _AT.join(
    (
        "SyntaxError: Expected property name or &#39;}&#39; in JSON at position 1",
        "JSON.parse (&lt;anonymous&gt;)",
        "parse (/srv/node_modules/body-parser/lib/types/json.js:92:19)",
        "/srv/node_modules/body-parser/lib/read.js:128:18",
    )
)
_TOO_LARGE = _AT.join(
    (
        "PayloadTooLargeError: request entity too large",
        "readStream (/srv/node_modules/raw-body/index.js:163:17)",
        "getRawBody (/srv/node_modules/raw-body/index.js:116:12)",
        "read (/srv/node_modules/body-parser/lib/read.js:79:3)",
    )
)


def _page(status: int, text: str, headers: Mapping[str, str]) -> Reply:
    return Reply(
        status=status,
        body=_PAGE.format(text).encode(),
        headers={
            **headers,
            "Content-Security-Policy": "default-src 'none'",
            "X-Content-Type-Options": "nosniff",
            "Content-Type": "text/html; charset=utf-8",
        },
    )


def _gateway_error(message: str) -> Reply:
    """Every refusal of the gateway is a 428, chunked and without a Content-Type."""
    body = {"error": {"message": message, "type": "openai_hk_error"}}
    return Reply(status=428, body=msgspec.json.encode(body), headers=_CORS, chunked=True)


def _reply(value: object, status: int = 200) -> Reply:
    return json_reply(value, status, _CORS)


class Proxy:
    """The dialect of ``https://api.openai-hk.com``."""

    surface: Surface = "proxy"
    body_limit = 10 * 1024 * 1024
    too_large = _page(413, _TOO_LARGE, _EXPRESS)
    # Node's default, which its answers announce.
    keep_alive: int | None = 5
    routes: tuple[Route, ...]

    def __init__(self, account: Account, *, key: str, speech_path: str, media: str) -> None:
        self._account = account
        self._key = key
        self._media = media
        self._lists = proxy_lists(media)
        self._motions = {motion["id"]: motion for motion in self._lists["motions"]}
        self.routes = (
            Route.to("POST /higgsfield/generate", "proxy", "submit", self._generate),
            Route.to("POST /higgsfield/ads", "proxy", "submit", self._ads),
            Route.to(f"POST {speech_path}", "proxy", "submit", self._speech),
            Route.to("GET /higgsfield/feed/{id}", "proxy", "poll", self._feed),
            Route.to("GET /higgsfield/tpl/{name}", "proxy", "catalogue", self._list),
        )

    def answer(self, received: Received, found: Found) -> Reply:
        """The gateway's checks in its order, then the service behind it."""
        try:
            body = self._parse(received)
            if received.path.startswith("/higgsfield/"):
                self._check(received.headers.get("Authorization", ""))
            if found is None:
                return self._no_route(received)
            route, arguments = found
            return route.handler(received, body, **arguments)
        except Refused as refused:
            return refused.reply

    def finish(self, received: Received, reply: Reply) -> Reply:
        """Nothing is added."""
        return reply

    def _no_route(self, received: Received) -> Reply:
        return _page(404, html.escape(f"Cannot {received.method} {received.path}"), _CORS)

    def _parse(self, received: Received) -> Any:
        # Only this type is read, whatever the body holds; of JSON only objects and lists are taken.
        if received.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            return {}
        body: Any
        try:
            body = received.json() if received.body else {}
        except msgspec.DecodeError:
            body = None
        if type(body) not in {dict, list}:
            raise Refused(_page(400, _BAD_JSON, _EXPRESS))
        return body

    def _check(self, authorization: str) -> None:
        # The gateway takes what stands between the first and the second "-" for the key, whatever the scheme.
        parts = authorization.split("-")
        if not authorization:
            message = "HK KEY ERROR, KEY缺失"
        elif len(parts) == 1:
            message = "HK KEY ERROR, KEY格式错误！"
        elif parts[1] != self._key.split("-")[1]:
            message = "HK key error , is no exit  ! HK key 不存在！"
        elif self._account.points <= 0:
            message = "Insufficient points, please recharge 积分不足，请充值"
        else:
            return
        raise Refused(_gateway_error(message))

    def _validated(self, path: str, body: Any) -> Any:
        if errors := pydantic_errors(violations(BODIES[path], body), "body"):
            raise Refused(_reply({"detail": errors}, 422))
        return body

    def _accept(self, kind: Any, name: str, body: dict[str, Any], charge: str) -> Reply:
        order = Order(
            surface="proxy",
            kind=kind,
            name=name,
            request=body,
            charge=POINTS[charge],
            outputs=1,
            size=size_of(body),
        )
        return _reply({"id": self._account.accept(order).id})

    def _generate(self, received: Received, body: Any) -> Reply:
        body = self._validated("/higgsfield/generate", body)
        return self._accept("video", "image2video", body, body["model"])

    def _ads(self, received: Received, body: Any) -> Reply:
        # The type of an ad's job set is not known; its params have the product_placement_sample of image2video.
        return self._accept("video", "image2video", self._validated("/higgsfield/ads", body), "ads")

    def _speech(self, received: Received, body: Any) -> Reply:
        # Nor is the type of a speech's.
        return self._accept("speech", "speak", self._validated("/higgsfield/speak", body), "speech")

    def _feed(self, received: Received, body: Any, id: str) -> Reply:
        generation = self._account.generations.get(id)
        if generation is None or generation.surface != "proxy":
            # How the proxy words this is not known.
            return _reply({"detail": "Not found"}, 404)
        links = generation.shows_links()
        return _reply(
            {
                "id": generation.id,
                "type": generation.name,
                "project_id": str(uuid.uuid5(uuid.NAMESPACE_URL, self._key)),
                "created_at": generation.created.timestamp(),
                "params": self._params(generation),
                "jobs": [
                    self._job(generation, job, status, links=links)
                    for job, status in zip(generation.jobs, generation.statuses(), strict=True)
                ],
            }
        )

    def _job(self, generation: Generation, job: str, status: str, *, links: bool) -> dict[str, Any]:
        result = results = None
        if status == "completed" and links:
            url = f"{self._media}/results/{generation.id}/{job}"
            result = {"type": "video", "url": f"{url}.mp4"}
            results = {"raw": result, "min": {"type": "video", "url": f"{url}_min.mp4"}}
        meta: dict[str, Any] = {}
        if status == "completed":
            meta = {"duration": 5}
        elif status == "failed":
            meta = {"fail_reason": generation.plan.reason or _FAIL_REASON}
        return {"id": job, "status": status, "result": result, "results": results, "board_ids": [], "meta": meta}

    def _params(self, generation: Generation) -> dict[str, Any]:
        """What was asked for, as the service keeps it: images uploaded again, the motion looked up."""
        body = dict(generation.request)
        inputs = [self._input(generation, index) for index in range(len(body.pop("image")))]
        width, height = generation.order.size
        motion = self._motions.get(body.get("motion_id", ""))
        return {
            "seed": 374487,
            "steps": 20,
            "guide_scale": 6,
            "frames": 81,
            "width": width,
            "height": height,
            "strength": 1,
            "enhance_prompt": True,
            **body,
            "input_image": inputs[0],
            "motion": motion and {"id": motion["id"], "url": motion["media"]["url"], "name": motion["name"]},
            "guide_end": 1,
            "is_chain": False,
            "chain_sample": None,
            "input_image_end": inputs[1] if len(inputs) > 1 else None,
            "product_placement_sample": body.get("product_placement_sample_id"),
        }

    def _input(self, generation: Generation, index: int) -> dict[str, str]:
        id = str(uuid.uuid5(uuid.UUID(generation.id), str(index)))
        return {"id": id, "url": f"{self._media}/templates/{id}.png", "type": "media_input"}

    def _list(self, received: Received, body: Any, name: str) -> Reply:
        if name not in self._lists:
            return self._no_route(received)
        search = received.query.get("search", "").lower()
        items = [item for item in self._lists[name] if search in item["name"].lower()]
        size, page = self._number(received, "size", _DEFAULT_SIZES[name]), self._number(received, "cursor", 1)
        if name == "motions":
            # A bare list, of which only the size can be asked for.
            return _reply(items[:size])
        # The documentation's examples show the next page's number even where the first page held everything.
        return _reply({"items": items[(page - 1) * size : page * size], "total": len(items), "cursor": page + 1})

    def _number(self, received: Received, name: str, default: int) -> int:
        text = received.query.get(name, "") or str(default)
        if not text.isdecimal() or int(text) < 1:
            error = Violation("integer_parsing", (name,), text)
            raise Refused(_reply({"detail": pydantic_errors([error], "query")}, 422))
        return int(text)
