"""Who may go next: which exchange may be sent, and which generation may be opened."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from higgsfield_async._errors import ClientClosed, HiggsfieldError, RateLimited
from higgsfield_async._limits import Limits
from higgsfield_async._retry import RetryPolicy

Lane: TypeAlias = Literal["submit", "poll", "other", "download"]

# A submit may take a minute and a file ten: so much of all connections they leave to the polls, which take a moment.
SHARES: Mapping[Lane, float] = {"submit": 0.5, "poll": 1.0, "other": 1.0, "download": 0.25}

# How many exchanges may begin in one turn of the event loop: each takes a tenth of a millisecond of it, and again to be
# read, and whoever shares the loop waits for all of them.
AT_A_TURN = 32

# The shortest time for which a refusal holds back, in seconds for each refusal in a row.
LEAST_PAUSE = 0.1


class Unused(Exception):
    """What `Pace.leave` is given for a place in which nothing was sent, after all."""


class Line:
    """Those who wait for a place, in the order in which they came.

    Args:
        returned: Called when a place that was given is not taken: whoever it was for has just been cancelled.
    """

    def __init__(self, returned: Callable[[], None]) -> None:
        self._returned = returned
        # In order of coming, and quick to leave from anywhere.
        self.places: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    def __bool__(self) -> bool:
        while self.places and (first := next(iter(self.places))).done():
            del self.places[first]  # cancelled, and not yet gone by itself
        return bool(self.places)

    async def wait(self, until: float, standing: Callable[[], None]) -> bool:
        """Waits for a place, and says whether there was one in time.

        Args:
            until: When patience ends, by the monotonic clock; `math.inf` for never.
            standing: Called once this one stands in line.
        """
        loop = asyncio.get_running_loop()
        place: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(max(0.0, until - time.monotonic()), _give_up, place) if until < math.inf else None
        self.places[place] = None
        try:
            standing()
            return await place
        except asyncio.CancelledError:
            if not place.cancelled() and place.exception() is None and place.result():
                self._returned()
            raise
        finally:
            self.places.pop(place, None)
            if timer is not None:
                timer.cancel()

    def admit(self) -> None:
        """Gives a place to the first in line; there must be one."""
        self.places.popitem(last=False)[0].set_result(True)

    def dismiss(self, error: Callable[[], HiggsfieldError]) -> None:
        """Sends everybody away, each with an error of its own."""
        while self:
            self.places.popitem(last=False)[0].set_exception(error())


def _give_up(place: asyncio.Future[bool]) -> None:
    if not place.done():
        place.set_result(False)


class Places:
    """How many generations may be open at once.

    It counts, and more may be open than there are places: those that were opened before the limit was known, or by
    another process.

    Args:
        most: How many the caller allows; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self._allowed = self._most = math.inf if most is None else most
        self._taken = 0
        self.line = Line(self.give_back)

    def free(self, more: int = 0) -> bool:
        """Whether one may be opened now, and so many more before it."""
        return self._taken + more < self._most and not self.line

    def take(self) -> None:
        """Counts one more."""
        self._taken += 1

    def give_back(self) -> None:
        """Counts one less, and lets the next one in."""
        self._taken -= 1
        self._admit()

    def learn(self, most: int) -> None:
        """Takes the service's last word for how many there are, within what the caller allows."""
        self._most = min(self._allowed, max(1, most))
        self._admit()

    def _admit(self) -> None:
        while self._taken < self._most and self.line:
            self._taken += 1
            self.line.admit()


class _Lane:
    """One kind of exchange: how many of it may be under way, and from when on."""

    def __init__(self, widest: int, *, counted: bool, returned: Callable[[_Lane], None]) -> None:
        self.width = self.widest = widest
        self.counted = counted
        self.under_way = 0
        self.closed_until = 0.0
        self.refusals = 0
        # Of the last refusal: an exchange that was sent before it says nothing of how the service is after it.
        self.era = 0
        self.line = Line(lambda: returned(self))


