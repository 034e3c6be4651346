"""What reaches a terminal, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from commands import Run
from hypothesis import given, strategies as some

from higgsfield_async import ConfigurationError, Higgsfield, HiggsfieldError, TaskRef
from higgsfield_async.cli import _exits as exits, main
from higgsfield_async.cli._exits import Exit, exit_of
from higgsfield_async.cli._making import goes_on
from higgsfield_async.cli._output import SCREEN, Log, Output, line_of, plain, secrets_of, without_secrets

STEERING = "\x00\x07\x08\x0b\x1b\x7f\x80\x9b\x9d\r\n\t\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ud800"


@given(some.text())
def test_plain_text_is_one_line_that_steers_nothing(text: str) -> None:
    found = plain(text)
    assert not {*STEERING} & {*found}
    assert len(found.splitlines()) <= 1
    assert plain(found) == found


def test_what_does_not_steer_is_left_as_it_is() -> None:
    text = "Crème brûlée 猫 🐈 — “quoted” \\x1b"
    assert plain(text) == text
    assert not [character for character in STEERING if character in plain(STEERING)]


TEXTS = some.text(some.characters(exclude_categories=["Cs"]))


@given(some.dictionaries(TEXTS, TEXTS))
def test_a_line_of_json_steers_nothing_and_reads_back(value: dict[str, str]) -> None:
    line = line_of(value)
    assert not {*STEERING} & {*line}
    assert json.loads(line) == value


def test_a_path_is_text_in_json_and_nothing_else_foreign_is() -> None:
    assert json.loads(line_of({"file": PurePosixPath("/tmp/x.png")})) == {"file": "/tmp/x.png"}  # noqa: S108
    assert json.loads(line_of({"file": Path(os.fsdecode(b"\xff.png"))})) == {"file": "\\xff.png"}
    with pytest.raises(NotImplementedError):
        line_of({"file": object()})


def test_words_are_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=False)
    output.say("[bold]no markup[/] :cat: \x1b[2J\nsecond")
    output.error("it \x1b]0;t\x07 broke\nHint: forged", "try \x9b2J again")
    SCREEN.drain()
    assert capsys.readouterr().err == (
        "[bold]no markup[/] :cat: \\x1b[2J\\nsecond\n"
        "Error: it \\x1b]0;t\\x07 broke\\nHint: forged\nHint: try \\x9b2J again\n"
    )


def test_what_the_library_logs_is_shown_once_and_steers_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_KEY", "id:topsecret")
    logger = logging.getLogger("higgsfield_async.client")
    before = [*logging.getLogger("higgsfield_async").handlers]
    with Log(Output(json=False), logging.WARNING):
        logger.warning("Not \x1b[2Jrecovered: %s", "topsecret")
        logger.info("not shown")
    logger.info("nor this")
    SCREEN.drain()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "WARNING higgsfield_async.client: Not \\x1b[2Jrecovered: …" in shown
    assert logging.getLogger("higgsfield_async").handlers == before


def test_debug_logs_more(run: Run, environment: Path) -> None:
    environment.write_text("something else")
    ran = run("tasks", "--debug", code=74)
    assert "Traceback (most recent call last)" in ran.err
    assert "Traceback" not in run("tasks", code=74).err


def test_secrets_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "HIGGSFIELD_PROXY_KEY": "hk-one",
        "HF_KEY": "id:two:three",
        "HF_API_SECRET": "four",
        "HF_CREDENTIALS": "abc",
        "HIGGSFIELD_DATABASE_URL": "postgresql://me:p%40ss@host/db",
    }
    assert secrets_of(environment) == {"hk-one", "id:two:three", "two:three", "four", "p%40ss", "p@ss"}
    assert secrets_of({"HIGGSFIELD_DATABASE_URL": "postgresql://me:pass@[host/db"}) == {"postgresql://me:pass@[host/db"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert without_secrets("id:two:three, two:three, p@ss and abc") == "…, …, … and abc"


def test_an_output_that_cannot_be_told_how_to_write_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Written:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            """Nothing is held back."""

    written = Written()
    monkeypatch.setattr(sys, "stdout", written)
    Output(json=False).thing(None, "one", "t\two")
    assert written.text == "one\tt\\two\n"


def kinds(root: type[HiggsfieldError]) -> list[type[HiggsfieldError]]:
    return [each for kind in root.__subclasses__() for each in [kind, *kinds(kind)]]


def test_every_error_has_an_exit_code() -> None:
    codes = {}
    for kind in kinds(HiggsfieldError):
        if not kind.abstract:
            error = kind.__new__(kind)
            error.__dict__.update(ref=None)
            codes[kind.__name__] = exit_of(error)
    assert len(codes) > 20
    assert Exit.DONE not in codes.values()
    assert Exit.FAULT not in codes.values()
    # A row that no error falls into is a mistake in the table.
    assert {*exits._ROWS.values()} == {*codes.values()}


def test_a_hint_names_what_goes_on() -> None:
    ref = TaskRef(transport="proxy", origin="", account="", id="1", kind="x", created_at=datetime.now(UTC))
    assert f"higgsfield-async wait {ref.short}" in (exits.hint_of(ConfigurationError("x", ref=ref)) or "")


def test_a_module_of_ours_that_is_missing_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "higgsfield_async.cli._app", None)
    with pytest.raises(ModuleNotFoundError):
        main([])


def test_importing_the_program_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("higgsfield_async.cli.__main__")
    assert capsys.readouterr().out == ""


def test_the_screen_is_the_standard_error_output() -> None:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        assert SCREEN.fileno() == nowhere.fileno()
        assert SCREEN.encoding == "utf-8"
        assert not SCREEN.isatty()
        SCREEN.flush()


def test_where_nothing_is_open_nothing_goes_on(use: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    use("platform")

    async def leave() -> None:
        async with Higgsfield.from_env() as hf:
            goes_on(Output(json=False), hf)

    asyncio.run(leave())
    SCREEN.drain()
    assert capsys.readouterr().err == ""
