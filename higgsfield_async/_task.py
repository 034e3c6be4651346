"""The handle of one generation."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, cast, overload

import anyio

from higgsfield_async._domain import JobSet, JobStatus, TaskRef
from higgsfield_async._downloads import Progress, Variant, Writer, checked_destination, checked_variant, save_all
from higgsfield_async._errors import (
    Charged,
    ConfigurationError,
    ContentRejected,
    GenerationCanceled,
    GenerationError,
    GenerationFailed,
    HiggsfieldError,
    NotCancelable,
    WaitTimeout,
)
from higgsfield_async._ledger import Ledger
from higgsfield_async._polling import PollPolicy
from higgsfield_async._sources import Sources
from higgsfield_async._telemetry import fields
from higgsfield_async._tracker import Tracked, Tracker
from higgsfield_async._transports import Transport

if TYPE_CHECKING:
    from higgsfield_async._engine import HttpEngine

T = TypeVar("T")

logger = logging.getLogger("higgsfield_async.task")

OnCancel: TypeAlias = Literal["detach", "cancel"]

# How long a cancellation may be held up by canceling the generation itself, in seconds.
CANCEL_GRACE = 10.0


class TaskCalls(Protocol):
    """What can be done with a generation that there is."""

    async def poll(self, ref: TaskRef) -> JobSet:
        """Looks at it, once and now."""
        ...

    async def cancel(self, ref: TaskRef) -> None:
        """Cancels it."""
        ...

    async def delete(self, ref: TaskRef) -> None:
        """Deletes what it made."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceCalls:
    """The same, asked of the service itself."""

    transport: Transport
    engine: HttpEngine

    async def poll(self, ref: TaskRef) -> JobSet:
        """Looks at it, once and now."""
        return await self.engine.send(self.transport.poll(ref))

    async def cancel(self, ref: TaskRef) -> None:
        """Cancels it."""
        await self.engine.send(self.transport.cancel(ref))

    async def delete(self, ref: TaskRef) -> None:
        """Deletes what it made."""
        await self.engine.send(self.transport.delete(ref))


@dataclass(frozen=True, slots=True)
class Parts:
    """What an open client is made of."""

    transport: Transport
    engine: HttpEngine
    calls: TaskCalls
    tracker: Tracker
    poll: PollPolicy
    sources: Sources
    ledger: Ledger | None = None


