"""What is set up, and what is wrong with it."""

from __future__ import annotations

import asyncio
import glob
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

import anyio
from msgspec import Struct
from msgspec.structs import replace

from higgsfield_async._addresses import is_inside
from higgsfield_async._domain import Motion, Page
from higgsfield_async._errors import ApiError, AuthenticationFailed, ConfigurationError, HiggsfieldError, JournalError
from higgsfield_async._http import Call, Grant, HttpResponse, moment
from higgsfield_async._limits import Limits
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._sqlite import SQLiteJournal
from higgsfield_async._transports import Service, Transport, transport_from
from higgsfield_async.cli._exits import Exit, exit_of
from higgsfield_async.cli._options import Options, database_url, journal_path
from higgsfield_async.cli._output import Output

# How long the network is waited for, in seconds, at each step.
PATIENCE = 10.0
# A clock may be wrong by so many seconds before it is worth a word, and before webhooks are taken for old.
SKEW, TOO_OLD = 30.0, 300.0
# So many bytes free are few.
FEW = 500 * 1024**2
# What an upload is asked for with: how a PNG begins. Nothing is sent after it.
_PICTURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


class Check(Struct, frozen=True, kw_only=True):
    """What one look found.

    Attributes:
        state: `ok`; `warn` for what will do, for now; or `wrong`.
        name: What was looked at.
        said: What was found, and what to do about it.
        code: The exit code, where it is wrong.
    """

    state: Literal["ok", "warn", "wrong"]
    name: str
    said: str
    code: int = Exit.DONE


def _ok(name: str, said: str) -> Check:
    return Check(state="ok", name=name, said=said)


def _warn(name: str, said: str) -> Check:
    return Check(state="warn", name=name, said=said)


def _wrong(name: str, said: str, code: Exit) -> Check:
    return Check(state="wrong", name=name, said=said, code=code)


async def doctor(*, options: Options = Options()) -> int:
    """Look at what is set up, and say what is wrong with it: keys, network, clock, packages, journal, database.

    No key is shown. The service is asked one thing, which costs nothing.
    """
    output = Output(json=options.json)
    code: int = Exit.DONE
    async for check in _checks(options):
        output.thing(check, f"{check.state:<6}{check.name:<9} {check.said}")
        code = code or check.code
    return code


async def _checks(options: Options) -> AsyncIterator[Check]:
    yield await anyio.to_thread.run_sync(lambda: packages(importlib.metadata.distribution("higgsfield-async")))
    database = database_url(options)
    if database is not None:
        yield await _database(database, options.account)
    keyed: list[Service | None] = [
        service for service, names in _KEYS.items() if any(os.environ.get(name) for name in names)
    ]
    if database is not None and not keyed:
        yield _ok("key", "None here, and none is needed: the workers of the cluster have it.")
        keyed = []
    elif options.service is None and len(keyed) > 1:
        yield _warn("key", "There are keys for both services: each command wants to be told, with --service.")
    elif options.service is not None or not keyed:
        keyed = [options.service]
    for service in keyed:
        try:
            transport = transport_from(os.environ, service)
        except ConfigurationError as error:
            yield _wrong("key", str(error), Exit.SETUP)
        else:
            yield _key(transport)
            async for check in _service(transport):
                yield check
    if database is None:
        yield await _journal(journal_path(options))


_KEYS: Mapping[Service, Sequence[str]] = {
    "proxy": ("HIGGSFIELD_PROXY_KEY",),
    "platform": ("HF_KEY", "HF_API_KEY", "HF_API_SECRET", "HF_CREDENTIALS"),
}


def packages(us: importlib.metadata.Distribution) -> Check:
    """Which Python it is, which packages there are, and which extras are whole."""
    core: list[str] = []
    extras: dict[str, bool] = dict.fromkeys(us.metadata.get_all("Provides-Extra") or [], True)
    for requirement in us.requires or []:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        extra = re.search(r"extra == ['\"]([^'\"]+)", requirement)
        if extra is None:
            core.append(f"{name} {version}")
        elif version is None:
            extras[extra[1]] = False
    there = ", ".join(name for name, whole in extras.items() if whole)
    missing = ", ".join(name for name, whole in extras.items() if not whole)
    said = f"Python {platform.python_version()}, higgsfield-async {us.version}, {', '.join(core)}. Extras: {there}"
    return _ok("packages", f"{said}{f'; not there: {missing}' if missing else ''}.")


