"""The prices of requests, before any of them is submitted."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable

import anyio

from higgsfield_async._budget import Cost, Estimates
from higgsfield_async._domain import Estimate
from higgsfield_async._errors import HiggsfieldError
from higgsfield_async._fanout import Draw, dooms
from higgsfield_async._requests import GenerationRequest
from higgsfield_async._task import Parts


async def estimate_one(parts: Parts, request: GenerationRequest) -> Estimate:
    """The price of a request: known, or asked for.

    Raises:
        HiggsfieldError: As `Higgsfield.estimate` says.
    """
    known = parts.transport.estimate(request)
    return known if isinstance(known, Estimate) else await parts.engine.send(known)


async def estimate_each(draw: Draw, ask: Callable[[GenerationRequest], Awaitable[Estimate]], at_once: int) -> Estimates:
    """The price of each request, so many asked for at once, and the sums.

    Raises:
        HiggsfieldError: What every one of them would meet with.
    """
    found: dict[int, Estimate | HiggsfieldError] = {}
    doom: list[Exception] = []
    # Of an async iterator, the next one may be asked for only when there is the last one.
    drawing = anyio.Lock()
    places = itertools.count()

    async def work() -> None:
        while True:
            async with drawing:
                request = await draw()
                place = next(places)
            try:
                found[place] = await ask(request)
            except HiggsfieldError as error:
                if dooms(error):
                    raise
                found[place] = error

    async def guarded() -> None:
        try:
            await work()
        except StopAsyncIteration:
            return
        except Exception as error:  # noqa: BLE001  # raised below, as it is and not in a group
            doom.append(error)
            workers.cancel_scope.cancel()

    async with anyio.create_task_group() as workers:
        for _ in range(at_once):
            workers.start_soon(guarded)
    if doom:
        raise doom[0]
    items = tuple(found[place] for place in sorted(found))
    total = functools.reduce(lambda sums, item: sums.plus(item if isinstance(item, Estimate) else None), items, Cost())
    return Estimates(items=items, total=total)
