"""Calls that are cancelled at the right moment: when something has happened, not after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, and miss no turn of the loop: what holds now may not in a moment."""
    with anyio.fail_after(20):
        while not holds():
            await asyncio.sleep(0)


async def cancelled_once(holds: Callable[[], object], call: Awaitable[object]) -> None:
    """Run a call and cancel it, by a scope around it, as soon as something holds; it has not ended by then."""
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            await until(holds)
            scope.cancel()

        cancelling = asyncio.create_task(cancel())
        try:
            await call
        finally:
            if not cancelling.done():
                cancelling.cancel()
    await asyncio.wait([cancelling])
    assert scope.cancel_called, "it ended, or what was waited for never came, before it could be cancelled"
    assert scope.cancelled_caught, "it was not cancelled"
