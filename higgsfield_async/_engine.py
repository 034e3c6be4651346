"""Performs calls: connections, time limits, retries. The only place that knows aiohttp and backoff."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import aiohttp
import anyio
import backoff
from yarl import URL

from higgsfield_async._content import Content
from higgsfield_async._domain import without_query
from higgsfield_async._errors import (
    ClientClosed,
    ConnectionFailed,
    DownloadError,
    HiggsfieldError,
    MalformedResponse,
    RateLimited,
    UploadError,
)
from higgsfield_async._http import Call, Grant, HttpResponse, Ticket
from higgsfield_async._limits import Limits
from higgsfield_async._pace import Lane, Pace
from higgsfield_async._retry import RetryPolicy, may_repeat

T = TypeVar("T")

logger = logging.getLogger("higgsfield_async.engine")

# The edge in front of the platform refuses libraries that do not say who they are (Cloudflare's 1010).
USER_AGENT = f"higgsfield-async/{importlib.metadata.version('higgsfield-async')}"

# Far above any answer of JSON; it keeps a stream without end from filling the memory.
LONGEST_ANSWER = 64 * 1024 * 1024
_CHUNK = 256 * 1024


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
        self._allow_private = allow_private
        self._retry = retry
        self._limits = limits
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
        self._session = session or self._make_session(trust_env=trust_env, force_close=False)
        self._fresh = session or self._make_session(trust_env=trust_env, force_close=True)

    def _make_session(self, *, trust_env: bool, force_close: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limits.max_connections, force_close=force_close),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=trust_env,
            middlewares=(_once,),
        )

    async def close(self) -> None:
        """Closes the connections, unless the session is the user's own."""
        self.pace.close()
        if self._owned:
            try:
                await self._session.close()
            finally:
                await self._fresh.close()

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
            return await self._retrying(attempt, give_up)
        except HiggsfieldError as error:
            if call.submits:
                error.charged = "unknown" if ticket.doubtful else "no"
            raise

    async def _retrying(
        self, attempt: Callable[[], Coroutine[object, object, T]], give_up: Callable[[Any, float], bool]
    ) -> T:
        failures = 0
        pause = 0.0

        def over(error: Any) -> bool:
            # Drawn once: what is decided by it is what is waited.
            nonlocal failures, pause
            failures += 1
            pause = self._retry.delay(failures, error.retry_after, random.random())
            return give_up(error, pause)

        def wait(error: HiggsfieldError) -> float:
            logger.info("Trying again in %.1f s: %s", pause, error)
            return pause

        retried = backoff.on_exception(  # pyright: ignore[reportUnknownMemberType]: its `logger` is typed by half
            backoff.runtime,
            HiggsfieldError,
            max_tries=self._retry.attempts,
            giveup=over,
            # The policy draws its own jitter: backoff's would also shrink what a service asked for.
            jitter=None,
            logger=None,
            value=wait,
        )(attempt)
        return await retried()

    async def send_once(self, call: Call[T], ticket: Ticket | None = None) -> T:
        """Performs a call, and whatever call its answer leads to, each once and in its turn."""
        ticket = ticket or Ticket()
        lane: Lane = "submit" if call.submits else "poll" if call.polls else "other"
        era = await self.pace.enter(lane, ticket.waits_until)
        ticket.in_flight = call.submits
        failed: BaseException | None = None
        try:
            answer = await self.exchange(call)
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

    async def exchange(self, call: Call[T]) -> T | Call[T]:
        """Performs a call once, in the place that the caller holds."""
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
                words = how.format(limits=self._limits, longest=self._longest, error=type(error).__name__)
                msg = f"No answer to {name} from {url.host}: {words}."
                return ConnectionFailed(msg, refused=refused, transient=transient)
        if isinstance(error, aiohttp.ClientResponseError):
            msg = f"The answer to {name} from {url.host} is not HTTP that can be read."
            return MalformedResponse(msg, status=error.status, body=b"")
        return ConnectionFailed(f"{name} failed in the session with {type(error).__name__}.", transient=True)

    async def download(self, url: str, path: Path) -> Path:
        """Writes what lies at an address to a file: a temporary one beside it, renamed when it is whole.

        No key is sent, so that redirects may be followed.

        Returns:
            The file.

        Raises:
            DownloadError: It could not be fetched or written; there is no file then.
        """

        async def attempt() -> Path:
            return await self._download_once(url, path)

        return await self._retrying(attempt, lambda error, _: not error.transient)

    async def _download_once(self, url: str, path: Path) -> Path:
        shown = without_query(url)
        part = anyio.Path(path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.part"))
        try:
            if self._session.closed:
                raise ClientClosed(f"The client was closed before {shown} was fetched.")
            era = await self.pace.enter("download")
            try:
                with anyio.move_on_after(self._limits.download):
                    await self._fetch(url, part)
                    await part.replace(path)
                    return path
            finally:
                self.pace.leave("download", era)
            msg = f"{shown} was not fetched within {self._limits.download:g} s."
            raise DownloadError(msg, transient=True)
        except aiohttp.ClientResponseError as error:
            passing = error.status in (408, 425, 429) or error.status >= 500
            msg = f"{shown} answered with HTTP {error.status}."
            raise DownloadError(msg, status=error.status, transient=passing) from None
        except (ValueError, aiohttp.NonHttpUrlClientError):
            msg = f"{shown} is not an address that can be fetched."
            raise DownloadError(msg) from None
        except aiohttp.ClientError as error:
            msg = f"{shown} could not be fetched whole ({type(error).__name__})."
            raise DownloadError(msg, transient=True) from error
        except OSError as error:
            msg = f"{path} could not be written: {error.strerror or type(error).__name__}."
            raise DownloadError(msg) from error
        finally:
            with anyio.CancelScope(shield=True):
                await part.unlink(missing_ok=True)

    async def _fetch(self, url: str, part: anyio.Path) -> None:
        async with (
            self._session.get(
                URL(url),
                headers={"User-Agent": USER_AGENT},
                timeout=self._fetching,
                raise_for_status=True,
                max_redirects=5,
            ) as response,
            await anyio.open_file(part, "wb") as file,
        ):
            async for chunk in response.content.iter_chunked(_CHUNK):
                await file.write(chunk)

    async def upload(self, call: Call[Grant[T]], content: Content) -> T:
        """Puts a file where the service gives leave to, and again from the start, with new leave, where that may help.

        Raises:
            UploadError: It could not be put there.
            HiggsfieldError: There was no leave.
        """

        async def attempt() -> T:
            # Files share a lane, whichever way they go: however many there are, the polls have room. Leave is asked for
            # in it, since it lasts for an hour and a line may last longer.
            era = await self.pace.enter("download")
            try:
                return await self._put(await self.send_once(call), content)
            finally:
                self.pace.leave("download", era)

        return await self._retrying(attempt, lambda error, _: not may_repeat(call, error))

    async def _put(self, grant: Grant[T], content: Content) -> T:
        request = grant.request
        # As it is: every character of it is signed.
        url = URL(request.url, encoded=True)
        pieces = content.pieces()
        try:
            with anyio.move_on_after(self._limits.upload):
                async with self._session.put(
                    url,
                    data=pieces,
                    # Without its length, it would go out in chunks, which the storage does not take.
                    headers={"User-Agent": USER_AGENT, **request.headers, "Content-Length": str(content.size)},
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=self._fetching,
                ) as response:
                    body = await self._read(response, "the upload")
                    answer = HttpResponse(response.status, response.headers, body, time.time())
                return grant.decode(answer)
            msg = f"The upload to {url.host} was not done within {self._limits.upload:g} s."
            failure: HiggsfieldError = UploadError(msg, transient=True)
        except HiggsfieldError:
            raise
        except Exception as error:  # noqa: BLE001  # as in `exchange`
            failure = pieces.failure or self._explain(error, "the upload", url)
        if isinstance(failure, (ClientClosed, UploadError)):
            raise failure
        # Without its cause: aiohttp names the whole address in it, signature and all.
        raise UploadError(str(failure), transient=failure.transient)


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
