"""Higgsfield's own platform: v1 (job sets), v2 (requests), and what they share.

Shapes and limits are those of https://docs.higgsfield.ai; errors are worded as the live service's were recorded.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ._agents import Agents
from ._catalogue import BODIES, MODELS, Model, marketing_presets, platform_lists
from ._characters import CREDITS as TRAINING, Characters
from ._exchange import Found, Received, Refused, Reply, Route, Surface, find, json_reply
from ._media import size_of
from ._state import ENDS, Account, Generation, Kind, Order, WebhookForm
from ._storage import Storage
from ._validation import Violation, jsonschema_error, pydantic_errors, violations
from ._webhooks import Webhooks

#: Credits for one result. Real prices differ by model and are not published as a list; these are of their order.
CREDITS: Mapping[Kind, Decimal] = {
    "image": Decimal("0.050"),
    "video": Decimal("1.500"),
    "speech": Decimal("2.000"),
    "audio": Decimal("0.500"),
    "character": TRAINING,
}
# 40 credits are $2.50, and amounts are rounded up to a tenth of a cent.
_DOLLARS_PER_CREDIT = Decimal("0.0625")
_ENOUGH = Decimal("0.001")

_V1_KINDS: Mapping[str, tuple[Kind, str]] = {
    "/v1/text2image/keyframes": ("image", "text2image_keyframes"),
    "/v1/text2image/soul": ("image", "text2image_soul"),
    "/v1/image2video/dop": ("video", "image2video"),
    "/v1/speak/higgsfield": ("speech", "speak"),
}
_VISIBLE_ASCII = re.compile(r"[!-~]{1,255}")
_SHORTEST_RETENTION, _LONGEST_RETENTION = 3_600, 604_800
_MOST_SECONDS = 15.0
_NEVER = datetime.max.replace(tzinfo=UTC)


def _detail(status: int, detail: object, headers: Mapping[str, str] | None = None) -> Reply:
    return json_reply({"detail": detail}, status, headers)


def _invalid(place: str, name: str, value: object, reason: str) -> Refused:
    error: dict[str, Any] = {
        "type": "value_error",
        "loc": [place, name],
        "msg": f"Value error, {reason}",
        "input": value,
        "ctx": {"error": {}},
    }
    return Refused(_detail(422, [error]))


def _is_public(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname or ""
    try:
        public = ipaddress.ip_address(host).is_global
    except ValueError:
        public = "." in host and not host.endswith((".localhost", ".local", ".internal"))
    return public and parts.scheme == "https" and "@" not in parts.netloc


class Platform:
    """The dialects of ``https://api.higgsfield.ai`` and ``https://platform.higgsfield.ai``."""

    surface: Surface = "platform"
    # No limit is documented; this one protects the sandbox.
    body_limit = 32 * 1024 * 1024
    too_large = _detail(413, "Request Entity Too Large")
    keep_alive: int | None = None
    routes: tuple[Route, ...]

    def __init__(
        self, account: Account, storage: Storage, webhooks: Webhooks, *, key_id: str, key_secret: str, url: str
    ) -> None:
        self._account = account
        self._storage = storage
        self._webhooks = webhooks
        self._credentials = (key_id, key_secret)
        self._url = url
        self._media = storage.url
        self._lists = platform_lists(storage.url)
        self._marketing = marketing_presets(storage.url)
        self.routes = (
            *(Route.to(f"POST {path}", "v1", "submit", self._submit_v1) for path in _V1_KINDS),
            *(Route.to(f"GET {path}", "v1", "catalogue", self._list) for path in self._lists),
            *Characters(account, self._body, self._accept).routes,
            *Agents(account, storage, self._body).routes,
            Route.to("GET /v1/job-sets/{id}", "v1", "poll", self._job_set),
            Route.to("GET /requests/{id}/status", "platform", "poll", self._status),
            Route.to("POST /requests/{id}/cancel", "platform", "cancel", self._cancel),
            Route.to("DELETE /requests/{id}", "platform", "delete", self._delete),
            Route.to("POST /files/generate-upload-url", "platform", "upload", self._grant_upload),
            Route.to("GET /models", "platform", "catalogue", self._models),
            Route.to("GET /models/usage", "platform", "usage", self._usage),
            Route.to("GET /marketing-studio/image/presets", "platform", "catalogue", self._presets),
            Route.to("POST /estimate/{model_id:path}", "v2", "estimate", self._estimate),
            Route.to("POST /{model_id:path}", "v2", "submit", self._submit_v2),
        )

    def answer(self, received: Received, found: Found) -> Reply:
        """The answer to a request of any of the dialects."""
        if found is None:
            # Every path is a model's for a POST, so that what is not mapped is a wrong method.
            allowed = "POST" if find(self.routes, "POST", received.path) else "GET"
            return _detail(405, "Method Not Allowed", {"Allow": allowed})
        route, arguments = found
        try:
            self._authenticate(received, route)
            return route.handler(received, **arguments)
        except Refused as refused:
            return refused.reply

    def finish(self, received: Received, reply: Reply) -> Reply:
        """Every response carries a number to quote to the service's support."""
        return msgspec.structs.replace(reply, headers={"X-Correlation-ID": str(uuid.uuid4()), **reply.headers})

    def _authenticate(self, received: Received, route: Route) -> None:
        headers = received.headers
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        forms = {
            "v1": (headers.get("hf-api-key", ""), headers.get("hf-secret", "")),
            "v2": tuple(key.split(":", 1)) if scheme == "Key" else (),
        }
        # Lists, and what v1 and v2 share, take either form; a paid request takes that of its own surface.
        wanted = [route.surface] if route.method == "POST" and route.surface in forms else list(forms)
        if self._credentials not in [forms[form] for form in wanted]:
            raise Refused(_detail(401, "Invalid credentials"))

    def _body(self, received: Received) -> Any:
        if not received.body:
            raise Refused(_detail(422, pydantic_errors([Violation("missing", (), None)], "body")))
        if "json" not in received.headers.get("Content-Type", ""):
            # FastAPI hands on the text as it is, which is no object.
            return received.body.decode(errors="replace")
        try:
            return received.json()
        except msgspec.DecodeError as error:
            facts = {"loc": ["body", 0], "msg": "JSON decode error", "ctx": {"error": str(error)}}
            raise Refused(_detail(422, [{"type": "json_invalid", **facts, "input": None}])) from error

    def _accept(self, order: Order) -> Generation:
        account = self._account
        if account.credits < order.charge:
            raise Refused(_detail(403, "not_enough_credits"))
        if (most := account.max_concurrent) is not None and len(account.unfinished()) >= most:
            raise Refused(_detail(400, f"Maximum number of concurrent requests ({most}) has been reached"))
        if (most := account.max_queued) is not None:
            queued = sum(len(one.jobs) for one in account.unfinished() if one.status == "queued")
            if queued + order.outputs > most:
                # The queue counts every result of a batch. The wording of its detail is not documented.
                full = {"code": "account_queue_full", "limit": most, "detail": "The account's queue is full"}
                raise Refused(json_reply(full, 429, {"Retry-After": "1"}))
        generation = account.accept(order)
        if order.webhook is not None:
            self._webhooks.follow(generation, self._report)
        return generation

    # v1

    def _submit_v1(self, received: Received) -> Reply:
        kind, name = _V1_KINDS[received.path]
        body = self._body(received)
        if errors := pydantic_errors(violations(BODIES[received.path], body), "body"):
            raise Refused(_detail(422, errors))
        params = body["params"]
        webhook: dict[str, str | None] = body.get("webhook") or {}
        schema = BODIES[received.path].properties["params"]
        filled = {field: rule.default for field, rule in schema.properties.items()} | params
        outputs = int(float(filled.get("count") or filled.get("batch_size") or 1))
        generation = self._accept(
            Order(
                surface="v1",
                kind=kind,
                name=name,
                request=body,
                charge=CREDITS[kind] * outputs,
                outputs=outputs,
                size=size_of(filled),
                seconds=float(params.get("duration", 5)),
                webhook=webhook.get("url"),
                webhook_secret=webhook.get("secret"),
            )
        )
        return json_reply(self._as_job_set(generation, ["queued"] * len(generation.jobs), links=False))

    def _job_set(self, received: Received, id: str) -> Reply:
        generation = self._generation(id)
        if generation.surface != "v1":
            raise Refused(_detail(404, "Not found"))
        return json_reply(self._as_job_set(generation, generation.statuses(), links=generation.shows_links()))

    def _as_job_set(self, generation: Generation, statuses: list[str], *, links: bool) -> dict[str, Any]:
        jobs: list[dict[str, Any]] = []
        for job, status in zip(generation.jobs, statuses, strict=True):
            results = None
            if status == "completed" and links:
                raw, small = (self._storage.result_url(generation, job, small=small) for small in (False, True))
                media = "image" if generation.kind == "image" else "video"
                results = {"min": {"type": media, "url": small}, "raw": {"type": media, "url": raw}}
            jobs.append({"id": job, "job_set_type": generation.name, "status": status, "results": results})
        created = generation.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"id": generation.id, "type": generation.name, "created_at": created, "jobs": jobs}

    def _list(self, received: Received) -> Reply:
        return json_reply(self._lists[received.path])

    # v2

    def _read(self, received: Received, model_id: str) -> tuple[Model, Any, Order]:
        """The model, the body as sent, and what it orders; refused as the model's own validator words it."""
        model = MODELS.get(model_id)
        if model is None:
            raise Refused(_detail(404, "model_not_found"))
        body = self._body(received)
        if model_id.startswith("marketing-studio/"):
            if error := jsonschema_error(model.schema, body):
                raise Refused(_detail(400, error))
        elif errors := pydantic_errors(violations(model.schema, body), "body"):
            raise Refused(_detail(422, errors))
        filled = {field: rule.default for field, rule in model.schema.properties.items()} | body
        outputs = int(float(filled.get("batch_size") or 1))
        order = Order(
            surface="v2",
            kind=model.output,
            name=model_id,
            request=body,
            charge=CREDITS[model.output] * outputs,
            outputs=outputs,
            size=size_of(filled, "1:1" if model.output == "image" else "16:9"),
            seconds=min(float(filled.get("duration") or 5), _MOST_SECONDS),
            idempotency_key=received.headers.get("Idempotency-Key"),
            webhook=self._webhook(received.query.get("hf_webhook")),
            expires_after=self._expires_after(received.headers.get("Hf-Expires-After")),
        )
        return model, body, order

    def _submit_v2(self, received: Received, model_id: str) -> Reply:
        _, body, order = self._read(received, model_id)
        key = order.idempotency_key
        if key is not None and not _VISIBLE_ASCII.fullmatch(key):
            raise _invalid("header", "Idempotency-Key", key, "1 to 255 visible ASCII characters are required")
        # Decoded objects compare without regard to the order of their keys; lists, null and what is left out count.
        content = (received.path, body, order.webhook, order.expires_after)
        if key in self._account.keys:
            earlier, generation = self._account.keys[key]
            if earlier != content:
                raise Refused(_detail(422, "Idempotency-Key was already used with a different request"))
        else:
            generation = self._accept(order)
            if key is not None:
                self._account.keys[key] = (content, generation)
        return json_reply(self._addresses(generation, "queued"))

    @staticmethod
    def _webhook(url: str | None) -> str | None:
        if url is None:
            return None
        if not _is_public(url):
            raise _invalid("query", "hf_webhook", url, "a public https address without credentials is required")
        return url

    @staticmethod
    def _expires_after(text: str | None) -> int | None:
        if text is None:
            return None
        if not text.isdecimal() or not _SHORTEST_RETENTION <= int(text) <= _LONGEST_RETENTION:
            raise _invalid("header", "Hf-Expires-After", text, "3600 to 604800 seconds are required")
        return int(text)

    def _estimate(self, received: Received, model_id: str) -> Reply:
        model, _, order = self._read(received, model_id)
        if model.described:
            text = f"{model.title} is billed by the second; see its page for prices."
            return json_reply({"type": "description", "pricing_description": text})
        dollars = (order.charge * _DOLLARS_PER_CREDIT).quantize(_ENOUGH, ROUND_UP)
        price = {"credits": f"{order.charge:.3f}", "usd": str(dollars)}
        return json_reply({"type": "estimate", **price, "discount": None})

    def _models(self, received: Received) -> Reply:
        items = [
            {
                "slug": model.id,
                "title": model.title,
                "output_type": model.output,
                "operation_type": model.id.rpartition("/")[2],
                "input_schema": model.input,
            }
            for model in MODELS.values()
            if model.listed
        ]
        return json_reply({"items": items})

    def _presets(self, received: Received) -> Reply:
        # The parameters are documented; what comes back is not, and is that of the proxy's lists here.
        query = received.query
        items = [item for item in self._marketing if query.get("search", "").lower() in item["name"].lower()]
        size, begin = query.get("size", "20"), query.get("cursor", "0")
        if not (size.isdecimal() and int(size) and begin.isdecimal()):
            raise _invalid("query", "size", size, "whole numbers are required")
        end = int(begin) + int(size)
        cursor = str(end) if end < len(items) else None
        return json_reply({"items": items[int(begin) : end], "total": len(items), "cursor": cursor})

    def _usage(self, received: Received) -> Reply:
        """What was charged and not given back, by day and model."""
        query = received.query
        if query.get("timeframe", "day") != "day":
            raise _invalid("query", "timeframe", query["timeframe"], "'day' is required")
        start, end = (self._day(query.get(name)) for name in ("start", "end"))
        used: dict[str, Counter[str]] = {}
        costs: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for one in self._account.generations.values():
            begun = one.created.strftime("%Y-%m-%dT00:00:00Z")
            if one.surface == "proxy" or one.refunded or not (start or one.created) <= one.created < (end or _NEVER):
                continue
            used.setdefault(begun, Counter())[one.name] += len(one.jobs)
            costs[begun, one.name] += one.charged
        # The fields are documented as far as their names go, and that numbers are strings.
        series = [
            {
                "bucket": day,
                "results": [
                    {
                        "model": name,
                        "unit": "output",
                        "quantity": str(count),
                        "unit_price": str(costs[day, name] / (count or 1)),
                        "cost": str(costs[day, name]),
                        "auth_method": "api_key",
                    }
                    for name, count in sorted(models.items())
                ],
            }
            for day, models in sorted(used.items())
        ]
        return json_reply({"time_series": series})

    @staticmethod
    def _day(text: str | None) -> datetime | None:
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise _invalid("query", "start", text, "a date or a time is required") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    # Shared

    def _generation(self, id: str) -> Generation:
        generation = self._account.generations.get(id)
        if generation is None or generation.surface == "proxy" or generation.kind == "character":
            raise Refused(_detail(404, "Not found"))
        return generation

    def _addresses(self, generation: Generation, status: str) -> dict[str, Any]:
        address = f"{self._url}/requests/{generation.id}"
        return {
            "status": status,
            "request_id": generation.id,
            "status_url": f"{address}/status",
            "cancel_url": f"{address}/cancel",
        }

    def _status(self, received: Received, id: str) -> Reply:
        generation = self._generation(id)
        status = generation.status
        answer = self._addresses(generation, status)
        links = status == "completed" and generation.shows_links()
        answer |= self._outcome(generation, status, generation.statuses(), links=links)
        if generation.finished:
            answer |= self._expiry(generation)
        return json_reply(answer)

    def _outcome(self, generation: Generation, status: str, statuses: list[str], *, links: bool) -> dict[str, Any]:
        """What an end has beside its word: why it failed, or the results."""
        if status == "failed":
            return {"error": generation.plan.reason or "Generation failed"}
        if status != "completed" or not links:
            return {}
        done = [job for job, word in zip(generation.jobs, statuses, strict=True) if word == "completed"]
        return self._outputs(generation.kind, [{"url": self._storage.result_url(generation, job)} for job in done])

    @staticmethod
    def _expiry(generation: Generation) -> dict[str, str]:
        seconds = generation.order.expires_after
        if seconds is None:
            return {}
        return {"expires_at": (generation.created + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _report(self, generation: Generation, status: str | None, form: WebhookForm) -> dict[str, Any]:
        """The body of a webhook, with the end or, as told to, another status."""
        statuses = generation.statuses() if status is None else [status] * len(generation.jobs)
        links = not generation.deleted
        if generation.surface == "v1":
            return self._as_job_set(generation, statuses, links=links)
        word = status or generation.status
        outcome = self._outcome(generation, word, statuses, links=links)
        if form == "flat":
            facts = self._addresses(generation, word)
            return (facts if word == "completed" else {key: facts[key] for key in ("status", "request_id")}) | outcome
        # The names of the envelope's fields are documented; what they hold where there is nothing to say is not.
        envelope = {"request_id": generation.id, "status": word, "error": outcome.pop("error", None)}
        return envelope | {"payload": outcome or None} | (self._expiry(generation) if word in ENDS else {})

    @staticmethod
    def _outputs(kind: Kind, media: list[dict[str, str]]) -> dict[str, Any]:
        if kind == "image":
            return {"images": media}
        if not media:
            return {}
        return {"audio": media[0], "audios": media} if kind == "audio" else {"video": media[0]}

    def _cancel(self, received: Received, id: str) -> Reply:
        if not self._account.cancel(self._generation(id)):
            raise Refused(_detail(400, "Request can no longer be canceled"))
        return Reply(status=202)

    def _delete(self, received: Received, id: str) -> Reply:
        generation = self._generation(id)
        if not generation.finished:
            raise Refused(_detail(400, "Request is not finished"))
        generation.deleted = True
        # The schema of this answer is named in the documentation and not shown.
        return json_reply({"request_id": id, "deleted": True})

    def _grant_upload(self, received: Received) -> Reply:
        body = self._body(received)
        if errors := pydantic_errors(violations(BODIES[received.path], body), "body"):
            raise Refused(_detail(422, errors))
        return json_reply(self._storage.grant(body["content_type"]))
