"""Performs calls: connections, time limits, retries. The only place that knows aiohttp and backoff."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import io
import logging
import random
import re
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, TypeVar, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import anyio.to_thread
import backoff
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from higgsfield_async._addresses import is_inside, is_inside_host
from higgsfield_async._content import Content
from higgsfield_async._domain import without_query
from higgsfield_async._errors import (
    ClientClosed,
    ConnectionFailed,
    DownloadError,
    HiggsfieldError,
    JournalError,
    MalformedResponse,
    RateLimited,
    UploadError,
)
from higgsfield_async._http import Call, Grant, HttpResponse, Ticket
from higgsfield_async._limits import Limits
from higgsfield_async._pace import SHARES, Pace, Unused
from higgsfield_async._retry import RetryPolicy, may_repeat
from higgsfield_async._telemetry import Tried, fields, telemetry

T = TypeVar("T")

logger = logging.getLogger("higgsfield_async.engine")

# The edge in front of the platform refuses libraries that do not say who they are (Cloudflare's 1010).
USER_AGENT = f"higgsfield-async/{importlib.metadata.version('higgsfield-async')}"

# Whoever opens a client imports this module outside the event loop, and what it takes to be watched with it.
telemetry()

# Far above any answer of JSON; it keeps a stream without end from filling the memory.
LONGEST_ANSWER = 64 * 1024 * 1024
# How many redirects of a file are followed.
REDIRECTS = 5
# Default headers of a session that may go to any host; what else there is may be a secret.
_HARMLESS = frozenset(
    (
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "dnt",
        "pragma",
        "user-agent",
    )
)
# How many threads write files at once: each that is ready to run takes its share of the processor from the event loop.
WRITERS = 4
# How long closing waits for the last of what threads do, in seconds: others may have filled their pool.
LATE = 10.0
# So much of a file is read from its connection before it is taken: less stops and starts the reading all the time.
_READ_BUFFER = 256 * 1024


class HttpEngine:
    """One client's connections. Made inside the event loop that it is used in."""

    def __init__(
        self,
        *,
        retry: RetryPolicy,
        limits: Limits,
        session: aiohttp.ClientSession | None,
        trust_env: bool,
        allow_private: bool,
    ) -> None:
        self.telemetry = telemetry()
        self._allow_private = allow_private
        self._retry = retry
        self.limits = limits
        self.pace = Pace(limits, retry, random.random)
        self._longest = limits.connect + limits.first_byte + limits.read
        self._timeout = aiohttp.ClientTimeout(
            total=self._longest,
            # Before anything is sent: a name may be looked up for long, or a session of the user's own be full.
            connect=limits.first_byte,
            sock_connect=limits.connect,
            sock_read=limits.first_byte,
        )
        # A timer for each read of each poll would be a tenth of what a poll costs: it is limited as a whole.
        self._polling = aiohttp.ClientTimeout(total=self._longest, sock_connect=limits.connect)
        # The whole of a file has a limit of its own.
        self._fetching = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.first_byte)
        self._owned = session is None
        self._trust_env = trust_env
        self._session = session or self._make_session(trust_env=trust_env)
        self._fresh = session or self._make_session(trust_env=trust_env, force_close=True)
        # For addresses that somebody else names: what their names lead to is looked at as the connection is made.
        # It takes no credentials from the environment to them (`.netrc`): its proxies are named one by one.
        self._plain = self._make_session(trust_env=False) if session is None and trust_env else self._session
        self._outward = self._plain
        self._resolver: _Outward | None = None
        if session is None and not allow_private:
            self._resolver = _Outward()
            self._outward = self._make_session(trust_env=False, resolver=self._resolver)
        self._bodies: set[Body] = set()
        self._behind: set[asyncio.Future[None]] = set()
        self._closed = False
        self.disk = anyio.CapacityLimiter(WRITERS)
        self._uploading = anyio.CapacityLimiter(max(1, int(limits.max_connections * SHARES["download"])))

    def _make_session(
        self, *, trust_env: bool, force_close: bool = False, resolver: AbstractResolver | None = None
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.limits.max_connections, force_close=force_close, resolver=resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=trust_env,
            middlewares=(_once,),
        )

    async def close(self) -> None:
        """Closes the connections, unless the session is the user's own."""
        self._closed = True
        self.pace.close()
        for body in list(self._bodies):
            body.end()
        try:
            if self._behind:
                await asyncio.wait(self._behind, timeout=LATE)
        finally:
            if self._owned:
                try:
                    await self._session.close()
                finally:
                    await self._plain.close()
                    await self._outward.close()
                    await self._fresh.close()
                    if self._resolver is not None:
                        await self._resolver.close()

    async def behind(self, work: Callable[[], None]) -> None:
        """Has a thread do what must be done, even if the caller is cancelled, again and again."""
        # Nothing is awaited before it is handed over: no cancellation comes in between.
        done = asyncio.get_running_loop().run_in_executor(None, work)
        self._behind.add(done)
        done.add_done_callback(self._behind.discard)
        with anyio.CancelScope(shield=True):
            await asyncio.shield(done)

    async def send(self, call: Call[T], ticket: Ticket | None = None) -> T:
        """Performs a call, and again where that is safe and may help.

        A submit that is refused as too much is not repeated here: it waits for its turn like every other one.

        Raises:
            HiggsfieldError: What the last try ended with. For a submit, its `charged` counts every try: it is `"no"`
                only if none of them can have been accepted.
        """
        ticket = ticket or Ticket()

        async def attempt() -> T:
            try:
                return await self.send_once(call, ticket)
            except HiggsfieldError as error:
                ticket.failures += 1
                if error.refused:
                    ticket.in_flight = ticket.doubtful
                elif call.submits:
                    ticket.doubt()
                raise

        def give_up(error: HiggsfieldError, pause: float) -> bool:
            if call.submits and isinstance(error, RateLimited):
                return True
            return not may_repeat(call, error) or time.monotonic() + pause >= ticket.waits_until

        try:
            return await self.retrying(attempt, give_up, _lane(call))
        except HiggsfieldError as error:
            if call.submits:
                error.charged = "unknown" if ticket.doubtful else "no"
            raise

    async def retrying(
        self, attempt: Callable[[], Coroutine[object, object, T]], give_up: Callable[[Any, float], bool], what: Tried
    ) -> T:
        """Makes an attempt, and again as the policy has it.

        Args:
            attempt: What to do; it raises one of our errors where it fails.
            give_up: Whether it is of no use after this error, with so many seconds to wait first.
            what: What it is called where it is counted.
        """
        failures = 0
        pause = 0.0

        def over(error: Any) -> bool:
            # Drawn once: what is decided by it is what is waited.
            nonlocal failures, pause
            failures += 1
            pause = self._retry.delay(failures, error.retry_after, random.random())
            return give_up(error, pause)

        def again(error: HiggsfieldError) -> float:
            logger.info("Trying again in %.1f s: %s", pause, error, extra=fields(error=error))
            self.telemetry.retried(what, error)
            return 0.0

        async def rested() -> T:
            # Here and not in backoff, where a pause would outlive the client.
            if failures:
                await self.pace.rest(pause)
            return await attempt()

        retried = backoff.on_exception(  # pyright: ignore[reportUnknownMemberType]: its `logger` is typed by half
            backoff.runtime,
            HiggsfieldError,
            max_tries=self._retry.attempts,
            giveup=over,
            # The policy draws its own jitter: backoff's would also shrink what a service asked for.
            jitter=None,
            logger=None,
            value=again,
        )(rested)
        return await retried()

    async def send_once(self, call: Call[T], ticket: Ticket | None = None) -> T:
        """Performs a call, and whatever call its answer leads to, each once and in its turn."""
        ticket = ticket or Ticket()
        lane = _lane(call)
        era = await self.pace.enter(lane, ticket.waits_until)
        failed: BaseException | None = None
        try:
            if ticket.begin is not None:
                await ticket.begin()
            ticket.in_flight = call.submits
            answer = await self.exchange(call, ticket.failures)
        except JournalError:
            failed = Unused()
            raise
        except BaseException as error:
            failed = error
            raise
        finally:
            self.pace.leave(lane, era, failed)
        if not isinstance(answer, Call):
            return answer
        ticket.in_flight = False
        if ticket.abandoned:
            raise ConnectionFailed(f"The {call.name} was given up before it was sent again.", refused=True)
        return await self.send_once(cast("Call[T]", answer), ticket)

    async def exchange(self, call: Call[T], failures: int = 0) -> T | Call[T]:
        """Performs a call once, in the place that the caller holds, after so many failures."""
        request = call.request
        url = URL(request.url, encoded=True)
        headers = {"User-Agent": USER_AGENT, **request.headers}
        host: str | None = None
        if call.fresh:
            # Our own session for these keeps no connection. In a user's one, aiohttp keeps connections apart by the
            # name that TLS asks for, even where it is the host's own: none of the others is found for this one, nor any
            # of its kind where the service closes them as it is asked to.
            headers["Connection"] = "close"
            host = url.raw_host
        try:
            with self.telemetry.exchange(request.method, request.url, failures) as observed:
                async with (self._fresh if call.fresh else self._session).request(
                    request.method,
                    url,
                    data=_in_pieces(request.body),
                    headers=headers,
                    # Our keys never follow a redirect.
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=self._polling if call.polls else self._timeout,
                    server_hostname=host,
                ) as response:
                    observed.answered(response.status)
                    body = await self._read(response, call.name)
                    answer = HttpResponse(response.status, response.headers, body, time.time())
        except HiggsfieldError:
            raise
        except Exception as error:  # noqa: BLE001  # a session of the user's own may raise anything at all
            failure, cause = self._explain(error, call.name, url), _without_headers(error)
        else:
            return call.decode(answer)
        # Raised here, where the foreign error is no context of it any more.
        raise failure from cause

    async def _read(self, response: aiohttp.ClientResponse, name: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while not response.content.at_eof():
            chunks.append(await response.content.readany())
            size += len(chunks[-1])
            if size > LONGEST_ANSWER:
                msg = f"The answer to {name} is longer than {LONGEST_ANSWER:,} bytes."
                raise MalformedResponse(msg, status=response.status, body=chunks[0])
        return b"".join(chunks)

    def _explain(self, error: Exception, name: str, url: URL) -> HiggsfieldError:
        if isinstance(error, RuntimeError) and self._session.closed:
            return ClientClosed(f"The session was closed before {name} was sent.", refused=True)
        for kinds, how, refused, transient in _BROKEN:
            if isinstance(error, kinds):
                words = how.format(limits=self.limits, longest=self._longest, error=type(error).__name__)
                msg = f"No answer to {name} from {url.host}: {words}."
                return ConnectionFailed(msg, refused=refused, transient=transient)
        if isinstance(error, aiohttp.ClientResponseError):
            msg = f"The answer to {name} from {url.host} is not HTTP that can be read."
            return MalformedResponse(msg, status=error.status, body=b"")
        return ConnectionFailed(f"{name} failed in the session with {type(error).__name__}.", transient=True)

    async def fetch(self, url: str, headers: Mapping[str, str]) -> Body:
        """Asks for what lies at an address, in the place that the caller holds. No key of ours is sent.

        Redirects are followed, up to 5 of them: to https alone, unless the service itself is inside.

        Args:
            url: The address.
            headers: What to ask with.

        Returns:
            The answer, whatever its status, to be closed by the caller.

        Raises:
            DownloadError: There was no answer, or it may not be asked for.
            ClientClosed: The client or its session is closed.
        """
        self._check_open(url)
        # Ranges are counted in bytes of the file, not of what it is packed into for the way.
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        try:
            address = _address(url)
            for _ in range(REDIRECTS + 1):
                answer = await self._ask(address, headers)
                if self._closed:
                    answer.close()
                self._check_open(url)
                location = answer.headers.get("location")
                if answer.status not in (301, 302, 303, 307, 308) or location is None:
                    body = Body(answer, without_query(url), self._bodies)
                    self._bodies.add(body)
                    return body
                answer.close()
                address = self._redirected(address, address.join(_address(location)))
            failure, cause = DownloadError(f"{without_query(url)} redirects more than {REDIRECTS} times."), None
        except HiggsfieldError:
            raise
        except Exception as error:  # noqa: BLE001  # as in `exchange`
            failure, cause = _not_fetched(error, without_query(url)), _without_headers(error)
        # Without what names the whole address, signature and all.
        raise failure from (cause if isinstance(cause, (OSError, aiohttp.ClientPayloadError)) else None)

    def _check_open(self, url: str) -> None:
        if self._closed or self._session.closed:
            raise ClientClosed(f"The client was closed before {without_query(url)} was fetched.")

    async def _ask(self, address: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(address.scheme)
        if not self._allow_private and is_inside(str(address)):
            raise _led_inside(without_query(str(address)))
        if not self._allow_private and not self._owned:
            await self._look_up(address)
        proxy = await self._proxy_for(address)
        with self.telemetry.exchange("GET", str(address)) as observed:
            answer = await (self._outward if proxy is None else self._plain).get(
                address,
                headers=headers,
                proxy=proxy,
                timeout=self._fetching,
                allow_redirects=False,
                raise_for_status=False,
                read_bufsize=_READ_BUFFER,
            )
            observed.answered(answer.status)
        return answer

    def _redirected(self, before: URL, after: URL) -> URL:
        shown = without_query(str(after))
        if after.scheme != "https" and (before.scheme == "https" or not self._allow_private):
            raise DownloadError(
                f"{without_query(str(before))} redirects to {shown}, which is not followed: it is no https."
            )
        if not self._owned and before.origin() != after.origin() and _has_secrets(self._session):
            msg = f"{without_query(str(before))} redirects to {shown}: not followed, for the session's own credentials."
            raise DownloadError(msg)
        return after

    async def _proxy_for(self, address: URL) -> URL | None:
        """The proxy that the environment names for an address. It alone looks the name up then."""
        if not self._trust_env or not self._owned:
            return None

        def find() -> str | None:
            return None if proxy_bypass(address.host or "") else getproxies().get(address.scheme)

        # On some systems that asks the network.
        found = await anyio.to_thread.run_sync(find)
        return None if found is None else URL(found)

    async def _look_up(self, address: URL) -> None:
        """Refuses a name that leads inside, for a session whose own look-up nobody sees."""
        loop = asyncio.get_running_loop()
        # Where it is not found, the session's proxy may find it.
        with contextlib.suppress(OSError):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            if any(is_inside_host(str(entry[4][0])) for entry in found):
                raise _led_inside(without_query(str(address)))

    async def upload(self, call: Call[Grant[T]], content: Content) -> T:
        """Puts a file where the service gives leave to, and again from the start, with new leave, where that may help.

        Raises:
            UploadError: It could not be put there.
            HiggsfieldError: There was no leave.
        """

        async def attempt() -> T:
            # Leave lasts for an hour, and a line may last longer: it is asked for when it is the file's turn.
            async with self._uploading:
                grant = await self.send_once(call)
                # Files share a lane, whichever way they go: however many there are, the polls have room.
                era = await self.pace.enter("download")
                try:
                    return await self._put(grant, content)
                finally:
                    self.pace.leave("download", era)

        return await self.retrying(attempt, lambda error, _: not may_repeat(call, error), "upload")

    async def _put(self, grant: Grant[T], content: Content) -> T:
        request = grant.request
        # As it is: every character of it is signed.
        url = URL(request.url, encoded=True)
        pieces = content.pieces()
        try:
            with anyio.move_on_after(self.limits.upload):
                proxy = await self._proxy_for(url)
                with self.telemetry.exchange("PUT", request.url) as observed:
                    async with self._plain.put(
                        url,
                        proxy=proxy,
                        data=pieces,
                        # Without its length, it would go out in chunks, which the storage does not take.
                        headers={"User-Agent": USER_AGENT, **request.headers, "Content-Length": str(content.size)},
                        allow_redirects=False,
                        raise_for_status=False,
                        timeout=self._fetching,
                    ) as response:
                        observed.answered(response.status)
                        body = await self._read(response, "the upload")
                        answer = HttpResponse(response.status, response.headers, body, time.time())
                return grant.decode(answer)
            msg = f"The upload to {url.host} was not done within {self.limits.upload:g} s."
            failure: HiggsfieldError = UploadError(msg, transient=True)
        except HiggsfieldError:
            raise
        except Exception as error:  # noqa: BLE001  # as in `exchange`
            failure = pieces.failure or self._explain(error, "the upload", url)
        if isinstance(failure, (ClientClosed, UploadError)):
            raise failure
        # Without its cause: aiohttp names the whole address in it, signature and all.
        raise UploadError(str(failure), transient=failure.transient)


class Body:
    """The answer of an address that a file lies at, as it comes.

    Attributes:
        status: Its HTTP status.
        headers: Its headers, to be looked up in lower case.
    """

    def __init__(self, response: aiohttp.ClientResponse, shown: str, among: set[Body]) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._shown = shown
        self._among = among
        self._ended = False

    async def read(self) -> bytes:
        """The next bytes of it, however many have come; none after the last.

        Raises:
            DownloadError: It was cut.
            ClientClosed: The client was closed.
        """
        try:
            return await self._response.content.readany()
        except Exception as error:  # noqa: BLE001  # as in `exchange`
            failure: HiggsfieldError = _not_fetched(error, self._shown)
            if self._ended:
                failure = ClientClosed(f"The client was closed while {self._shown} was fetched.")
            cause = _without_headers(error)
        raise failure from cause

    def end(self) -> None:
        """Closes it, as the client is closed: who reads is told."""
        self._ended = True
        self.close()

    def close(self) -> None:
        """Closes the connection, unless all of it was read: then it is kept."""
        self._among.discard(self)
        self._response.close()


class _LedInside(OSError):
    """A name leads to an address inside."""


class _Outward(AbstractResolver):
    """Looks names up, and finds no address inside: at the moment of connecting, so that none can change after it."""

    def __init__(self) -> None:
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if any(is_inside_host(each["host"]) for each in found):
            raise _LedInside
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _address(url: str) -> URL:
    # What may be signed is left as it is, character for character.
    return URL(url, encoded=re.fullmatch(r"[\x21-\x7e]*", url, re.ASCII) is not None)


def _led_inside(shown: str) -> DownloadError:
    msg = (
        f"{shown} leads inside a private network, so that nothing was fetched from it. "
        "If that is meant, open the client with allow_private=True."
    )
    return DownloadError(msg)


def _has_secrets(session: aiohttp.ClientSession) -> bool:
    """Whether a session sends with everything what may be meant for one host alone."""
    # A cookie without a domain goes to every host.
    shared = any(not cookie["domain"] for cookie in session.cookie_jar)
    return session.auth is not None or shared or any(name.lower() not in _HARMLESS for name in session.headers)


def _not_fetched(error: Exception, shown: str) -> DownloadError:
    if isinstance(getattr(error, "os_error", None), _LedInside):
        return _led_inside(shown)
    if isinstance(error, (ValueError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        return DownloadError(f"{shown} is not an address that can be fetched.")
    trusted = not isinstance(error, aiohttp.ClientConnectorCertificateError)
    return DownloadError(f"{shown} could not be fetched whole ({type(error).__name__}).", transient=trusted)


# What can break on the way to an answer; the first row that matches counts. `refused`: nothing can have arrived.
_BROKEN: tuple[tuple[tuple[type[Exception], ...], str, bool, bool], ...] = (
    ((aiohttp.ClientConnectorCertificateError,), "its certificate is not trusted; nothing was sent", True, False),
    (
        (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError),
        "no connection could be made ({error}); nothing was sent",
        True,
        True,
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        "no connection was made in time; nothing was sent",
        True,
        True,
    ),
    ((aiohttp.SocketTimeoutError,), "silent for {limits.first_byte:g} s", False, True),
    ((TimeoutError,), "not whole within {longest:g} s", False, True),
    (
        (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError),
        "the connection broke ({error})",
        False,
        True,
    ),
)


def _lane(call: Call[Any]) -> Literal["submit", "poll", "other"]:
    return "submit" if call.submits else "poll" if call.polls else "other"


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending what is idempotent again by itself: no limit would count it.

    It does so for these two kinds of errors, and for none that they are kinds of.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    # aiohttp writes bytes in one go, which holds up the loop when they are many, and warns of more than these.
    return io.BytesIO(body) if body is not None and len(body) > 2**20 else body


def _without_headers(error: Exception) -> Exception | None:
    # This family carries the request's headers, and shows them in its repr: our keys are among them.
    return None if isinstance(error, aiohttp.ClientResponseError) else error
