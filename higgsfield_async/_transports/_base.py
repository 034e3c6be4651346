"""What a transport is: the description of one service, without any I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import date
from typing import ClassVar, Protocol, TypeVar
from urllib.parse import urlsplit

from higgsfield_async._budget import Unit
from higgsfield_async._domain import Estimate, JobSet, Page, TaskRef, Upload, Usage
from higgsfield_async._errors import ConfigurationError
from higgsfield_async._http import Call, Grant
from higgsfield_async._media import Attachment
from higgsfield_async._requests import GenerationRequest, SubmitOptions
from higgsfield_async._transports._agents import AgentCalls
from higgsfield_async._transports._characters import CharacterCalls

T = TypeVar("T")


class Transport(Protocol):
    """How one service spells things.

    Every method but the first two properties describes one exchange and performs none. Each raises `Unsupported`
    where the service has no such operation.

    Attributes:
        name: The service's name, as it stands in a `TaskRef`.
        units: What its prices are given in.
    """

    name: ClassVar[str]
    units: ClassVar[frozenset[Unit]]

    @property
    def origin(self) -> str:
        """The base address: keys are sent there and nowhere else."""
        ...

    @property
    def account(self) -> str:
        """A fingerprint of the key."""
        ...

    def same_service(self, origin: str) -> bool:
        """Whether a generation submitted at that address can be looked at here."""
        ...

    def kind(self, request: GenerationRequest) -> str:
        """What a request asks for, as it stands in a `TaskRef`."""
        ...

    def submit(self, request: GenerationRequest, options: SubmitOptions) -> Call[JobSet]:
        """Submits a generation: the one call that costs money."""
        ...

    def price(self, request: GenerationRequest) -> Estimate | None:
        """What a generation costs, as far as that is known without asking."""
        ...

    def inlined(self, request: GenerationRequest, files: Sequence[Attachment]) -> Sequence[str] | None:
        """How the local files of a request reach the service.

        Args:
            request: What is wanted; its local files are empty text in it.
            files: What is known of them.

        Returns:
            What stands before the base64 of each in the request itself; None where all are uploaded, and their
            addresses stand there.

        Raises:
            InvalidRequest: The service does not take one of them, or all of them together.
        """
        ...

    def estimate(self, request: GenerationRequest) -> Call[Estimate] | Estimate:
        """What a generation will cost: asked for, or known without asking."""
        ...

    def poll(self, ref: TaskRef) -> Call[JobSet]:
        """Looks at a generation."""
        ...

    def cancel(self, ref: TaskRef) -> Call[None]:
        """Cancels a generation."""
        ...

    def delete(self, ref: TaskRef) -> Call[None]:
        """Deletes what a finished generation made."""
        ...

    def upload(self, head: bytes, size: int, content_type: str | None) -> Call[Grant[Upload]]:
        """Asks for leave to upload a file that begins with these bytes."""
        ...

    def catalogue(
        self, of: type[T], *, size: int | None, search: str | None, cursor: int | str | None, version: int
    ) -> Call[Page[T]]:
        """One page of a catalogue: of models, motions, presets, voices, sounds or styles."""
        ...

    def usage(self, start: date | None, end: date | None, timeframe: str) -> Call[tuple[Usage, ...]]:
        """What was used from one time to another, by stretches of that length."""
        ...

    def characters(self) -> CharacterCalls:
        """What there is to do with characters."""
        ...

    def agents(self) -> AgentCalls:
        """What there is to do with agent sessions."""
        ...


_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


def checked_key(name: str, key: object) -> str:
    """A key that can stand in a header. The message never repeats it.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(key, str) or not _HEADER_VALUE.fullmatch(key):
        msg = f"{name} must be a string of visible ASCII characters without spaces, and not empty."
        raise ConfigurationError(msg)
    return key


def checked_base_url(base_url: str) -> str:
    """An address to put paths behind: http or https, with a host, perhaps with a path, and nothing else.

    Raises:
        ConfigurationError: It is none.
    """
    msg = "base_url must be an address such as https://api.example.com or https://example.com/prefix."
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as it will be when its name is looked up
    except (ValueError, AttributeError, TypeError):
        raise ConfigurationError(msg) from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or any(char.isspace() for char in base_url):
        raise ConfigurationError(msg)
    if "@" in parts.netloc or parts.query or parts.fragment:
        msg = "base_url must hold neither a user, nor a password, nor a query: keys are given beside it."
        raise ConfigurationError(msg)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def fingerprint(service: str, key: str) -> str:
    """Twelve hexadecimal digits that tell two accounts apart and cannot be turned back."""
    return hashlib.sha256(f"higgsfield-async:{service}:{key}".encode()).hexdigest()[:12]
