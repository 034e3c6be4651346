"""Results: fetched piece by piece, handed on or saved."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, TypeAlias, TypeVar, cast

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from higgsfield_async._domain import JobSet, Media, TaskRef, without_query
from higgsfield_async._errors import ConfigurationError, DownloadError, HiggsfieldError
from higgsfield_async._http import HttpResponse
from higgsfield_async._names import file_name, name_of, stem_of
from higgsfield_async._ranges import Entity, answered, entity_of, resuming, with_total
from higgsfield_async._signatures import HEAD, unlike
from higgsfield_async._telemetry import NOTHING, Observed, fields

if TYPE_CHECKING:
    from higgsfield_async._engine import Body, HttpEngine

T = TypeVar("T")

logger = logging.getLogger("higgsfield_async.downloads")

Variant: TypeAlias = Literal["raw", "min"]

Writer: TypeAlias = Callable[[str, AsyncIterator[bytes]], Awaitable[T]]
"""Where an output may go instead of a directory: called with a name that is safe for a file, and its pieces.

It holds a place for files while it runs, and must not wait for another one: for an upload, or another stream.
"""

Destination: TypeAlias = str | os.PathLike[str] | Writer[object]

# So many bytes are collected before a thread writes them: a hop there and back costs as much as reading a tenth of it.
PIECE = 512 * 1024

# How often one transfer may be cut, and taken up again. Each time something of it has come.
CUTS = 100


class Progress(Struct, frozen=True, gc=False):
    """How far one output is.

    Attributes:
        media: The output.
        name: Its file's name.
        received: How many bytes of it are here. It falls where it had to be begun anew.
        total: How many it has, or None where the service does not say.
    """

    media: Media
    name: str
    received: int
    total: int | None


class Source:
    """One file at an address, from its first byte to its last, over as many exchanges as that takes.

    Args:
        engine: Fetches it.
        media: What it is.

    Attributes:
        entity: What the service says of it.
        head: Its first bytes, once it is begun.
        offset: How many bytes have come.
        done: Whether all of it has.
        void: Whether it has to begin anew, so that what was taken of it is of no use.
    """

    def __init__(self, engine: HttpEngine, media: Media) -> None:
        self._engine = engine
        self._media = media
        self._shown = without_query(media.url)
        self._left = engine.limits.download
        self.void = False
        self._body: Body | None = None
        self._era = 0
        self._cuts = 0
        self._ready: list[bytes] = []
        self._taken = False
        self.entity = Entity()
        self.head = b""
        self.offset = 0
        self.done = False

    @property
    def open(self) -> bool:
        """Whether it holds a connection."""
        return self._body is not None

    async def begin(self) -> None:
        """Asks for it, or for the rest of it, unless it is coming already. Some of it is here then, or all."""
        if self._body is None and not self.done:
            await self._engine.retrying(
                self._open,
                lambda error, pause: not error.transient or self.void or not self.spend(pause),
                "download",
            )

    def spend(self, pause: float) -> bool:
        """Whether there is time for a pause, which is counted then."""
        if pause >= self._left:
            return False
        self._left -= pause
        return True

    def restart(self) -> None:
        """Forgets what was taken of it, as it is to be begun anew."""
        self.void = self._taken = False
        self._anew()

    async def take(self, least: int) -> list[bytes]:
        """The next pieces: so many bytes of it or more, unless it ends before; none after the last."""
        while not self.done and sum(map(len, self._ready)) < least:
            await self.begin()
            try:
                await self._bounded(self._receive(least - sum(map(len, self._ready))))
            except DownloadError as error:
                self.close()
                self._cuts += 1
                if not error.transient or self._left <= 0 or self._cuts > CUTS:
                    raise
                logger.info("Taken up again after %d bytes: %s", self.offset, error, extra=fields(error=error))
            except BaseException:
                self.close()
                raise
        pieces, self._ready = self._ready, []
        self._taken = self._taken or bool(pieces)
        return pieces

    def close(self) -> None:
        """Lets go of the connection."""
        body, self._body = self._body, None
        if body is not None:
            body.close()
            self._engine.pace.leave("download", self._era)

    async def _open(self) -> None:
        headers = resuming(self.entity, self.offset) if self.offset else None
        if headers is None:
            self._anew()
        era = await self._engine.pace.enter("download")
        try:
            body = await self._bounded(self._engine.fetch(self._media.url, headers or {}))
        except BaseException:
            self._engine.pace.leave("download", era)
            raise
        self._body, self._era = body, era
        try:
            self._judge(body)
            await self._bounded(self._receive(1 if self.offset else HEAD))
            if not self.head:
                self._look()
        except BaseException:
            self.close()
            if not self.head:
                self._anew()
            raise

    def _anew(self) -> None:
        if self._taken:
            self.void = True
            msg = (
                f"{self._shown} could not be fetched whole: it was cut after {self.offset:,} bytes, and cannot be "
                "taken up there, since the service does not allow it, or has another file there now."
            )
            raise DownloadError(msg, transient=True)
        self.entity, self.head, self.offset, self._ready, self.done = Entity(), b"", 0, [], False

    def _judge(self, body: Body) -> None:
        status, headers = body.status, body.headers
        if self.offset and status in (200, 203, 206, 416):
            answer = answered(status, headers, self.entity, self.offset)
            if answer == "rest":
                self.entity = with_total(self.entity, headers)
                self._check_size(self.entity.total or 0)
                return
            if answer == "nothing":
                self._end()
                return
            self._anew()
            if answer == "useless":
                raise DownloadError(f"The rest of {self._shown} was not what was asked for.", transient=True)
        if status not in (200, 203):
            raise _refused(self._shown, status, headers)
        self.entity = entity_of(headers)
        if self.entity.total is not None:
            self._check_size(self.entity.total)
            if self.entity.total == 0:
                self._end()

    async def _receive(self, least: int) -> None:
        while least > 0 and not self.done and self._body is not None:
            piece = await self._body.read()
            self.offset += len(piece)
            least -= len(piece)
            self._check_size(self.offset)
            if piece:
                self._ready.append(piece)
            total = self.entity.total
            if total is not None and self.offset > total:
                raise DownloadError(f"{self._shown} has more than the {total:,} bytes that it was said to have.")
            if not piece and total is not None and self.offset < total:
                raise DownloadError(f"{self._shown} could not be fetched whole: it was cut.", transient=True)
            if not piece or self.offset == total:
                self._end()

    def _check_size(self, size: int) -> None:
        largest = self._engine.limits.largest
        if size > largest:
            msg = f"{self._shown} is larger than the {largest:,} bytes that Limits(largest=…) allows."
            raise DownloadError(msg)

    def _look(self) -> None:
        head = b"".join(self._ready)[:HEAD]
        if (what := unlike(self._media.kind, head)) is not None:
            msg = f"{self._shown} is no {self._media.kind}: what was answered is {what}."
            raise DownloadError(msg, transient=True)
        # Not before: what has no head is begun anew.
        self.head = head

    def _end(self) -> None:
        self.done = True
        self.close()

    async def _bounded(self, work: Coroutine[object, object, T]) -> T:
        began = time.monotonic()
        try:
            with anyio.move_on_after(self._left):
                return await work
        finally:
            self._left -= time.monotonic() - began
        msg = f"{self._shown} was not fetched within {self._engine.limits.download:g} s."
        raise DownloadError(msg, transient=True)


def _refused(shown: str, status: int, headers: Mapping[str, str]) -> DownloadError:
    msg = f"{shown} answered with HTTP {status}."
    if status in (403, 404, 410):
        msg = (
            f"{shown} answered with HTTP {status}: its address has expired, or it is gone. The platform keeps results "
            "for about 7 days; until then, poll the task again for an address that works."
        )
    passing = status in (408, 425, 429) or status >= 500
    answer = HttpResponse(status, headers, b"", time.time())
    return DownloadError(msg, status=status, transient=passing, retry_after=answer.retry_after)


class MediaStream(AsyncIterator[bytes]):
    """The bytes of one output, as they come: from `Higgsfield.stream`.

    An async iterator, once through, and an async context manager. What is cut on the way is taken up where it was cut,
    if the service allows it. Leaving it early closes its connection: at once with `async with` or `aclose()`, else when
    nothing refers to it any more.

    Raises:
        DownloadError: While iterating: it could not be fetched, or not taken up again; or it was closed while it was
            read, or is read again after a read of it was cancelled.
        ClientClosed: While iterating: the client was closed.
        RuntimeError: While iterating: it is being read already.
    """

    def __init__(
        self, engine: HttpEngine, media: Media, told: Callable[[int, int | None], object] | None = None
    ) -> None:
        self._source = Source(engine, media)
        self._shown = without_query(media.url)
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._ready: list[bytes] = []
        self._over = False
        self._given_up = False
        self._reading: anyio.CancelScope | None = None
        self._telemetry = engine.telemetry
        self._kind = media.kind
        self._observed: Observed = NOTHING
        self._begun = False
        self.failure: BaseException | None = None

    @property
    def content_type(self) -> str | None:
        """What the service says that it is, such as `video/mp4`; None before it is begun, or where it says nothing."""
        return self._source.entity.content_type

    @property
    def size(self) -> int | None:
        """How many bytes it has; None before it is begun, or where the service does not say."""
        return self._source.entity.total

    @property
    def head(self) -> bytes:
        """Its first bytes, 512 of them or all; none before it is begun."""
        return self._source.head

    async def begin(self) -> None:
        """Begins it, so that `content_type`, `size` and `head` are known. `async with` does so too."""
        if not self._over:
            await self._alone(self._source.begin)

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._given_up:
                raise self._not_whole()
            if self._over:
                raise StopAsyncIteration
            ready = (await self._alone(lambda: self._source.take(1)))[::-1]
            if self._told is not None:
                try:
                    self._told(self._source.offset, self.size)
                except BaseException as error:
                    self.failure = error
                    await self.aclose()
                    raise
            self._ready = ready
            if not ready:
                self._over = True
                self._close()
        return self._ready.pop()

    async def _alone(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does something with the source, until this is closed; nobody else may meanwhile."""
        if self._reading is not None:
            raise RuntimeError("This stream is being read already.")
        if not self._begun:
            self._begun, self._observed = True, self._telemetry.download(self._kind)
            self._observed.keep()
        try:
            with anyio.CancelScope() as self._reading, self._observed:
                return await work()
        except Exception as error:
            self._over, self.failure = True, error
            raise
        except BaseException:
            # Whoever cancels a read may go on to read: a writer that puts a time limit on it.
            self._over = self._given_up = True
            raise
        finally:
            self._read()
        raise self._not_whole()

    def _read(self) -> None:
        self._reading = None
        if self._over:
            self._close()

    def _close(self) -> None:
        self._source.close()
        observed, self._observed = self._observed, NOTHING
        observed.end(self.failure)

    def _not_whole(self) -> DownloadError:
        # Its end would pass for the end of the file.
        error = DownloadError(f"{self._shown} was not read whole: it was closed, or a read of it was cancelled.")
        self.failure = error
        return error

    async def aclose(self) -> None:
        """Lets go of the connection, and ends whoever reads. There is no more to come then."""
        self._over = True
        self._ready = []
        if self._reading is None:
            self._close()
        else:
            self._given_up = True
            self._reading.cancel()

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # From wherever the last reference was dropped, be it another thread; of a loop that may be closed.
        if self._source.open or self._observed is not NOTHING:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_let_go, self._source, self._observed)