class GenerationTask:
    """One generation that was submitted.

    Any number of callers may wait on it, or iterate over it, at once: the service is asked once for all of them, and
    only while somebody waits.

    Attributes:
        ref: What another process needs to pick it up.
    """

    __slots__ = ("__weakref__", "_parts", "_tracked", "ref")

    def __init__(self, parts: Parts, tracked: Tracked) -> None:
        self._parts = parts
        self._tracked = tracked
        self.ref: TaskRef = tracked.ref

    def __repr__(self) -> str:
        return f"GenerationTask({self.id!r}, status={self.status.value!r}, kind={self.ref.kind!r})"

    @property
    def id(self) -> str:
        """The service's id of the generation."""
        return self.ref.id

    @property
    def key(self) -> str | None:
        """The key of the unit of work that it is in the journal; None where there is none, or it is not in it."""
        return self._tracked.key

    @property
    def job_set(self) -> JobSet | None:
        """What was last seen of it, or None where it was picked up and not yet polled."""
        return self._tracked.job_set

    @property
    def status(self) -> JobStatus:
        """The status that was last seen; `unknown` where it was picked up and not yet polled."""
        return JobStatus.UNKNOWN if self.job_set is None else self.job_set.status

    async def refresh(self) -> JobSet:
        """Polls it once, now, and tells whoever waits.

        Where another client that shares the journal looks after it, what that one saw is read from there.

        Raises:
            HiggsfieldError: What the poll met with, with the `ref`.
        """
        parts, tracked = self._parts, self._tracked
        try:
            with (
                _about(self.ref),
                parts.engine.telemetry.poll(self.ref, tracked.submitted, scheduled=False) as observed,
            ):
                job_set = None if parts.ledger is None else await parts.ledger.elsewhere(tracked)
                if job_set is None:
                    job_set = await parts.calls.poll(self.ref)
                observed.status(job_set.status)
            parts.tracker.saw(tracked, job_set)
        finally:
            parts.tracker.unwatched(tracked)
        return job_set

    async def wait(self, timeout: float | None = None, check: bool = True, *, on_cancel: OnCancel = "detach") -> JobSet:
        """Waits for its end; at once if it has ended.

        No failed poll ends the wait: only the deadline, an answer that will not change (an unknown id, a key that is
        refused), or the caller does.

        Args:
            timeout: Seconds; None for the poll policy's deadline (20 minutes unless set), `math.inf` for no end.
            check: Whether an end other than `completed` is raised; else it is returned.
            on_cancel: What happens to the generation when the waiting asyncio task is cancelled: nothing
                (`"detach"`), or it is canceled too, where the service can (`"cancel"`), which holds the cancellation
                up by at most 10 seconds.

        Raises:
            GenerationFailed, ContentRejected, GenerationCanceled: It ended so.
            WaitTimeout: The deadline has passed. The generation goes on.
            AuthenticationFailed, PermissionDenied, NotFound: The service will not show it.
            ClientClosed: The client was closed.
        """
        seconds = checked_seconds(timeout, self._parts.poll)
        checked_on_cancel(on_cancel)
        tracked = self._tracked
        with self._parts.engine.telemetry.wait(self.ref, tracked.submitted) as observed:
            try:
                with anyio.move_on_after(seconds):
                    while not tracked.ended:
                        await self._parts.tracker.change(tracked, tracked.version)
            except anyio.get_cancelled_exc_class():
                logger.info("A wait was cancelled: %s", self.ref.to_json(), extra=fields(self.ref))
                if on_cancel == "cancel":
                    await cancel_quietly(self)
                raise
            finally:
                observed.status(tracked.status)
            if tracked.job_set is None or not tracked.ended:
                raise too_late(tracked, seconds)
            if check and (error := failure(tracked.job_set, self.ref)) is not None:
                raise error
            return tracked.job_set

    def updates(self, timeout: float | None = None) -> AsyncIterator[JobSet]:
        """Iterates over its states: the one that is known, then each change, the end last.

        A caller that is slow sees the newest state and never holds up another. The iteration may be left at any time.
        It does not raise for a generation that failed: the last state says so.

        Args:
            timeout: Seconds for the whole iteration; None for the poll policy's deadline, `math.inf` for no end.

        Raises:
            WaitTimeout, AuthenticationFailed, PermissionDenied, NotFound, ClientClosed: As `wait` does.
        """
        return _Updates(self._parts, self._tracked, checked_seconds(timeout, self._parts.poll))

    async def cancel(self) -> None:
        """Cancels it: on the platform's v2, and there only while it is queued. Nothing is charged then.

        Raises:
            NotCancelable: Too late: it has left the queue, and goes on.
            Unsupported: The service cannot cancel: the proxy, and the platform's v1.
        """
        with _about(self.ref):
            try:
                await self._parts.calls.cancel(self.ref)
            except NotCancelable:
                # Perhaps it is canceled already, by an earlier try whose answer was lost.
                if (await self.refresh()).status is not JobStatus.CANCELED:
                    raise
        self._parts.tracker.cancel(self._tracked)

    async def delete(self) -> None:
        """Deletes what it made from the service, once it has ended: on the platform's v2.

        Raises:
            Unsupported: The service cannot delete: the proxy, and the platform's v1.
        """
        with _about(self.ref):
            await self._parts.calls.delete(self.ref)

    @overload
    async def save(
        self,
        to: str | os.PathLike[str],
        *,
        variant: Variant = "raw",
        progress: Callable[[Progress], object] | None = None,
    ) -> list[Path]: ...

    @overload
    async def save(
        self, to: Writer[T], *, variant: Variant = "raw", progress: Callable[[Progress], object] | None = None
    ) -> list[T]: ...

    async def save(
        self,
        to: str | os.PathLike[str] | Writer[T],
        *,
        variant: Variant = "raw",
        progress: Callable[[Progress], object] | None = None,
    ) -> list[Path] | list[T]:
        """Waits for its end and saves every output, several at once.

        In a directory, a file appears when it is whole, under the generation's id; one that is already there is
        replaced. It is written beside its place and renamed, and not forced to the disk: what a power cut takes lies
        at the service yet. What breaks off on the way is taken up where it did, if the service allows it; what came is
        checked against the length that was announced, and against what the first bytes of a file can be.

        Where one output cannot be saved, the others are saved all the same, and then its error is raised.

        Args:
            to: A directory, which is made if there is none; or a writer, called for each output with a name that is
                safe for a file and an async iterator of its pieces.
            variant: `raw` as it was made, or `min`, as the service optimised it; of a job that has none such, all it
                has.
            progress: Called with each piece that is saved. It must not block. What it raises ends the saving; a file
                that is whole by then stays.

        Returns:
            The files, or what the writer returned, in the order of the outputs.

        Raises:
            DownloadError: An output could not be fetched or written, or is none; it has the `ref`.
            ConfigurationError: `to` or `variant` is none.
            HiggsfieldError: As `wait` does.
        """
        checked_destination(to)
        checked_variant(variant)
        job_set = await self.wait()
        found, saved = await save_all(self._parts.engine, self.ref, job_set, to, variant=variant, progress=progress)
        if self._parts.ledger is not None:
            self._parts.ledger.saved(self._tracked, saved)
        return cast("list[T]", found)


