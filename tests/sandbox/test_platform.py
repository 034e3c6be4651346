"""The platform: v1, v2 and what they share."""

from __future__ import annotations

import io
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from higgsfield_async.sandbox import Plan

RECORDED = Path(__file__).with_name("recorded")
IMAGE = "https://example.com/cat.png"
SOUL = "/higgsfield-ai/soul/standard"
DOP = "/higgsfield-ai/dop/turbo"
PROMPT = {"prompt": "a cat"}
DONE = Plan(queued=0, running=0)
RUNNING = Plan(queued=0, running=1e9)
REFERENCE = {"type": "image_url", "image_url": IMAGE}
V1: dict[str, Any] = {
    "/v1/text2image/keyframes": PROMPT,
    "/v1/text2image/soul": {**PROMPT, "width_and_height": "1152x2048"},
    "/v1/image2video/dop": {**PROMPT, "model": "dop-turbo", "input_images": [REFERENCE]},
    "/v1/speak/higgsfield": {
        **PROMPT,
        "input_image": REFERENCE,
        "input_audio": {"type": "audio_url", "audio_url": "https://example.com/a.wav"},
    },
}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())


def problems(answer: Any) -> list[tuple[list[Any], str]]:
    return [(error["loc"], error["type"]) for error in answer["detail"]]


# What the live service was recorded to say


@pytest.mark.parametrize(
    ("path", "body", "status", "name"),
    [
        ("/higgsfield-ai/dop/turbo", {}, 422, "error_422_missing_fields_dop"),
        (
            "/higgsfield-ai/dop/lite",
            {**PROMPT, "image_url": IMAGE, "motions": [{"__bad__": 1}]},
            422,
            "error_422_dop_motions_nested_loc",
        ),
        (
            "/higgsfield-ai/soul/cinema",
            {"aspect_ratio": "__bad__", "resolution": "__bad__", "batch_size": 99, "enhance_prompt": "x", "seed": -5},
            422,
            "error_422_soul_cinema_enums",
        ),
        (
            "/higgsfield-ai/soul/v2/standard",
            {
                "custom_reference_id": 123,
                "image_url": 123,
                "image_urls": "__bad__",
                "input_images": "__bad__",
                "reference_image_url": 123,
            },
            422,
            "error_422_soul_v2_uuid",
        ),
        ("/marketing-studio/image", {}, 400, "error_400_jsonschema_missing"),
        ("/marketing-studio/image", {"prompt": 123}, 400, "error_400_jsonschema_type"),
    ],
)
async def test_refusals_are_worded_as_recorded(frozen: Any, path: str, body: Any, status: int, name: str) -> None:
    assert await frozen.json("v2", "POST", path, body) == (status, recorded(name))
    assert await frozen.json("v2", "POST", f"/estimate{path}", body) == (status, recorded(name))


async def test_unknown_requests_are_not_found(frozen: Any) -> None:
    for method, path in [
        ("GET", "/requests/x/status"),
        ("POST", "/requests/x/cancel"),
        ("DELETE", "/requests/x"),
    ]:
        assert await frozen.json("v2", method, path) == (404, recorded("error_404_request_not_found"))


async def test_an_empty_account_is_refused(open_sandbox: Any) -> None:
    caller = await open_sandbox(credits=Decimal("0.04"))
    assert await caller.json("v2", "POST", SOUL, PROMPT) == (403, recorded("error_403_not_enough_credits"))
    assert caller.sandbox.generations == {}


async def test_the_estimate_is_free_and_in_strings(open_sandbox: Any) -> None:
    caller = await open_sandbox(credits=0)
    path = "/estimate/higgsfield-ai/soul/v2/standard"
    assert await caller.json("v2", "POST", path, PROMPT) == (200, recorded("v2_estimate_soul_v2"))
    status, answer = await caller.json("v2", "POST", "/estimate/bytedance/seedance-2.5/text-to-video", PROMPT)
    assert (status, answer["type"]) == (200, "description")
    assert caller.sandbox.generations == {}


# Keys


