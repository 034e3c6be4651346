"""Many generations at once, from one loop of the caller's."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, TypeAlias

from msgspec import Struct

from higgsfield_async._domain import JobSet, TaskRef
from higgsfield_async._errors import (
    AuthenticationFailed,
    ClientClosed,
    HiggsfieldError,
    InsufficientCredits,
    SubmissionUnknown,
)
from higgsfield_async._requests import GenerationRequest
from higgsfield_async._task import GenerationTask, failure, too_late
from higgsfield_async._tracker import Tracker

logger = logging.getLogger("higgsfield_async.fanout")

Requests: TypeAlias = Iterable[GenerationRequest] | AsyncIterable[GenerationRequest]
Draw: TypeAlias = Callable[[], Awaitable[GenerationRequest]]

# What refuses one submit in a way that every other one will meet too.
_DOOM = (AuthenticationFailed, InsufficientCredits, ClientClosed)


class Outcome(Struct, frozen=True, kw_only=True):
    """One item of a fan-out: finished, or as it is now where progress is told.

    Attributes:
        index: Its place among the requests, from 0.
        request: What was asked for.
        ref: What picks the generation up again; None where it was not submitted.
        job_set: The last state that was seen, or None.
        error: Why it did not succeed, or None.
    """

    index: int
    request: GenerationRequest
    ref: TaskRef | None = None
    job_set: JobSet | None = None
    error: HiggsfieldError | None = None


class Stats(Struct, frozen=True, kw_only=True):
    """A client's counts at one moment.

    Attributes:
        waiting: Submits that wait for a place, are held back, or are under way.
        queued: Open generations that the service has not begun, when last seen.
        running: Open generations that it has begun.
        done: Generations seen to complete.
        failed: Generations seen to end otherwise.
    """

    waiting: int
    queued: int
    running: int
    done: int
    failed: int


class Outcomes(AsyncIterator[Outcome]):
    """The outcomes of `Higgsfield.map`, as they finish.

    Leaving the loop stops the drawing of requests. Where something still refers to this object then, close it with
    `aclose()`, or iterate inside `async with`.
    """

    def __init__(self, begin: Callable[[], Flow]) -> None:
        self._begin = begin
        self._flow: Flow | None = None
        self._over = False

    async def __anext__(self) -> Outcome:
        if self._over:
            raise StopAsyncIteration
        if self._flow is None:
            self._flow = self._begin()
        outcome = await self._flow.next()
        if outcome is not None:
            return outcome
        self._over = True
        if self._flow.doom is not None:
            raise self._flow.doom
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stops the drawing. What was submitted goes on, or is canceled where that was asked for."""
        self._over = True
        if self._flow is not None:
            await self._flow.stopped()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._flow is not None and not self._over:
            self._flow.abandon()


