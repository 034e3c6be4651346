"""What a client has uploaded and is uploading: the same content once, for as long as the service keeps it."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import anyio

from higgsfield_async._content import Content
from higgsfield_async._domain import Upload
from higgsfield_async._errors import ClientClosed, HiggsfieldError
from higgsfield_async._http import Call, Grant
from higgsfield_async._transports import Transport

if TYPE_CHECKING:
    from higgsfield_async._engine import HttpEngine

# An upload is used again while the service keeps it for so much longer: a submit may wait in line for hours, and only
# then is it fetched. The platform keeps one for a week.
LEAST_LEFT = timedelta(days=1)
# So many are remembered.
MOST_KEPT = 4096

# What a content is, and the type that was given for it.
_Key: TypeAlias = tuple[bytes, str | None]


class _Flight:
    """An upload under way, and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Upload]) -> None:
        self.task = task
        self.waiting = 0


class Uploads:
    """The uploads of one client."""

    def __init__(self, transport: Transport, engine: HttpEngine) -> None:
        self._transport = transport
        self._engine = engine
        self._kept: OrderedDict[_Key, Upload] = OrderedDict()
        self._flights: dict[_Key, _Flight] = {}
        # Cancelled, and not yet gone: the last who waited for it has left.
        self._leaving: set[asyncio.Task[Upload]] = set()
        self._closed = False

    async def upload(self, content: Content, content_type: str | None = None) -> Upload:
        """Uploads a content, unless it lies there already. Whoever wants the same meanwhile waits for the same.

        Raises:
            InvalidRequest: The service does not take its type.
            Unsupported: The service takes no uploads.
            UploadError: It could not be put there.
            HiggsfieldError: There was no leave.
        """
        call = self._transport.upload(content.head, content.size, content_type)
        key = (await content.digest(), content_type)
        kept = self._kept.get(key)
        if kept is not None and kept.expires_at is not None and kept.expires_at - datetime.now(UTC) > LEAST_LEFT:
            self._kept.move_to_end(key)
            return kept
        return await self._wait(key, self._flights.get(key) or self._begin(key, call, content))

    def _begin(self, key: _Key, call: Call[Grant[Upload]], content: Content) -> _Flight:
        if self._closed:
            raise _closed()
        # A task of its own: of those who wait for it, no one's cancel is another's.
        flight = _Flight(asyncio.create_task(self._engine.upload(call, content), name="higgsfield_async.upload"))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda task: self._ended(key, task))
        return flight

    async def _wait(self, key: _Key, flight: _Flight) -> Upload:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        except HiggsfieldError as error:
            # To each an error of its own: whoever catches it may write to it.
            raise copy.copy(error) from error.__cause__
        except asyncio.CancelledError:
            if flight.task.cancelled() and self._closed:
                raise _closed() from None
            raise
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                await self._leave(key, flight.task)

    async def _leave(self, key: _Key, task: asyncio.Task[Upload]) -> None:
        del self._flights[key]
        self._leaving.add(task)
        task.cancel()
        # It ends with the piece of a file that is being read.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])

    def _ended(self, key: _Key, task: asyncio.Task[Upload]) -> None:
        if task in self._leaving:
            self._leaving.discard(task)
        else:
            del self._flights[key]
        if not task.cancelled() and task.exception() is None:
            self._kept[key] = task.result()
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    async def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        under_way = [*self._leaving, *(flight.task for flight in self._flights.values())]
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)


def _closed() -> ClientClosed:
    return ClientClosed("The client was closed before the upload was done.", refused=True)