def _let_go(source: Source, observed: Observed) -> None:
    source.close()
    observed.end()


class _Part:
    """A file that is not whole yet, beside where it belongs. Its methods are for a thread, and take turns.

    Attributes:
        over: Whether nothing of it is left: it has its name, or is discarded.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f".{uuid.uuid4().hex}.part"
        self._file: BinaryIO | None = None
        self.over = False
        # A thread goes on when whoever waits for it is cancelled.
        self._turn = threading.Lock()

    def write(self, pieces: Sequence[bytes], at: int, whole: Path | None) -> None:
        """Writes what belongs at a place, and where it is the last of it, gives the file its name."""
        with self._turn:
            if self.over:
                return
            if self._file is None:
                self._file = self._path.open("xb", buffering=0)
            elif at == 0:
                self._file.seek(0)
                self._file.truncate()
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[self._file.write(left) :]
            if whole is not None:
                self._file.close()
                self._path.replace(whole)
                self.over = True

    def discard(self) -> None:
        """Leaves nothing of it, unless it has its name."""
        with self._turn:
            if self._file is not None and not self.over:
                # On some file systems it is here that a disk proves full.
                for end in (self._file.close, self._path.unlink):
                    with contextlib.suppress(OSError):
                        end()
            self.over = True


async def _to_file(
    engine: HttpEngine,
    media: Media,
    folder: Path,
    named: Callable[[bytes], str],
    progress: Callable[[Progress], object] | None,
) -> Path:
    source = Source(engine, media)
    part = _Part(folder)

    async def attempt() -> Path:
        source.restart()
        while True:
            pieces = await source.take(PIECE)
            path = folder / named(source.head)
            at = source.offset - sum(map(len, pieces))
            try:
                whole = path if source.done else None
                await anyio.to_thread.run_sync(part.write, pieces, at, whole, limiter=engine.disk)
            except (OSError, ValueError) as error:
                raise DownloadError(f"{path} could not be written: {_why(error)}.") from error
            if progress is not None:
                progress(Progress(media, path.name, source.offset, source.entity.total))
            if source.done:
                return path

    try:
        with engine.telemetry.download(media.kind):
            return await engine.retrying(
                attempt, lambda _, pause: not source.void or not source.spend(pause), "download"
            )
    finally:
        source.close()
        if not part.over:
            await engine.behind(part.discard)


async def _to_writer(
    engine: HttpEngine,
    media: Media,
    writer: Writer[T],
    named: Callable[[bytes], str],
    progress: Callable[[Progress], object] | None,
) -> T:
    def told(received: int, total: int | None) -> None:
        if progress is not None:
            progress(Progress(media, name, received, total))

    async with MediaStream(engine, media, told) as stream:
        name = named(stream.head)
        try:
            written = await writer(name, stream)
        except HiggsfieldError:
            raise
        except Exception as error:
            _check_whole(stream)
            msg = f"{name} could not be written: the writer failed with {type(error).__name__}."
            raise DownloadError(msg) from error
        _check_whole(stream)
        return written


def _check_whole(stream: MediaStream) -> None:
    """Raises what the stream raised, whatever a writer made of it."""
    if stream.failure is not None:
        raise stream.failure from stream.failure.__cause__


async def save_media(
    engine: HttpEngine, media: object, to: object, progress: Callable[[Progress], object] | None
) -> Path:
    """Saves one output as a file, or in a directory under a name of its own."""
    if not isinstance(media, Media) or not isinstance(to, (str, os.PathLike)):
        msg = f"A Media is saved to a path, not a {type(media).__name__} to a {type(to).__name__}."
        raise ConfigurationError(msg)
    place = _checked_path(cast("str | os.PathLike[str]", to))
    path, ends = Path(place), place.endswith((os.sep, os.altsep or os.sep))
    # Unlike `Path.is_dir`, it raises nothing.
    if ends or await anyio.to_thread.run_sync(os.path.isdir, place):
        await _make(path)
        return await _to_file(engine, media, path, lambda head: name_of(media, head), progress)
    await _make(path.parent)
    return await _to_file(engine, media, path.parent, lambda _: path.name, progress)


async def _make(folder: Path) -> None:
    try:
        await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise DownloadError(f"{folder} could not be made: {_why(error)}.") from error


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def checked_destination(to: object) -> None:
    """Refuses what is neither a directory nor a writer.

    Raises:
        ConfigurationError: It is neither, or no file can be called so.
    """
    if isinstance(to, (str, os.PathLike)):
        _checked_path(cast("str | os.PathLike[str]", to))
    elif not callable(to):
        msg = f"What is made is saved to a directory or to an async writer, not to {type(to).__name__}."
        raise ConfigurationError(msg)


def _checked_path(to: str | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """The path, which may be none of bytes, nor what no system call takes."""
    place = os.fspath(to)
    with contextlib.suppress(UnicodeEncodeError):
        if isinstance(place, str) and b"\0" not in os.fsencode(place):
            return place
    raise ConfigurationError(f"{place!r} is no path: it must be text that the file system can take.")


def checked_media(media: object) -> Media:
    """Refuses what is no output.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(media, Media):
        msg = f"An output is fetched by its Media, not by a {type(media).__name__}."
        raise ConfigurationError(msg)
    return media


