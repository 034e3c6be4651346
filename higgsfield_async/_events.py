"""What is told of generations to whoever watches them from afar, as server-sent events.

Source of the form: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from higgsfield_async._domain import JobSet, JobStatus, Media
from higgsfield_async._errors import Charged, ClientClosed, ConfigurationError
from higgsfield_async._problems import problem_of
from higgsfield_async._task import GenerationTask
from higgsfield_async._tracker import Tracked


class Output(Struct, frozen=True):
    """One file that a job made, as it is told to others.

    Attributes:
        url: Where it lies.
        kind: What it is; `file` where it is none of the three others.
        variant: `raw` as it was made, or `min`, optimised by the service for showing.
    """

    url: str
    kind: Literal["image", "video", "audio", "file"]
    variant: Literal["raw", "min"]


class JobState(Struct, frozen=True, kw_only=True):
    """One job of a generation, as it is told to others."""

    id: str
    status: JobStatus
    reason: str | None
    outputs: tuple[Output, ...]


class GenerationState(Struct, frozen=True, kw_only=True):
    """A generation at one moment, as it is told to others. Nothing in it is secret.

    Attributes:
        ref: Its `TaskRef.short`: what to ask for it by.
        id: The service's id of it.
        kind: What was asked for.
        status: How far it is.
        ended: Whether that is an end.
        created_at: When it was submitted.
        charged: What became of the money.
        reason: Why it failed, where the service says so.
        outputs: Every file of every job.
        jobs: The jobs.
    """

    ref: str
    id: str
    kind: str
    status: JobStatus
    ended: bool
    created_at: datetime
    charged: Charged
    reason: str | None
    outputs: tuple[Output, ...]
    jobs: tuple[JobState, ...]


def state_of(task: GenerationTask) -> GenerationState:
    """What is known of a generation now."""
    ref = task.ref
    job_set = task.job_set or JobSet(id=ref.id)
    status = task.status
    jobs = tuple(
        JobState(id=job.id, status=job.status, reason=job.reason, outputs=tuple(map(_told, job.outputs)))
        for job in job_set.jobs
    )
    return GenerationState(
        ref=ref.short,
        id=ref.id,
        kind=ref.kind,
        status=status,
        ended=status.terminal,
        created_at=ref.created_at,
        charged=job_set.charged if job_set.jobs else "unknown",
        reason=job_set.reason,
        outputs=tuple(output for job in jobs for output in job.outputs),
        jobs=jobs,
    )


def _told(media: Media) -> Output:
    # Not where it was saved: that is nobody's business.
    return Output(media.url, media.kind, media.variant)


def _record(task: GenerationTask) -> Tracked:
    return task._tracked  # pyright: ignore[reportPrivateUsage]  # a handle shows what a caller needs; this is behind it


def seconds_since_seen(task: GenerationTask) -> float:
    """How old what is known of a generation is: 0 once it has ended, infinite before anything is."""
    tracked = _record(task)
    if tracked.job_set is None:
        return math.inf
    return 0.0 if tracked.ended else time.monotonic() - tracked.seen_open


_encode = msgspec.json.Encoder().encode

HEARTBEAT = b":\n\n"

# The id of an event is what was last told of each generation: a letter for each job, or one for all of them.
_LETTERS: Mapping[JobStatus, str] = {
    JobStatus.QUEUED: "q",
    JobStatus.IN_PROGRESS: "i",
    JobStatus.COMPLETED: "c",
    JobStatus.FAILED: "f",
    JobStatus.NSFW: "n",
    JobStatus.CANCELED: "x",
    JobStatus.UNKNOWN: "u",
}
_ENDS = frozenset("cfnx")
# Nothing was told; what was told is a problem.
_NOTHING, _PROBLEM = "-", "!"


def _mark(job_set: JobSet) -> str:
    letters = "".join(_LETTERS[job.status] for job in job_set.jobs) or _LETTERS[JobStatus.QUEUED]
    return letters[0] if len(set(letters)) == 1 else letters


def is_over(last_event_id: str, tasks: int = 1) -> bool:
    """Whether a stream that reached this event has told everything: it is not to be opened again.

    A browser's `EventSource` connects again whenever a stream ends; it stops when it is answered with 204.

    Args:
        last_event_id: The `Last-Event-ID` of the request; "" if there is none.
        tasks: How many generations it is about.
    """
    marks = last_event_id.split(".")
    return len(marks) == tasks and all(mark == _PROBLEM or (mark and _ENDS.issuperset(mark)) for mark in marks)


class Events(AsyncIterator[bytes]):
    """The changes of some generations, as server-sent events.

    It holds nothing between two steps, so that leaving it needs no clean-up.

    Args:
        tasks: What to watch, all of one client.
        last_event_id: What was told before.
        heartbeat: Seconds after which a comment is sent when there is nothing to tell.
    """

    def __init__(self, tasks: tuple[GenerationTask, ...], last_event_id: str, heartbeat: float) -> None:
        trackers = {task._parts.tracker for task in tasks}  # pyright: ignore[reportPrivateUsage]  # as `_record`
        if len(trackers) != 1 or not heartbeat > 0:
            msg = "Events need tasks, all of one client, and a heartbeat of more than 0 seconds."
            raise ConfigurationError(msg)
        self._tasks = tasks
        self._tracked = [_record(task) for task in tasks]
        (self._tracker,) = trackers
        self._heartbeat = heartbeat
        marks = last_event_id.split(".")
        self._marks = marks if len(marks) == len(tasks) else [_NOTHING] * len(tasks)
        self._fatal = [tracked.fatal for tracked in self._tracked]
        # Sent at once: some servers keep the headers back until there is a body.
        self._ready = deque([HEARTBEAT])
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped = False

    async def __anext__(self) -> bytes:
        if not self._collect() and not self._over():
            await self._change()
            if not self._collect() and not self._over():
                return HEARTBEAT
        if self._ready:
            return self._ready.popleft()
        raise StopAsyncIteration

    def stop(self) -> None:
        """Ends the iteration, when all that is known has been told."""
        self._stopped = True
        self._tell()

    def _over(self) -> bool:
        return self._stopped or is_over(".".join(self._marks), len(self._marks))

    def _collect(self) -> bool:
        """Makes events of all that is new, and says whether there are any."""
        for place, tracked in enumerate(self._tracked):
            if self._marks[place] == _PROBLEM:
                continue
            if tracked.job_set is not None and (mark := _mark(tracked.job_set)) != self._marks[place]:
                self._add(place, mark, "message", _encode(state_of(self._tasks[place])))
            elif tracked.error is not None and tracked.fatal > self._fatal[place] and not tracked.ended:
                if isinstance(tracked.error, ClientClosed):
                    self._stopped = True
                else:
                    self._add(place, _PROBLEM, "problem", _encode(problem_of(tracked.error)))
        return bool(self._ready)

    def _add(self, place: int, mark: str, name: str, data: bytes) -> None:
        self._marks[place] = mark
        event = b"" if name == "message" else b"event: %b\n" % name.encode()
        self._ready.append(b"id: %b\n%bdata: %b\n\n" % (".".join(self._marks).encode(), event, data))

    def _tell(self) -> None:
        if not self._told.done():
            self._told.set_result(None)

    async def _change(self) -> None:
        """Waits for anything new, or until it is time for a heartbeat."""
        loop = asyncio.get_running_loop()
        self._told = loop.create_future()
        heartbeat = loop.call_later(self._heartbeat, self._tell)
        marked = zip(self._tracked, self._marks, strict=True)
        watched = [tracked for tracked, mark in marked if mark != _PROBLEM and not tracked.ended]
        try:
            for tracked in watched:
                self._tracker.listen(tracked, self._tell)
            await self._told
        except ClientClosed:
            self._stopped = True
        finally:
            heartbeat.cancel()
            for tracked in watched:
                self._tracker.forget(tracked, self._tell)
