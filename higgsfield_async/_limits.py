"""The limits of one client, and of one exchange."""

from __future__ import annotations

import math

from msgspec import Struct

from higgsfield_async._errors import ConfigurationError


class Limits(Struct, frozen=True, kw_only=True):
    """What one client keeps to, over everything that it does.

    What is limited waits, and does not fail. Where the service itself refuses something as too much, everything of that
    kind, submits or polls, is held back for as long as it says; then the pace recovers step by step.

    Attributes:
        max_active: How many generations may be open at once: submitted, and not seen to end. None for what the service
            says when it refuses one ("Maximum number of concurrent requests (4) …"), and no limit until then.
        requests_per_second: How many requests may be sent in a second, downloads aside; None for no limit.
        burst: How many of them may be sent at once after a pause.
        max_connections: How many exchanges are under way at once: up to half of them submits, and up to a quarter
            files on their way here or there, so that neither holds up the polls.
        patience: How long a submit may be kept waiting by limits, ours or the service's, before it fails as
            `RateLimited` with nothing charged, in seconds. Without end by default: what is limited waits.
        connect: How long a connection may take to be made, in seconds, TLS included.
        first_byte: How long the service may be silent after that, in seconds.
        read: How long the rest of an answer may take, in seconds.
        download: How long one result may be waited for, all tries together and the pauses between them, in seconds.
            Neither the wait for a place counts, nor what is done with each piece.
        upload: How long one file may take to be sent, in seconds.
        largest: How many bytes a result may have; 4 GiB by default.

    Raises:
        ConfigurationError: A number is out of range.
    """

    max_active: int | None = None
    requests_per_second: float | None = None
    burst: int = 10
    max_connections: int = 64
    patience: float = math.inf
    connect: float = 10.0
    first_byte: float = 90.0
    read: float = 60.0
    download: float = 600.0
    upload: float = 600.0
    largest: int = 4 * 1024**3

    def __post_init__(self) -> None:
        counts = (self.burst, self.max_connections, self.largest, 1 if self.max_active is None else self.max_active)
        if not all(count >= 1 and count % 1 == 0 for count in counts) or not self.patience >= 0:
            msg = "Limits needs whole numbers >= 1 for max_active, burst, max_connections and largest, patience >= 0."
            raise ConfigurationError(msg)
        rate = 1.0 if self.requests_per_second is None else self.requests_per_second
        times = (self.connect, self.first_byte, self.read, self.download, self.upload)
        if not all(0 < each < math.inf for each in (rate, *times)):
            msg = "The times of Limits, and its requests_per_second, must be greater than zero, and none without end."
            raise ConfigurationError(msg)
