"""Walks through a catalogue, page by page."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from higgsfield_async._domain import Page
from higgsfield_async._errors import ConfigurationError, InvalidRequest


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


ListedT = TypeVar("ListedT", bound=_Listed)

# So many pages in a row with nothing new on them are the end. What is created meanwhile shifts what was seen onto the
# pages that follow; but a service may also answer with its last page for ever, each time with another cursor.
_MOST_STALE = 10


def check_size(size: object, most: float = math.inf) -> None:
    """Refuses what is no number of items to ask for at once.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
        msg = f"size must be a whole number, {'1 or more' if math.isinf(most) else f'1 to {most}'}."
        raise ConfigurationError(msg)


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
    cursors: set[int | str] = set()
    cursor: int | str | None = None
    nameless = stale = 0
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
        received = len(page.items) if page.received is None else page.received
        nameless += received - len(page.items)
        stale = 0 if fresh else stale + 1
        if not received or (page.total is not None and len(seen) + nameless >= page.total):
            return
        if page.cursor is None and page.total is None:
            # A bare list has no next page: all that is known to bring more is to ask for more at once.
            if page.size is None or received < page.size or (grown and stale):
                return
            size, grown = 2 * page.size, True
        elif page.cursor is None or page.cursor in cursors or stale == _MOST_STALE:
            return
        else:
            cursors.add(page.cursor)
        cursor = page.cursor