@pytest.mark.parametrize(
    ("surface", "method", "path"),
    [
        ("v2", "POST", SOUL),
        ("v2", "GET", "/requests/x/status"),
        ("v1", "POST", "/v1/text2image/keyframes"),
        ("v1", "GET", "/v1/motions"),
        ("v2", "GET", "/models"),
        ("v2", "POST", "/files/generate-upload-url"),
    ],
)
async def test_wrong_keys_are_refused(frozen: Any, surface: str, method: str, path: str) -> None:
    frozen.keys |= {
        "v1": {"hf-api-key": frozen.sandbox.key_id, "hf-secret": "wrong"},
        "v2": {"Authorization": f"Bearer {frozen.sandbox.key_id}:{frozen.sandbox.key_secret}"},
    }
    assert await frozen.json(surface, method, path) == (401, recorded("error_401_invalid_credentials"))
    frozen.keys |= {"v1": {}, "v2": {}}
    assert (await frozen.json(surface, method, path))[0] == 401


async def test_paid_requests_take_the_keys_of_their_own_surface(frozen: Any) -> None:
    assert (await frozen.json("v1", "POST", SOUL, PROMPT))[0] == 401
    assert (await frozen.json("v2", "POST", "/v1/text2image/keyframes", {"params": PROMPT}))[0] == 401
    _, answer = await frozen.json("v2", "POST", SOUL, PROMPT)
    assert (await frozen.json("v1", "GET", f"/requests/{answer['request_id']}/status"))[0] == 200


async def test_every_response_has_a_correlation_id(frozen: Any) -> None:
    seen = set()
    for method, path in [("GET", "/models"), ("GET", "/nothing"), ("POST", "/nothing")]:
        _, headers, _ = await frozen.raw("v2", method, path)
        seen.add(headers["X-Correlation-ID"])
    assert len(seen) == 3


async def test_unmapped_paths(frozen: Any) -> None:
    status, headers, body = await frozen.raw("v2", "GET", "/higgsfield-ai/soul/standard")
    assert (status, headers["Allow"], body) == (405, "POST", b'{"detail":"Method Not Allowed"}')
    assert (await frozen.raw("v2", "PUT", "/"))[1]["Allow"] == "GET"
    assert await frozen.json("v2", "POST", "/nobody/knows", {}) == (404, {"detail": "model_not_found"})


# v2


async def test_a_request_from_submit_to_result(frozen: Any) -> None:
    sandbox = frozen.sandbox
    sandbox.plan(DONE, RUNNING)
    status, answer = await frozen.json("v2", "POST", SOUL, {**PROMPT, "unknown": 1})
    address = f"{sandbox.platform_url}/requests/{answer['request_id']}"
    assert (status, answer) == (
        200,
        {
            "status": "queued",
            "request_id": answer["request_id"],
            "status_url": f"{address}/status",
            "cancel_url": f"{address}/cancel",
        },
    )
    _, done = await frozen.json("v2", "GET", f"/requests/{answer['request_id']}/status")
    assert done["status"] == "completed"
    assert [list(image) for image in done["images"]] == [["url"]]
    generation = sandbox.generations[answer["request_id"]]
    assert (generation.surface, generation.kind, generation.name) == ("v2", "image", SOUL[1:])
    assert generation.charged == Decimal("0.050") == 10_000 - sandbox.credits
    assert (generation.idempotency_key, generation.webhook, generation.refunded) == (None, None, False)
    _, answer = await frozen.json("v2", "POST", DOP, {**PROMPT, "image_url": IMAGE})
    _, running = await frozen.json("v2", "GET", f"/requests/{answer['request_id']}/status")
    assert running == answer | {"status": "in_progress"}


@pytest.mark.parametrize(
    ("path", "body", "keys"),
    [
        (SOUL, {**PROMPT, "batch_size": 4}, {"images"}),
        (DOP, {**PROMPT, "image_url": IMAGE}, {"video"}),
        ("/qwen/qwen-audio-3.0-tts-flash", {}, {"audio", "audios"}),
    ],
)
async def test_outputs_go_by_the_kind_of_model(frozen: Any, path: str, body: Any, keys: set[str]) -> None:
    frozen.sandbox.plan(DONE)
    _, answer = await frozen.json("v2", "POST", path, body)
    _, done = await frozen.json("v2", "GET", f"/requests/{answer['request_id']}/status")
    assert set(done) - set(answer) == keys
    if keys == {"images"}:
        assert len({image["url"] for image in done["images"]}) == 4


