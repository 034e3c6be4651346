"""What looks teach about durations, and the gaps that follow. Time is a number here: nothing waits."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings, strategies as st

from higgsfield_async import PollPolicy
from higgsfield_async._durations import Durations

SECONDS = st.floats(0, 1e9)
CHANCE = st.floats(0, 1, exclude_max=True)
HISTORY = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=25)
POLICY = PollPolicy()


def follow(durations: Durations, duration: float, chance: random.Random) -> tuple[int, float]:
    """Looks until the end is found, and learns from it: how many looks, and the delay."""
    last = age = 0.0
    looks = 0
    while age < duration:
        last, age = age, age + durations.gap("kind", age, looks, chance.random())
        looks += 1
    durations.ended("kind", last, age)
    return looks, age - duration


def follow_many(durations: Durations, median: float, count: int, chance: random.Random) -> tuple[float, float]:
    """Looks and delay per generation."""
    found = [follow(durations, median * math.exp(chance.gauss(0, 0.5)), chance) for _ in range(count)]
    return sum(looks for looks, _ in found) / count, sum(delay for _, delay in found) / count


def taught(median: float, count: int = 20, seed: int = 1) -> Durations:
    durations = Durations(POLICY)
    follow_many(durations, median, count, random.Random(seed))
    return durations


def gaps(durations: Durations, until: float) -> list[tuple[float, float]]:
    """Each look's age, and the gap after it."""
    found: list[tuple[float, float]] = []
    age = 0.0
    while age < until:
        gap = durations.gap("kind", age, len(found), 0.0)
        found.append((age, gap))
        age += gap
    return found


@given(SECONDS, st.integers(0, 10**6), CHANCE)
def test_what_was_never_seen_is_looked_at_as_published(age: float, looks: int, chance: float) -> None:
    durations = Durations(POLICY)
    durations.ended("another", 29, 31)
    assert durations.gap("kind", age, looks, chance) == PollPolicy.backoff().gap(looks, chance)


@settings(max_examples=30)
@given(HISTORY, SECONDS, CHANCE)
def test_a_policy_that_is_not_adaptive_stays_as_it_is(
    history: list[tuple[float, float]], age: float, chance: float
) -> None:
    for policy in (PollPolicy.fixed(5), PollPolicy.backoff()):
        durations = Durations(policy)
        for after, by in history:
            durations.ended("kind", after, by)
        assert durations.gap("kind", age, 3, chance) == policy.gap(3, chance)


@settings(max_examples=30)
@given(HISTORY, st.lists(st.tuples(SECONDS, st.integers(0, 100), CHANCE), min_size=1))
@pytest.mark.parametrize(
    "policy", [POLICY, PollPolicy(first=0.01, longest=0.05), PollPolicy(first=5, factor=1, longest=90, jitter=1)]
)
def test_gaps_keep_to_their_bounds_whatever_was_seen(
    policy: PollPolicy, history: list[tuple[float, float]], looks: list[tuple[float, int, float]]
) -> None:
    durations = Durations(policy)
    for after, by in history:
        durations.ended("kind", after, by)
    for age, count, chance in looks:
        assert policy.first / 4 <= durations.gap("kind", age, count, chance) <= 6 * policy.longest


@settings(max_examples=30)
@given(HISTORY, SECONDS, SECONDS)
def test_what_a_look_is_worth_is_never_negative_and_grows_with_the_time_since_the_last(
    history: list[tuple[float, float]], age: float, since: float
) -> None:
    durations = Durations(POLICY)
    for after, by in history:
        durations.ended("kind", after, by)
    worths = [durations.worth("kind", age, part * min(since, age)) for part in (0, 0.5, 1)]
    assert 0 <= worths[0] <= worths[1] * (1 + 1e-6) + 1e-6
    assert worths[1] <= worths[2] * (1 + 1e-6) + 1e-6
    assert math.isfinite(worths[2])


