"""Many generations at once, from one loop of the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextvars import copy_context
from types import TracebackType
from typing import Self, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from higgsfield_async._domain import JobSet, TaskRef
from higgsfield_async._errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ClientClosed,
    DownloadError,
    HiggsfieldError,
    InsufficientCredits,
    JournalError,
    SubmissionUnknown,
)
from higgsfield_async._requests import GenerationRequest
from higgsfield_async._task import GenerationTask, failure, too_late
from higgsfield_async._telemetry import Observed, Telemetry, fields
from higgsfield_async._tracker import Tracked, Tracker

logger = logging.getLogger("higgsfield_async.fanout")

Requests: TypeAlias = Iterable[GenerationRequest] | AsyncIterable[GenerationRequest]
Draw: TypeAlias = Callable[[], Awaitable[GenerationRequest]]


def dooms(error: HiggsfieldError) -> bool:
    """Whether what one request met with is what every other one will meet with too."""
    if isinstance(error, BudgetExceeded):
        return error.needed is not None  # another one may have a price that is known
    if isinstance(error, JournalError):
        return not error.transient
    return isinstance(error, (AuthenticationFailed, InsufficientCredits, ClientClosed))


class Outcome(Struct, frozen=True, kw_only=True):
    """One item of a fan-out: finished, or as it is now where progress is told.

    Attributes:
        index: Its place among the requests, from 0.
        request: What was asked for.
        ref: What picks the generation up again; None where it was not submitted.
        job_set: The last state that was seen, or None.
        error: Why it did not succeed, or None.
        key: Of the unit of work that it is in the journal; None without one, and where it was refused.
    """

    index: int
    request: GenerationRequest
    ref: TaskRef | None = None
    job_set: JobSet | None = None
    error: HiggsfieldError | None = None
    key: str | None = None


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
        if self._over:
            raise StopAsyncIteration
        self._over = True
        if self._flow.doom is not None:
            raise self._flow.doom
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stops the drawing. What was submitted goes on, or is canceled where that was asked for."""
        self._over = True
        if self._flow is not None:
            await self._flow.stop()

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
        submit: Submits the one of an index, and calls back when it has its place among the open generations.
        tracker: Looks after what was submitted.
        most: How many requests are held at once.
        at_once: How many submits are under way at once.
        seconds: How long a generation is waited for.
        on_update: Told of each change.
        cancel: What is done with what is still open when this is stopped.
        save: Begins to save what a generation made; its outcome waits for that. It ends with the job set that knows the
            files. None where nothing is saved.
        closed: Whether the client is closed.
        telemetry: Told of each wait.
    """

    def __init__(
        self,
        draw: Draw,
        submit: Callable[[int, GenerationRequest, Callable[[], None]], Awaitable[GenerationTask]],
        tracker: Tracker,
        *,
        most: int,
        at_once: int,
        seconds: float,
        on_update: Callable[[Outcome], object] | None,
        cancel: Callable[[GenerationTask], object] | None,
        save: Callable[[Tracked, JobSet], asyncio.Task[JobSet]] | None,
        closed: Callable[[], bool],
        telemetry: Telemetry,
    ) -> None:
        self._draw = draw
        self._submit = submit
        self._tracker = tracker
        self._most = most
        self._at_once = at_once
        self._seconds = seconds
        self._on_update = on_update
        self._cancel = cancel
        self._save = save
        self._closed = closed
        self._telemetry = telemetry
        self._savings: dict[asyncio.Task[JobSet], _Followed] = {}
        self._left: set[asyncio.Task[JobSet]] = set()
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._drawn = 0
        self._held = 0
        self._over = False
        self._unplaced = 0
        self._room = asyncio.Event()
        self._followed: dict[int, _Followed] = {}
        self._finished: deque[Outcome] = deque()
        self._news = asyncio.Event()
        self.doom: BaseException | None = None
        self._submits: set[asyncio.Task[None]] = set()
        self.drawer = asyncio.create_task(self._feed(), name="higgsfield_async.map")
        self.drawer.add_done_callback(self._fed)

    async def next(self) -> Outcome | None:
        """The next outcome, or None when there will be none any more."""
        while not self._finished:
            if self.drawer.done() and not (self._submits or self._followed or self._savings):
                return None
            self._news.clear()
            await self._news.wait()
        self._held -= 1
        self._room.set()
        return self._finished.popleft()

    async def stop(self) -> None:
        """Lets go of everything, and waits until nothing of this is left."""
        self._let_go()
        if left := {task for task in (self.drawer, *self._submits, *self._left) if not task.done()}:
            await asyncio.wait(left)

    def abandon(self) -> None:
        """Lets go of everything, from wherever the last reference was dropped, be it another thread."""
        with contextlib.suppress(RuntimeError):  # of a loop that is closed
            self._loop.call_soon_threadsafe(self._let_go)

    def end(self, doom: BaseException) -> None:
        """Draws no more; what is under way is finished, and then this is raised."""
        self.doom = self.doom or doom
        self._over = True
        self.drawer.cancel()

    def _let_go(self) -> None:
        self._over = True
        for task in (self.drawer, *self._submits):
            task.cancel()
        for followed in self._followed.values():
            self._forget(followed)
            followed.observed.end()
            if self._cancel is not None:
                self._cancel(followed.task)
        self._followed.clear()
        # Ended, so that `open_tasks()` has them not: these lines are all that is left of what was paid for.
        for saving, followed in self._savings.items():
            saving.cancel()
            ref = followed.tracked.ref
            logger.warning("An outcome was not taken: %s", ref.to_json(), extra=fields(ref, paid=True))
        self._left |= self._savings.keys()
        self._savings.clear()
        for outcome in self._finished:
            if outcome.ref is not None:
                told = fields(outcome.ref, paid=True)
                logger.warning("An outcome was not taken: %s", outcome.ref.to_json(), extra=told)
            elif isinstance(outcome.error, SubmissionUnknown):
                told = fields(error=outcome.error, paid=True)
                logger.warning("An outcome was not taken: %s", outcome.error, extra=told)
        self._finished.clear()
        self._news.set()

    async def _feed(self) -> None:
        while True:
            while not self._may_draw():
                self._room.clear()
                await self._room.wait()
            try:
                request = await self._draw()
            except StopAsyncIteration:
                return
            self._held += 1
            self._drawn += 1
            self._unplaced += 1
            submit = asyncio.create_task(self._begin(self._drawn - 1, request), name="higgsfield_async.map")
            self._submits.add(submit)
            submit.add_done_callback(self._begun)

    def _may_draw(self) -> bool:
        if self._held >= self._most or len(self._submits) >= self._at_once:
            return False
        # Of all that wait for a place among the open generations, one stands for this map.
        return self._unplaced == 0 or self._tracker.has_room(self._unplaced)

    def _fed(self, drawer: asyncio.Task[None]) -> None:
        if drawer.cancelled():
            if not self._over:
                self.end(RuntimeError("The drawing of requests was cancelled: by their iterable, or from outside."))
        elif (error := drawer.exception()) is not None:
            self.end(error)
        self._news.set()

    def _begun(self, submit: asyncio.Task[None]) -> None:
        self._submits.discard(submit)
        if not submit.cancelled() and (error := submit.exception()) is not None:
            self.end(error)
        self._room.set()
        self._news.set()

    async def _begin(self, index: int, request: GenerationRequest) -> None:
        unplaced = True

        def placed() -> None:
            nonlocal unplaced
            self._unplaced -= unplaced
            unplaced = False
            self._room.set()

        try:
            task = await self._submit(index, request, placed)
        except HiggsfieldError as error:
            if dooms(error) and self.doom is None:
                if not self.drawer.done():
                    logger.warning("No more requests are drawn: %s", error, extra=fields(error=error))
                self.end(copy.copy(error))
            key = error.journal_key if isinstance(error, SubmissionUnknown) else None
            self._finish(Outcome(index=index, request=request, ref=error.ref, error=error, key=key))
        else:
            self._follow(index, request, task)
        finally:
            placed()

    def _follow(self, index: int, request: GenerationRequest, task: GenerationTask) -> None:
        tracked = self._tracker.track(task.ref)
        observed = self._telemetry.wait(task.ref, tracked.submitted)
        followed = self._followed[index] = _Followed(self, index, request, task, tracked=tracked, observed=observed)
        if self._seconds < math.inf:
            followed.timer = self._loop.call_later(self._seconds, followed.late)
        try:
            self._tracker.listen(followed.tracked, followed)
        except ClientClosed as error:
            self.end(copy.copy(error))
            self.settle(followed, error)
        else:
            self.look(followed)

    def look(self, followed: _Followed) -> None:
        """Takes what there is to see of a generation."""
        tracked = followed.tracked
        if tracked.ended and tracked.job_set is not None:
            self.settle(followed, failure(tracked.job_set, tracked.ref))
        elif tracked.fatal > followed.fatal:
            self.settle(followed, copy.copy(tracked.error))
        else:
            self._tell(followed.outcome(None))

    def late(self, followed: _Followed) -> None:
        """Ends the wait for a generation."""
        self.settle(followed, too_late(followed.tracked, self._seconds))

    def settle(self, followed: _Followed, error: HiggsfieldError | None) -> None:
        """Makes an outcome of a generation."""
        self._forget(followed)
        followed.observed.status(followed.tracked.status)
        followed.observed.end(error)
        del self._followed[followed.index]
        made = followed.tracked.job_set
        if error is None and made is not None and self._save is not None:
            # As a part of what the caller does, and not of what brought the news.
            saving = self._context.copy().run(self._save, followed.tracked, made)
            self._savings[saving] = followed
            saving.add_done_callback(self._saved)
        else:
            self._finish(followed.outcome(error))

    def _saved(self, saving: asyncio.Task[JobSet]) -> None:
        followed = self._savings.pop(saving, None)
        if followed is None:
            self._left.discard(saving)
            return
        outcome = followed.outcome(None)
        if saving.cancelled():
            # Else by a writer, or by what it waited for.
            cause = None if self._closed() else asyncio.CancelledError()
            outcome = replace(outcome, error=_unsaved(followed.tracked, cause))
        elif (error := saving.exception()) is None:
            outcome = replace(outcome, job_set=saving.result())
        else:
            if not isinstance(error, HiggsfieldError):
                self.end(error)
                error = _unsaved(followed.tracked, error)
            outcome = replace(outcome, error=error)
        self._finish(outcome)

    def _forget(self, followed: _Followed) -> None:
        self._tracker.forget(followed.tracked, followed)
        if followed.timer is not None:
            followed.timer.cancel()

    def _tell(self, outcome: Outcome) -> None:
        if self._on_update is not None:
            try:
                self._context.copy().run(self._on_update, outcome)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the caller's own ends this map alone
                self._on_update = None
                self.end(error)

    def _finish(self, outcome: Outcome) -> None:
        self._tell(outcome)
        self._finished.append(outcome)
        self._news.set()


class _Followed:
    """One generation of a flow, from its submit to its outcome. It is what the tracker calls, and the timer."""

    __slots__ = ("fatal", "flow", "index", "observed", "request", "task", "timer", "tracked")

    def __init__(
        self,
        flow: Flow,
        index: int,
        request: GenerationRequest,
        task: GenerationTask,
        *,
        tracked: Tracked,
        observed: Observed,
    ) -> None:
        self.observed = observed
        self.flow = flow
        self.index = index
        self.request = request
        self.task = task
        self.tracked = tracked
        self.fatal = tracked.fatal
        self.timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        self.flow.look(self)

    def late(self) -> None:
        """Called when its time is up."""
        self.flow.late(self)

    def outcome(self, error: HiggsfieldError | None) -> Outcome:
        """What is known of it."""
        tracked = self.tracked
        return Outcome(
            index=self.index,
            request=self.request,
            ref=tracked.ref,
            job_set=tracked.job_set,
            error=error,
            key=tracked.key,
        )


def _unsaved(tracked: Tracked, cause: BaseException | None) -> HiggsfieldError:
    ref, charged = tracked.ref, tracked.job_set.charged if tracked.job_set else "unknown"
    later = "The service keeps the results for some days: pick it up by its ref, and save it."
    if cause is None:
        return ClientClosed(
            f"The client was closed while generation {ref.id} was saved. {later}", ref=ref, charged=charged
        )
    error = DownloadError(
        f"Generation {ref.id} was not saved ({type(cause).__name__}). {later}", ref=ref, charged=charged
    )
    error.__cause__ = cause
    return error


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
