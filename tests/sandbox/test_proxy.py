"""The reseller's proxy: the gateway's checks, every endpoint, every refusal."""

from __future__ import annotations

import io
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from higgsfield_async.sandbox import Plan

AUDIO = "https://example.com/voice.wav"
SPEECH = {"avatar_preset_id": "7f1xkmlzvtCNncSqUYMTbU", "prompt": "good", "width": 704, "height": 828, "image": ["x"]}
SPEAK = {"voice_id": "5PQMG2LcT1x9S85IjUxoPI", "sound_id": "4OXkXvdEUtXpWiluhfIr5w", "text": "Yes"}
AD = {"product_placement_sample_id": "7f1xkmlzvtCNncSqUYMTbU", "image": ["x"], "size": "1024x1024"}
DONE = Plan(queued=0, running=0)


def refusal(name: str) -> bytes:
    return Path(__file__).with_name("recorded").joinpath(f"proxy_error_428_{name}.json").read_bytes().rstrip()


@pytest.mark.parametrize(
    ("authorization", "name"),
    [(None, "missing_key"), ("Bearer sandbox", "bad_key_format"), ("Bearer hk-wrong", "unknown_key")],
)
@pytest.mark.parametrize("path", ["/higgsfield/feed/x", "/higgsfield/tpl/voices", "/higgsfield/nothing"])
async def test_keys_are_checked_on_every_path(frozen: Any, path: str, authorization: str | None, name: str) -> None:
    frozen.keys["proxy"] = {"Authorization": authorization} if authorization else {}
    status, headers, body = await frozen.raw("proxy", "GET", path)
    assert status == 428
    assert body == refusal(name)
    assert "Content-Type" not in headers
    assert "Content-Length" not in headers
    assert headers["Transfer-Encoding"] == "chunked"
    assert "Server" not in headers


async def test_only_the_segment_between_two_dashes_is_the_key(frozen: Any) -> None:
    frozen.keys["proxy"] = {"Authorization": "Whatever x-sandbox-y"}
    assert (await frozen.json("proxy", "GET", "/higgsfield/tpl/sounds"))[0] == 200


async def test_without_points_even_a_poll_is_refused(open_sandbox: Any, generate: Any) -> None:
    caller = await open_sandbox(points=5)
    status, answer = await caller.json("proxy", "POST", "/higgsfield/generate", generate)
    assert status == 200
    assert caller.sandbox.points == 0
    status, _, body = await caller.raw("proxy", "GET", f"/higgsfield/feed/{answer['id']}")
    assert status == 428
    assert body == refusal("insufficient_points")


@pytest.mark.parametrize(
    ("path", "body", "points"),
    [
        ("/higgsfield/generate", {"model": "lite"}, 5),
        ("/higgsfield/generate", {"model": "turbo"}, 7),
        ("/higgsfield/generate", {"model": "standard"}, 10),
        ("/higgsfield/ads", AD, 13),
        ("/higgsfield/speak", {**SPEECH, "audio": AUDIO}, 50),
        ("/higgsfield/speak", {**SPEECH, "speak": SPEAK}, 50),
    ],
)
async def test_each_generation_costs_its_points(
    frozen: Any, generate: Any, path: str, body: dict[str, Any], points: int
) -> None:
    body = generate | body if path.endswith("generate") else body
    status, answer = await frozen.json("proxy", "POST", path, body)
    assert status == 200
    generation = frozen.sandbox.generations[answer["id"]]
    assert (generation.surface, generation.charged, generation.request) == ("proxy", Decimal(points), body)
    assert frozen.sandbox.points == 100_000 - points
    status, feed = await frozen.json("proxy", "GET", f"/higgsfield/feed/{answer['id']}")
    assert status == 200
    assert feed["jobs"][0]["status"] == "queued"
    assert feed["jobs"][0]["result"] is None
    assert feed["jobs"][0]["results"] is None
    assert feed["jobs"][0]["meta"] == {}


