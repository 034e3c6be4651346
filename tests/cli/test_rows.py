"""The rows of a batch, as they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from higgsfield_async import InvalidRequest
from higgsfield_async.cli import _rows
from higgsfield_async.cli._rows import Format, count, lines, rows


@contextmanager
def opened(path: Path, content: bytes) -> Iterator[int]:
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def read(descriptor: int, form: Format) -> list[tuple[int, object]]:
    return [(row.line, str(row.error) if row.error else row.fields) async for row in rows(descriptor, form)]


async def test_objects_stand_in_lines(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n\n  \n[1]\nno\n{"b": "\xc3\xa4"}\r\n{"c": "\xff"}\n{"d": 2}'
    with opened(tmp_path / "rows", content) as descriptor:
        assert count(descriptor, "jsonl") == 6
        (one, no_object, no_json, two, no_text, three) = await read(descriptor, "jsonl")
    assert (one, two, three) == ((1, {"a": 1}), (6, {"b": "ä"}), (8, {"d": 2}))
    assert no_object == (4, "Line 4 is no JSON object.")
    assert (no_json[0], no_text[0]) == (5, 7)
    assert "is no JSON" in str(no_json[1])
    assert "is no JSON" in str(no_text[1])


async def test_cells_stand_in_tables(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfprompt , count\r\n"a, ""b""\nc",2\r\n\n,\nd\ne,1,2\n5" screen,3\nx\rz,1\n"open'
    with opened(tmp_path / "rows", content) as descriptor:
        found = await read(descriptor, "csv")
    assert found[:4] == [
        (2, {"prompt": 'a, "b"\nc', "count": "2"}),
        (6, {"prompt": "d"}),
        (7, "Line 7 has 3 cells, and the table 2 columns."),
        (8, {"prompt": '5" screen', "count": "3"}),
    ]
    assert str(found[4][1]).startswith("Line 9 is no row of a table: ")
    assert found[5:] == [(10, "Line 10 opens a quote that is not closed.")]


async def test_rows_of_a_table_are_counted(tmp_path: Path) -> None:
    with opened(tmp_path / "rows", b'a,b\n"x\ny",1\n,\n2,3\n') as descriptor:
        assert count(descriptor, "csv") == 2
        assert len(await read(descriptor, "csv")) == 2
    with opened(tmp_path / "rows", b"a,b\n" + b"x" * 200_000) as descriptor:
        assert count(descriptor, "csv") is None


@pytest.mark.parametrize("head", [b"a,a\n", b"a,,b\n", b"a\rb,c\n"])
async def test_a_table_without_names_is_refused(tmp_path: Path, head: bytes) -> None:
    with opened(tmp_path / "rows", head) as descriptor, pytest.raises(InvalidRequest):
        await read(descriptor, "csv")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_a_line_that_is_too_long_is_not_kept(
    tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "LONGEST", 20)
    last = b'{"a": 1}' if form == "jsonl" else b"1"
    with opened(tmp_path / "rows", b"a\n" + b"x" * 21 + b"\n" + last + b"\n" + b"y" * 30) as descriptor:
        found = await read(descriptor, form)
    assert found[-3:] == [
        (2, "Line 2 is longer than 20 bytes."),
        (3, {"a": 1} if form == "jsonl" else {"a": "1"}),
        (4, "Line 4 is longer than 20 bytes."),
    ]


async def test_a_line_may_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "PIECE", 3)
    with opened(tmp_path / "rows", b"abcdefg\nh\n\nij\n") as descriptor:
        assert [line async for line in lines(descriptor)] == [(1, b"abcdefg"), (2, b"h"), (3, b""), (4, b"ij")]


async def test_a_pipe_is_waited_for() -> None:
    out, into = os.pipe()
    try:
        assert count(out, "jsonl") is None
        found = lines(out)
        os.write(into, b"one\ntwo")
        assert await anext(found) == (1, b"one")
        os.close(into)
        assert [line async for line in found] == [(2, b"two")]
    finally:
        os.close(out)


async def test_what_cannot_be_waited_for_is_read() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        assert [line async for line in lines(descriptor)] == []
    finally:
        os.close(descriptor)