def checked_seconds(timeout: object, poll: PollPolicy) -> float:
    """A timeout in seconds, never negative; the policy's deadline for None.

    Raises:
        ConfigurationError: It is no number.
    """
    seconds = poll.deadline if timeout is None else timeout
    if not isinstance(seconds, (int, float)) or math.isnan(seconds):
        msg = "A timeout must be a number of seconds, math.inf or None."
        raise ConfigurationError(msg)
    return max(0.0, seconds)


def checked_on_cancel(on_cancel: object) -> None:
    """Refuses a word that is none of `OnCancel`.

    Raises:
        ConfigurationError: It is none.
    """
    if on_cancel not in ("detach", "cancel"):
        msg = f"on_cancel must be 'detach' or 'cancel', not {on_cancel!r}."
        raise ConfigurationError(msg)


class _Updates(AsyncIterator[JobSet]):
    # An object and not an async generator: it holds nothing between two steps, so that leaving it needs no clean-up.

    def __init__(self, parts: Parts, tracked: Tracked, seconds: float) -> None:
        self._tracker = parts.tracker
        self._telemetry = parts.engine.telemetry
        self._tracked = tracked
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._seen = 0
        self._ended = False

    async def __anext__(self) -> JobSet:
        if self._ended:
            raise StopAsyncIteration
        before = self._seen
        # Each step by itself: who leaves the iteration ends nothing.
        with self._telemetry.wait(self._tracked.ref, self._tracked.submitted) as observed:
            with anyio.move_on_after(self._deadline - time.monotonic()):
                self._seen = await self._tracker.change(self._tracked, before)
            observed.status(self._tracked.status)
            if self._seen == before or self._tracked.job_set is None:
                raise too_late(self._tracked, self._seconds)
        self._ended = self._tracked.ended
        return self._tracked.job_set


async def cancel_quietly(task: GenerationTask) -> None:
    """Cancels a generation for a caller that is itself being cancelled: bounded, and without raising."""
    with anyio.move_on_after(CANCEL_GRACE, shield=True) as scope:
        try:
            await task.cancel()
        except HiggsfieldError as error:
            msg = "Generation %s was not canceled: %s"
            logger.warning(msg, task.id, error, extra=fields(task.ref, error, paid=True))
    if scope.cancelled_caught:
        msg = "Generation %s was not canceled within %g seconds."
        logger.warning(msg, task.id, CANCEL_GRACE, extra=fields(task.ref, paid=True))


def too_late(tracked: Tracked, seconds: float) -> WaitTimeout:
    """The error of a wait whose deadline has passed."""
    last, ref = tracked.error, tracked.ref
    job_set = tracked.linkless or tracked.job_set
    state = "not seen yet" if job_set is None else f"{job_set.status.value} when last seen"
    if tracked.linkless is not None:
        state += ", without an address yet"
    failed = f" The last poll of it failed: {last}" if last else ""
    msg = (
        f"Generation {ref.id} did not end within {seconds:.3g} seconds; it was {state}, and goes on. "
        f"Wait again, or pick it up later by its ref.{failed}"
    )
    error = WaitTimeout(msg, job_set=job_set, ref=ref, charged="unknown")
    error.__cause__ = last
    return error


@contextmanager
def _about(ref: TaskRef, charged: Charged = "unknown") -> Generator[None]:
    """Puts the generation's ref on an error that passes, where it has none."""
    try:
        yield
    except HiggsfieldError as error:
        if error.ref is None:
            error.ref, error.charged = ref, charged
        raise


_FAILURES: Mapping[JobStatus, tuple[type[GenerationError], str]] = {
    JobStatus.FAILED: (GenerationFailed, "failed"),
    JobStatus.NSFW: (ContentRejected, "was refused by the service's moderation (nsfw)"),
    JobStatus.CANCELED: (GenerationCanceled, "was canceled"),
}
_MONEY = {
    "yes": "It was charged.",
    "no": "It was not charged.",
    "unknown": "The service does not say whether it was charged.",
}


def failure(job_set: JobSet, ref: TaskRef) -> GenerationError | None:
    """The error that an end is, or None where it is completed."""
    if job_set.status is JobStatus.COMPLETED:
        return None
    kind, words = _FAILURES[job_set.status]
    reason = f": {job_set.reason.rstrip('.')}" if job_set.reason else ""
    msg = f"Generation {job_set.id} {words}{reason}. {_MONEY[job_set.charged]}"
    return kind(msg, job_set=job_set, ref=ref, charged=job_set.charged)