@pytest.mark.parametrize(
    ("plan", "expected", "refunded"),
    [
        (Plan(end="failed", queued=0, running=0), {"status": "failed", "error": "Generation failed"}, True),
        (Plan(end="failed", reason="x", queued=0, running=0), {"status": "failed", "error": "x"}, True),
        (Plan(end="nsfw", queued=0, running=0), {"status": "nsfw"}, True),
        (Plan(end="canceled", queued=0, running=0), {"status": "canceled"}, True),
        (Plan(end="archived", queued=0, running=0), {"status": "archived"}, False),
        (Plan(word="ip_detected", queued=0, running=9), {"status": "ip_detected"}, False),
        (Plan(ends=("nsfw", "archived"), outputs=2, queued=0, running=0), {"status": "archived"}, False),
        (Plan(outputs=0, queued=0, running=0), {"status": "completed"}, False),
    ],
)
async def test_plans(frozen: Any, plan: Plan, expected: Any, *, refunded: bool) -> None:
    frozen.sandbox.plan(plan)
    _, answer = await frozen.json("v2", "POST", DOP, {**PROMPT, "image_url": IMAGE})
    _, status = await frozen.json("v2", "GET", f"/requests/{answer['request_id']}/status")
    assert status == answer | expected
    assert frozen.sandbox.generations[answer["request_id"]].refunded is refunded
    assert frozen.sandbox.credits == (10_000 if refunded else Decimal("9998.5"))


async def test_jobs_can_end_differently(frozen: Any) -> None:
    frozen.sandbox.plan(Plan(ends=("completed", "nsfw"), queued=0, running=0))
    _, answer = await frozen.json("v2", "POST", SOUL, {**PROMPT, "batch_size": 4})
    _, done = await frozen.json("v2", "GET", f"/requests/{answer['request_id']}/status")
    assert (done["status"], len(done["images"])) == ("completed", 1)
    assert not frozen.sandbox.generations[answer["request_id"]].refunded


async def test_first_looks_may_show_no_link(frozen: Any) -> None:
    frozen.sandbox.plan(Plan(queued=0, running=0, linkless=2))
    _, answer = await frozen.json("v2", "POST", SOUL, PROMPT)
    path = f"/requests/{answer['request_id']}/status"
    assert ["images" in (await frozen.json("v2", "GET", path))[1] for _ in range(3)] == [False, False, True]


async def test_only_what_is_queued_can_be_canceled(frozen: Any) -> None:
    _, queued = await frozen.json("v2", "POST", SOUL, PROMPT)
    frozen.sandbox.plan(RUNNING)
    _, running = await frozen.json("v2", "POST", SOUL, PROMPT)
    status, headers, body = await frozen.raw("v2", "POST", f"/requests/{queued['request_id']}/cancel")
    assert (status, headers["Content-Length"], body) == (202, "0", b"")
    assert frozen.sandbox.generations[queued["request_id"]].status == "canceled"
    assert frozen.sandbox.credits == 10_000 - Decimal("0.050")
    for late in queued, running:
        status, answer = await frozen.json("v2", "POST", f"/requests/{late['request_id']}/cancel")
        assert status == 400
        assert isinstance(answer["detail"], str)


async def test_only_what_is_finished_can_be_deleted(frozen: Any) -> None:
    frozen.sandbox.plan(DONE)
    _, done = await frozen.json("v2", "POST", SOUL, PROMPT)
    _, queued = await frozen.json("v2", "POST", SOUL, PROMPT)
    _, before = await frozen.json("v2", "GET", f"/requests/{done['request_id']}/status")
    for _ in range(2):
        assert (await frozen.json("v2", "DELETE", f"/requests/{done['request_id']}"))[0] == 200
    assert (await frozen.raw("media", "GET", before["images"][0]["url"]))[0] == 404
    _, after = await frozen.json("v2", "GET", f"/requests/{done['request_id']}/status")
    assert "images" not in after
    assert (await frozen.json("v2", "DELETE", f"/requests/{queued['request_id']}"))[0] == 400


