"""Characters and agents, as the sandbox's platform has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from higgsfield_async.sandbox import Plan

IMAGE = {"type": "image_url", "image_url": "https://example.com/cat.png"}
TRAINING = {"name": "Ann", "input_images": [IMAGE]}
REFERENCES = "/v1/custom-references"
SESSIONS = "/v1/agent/sessions"
TEXT = {"content": "Draw a lighthouse"}
LEGACY = "v1"


def problems(answer: Any) -> list[tuple[list[Any], str]]:
    return [(error["loc"], error["type"]) for error in answer["detail"]]


@pytest.mark.parametrize(
    ("body", "loc", "kind"),
    [
        ({"input_images": [IMAGE]}, ["body", "name"], "missing"),
        ({**TRAINING, "name": "a" * 101}, ["body", "name"], "string_too_long"),
        ({**TRAINING, "input_images": []}, ["body", "input_images"], "too_short"),
        ({**TRAINING, "input_images": [IMAGE] * 101}, ["body", "input_images"], "too_long"),
        (
            {**TRAINING, "input_images": [{**IMAGE, "image_url": "x"}]},
            ["body", "input_images", 0, "image_url"],
            "url_parsing",
        ),
        ({**TRAINING, "model_version": "v3"}, ["body", "model_version"], "literal_error"),
    ],
)
async def test_a_training_is_checked(frozen: Any, body: Any, loc: list[Any], kind: str) -> None:
    status, answer = await frozen.json("v2", "POST", REFERENCES, body)
    assert (status, problems(answer)) == (422, [(loc, kind)])
    assert not frozen.sandbox.generations


async def test_a_training_takes_todays_header_alone(frozen: Any) -> None:
    assert (await frozen.json(LEGACY, "POST", REFERENCES, TRAINING))[0] == 401
    assert (await frozen.json("v2", "POST", REFERENCES, TRAINING))[0] == 200
    assert (await frozen.json(LEGACY, "GET", f"{REFERENCES}/list"))[0] == 200


async def test_a_record_goes_through_every_word(open_sandbox: Callable[..., Any]) -> None:
    caller = await open_sandbox(speed=0)
    plans = (
        Plan(running=1e9),
        Plan(queued=0, running=1e9),
        Plan(queued=0, running=0),
        Plan(queued=0, running=0, end="failed"),
    )
    caller.sandbox.plan(*plans)
    for word, reason in (("queued", None), ("in_progress", None), ("completed", None), ("failed", "Training failed")):
        _, created = await caller.json("v2", "POST", REFERENCES, TRAINING)
        assert (created["status"], created["model_version"], created["in_progress_at"]) == ("not_ready", "v1", None)
        _, record = await caller.json("v2", "GET", f"{REFERENCES}/{created['id']}")
        assert (record["status"], record["fail_reason"]) == (word, reason)
        assert (record["in_progress_at"] is None) == (word == "queued")
        assert [media["media_url"] for media in record["reference_media"]] == [IMAGE["image_url"]]
        # It is no request of v2's, and no job set.
        for path in (f"/requests/{created['id']}/status", f"/v1/job-sets/{created['id']}"):
            assert (await caller.json("v2", "GET", path))[0] == 404
    _, listed = await caller.json("v2", "GET", f"{REFERENCES}/list?page=2&page_size=3")
    assert (listed["total"], listed["total_pages"], len(listed["items"])) == (4, 2, 1)
    # A failed one is given back, like any generation of the platform's.
    assert caller.sandbox.credits == 10_000 - 3 * 40


@pytest.mark.parametrize("query", ["page=0", "page=x", "page_size=0", "page_size=21"])
async def test_a_page_is_checked(frozen: Any, query: str) -> None:
    status, answer = await frozen.json("v2", "GET", f"{REFERENCES}/list?{query}")
    assert (status, answer["detail"][0]["loc"]) == (422, ["query", query.partition("=")[0]])


async def test_messages_are_checked(frozen: Any) -> None:
    _, session = await frozen.json("v2", "POST", SESSIONS, {"config": {}})
    assert session["status"] == "idle"
    messages = f"{SESSIONS}/{session['session_id']}/messages"
    for body in ({}, {"content": ""}, {"content": 7}):
        status, answer = await frozen.json("v2", "POST", messages, body)
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", "content"])
    assert (await frozen.json("v2", "POST", SESSIONS, {"config": 7}))[0] == 422
    assert (await frozen.json(LEGACY, "POST", messages, TEXT))[0] == 401
    assert (await frozen.json("v2", "POST", f"{SESSIONS}/x/messages", TEXT))[0] == 404
    before = frozen.sandbox.credits
    # Nothing but spaces is no word, and answered like any other.
    assert (await frozen.json("v2", "POST", messages, {"content": " "}))[1]["status"] == "processing"
    assert (await frozen.json("v2", "POST", messages, TEXT))[0] == 409
    assert frozen.sandbox.credits < before
    _, state = await frozen.json("v2", "GET", messages)
    assert (state["status"], [message["role"] for message in state["messages"]]) == ("processing", ["user"])


async def test_media_must_be_there_to_be_confirmed(frozen: Any) -> None:
    wanted = {"extension": "unheard", "type": "file"}
    assert (await frozen.json("v2", "POST", "/v1/agent/media", {"extension": "png"}))[0] == 422
    _, slot = await frozen.json("v2", "POST", "/v1/agent/media", wanted)
    assert slot["content_type"] == "application/octet-stream"
    confirm = f"/v1/agent/media/{slot['id']}/confirm"
    assert (await frozen.json("v2", "POST", confirm, {"type": "file"}))[0] == 404
    tagged = {"Content-Type": slot["content_type"], "x-amz-tagging": "retention=temporary"}
    assert (await frozen.raw("media", "PUT", slot["upload_url"], headers=tagged, data=b"x"))[0] == 403
    del tagged["x-amz-tagging"]
    assert (await frozen.raw("media", "PUT", slot["upload_url"], headers=tagged, data=b"x"))[0] == 200
    assert (await frozen.json("v2", "POST", confirm, {"type": "thing"}))[0] == 422
    assert await frozen.json("v2", "POST", confirm, {"type": "file"}) == (200, {"status": "uploaded"})