async def test_a_completed_feed_has_the_documented_shape(frozen: Any, generate: Any) -> None:
    frozen.sandbox.plan(DONE)
    generate |= {"width": 736, "height": 1312, "seed": 7, "image": ["https://example.com/a", "https://example.com/b"]}
    _, answer = await frozen.json("proxy", "POST", "/higgsfield/generate", generate)
    _, feed = await frozen.json("proxy", "GET", f"/higgsfield/feed/{answer['id']}")
    documented = json.loads(Path(__file__).with_name("recorded").joinpath("proxy_feed_completed.json").read_text())
    assert list(feed) == list(documented)
    assert set(feed["params"]) == set(documented["params"])
    assert list(feed["jobs"][0]) == list(documented["jobs"][0])
    assert isinstance(feed["created_at"], float)
    assert feed["params"]["motion"]["name"] == "Face Punch"
    assert feed["params"]["input_image"]["type"] == feed["params"]["input_image_end"]["type"] == "media_input"
    assert (feed["params"]["seed"], feed["params"]["width"], feed["params"]["height"]) == (7, 736, 1312)
    (job,) = feed["jobs"]
    assert uuid.UUID(job["id"]) != uuid.UUID(feed["id"])
    assert job["meta"] == {"duration": 5}
    assert job["result"] == job["results"]["raw"]
    assert job["results"]["raw"]["url"].startswith(frozen.sandbox.media_url)
    assert job["results"]["min"]["url"].endswith("_min.mp4")


async def test_a_failed_feed_says_why_and_keeps_the_points(frozen: Any, generate: Any) -> None:
    frozen.sandbox.plan(Plan(end="failed", reason="too dark", queued=0, running=0))
    _, answer = await frozen.json("proxy", "POST", "/higgsfield/generate", generate)
    _, feed = await frozen.json("proxy", "GET", f"/higgsfield/feed/{answer['id']}")
    assert feed["jobs"][0] | {"id": ""} == {
        "id": "",
        "status": "failed",
        "result": None,
        "results": None,
        "board_ids": [],
        "meta": {"fail_reason": "too dark"},
    }
    assert not frozen.sandbox.generations[answer["id"]].refunded


@pytest.mark.parametrize(
    ("change", "loc", "kind"),
    [
        ({"prompt": None}, ["body", "prompt"], "string_type"),
        ({"model": "premium"}, ["body", "model"], "literal_error"),
        ({"seed": 0}, ["body", "seed"], "greater_than_equal"),
        ({"seed": 1_000_001}, ["body", "seed"], "less_than_equal"),
        ({"seed": 1.5}, ["body", "seed"], "int_from_float"),
        ({"seed": "x"}, ["body", "seed"], "int_parsing"),
        ({"seed": []}, ["body", "seed"], "int_type"),
        ({"image": []}, ["body", "image"], "too_short"),
        ({"image": ["a", "b", "c"]}, ["body", "image"], "too_long"),
        ({"image": "a"}, ["body", "image"], "list_type"),
        ({"image": [""]}, ["body", "image", 0], "string_too_short"),
        ({"enhance_prompt": "maybe"}, ["body", "enhance_prompt"], "bool_parsing"),
        ({"enhance_prompt": []}, ["body", "enhance_prompt"], "bool_type"),
        ({"width": 0}, ["body", "width"], "greater_than_equal"),
    ],
)
async def test_generate_is_validated(frozen: Any, generate: Any, change: Any, loc: Any, kind: str) -> None:
    status, answer = await frozen.json("proxy", "POST", "/higgsfield/generate", generate | change)
    assert status == 422
    assert [(error["loc"], error["type"]) for error in answer["detail"]] == [(loc, kind)]
    assert frozen.sandbox.generations == {}


@pytest.mark.parametrize(
    ("path", "body", "loc", "kind"),
    [
        ("/higgsfield/generate", {}, ["body", "model"], "missing"),
        ("/higgsfield/generate", [], ["body"], "model_attributes_type"),
        ("/higgsfield/ads", {**AD, "size": "big"}, ["body", "size"], "string_pattern_mismatch"),
        ("/higgsfield/ads", {"image": ["x"]}, ["body", "product_placement_sample_id"], "missing"),
        ("/higgsfield/speak", SPEECH, ["body"], "value_error"),
        ("/higgsfield/speak", {**SPEECH, "audio": AUDIO, "speak": SPEAK}, ["body"], "value_error"),
        ("/higgsfield/speak", {**SPEECH, "audio": "base64"}, ["body", "audio"], "url_parsing"),
        ("/higgsfield/speak", {**SPEECH, "speak": {"text": "x"}}, ["body", "speak", "voice_id"], "missing"),
    ],
)
async def test_other_bodies_are_validated(frozen: Any, path: str, body: Any, loc: Any, kind: str) -> None:
    status, answer = await frozen.json("proxy", "POST", path, body)
    assert status == 422
    assert (answer["detail"][0]["loc"], answer["detail"][0]["type"]) == (loc, kind)


