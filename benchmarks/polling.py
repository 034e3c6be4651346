"""What looks cost: the adaptive policy beside a fixed interval, the published schedule and the best schedule there is.

Durations are lognormal. Nothing is sent and nothing waits: time is a number. The delay is the time from the end of a
generation to the look that finds it; polls count that look too.

After 20 were seen, the schedule that was learned is measured exactly, by integration, over many learners. The best
schedule knows the true durations: it is found by dynamic programming, for a row of prices of a look, and taken at the
same mean delay, as is the fixed interval. What follows a change of the service's speed is simulated.

Nothing is asked of the very first generation after a change, of which nobody can know: a schedule that bounds what it
costs looks early at every generation. With the true durations known, one whose delay is at most 1.1 times the published
schedule's when they are a third needs 1.2 times the polls of the best schedule at the delays below.

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import platform
import random
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from higgsfield_async import PollPolicy
from higgsfield_async._durations import Durations
from higgsfield_async._tracker import DRAWN

MEDIANS = (8.0, 30.0, 120.0)
SPREAD = 0.5
SEEN = 20
LEARNERS = 500
SLOTS = 5.0
OPEN = 200
PUBLISHED = PollPolicy.backoff()
# What higgsfield-client 0.2.0 waits between two looks, in seconds.
VENDOR = 0.5

Cost = tuple[float, float]
"""Polls and seconds of delay, both for one generation on average."""


@dataclass(frozen=True)
class Lognormal:
    median: float

    def draw(self, chance: random.Random) -> float:
        return self.median * math.exp(SPREAD * chance.gauss(0, 1))

    @property
    def mean(self) -> float:
        return self.median * math.exp(SPREAD**2 / 2)

    def ended(self, age: float) -> float:
        return _normal(math.log(age / self.median) / SPREAD) if age else 0.0

    def delay(self, last: float, age: float) -> float:
        """The mean delay of ends between two looks, times their chance."""
        return age * (self.ended(age) - self.ended(last)) - (self._partial(age) - self._partial(last))

    def _partial(self, age: float) -> float:
        return self.mean * _normal(math.log(age / self.median) / SPREAD - SPREAD) if age else 0.0

    def cost(self, looks: Iterable[float]) -> Cost:
        """Of a schedule, given as ages."""
        polls = delay = last = 0.0
        for age in looks:
            still_open = 1 - self.ended(last)
            if still_open < 1e-9:
                break
            polls += still_open
            delay += self.delay(last, age)
            last = age
        return polls, delay


def _normal(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def fixed(true: Lognormal, delay: float) -> float:
    """Polls of the fixed interval that has this delay."""
    low, high = true.median / 100, true.median * 6
    for _ in range(40):
        interval = (low + high) / 2
        if true.cost(interval * k for k in range(1, 10_000))[1] > delay:
            high = interval
        else:
            low = interval
    return true.cost(low * k for k in range(1, 10_000))[0]


def best_schedule(true: Lognormal, price: float, cells: int = 300) -> list[float]:
    """The ages that make (delay + price x polls) least, on a grid of ages."""
    low, high = 0.15 * true.median, 9 * true.median
    ages = [0.0, *(low * (high / low) ** (i / (cells - 1)) for i in range(cells))]
    rest, following = [0.0] * len(ages), [0] * len(ages)
    for i in range(cells - 1, -1, -1):
        least = math.inf
        for j in range(i + 1, cells + 1):
            delay = true.delay(ages[i], ages[j])
            if delay > least:
                break
            if delay + rest[j] < least:
                least, following[i] = delay + rest[j], j
        rest[i] = least + price * (1 - true.ended(ages[i]))
    schedule: list[float] = []
    i = 0
    while i < cells:
        i = following[i]
        schedule.append(ages[i])
    return schedule


@cache
def frontier() -> list[Cost]:
    """The best schedules for a median of 1 second, by delay."""
    unit = Lognormal(1.0)
    return sorted((unit.cost(best_schedule(unit, 0.001 * 1.4**i)) for i in range(20)), key=lambda cost: cost[1])


def best(true: Lognormal, delay: float) -> float:
    """Polls of the best schedule that has this delay: between two found ones, polls are a power of the delay."""
    costs = frontier()
    i = bisect_left(costs, delay / true.median, key=lambda cost: cost[1])
    (polls, low), (fewer, high) = costs[i - 1], costs[i]
    return polls * math.pow(fewer / polls, math.log(delay / true.median / low) / math.log(high / low))


Gap = Callable[[float, int, float], float]
"""From age, looks and chance."""


def published(_age: float, looks: int, chance: float) -> float:
    return PUBLISHED.gap(looks, chance)


def follow(duration: float, gap: Gap, chance: random.Random) -> tuple[float, float, int]:
    """The last look at which it was open, the one that found it ended, and how many there were."""
    last = age = 0.0
    looks = 0
    while age < duration:
        last = age
        age += gap(age, looks, chance.random())
        looks += 1
    return last, age, looks


def learn(true: Lognormal, durations: Durations, chance: random.Random, kind: str = "kind") -> list[Cost]:
    """Generations one after the other, each seen to its end."""
    costs: list[Cost] = []
    for _ in range(SEEN):
        duration = true.draw(chance)
        after, by, looks = follow(duration, partial(durations.gap, kind), chance)
        durations.ended(kind, after, by)
        costs.append((looks, by - duration))
    return costs


def mean(costs: Sequence[Cost]) -> Cost:
    return sum(polls for polls, _ in costs) / len(costs), sum(delay for _, delay in costs) / len(costs)


def simulate(true: Lognormal, gap: Gap, chance: random.Random, count: int = 10_000) -> Cost:
    costs: list[Cost] = []
    for _ in range(count):
        duration = true.draw(chance)
        _, by, looks = follow(duration, gap, chance)
        costs.append((looks, by - duration))
    return mean(costs)


@dataclass(frozen=True)
class Row:
    """One case against one other way of looking.

    Attributes:
        polls: Per generation.
        delay: Mean seconds.
        other_polls: Of the other.
        other_delay: Of the other.
        polls_target: What `polls / other_polls` may be at most; None if nothing is asked.
        delay_target: As that, of the delay.
    """

    table: str
    case: str
    other: str
    polls: float
    delay: float
    other_polls: float
    other_delay: float
    polls_target: float | None
    delay_target: float | None

    @property
    def ratios(self) -> list[tuple[float, float | None]]:
        return [
            (self.polls / self.other_polls, self.polls_target),
            (self.delay / self.other_delay, self.delay_target),
        ]

    @property
    def missed(self) -> bool:
        return any(target is not None and ratio > target for ratio, target in self.ratios)


def after_learning(median: float) -> list[Row]:
    chance = random.Random(f"learned {median}")
    true = Lognormal(median)
    costs: list[Cost] = []
    for _ in range(LEARNERS):
        durations = Durations(PollPolicy())
        learn(true, durations, chance)
        for _ in range(3):
            ages = [0.0]
            while ages[-1] < 12 * median + 60:
                ages.append(ages[-1] + durations.gap("kind", ages[-1], len(ages) - 1, chance.random()))
            costs.append(true.cost(ages[1:]))
    polls, delay = mean(costs)
    table, case = f"After {SEEN} were seen, at the same delay", f"median {median:g} s"
    return [
        Row(table, case, "fixed interval", polls, delay, fixed(true, delay), delay, 0.75, None),
        Row(table, case, "best schedule", polls, delay, best(true, delay), delay, 1.10, None),
    ]


def before_learning(median: float) -> Row:
    true, name = Lognormal(median), f"new {median}"
    own = simulate(true, partial(Durations(PollPolicy()).gap, "kind"), random.Random(name))
    other = simulate(true, published, random.Random(name))
    return Row("Before any was seen", f"median {median:g} s", "published", *own, *other, 1.0, 1.1)


def after_change(median: float, factor: float, name: str) -> list[Row]:
    chance = random.Random(f"changed {median} {name}")
    now = Lognormal(median * factor)
    every: list[list[Cost]] = []
    for _ in range(LEARNERS):
        durations = Durations(PollPolicy())
        learn(Lognormal(median), durations, chance)
        every.append(learn(now, durations, chance))
    other = simulate(now, published, chance)
    case = f"{median:g} s, then {name}"
    firsts, all_of_them = mean([costs[0] for costs in every]), mean([cost for costs in every for cost in costs])
    return [
        Row(f"The first {SEEN} after a change", case, "published", *all_of_them, *other, 1.0, 1.1),
        Row("The very first after a change", case, "published", *firsts, *other, None, None),
    ]


Submits = list[tuple[float, str, float]]
"""Submitted at, kind, duration."""


def one_budget(submits: Submits, until: float, durations: Durations | None) -> Cost:
    """Looks at a steady rate, each at one of those that are open: as the tracker chooses it, or in turn."""
    chance = random.Random("drawn")
    waiting = list(submits)
    heapq.heapify(waiting)
    tracked: list[tuple[float, float, str, float]] = []  # last look, submitted at, kind, duration
    delays: list[float] = []
    slot = 0
    while slot < until * SLOTS and (waiting or tracked):
        now = slot / SLOTS
        slot += 1
        while waiting and waiting[0][0] <= now:
            at, kind, duration = heapq.heappop(waiting)
            tracked.append((at, at, kind, duration))
        if not tracked:
            continue
        if durations is not None:
            drawn = chance.sample(range(len(tracked)), min(DRAWN, len(tracked)))
            worths = {i: durations.worth(tracked[i][2], now - tracked[i][1], now - tracked[i][0]) for i in drawn}
            chosen = max(drawn, key=worths.__getitem__)
        else:
            chosen = tracked.index(min(tracked))
        last, at, kind, duration = tracked.pop(chosen)
        if now - at >= duration:
            if durations is not None:
                durations.ended(kind, last - at, now - at)
            delays.append(now - at - duration)
        else:
            tracked.append((now, at, kind, duration))
    # Whatever was not found by then has waited until then.
    delays += [until - at - duration for _, at, _, duration in tracked if at + duration < until]
    return slot / len(delays), sum(delays) / len(delays)


def steady(chance: random.Random, until: float) -> Submits:
    """Submits at such times that on average OPEN generations are open."""
    pace = OPEN / (sum(Lognormal(median).mean for median in MEDIANS) / len(MEDIANS))
    submits: Submits = []
    at = 0.0
    while (at := at + chance.expovariate(pace)) < until:
        median = chance.choice(MEDIANS)
        submits.append((at, f"{median:g} s", Lognormal(median).draw(chance)))
    return submits


def at_once(chance: random.Random) -> Submits:
    medians = [MEDIANS[i % len(MEDIANS)] for i in range(OPEN)]
    return [(0.0, f"{median:g} s", Lognormal(median).draw(chance)) for median in medians]


def under_a_limit() -> list[Row]:
    chance = random.Random("limit")
    new, taught = Durations(PollPolicy()), Durations(PollPolicy())
    for median in MEDIANS:
        learn(Lognormal(median), taught, chance, kind=f"{median:g} s")
    cases = {
        f"{OPEN} open at any time, none seen before": (new, steady(chance, 600.0), 600.0),
        f"{OPEN} submitted at once, {SEEN} of each kind seen": (taught, at_once(chance), 3600.0),
    }
    return [
        Row(
            f"{SLOTS:g} looks a second for all",
            case,
            "equal turns",
            *one_budget(submits, until, durations),
            *one_budget(submits, until, None),
            None,
            0.75,
        )
        for case, (durations, submits, until) in cases.items()
    ]


@dataclass(frozen=True)
class Ways:
    """Every way to look at generations of one median, as polls and delay: what the documentation's picture shows.

    Attributes:
        median: Seconds.
        best: The best schedules, along which delay is bought with polls.
        fixed: Fixed intervals, as that.
        vendor: The interval that the vendor's client keeps.
        published: The published schedule.
        learned: The adaptive policy after it has seen some.
    """

    median: float
    best: list[Cost]
    fixed: list[Cost]
    vendor: Cost
    published: Cost
    learned: Cost


def ways(median: float, learned: Cost) -> Ways:
    true = Lognormal(median)

    def every(interval: float) -> Cost:
        return true.cost(interval * k for k in range(1, 100_000))

    return Ways(
        median,
        [(polls, delay * median) for polls, delay in frontier() if delay > 0.002],
        [every(median * 0.003 * 1.25**i) for i in range(24)],
        every(VENDOR),
        simulate(true, published, random.Random(f"new {median}")),
        learned,
    )


def cell(ratio: float, target: float | None) -> str:
    return f"{ratio:.2f}" if target is None else f"{ratio:.3f} (at most {target:.2f})"


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        ["", "beside", "polls", "theirs", "delay, s", "theirs, s", "polls, ratio", "delay, ratio"],
        ["---"] * 8,
        *(
            [
                row.case,
                row.other,
                *(f"{x:.2f}" for x in (row.polls, row.other_polls, row.delay, row.other_delay)),
                *(cell(*each) for each in row.ratios),
            ]
            for row in rows
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def microseconds(work: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - began) / count * 1e6


def per_call() -> dict[str, float]:
    durations = Durations(PollPolicy())
    learn(Lognormal(30.0), durations, random.Random("calls"))
    return {
        "gap": microseconds(lambda: durations.gap("kind", 31.0, 3, 0.5), 20_000),
        "worth": microseconds(lambda: durations.worth("kind", 31.0, 5.0), 20_000),
        "ended": microseconds(lambda: durations.ended("kind", 29.0, 31.0), 1_000),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Polls and delay of the adaptive policy.")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "polling.json")
    results: Path = parser.parse_args().json

    rows = [row for median in MEDIANS for row in after_learning(median)]
    rows += [before_learning(median) for median in MEDIANS]
    changes = {"a third": 1 / 3, "three times": 3.0}
    rows += [row for median in MEDIANS for name, by in changes.items() for row in after_change(median, by, name)]
    rows += under_a_limit()
    calls = per_call()
    learned = {row.case: (row.polls, row.delay) for row in rows if row.other == "best schedule"}

    for table in dict.fromkeys(row.table for row in rows):
        print(f"{table}:\n\n{markdown([row for row in rows if row.table == table])}\n")
    print(f"Microseconds for one call: {', '.join(f'`{name}` {took:.1f}' for name, took in calls.items())}.")

    results.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "microseconds": calls,
        "ways": [asdict(ways(median, learned[f"median {median:g} s"])) for median in MEDIANS],
        "rows": [asdict(row) | {"missed": row.missed} for row in rows],
    }
    results.write_text(json.dumps(measured, indent=2) + "\n")

    missed = [row for row in rows if row.missed]
    for row in missed:
        print(f"Missed: {row.table}, {row.case}, beside {row.other}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
