"""How long generations take, learned from looks at them, and when it is worth to look again."""

from __future__ import annotations

import math
from bisect import bisect_right

from higgsfield_async._polling import PollPolicy

# Between the looks that the best schedule makes near the end that is expected, this part of the published gap: fewer
# looks than the published schedule makes, and less delay. Less of it buys delay with looks.
PACE = 0.8
# The first look has none before it: the root law puts it too early (by comparison with the best schedule).
FIRST = 1.25
# The chance that a generation is like none before it. It pays for the looks that find out.
DOUBT = 0.02
# As if so many generations with so wide a spread (of the logarithm) had been seen before the first one.
ASSUMED, SPREAD = 5, 0.5
# About so many of the last generations are remembered.
MEMORY = 50
# The last few ends are a surprise when their mean is so many standard deviations off.
SURPRISE = 1.7
# An end that the first look finds, before the median, is sought in the last part of the time before: beyond this part.
# Each further one in a row is sought earlier by as much, since nothing else would tell that all of them come early.
UNSEEN = 0.6
# Nobody publishes how long a generation takes: to compare kinds never seen with others, from seconds to minutes.
UNKNOWN = math.log(30), 1.5

# The table of a belief reaches this far around its median, in standard deviations.
LOWEST, HIGHEST, CELLS = -3.2, 4.0, 48


class Durations:
    """What is known of how long each kind of generation takes.

    Each kind is a lognormal with exponential forgetting: two sums hold it, some twenty ends teach it, and nothing is
    known of the service that would justify more. It is mixed with a doubt, to which the published schedule is the
    answer, so that a generation older than all belief is looked at as if nothing had been seen. An end between two
    looks counts for where it is believed to lie, so that late looks do not teach that generations are slow.

    Gaps are in inverse proportion to the root of the hazard of an end, which makes the mean of (delay + price x looks)
    least (J. B. Keller, "Optimum checking schedules for systems subject to random failure", Management Science 21,
    1974).

    Args:
        policy: What holds for kinds of which nothing was seen, and always if it is not adaptive.
    """

    def __init__(self, policy: PollPolicy) -> None:
        self._policy = policy
        self._unknown = _Belief(policy)
        self._beliefs: dict[str, _Belief] = {}

    def ended(self, kind: str, after: float, by: float) -> None:
        """Learns from a generation that ended.

        Args:
            kind: What takes about as long as another of its kind.
            after: Its age in seconds at the last look that found it open; 0 if there was none.
            by: Its age in seconds at the look that found it ended; the same as `after` if the moment is known.
        """
        belief = self._beliefs.get(kind)
        if belief is None:
            belief = self._beliefs[kind] = _Belief(self._policy)
        belief.learn(after, by)

    def gap(self, kind: str, age: float, looks: int, chance: float) -> float:
        """The seconds until the next look, from a quarter of the policy's `first` to six times its `longest`.

        Args:
            kind: As it was given to `ended`.
            age: Seconds since the submit.
            looks: How many there have been.
            chance: An even draw from [0, 1).
        """
        policy = self._policy
        belief = self._beliefs.get(kind) if policy.adaptive else None
        if belief is None:
            return policy.gap(looks, chance)
        gap = belief.gap(age, (1.0 if looks else FIRST) * (1 - policy.jitter * chance))
        return min(6 * policy.longest, max(policy.first / 4, gap))

    def worth(self, kind: str, age: float, since: float) -> float:
        """What a look is worth now: the seconds of delay it may cost and still be right. Comparable between kinds.

        For an end as likely at one moment as at the next, exactly the price at which the best moment for a look is now.

        Args:
            kind: As it was given to `ended`.
            age: Seconds since the submit.
            since: Seconds since the last look, or since the submit.
        """
        belief = self._beliefs.get(kind, self._unknown)
        hazard = min(belief.hazard(age) - belief.hazard(max(age - since, 0.0)), 50.0)
        return since * max(math.expm1(hazard) / hazard - 1, 0.0) if hazard > 0 else 0.0