def checked_variant(variant: object) -> None:
    """Refuses a word that is none of `Variant`.

    Raises:
        ConfigurationError: It is none.
    """
    if variant not in ("raw", "min"):
        msg = f"variant must be 'raw' or 'min', not {variant!r}."
        raise ConfigurationError(msg)


async def save_all(
    engine: HttpEngine,
    ref: TaskRef,
    job_set: JobSet,
    to: Destination,
    *,
    variant: Variant = "raw",
    progress: Callable[[Progress], object] | None = None,
) -> tuple[list[object], JobSet]:
    """Saves every output of a variant. Where one fails, the others are saved all the same.

    Returns:
        For each output the file, or what the writer returned; and the job set that knows the files.

    Raises:
        HiggsfieldError: The first that failed, with the ref.
        Exception: What `progress` raised; the others are not saved then.
    """
    places = [
        (job, output)
        for job, each in enumerate(job_set.jobs)
        for output in _chosen([media.variant for media in each.outputs], variant)
    ]
    stem, several = stem_of(job_set.id), len(places) > 1
    folder = _folder(to)

    def work(at: int) -> Coroutine[object, object, object]:
        job, output = places[at]
        media = job_set.jobs[job].outputs[output]

        def named(head: bytes) -> str:
            return file_name(stem, at + 1 if several else None, media, head)

        if folder is not None:
            return _to_file(engine, media, folder, named, progress)
        return _to_writer(engine, media, cast("Writer[object]", to), named, progress)

    try:
        if folder is not None:
            await _make(folder)
        found = await _together(work, len(places))
    except HiggsfieldError as error:
        if error.ref is None:
            error.ref, error.charged = ref, job_set.charged
        raise
    return found, _with_paths(job_set, dict(zip(places, found, strict=True)))


