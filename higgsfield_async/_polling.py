"""When to look at a generation again: decided from values, performed by the tracker."""

from __future__ import annotations

from msgspec import Struct

from higgsfield_async._errors import ConfigurationError, HiggsfieldError, InsufficientCredits


class PollPolicy(Struct, frozen=True, kw_only=True):
    """How soon a generation is polled again, and how long it is waited for.

    The default is adaptive: it learns from the generations that it saw how long each kind takes, and polls most often
    when an end is likeliest. Until it has seen one of a kind, it follows the platform's own guidance
    (https://docs.higgsfield.ai/docs/concepts/polling.md): 2 seconds, growing by half to 10, with jitter.

    Attributes:
        first: Seconds before the first poll.
        factor: By what the gap grows from one poll to the next.
        longest: What it grows to, in seconds.
        jitter: The part of a gap, 0 to 1, that is left to chance, so that generations submitted together are not polled
            together.
        adaptive: Whether gaps follow what was learned, between a quarter of `first` and six times `longest`.
        deadline: How long a wait without a timeout of its own lasts, in seconds; `math.inf` for no end.

    Raises:
        ConfigurationError: A number is out of range.
    """

    first: float = 2.0
    factor: float = 1.5
    longest: float = 10.0
    jitter: float = 0.2
    adaptive: bool = True
    deadline: float = 1200.0

    def __post_init__(self) -> None:
        if (
            not 0 < self.first <= self.longest
            or not 1 <= self.factor <= 100
            or not 0 <= self.jitter <= 1
            or not self.deadline > 0
        ):
            msg = "PollPolicy needs 0 < first <= longest, factor 1 to 100, jitter from 0 to 1 and deadline > 0."
            raise ConfigurationError(msg)

    @classmethod
    def fixed(cls, seconds: float, *, deadline: float = 1200.0) -> PollPolicy:
        """A poll every so many seconds."""
        return cls(first=seconds, factor=1.0, longest=seconds, jitter=0.0, adaptive=False, deadline=deadline)

    @classmethod
    def backoff(
        cls, first: float = 2.0, factor: float = 1.5, longest: float = 10.0, *, deadline: float = 1200.0
    ) -> PollPolicy:
        """Gaps that grow from `first` seconds by `factor` to `longest`."""
        return cls(first=first, factor=factor, longest=longest, adaptive=False, deadline=deadline)

    def gap(self, looks: int, chance: float) -> float:
        """The seconds between a poll and the next, when nothing was learned.

        Args:
            looks: How many polls there have been; none right after the submit.
            chance: An even draw from [0, 1).
        """
        gap = min(self.longest, self.first * self.factor ** min(looks, 64))
        return gap * (1 - self.jitter * chance)


def ends_wait(error: HiggsfieldError) -> bool:
    """Whether a failed poll ends a wait: only what will not pass by itself does.

    The proxy's gateway checks the balance on every call, polls included: an empty one says nothing of the generation.
    """
    return not error.transient and not isinstance(error, InsufficientCredits)
