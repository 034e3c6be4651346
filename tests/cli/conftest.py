from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from commands import KEYS, Ran, Run

from higgsfield_async.cli import main
from higgsfield_async.sandbox import Sandbox
from higgsfield_async.sandbox.__main__ import exports


@pytest.fixture(autouse=True)
def folders(no_blocking: BlockBuster) -> None:
    """The journal's folder is made before anything else goes on in a command's loop."""
    for name in ("os.mkdir", "os.stat"):
        no_blocking.functions[name].can_block_in("higgsfield_async/cli/_options.py", "journal_path")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No key of whoever runs the tests, and a journal of the test's own."""
    for name in [*os.environ]:
        if name.startswith(("HIGGSFIELD_", "HF_", "XDG_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HIGGSFIELD_JOURNAL", str(tmp_path / "journal.db"))
    return tmp_path / "journal.db"


@pytest.fixture
def service() -> Iterator[Sandbox]:
    """A sandbox in a thread: a command has a loop of its own."""
    with Sandbox(speed=100) as running:
        yield running


@pytest.fixture
def use(service: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the environment name one of the sandbox's services."""

    def name(which: str) -> None:
        told = exports(service)
        for each in KEYS[which]:
            monkeypatch.setenv(each, told[each])

    return name


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def command(*arguments: str, code: int = 0) -> Ran:
        capsys.readouterr()
        ended = main(arguments)
        out, err = capsys.readouterr()
        assert ended == code, (ended, out, err)
        return Ran(ended, out, err)

    return command