async def is_saved(job_set: JobSet, to: Destination) -> bool:
    """Whether everything of it lies in that directory already, by what is known of it."""
    folder = _folder(to)
    chosen = [each.outputs[at] for each in job_set.jobs for at in _chosen([it.variant for it in each.outputs], "raw")]
    paths = [media.path for media in chosen if media.path is not None]
    if folder is None or not paths or len(paths) < len(chosen):
        return False
    # A file has its name once it is whole.
    return await anyio.to_thread.run_sync(lambda: all(path.parent == folder and path.is_file() for path in paths))


def _folder(to: object) -> Path | None:
    return Path(cast("str | os.PathLike[str]", to)) if isinstance(to, (str, os.PathLike)) else None


def _chosen(variants: Sequence[str], variant: Variant) -> list[int]:
    return [at for at, each in enumerate(variants) if each == variant] or list(range(len(variants)))


async def _together(work: Callable[[int], Coroutine[object, object, T]], count: int) -> list[T]:
    if count == 1:
        return [await work(0)]
    found: dict[int, T] = {}
    failed: dict[int, HiggsfieldError] = {}
    broken: list[BaseException] = []

    async def one(at: int) -> None:
        try:
            found[at] = await work(at)
        except HiggsfieldError as error:
            failed[at] = error
        except Exception as error:  # noqa: BLE001  # the caller's own: it is raised below, and not in a group
            broken.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for at in range(count):
            group.start_soon(one, at)
    for error in (*broken, *(failed[at] for at in sorted(failed))):
        raise error
    if len(found) < count:
        # By none of those who wait for this: `progress`, or a writer, ended its own task so.
        raise asyncio.CancelledError
    return [found[at] for at in range(count)]


def _with_paths(job_set: JobSet, found: Mapping[tuple[int, int], object]) -> JobSet:
    jobs = list(job_set.jobs)
    for (job, output), saved in found.items():
        if isinstance(saved, Path):
            outputs = list(jobs[job].outputs)
            outputs[output] = msgspec.structs.replace(outputs[output], path=saved)
            jobs[job] = msgspec.structs.replace(jobs[job], outputs=tuple(outputs))
    return msgspec.structs.replace(job_set, jobs=tuple(jobs))
