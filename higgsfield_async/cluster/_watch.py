"""Looks after every generation that a process waits for, with one query for all of them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping

from higgsfield_async._domain import JobSet, TaskRef
from higgsfield_async._errors import HiggsfieldError
from higgsfield_async._limits import Limits
from higgsfield_async._pace import Pace
from higgsfield_async._polling import PollPolicy
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._telemetry import fields
from higgsfield_async._tracker import Tracked, Tracker

logger = logging.getLogger("higgsfield_async.cluster")

# What was read of generations: a state, or why there is none to be had; by key. Those that are as they were are left
# out. The marks say what was read of each before.
Read = Callable[[Mapping[str, str]], Awaitable[Mapping[str, tuple[str, JobSet | HiggsfieldError]]]]


def _unheard(*_: object) -> None:
    """Hears of it, and does nothing: what is seen here was read."""


class Watch(Tracker):
    """A tracker that reads a database: all that is waited for at once, every so many seconds, and only then.

    Args:
        read: Reads what has changed.
        look: Reads one generation.
        pace: As for `Tracker`, and so the rest.
        poll: Its `first` is the seconds between two queries.
        retry: As for `Tracker`.
        limits: As for `Tracker`.
    """

    def __init__(
        self,
        read: Read,
        look: Callable[[Tracked], Awaitable[JobSet]],
        *,
        pace: Pace,
        poll: PollPolicy,
        retry: RetryPolicy,
        limits: Limits,
    ) -> None:
        super().__init__(look, news=_unheard, idle=_unheard, pace=pace, poll=poll, retry=retry, limits=limits)
        self._read = read
        self._every = poll.first
        self._watched: dict[Tracked, str] = {}

    def track(self, ref: TaskRef, job_set: JobSet | None = None, *, reported: bool = False) -> Tracked:
        """The one record of a generation; made if there is none, or if its key is another one's since it ended."""
        known = self._known.get((ref.kind, ref.id))
        if (
            known is not None
            and known.ended
            and known.job_set is not None
            and job_set is not None
            and (not job_set.status.terminal or job_set.body != known.job_set.body)
        ):
            del self._known[ref.kind, ref.id]
        tracked = super().track(ref, job_set, reported=reported)
        # The worker has waited for the address of what it made, if there was one to come.
        tracked.linkless_since = -math.inf
        return tracked

    def _consider(self, tracked: Tracked) -> None:
        # In place of the schedule.
        if self._closed or not self._wanted(tracked):
            return
        self._watched.setdefault(tracked, "")
        self._start()

    def _start(self) -> None:
        # Called by the end of a watcher too: something may have come while it ended.
        if self._watched and not self._lookers:
            watcher = asyncio.create_task(self._watch(), name="higgsfield_async.watch")
            self._lookers.add(watcher)
            watcher.add_done_callback(self._looked)

    async def _watch(self) -> None:
        while self._still_wanted():
            marks = {tracked.ref.id: mark for tracked, mark in self._watched.items()}
            try:
                found = await self._read(marks)
            except HiggsfieldError as error:
                msg = "What is waited for could not be read, and will be again: %s"
                logger.info(msg, error, extra=fields(error=error))
                for tracked in self._watched:
                    tracked.error = error
            else:
                self._take_all(found)
            if self._still_wanted():
                await asyncio.sleep(self._every)

    def _still_wanted(self) -> bool:
        for tracked in [each for each in self._watched if not self._wanted(each)]:
            del self._watched[tracked]
        return bool(self._watched)

    def _take_all(self, found: Mapping[str, tuple[str, JobSet | HiggsfieldError]]) -> None:
        for tracked in list(self._watched):
            if tracked.ref.id not in found:
                continue
            mark, state = found[tracked.ref.id]
            self._watched[tracked] = mark
            if isinstance(state, JobSet):
                self.saw(tracked, state)
            else:
                state.ref = tracked.ref
                # Who asks again is told again.
                del self._watched[tracked]
                tracked.fail(state)
