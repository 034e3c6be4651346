"""When to try an exchange again: decided from values, performed by the engine."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct

from higgsfield_async._errors import ConfigurationError, HiggsfieldError
from higgsfield_async._http import Call

T = TypeVar("T")


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often, and how soon, an exchange that failed is tried again.

    A wait for a generation is no exchange: it goes on until its deadline, however often a poll of it fails.

    Attributes:
        attempts: How many tries in all; 1 means none again.
        first: The longest wait before the second try, in seconds.
        factor: By what it grows from one try to the next.
        longest: What it grows to, in seconds. Each wait is drawn evenly from zero to its longest ("full jitter").
        longest_retry_after: The most that a service's `Retry-After` is followed, in seconds.

    Raises:
        ConfigurationError: A number is out of range.
    """

    attempts: int = 5
    first: float = 0.5
    factor: float = 2.0
    longest: float = 20.0
    longest_retry_after: float = 120.0

    def __post_init__(self) -> None:
        whole = self.attempts >= 1 and self.attempts % 1 == 0
        growing = 0 <= self.first <= self.longest and 1 <= self.factor <= 100
        if not (whole and growing and self.longest_retry_after >= 0):
            msg = (
                "RetryPolicy needs a whole number of attempts >= 1, 0 <= first <= longest, factor 1 to 100 "
                "and longest_retry_after >= 0."
            )
            raise ConfigurationError(msg)

    def delay(self, failures: int, retry_after: float | None, chance: float) -> float:
        """The seconds to wait after so many failures in a row.

        Args:
            failures: One or more.
            retry_after: What the service asked for, or None. It is never undercut, up to `longest_retry_after`.
            chance: An even draw from [0, 1).
        """
        # The exponent is bounded: a wait may see thousands of failed polls, and 2.0 ** 1024 overflows.
        jittered = chance * min(self.longest, self.first * self.factor ** min(failures - 1, 64))
        if retry_after is None:
            return jittered
        return min(retry_after, self.longest_retry_after) + jittered


def may_repeat(call: Call[T], error: HiggsfieldError) -> bool:
    """Whether a failed exchange may be performed again without paying twice."""
    if not error.transient:
        return False
    return error.refused or not call.submits or call.key is not None