def _key(transport: Transport) -> Check:
    service = cast("Service", transport.name)
    names = ", ".join(name for name in _KEYS[service] if os.environ.get(name))
    said = f"The {service}'s, well-formed, in {names}. Its fingerprint is {transport.account}."
    return _ok("key", said)


async def _service(transport: Transport) -> AsyncIterator[Check]:
    reached = await _reached("service", transport.origin)
    yield reached
    if reached.state == "wrong":
        return
    answers: list[tuple[HttpResponse, float]] = []
    hosts: list[str] = []
    try:
        hosts = await _asked(transport, lambda response: answers.append((response, time.time())))
    except HiggsfieldError as error:
        yield _refused(error)
    else:
        yield _ok("account", "The service takes the key.")
    for response, at in answers:
        yield _clock(response.headers.get("date", ""), at)
    for host in hosts:
        yield await _reached("media", host)


async def _asked(transport: Transport, heard: Callable[[HttpResponse], object]) -> list[str]:
    """Asks the one thing, and gives the addresses of the hosts that its answer names: of uploads, or of previews.

    Raises:
        HiggsfieldError: The service refuses it, or cannot be asked.
    """
    from higgsfield_async._engine import HttpEngine

    call = cast(
        "Call[object]",
        transport.catalogue(Motion, size=1, search=None, cursor=None, version=1)
        if transport.name == "proxy"
        # Leave to upload: what is not sent costs nothing, and is not kept.
        else transport.upload(_PICTURE, len(_PICTURE), "image/png"),
    )

    def decode(response: HttpResponse) -> object:
        heard(response)
        return call.decode(response)

    engine = HttpEngine(
        retry=RetryPolicy(attempts=1),
        limits=Limits(connect=PATIENCE, first_byte=PATIENCE, read=PATIENCE),
        session=None,
        trust_env=False,
        allow_private=True,
    )
    try:
        answer = await engine.send_once(replace(call, decode=decode))
    finally:
        await engine.close()
    if isinstance(answer, Grant):
        return [answer.request.url]
    return [each.preview_url for each in cast("Page[Motion]", answer).items[:1] if each.preview_url is not None]


def _refused(error: HiggsfieldError) -> Check:
    if isinstance(error, AuthenticationFailed):
        said = f"The key is refused: {error} Is it whole, and of this service?"
    elif isinstance(error, ApiError) and exit_of(error) is Exit.REFUSED:
        said = f"The key is right, and the service refuses it this: {error}"
    else:
        said = f"The service does not answer as it should: {error}"
    return _wrong("account", said, exit_of(error) if isinstance(error, ApiError) else Exit.UNAVAILABLE)


def _clock(date: str, at: float) -> Check:
    theirs = moment(date)
    if theirs is None:
        return _warn("clock", "The service says no time to compare this machine's clock with.")
    # A date has whole seconds.
    off = at - theirs - 0.5
    if abs(off) <= SKEW:
        return _ok("clock", "As the service's, to the half minute.")
    said = f"It is {abs(off):,.0f} seconds {'ahead of' if off > 0 else 'behind'} the service's: set it right (NTP)."
    if abs(off) <= TOO_OLD:
        return _warn("clock", said)
    return _warn("clock", f"{said} Signed webhooks are refused as too old or too new until then.")


