"""What stands in for a service where there is no key: what can be known of a request without one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import ClassVar, NoReturn, TypeVar

from higgsfield_async._budget import Unit
from higgsfield_async._domain import Estimate, JobSet, Page, TaskRef, Upload, Usage
from higgsfield_async._errors import FieldError, InvalidRequest, Unsupported
from higgsfield_async._http import Call, Grant
from higgsfield_async._media import Attachment
from higgsfield_async._requests import GenerationRequest, SubmitOptions
from higgsfield_async._transports import PlatformTransport, ProxyTransport
from higgsfield_async._transports._agents import AgentCalls
from higgsfield_async._transports._characters import CharacterCalls
from higgsfield_async._transports._proxy import LONGEST_BODY
from higgsfield_async._transports._uploads import checked_files

T = TypeVar("T")

# Their keys are of no account: they are only asked what a request is called.
_SERVICES = (ProxyTransport("hk-none"), PlatformTransport("none", "none"))


class QueueTransport:
    """The queue in the database, as far as it is a service.

    Args:
        origin: The address of the database, without user and password.
        account: The account whose queue it is.
    """

    name: ClassVar[str] = "cluster"
    units: ClassVar[frozenset[Unit]] = frozenset()

    def __init__(self, origin: str, account: str) -> None:
        self.origin = origin
        self.account = account

    def __repr__(self) -> str:
        return f"QueueTransport({self.origin!r}, account={self.account!r})"

    def same_service(self, origin: str) -> bool:
        """Whether it is this database."""
        return origin == self.origin

    def kind(self, request: GenerationRequest) -> str:
        """What a request asks for, whichever service makes it."""
        proxy, platform = _SERVICES
        try:
            return proxy.kind(request)
        except Unsupported:
            return platform.kind(request)

    def checked(self, request: GenerationRequest, options: SubmitOptions) -> None:
        """Refuses what neither service takes: what a worker would refuse later is refused at once.

        Raises:
            InvalidRequest: Neither takes it.
            Unsupported: The one that makes it knows no such option.
        """
        proxy, platform = _SERVICES
        try:
            proxy.kind(request)
        except Unsupported:
            platform.submit(request, options)
        else:
            proxy.submit(request, options)

    def inlined(self, request: GenerationRequest, files: Sequence[Attachment]) -> Sequence[str]:
        """What stands before the base64 of each file: they go into the database with the request.

        Raises:
            InvalidRequest: They are of no type that the service takes, or too large together.
        """
        service = "proxy" if _is_proxy(request) else "platform"
        prefixes = [f"data:{name};base64," for name in checked_files(service, request, files)]
        length = sum(len(prefix) + -(-file.size // 3) * 4 for prefix, file in zip(prefixes, files, strict=True))
        if length > LONGEST_BODY:
            why = (
                f"its files have {length / 2**20:.1f} MiB in base64, and {LONGEST_BODY // 2**20} MiB go through the "
                "database: put them where they can be fetched, or upload them with a Higgsfield client"
            )
            errors = tuple(FieldError(file.loc, why, "value_error") for file in files)
            raise InvalidRequest(f"{type(request).__name__}: {why}.", errors=errors)
        return prefixes

    def price(self, request: GenerationRequest) -> Estimate | None:
        """Nothing: what the proxy publishes is no price of the platform's."""
        return None

    def submit(self, request: GenerationRequest, options: SubmitOptions) -> Call[JobSet]:
        """Not here: it is put into the queue."""
        _keyless("submits nothing itself")

    def estimate(self, request: GenerationRequest) -> Call[Estimate] | Estimate:
        """Of the proxy's, what is published; the platform is asked with a key.

        Raises:
            Unsupported: It is the platform's.
        """
        proxy, _ = _SERVICES
        if not _is_proxy(request):
            _keyless("knows no prices of the platform's: `estimate` asks for them with a key")
        return proxy.estimate(request)

    def poll(self, ref: TaskRef) -> Call[JobSet]:
        """Not here: the database is read."""
        _keyless("polls nothing itself")

    def cancel(self, ref: TaskRef) -> Call[None]:
        """Not here: a worker is asked."""
        _keyless("cancels nothing itself")

    def delete(self, ref: TaskRef) -> Call[None]:
        """Not here."""
        _keyless("deletes nothing at the service")

    def upload(self, head: bytes, size: int, content_type: str | None) -> Call[Grant[Upload]]:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        _keyless("uploads nothing: a local file in a request goes with it, up to 10 MiB")

    def catalogue(
        self, of: type[T], *, size: int | None, search: str | None, cursor: int | str | None, version: int
    ) -> Call[Page[T]]:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        _keyless("has no catalogues")

    def usage(self, start: date | None, end: date | None, timeframe: str) -> Call[tuple[Usage, ...]]:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        _keyless("cannot ask for the account's usage")

    def characters(self) -> CharacterCalls:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        _keyless("has no characters: submit a CharacterTraining for a new one")

    def agents(self) -> AgentCalls:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        _keyless("has no agents")


def _is_proxy(request: GenerationRequest) -> bool:
    try:
        _SERVICES[0].kind(request)
    except Unsupported:
        return False
    return True


def _keyless(what: str) -> NoReturn:
    msg = f"A Cluster {what}: it has no key. Use a Higgsfield client, where the key is."
    raise Unsupported(msg)