@pytest.mark.parametrize("median", [8.0, 30.0, 120.0])
def test_what_was_learned_saves_looks_and_delay(median: float) -> None:
    chance = random.Random(2)
    published_looks, published_delay = follow_many(Durations(PollPolicy.backoff()), median, 200, chance)
    looks, delay = follow_many(taught(median), median, 200, chance)
    assert looks < 0.95 * published_looks
    assert delay < 0.95 * published_delay


def test_looks_are_densest_where_an_end_is_likeliest() -> None:
    found = gaps(taught(120), 150)
    assert found[0][1] > 30
    assert all(gap < 10 for age, gap in found if age > 100)


def test_an_age_past_belief_is_looked_at_as_published() -> None:
    durations = taught(30)
    assert [durations.gap("kind", age, 9, 0.0) for age in (300, 3000)] == pytest.approx([10, 10], rel=0.1)
    fast = taught(0.3)
    assert fast.gap("kind", 0.9, 1, 0.0) < 4
    assert fast.gap("kind", 8, 3, 0.0) == pytest.approx(6)


@pytest.mark.parametrize(("before", "now"), [(30, 10), (30, 90), (120, 2), (2, 120)])
def test_a_change_of_speed_is_learned_at_once(before: float, now: float) -> None:
    durations = taught(before)
    chance = random.Random(3)
    follow_many(durations, now, 20, chance)
    looks, delay = follow_many(durations, now, 200, chance)
    published_looks, published_delay = follow_many(Durations(PollPolicy.backoff()), now, 200, chance)
    assert looks < published_looks
    assert delay < published_delay


def test_late_looks_do_not_teach_that_generations_are_slow() -> None:
    durations = taught(8)
    before = durations.gap("kind", 0, 0, 0.0)
    for late in range(30):
        durations.ended("kind", 0, 40 + late)
    assert durations.gap("kind", 0, 0, 0.0) == pytest.approx(before, rel=0.5)


def test_an_exact_end_teaches_too() -> None:
    durations = Durations(POLICY)
    for _ in range(20):
        durations.ended("kind", 60, 60)
    assert 30 < durations.gap("kind", 0, 0, 0.0) < 60


def test_generations_submitted_together_are_not_looked_at_together() -> None:
    durations = taught(30)
    assert len({durations.gap("kind", 0, 0, chance / 10) for chance in range(10)}) == 10


def test_under_a_limit_looks_go_where_ends_are_likeliest() -> None:
    durations = taught(30)
    assert durations.worth("kind", 30, 5) > durations.worth("kind", 10, 5) > durations.worth("kind", 1, 1)
    assert durations.worth("never seen", 30, 5) > durations.worth("never seen", 30, 1) > 0
    assert durations.worth("kind", 30, 0) == 0


def mean_delay(durations: Durations | None) -> float:
    """Of 60 submitted at once, 2 looks a second for all of them: where they are worth most, or in turn."""
    chance = random.Random(4)
    ends = {
        (name, i): m * math.exp(chance.gauss(0, 0.5)) for name, m in (("kind", 30), ("slow", 90)) for i in range(30)
    }
    last = dict.fromkeys(ends, 0.0)
    delays: list[float] = []
    now = 0.0
    while last:
        now += 0.5
        if durations is None:
            each = min(last, key=lambda task: last[task])
        else:
            at, worth = now, durations.worth
            each = max(last, key=lambda task: worth(task[0], at, at - last[task]))
        last[each] = now
        if now >= ends[each]:
            delays.append(now - ends[each])
            del last[each]
    return sum(delays) / len(delays)


def test_under_a_limit_delay_is_less_than_with_equal_turns() -> None:
    durations = taught(30)
    chance = random.Random(5)
    for _ in range(20):
        end = 90 * math.exp(chance.gauss(0, 0.5))
        durations.ended("slow", end * 0.95, end * 1.05)
    assert mean_delay(durations) < 0.75 * mean_delay(None)
