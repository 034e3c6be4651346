"""Who may go next: turns, rates, refusals, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from higgsfield_async import ClientClosed, ConnectionFailed, Limits, NotFound, RateLimited, RetryPolicy
from higgsfield_async._pace import LEAST_PAUSE, SHARES, Lane, Line, Pace, Places

# Nothing is left to chance, and a refusal without a word of when closes for no time.
RETRY = RetryPolicy(first=0, longest=0)
COUNTED: tuple[Lane, ...] = ("submit", "poll", "other")


def paced(*, retry: RetryPolicy = RETRY, chance: float = 0.0, **limits: Any) -> Pace:
    return Pace(Limits(**limits), retry, lambda: chance)


def refused(retry_after: float | None = None) -> RateLimited:
    return RateLimited("Too much.", status=429, retry_after=retry_after)


async def settled() -> None:
    """Whoever was let in has heard of it."""
    for _ in range(3):
        await asyncio.sleep(0)


async def entered(*entering: asyncio.Task[int]) -> int:
    await settled()
    return sum(each.done() for each in entering)


def begin(pace: Pace, lane: Lane, count: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(pace.enter(lane)) for _ in range(count)]


async def dismissed(tasks: Iterable[asyncio.Task[int]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_lanes_take_turns_at_a_single_place() -> None:
    pace = paced(max_connections=1)
    order: list[Lane] = []

    async def exchange(lane: Lane) -> None:
        era = await pace.enter(lane)
        order.append(lane)
        await settled()
        pace.leave(lane, era)

    era = await pace.enter("other")
    exchanges = asyncio.gather(*(exchange(lane) for lane in COUNTED for _ in range(4)))
    await settled()
    pace.leave("other", era)
    await exchanges
    assert order == [*COUNTED] * 4


async def test_within_a_lane_the_first_come_is_the_first_served() -> None:
    pace = paced(max_connections=1)
    era = await pace.enter("poll")
    waiting = begin(pace, "poll", 5)
    for served in range(5):
        assert await entered(*waiting) == served
        pace.leave("poll", era)
    assert await entered(*waiting) == 5


async def test_a_burst_and_then_the_rate() -> None:
    pace = paced(requests_per_second=200, burst=3, max_connections=50)
    began = time.monotonic()
    times: list[float] = []

    async def exchange(lane: Lane) -> None:
        pace.leave(lane, await pace.enter(lane))
        times.append(time.monotonic())

    await asyncio.gather(*(exchange(COUNTED[number % 3]) for number in range(12)))
    for number, at in enumerate(times):
        assert at >= began + (number - 2) / 200 - 1e-6
    # A pause fills the bucket, and no more than that.
    await asyncio.sleep(0.05)
    times.clear()
    began = time.monotonic()
    await asyncio.gather(*(exchange("poll") for _ in range(5)))
    for number, at in enumerate(times):
        assert at >= began + (number - 2) / 200 - 1e-6


async def test_a_refusal_closes_one_lane_and_narrows_it() -> None:
    pace = paced(max_connections=8)
    eras = [await pace.enter("submit") for _ in range(4)]
    began = time.monotonic()
    pace.leave("submit", eras.pop(), refused(0.15))
    assert pace.scarce("submit")
    assert not pace.scarce("poll")
    assert 0 < pace.held_back("submit") <= 0.15
    assert pace.held_back("poll") == 0
    # Those that were under way say nothing of how the service is now.
    for era in eras:
        pace.leave("submit", era)
    waiting = begin(pace, "submit", 7)
    assert await entered(*waiting) == 0
    pace.leave("poll", await asyncio.wait_for(pace.enter("poll"), 5))
    era = await waiting[0]
    assert time.monotonic() >= began + 0.15
    # One at a time, then one more for each that goes well.
    assert await entered(*waiting) == 1
    for done, under_way in enumerate((2, 3, 4), 1):
        pace.leave("submit", era)
        assert await entered(*waiting) == done + under_way
        if done == 1:
            # What says nothing of limits changes nothing.
            pace.leave("submit", era, ConnectionFailed("Broken.", transient=True))
            pace.leave("submit", era, asyncio.CancelledError())
            assert await entered(*waiting) == 5
            break
    # A refusal of another kind is an answer: the lane is as wide as it was, and one.
    pace.leave("submit", era, NotFound("Not there.", status=404))
    assert await entered(*waiting) == 7
    await dismissed(waiting)


async def test_many_refusals_at_once_are_one() -> None:
    pace = paced(retry=RetryPolicy(first=0.002, factor=100, longest=1000), chance=0.5, max_connections=8)
    # Of the first four of them; and then twice of one alone.
    for longest in (LEAST_PAUSE, 2 * LEAST_PAUSE, 10):
        eras = [await pace.enter("submit")]
        if longest == LEAST_PAUSE:
            eras += [await pace.enter("submit") for _ in range(3)]
        for era in eras:
            pace.leave("submit", era, refused())
        assert pace.held_back("submit") <= longest
    assert pace.held_back("submit") > 1


async def test_the_longest_of_several_refusals_counts() -> None:
    pace = paced(max_connections=8)
    eras = [await pace.enter("submit") for _ in range(2)]
    pace.leave("submit", eras[0], refused(60))
    pace.leave("submit", eras[1], refused(1))
    assert pace.held_back("submit") > 1


async def test_what_went_well_ends_a_row_of_refusals() -> None:
    pace = paced(retry=RetryPolicy(first=0.002, factor=100, longest=1000), chance=0.5, max_connections=8)
    for _ in range(2):
        pace.leave("submit", await pace.enter("submit"), refused())
        assert 0 < pace.held_back("submit") <= LEAST_PAUSE
        pace.leave("submit", await pace.enter("submit"))


async def test_a_closed_lane_lets_the_others_by() -> None:
    pace = paced(max_connections=1)
    pace.leave("submit", await pace.enter("submit"), refused(60))
    waiting = begin(pace, "submit", 3)
    await settled()
    for lane in ("poll", "other", "download"):
        with anyio.fail_after(5):
            pace.leave(lane, await pace.enter(lane))
    assert await entered(*waiting) == 0
    await dismissed(waiting)


async def test_the_lane_that_opens_first_is_woken_for() -> None:
    pace = paced(max_connections=2)
    eras = await pace.enter("submit"), await pace.enter("poll")
    pace.leave("submit", eras[0], refused(60))
    pace.leave("poll", eras[1], refused(0.02))
    [late], [soon] = begin(pace, "submit", 1), begin(pace, "poll", 1)
    with anyio.fail_after(5):
        await soon
    assert not late.done()
    await dismissed([late])


async def test_who_is_cancelled_in_line_takes_no_place() -> None:
    pace = paced(max_connections=1)
    era = await pace.enter("poll")
    first, second = begin(pace, "poll", 2)
    await settled()
    first.cancel()
    await settled()
    pace.leave("poll", era)
    assert await entered(second) == 1
    assert first.cancelled()


@pytest.mark.parametrize("others", [0, 1])
async def test_who_is_cancelled_when_let_in_gives_the_place_back(others: int) -> None:
    pace = paced(max_connections=1)
    era = await pace.enter("poll")
    first, *rest = begin(pace, "poll", 1 + others)
    await settled()
    # Let in, and cancelled before hearing of it.
    pace.leave("poll", era)
    first.cancel()
    assert await entered(*rest) == others
    assert first.cancelled()
    if rest:
        pace.leave("poll", await rest[0])
    with anyio.fail_after(5):
        await pace.enter("poll")


async def test_patience_ends() -> None:
    pace = paced(max_connections=1)
    era = await pace.enter("submit")
    for until in (0.0, time.monotonic() + 0.01):
        with pytest.raises(RateLimited, match="Not sent") as caught:
            await pace.enter("submit", until)
        assert time.monotonic() >= until
        assert caught.value.refused
        assert caught.value.retry_after == 0
    pace.leave("submit", era, refused(60))
    with pytest.raises(RateLimited) as caught:
        await pace.enter("submit", time.monotonic() + 0.01)
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after <= 60
    # Whoever could go at once needs no patience.
    await pace.enter("poll", 0.0)


async def test_closing_dismisses_everybody() -> None:
    pace = paced(max_connections=8, requests_per_second=0.001, burst=1)
    era = await pace.enter("submit")
    lanes: tuple[Lane, ...] = (*COUNTED, "download")
    waiting = [each for lane in lanes for each in begin(pace, lane, 6)]
    await settled()
    cancelled = waiting[0]
    cancelled.cancel()
    assert pace._timer is not None
    timer = pace._timer
    pace.close()
    assert timer.cancelled()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    errors = [each for each in ends if isinstance(each, ClientClosed)]
    assert len(errors) == len(set(map(id, errors))) == 3 * 6 - 1 + 4
    assert all(each.refused for each in errors)
    with pytest.raises(ClientClosed):
        await pace.enter("poll")
    # What is under way ends as it would have, and wakes nobody.
    pace.leave("submit", era, refused(60))
    assert pace._timer is timer


async def test_closing_with_nobody_there() -> None:
    pace = paced()
    pace.close()
    pace.close()
    with pytest.raises(ClientClosed):
        await pace.enter("submit")


async def test_downloads_leave_room_and_are_not_counted() -> None:
    pace = paced(max_connections=8, requests_per_second=0.001, burst=1)
    await pace.enter("poll")
    # The next poll has its turn in a quarter of an hour, and no download waits for that.
    polls = begin(pace, "poll", 1)
    await settled()
    downloads = begin(pace, "download", 3)
    assert await entered(*downloads) == 2
    pace.leave("download", await downloads[0])
    assert await entered(*downloads) == 3
    assert await entered(*polls) == 0
    await dismissed(polls)


async def test_a_single_connection_downloads_too() -> None:
    pace = paced(max_connections=1)
    with anyio.fail_after(5):
        pace.leave("download", await pace.enter("download"))
        pace.leave("poll", await pace.enter("poll"))


async def test_a_line_is_empty_of_those_who_left() -> None:
    returned: list[None] = []
    line = Line(lambda: returned.append(None))
    seen = [bool(line)]
    waiting = [asyncio.create_task(line.wait(math.inf, lambda: seen.append(bool(line)))) for _ in range(3)]
    await settled()
    for each in waiting[:2]:
        each.cancel()
    await settled()
    seen.append(bool(line))
    line.admit()
    seen.append(bool(line))
    assert await waiting[2]
    assert not await line.wait(time.monotonic() - 1, lambda: None)
    assert [*seen, bool(line)] == [False, True, True, True, True, False, False]
    assert not returned


async def test_a_place_given_while_standing_up_is_taken() -> None:
    returned: list[None] = []
    line = Line(lambda: returned.append(None))
    assert await line.wait(0.0, line.admit)
    assert not returned


async def test_a_place_given_when_patience_ends_is_taken() -> None:
    returned: list[None] = []
    line = Line(lambda: returned.append(None))
    waiting = asyncio.create_task(line.wait(time.monotonic() + 0.01, lambda: None))
    await settled()
    # The end of patience is due when the place is given, and the loop comes to it next.
    time.sleep(0.02)  # noqa: ASYNC251  # so that nothing else comes first
    await asyncio.sleep(0)
    line.admit()
    assert await waiting
    assert not returned


async def test_who_is_cancelled_when_sent_away_leaves_no_place() -> None:
    returned: list[None] = []
    line = Line(lambda: returned.append(None))
    tired, dismissed = (asyncio.create_task(line.wait(math.inf, lambda: None)) for _ in range(2))
    await settled()
    # As the end of patience does it.
    next(iter(line.places)).set_result(False)
    line.dismiss(lambda: ClientClosed("Closed."))
    tired.cancel()
    dismissed.cancel()
    await settled()
    assert tired.cancelled()
    assert dismissed.cancelled()
    assert not returned


async def test_places() -> None:
    places = Places(2)
    free = [places.free()]
    places.take()
    places.take()
    # One that was opened elsewhere.
    places.take()
    free.append(places.free())
    waiting = [asyncio.create_task(places.line.wait(math.inf, lambda: None)) for _ in range(2)]
    await settled()
    places.give_back()
    await settled()
    assert not any(each.done() for each in waiting)
    places.give_back()
    assert await waiting[0]
    # The service's word narrows, to one at the least, and widens no further than what was allowed.
    places.learn(0)
    places.give_back()
    await settled()
    assert not waiting[1].done()
    places.learn(100)
    assert await waiting[1]
    free.append(places.free())
    places.give_back()
    free.append(places.free())
    places.take()
    free.append(places.free())
    assert free == [True, False, False, True, False]


async def test_places_without_end() -> None:
    places = Places(None)
    for _ in range(1000):
        assert places.free()
        places.take()
    places.learn(1000)
    free = places.free()
    assert not free


# Sequences of whatever may happen. What `which` picks is taken modulo what there is.
WHICH = st.integers(0, 20)
ERRORS: list[Callable[[], BaseException | None]] = [
    lambda: None,
    refused,
    lambda: refused(0.002),
    lambda: ConnectionFailed("Broken.", transient=True),
    lambda: NotFound("Not there.", status=404),
    asyncio.CancelledError,
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from([*COUNTED, "download"]), st.just(0)),
        st.tuples(st.just("enter"), st.sampled_from([*COUNTED, "download"]), st.just(0)),
        st.tuples(st.just("leave"), WHICH, st.integers(0, len(ERRORS) - 1)),
        st.tuples(st.just("cancel"), WHICH, st.just(0)),
        st.tuples(st.just("settle"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


class Crowd:
    """Those who stand in the lanes of a pace, and those who were let in."""

    def __init__(self, pace: Pace, widest: int) -> None:
        self.pace = pace
        self.widest = widest
        self.waiting: list[tuple[Lane, asyncio.Task[int]]] = []
        self.inside: list[tuple[Lane, int]] = []
        self.before = dict.fromkeys(pace._lanes, 0)

    def enter(self, lane: Lane, _: int) -> None:
        self.waiting.append((lane, asyncio.create_task(self.pace.enter(lane))))

    def leave(self, which: int, error: int) -> None:
        if self.inside:
            lane, era = self.inside.pop(which % len(self.inside))
            self.pace.leave(lane, era, ERRORS[error]())

    def cancel(self, which: int, _: int) -> None:
        if self.waiting:
            self.waiting[which % len(self.waiting)][1].cancel()

    async def settle(self) -> None:
        await settled()
        for lane, task in self.waiting:
            if task.done() and not task.cancelled():
                self.inside.append((lane, task.result()))
        self.waiting = [each for each in self.waiting if not each[1].done()]

    def check(self) -> None:
        lanes = self.pace._lanes
        assert sum(lane.under_way for lane in lanes.values()) == self.pace._under_way <= self.widest
        for name, share in SHARES.items():
            assert lanes[name].under_way <= max(1, self.widest * share)
        for name, lane in lanes.items():
            assert 1 <= lane.width <= lane.widest
            # More than a lane is wide are only those who were there before it was narrowed.
            assert 0 <= lane.under_way <= max(self.before[name], lane.width)
            self.before[name] = lane.under_way

    async def disperse(self) -> None:
        """Everybody gets in, and goes."""
        while self.waiting:
            for lane, era in self.inside:
                self.pace.leave(lane, era)
            self.inside = []
            await asyncio.wait([task for _, task in self.waiting], timeout=5, return_when=asyncio.FIRST_COMPLETED)
            waiting = len(self.waiting)
            await self.settle()
            self.check()
            assert len(self.waiting) < waiting
        for lane, era in self.inside:
            self.pace.leave(lane, era)


@settings(deadline=None, max_examples=150)
@given(STEPS, st.integers(1, 9), st.sampled_from([None, 5000.0]))
def test_no_place_is_lost_and_no_width_passed(
    steps: list[tuple[str, Any, int]], widest: int, rate: float | None
) -> None:
    async def run() -> None:
        pace = paced(max_connections=widest, requests_per_second=rate, burst=2)
        crowd = Crowd(pace, widest)
        for what, argument, detail in steps:
            if what == "settle":
                await crowd.settle()
            else:
                getattr(crowd, what)(argument, detail)
            crowd.check()
        await crowd.settle()
        await crowd.disperse()
        assert pace._under_way == 0
        assert {lane.under_way for lane in pace._lanes.values()} == {0}
        assert not any(lane.line for lane in pace._lanes.values())
        pace.close()

    with pytest.MonkeyPatch.context() as patch:
        # A tenth of a second after each refusal would make minutes of this.
        patch.setattr("higgsfield_async._pace.LEAST_PAUSE", 0.0)
        asyncio.run(run())


class Openings:
    """Generations that are open, and submits that wait for a place."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.waiting: list[asyncio.Task[bool]] = []
        self.open = 0

    def begin(self, _: int) -> None:
        self.waiting.append(asyncio.create_task(self.reserve()))

    async def reserve(self) -> bool:
        if not self.places.free():
            return await self.places.line.wait(math.inf, lambda: None)
        self.places.take()
        return True

    def end(self, _: int) -> None:
        if self.open:
            self.open -= 1
            self.places.give_back()

    def cancel(self, which: int) -> None:
        if self.waiting:
            self.waiting[which % len(self.waiting)].cancel()

    def learn(self, most: int) -> None:
        self.places.learn(most)

    async def settle(self) -> None:
        await settled()
        self.open += sum(each.done() and not each.cancelled() for each in self.waiting)
        self.waiting = [each for each in self.waiting if not each.done()]
        assert self.places._taken == self.open


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(["begin", "begin", "end", "cancel", "learn", "settle"]), WHICH), max_size=60),
    st.sampled_from([None, 1, 2, 5]),
)
def test_no_place_for_a_generation_is_lost(steps: list[tuple[str, int]], most: int | None) -> None:
    async def run() -> None:
        places = Places(most)
        openings = Openings(places)
        for what, which in steps:
            if what == "settle":
                await openings.settle()
            else:
                getattr(openings, what)(which)
            assert most is None or places._taken <= most
        await openings.settle()
        while openings.open:
            openings.end(0)
            await openings.settle()
        assert not openings.waiting

    asyncio.run(run())