async def _reached(name: str, url: str) -> Check:
    """Whether a host can be found, connected to, and be trusted."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    where = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            context = await anyio.to_thread.run_sync(ssl.create_default_context) if secure else None
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            version = writer.get_extra_info("ssl_object").version() if secure else None
            writer.transport.abort()
    except (OSError, UnicodeError) as error:
        return _wrong(name, _why(error, name, host, where), Exit.UNAVAILABLE)
    said = f"{where} is found ({found[0][4][0]}) and answers"
    if secure:
        return _ok(name, f"{said}, with {version} and a certificate to be trusted.")
    if is_inside(url):
        return _ok(name, f"{said}, without TLS: it is inside this network.")
    return _warn(name, f"{said}, without TLS: whoever is between sees the key. Use an https address.")


def _why(error: Exception, name: str, host: str, where: str) -> str:
    """Why a host cannot be used. The order counts: each of these is an `OSError`."""
    match error:
        case socket.gaierror():
            return f"The name {host} is not found ({error.strerror}): {_network(name)}"
        case ssl.SSLCertVerificationError():
            return f"The certificate of {where} is not to be trusted: {error.verify_message}. Nothing is sent to it."
        case ssl.SSLError():
            return f"{where} speaks no TLS that is understood here ({error.reason})."
        case TimeoutError():
            return f"{where} is silent for {PATIENCE:g} seconds: {_network(name)}"
        case _:
            number = getattr(error, "errno", None)
            why = str(error) if number is None else os.strerror(number)
            return f"{where} takes no connection ({why}): {_network(name)}"


def _network(name: str) -> str:
    proxies = [each for each in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(each)]
    advice = "is there a network, and a firewall?"
    if name == "service":
        advice = "is there a network, and is HIGGSFIELD_BASE_URL (HIGGSFIELD_PROXY_BASE_URL) right where it is set?"
    return f"{advice} {proxies[0]} is not used by the command line." if proxies else advice


async def _journal(path: Path) -> Check:
    there, spilled, told = await anyio.to_thread.run_sync(_beside, path)
    if not there:
        return told
    journal = SQLiteJournal(path)
    try:
        await journal.open()
        try:
            unknown = len(await journal.entries("unknown"))
            going = len(await journal.entries("submitted", "intent"))
        finally:
            await journal.close()
    except JournalError as error:
        return _wrong("journal", str(error), Exit.FILES)
    if spilled:
        said = f"{spilled} ids lie beside {path} that could not be written into it: "
        return _warn("journal", f"{said}`higgsfield-async recover` reads them back.")
    if unknown:
        said = f"{path}: of {_count(unknown)} nobody can tell whether they were paid for: "
        return _warn("journal", f"{said}`higgsfield-async recover` says what to do.")
    return replace(told, said=f"{path} opens, and is locked as it should be; open in it: {_count(going)}. {told.said}")


def _beside(path: Path) -> tuple[bool, int, Check]:
    """Whether the file is there, how many spill files are beside it, and what to say of its folder."""
    folder = path.absolute().parent
    there = path.exists()
    if not there and not os.access(folder, os.W_OK):
        said = f"None can be made in {folder}: make that folder, or name another file with --journal."
        return there, 0, _wrong("journal", said, Exit.SETUP)
    free = shutil.disk_usage(folder).free
    said = f"{free / 1024**3:.1f} GiB are free there."
    if not there:
        said = f"None yet; it will be {path}. {said}"
    spilled = len([*folder.glob(f"{glob.escape(path.name)}.spill-*")])
    if free < FEW:
        return there, spilled, _warn("journal", f"{said} That is little, and what cannot be written down is not sent.")
    return there, spilled, _ok("journal", said)


def _count(number: int) -> str:
    return str(number) if number < 1000 else "1000 or more"


async def _database(dsn: str, account: str) -> Check:
    try:
        from higgsfield_async.cluster._health import health

        found = await health(dsn, account)
    except (ConfigurationError, JournalError) as error:
        return _wrong("database", str(error), Exit.SETUP if isinstance(error, ConfigurationError) else Exit.UNAVAILABLE)
    said = f"{found.origin} answers (Postgres {found.server})"
    if not found.begun:
        return _warn("database", f"{said}, and has no tables yet: whoever is first makes them.")
    if found.unknown:
        said = f"{said}, and of {found.unknown} generations nobody can tell whether they were paid for: "
        return _warn("database", f"{said}`higgsfield-async recover` says what to do.")
    if not found.workers:
        return _warn(
            "database",
            f"{said}, and no worker is alive: what is submitted waits for one. Start one where the key is: "
            "python -m higgsfield_async.cluster worker",
        )
    return _ok("database", f"{said}; workers alive: {found.workers}.")