class Pace:
    """The one gate of a client for whatever it sends. A place is held for one exchange, never across a wait.

    A refusal for too much closes its lane for the time that the service names, or for a growing one; then the lane
    opens for one exchange at a time, and for one more with each that goes well. The lanes take turns at whatever is
    scarce, so that submits and polls never starve each other.

    Args:
        limits: Connections, and requests per second.
        retry: How long to hold back where the service does not say.
        chance: An even draw from [0, 1).
    """

    def __init__(self, limits: Limits, retry: RetryPolicy, chance: Callable[[], float]) -> None:
        self._widest = limits.max_connections
        self._interval = 0.0 if limits.requests_per_second is None else 1 / limits.requests_per_second
        # The bucket of tokens, as the time at which it is full (the generic cell rate algorithm).
        self._full_at = 0.0
        self._depth = self._interval * (limits.burst - 1)
        self._retry = retry
        self._chance = chance
        self._under_way = 0
        self._begun = 0
        self._standing = 0
        self._lanes = {
            # Files are on another host, most often: the service's rate does not count them.
            name: _Lane(max(1, int(self._widest * share)), counted=name != "download", returned=self._return)
            for name, share in SHARES.items()
        }
        # Whose turn it is, the next one first.
        self._turns = deque(self._lanes.values())
        # Nobody is admitted to this one: it ends with the time, or with the client.
        self._resting = Line(lambda: None)
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0
        self._closed = False

    async def enter(self, name: Lane, until: float = math.inf) -> int:
        """Waits for a place, which `leave` gives back with what this returns.

        Args:
            name: Of which kind the exchange is.
            until: When patience ends, by the monotonic clock; `math.inf` for never.

        Raises:
            RateLimited: There was no place by then.
            ClientClosed: There will be none any more.
        """
        lane = self._lanes[name]
        if self._closed:
            raise _closed()
        now = time.monotonic()
        if not self._standing and self._may_go(lane, now):
            self._take(lane, now)
            return lane.era
        self._standing += 1
        try:
            if await lane.line.wait(until, self._pump):
                return lane.era
        finally:
            self._standing -= 1
        msg = "Not sent: it was held back by the limits of requests for as long as it may be."
        raise RateLimited(msg, status=429, refused=True, transient=True, retry_after=self.held_back(name))

    def leave(self, name: Lane, era: int, error: BaseException | None = None) -> None:
        """Gives a place back, and says how the exchange went: None for well.

        What is none of our errors says nothing of the service.
        """
        lane = self._lanes[name]
        if isinstance(error, RateLimited):
            if era == lane.era:
                lane.era += 1
                lane.refusals += 1
                lane.width = 1
            refusals = max(1, lane.refusals)
            pause = self._retry.delay(refusals, error.retry_after, self._chance())
            lane.closed_until = max(lane.closed_until, time.monotonic() + max(pause, LEAST_PAUSE * min(refusals, 10)))
        elif era == lane.era and (error is None or (isinstance(error, HiggsfieldError) and not error.transient)):
            lane.refusals = 0
            lane.width += lane.width < lane.widest
        self._return(lane)

    def held_back(self, name: Lane) -> float:
        """For how many seconds a lane is closed yet."""
        return max(0.0, self._lanes[name].closed_until - time.monotonic())

    async def rest(self, seconds: float) -> None:
        """Waits between two exchanges, no longer than the client is open.

        Raises:
            ClientClosed: There will be no more exchanges.
        """
        if self._closed:
            raise _closed()
        await self._resting.wait(time.monotonic() + seconds, lambda: None)

    def scarce(self, name: Lane) -> bool:
        """Whether a lane is limited by more than the number of connections."""
        lane = self._lanes[name]
        return self._interval > 0 or lane.width < lane.widest

    def _return(self, lane: _Lane) -> None:
        lane.under_way -= 1
        self._under_way -= 1
        if self._standing:
            self._pump()

    def _open(self, lane: _Lane) -> bool:
        return self._under_way < self._widest and lane.under_way < lane.width and self._begun < AT_A_TURN

    def _opens_at(self, lane: _Lane) -> float:
        """When a lane may be entered: when it is held back no more, and there is a token."""
        return max(lane.closed_until, self._full_at - self._depth) if lane.counted else lane.closed_until

    def _may_go(self, lane: _Lane, now: float) -> bool:
        return self._open(lane) and self._opens_at(lane) <= now

    def _take(self, lane: _Lane, now: float) -> None:
        if lane.counted:
            self._full_at = max(self._full_at, now) + self._interval
        lane.under_way += 1
        self._under_way += 1
        self._begun += 1
        if self._begun == 1:
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._begun = 0
        if self._standing:
            self._pump()

    def _pump(self) -> None:
        """Lets in whoever may go, and wakes again when somebody else may."""
        now = time.monotonic()
        while lane := self._next(now):
            self._take(lane, now)
            self._turns.remove(lane)
            self._turns.append(lane)
            lane.line.admit()
        # The others wait for a place: whoever gives one back comes by here.
        later = [self._opens_at(lane) for lane in self._turns if lane.line and self._open(lane)]
        if later:
            self._wake_at(min(later))

    def _next(self, now: float) -> _Lane | None:
        if self._under_way < self._widest and self._begun < AT_A_TURN:
            for lane in self._turns:
                if lane.line.places and lane.line and self._may_go(lane, now):
                    return lane
        return None

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._wakes_at <= when:
                return
            self._timer.cancel()
        self._wakes_at = when
        # The timers of uvloop are no finer than a millisecond.
        self._timer = asyncio.get_running_loop().call_later(max(0.001, when - time.monotonic()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    def close(self) -> None:
        """Lets nobody in any more, and leaves no timer behind."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._turns:
            lane.line.dismiss(_closed)
        self._resting.dismiss(_closed)


def _closed() -> ClientClosed:
    return ClientClosed("The client was closed before this was sent.", refused=True)