class Flow:
    """What goes on behind an `Outcomes`. It does not refer to it, so that the end of that object ends this one.

    A request is held from the moment it is drawn until its outcome is taken: so much is in memory, and no more.

    Args:
        draw: Draws the next request.
        submit: Submits one.
        tracker: Looks after what was submitted.
        most: How many requests are held at once.
        submitters: How many submits are under way at once.
        seconds: How long a generation is waited for.
        on_update: Told of each change.
        cancel: What is done with what is still open when this is stopped.
    """

    def __init__(
        self,
        draw: Draw,
        submit: Callable[[GenerationRequest], Awaitable[GenerationTask]],
        tracker: Tracker,
        *,
        most: int,
        submitters: int,
        seconds: float,
        on_update: Callable[[Outcome], object] | None,
        cancel: Callable[[GenerationTask], object] | None,
    ) -> None:
        self._draw_next = draw
        self._submit = submit
        self._tracker = tracker
        self._most = most
        self._seconds = seconds
        self._on_update = on_update
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._drawing = asyncio.Lock()
        self._drawn = 0
        self._held = 0
        self._dry = False
        self._room = asyncio.Event()
        self._followed: dict[int, tuple[GenerationTask, Callable[[], None]]] = {}
        self._finished: deque[Outcome] = deque()
        self._news = asyncio.Event()
        self.doom: BaseException | None = None
        self._submitters = {
            asyncio.create_task(self._feed(), name="higgsfield_async.map") for _ in range(min(most, submitters))
        }
        for submitter in self._submitters:
            submitter.add_done_callback(self._fed)

    async def next(self) -> Outcome | None:
        """The next outcome, or None when there will be none any more."""
        while not self._finished:
            if not self._submitters and not self._followed:
                return None
            self._news.clear()
            await self._news.wait()
        self._held -= 1
        self._room.set()
        return self._finished.popleft()

    async def stopped(self) -> None:
        """Stops, and waits until nothing of this is left."""
        self._stop()
        if self._submitters:
            await asyncio.wait(self._submitters)

    def abandon(self) -> None:
        """Stops from wherever the last reference was dropped, be it another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._dry = True
        for submitter in self._submitters:
            submitter.cancel()
        for task, let_go in self._followed.values():
            let_go()
            if self._cancel is not None:
                self._cancel(task)
        self._followed.clear()
        # Ended, so that `open_tasks()` has them not: these lines are all that is left of what was paid for.
        for outcome in self._finished:
            if outcome.ref is not None:
                logger.warning("An outcome was not taken: %s", outcome.ref.to_json())
            elif isinstance(outcome.error, SubmissionUnknown):
                logger.warning("An outcome was not taken: %s", outcome.error)
        self._finished.clear()
        self._news.set()

    async def _feed(self) -> None:
        while drawn := await self._draw():
            index, request = drawn
            try:
                task = await self._submit(request)
            except HiggsfieldError as error:
                if isinstance(error, _DOOM) and self.doom is None:
                    logger.warning("No more requests are drawn: %s", error)
                    self._end(error)
                self._finish(Outcome(index=index, request=request, ref=error.ref, error=error))
            else:
                self._follow(index, request, task)

    async def _draw(self) -> tuple[int, GenerationRequest] | None:
        async with self._drawing:
            while self._held >= self._most and not self._dry:
                self._room.clear()
                await self._room.wait()
            if self._dry:
                return None
            try:
                request = await self._draw_next()
            except StopAsyncIteration:
                self._dry = True
                return None
            self._held += 1
            self._drawn += 1
            return self._drawn - 1, request

    def _follow(self, index: int, request: GenerationRequest, task: GenerationTask) -> None:
        tracked = self._tracker.track(task.ref)
        fatal = tracked.fatal

        def look() -> None:
            if tracked.ended and tracked.job_set is not None:
                end(failure(tracked.job_set, task.ref))
            elif tracked.fatal > fatal:
                end(copy.copy(tracked.error))
            else:
                self._tell(Outcome(index=index, request=request, ref=task.ref, job_set=task.job_set))

        def end(error: HiggsfieldError | None) -> None:
            let_go()
            del self._followed[index]
            self._finish(Outcome(index=index, request=request, ref=task.ref, job_set=task.job_set, error=error))

        def let_go() -> None:
            self._tracker.forget(tracked, look)
            if timer is not None:
                timer.cancel()

        timer = (
            self._loop.call_later(self._seconds, lambda: end(too_late(tracked, self._seconds)))
            if self._seconds < math.inf
            else None
        )
        self._followed[index] = task, let_go
        try:
            self._tracker.listen(tracked, look)
        except ClientClosed as error:
            end(error)
        else:
            look()

    def _tell(self, outcome: Outcome) -> None:
        if self._on_update is not None:
            try:
                self._on_update(outcome)
            except Exception as error:  # noqa: BLE001  # the caller's own: it ends this map and nothing else
                self._end(error)

    def _finish(self, outcome: Outcome) -> None:
        self._tell(outcome)
        self._finished.append(outcome)
        self._news.set()

    def _end(self, doom: BaseException) -> None:
        """Draws no more; what is under way is finished, and then this is raised."""
        self.doom = self.doom or doom
        self._dry = True
        self._room.set()

    def _fed(self, submitter: asyncio.Task[None]) -> None:
        self._submitters.discard(submitter)
        if not submitter.cancelled() and (error := submitter.exception()) is not None:
            self._end(error)  # of the caller's own iterable
        self._news.set()


def drawing(requests: Requests) -> Draw:
    """How to draw the next request: it raises `StopAsyncIteration` after the last."""
    if isinstance(requests, AsyncIterable):
        return aiter(requests).__anext__
    plain = iter(requests)

    async def draw() -> GenerationRequest:
        for request in plain:
            return request
        raise StopAsyncIteration

    return draw
