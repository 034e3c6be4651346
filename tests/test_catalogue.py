"""Walking through catalogues: every item once, and an end to it whatever the service says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from higgsfield_async import ConfigurationError, Higgsfield, InsufficientCredits, InvalidRequest, Sound, Unsupported
from higgsfield_async._catalogue import walk
from higgsfield_async._domain import Page
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


async def test_what_is_refused(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        with pytest.raises(Unsupported):
            await anext(hf.voices())
        with pytest.raises(ConfigurationError):
            hf.motions(size=0)
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
    "nothing new": ([Page(items=sounds(1), total=9, cursor=2), Page(items=sounds(1), total=9, cursor=3)], 2),
    "no cursor": ([Page(items=sounds(1), total=9)], 1),
    "the same cursor": ([Page(items=sounds(1), total=9, cursor=2), Page(items=sounds(2), total=9, cursor=2)], 2),
    "no total": ([Page(items=sounds(1), cursor=2), Page(items=sounds(2), cursor=3), Page(items=(), cursor=4)], 3),
    "a bare list without pages": ([Page(items=sounds(1, 2))], 1),
    "a bare list": ([Page(items=sounds(1, 2), size=3)], 1),
    "a bare list that is full": ([Page(items=sounds(1, 2), size=2), Page(items=sounds(1, 2), size=4)], 2),
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


@given(st.integers(1, 60), st.integers(1, 20), st.booleans())
async def test_every_item_once_whatever_the_pages(total: int, size: int, says_total: bool) -> None:  # noqa: FBT001
    async def page_at(_: int | None, cursor: int | str | None) -> Page[Sound]:
        number = int(cursor or 1)
        items = sounds(*range((number - 1) * size, min(total, number * size)))
        return Page(items=items, total=total if says_total else None, cursor=number + 1)

    assert [int(item.id) async for item in walk(page_at, None)] == list(range(total))
