"""What a service offers: motions, voices, sounds, presets, styles and models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeAlias, cast

import msgspec
from cyclopts import Parameter

from higgsfield_async._errors import Unsupported
from higgsfield_async.cli._options import Options, client
from higgsfield_async.cli._output import Output

Search = Annotated[str | None, Parameter(help="Show only what has these words.")]
Items: TypeAlias = AsyncIterator[msgspec.Struct]


async def motions(*, search: Search = None, options: Options = Options()) -> None:
    """List the camera motions and effects of the service."""
    async with client(options, journal=False) as hf:
        items = _found(search, lambda words: hf.motions(search=words), hf.motions)
        await _show(options, items, "id", "name", "categories", "description")


async def voices(*, search: Search = None, options: Options = Options()) -> None:
    """List the voices of the proxy."""
    async with client(options, journal=False) as hf:
        await _show(options, _matching(search, hf.voices()), "id", "name", "gender", "age", "categories")


async def sounds(*, search: Search = None, options: Options = Options()) -> None:
    """List the ambient sounds of the proxy."""
    async with client(options, journal=False) as hf:
        await _show(options, _matching(search, hf.sounds()), "id", "name", "description")


async def presets(*, search: Search = None, options: Options = Options()) -> None:
    """List presets: the avatars of the proxy, or the looks of the platform's marketing studio."""
    async with client(options, journal=False) as hf:
        try:
            await _show(options, hf.avatar_presets(search=search), "id", "name")
        except Unsupported:
            await _show(options, hf.marketing_presets(search=search), "id", "name", "description")


async def styles(
    *,
    search: Search = None,
    v2: Annotated[bool, Parameter(show_default=False, help="List those of Soul v2.")] = False,
    options: Options = Options(),
) -> None:
    """List the styles of the platform's Soul models."""
    async with client(options, journal=False) as hf:
        items = _matching(search, hf.soul_styles(version=2 if v2 else 1))
        await _show(options, items, "id", "name", "description")


async def models(*, search: Search = None, options: Options = Options()) -> None:
    """List the AI models of the platform: those in its list, then those that are documented and not in it."""
    async with client(options, journal=False) as hf:
        await _show(options, _matching(search, hf.models()), "id", "title", "output", "operation", "listed")


async def _found(search: str | None, found: Callable[[str], Items], whole: Callable[[], Items]) -> Items:
    """What the service finds; where it cannot search, what has the words."""
    if search is None:
        items = whole()
    else:
        try:
            async for item in found(search):
                yield item
        except Unsupported:
            items = _matching(search, whole())
        else:
            return
    async for item in items:
        yield item


async def _matching(search: str | None, items: Items) -> Items:
    words = (search or "").casefold().split()
    async for item in items:
        text = "\n".join(_text(value) for value in msgspec.structs.astuple(item)).casefold()
        if all(word in text for word in words):
            yield item


async def _show(options: Options, items: Items, *columns: str) -> None:
    with Output(json=options.json).table(*(column.upper() for column in columns)) as table:
        async for item in items:
            table.add(item, *(_text(getattr(item, column)) for column in columns))


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(str(each) for each in cast("tuple[object, ...]", value))
        case _:
            return ""