class _Belief:
    """One kind: a lognormal, and tables made from it whenever it changes.

    Attributes:
        ages: Seconds since the submit, from 0.
        looks: How many looks the best schedule makes up to each age.
        hazards: The hazard of an end summed up to each age: the negative logarithm of the chance that it is still open.
    """

    def __init__(self, policy: PollPolicy) -> None:
        self._policy = policy
        self._seen = self._squares = 0.0
        self._firsts = 0
        self._mean, self._deviation = UNKNOWN
        self._recent = self._mean
        self._tabulate()

    def learn(self, after: float, by: float) -> None:
        by = min(max(by, 1e-3), 1e7)
        high = (math.log(by) - self._mean) / self._deviation
        self._firsts = self._firsts + 1 if after <= 0 and high < 0 else 0
        if self._firsts:
            off, left = math.log(by) + self._firsts * math.log(UNSEEN) / 2 - self._mean, 0.0
        else:
            low = (math.log(min(max(after, 1e-6), by)) - self._mean) / self._deviation
            middle, variance = _within(low, high)
            off, left = middle * self._deviation, variance * self._deviation**2
        end = self._mean + off
        self._recent = (self._recent + end) / 2 if self._seen else end
        if not self._seen or abs(self._recent - self._mean) > SURPRISE * self._deviation:
            self._seen, self._mean, self._squares = 1.0, self._recent, left
        else:
            kept = 1 - 1 / MEMORY
            self._seen = self._seen * kept + 1
            self._mean += off / self._seen
            self._squares = self._squares * kept + off * (end - self._mean) + left
        # Of the next one: that of what was seen, and of their mean.
        variance = (ASSUMED * SPREAD**2 + self._squares) / (ASSUMED + self._seen)
        self._deviation = math.sqrt(variance * (1 + 1 / self._seen))
        self._tabulate()

    def _published(self, age: float) -> float:
        """The policy's gap, which grows with each look, by age."""
        return min(self._policy.longest, self._policy.first + (self._policy.factor - 1) * age)

    def _tabulate(self) -> None:
        deviation, median = self._deviation, math.exp(self._mean)
        gap = PACE * min(self._published(median / 3), median)
        # Twice the price of a look, which is what makes this gap the right one at the median's hazard.
        price = gap * gap * math.sqrt(2 / math.pi) / (deviation * median)
        self.ages, self.looks, self.hazards = [0.0], [0.0], [0.0]
        age = looks = hazard = doubted = 0.0
        for cell in range(CELLS + 1):
            off = LOWEST + (HIGHEST - LOWEST) * cell / CELLS
            before, age = age, math.exp(self._mean + deviation * off)
            # The published gap is the right one for this hazard.
            doubted += price / self._published((before + age) / 2) ** 2 * (age - before)
            still_open = (1 - DOUBT) * math.erfc(off / math.sqrt(2)) / 2 + DOUBT * math.exp(-doubted)
            hazard, last = -math.log(max(still_open, 1e-300)), hazard
            looks += math.sqrt(max(hazard - last, 0.0) * (age - before) / price)
            self.ages.append(age)
            self.looks.append(looks)
            self.hazards.append(hazard)
        self._rate = price / self._published(age) ** 2

    def gap(self, age: float, looks: float) -> float:
        """The seconds until the best schedule has made so many more looks."""
        if age >= self.ages[-1]:
            return looks * self._published(age)
        there = looks + _between(self.ages, self.looks, age)
        if there < self.looks[-1]:
            return _between(self.looks, self.ages, there) - age
        return self.ages[-1] - age + (there - self.looks[-1]) * self._published(self.ages[-1])

    def hazard(self, age: float) -> float:
        """Summed up to an age."""
        beyond = age - self.ages[-1]
        return self.hazards[-1] + beyond * self._rate if beyond >= 0 else _between(self.ages, self.hazards, age)


def _between(xs: list[float], ys: list[float], x: float) -> float:
    """The line through a table, below its end."""
    i = bisect_right(xs, x)
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


def _within(low: float, high: float) -> tuple[float, float]:
    """The mean and the variance of a standard normal that fell between two bounds; the middle, if it hardly could."""
    chance = (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2
    if chance < 1e-4:
        return (low + high) / 2, 0.0
    at_low, at_high = (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / chance for z in (low, high))
    mean = at_low - at_high
    return mean, max(1 + low * at_low - high * at_high - mean * mean, 0.0)
