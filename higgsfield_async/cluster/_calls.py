"""What is done with a generation of a cluster, and how one is put into its queue."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping

from higgsfield_async._budget import Budget
from higgsfield_async._domain import JobSet, TaskRef
from higgsfield_async._errors import (
    ConnectionFailed,
    HiggsfieldError,
    JournalError,
    NotCancelable,
    Unsupported,
)
from higgsfield_async._frozen import frozen
from higgsfield_async._http import Ticket
from higgsfield_async._limits import Limits
from higgsfield_async._requests import GenerationRequest, SubmitOptions, checked_request
from higgsfield_async._submits import Key, Submits
from higgsfield_async._task import GenerationTask, OnCancel, Parts
from higgsfield_async.cluster._rows import Rows, Standing, Work, no_such
from higgsfield_async.cluster._transport import QueueTransport

logger = logging.getLogger("higgsfield_async.cluster")

# For so many seconds a submit waits for a database that is away, and a cancel for a worker's answer.
PATIENCE = 60.0
ANSWER = 30.0


class Enqueues(Submits):
    """The submits of a cluster: each is a row in the database, which a worker submits to the service.

    Args:
        transport: The queue.
        limits: How long one is kept waiting.
        rows: The rows of the account.
    """

    def __init__(self, transport: QueueTransport, limits: Limits, rows: Rows) -> None:
        super().__init__(transport, limits, None)
        self._queue = transport
        self._rows = rows

    async def submit(
        self,
        parts: Parts,
        request: GenerationRequest,
        options: SubmitOptions,
        *,
        on_cancel: OnCancel = "detach",
        until: float = math.inf,
        placed: Callable[[], None] = lambda: None,
        budget: Budget | None = None,
        key: Key = None,
    ) -> GenerationTask:
        """Puts a generation into the queue, unless it is there.

        Args:
            parts: As for `Submits`, and so the rest.
            request: What to make.
            options: What goes beside it.
            on_cancel: What becomes of a generation whose submit outlives its caller.
            until: When the caller's patience ends, by the monotonic clock.
            placed: Called when it is about to be written down.
            budget: None: there are no prices here.
            key: Of the unit of work, or what makes it of the request; None for one that is new.

        Raises:
            HiggsfieldError: As `Cluster.submit` says.
        """
        request = checked_request(request)
        form = await frozen(request)
        name = uuid.uuid4().hex if key is None else key if isinstance(key, str) else key(form)
        request = await parts.sources.prepared(request, lambda each: self._queue.checked(each, options), until)
        self._queue.checked(request, options)
        work = Work(key=name, kind=self._queue.kind(request), digest=form.digest, request=request, options=options)
        self._check_open()
        placed()
        # As a submit to a service: once it may be written down, it is finished whatever becomes of its caller.
        ticket = Ticket(until=until)
        paying = asyncio.create_task(
            self._put(parts, work, min(PATIENCE, until - time.monotonic())), name="higgsfield_async.submit"
        )
        self._paying[paying] = ticket
        paying.add_done_callback(self._paying.pop)
        ticket.in_flight = True
        try:
            return await asyncio.shield(paying)
        except asyncio.CancelledError:
            paying.add_done_callback(functools.partial(self._left_behind, on_cancel, name))
            raise

    async def _put(self, parts: Parts, work: Work, seconds: float) -> GenerationTask:
        try:
            found = await self._rows.put(work, seconds)
        except JournalError as error:
            if error.charged != "unknown":
                raise
            msg = f"{error} It may be queued all the same: submit it again with key={work.key!r}, which pays once."
            raise JournalError(msg, charged="unknown", transient=True) from error
        task = self.standing(parts, found)
        logger.debug("Queued: %s", work.key)
        return task

    def standing(self, parts: Parts, found: Standing) -> GenerationTask:
        """The handle of a generation that stands in the queue.

        Raises:
            HiggsfieldError: There is nothing more to be seen of it.
        """
        ref = TaskRef(
            transport=self._queue.name,
            origin=self._queue.origin,
            account=self._queue.account,
            id=found.key,
            kind=found.kind,
            created_at=found.created_at,
        )
        seen = found.seen()
        if isinstance(seen, HiggsfieldError):
            seen.ref = ref
            raise seen
        tracked = parts.tracker.track(ref, seen)
        tracked.key = found.key
        return GenerationTask(parts, tracked)


class RowCalls:
    """The `TaskCalls` of a cluster: what is read is the database, and what is asked is a worker.

    Args:
        rows: The rows of the account.
        every: The seconds between two looks for an answer.
    """

    def __init__(self, rows: Rows, every: float) -> None:
        self._rows = rows
        self._every = every

    async def poll(self, ref: TaskRef) -> JobSet:
        """Reads how it stands, now."""
        found = (await self._rows.find(ref.id)).seen()
        if isinstance(found, HiggsfieldError):
            found.ref = ref
            raise found
        return found

    async def changed(self, marks: Mapping[str, str]) -> Mapping[str, tuple[str, JobSet | HiggsfieldError]]:
        """Reads how those stand that changed."""
        found = await self._rows.changed(marks)
        return {key: ("", no_such(key)) if each is None else (each.mark, each.seen()) for key, each in found.items()}

    async def cancel(self, ref: TaskRef) -> None:
        """Cancels it: in the queue, or where it was submitted."""
        done = await self._rows.cancel(ref.id)
        if done == "canceled":
            return
        until = time.monotonic() + ANSWER
        while done == "asked" and time.monotonic() < until:
            await asyncio.sleep(min(self._every, 0.5))
            found = await self._rows.find(ref.id)
            if not found.cancel_asked:
                if found.cancel_error is not None:
                    raise found.cancel_error
                return
            done = "ended" if found.state == "ended" else "asked"
        if done == "ended":
            msg = f"Generation {ref.id} is over: there is nothing to cancel."
            raise NotCancelable(msg, status=409, charged="unknown")
        msg = f"No worker answered the cancel of generation {ref.id} within {ANSWER:g} seconds; one may do it yet."
        raise ConnectionFailed(msg, transient=True)

    async def delete(self, ref: TaskRef) -> None:
        """Not here."""
        msg = "A Cluster deletes nothing at the service: it has no key. Use a Higgsfield client, where the key is."
        raise Unsupported(msg)
