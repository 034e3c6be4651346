"""The rows of a batch: read piece by piece, from a file or from the standard input."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from typing import Literal, TypeAlias, cast

import anyio
import anyio.to_thread
import msgspec

from higgsfield_async._errors import InvalidRequest

Format: TypeAlias = Literal["jsonl", "csv"]

PIECE = 2**16
# A data URI may stand in a row, and the proxy takes 10 MiB.
LONGEST = 2**24


class Row(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        line: Its first line in the file, from 1.
        fields: What it says: values of JSON, or the texts of cells.
        error: Why it cannot be read.
    """

    line: int
    fields: dict[str, object] = {}
    error: InvalidRequest | None = None


async def pieces(descriptor: int) -> AsyncGenerator[bytes]:
    """What comes from a file. Nothing but this waits for a pipe or a terminal, and it can be cancelled."""
    waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)
    while True:
        if waits:
            try:
                await anyio.wait_readable(descriptor)
            except PermissionError:
                waits = False  # such as /dev/null, which is always ready
        piece = await anyio.to_thread.run_sync(os.read, descriptor, PIECE)
        if not piece:
            return
        yield piece


async def lines(descriptor: int) -> AsyncGenerator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers, without their ends; None for one that is too long to be kept."""
    number, kept, length = 1, bytearray(), 0
    async for piece in pieces(descriptor):
        first, *rest = piece.split(b"\n")
        for index, part in enumerate((first, *rest)):
            if index:
                yield number, bytes(kept) if length <= LONGEST else None
                number, kept, length = number + 1, bytearray(), 0
            length += len(part)
            if length <= LONGEST:
                kept += part
    if length:
        yield number, bytes(kept) if length <= LONGEST else None


async def rows(descriptor: int, form: Format) -> AsyncGenerator[Row]:
    """The rows of a file. One that cannot be read is a row with an error, and the others are read all the same.

    Raises:
        InvalidRequest: A table has no first line with the names of its columns.
    """
    found = lines(descriptor)
    async for row in _objects(found) if form == "jsonl" else _cells(found):
        yield row


def _unreadable(line: int, why: str) -> Row:
    return Row(line, error=InvalidRequest(f"Line {line} {why}."))


async def _objects(found: AsyncGenerator[tuple[int, bytes | None]]) -> AsyncGenerator[Row]:
    async for number, line in found:
        if line is None:
            yield _unreadable(number, f"is longer than {LONGEST:,} bytes")
            continue
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not text:
            continue
        try:
            fields = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            yield _unreadable(number, f"is no JSON: {error}")
            continue
        if isinstance(fields, dict):
            yield Row(number, cast("dict[str, object]", fields))
        else:
            yield _unreadable(number, "is no JSON object")


async def _cells(found: AsyncGenerator[tuple[int, bytes | None]]) -> AsyncGenerator[Row]:
    names: list[str] | None = None
    async for row in _records(found):
        if isinstance(row, Row):
            if names is None:
                assert row.error is not None  # noqa: S101  # else it is none
                raise row.error
            yield row
            continue
        number, cells = row
        if not any(cells):
            continue
        if names is None:
            names = [cell.strip() for cell in cells]
            if "" in names or len({*names}) < len(names):
                msg = "The first line of a table names its columns: one of them has no name, or two have the same."
                raise InvalidRequest(msg)
        elif len(cells) > len(names):
            yield _unreadable(number, f"has {len(cells)} cells, and the table {len(names)} columns")
        else:
            yield Row(number, {**dict(zip(names, cells, strict=False))})


async def _records(found: AsyncGenerator[tuple[int, bytes | None]]) -> AsyncGenerator[Row | tuple[int, list[str]]]:
    """The records of a table. One whose quotes are open goes on in the next line."""
    began, pending = 0, list[str]()
    async for number, line in found:
        if line is None:
            yield _unreadable(began or number, f"is longer than {LONGEST:,} bytes")
            began, pending = 0, []
            continue
        began = began or number
        # What is no UTF-8 is half a character then, which no request takes.
        text = line.decode(errors="surrogateescape")
        pending.append((text.removeprefix("\ufeff") if number == 1 else text) + "\n")
        try:
            cells = _whole(pending)
        except csv.Error as error:
            yield _unreadable(began, f"is no row of a table: {error}")
        else:
            if cells is None:
                continue
            yield began, cells
        began, pending = 0, []
    if pending:
        yield _unreadable(began, "opens a quote that is not closed")


def _whole(pending: list[str]) -> list[str] | None:
    """The cells of a record, or None where it needs another line."""
    open_yet = False

    def feed() -> Iterator[str]:
        nonlocal open_yet
        yield from pending
        open_yet = True

    cells = next(csv.reader(feed()))
    return None if open_yet else cells


def count(descriptor: int, form: Format) -> int | None:
    """How many rows a file has, for the time that is left; None of what can be read once. It is read from its start."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    with open(descriptor, encoding="utf-8", errors="surrogateescape", newline="", closefd=False) as file:
        try:
            if form == "csv":
                found = sum(any(cells) for cells in csv.reader(file)) - 1
            else:
                found = sum(not line.isspace() for line in file)
        except csv.Error:
            found = None
    os.lseek(descriptor, 0, os.SEEK_SET)
    return found