async def test_an_idempotency_key_recovers_the_request(frozen: Any) -> None:
    async def submit(body: bytes, path: str = SOUL, **headers: str) -> tuple[int, Any]:
        headers = {"Idempotency-Key": "k-1", "Content-Type": "application/json"} | headers
        status, answer = await frozen.json("v2", "POST", path, data=body, headers=headers)
        return status, answer

    assert (await submit(b'{"prompt": 1}'))[0] == 422
    first = await submit(b'{"prompt":"x","seed":1}')
    assert first[0] == 200
    assert await submit(b'{ "seed": 1, "prompt": "x" }') == first
    assert len(frozen.sandbox.generations) == 1
    assert frozen.sandbox.generations[first[1]["request_id"]].idempotency_key == "k-1"
    assert frozen.sandbox.credits == 10_000 - Decimal("0.050")
    for other in (
        await submit(b'{"prompt":"x","seed":2}'),
        await submit(b'{"prompt":"x","seed":1,"style_strength":1}'),
        await submit(b'{"prompt":"x","seed":1}', **{"Hf-Expires-After": "3600"}),
        await submit(b'{"prompt":"x","seed":1}', f"{SOUL}?hf_webhook=https://example.com/hook"),
        await submit(b'{"prompt":"x","seed":1}', "/higgsfield-ai/soul/v2/standard"),
    ):
        assert other[0] == 422
        assert isinstance(other[1]["detail"], str)
    assert len(frozen.sandbox.generations) == 1


@pytest.mark.parametrize("key", ["a b", "x" * 256, "é"])
async def test_idempotency_keys_are_visible_ascii(frozen: Any, key: str) -> None:
    status, answer = await frozen.json("v2", "POST", SOUL, PROMPT, headers={"Idempotency-Key": key})
    assert (status, answer["detail"][0]["loc"]) == (422, ["header", "Idempotency-Key"])


@pytest.mark.parametrize("seconds", ["3599", "604801", "day"])
async def test_retention_has_limits(frozen: Any, seconds: str) -> None:
    status, answer = await frozen.json("v2", "POST", SOUL, PROMPT, headers={"Hf-Expires-After": seconds})
    assert (status, answer["detail"][0]["loc"]) == (422, ["header", "Hf-Expires-After"])


async def test_what_expires_says_when(frozen: Any) -> None:
    frozen.sandbox.plan(DONE)
    _, answer = await frozen.json("v2", "POST", SOUL, PROMPT, headers={"Hf-Expires-After": "3600"})
    _, done = await frozen.json("v2", "GET", f"/requests/{answer['request_id']}/status")
    assert datetime.fromisoformat(done["expires_at"]) > frozen.sandbox.generations[answer["request_id"]].created


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://localhost/hook",
        "https://127.0.0.1/hook",
        "https://10.0.0.1/hook",
        "https://user:pw@example.com/hook",
        "https://hooks.internal/",
        "https://[/",
        "hook",
    ],
)
async def test_webhooks_must_be_public(frozen: Any, url: str) -> None:
    status, answer = await frozen.json("v2", "POST", SOUL, PROMPT, params={"hf_webhook": url})
    assert (status, answer["detail"][0]["loc"]) == (422, ["query", "hf_webhook"])


@pytest.mark.parametrize("url", ["https://example.com/hook?x=1", "https://8.8.8.8/hook"])
async def test_webhooks_are_kept(frozen: Any, url: str) -> None:
    _, answer = await frozen.json("v2", "POST", SOUL, PROMPT, params={"hf_webhook": url})
    assert frozen.sandbox.generations[answer["request_id"]].webhook == url


async def test_at_most_so_many_are_unfinished(open_sandbox: Any) -> None:
    caller = await open_sandbox(speed=0, max_concurrent=4)
    caller.sandbox.plan(DONE)
    ids = [(await caller.json("v2", "POST", SOUL, PROMPT))[1]["request_id"] for _ in range(5)]
    assert await caller.json("v2", "POST", SOUL, PROMPT) == (400, recorded("error_400_concurrency"))
    assert (await caller.raw("v2", "POST", f"/requests/{ids[-1]}/cancel"))[0] == 202
    assert (await caller.json("v1", "POST", "/v1/text2image/keyframes", {"params": PROMPT}))[0] == 200


