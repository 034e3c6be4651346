"""The limits of one client's connections and of one exchange."""

from __future__ import annotations

import math

from msgspec import Struct

from higgsfield_async._errors import ConfigurationError


class Limits(Struct, frozen=True, kw_only=True):
    """What one client keeps to.

    Attributes:
        max_connections: How many exchanges are under way at once. Waiting for a free place is no failure, and has no
            limit of its own.
        connect: How long a connection may take to be made, in seconds, TLS included.
        first_byte: How long the service may be silent after that, in seconds.
        read: How long the rest of an answer may take, in seconds.
        download: How long one result may take to be fetched, in seconds.

    Raises:
        ConfigurationError: A number is not positive, or infinite.
    """

    max_connections: int = 64
    connect: float = 10.0
    first_byte: float = 90.0
    read: float = 60.0
    download: float = 600.0

    def __post_init__(self) -> None:
        times = (self.connect, self.first_byte, self.read, self.download)
        if self.max_connections < 1 or not all(0 < seconds < math.inf for seconds in times):
            msg = "Every one of the Limits must be greater than zero, and none without end."
            raise ConfigurationError(msg)
