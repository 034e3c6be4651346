"""Walks through a catalogue, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from higgsfield_async._domain import Page
from higgsfield_async._errors import InvalidRequest


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


ListedT = TypeVar("ListedT", bound=_Listed)


async def walk(
    page_at: Callable[[int | None, int | str | None], Awaitable[Page[ListedT]]], size: int | None
) -> AsyncIterator[ListedT]:
    """Every item of a catalogue, each id once.

    Its end is wherever any sign of it is: the proxy sends a cursor even on its last page.

    Args:
        page_at: Fetches the page of a size at a cursor.
        size: Items a page, or None for the service's usual.
    """
    seen: set[str] = set()
    cursor: int | str | None = None
    grown = False
    while True:
        try:
            page = await page_at(size, cursor)
        except InvalidRequest:
            if not grown:
                raise
            return  # more at once than the service gives
        fresh = [item for item in page.items if item.id not in seen]
        for item in fresh:
            seen.add(item.id)
            yield item
        if not fresh or (page.total is not None and len(seen) >= page.total):
            return
        if page.cursor is None and page.total is None:
            # A bare list has no next page: all that is known to bring more is to ask for more at once.
            if page.size is None or len(page.items) < page.size:
                return
            size, grown = 2 * page.size, True
        elif page.cursor is None or page.cursor == cursor:
            return
        cursor = page.cursor