async def test_at_most_so_many_results_are_queued(open_sandbox: Any) -> None:
    caller = await open_sandbox(speed=0, max_queued=5)
    assert (await caller.json("v2", "POST", SOUL, {**PROMPT, "batch_size": 4}))[0] == 200
    status, headers, body = await caller.raw("v2", "POST", SOUL, json={**PROMPT, "batch_size": 4})
    assert (status, headers["Retry-After"]) == (429, "1")
    assert json.loads(body) | {"detail": ""} == {"code": "account_queue_full", "limit": 5, "detail": ""}
    assert (await caller.json("v2", "POST", SOUL, PROMPT))[0] == 200


@pytest.mark.parametrize(
    ("model", "change", "problem"),
    [
        ("kling-video/v2.5-turbo/pro/text-to-video", {"duration": 7}, (["body", "duration"], "literal_error")),
        ("kling-video/v2.5-turbo/pro/text-to-video", {"cfg_scale": 2}, (["body", "cfg_scale"], "less_than_equal")),
        ("kling-video/v2.5-turbo/pro/text-to-video", {"cfg_scale": "x"}, (["body", "cfg_scale"], "float_parsing")),
        ("higgsfield-ai/dop/lite", {"image_url": 1}, (["body", "image_url"], "url_type")),
        ("higgsfield-ai/dop/lite", {"image_url": "cat.png"}, (["body", "image_url"], "url_parsing")),
        ("higgsfield-ai/dop/lite", {"image_url": "http://"}, (["body", "image_url"], "url_parsing")),
        ("higgsfield-ai/dop/lite", {"image_url": "http://["}, (["body", "image_url"], "url_parsing")),
        ("higgsfield-ai/dop/lite", {"image_url": "http://x/" + "x" * 2083}, (["body", "image_url"], "string_too_long")),
        ("higgsfield-ai/soul/standard", {"style_id": ""}, (["body", "style_id"], "uuid_parsing")),
        ("higgsfield-ai/soul/standard", {"style_id": None}, (["body", "style_id"], "uuid_type")),
    ],
)
async def test_each_model_has_its_own_rules(frozen: Any, model: str, change: Any, problem: Any) -> None:
    body = {**PROMPT, "image_url": IMAGE} | change
    status, answer = await frozen.json("v2", "POST", f"/{model}", body)
    assert status == 422
    assert problems(answer) == [problem]


async def test_numbers_in_strings_are_read_and_kept_as_sent(frozen: Any) -> None:
    status, _ = await frozen.json("v2", "POST", "/pixverse/v6/text-to-video", {**PROMPT, "duration": "3", "seed": None})
    assert status == 422
    status, answer = await frozen.json("v2", "POST", "/pixverse/v6/text-to-video", {**PROMPT, "duration": "3"})
    assert status == 200
    assert frozen.sandbox.generations[answer["request_id"]].request["duration"] == "3"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({**PROMPT, "quality": "best"}, "quality: 'best' is not one of ['low', 'medium', 'high']"),
        ({**PROMPT, "quality": 1}, "quality: 1 is not of type 'string'"),
        ({**PROMPT, "enhance_prompt": "true"}, "enhance_prompt: 'true' is not of type 'boolean'"),
        ({**PROMPT, "image_urls": [1]}, "image_urls.0: 1 is not of type 'string'"),
        ([], ": [] is not of type 'object'"),
    ],
)
async def test_marketing_studio_words_its_errors_differently(frozen: Any, body: Any, detail: str) -> None:
    assert await frozen.json("v2", "POST", "/marketing-studio/image", body) == (400, {"detail": detail})
    assert (await frozen.json("v2", "POST", "/marketing-studio/image", {**PROMPT, "enhance_prompt": True}))[0] == 200


@pytest.mark.parametrize(
    ("data", "content_type", "problem"),
    [
        (b"", "application/json", (["body"], "missing")),
        (b"{", "application/json", (["body", 0], "json_invalid")),
        (b"[]", "application/json", (["body"], "model_attributes_type")),
        (b"{}", "text/plain", (["body"], "model_attributes_type")),
    ],
)
async def test_bodies_must_be_json_objects(frozen: Any, data: bytes, content_type: str, problem: Any) -> None:
    status, answer = await frozen.json("v2", "POST", SOUL, data=data, headers={"Content-Type": content_type})
    assert (status, problems(answer)) == (422, [problem])


