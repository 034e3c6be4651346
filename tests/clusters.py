"""What the tests of clusters have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from higgsfield_async import PollPolicy

POLL = PollPolicy.fixed(0.05, deadline=20)


async def until(true: Callable[[], bool], seconds: float = 15) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)
