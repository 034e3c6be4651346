"""What is uploaded, or put into a request: bytes, or a file that is read piece by piece, in a thread."""

from __future__ import annotations

import binascii
import hashlib
import io
import os
import re
import stat
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast
from weakref import WeakKeyDictionary

import anyio.to_thread

from higgsfield_async._errors import FieldError, HiggsfieldError, InvalidRequest, UploadError
from higgsfield_async._media import Loc, PillowImage, is_data_uri, is_open_file, is_pillow

# So many bytes of a file are in memory at once.
PIECE = 1024 * 1024
# Enough to tell its type.
_HEAD = 64
# So much is encoded or decoded before others have their turn, since the interpreter is held meanwhile: a whole number
# of base64's groups.
_STEP, _STEP_AS_BASE64 = 3 * 2**17, 4 * 2**17


@dataclass(frozen=True, slots=True)
class Content:
    """What is uploaded.

    Attributes:
        head: Its first bytes.
        size: How many bytes it has.
        source: All of it, or where it lies.
        name: The name of its file, or "".
        mark: Of a file, what changes when somebody writes to it, or puts another one in its place.
    """

    head: bytes = field(repr=False)
    size: int
    source: bytes | Path = field(repr=False)
    name: str = field(default="", repr=False)
    mark: tuple[int, ...] = field(default=(), repr=False)

    def pieces(self) -> Pieces:
        """All of it, once through."""
        return Pieces(self)

    async def digest(self) -> bytes:
        """What tells it from any other content.

        Raises:
            UploadError: As `piece` does.
        """
        hashed = hashlib.blake2b(digest_size=32)
        if isinstance(self.source, bytes):
            await anyio.to_thread.run_sync(hashed.update, self.source)
            return hashed.digest()
        async for piece in self.pieces():
            await anyio.to_thread.run_sync(hashed.update, piece)
        return hashed.digest()

    async def base64(self) -> str:
        """All of it in base64.

        Raises:
            UploadError: As `piece` does.
        """
        source = self.source
        if not isinstance(source, bytes):
            source = b"".join([piece async for piece in self.pieces()])
        return await anyio.to_thread.run_sync(_encoded, source)

    async def piece(self, start: int) -> bytes:
        """The part that begins there.

        Raises:
            UploadError: It cannot be read any more, or is not what it was.
        """
        if isinstance(self.source, bytes):
            return self.source[start : start + PIECE]
        try:
            piece, mark = await anyio.to_thread.run_sync(_read, self.source, start, PIECE)
        except OSError as error:
            msg = f"{self.source} can be read no more: {error.strerror or type(error).__name__}."
            raise UploadError(msg) from error
        if mark != self.mark:
            msg = f"{self.source} was changed while it was uploaded: upload it when it is whole."
            raise UploadError(msg)
        return piece


