"""Looks after every open generation of a client that somebody waits for, with one schedule for all of them."""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup

from higgsfield_async._domain import JobSet, JobStatus, TaskRef
from higgsfield_async._errors import ClientClosed, HiggsfieldError
from higgsfield_async._polling import PollPolicy, ends_wait
from higgsfield_async._retry import RetryPolicy

logger = logging.getLogger("higgsfield_async.tracker")

# A completed generation may be without its address for a moment: sibling services of the proxy's were seen so. For so
# many seconds it is looked at again before it is handed over as it is.
LINK_GRACE = 30.0


class Tracked:
    """One generation: what was last seen of it, and when to look again. Shared by all its handles."""

    def __init__(self, ref: TaskRef, job_set: JobSet | None) -> None:
        self.ref = ref
        self.job_set = job_set
        self.version = 0 if job_set is None else 1
        self.error: HiggsfieldError | None = None
        self.fatal = 0
        self.changed = asyncio.Event()
        self.watchers = 0
        self.looks = 0
        self.failures = 0
        self.looking = False
        self.due = 0.0
        self.planned: float | None = None
        self.hurried = False
        self.linkless: JobSet | None = None
        self.linkless_since: float | None = None

    @property
    def ended(self) -> bool:
        return self.job_set is not None and self.job_set.status.terminal

    def see(self, job_set: JobSet, now: float) -> None:
        """Takes what a look found. An end stays an end, whatever a late answer says."""
        self.error = None
        self.failures = 0
        if self.ended:
            return
        self.linkless = job_set if self._may_still_be_linked(job_set, now) else None
        if self.linkless is not None:
            return
        before, self.job_set = self.job_set, job_set
        if before is None or _changed(before, job_set):
            self.version += 1
            self._tell()

    def _may_still_be_linked(self, job_set: JobSet, now: float) -> bool:
        if not job_set.status.terminal:
            return False
        if not any(job.status is JobStatus.COMPLETED and not job.outputs for job in job_set.jobs):
            return False
        if self.linkless_since is None:
            self.linkless_since = now
        return now - self.linkless_since < LINK_GRACE

    def fail(self, error: HiggsfieldError) -> None:
        """Ends the waits that are under way, and only those: a later one looks again."""
        self.error = error
        self.fatal += 1
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def _changed(before: JobSet, now: JobSet) -> bool:
    # The answer to a submit may hold no jobs yet: that they are there now is no change of status.
    return before.status is not now.status or (bool(before.jobs) and _words(before) != _words(now))


def _words(job_set: JobSet) -> list[tuple[str, str]]:
    return [(job.id, job.raw_status) for job in job_set.jobs]


