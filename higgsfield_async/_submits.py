"""Pays: from a request to the handle of a generation, or to an error that says what became of the money."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from higgsfield_async._budget import Books, Budget, Hold
from higgsfield_async._domain import Estimate, JobSet, TaskRef
from higgsfield_async._errors import (
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    HiggsfieldError,
    MalformedResponse,
    NotFound,
    RateLimited,
    SubmissionUnknown,
    Unsupported,
)
from higgsfield_async._estimates import estimate_one
from higgsfield_async._frozen import Frozen, frozen, replay_of, replayed
from higgsfield_async._http import Call, Ticket
from higgsfield_async._journal import Entry
from higgsfield_async._ledger import BUSY, BUSY_AT_MOST, Found, Unit, may_be_sent_again
from higgsfield_async._limits import Limits
from higgsfield_async._requests import GenerationRequest, SubmitOptions, checked_request
from higgsfield_async._task import GenerationTask, OnCancel, Parts, cancel_quietly
from higgsfield_async._telemetry import Observed, fields
from higgsfield_async._transports import Transport

# As the documentation names it: the refs of what was paid for by callers that are gone are in its warnings.
logger = logging.getLogger("higgsfield_async.client")

# So many idempotency keys are remembered.
KEYS_AT_MOST = 10_000

# Of a unit of work: its key, or what makes one of the form of its request.
Key: TypeAlias = str | Callable[[Frozen], str] | None

# The limit that comes with this word counts what waits in the account's queue, and each result of a batch by itself.
_QUEUE_FULL = "account_queue_full"


def checked_budget(budget: Budget | None, transport: Transport) -> Budget | None:
    """A budget that the service has prices for, or None.

    Raises:
        ConfigurationError: It counts in something else.
    """
    if budget is not None and budget.unit not in transport.units:
        mine = " or ".join(sorted(transport.units))
        msg = f"The {transport.name} has no prices in {budget.unit}: give a Budget in {mine}."
        raise ConfigurationError(msg)
    return budget


class Submits:
    """The submits of one client.

    Each is an asyncio task of its own: once it may have been accepted it is finished, whatever becomes of its caller.

    Args:
        transport: The service.
        limits: How long one is kept waiting.
        budget: What all of them may cost.

    Attributes:
        books: What they cost.
        closed: Whether the client takes no more of them.
    """

    def __init__(self, transport: Transport, limits: Limits, budget: Budget | None) -> None:
        self._transport = transport
        self._limits = limits
        self._budget = checked_budget(budget, transport)
        self._paying: dict[asyncio.Task[GenerationTask], Ticket] = {}
        self._canceling: set[asyncio.Task[None]] = set()
        # By idempotency keys that may come again: each brings back the same generation, and pays nothing more.
        self._holds: OrderedDict[str, Hold] = OrderedDict()
        # By keys of units of work that are being submitted, or looked for.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.books = Books()
        self.closed = False

    @property
    def waiting(self) -> int:
        """How many wait or are under way."""
        return len(self._paying)

    @property
    def under_way(self) -> set[asyncio.Task[Any]]:
        """What must end before the connections are closed."""
        return {*self._paying, *self._canceling}

    def abandon(self) -> None:
        """Ends those that nobody can have accepted; the others are finished, and not tried again."""
        for paying, ticket in self._paying.items():
            ticket.abandoned = True
            if not ticket.in_flight:
                paying.cancel()

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
        """Submits a generation, unless it was submitted before.

        Args:
            parts: What the open client is made of.
            request: What to make.
            options: What goes beside it.
            on_cancel: What becomes of a generation whose submit outlives its caller.
            until: When the caller's patience ends, by the monotonic clock.
            placed: Called when it has its place among the open generations.
            budget: What it must fit into, besides the client's own.
            key: Of the unit of work in the journal, or what makes it of the request; None for one that is new.

        Raises:
            HiggsfieldError: As `Higgsfield.submit` says.
        """
        request = checked_request(request)
        ledger = parts.ledger
        pay = functools.partial(self._submit, parts, on_cancel=on_cancel, until=until, placed=placed, budget=budget)
        if ledger is None:
            return await pay(request, options, None)
        await ledger.open()
        form = await frozen(request)
        if key is None:
            return await pay(request, options, Unit(ledger, uuid.uuid4().hex, form))
        name = key if isinstance(key, str) else key(form)
        pause = BUSY
        while True:
            self._check_open()
            # One at a time for each key: the others wait here, and not on the journal.
            turn = self._turns.setdefault(name, asyncio.Lock())
            with anyio.move_on_after(until - time.monotonic()) as patience:
                await turn.acquire()
            if patience.cancelled_caught:
                raise _not_in_time(name)
            try:
                entry = await ledger.known(name, form)
                if entry is None:
                    return await pay(request, options, Unit(ledger, name, form))
                if entry.ref is not None:
                    return self.found(parts, entry)
                if not entry.held:
                    return await self._again(parts, request, options, entry, pay)
            except Found:
                pass
            finally:
                turn.release()
            # Somebody else, or an earlier caller here, is submitting it. That has time limits of its own.
            if time.monotonic() + pause > until:
                raise _not_in_time(name)
            await anyio.sleep(pause)
            pause = min(2 * pause, BUSY_AT_MOST)

    def found(self, parts: Parts, entry: Entry) -> GenerationTask:
        """The handle of a generation that is in the journal."""
        assert entry.ref is not None  # noqa: S101  # it was submitted
        tracked = parts.tracker.track(entry.ref, entry.job_set if entry.state == "ended" else None)
        tracked.key = entry.key
        tracked.holding = tracked.holding or (entry.mine and entry.state != "ended")
        if parts.ledger is not None and tracked.ended and tracked.job_set is not None and entry.state != "ended":
            # Reported before anybody here knew that it is in the journal.
            parts.ledger.seen(tracked, tracked.job_set)
        parts.tracker.unwatched(tracked)
        return GenerationTask(parts, tracked)

    async def recovered(self, parts: Parts, entry: Entry) -> GenerationTask:
        """Finds out what became of a submit whose answer was lost, where its service can tell.

        Raises:
            HiggsfieldError: It was not found out, and is unknown as before.
            Found: Somebody else is at it.
        """
        turn = self._turns.setdefault(entry.key, asyncio.Lock())
        if turn.locked():
            raise Found
        async with turn:
            pay = functools.partial(self._submit, parts)
            return await self._again(parts, None, SubmitOptions(), entry, pay)

    async def _again(
        self,
        parts: Parts,
        request: GenerationRequest | None,
        options: SubmitOptions,
        entry: Entry,
        pay: Callable[..., Coroutine[object, object, GenerationTask]],
    ) -> GenerationTask:
        """Submits once more what may have been accepted, with the key that it had.

        Raises:
            SubmissionUnknown: The service has no such key, or may have forgotten it.
            Found: It is not unknown any more, or somebody else is at it.
        """
        ledger, intent = parts.ledger, entry.intent
        assert ledger is not None  # noqa: S101  # that is where the entry is from
        if not may_be_sent_again(intent, datetime.now(UTC)) or (request is None and intent.replay is None):
            raise _unknown_before(request, entry)
        claimed = await ledger.claim(entry.key)
        if claimed is None or not claimed.mine or (claimed.state, claimed.intent) != ("unknown", intent):
            if claimed is not None and claimed.mine:
                ledger.owe(entry.key, functools.partial(ledger.journal.release, entry.key))
            raise Found
        assert intent.idempotency_key is not None  # noqa: S101  # else it may not be sent again
        if intent.replay is not None:
            request, options = replayed(intent.replay, intent.idempotency_key)
        else:
            options = replace(options, idempotency_key=intent.idempotency_key, resumes=True)
        try:
            return await pay(request, options, Unit(ledger, entry.key, Frozen(b"", intent.digest, ""), claimed))
        except SubmissionUnknown:
            raise
        except HiggsfieldError as error:
            # What keeps it from being sent again says nothing of what became of it before.
            raise _unknown_before(request, entry, error) from error

    async def _submit(
        self,
        parts: Parts,
        request: GenerationRequest,
        options: SubmitOptions,
        unit: Unit | None,
        *,
        on_cancel: OnCancel = "detach",
        until: float = math.inf,
        placed: Callable[[], None] = lambda: None,
        budget: Budget | None = None,
    ) -> GenerationTask:
        mine = self._transport
        with parts.engine.telemetry.submit(mine.name, mine.origin, _kind(mine, request)) as observed:
            try:
                request = await parts.sources.prepared(request, lambda each: mine.submit(each, options), until)
                call = mine.submit(request, options)
                if unit is not None:
                    unit.describe(mine.kind(request), call.key, replay_of(request, options))
                budgets = [each for each in dict.fromkeys((self._budget, budget)) if each is not None]
                until = min(until, time.monotonic() + self._limits.patience)
                price = None if call.key in self._holds else await self._price(parts, request, budgets, until)
                # Who is cancelled already pays nothing: past this line the submit outlives its caller.
                await anyio.lowlevel.checkpoint()
                self._check_open()
                hold = self._hold(call.key, price, request, budgets)
            except BaseException:
                if unit is not None:
                    unit.failed(lost=True)  # one that was begun before
                raise
            ticket = Ticket(until=until, doubtful=call.resumed or hold.doubtful)
            if unit is not None:
                ticket.begin, ticket.taken_back = unit.begin, functools.partial(unit.failed, lost=False)
            paying = asyncio.create_task(
                self._pay(
                    parts,
                    call,
                    request,
                    unit,
                    ticket=ticket,
                    hold=hold,
                    placed=placed,
                    reported=options.webhook is not None,
                    observed=observed,
                ),
                name="higgsfield_async.submit",
            )
            observed.until(paying)
        self._paying[paying] = ticket
        if unit is not None:
            paying.add_done_callback(functools.partial(_let_go, unit))
        paying.add_done_callback(self._paying.pop)
        given = options.idempotency_key is not None
        paying.add_done_callback(functools.partial(self._paid, hold, ticket, call.key, given=given))
        try:
            return await asyncio.shield(paying)
        except asyncio.CancelledError:
            if paying.cancelled() and self.closed and not _being_cancelled():
                raise self._closed_on(request, call, ticket, unit) from None
            ticket.abandoned = True
            if ticket.in_flight:
                paying.add_done_callback(functools.partial(self._left_behind, on_cancel, call.key))
            else:
                paying.cancel()
            raise

    def _check_open(self) -> None:
        if self.closed:
            msg = "The client was closed before this was submitted."
            raise ClientClosed(msg, refused=True)

    async def _price(
        self, parts: Parts, request: GenerationRequest, budgets: list[Budget], until: float
    ) -> Estimate | None:
        """What a generation will cost; None where that is not known, or would have to be asked for and is not."""
        known = self._transport.price(request)
        if known is not None or not budgets:
            return known
        with anyio.move_on_after(until - time.monotonic()):
            while True:
                try:
                    return await estimate_one(parts, request)
                except RateLimited as error:
                    # It waits for its turn like a submit: what is refused as too much is held back.
                    logger.info("The price is asked for again: %s", error, extra=fields(error=error))
                except (Unsupported, MalformedResponse):
                    return None
                except NotFound:
                    if any(budget.unpriced is None for budget in budgets):
                        raise
                    return None
        msg = f"The price of {self._transport.kind(request)} was not told in time, so that it was not submitted."
        raise ConnectionFailed(msg, refused=True, transient=True)

    def _hold(self, key: str | None, price: Estimate | None, request: GenerationRequest, budgets: list[Budget]) -> Hold:
        hold = None if key is None else self._holds.get(key)
        if hold is None:
            hold = Hold(self.books, self._transport.kind(request), price, budgets)
        hold.begin()
        if key is not None:
            self._holds[key] = hold
            self._holds.move_to_end(key)
            if len(self._holds) > KEYS_AT_MOST:
                self._holds.popitem(last=False)
        return hold

    def _paid(
        self, hold: Hold, ticket: Ticket, key: str | None, paying: asyncio.Task[GenerationTask], *, given: bool
    ) -> None:
        """Books what became of a submit."""
        error = None if paying.cancelled() else paying.exception()
        accepted = not paying.cancelled() and error is None
        if accepted:
            doubtful = False
        elif isinstance(error, HiggsfieldError):
            doubtful = error.charged != "no"
        else:
            doubtful = ticket.in_flight or ticket.doubtful
        hold.end(accepted=accepted, doubtful=doubtful)
        # A key of our own is told to nobody, but where its answer is lost. What was refused has no claim on a key.
        if key is not None and hold.idle and not (hold.doubtful or (accepted and given)):
            self._holds.pop(key, None)

    async def _pay(
        self,
        parts: Parts,
        call: Call[JobSet],
        request: GenerationRequest,
        unit: Unit | None,
        *,
        ticket: Ticket,
        hold: Hold,
        placed: Callable[[], None],
        reported: bool,
        observed: Observed,
    ) -> GenerationTask:
        try:
            job_set = await self._accepted(parts, call, ticket, placed)
        except BaseException as error:
            # However it ends: an earlier try may have been accepted, by this call or by the one that it resumes.
            answer = error if isinstance(error, HiggsfieldError) else None
            lost = ticket.doubtful or (ticket.in_flight if answer is None else answer.charged == "unknown")
            if unit is not None:
                unit.failed(lost=lost)
                if answer is not None:
                    await unit.settled()
            if answer is not None and lost:
                raise _unknown(request, call, answer, unit) from answer
            raise
        transport = self._transport
        ref = TaskRef(
            transport=transport.name,
            origin=transport.origin,
            account=transport.account,
            id=job_set.id,
            kind=transport.kind(request),
            created_at=datetime.now(UTC),
        )
        observed.generation(ref.id)
        if unit is not None:
            await unit.accepted(ref)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Submitted: %s", ref.to_json(), extra=fields(ref))
        tracked = parts.tracker.track(ref, job_set, reported=reported)
        tracked.submitted = tracked.submitted or observed.origin
        if unit is not None:
            unit.opened(tracked)
        parts.tracker.book(tracked, hold)
        parts.tracker.occupy(tracked)
        parts.tracker.unwatched(tracked)
        return GenerationTask(parts, tracked)

    async def _accepted(self, parts: Parts, call: Call[JobSet], ticket: Ticket, placed: Callable[[], None]) -> JobSet:
        """Waits for a place and submits, and again for as long as limits refuse it. The place is kept."""
        tracker = parts.tracker
        if not await tracker.reserve(ticket.waits_until):
            msg = "Not sent: no place among the generations that may be open at once became free in time."
            raise RateLimited(msg, status=429, refused=True, transient=True)
        held = True
        placed()
        try:
            while True:
                try:
                    return await parts.engine.send(call, ticket)
                except RateLimited as error:
                    if error.limit is not None and error.code != _QUEUE_FULL:
                        tracker.learn(error.limit)
                    if time.monotonic() + parts.engine.pace.held_back("submit") >= ticket.waits_until:
                        raise
                    logger.info("Held back: %s", error, extra=fields(error=error))
                    parts.engine.telemetry.retried("submit", error)
                    # What is in doubt may be open already, in the place that it has.
                    if not ticket.doubtful:
                        ticket.taken_back()
                        tracker.release()
                        held = False
                        held = await tracker.reserve(ticket.waits_until)
                        if not held:
                            raise
        except BaseException:
            if held:
                tracker.release()
            raise

    def _left_behind(self, on_cancel: OnCancel, key: str | None, paying: asyncio.Task[GenerationTask]) -> None:
        """Nobody is there any more to take what a submit brought: it goes to the log."""
        if paying.cancelled():
            msg = "A submit was cut short: it may have been accepted, and paid for. Its idempotency key: %s"
            logger.warning(msg, key, extra=fields(paid=True))
        elif (error := paying.exception()) is not None:
            lost = isinstance(error, SubmissionUnknown)
            msg = "A submit whose caller was cancelled did not succeed: %s"
            logger.warning(msg, error, extra=fields(error=error, paid=lost))
        else:
            task = paying.result()
            msg = "A submit whose caller was cancelled was accepted: %s"
            logger.warning(msg, task.ref.to_json(), extra=fields(task.ref, paid=True))
            if on_cancel == "cancel":
                self.cancel_behind(task)

    def cancel_behind(self, task: GenerationTask) -> None:
        """Cancels a generation that nobody waits for any more, in an asyncio task of its own."""
        canceling = asyncio.create_task(cancel_quietly(task), name="higgsfield_async.cancel")
        self._canceling.add(canceling)
        canceling.add_done_callback(self._canceling.discard)

    def _closed_on(
        self, request: GenerationRequest, call: Call[JobSet], ticket: Ticket, unit: Unit | None
    ) -> HiggsfieldError:
        msg = "The client was closed before the submit was answered."
        unknown = ticket.in_flight or ticket.doubtful
        closed = ClientClosed(msg, charged="unknown" if unknown else "no")
        return _unknown(request, call, closed, unit) if unknown else closed


def _kind(transport: Transport, request: GenerationRequest) -> str:
    try:
        return transport.kind(request)
    except HiggsfieldError:
        return type(request).__name__  # what the service cannot make: it is refused in a moment


def _let_go(unit: Unit, paying: asyncio.Task[GenerationTask]) -> None:
    """One that is cancelled before its first step cannot do so itself."""
    if paying.cancelled():
        unit.failed(lost=True)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _not_in_time(key: str) -> ConnectionFailed:
    msg = f"{key!r} is being submitted by another caller, and was not answered in time."
    return ConnectionFailed(msg, refused=True, transient=True)


def _unknown_before(
    request: GenerationRequest | None, entry: Entry, cause: HiggsfieldError | None = None
) -> SubmissionUnknown:
    """The error of what was unknown before, and is: it was not sent again, for the cause that is given."""
    intent = entry.intent
    begun = f"{intent.created_at:%Y-%m-%d %H:%M} UTC"
    lost = ConnectionFailed(f"The client that submitted it on {begun} never wrote an answer down.", charged="unknown")
    how = _BY_HAND.format(key=entry.key) if cause is None else f"It was not sent again with its key: {cause}"
    msg = (
        f"{entry.key!r} ({intent.kind}) was submitted on {begun}, and may have been accepted, but the answer is lost. "
        f"{how}"
    )
    return SubmissionUnknown(
        msg,
        request=request,
        key=intent.idempotency_key,
        cause=cause or lost,
        journal_key=entry.key,
        transient=cause is not None and cause.transient,
    )


_BY_HAND = (
    "Look for it in the account's history: hf.resolve({key!r}, id) attaches what is found there, and "
    "hf.forget({key!r}) lets it be submitted anew, which may cost twice."
)


def _unknown(
    request: GenerationRequest, call: Call[JobSet], cause: HiggsfieldError, unit: Unit | None
) -> SubmissionUnknown:
    if unit is not None and call.key is not None:
        how = f"Submit it again with key={unit.key!r}: that brings the generation back, if there is one."
    elif unit is not None:
        how = _BY_HAND.format(key=unit.key)
    elif call.key is not None:
        how = (
            f"Submit it again with idempotency_key={call.key!r}: that brings back the same generation, if there is one."
        )
    else:
        how = "Look at the account's history or balance before submitting it again: it may cost twice."
    msg = f"{type(request).__name__} was submitted, and may have been accepted, but the answer is lost. {how} ({cause})"
    return SubmissionUnknown(
        msg,
        request=request,
        key=call.key,
        journal_key=None if unit is None else unit.key,
        cause=cause,
        # Without a key, trying again is just what may pay twice.
        transient=cause.transient and call.key is not None,
        retry_after=cause.retry_after,
    )
