"""Walking through catalogues: every item once, and an end to it whatever the service says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given, strategies as st

from higgsfield_async import (
    ConfigurationError,
    Higgsfield,
    InsufficientCredits,
    InvalidRequest,
    MalformedResponse,
    MarketingPreset,
    Model,
    ModelRequest,
    NotFound,
    PlatformTransport,
    Sound,
    Unsupported,
)
from higgsfield_async._catalogue import walk
from higgsfield_async._domain import Page
from higgsfield_async._hints import documented
from higgsfield_async._http import HttpResponse
from higgsfield_async.sandbox import Fault, Sandbox

Client = Callable[..., Higgsfield]


async def test_every_catalogue_of_the_proxy(sandbox: Sandbox, client: Client) -> None:
    async with client("proxy") as hf:
        for listed, least in ((hf.motions(), 3), (hf.avatar_presets(), 28), (hf.voices(), 92), (hf.sounds(), 11)):
            items = [item async for item in listed]
            assert len(items) >= least
            assert len({item.id for item in items}) == len(items)
        found = [motion.name async for motion in hf.motions(search="eyes", size=5)]
        assert found
        assert all("eyes" in name.lower() for name in found)
    sizes = {received.path.rpartition("/")[2]: received.query["size"] for received in sandbox.received}
    assert sizes["voices"] == "14"
    assert {received.query.get("cursor") for received in sandbox.received if "voices" in received.path} >= {None, "2"}


async def test_the_catalogues_of_the_platform(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        assert [motion.id async for motion in hf.motions()]
        first = {style.id async for style in hf.soul_styles()}
        second = {style.id async for style in hf.soul_styles(version=2)}
        assert first
        assert second
        assert first != second
    assert len(sandbox.received) == 3


async def test_the_models_there_are(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        models = {model.id: model async for model in hf.models()}
    (received,) = sandbox.received
    assert received.path == "/models"
    assert received.headers["Authorization"].startswith("Key ")
    assert models.keys() == documented().keys()
    assert sum(model.listed for model in models.values()) == 84
    # Live, and in no list.
    for unlisted in ("higgsfield-ai/soul/cinema", "higgsfield-ai/dop/turbo"):
        assert not models[unlisted].listed
    soul = models["higgsfield-ai/soul/standard"]
    assert (soul.title, soul.output, soul.operation) == ("SOUL — Text to image", "image", "standard")
    assert soul.documented == date(2026, 10, 1)
    assert soul.schema["required"] == ["prompt"]


async def test_models_that_nobody_has_documented(sandbox: Sandbox, client: Client) -> None:
    live = {
        "items": [
            {
                "slug": "vendor/new",
                "title": "New",
                "output_type": "scent",
                "operation_type": "sniff",
                "more": 1,
            },
            {"slug": "higgsfield-ai/dop/turbo", "input_schema": None},
            {"slug": "higgsfield-ai/dop/lite", "title": 3, "input_schema": {"type": "object"}},
            {"id": "vendor/bare", "input_schema": []},
            {"title": "without an id"},
            "no object",
        ],
        "next": "x",
    }
    sandbox.script("catalogue", Fault.answer(200, json.dumps(live).encode()))
    async with client("platform") as hf:
        found = [model async for model in hf.models()]
    new, turbo, lite, bare, *rest = found
    assert new == Model(id="vendor/new", title="New", output="scent", operation="sniff", listed=True)
    assert bare == Model(id="vendor/bare", title="vendor/bare", listed=True)
    assert (turbo.title, turbo.output, turbo.listed) == ("DoP turbo", "video", True)
    assert turbo.schema == documented()[turbo.id].schema
    assert (lite.title, lite.schema) == ("DoP lite", {"type": "object"})
    assert len(rest) == len(documented()) - 2
    assert not any(model.listed for model in rest)


async def test_the_presets_of_the_marketing_studio(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        presets = [preset async for preset in hf.marketing_presets()]
        assert len({preset.id for preset in presets}) == len(presets) == 45
        pages = [received.query.get("cursor") for received in sandbox.received]
        assert pages == [None, "20", "40"]
        found = [preset async for preset in hf.marketing_presets(search="hero", size=4)]
        assert len(found) == 15
        assert all(preset.name.startswith("Hero Shot") for preset in found)
        assert {received.query.get("size") for received in sandbox.received[3:]} == {"4"}
        with pytest.raises(ConfigurationError):
            hf.marketing_presets(size=0)
        # What it is good for.
        await hf.submit(
            ModelRequest("marketing-studio/image", {"prompt": "A shoe", "preset_id": presets[0].id}, strict=True)
        )
        sandbox.script("catalogue", Fault.answer(404, b'{"detail":"Not found"}'))
        with pytest.raises(NotFound):
            await anext(hf.marketing_presets())


LISTING = PlatformTransport("id", "secret").catalogue(MarketingPreset, size=2, search=None, cursor=None, version=1)


@pytest.mark.parametrize(
    ("body", "ids", "total", "cursor"),
    [
        (b'[{"id":"a","title":"A"},{"id":7},{"name":"x"},null]', ["a"], None, None),
        (b'{"items":[{"id":"a"}],"total":9,"cursor":"next"}', ["a"], 9, "next"),
        (b'{"items":[{"id":"a"}],"total":true,"cursor":2}', ["a"], None, 2),
        (b'{"items":[{"id":"a"}],"total":"9","cursor":""}', ["a"], None, None),
        (b'{"items":[]}', [], None, None),
    ],
)
def test_a_list_of_presets_in_any_form(body: bytes, ids: list[str], total: int | None, cursor: object) -> None:
    page = LISTING.decode(HttpResponse(200, {}, body))
    assert isinstance(page, Page)
    assert ([preset.id for preset in page.items], page.total, page.cursor) == (ids, total, cursor)


async def test_what_has_no_id_ends_no_list(sandbox: Sandbox, client: Client) -> None:
    listed = [{"id": f"p{number}"} if number != 3 else {"title": "none"} for number in range(14)]
    bodies = [json.dumps({"items": listed[:size]}).encode() for size in (5, 10, 20)]
    sandbox.script("catalogue", *(Fault.answer(200, body) for body in bodies))
    async with client("platform") as hf:
        assert len([preset async for preset in hf.marketing_presets(size=5)]) == 13
    assert [received.query["size"] for received in sandbox.received] == ["5", "10", "20"]
    # Where the proxy has said how many there are, and sent as many, it is not asked once more.
    voices = {"items": [{"id": "a", "name": "A"}, {"name": "none"}], "total": 2, "cursor": 2}
    sandbox.script("catalogue", Fault.answer(200, json.dumps(voices).encode()))
    async with client("proxy") as hf:
        assert [voice.id async for voice in hf.voices(size=2)] == ["a"]
    assert len(sandbox.received) == 4


@pytest.mark.parametrize("body", [b"", b"7", b"{}", b'{"items":null}', b'{"items":{"a":1}}', b"<html>"])
def test_what_is_no_list(body: bytes) -> None:
    with pytest.raises(MalformedResponse):
        LISTING.decode(HttpResponse(200, {}, body))


async def test_what_is_refused(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        with pytest.raises(Unsupported):
            await anext(hf.voices())
        size: Any
        for size in (0, -1, "3", 2.0, True):
            with pytest.raises(ConfigurationError, match="size must be a whole number, 1 or more"):
                hf.motions(size=size)
    assert not sandbox.received
    async with client("proxy") as hf:
        for listed in (hf.models(), hf.marketing_presets()):
            with pytest.raises(Unsupported, match="use a PlatformTransport"):
                await anext(listed)
    assert not sandbox.received
    sandbox.script("catalogue", Fault.answer(429), Fault.answer(428, b'{"error":{"message":"Insufficient points"}}'))
    async with client("proxy") as hf:
        with pytest.raises(InsufficientCredits):
            await anext(hf.sounds())
    assert len(sandbox.received) == 2


def sounds(*ids: int) -> tuple[Sound, ...]:
    return tuple(Sound(id=str(number), name="") for number in ids)


PAGES: dict[str, tuple[list[Page[Sound]], int]] = {
    # the pages in order, and how many are asked for
    "empty": ([Page(items=())], 1),
    "total on the first page": ([Page(items=sounds(1, 2), total=2, cursor=2)], 1),
    "two pages": ([Page(items=sounds(1, 2), total=3, cursor=2), Page(items=sounds(3), total=3, cursor=3)], 2),
    "an empty page": ([Page(items=sounds(1), total=9, cursor=2), Page(items=(), total=9, cursor=3)], 2),
    "nothing new": (
        [
            Page(items=sounds(1), total=9, cursor=2),
            Page(items=sounds(1), total=9, cursor=3),
            Page(items=sounds(2), total=9),
        ],
        3,
    ),
    "one page for ever": ([Page(items=sounds(1), cursor=number) for number in range(2, 30)], 11),
    "cursors in a circle": ([Page(items=sounds(number), cursor=number % 2) for number in range(9)][:3], 3),
    "one without an id": ([Page(items=sounds(1), received=2, total=2, cursor=2)], 1),
    "a page without ids": (
        [
            Page(items=sounds(1), cursor="b"),
            Page(items=(), received=1, cursor="c"),
            Page(items=sounds(2)),
        ],
        3,
    ),
    "no cursor": ([Page(items=sounds(1), total=9)], 1),
    "the same cursor": ([Page(items=sounds(1), total=9, cursor=2), Page(items=sounds(2), total=9, cursor=2)], 2),
    "no total": ([Page(items=sounds(1), cursor=2), Page(items=sounds(2), cursor=3), Page(items=(), cursor=4)], 3),
    "a bare list without pages": ([Page(items=sounds(1, 2))], 1),
    "a bare list": ([Page(items=sounds(1, 2), size=3)], 1),
    "a bare list that is full": ([Page(items=sounds(1, 2), size=2), Page(items=sounds(1, 2), size=4)], 2),
    "a bare list with one without an id": (
        [Page(items=sounds(1), size=2, received=2), Page(items=sounds(1, 2), size=4, received=3)],
        2,
    ),
    "a bare list that begins without ids": (
        [Page(items=(), size=2, received=2), Page(items=sounds(1), size=4, received=3)],
        2,
    ),
    "a bare list without ids": ([Page(items=(), size=2, received=2), Page(items=(), size=4, received=4)], 2),
    "a bare list that goes on": (
        [
            Page(items=sounds(1, 2), size=2),
            Page(items=sounds(1, 2, 3, 4), size=4),
            Page(items=sounds(1, 2, 3, 4), size=8),
        ],
        3,
    ),
}


@pytest.mark.parametrize("name", PAGES)
async def test_where_it_ends(name: str) -> None:
    pages, expected = PAGES[name]
    asked: list[tuple[int | None, int | str | None]] = []

    async def page_at(size: int | None, cursor: int | str | None) -> Page[Sound]:
        asked.append((size, cursor))
        return pages[len(asked) - 1]

    found = [item.id async for item in walk(page_at, 2)]
    assert found == sorted({item.id for page in pages for item in page.items})
    assert len(asked) == expected
    if name.startswith("a bare list"):
        assert [size for size, _ in asked] == [2, 4, 8][:expected]


async def test_a_list_that_grows_no_further() -> None:
    async def page_at(size: int | None, _: int | str | None) -> Page[Sound]:
        if size is not None and size > 2:
            msg = "size is too large"
            raise InvalidRequest(msg, status=422)
        return Page(items=sounds(1, 2), size=2)

    assert [item.id async for item in walk(page_at, 2)] == ["1", "2"]
    with pytest.raises(InvalidRequest):
        await anext(walk(page_at, 3))


@given(total=st.integers(1, 60), size=st.integers(1, 20), says_total=st.booleans())
async def test_every_item_once_whatever_the_pages(total: int, size: int, *, says_total: bool) -> None:
    async def page_at(_: int | None, cursor: int | str | None) -> Page[Sound]:
        number = int(cursor or 1)
        items = sounds(*range((number - 1) * size, min(total, number * size)))
        return Page(items=items, total=total if says_total else None, cursor=number + 1)

    assert [int(item.id) async for item in walk(page_at, None)] == list(range(total))