class Tracker:
    """One per client.

    Args:
        look: Performs one poll, once.
        poll: When to look again.
        retry: When to look again after a look that failed.
    """

    def __init__(self, look: Callable[[TaskRef], Awaitable[JobSet]], *, poll: PollPolicy, retry: RetryPolicy) -> None:
        self._look = look
        self._poll = poll
        self._retry = retry
        self._known: WeakValueDictionary[tuple[str, str], Tracked] = WeakValueDictionary()
        self._schedule: list[tuple[float, int, Tracked]] = []
        self._order = itertools.count()
        self._woken = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._running = False
        self._closed = False
        self._cause: BaseException | None = None

    def track(self, ref: TaskRef, job_set: JobSet | None = None) -> Tracked:
        """The one record of a generation; made if there is none."""
        tracked = self._known.get((ref.kind, ref.id))
        if tracked is None:
            tracked = self._known[ref.kind, ref.id] = Tracked(ref, job_set)
            # One just submitted has time; of one picked up, nothing is known: it is looked at once.
            tracked.due = time.monotonic() + (self._poll.gap(0, random.random()) if job_set is not None else 0.0)
        return tracked

    async def change(self, tracked: Tracked, seen: int) -> int:
        """Waits until there is more to see than the version that was seen, and gives the newest version.

        Raises:
            HiggsfieldError: A look met with something that will not pass, or the client was closed.
        """
        if tracked.version <= seen:
            with self._watching(tracked):
                fatal = tracked.fatal
                while tracked.version <= seen:
                    await tracked.changed.wait()
                    if self._closed and tracked.version <= seen:
                        raise _closed(tracked.ref, self._cause)
                    if tracked.error is not None and tracked.fatal > fatal:
                        # A copy for each: several may wait, and a traceback belongs to one.
                        raise copy.copy(tracked.error) from tracked.error.__cause__
        return tracked.version

    @contextmanager
    def _watching(self, tracked: Tracked) -> Generator[None]:
        if self._closed:
            raise _closed(tracked.ref, self._cause)
        tracked.watchers += 1
        try:
            if not tracked.looking and (tracked.planned is None or tracked.due < tracked.planned):
                self._plan(tracked)
            yield
        finally:
            tracked.watchers -= 1

    def hurry(self, tracked: Tracked) -> None:
        """Looks at a generation now, if anybody waits for it."""
        tracked.due = time.monotonic()
        # One that is under way may have been answered before whatever is the reason for this.
        tracked.hurried = tracked.looking
        if tracked.watchers and not tracked.looking:
            self._plan(tracked)

    def _plan(self, tracked: Tracked) -> None:
        tracked.planned = tracked.due
        heapq.heappush(self._schedule, (tracked.due, next(self._order), tracked))
        if self._schedule[0][2] is tracked:
            self._woken.set()
        if not self._running:
            # Said before it is so: an eager task runs, and may plan, before it is assigned.
            self._running = True
            self._runner = asyncio.create_task(self._run(), name="higgsfield_async.tracker")
            self._runner.add_done_callback(self._stopped)

    async def _run(self) -> None:
        async with anyio.create_task_group() as looks:
            while True:
                self._begin(looks)
                self._woken = asyncio.Event()
                pause = self._schedule[0][0] - time.monotonic() if self._schedule else float("inf")
                with anyio.move_on_after(pause):
                    await self._woken.wait()

    def _begin(self, looks: TaskGroup) -> None:
        """Begins every look that is due."""
        now = time.monotonic()
        while self._schedule and self._schedule[0][0] <= now:
            due, _, tracked = heapq.heappop(self._schedule)
            if due != tracked.planned:
                continue  # overtaken by an earlier one
            tracked.planned = None
            if tracked.watchers:
                tracked.looking = True
                looks.start_soon(self._look_at, tracked)

    async def _look_at(self, tracked: Tracked) -> None:
        tracked.looks += 1
        pause = 0.0
        try:
            tracked.see(await self._look(tracked.ref), time.monotonic())
        except HiggsfieldError as error:
            error.ref, error.charged = tracked.ref, "unknown"
            tracked.failures += 1
            if ends_wait(error):
                tracked.fail(error)
            else:
                logger.info("A poll failed, and will be repeated: %s", error)
                tracked.error = error
                pause = self._retry.delay(tracked.failures, error.retry_after, random.random())
        finally:
            tracked.looking = False
        gap = 0.0 if tracked.hurried else max(pause, self._poll.gap(tracked.looks, random.random()))
        tracked.hurried = False
        tracked.due = time.monotonic() + gap
        if tracked.watchers and not tracked.ended:
            self._plan(tracked)

    def _stopped(self, runner: asyncio.Task[None]) -> None:
        # Whatever stops the schedule ends every wait: none of them may hang for want of it.
        self._closed = True
        self._cause = None if runner.cancelled() else runner.exception()
        for tracked in list(self._known.values()):
            tracked.fail(_closed(tracked.ref, self._cause))

    async def close(self) -> None:
        """Stops looking. Whoever still waits is told, with the ref."""
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])


def _closed(ref: TaskRef, cause: BaseException | None) -> ClientClosed:
    why = "The client was closed" if cause is None else "The client's polling was stopped by an unforeseen error"
    msg = f"{why} while generation {ref.id} was waited for. It goes on: pick it up by its ref."
    error = ClientClosed(msg, ref=ref, charged="unknown")
    error.__cause__ = cause
    return error
