"""Looks after every open generation of a client, with one schedule for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import heapq
import itertools
import logging
import math
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from datetime import UTC, datetime
from weakref import ReferenceType, WeakValueDictionary, ref as weak

from higgsfield_async._budget import Hold
from higgsfield_async._domain import JobSet, JobStatus, TaskRef
from higgsfield_async._durations import Durations
from higgsfield_async._errors import ClientClosed, HiggsfieldError, NotFound
from higgsfield_async._limits import Limits
from higgsfield_async._pace import Pace, Places, Unused
from higgsfield_async._polling import PollPolicy, ends_wait
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._telemetry import SILENT, Telemetry, fields
from higgsfield_async._webhooks import WebhookEvent

logger = logging.getLogger("higgsfield_async.tracker")

# A completed generation may be without its address for a moment: sibling services of the proxy's were seen so. For so
# many seconds it is looked at again before it is handed over as it is.
LINK_GRACE = 30.0

# For so many seconds a generation that nobody waits for is kept at hand; none was heard of that takes nearly as long.
KEPT_AT_HAND = 24 * 3600.0

# What is due within so many seconds is looked at together. The timers of uvloop, too, are no finer.
TICK = 0.002

# While reports of ends come, a generation that one was asked for is looked at only after so many seconds, in case it is
# lost.
SAFETY_NET = 60.0

# A report may come before the answer to the submit: for so many seconds one of an unknown generation is kept, and the
# keys of so many are, to tell those that come again.
EARLY, EARLY_AT_MOST, KEYS_AT_MOST = 600.0, 1_000, 10_000

# For so many seconds the end of what was canceled is looked for, whether anybody waits for it or not.
LEAVE = 60.0

# Anybody may send a hint: it brings a look forward no more often than each so many seconds.
HINTS = 2.0

# When polls are limited, the next one is the best of so many, drawn by chance: nearly as good as the best of all.
DRAWN = 16


class Tracked:
    """One generation: what was last seen of it, and when to look again. Shared by all its handles.

    Attributes:
        ours: Whether it was submitted here, and not picked up.
        born: When it was submitted, by the monotonic clock.
        seen_open: When a look last found it open; when it was submitted or picked up, before there was one.
        hold: Its price in the books, where it was submitted here.
        held: Whether it holds a place: it is open, as far as is known.
        ripe: Whether a look at it is due, and waits to be made.
        planned: When it stands in the schedule, or None.
        reported: Whether the service was asked to report its end.
        key: Of the unit of work that it is in the journal, or None where it is in none, as far as is known.
        holding: Whether it is looked after here, and by nobody else who shares the journal.
        written: Whether its end was read from the journal.
        submitted: What its submit is to those who watch, where it was made and watched here.
        leaving: Until when it is looked at though nobody waits for it: it was canceled, and its end settles its price.
        hints_from: When a hint that proves nothing may bring a look forward again.
        first: The first record of the same id, where this one has another kind: a ref may come from anywhere.
        namesakes: Of the first one, the others.
    """

    __slots__ = (
        "__weakref__",
        "born",
        "due",
        "ended",
        "error",
        "failures",
        "fatal",
        "first",
        "held",
        "hints_from",
        "hold",
        "holding",
        "hurried",
        "job_set",
        "key",
        "leaving",
        "linkless",
        "linkless_since",
        "listeners",
        "looking",
        "looks",
        "namesakes",
        "ours",
        "planned",
        "ref",
        "reported",
        "ripe",
        "seen_open",
        "status",
        "submitted",
        "version",
        "written",
    )

    def __init__(self, ref: TaskRef, job_set: JobSet | None, now: float) -> None:
        self.ref = ref
        self.job_set = job_set
        self.status = JobStatus.UNKNOWN if job_set is None else job_set.status
        self.ended = job_set is not None and self.status.terminal
        self.version = 0 if job_set is None else 1
        self.error: HiggsfieldError | None = None
        self.fatal = 0
        self.listeners: list[Callable[[], None]] = []
        self.looks = 0
        self.failures = 0
        self.ours = job_set is not None
        self.born = now if self.ours else now - _age(ref)
        self.seen_open = now
        self.hold: Hold | None = None
        self.key: str | None = None
        self.holding = False
        self.written = False
        self.submitted: object = None
        self.leaving = -math.inf
        self.held = False
        self.looking = False
        self.ripe = False
        self.due = now
        self.planned: float | None = None
        self.reported = False
        self.hints_from = now
        self.first: Tracked | None = None
        self.namesakes: tuple[ReferenceType[Tracked], ...] = ()
        self.hurried = False
        self.linkless: JobSet | None = None
        self.linkless_since: float | None = None

    def see(self, job_set: JobSet, now: float) -> bool:
        """Takes what a look found, and says whether that is news. An end stays an end, whatever a late answer says."""
        self.error = None
        self.failures = 0
        if self.ended:
            return False
        status = job_set.status
        self.linkless = job_set if status.terminal and self._may_still_be_linked(job_set, now) else None
        if self.linkless is not None:
            return False
        if not status.terminal:
            self.seen_open = now
        before, self.job_set = self.job_set, job_set
        # The answer to a submit may hold no jobs yet: that they are there now is no change of status.
        changed = (
            before is None
            or status is not self.status
            or (bool(before.jobs) and before.jobs != job_set.jobs and _words(before) != _words(job_set))
        )
        self.status, self.ended = status, status.terminal
        self.version += changed
        return changed

    def _may_still_be_linked(self, job_set: JobSet, now: float) -> bool:
        if job_set.fileless or not any(job.status is JobStatus.COMPLETED and not job.outputs for job in job_set.jobs):
            return False
        if self.linkless_since is None:
            self.linkless_since = now
        return now - self.linkless_since < LINK_GRACE

    def fail(self, error: HiggsfieldError) -> None:
        """Ends the waits that are under way, and only those: a later one looks again."""
        self.error = error
        self.fatal += 1
        self.tell()

    def tell(self) -> None:
        """Calls whoever listens."""
        for listener in tuple(self.listeners):
            listener()


def _age(ref: TaskRef) -> float:
    """The seconds since a submit of another process; its clock may be another one."""
    created_at = ref.created_at if ref.created_at.tzinfo else ref.created_at.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - created_at).total_seconds())


def _words(job_set: JobSet) -> list[tuple[str, str]]:
    return [(job.id, job.raw_status) for job in job_set.jobs]


class Tracker:
    """One per client.

    No asyncio task is spent on a generation: one timer wakes for the next that is due, and at most `max_connections`
    tasks look at what is, while anything is.

    Args:
        look: Performs one poll, once, in the place that the tracker holds.
        news: Called with what a look found, where it is a change.
        idle: Called with what nobody listens for any more.
        pace: Gives places for polls.
        poll: When to look again.
        retry: When to look again after a look that failed.
        limits: How many generations may be open, and how many polls under way.
        telemetry: Told of looks, ends and webhooks.
    """

    def __init__(
        self,
        look: Callable[[Tracked], Awaitable[JobSet]],
        *,
        news: Callable[[Tracked, JobSet], None],
        idle: Callable[[Tracked], None],
        pace: Pace,
        poll: PollPolicy,
        retry: RetryPolicy,
        limits: Limits,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self.telemetry = telemetry
        self._look = look
        self._news = news
        self._idle = idle
        self._pace = pace
        self._retry = retry
        self._at_once = limits.max_connections
        self._places = Places(limits.max_active)
        self._durations = Durations(poll)
        self._known: WeakValueDictionary[tuple[str, str], Tracked] = WeakValueDictionary()
        self._open: dict[tuple[str, str], Tracked] = {}
        self._schedule: list[tuple[float, int, Tracked]] = []
        self._order = itertools.count()
        self._ripe: deque[Tracked] = deque()
        self._lookers: set[asyncio.Task[None]] = set()
        self._looking = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._cause: BaseException | None = None
        self._named: WeakValueDictionary[str, Tracked] = WeakValueDictionary()
        self._reports_come = False
        self._early: OrderedDict[str, tuple[float, JobSet]] = OrderedDict()
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self.ends: Counter[JobStatus] = Counter()

    # Which generations there are, and how many may be.

    def track(self, ref: TaskRef, job_set: JobSet | None = None, *, reported: bool = False) -> Tracked:
        """The one record of a generation; made if there is none.

        Args:
            ref: What it is.
            job_set: The answer to its submit; None where it is picked up.
            reported: Whether the service was asked to report its end.
        """
        tracked = self._known.get((ref.kind, ref.id))
        if tracked is None:
            now = time.monotonic()
            tracked = self._known[ref.kind, ref.id] = Tracked(ref, job_set, now)
            tracked.reported = reported
            first = self._named.setdefault(ref.id, tracked)
            if first is not tracked:
                tracked.first = first
                first.namesakes = (*(each for each in first.namesakes if each() is not None), weak(tracked))
            # One just submitted has time; of one picked up, nothing is known: it is looked at once.
            if job_set is not None:
                tracked.due = now + self._gap(tracked, now)
            if tracked.ended:
                self.ends[tracked.status] += 1
            if (early := self._early.pop(ref.id, None)) is not None:
                self._take(tracked, early[1])
        return tracked

    def disown(self, key: str) -> None:
        """Forgets that a generation is a unit of work: its key may be another one's soon."""
        for tracked in self._known.values():
            if tracked.key == key:
                tracked.key, tracked.holding = None, False

    @property
    def opened(self) -> Iterable[Tracked]:
        """Every generation that was submitted or looked at, and not seen to end, the oldest first."""
        return self._open.values()

    def has_room(self, more: int) -> bool:
        """Whether a generation could be opened now, and so many more before it."""
        return self._places.free(more)

    async def reserve(self, until: float) -> bool:
        """Waits for a place for one more generation, and says whether there was one in time.

        Open generations are looked at meanwhile, whether anybody waits for them or not: an end makes room.

        Args:
            until: When patience ends, by the monotonic clock; `math.inf` for never.

        Raises:
            ClientClosed: Nobody would see what becomes of it.
        """
        if self._closed:
            raise _not_sent(self._cause)
        if self._places.free():
            self._places.take()
            return True
        first = not self._places.line
        return await self._places.line.wait(until, self._look_for_room if first else lambda: None)

    def release(self) -> None:
        """Gives a reserved place back: nothing was opened."""
        self._places.give_back()

    def occupy(self, tracked: Tracked) -> None:
        """Turns a reserved place into that of a generation, which keeps it until it ends."""
        if tracked.held or tracked.ended:
            self._places.give_back()
        else:
            self._hold(tracked)

    def book(self, tracked: Tracked, hold: Hold) -> None:
        """Has the price of a generation settled at its end."""
        tracked.hold = tracked.hold or hold
        if tracked.ended and tracked.job_set is not None:
            hold.settle(tracked.job_set.charged)

    def learn(self, most: int) -> None:
        """Takes the service's word for how many generations may be open."""
        self._places.learn(most)

    def _hold(self, tracked: Tracked) -> None:
        tracked.held = True
        self._open[tracked.ref.kind, tracked.ref.id] = tracked
        self._consider(tracked)
        oldest = next(iter(self._open.values()))
        if time.monotonic() - oldest.seen_open > KEPT_AT_HAND:
            self._let_go(oldest)

    def _let_go(self, tracked: Tracked) -> None:
        """Forgets one that has ended, or that nobody has asked for in a day."""
        del self._open[tracked.ref.kind, tracked.ref.id]
        self._vacate(tracked)

    def _vacate(self, tracked: Tracked) -> None:
        if tracked.held:
            tracked.held = False
            self._places.give_back()

    def _look_for_room(self) -> None:
        for tracked in self._open.values():
            self._consider(tracked)

    # Who is told.

    async def change(self, tracked: Tracked, seen: int) -> int:
        """Waits until there is more to see than the version that was seen, and gives the newest version.

        Raises:
            HiggsfieldError: A look met with something that will not pass, or the client was closed.
        """
        while tracked.version <= seen:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            fatal = tracked.fatal

            def tell(told: asyncio.Future[None] = told) -> None:
                if not told.done():
                    told.set_result(None)

            self.listen(tracked, tell)
            try:
                await told
            finally:
                self.forget(tracked, tell)
            if tracked.error is not None and tracked.fatal > fatal and tracked.version <= seen:
                # A copy for each: several may wait, and a traceback belongs to one.
                raise copy.copy(tracked.error) from tracked.error.__cause__
        return tracked.version

    def listen(self, tracked: Tracked, listener: Callable[[], None]) -> None:
        """Looks after a generation while anybody listens, and tells of each change and of what ends waits.

        Raises:
            ClientClosed: There are no more looks.
        """
        if self._closed:
            raise _closed(tracked.ref, self._cause)
        tracked.listeners.append(listener)
        self._consider(tracked)

    def forget(self, tracked: Tracked, listener: Callable[[], None]) -> None:
        """Ends what `listen` began, if it did."""
        with contextlib.suppress(ValueError):
            tracked.listeners.remove(listener)
        self.unwatched(tracked)

    def unwatched(self, tracked: Tracked) -> None:
        """Lets others look after a generation that nobody here listens for."""
        if not tracked.listeners and not tracked.ended:
            self._idle(tracked)

    def cancel(self, tracked: Tracked) -> None:
        """Looks for the end of a generation that was canceled, whether anybody waits for it or not."""
        tracked.leaving = time.monotonic() + LEAVE
        self.hurry(tracked)

    def hurry(self, tracked: Tracked) -> None:
        """Looks at a generation now, if anybody waits for it."""
        tracked.due = time.monotonic()
        # One that is under way may have been answered before whatever is the reason for this.
        tracked.hurried = tracked.looking
        self._consider(tracked)

    def saw(self, tracked: Tracked, job_set: JobSet) -> None:
        """Takes what was found, by a look of the schedule or by another."""
        now = time.monotonic()
        known = tracked.job_set is not None
        news = tracked.see(job_set, now)
        if tracked.ended and news:
            self.ends[tracked.status] += 1
            self.telemetry.ended(
                tracked.ref,
                tracked.status,
                lasted=now - tracked.born if tracked.ours else None,
                late=now - tracked.seen_open if known else None,
            )
            if tracked.hold is not None:
                tracked.hold.settle(job_set.charged)
            # Of the others nobody knows how long they would have taken, or did take.
            if tracked.ours and tracked.status is JobStatus.COMPLETED and tracked.linkless_since is None:
                self._durations.ended(tracked.ref.kind, tracked.seen_open - tracked.born, now - tracked.born)
            if (tracked.ref.kind, tracked.ref.id) in self._open:
                self._let_go(tracked)
        elif not tracked.ended and not tracked.held:
            self._places.take()
            self._hold(tracked)
        if news:
            self._news(tracked, job_set)
            tracked.tell()

    # What the service reports by itself.

    def deliver(self, event: WebhookEvent) -> bool:
        """Takes what a webhook says, and says whether it proved where it is from and is the first of its kind to come.

        Raises:
            ClientClosed: Nobody could be told.
        """
        if self._closed:
            raise _undelivered(self._cause)
        first = self._named.get(event.job_set.id)
        ref, submitted = (None, None) if first is None else (first.ref, first.submitted)
        with self.telemetry.webhook(ref, submitted, verified=event.verified):
            return self._deliver(event, first)

    def _deliver(self, event: WebhookEvent, first: Tracked | None) -> bool:
        records = (
            () if first is None else (first, *(each for weakly in first.namesakes if (each := weakly()) is not None))
        )
        # Ends alone are reported; anything else is late, or not from the service, as is what proved nothing.
        if not event.verified or not event.job_set.status.terminal:
            for tracked in records:
                self._hint(tracked)
        if not event.verified or event.key in self._delivered:
            return False
        self._delivered[event.key] = None
        if len(self._delivered) > KEYS_AT_MOST:
            self._delivered.popitem(last=False)
        if event.job_set.status.terminal:
            for tracked in records:
                self._take(tracked, event.job_set)
            if not records:
                self._keep(event.job_set.id, event.job_set)
        return True

    def _keep(self, identifier: str, job_set: JobSet) -> None:
        now = time.monotonic()
        self._early.pop(identifier, None)
        self._early[identifier] = now + EARLY, job_set
        while self._early and (len(self._early) > EARLY_AT_MOST or next(iter(self._early.values()))[0] < now):
            self._early.popitem(last=False)

    def _hint(self, tracked: Tracked) -> None:
        soon = max(time.monotonic(), tracked.hints_from)
        if soon < tracked.due:
            tracked.due = soon
            self._consider(tracked)

    def _take(self, tracked: Tracked, job_set: JobSet) -> None:
        self._reports_come = self._reports_come or tracked.reported
        # It comes when it happens: the end is not to be sought in all the time since the last look.
        tracked.seen_open = time.monotonic()
        self.saw(tracked, job_set)
        if not tracked.ended:
            self.hurry(tracked)  # an end without its files

    # When to look.

    def _gap(self, tracked: Tracked, now: float) -> float:
        chance = random.random()
        gap = self._durations.gap(tracked.ref.kind, now - tracked.born, tracked.looks, chance)
        # A look that failed told nothing, and may have been wanted for a reason: it is repeated as usual.
        rare = self._reports_come and tracked.reported and not tracked.failures
        return max(gap, SAFETY_NET * (1 - chance / 10)) if rare else gap

    def _wanted(self, tracked: Tracked) -> bool:
        return not tracked.ended and (
            bool(tracked.listeners) or (tracked.held and bool(self._places.line)) or tracked.leaving > time.monotonic()
        )

    def _consider(self, tracked: Tracked) -> None:
        """Plans the next look at a generation, if there is to be one."""
        if (
            not tracked.looking
            and not tracked.ripe
            and (tracked.planned is None or tracked.due < tracked.planned)
            and not self._closed
            and self._wanted(tracked)
        ):
            tracked.planned = tracked.due
            heapq.heappush(self._schedule, (tracked.due, next(self._order), tracked))
            if self._schedule[0][2] is tracked:
                self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._schedule:
            pause = self._schedule[0][0] - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(TICK, pause), self._ripen)

    def _ripen(self) -> None:
        """Hands on every look that is due."""
        soon = time.monotonic() + TICK
        while self._schedule and self._schedule[0][0] <= soon:
            due, _, tracked = heapq.heappop(self._schedule)
            if due != tracked.planned:
                continue  # overtaken by an earlier one
            tracked.planned = None
            if self._wanted(tracked):
                tracked.ripe = True
                self._ripe.append(tracked)
        self._start()
        self._set_timer()

    def _start(self) -> None:
        idle = len(self._lookers) - self._looking
        for _ in range(min(self._at_once - len(self._lookers), len(self._ripe) - idle)):
            # In no context: else it would be in that of whoever came first.
            looker = asyncio.create_task(self._look_around(), name="higgsfield_async.look", context=Context())
            self._lookers.add(looker)
            looker.add_done_callback(self._looked)

    async def _look_around(self) -> None:
        """Looks at what is due, one after the other, until nothing is."""
        while self._ripe:
            era = await self._pace.enter("poll")
            failed: BaseException | None = None
            try:
                # Chosen only now: while this waited for its place, another may have become worth more.
                tracked = self._pick()
                failed = Unused() if tracked is None else await self._look_at(tracked)
            except BaseException as error:
                failed = error
                raise
            finally:
                self._pace.leave("poll", era, failed)

    def _pick(self) -> Tracked | None:
        while self._ripe:
            if len(self._ripe) > 1 and self._pace.scarce("poll"):
                best = max(random.sample(range(len(self._ripe)), min(DRAWN, len(self._ripe))), key=self._worth)
                self._ripe[0], self._ripe[best] = self._ripe[best], self._ripe[0]
            tracked = self._ripe.popleft()
            tracked.ripe = False
            if self._wanted(tracked):
                return tracked
        return None

    def _worth(self, place: int) -> float:
        tracked, now = self._ripe[place], time.monotonic()
        return self._durations.worth(tracked.ref.kind, now - tracked.born, now - tracked.seen_open)

    async def _look_at(self, tracked: Tracked) -> HiggsfieldError | None:
        """Looks once, and plans the next look; gives what went wrong."""
        self._looking += 1
        tracked.looking = True
        tracked.looks += 1
        pause = 0.0
        failed: HiggsfieldError | None = None
        try:
            with self.telemetry.poll(tracked.ref, tracked.submitted, scheduled=True) as observed:
                job_set = await self._look(tracked)
                observed.status(job_set.status)
            self.saw(tracked, job_set)
            if tracked.ended and tracked.reported:
                self._reports_come = False  # this look was first
        except HiggsfieldError as error:
            failed = error
            error.ref, error.charged = tracked.ref, "unknown"
            tracked.failures += 1
            if ends_wait(error):
                if isinstance(error, NotFound):
                    self._vacate(tracked)
                tracked.fail(error)
            else:
                logger.info("A poll failed, and will be repeated: %s", error, extra=fields(error=error))
                self.telemetry.retried("poll", error)
                tracked.error = error
                pause = self._retry.delay(tracked.failures, error.retry_after, random.random())
        finally:
            tracked.looking = False
            self._looking -= 1
        if not tracked.ended:
            now = time.monotonic()
            tracked.hints_from = now + max(pause, HINTS)
            tracked.due = now if tracked.hurried else now + max(pause, self._gap(tracked, now))
            tracked.hurried = False
            self._consider(tracked)
            self.unwatched(tracked)
        return failed

    def _looked(self, looker: asyncio.Task[None]) -> None:
        self._lookers.discard(looker)
        if looker.cancelled() or looker.exception() is not None:
            # Whatever stops a look unforeseen ends every wait: none of them may hang for want of it.
            self._stop(None if looker.cancelled() else looker.exception())
        elif not self._closed:
            self._start()

    def _stop(self, cause: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._cause = cause
        if self._timer is not None:
            self._timer.cancel()
        for looker in self._lookers:
            looker.cancel()
        for tracked in list(self._known.values()):
            tracked.fail(_closed(tracked.ref, cause))
        self._places.line.dismiss(lambda: _not_sent(cause))

    async def close(self) -> None:
        """Stops looking. Whoever still waits is told, with the ref."""
        self._stop(None)
        if self._lookers:
            await asyncio.wait(self._lookers)


def _not_sent(cause: BaseException | None) -> ClientClosed:
    why = "it was closed" if cause is None else "its polling was stopped by an unforeseen error"
    error = ClientClosed(f"Not sent: this client takes nothing any more, since {why}. Make a new one.", refused=True)
    error.__cause__ = cause
    return error


def _undelivered(cause: BaseException | None) -> ClientClosed:
    error = ClientClosed("This client is closed: nobody waits here for what the webhook reports.", charged="unknown")
    error.__cause__ = cause
    return error


def _closed(ref: TaskRef, cause: BaseException | None) -> ClientClosed:
    why = "The client was closed" if cause is None else "The client's polling was stopped by an unforeseen error"
    msg = f"{why} while generation {ref.id} was waited for. It goes on: pick it up by its ref."
    error = ClientClosed(msg, ref=ref, charged="unknown")
    error.__cause__ = cause
    return error