async def test_bodies_have_a_limit(frozen: Any) -> None:
    status, answer = await frozen.json("v2", "POST", SOUL, data=io.BytesIO(b" " * (32 * 1024 * 1024 + 1)))
    assert (status, answer) == (413, {"detail": "Request Entity Too Large"})


async def test_the_catalogue(frozen: Any) -> None:
    _, answer = await frozen.json("v2", "GET", "/models")
    slugs = {item["slug"]: item for item in answer["items"]}
    assert len(slugs) == 84
    assert "higgsfield-ai/soul/cinema" not in slugs
    assert not any("dop" in slug for slug in slugs)
    item = slugs["kling-video/v2.5-turbo/pro/text-to-video"]
    assert (item["output_type"], item["operation_type"]) == ("video", "text-to-video")
    assert item["input_schema"]["required"] == ["prompt"]


# v1


@pytest.mark.parametrize(("path", "params"), V1.items())
async def test_a_job_set_from_submit_to_result(frozen: Any, path: str, params: Any) -> None:
    frozen.sandbox.plan(DONE)
    body = {"params": {**params, "seed": None}, "webhook": {"url": "https://example.com/hook", "secret": "s"}}
    status, created = await frozen.json("v1", "POST", path, body)
    assert status == 200
    (job,) = created["jobs"]
    assert (job["status"], job["results"]) == ("queued", None)
    assert datetime.fromisoformat(created["created_at"]).tzinfo is not None
    _, done = await frozen.json("v1", "GET", f"/v1/job-sets/{created['id']}")
    assert list(done) == ["id", "type", "created_at", "jobs"]
    assert list(done["jobs"][0]) == ["id", "job_set_type", "status", "results"]
    results = done["jobs"][0]["results"]
    assert set(results) == {"min", "raw"}
    assert results["raw"]["type"] == ("image" if "text2image" in path else "video")
    _, seen = await frozen.json("v2", "GET", f"/requests/{created['id']}/status")
    assert seen["status"] == "completed"
    assert results["raw"] | {"type": ""} == {"type": "", "url": (seen.get("images") or [seen.get("video")])[0]["url"]}
    generation = frozen.sandbox.generations[created["id"]]
    assert (generation.surface, generation.request, generation.webhook) == ("v1", body, "https://example.com/hook")


@pytest.mark.parametrize(
    ("path", "params", "jobs"),
    [
        ("/v1/text2image/keyframes", {"count": 3}, 3),
        ("/v1/text2image/keyframes", {"count": "2"}, 2),
        ("/v1/text2image/soul", {"batch_size": 4}, 4),
    ],
)
async def test_several_images_are_several_jobs(frozen: Any, path: str, params: Any, jobs: int) -> None:
    body = {"params": {**V1[path], **params}, "webhook": None}
    _, created = await frozen.json("v1", "POST", path, body)
    assert len({job["id"] for job in created["jobs"]}) == jobs
    assert frozen.sandbox.generations[created["id"]].charged == Decimal("0.05") * jobs


@pytest.mark.parametrize(
    ("path", "change", "problem"),
    [
        ("/v1/text2image/keyframes", {"prompt": 1}, (["prompt"], "string_type")),
        ("/v1/text2image/keyframes", {"aspect_ratio": "5:4"}, (["aspect_ratio"], "literal_error")),
        ("/v1/text2image/keyframes", {"quality": "1080p"}, (["quality"], "literal_error")),
        ("/v1/text2image/keyframes", {"count": 0}, (["count"], "greater_than_equal")),
        # No limit is documented; this one protects the sandbox.
        ("/v1/text2image/keyframes", {"count": 1_001}, (["count"], "less_than_equal")),
        ("/v1/text2image/keyframes", {"seed": 1_000_001}, (["seed"], "less_than_equal")),
        ("/v1/text2image/keyframes", {"image_references": [REFERENCE] * 9}, (["image_references"], "too_long")),
        (
            "/v1/text2image/keyframes",
            {"image_references": [{**REFERENCE, "image_url": ""}]},
            (["image_references", 0, "image_url"], "string_too_short"),
        ),
        (
            "/v1/text2image/keyframes",
            {"image_references": [{**REFERENCE, "type": "url"}]},
            (["image_references", 0, "type"], "literal_error"),
        ),
        ("/v1/text2image/soul", {"width_and_height": "1x1"}, (["width_and_height"], "literal_error")),
        ("/v1/text2image/soul", {"style_id": ""}, (["style_id"], "uuid_parsing")),
        ("/v1/text2image/soul", {"custom_reference_id": None}, (["custom_reference_id"], "uuid_type")),
        ("/v1/text2image/soul", {"batch_size": 2}, (["batch_size"], "literal_error")),
        ("/v1/image2video/dop", {"model": "dop"}, (["model"], "literal_error")),
        (
            "/v1/image2video/dop",
            {"motions": [{"id": "x", "strength": 2}]},
            (["motions", 0, "strength"], "less_than_equal"),
        ),
        ("/v1/speak/higgsfield", {"duration": 6}, (["duration"], "literal_error")),
        ("/v1/speak/higgsfield", {"input_audio": None}, (["input_audio"], "model_attributes_type")),
    ],
)
async def test_params_are_validated(frozen: Any, path: str, change: Any, problem: Any) -> None:
    status, answer = await frozen.json("v1", "POST", path, {"params": V1[path] | change})
    loc, kind = problem
    assert (status, problems(answer)) == (422, [(["body", "params", *loc], kind)])