async def test_a_body_of_another_type_is_read_as_nothing(frozen: Any) -> None:
    status, _, body = await frozen.raw(
        "proxy", "POST", "/higgsfield/generate", data=b"{", headers={"Content-Type": "text/plain"}
    )
    assert status == 422
    assert b'"input":{}' in body


@pytest.mark.parametrize("data", [b"{", b'"text"', b"\xff"])
async def test_malformed_json_gets_a_page_even_without_a_key(frozen: Any, data: bytes) -> None:
    frozen.keys["proxy"] = {}
    status, headers, body = await frozen.raw(
        "proxy", "POST", "/higgsfield/generate", data=data, headers={"Content-Type": "application/json"}
    )
    assert status == 400
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<pre>SyntaxError:" in body


async def test_a_body_beyond_10_mib_gets_a_page(frozen: Any) -> None:
    status, headers, body = await frozen.raw(
        "proxy",
        "POST",
        "/higgsfield/generate",
        data=io.BytesIO(b"[" + b" " * (10 * 1024 * 1024)),
        headers={"Content-Type": "application/json"},
    )
    assert status == 413
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"PayloadTooLargeError: request entity too large" in body
    assert frozen.sandbox.received[-1].status == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/higgsfield/feed/x"),
        ("POST", "/higgsfield/speech"),
        ("GET", "/higgsfield/generate"),
        ("GET", "/higgsfield/tpl/hats"),
    ],
)
async def test_other_paths_get_the_page_of_express(frozen: Any, method: str, path: str) -> None:
    status, headers, body = await frozen.raw("proxy", method, path)
    assert status == 404
    assert headers["Content-Security-Policy"] == "default-src 'none'"
    assert f"<pre>Cannot {method} {path}</pre>".encode() in body


async def test_the_speech_path_can_be_the_other_one(open_sandbox: Any) -> None:
    caller = await open_sandbox(speech_path="/higgsfield/speech")
    body = {**SPEECH, "audio": AUDIO}
    assert (await caller.json("proxy", "POST", "/higgsfield/speech", body))[0] == 200
    assert (await caller.raw("proxy", "POST", "/higgsfield/speak"))[0] == 404


async def test_a_feed_nobody_knows_is_not_found(frozen: Any) -> None:
    assert await frozen.json("proxy", "GET", "/higgsfield/feed/x") == (404, {"detail": "Not found"})
    _, other = await frozen.json("v2", "POST", "/higgsfield-ai/soul/standard", {"prompt": "x"})
    assert (await frozen.json("proxy", "GET", f"/higgsfield/feed/{other['request_id']}"))[0] == 404


async def test_motions_are_a_bare_list(frozen: Any) -> None:
    _, motions = await frozen.json("proxy", "GET", "/higgsfield/tpl/motions?size=3&search=")
    assert len(motions) == 3
    assert motions[0]["name"] == "Eyes In"
    _, found = await frozen.json("proxy", "GET", "/higgsfield/tpl/motions?search=PUNCH")
    assert [motion["name"] for motion in found] == ["Face Punch"]


@pytest.mark.parametrize(
    ("name", "size", "total"), [("avatar-presets", 30, 28), ("voices", 14, 92), ("sounds", 14, 11)]
)
async def test_the_other_lists_have_pages(frozen: Any, name: str, size: int, total: int) -> None:
    path, cursor, seen = f"/higgsfield/tpl/{name}?size={size}", 1, []
    while True:
        _, page = await frozen.json("proxy", "GET", f"{path}&cursor={cursor}")
        assert page["total"] == total
        assert page["cursor"] == cursor + 1
        if not page["items"]:
            break
        seen += page["items"]
        cursor = page["cursor"]
    assert len({item["id"] for item in seen}) == total


@pytest.mark.parametrize("query", ["size=x", "size=0", "cursor=-1"])
async def test_page_numbers_are_validated(frozen: Any, query: str) -> None:
    status, answer = await frozen.json("proxy", "GET", f"/higgsfield/tpl/voices?{query}")
    assert status == 422
    assert answer["detail"][0]["loc"][0] == "query"
