"""What is uploaded: bytes, or a file that is read piece by piece, in a thread."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast

import anyio.to_thread

from higgsfield_async._errors import FieldError, HiggsfieldError, InvalidRequest, UploadError

# So many bytes of a file are in memory at once.
PIECE = 1024 * 1024
# Enough to tell its type.
_HEAD = 64


@dataclass(frozen=True, slots=True)
class Content:
    """What is uploaded.

    Attributes:
        head: Its first bytes.
        size: How many bytes it has.
        source: All of it, or where it lies.
        mark: Of a file, what changes when somebody writes to it, or puts another one in its place.
    """

    head: bytes = field(repr=False)
    size: int
    source: bytes | Path = field(repr=False)
    mark: tuple[int, ...] = field(default=(), repr=False)

    def pieces(self) -> Pieces:
        """All of it, once through."""
        return Pieces(self)

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


async def content_of(value: object) -> Content:
    """Looks at what is to be uploaded.

    Raises:
        InvalidRequest: It is neither bytes nor a file that can be read.
    """
    if isinstance(value, bytes):
        return Content(value[:_HEAD], len(value), value)
    if not isinstance(value, os.PathLike):
        raise _refused(f"must be bytes or a pathlib.Path, not {type(value).__name__}")
    path = Path(os.fsdecode(cast("os.PathLike[str]", value)))
    try:
        head, mark = await anyio.to_thread.run_sync(_look, path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _refused(f"cannot be read from {path}: {why}") from error
    return Content(head, mark[0], path, mark)


def _refused(why: str) -> InvalidRequest:
    error = FieldError(("content",), why, "value_error")
    return InvalidRequest(f"{error}.", errors=(error,))


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