class Pieces(AsyncIterator[bytes]):
    """The pieces of a content, one after another.

    Between two of them the file is closed: however this is left, there is nothing to clean up.

    Attributes:
        failure: Why it went no further. Whoever draws from this may hide what it raises.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._next = 0
        self.failure: HiggsfieldError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._next >= self._content.size:
            raise StopAsyncIteration
        try:
            piece = await self._content.piece(self._next)
        except UploadError as error:
            self.failure = error
            raise
        self._next += len(piece)
        return piece


async def content_of(value: object, loc: Loc = ("content",)) -> Content:
    """Looks at what is to be uploaded.

    Args:
        value: Bytes, a path, an open file, a data URI or a Pillow image.
        loc: Where it stands, for messages.

    Raises:
        InvalidRequest: It is none of these, or cannot be read.
    """
    if isinstance(value, bytes):
        return Content(value[:_HEAD], len(value), value)
    if isinstance(value, os.PathLike):
        path = Path(os.fsdecode(cast("os.PathLike[str]", value)))
        try:
            head, mark = await anyio.to_thread.run_sync(_look, path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise _refused(loc, f"cannot be read from {path}: {why}") from error
        return Content(head, mark[0], path, path.name, mark)
    name = ""
    if isinstance(value, str):
        if not is_data_uri(value):
            raise _refused(loc, "must be a data URI where it is text; a path is a pathlib.Path, and never a str")
        reading = anyio.to_thread.run_sync(_decoded, value)
    elif is_pillow(value):
        reading = anyio.to_thread.run_sync(_as_png, cast("PillowImage", value))
    elif is_open_file(value):
        file = cast("IO[bytes]", value)
        given = getattr(file, "name", "")
        name = Path(given).name if isinstance(given, str) else ""
        # Whoever waits at a pipe may go: its thread ends with the pipe.
        reading = anyio.to_thread.run_sync(_read_open, file, abandon_on_cancel=True)
    else:
        kinds = "bytes, a pathlib.Path, an open file, a data URI or a Pillow image"
        raise _refused(loc, f"must be {kinds}, not {type(value).__name__}")
    try:
        content = await reading
    except Exception as error:  # a file of the caller's, and a picture of Pillow's, may raise anything at all
        raise _refused(loc, f"cannot be read: {error}") from error
    return Content(content[:_HEAD], len(content), content, name)


def _refused(loc: Loc, why: str) -> InvalidRequest:
    error = FieldError(loc, why, "value_error")
    return InvalidRequest(f"{error}.", errors=(error,))


def _encoded(content: bytes) -> str:
    view = memoryview(content)
    steps = range(0, len(view), _STEP)
    return b"".join(binascii.b2a_base64(view[at : at + _STEP], newline=False) for at in steps).decode("ascii")


def _decoded(uri: str) -> bytes:
    start = uri.index(",") + 1
    if "=" in uri[start:-2] or not uri.isascii():
        msg = "its base64 is none"
        raise ValueError(msg)
    steps = range(start, len(uri), _STEP_AS_BASE64)
    try:
        return b"".join(binascii.a2b_base64(uri[at : at + _STEP_AS_BASE64], strict_mode=True) for at in steps)
    except binascii.Error as error:
        msg = f"its base64 is none ({error})"
        raise ValueError(msg) from None


# The modes that PNG has: https://pillow.readthedocs.io/en/stable/handbook/image-file-formats.html#png-saving
_PNG_MODES = re.compile(r"1|LA?|P|RGBA?|I;16")


def _as_png(image: PillowImage) -> bytes:
    written = io.BytesIO()
    (image if _PNG_MODES.fullmatch(image.mode) else image.convert("RGB")).save(written, "PNG")
    return written.getvalue()


class _Opened:
    """How a file of the caller's is read: from where it stands, and left there, so that another submit reads it too.

    What cannot be put back to where it stood is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: bytes | None = None

    def read(self, file: IO[bytes]) -> bytes:
        """The rest of the file."""
        with self._lock:
            if self._kept is not None:
                return self._kept
            begins = file.tell() if file.seekable() else None
            content: Any = file.read()
            if not isinstance(content, bytes):
                msg = 'it gives no bytes: open it with "rb"'
                raise TypeError(msg)
            if begins is None:
                self._kept = content
            else:
                file.seek(begins)
            return content


# For as long as the file itself is there.
_files: WeakKeyDictionary[Any, _Opened] = WeakKeyDictionary()
_files_lock = threading.Lock()


def _read_open(file: IO[bytes]) -> bytes:
    with _files_lock:
        opened = _files.setdefault(file, _Opened())
    return opened.read(file)


def _look(path: Path) -> tuple[bytes, tuple[int, ...]]:
    # Before it is opened: that waits at a pipe until somebody writes to it.
    if not stat.S_ISREG(path.stat().st_mode):
        msg = "it is not a file"
        raise ValueError(msg)
    return _read(path, 0, _HEAD)


def _read(path: Path, start: int, size: int) -> tuple[bytes, tuple[int, ...]]:
    with path.open("rb") as file:
        file.seek(start)
        piece = file.read(size)
        # Read last: what is cut off before this is seen.
        now = os.fstat(file.fileno())
    return piece, (now.st_size, now.st_mtime_ns, now.st_ino, now.st_dev)