async def test_params_are_needed(frozen: Any) -> None:
    status, answer = await frozen.json("v1", "POST", "/v1/text2image/keyframes", PROMPT)
    assert (status, problems(answer)) == (422, [(["body", "params"], "missing")])


async def test_v2_requests_are_no_job_sets(frozen: Any) -> None:
    _, answer = await frozen.json("v2", "POST", SOUL, PROMPT)
    assert (await frozen.json("v1", "GET", f"/v1/job-sets/{answer['request_id']}"))[0] == 404
    assert (await frozen.json("v1", "GET", "/v1/job-sets/x"))[0] == 404


@pytest.mark.parametrize("path", ["/v1/motions", "/v1/text2image/soul-styles", "/v1/text2image/soul-styles/v2"])
async def test_lists(frozen: Any, path: str) -> None:
    for surface in "v1", "v2":
        status, items = await frozen.json(surface, "GET", path)
        assert status == 200
        assert {"id", "name", "description", "preview_url"} <= set(items[0])
        assert len({item["id"] for item in items}) == len(items)


# The marketing studio's presets, and usage


async def test_the_presets_by_the_page(frozen: Any) -> None:
    _, first = await frozen.json("v2", "GET", "/marketing-studio/image/presets?size=30")
    _, second = await frozen.json("v2", "GET", f"/marketing-studio/image/presets?size=30&cursor={first['cursor']}")
    assert (len(first["items"]), len(second["items"]), second["cursor"]) == (30, 15, None)
    assert (await frozen.raw("media", "GET", first["items"][0]["preview_url"]))[0] == 200
    for query in ("size=0", "size=x", "cursor=x"):
        status, answer = await frozen.json("v2", "GET", f"/marketing-studio/image/presets?{query}")
        assert (status, problems(answer)) == (422, [(["query", "size"], "value_error")])


async def test_usage_is_what_was_charged_and_kept(frozen: Any) -> None:
    frozen.sandbox.plan(Plan(queued=0, running=0, end="nsfw"), Plan(queued=0, running=0, outputs=0), DONE)
    for _ in range(3):
        await frozen.json("v2", "POST", SOUL, {"prompt": "x"})
    video = {"model": "lite", "motion_id": "m", "prompt": "x", "image": ["https://a.b/c.png"]}
    assert (await frozen.json("proxy", "POST", "/higgsfield/generate", video))[0] == 200
    _, answer = await frozen.json("v2", "GET", "/models/usage?timeframe=day&start=2020-01-01&end=2999-01-01T00:00:00Z")
    (day,) = answer["time_series"]
    assert datetime.fromisoformat(day["bucket"]).tzinfo is not None
    (row,) = day["results"]
    assert (row["model"], row["quantity"], row["cost"]) == (SOUL.lstrip("/"), "1", "0.100")
    _, answer = await frozen.json("v2", "GET", "/models/usage?start=2999-01-01")
    assert answer == {"time_series": []}
    for query in ("timeframe=year", "start=soon"):
        assert (await frozen.json("v2", "GET", f"/models/usage?{query}"))[0] == 422
