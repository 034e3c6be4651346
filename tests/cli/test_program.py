"""The command line as a process, on a terminal and in a pipe."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pexpect
import pyte
import pytest
from commands import PROGRAM, Run, submit

from higgsfield_async.cli import main
from higgsfield_async.cli._app import COMMANDS
from higgsfield_async.sandbox import Fault, Sandbox
from surfaces import PROXY

Use = Callable[[str], None]
BASH = shutil.which("bash") or "bash"
POSIX = pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal, and a Unix's signals")


def screen(child: pexpect.spawn[str], columns: int, lines: int = 1000) -> list[str]:
    """What stands on a terminal of that width when the program has ended."""
    child.expect(pexpect.EOF)
    child.close()
    shown = pyte.Screen(columns, lines)
    pyte.Stream(shown).feed(child.before or "")
    return [line.rstrip() for line in shown.display]


def terminal(*arguments: str, columns: int = 80) -> pexpect.spawn[str]:
    return pexpect.spawn(
        PROGRAM[0], [*PROGRAM[1:], *arguments], dimensions=(200, columns), timeout=20, encoding="utf-8"
    )


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").out.strip() == importlib.metadata.version("higgsfield-async")


def test_help_names_every_command(run: Run) -> None:
    for arguments in ([], ["--help"]):
        out = run(*arguments).out
        for heading, commands in COMMANDS.items():
            assert heading in out
            for name in commands:
                assert re.search(rf"\b{name}\b", out)


@pytest.mark.once
def test_help_imports_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys; from higgsfield_async.cli import main; main(['--help'])\n"
        "unwanted = {'aiohttp', 'dbos', 'sqlalchemy', 'psycopg', 'rich.live', 'rich.progress', 'fastapi'}\n"
        "sys.exit(' '.join(unwanted & {*sys.modules}) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=20)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_mistake_is_a_sentence(run: Run) -> None:
    for arguments in (["nonsense"], ["tasks", "--nonsense"], ["tasks", "--limit", "many"]):
        ran = run(*arguments, code=2)
        assert ran.out == ""
        assert ran.err.startswith("Error: ")
        assert "Hint: higgsfield-async --help" in ran.err


def test_a_fault_of_the_program_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSFIELD_PROXY_KEY", "hk-topsecret")
    # What no code of ours expects: a folder where the standard output was.
    monkeypatch.setattr("builtins.print", _broken)
    ran = run("completion", "bash", code=70)
    assert ran.err.startswith("Error: RuntimeError: the key is … and \\x1b[2J")
    assert "Traceback" not in ran.err
    # Of a command that knows the option.
    ran = run("sandbox", "--port", "1024", "--json", "--debug", code=70)
    assert "Traceback (most recent call last)" in ran.err
    assert "topsecret" not in ran.err


def _broken(*_: object, **__: object) -> None:
    msg = "the key is hk-topsecret and \x1b[2J"
    raise RuntimeError(msg)


@POSIX
@pytest.mark.once
@pytest.mark.parametrize("columns", [60, 100])
def test_a_table_keeps_to_the_terminals_width(use: Use, columns: int) -> None:
    use("proxy")
    lines = [line for line in screen(terminal("motions", columns=columns), columns) if line]
    assert lines[0].split()[:2] == ["ID", "NAME"]
    assert len([line for line in lines if re.match(r"[0-9a-f]{8}-[0-9a-f-]{27}\b", line)]) == 51
    assert max(map(len, lines)) <= columns


@POSIX
@pytest.mark.once
def test_nothing_of_a_services_steers_the_terminal(use: Use, service: Sandbox) -> None:
    use("platform")
    body = msgspec.json.encode([{"id": "1", "name": "\x1b[2J\x1b[1;1Hforged \x1b]0;title\x07 [bold]plain[/] :cat:"}])
    service.script("catalogue", Fault.answer(200, body, {"Content-Type": "application/json"}))
    child = terminal("motions", columns=120)
    lines = screen(child, 120)
    assert lines[0].startswith("ID")
    assert any("\\x1b[2J\\x1b[1;1Hforged \\x1b]0;title\\x07 [bold]plain[/] :cat:" in line for line in lines)
    assert "\x1b[2J" not in (child.before or "")


@POSIX
@pytest.mark.once
def test_an_empty_table_is_nothing(use: Use, environment: Path, service: Sandbox) -> None:
    submit(service, environment, PROXY, "one")
    assert not any(screen(terminal("tasks", "--ended"), 80))
    assert any("one" in line for line in screen(terminal("tasks"), 80))


@POSIX
@pytest.mark.once
def test_uploads_show_which_file_on_a_terminal(use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    (tmp_path / "a [b].png").write_bytes(bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(64))
    service.script("upload", Fault.delay(0.5))
    child = terminal("upload", str(tmp_path / "a [b].png"), columns=300)
    child.expect_exact("a [b].png (1 of 1)")
    child.expect_exact(service.media_url)
    screen(child, 300)
    assert child.exitstatus == 0


@POSIX
@pytest.mark.once
def test_a_reader_that_leaves_is_no_error(use: Use) -> None:
    use("proxy")
    command = " ".join([*PROGRAM, "motions", "--json", "|", "head", "-n", "1;", 'echo "${PIPESTATUS[0]}"'])
    ended = subprocess.run([BASH, "-c", command], capture_output=True, text=True, check=False, timeout=20)
    assert ended.stderr == ""
    assert len(ended.stdout.splitlines()) == 2
    assert ended.stdout.splitlines()[1] == "0"
    # A reader that was never there.
    command = f'{" ".join(PROGRAM)} motions | true; echo "${{PIPESTATUS[0]}}"'
    ended = subprocess.run([BASH, "-c", command], capture_output=True, text=True, check=False, timeout=20)
    assert (ended.stdout.strip(), ended.stderr) == ("0", "")


@pytest.mark.once
def test_letters_that_the_output_has_none_for_are_written_out(use: Use, service: Sandbox) -> None:
    use("platform")
    body = msgspec.json.encode([{"id": "1", "name": "猫"}])
    service.script("catalogue", Fault.answer(200, body, {"Content-Type": "application/json"}))
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    ended = subprocess.run([*PROGRAM, "motions"], capture_output=True, check=False, timeout=20, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"1\t\\u732b\t")


@contextmanager
def sandbox(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen([*PROGRAM, "sandbox", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_runs_until_it_is_told_to_end(
    run: Run, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox("--speed", "100") as child:
        assert child.stdout is not None
        for line in iter(child.stdout.readline, ""):
            if found := re.fullmatch(r"export (\w+)=(\S+)\n", line):
                monkeypatch.setenv(found[1], found[2])
            if line.startswith("export HIGGSFIELD_BASE_URL"):
                break
        assert len(run("motions", "--service", "proxy").rows) == 51
        assert len(run("motions", "--service", "platform").rows) == 51
        child.send_signal(number)
        assert child.wait(10) == 0


def test_the_sandbox_says_which_port_is_taken(run: Run, service: Sandbox) -> None:
    port = service.proxy_url.rpartition(":")[2]
    ran = run("sandbox", "--port", port, code=78)
    assert "Choose another --port" in ran.err
    for wrong in (["--port", "65534"], ["--port", "0"], ["--speed", "0"]):
        assert run("sandbox", *wrong, code=2).err.startswith("Error: ")


def test_the_sandbox_ends_where_nobody_reads_how_to_reach_it(
    service: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import io

    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(open(writing, "wb", buffering=0), write_through=True) as pipe:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", pipe)
        before = signal.getsignal(signal.SIGINT)
        assert main(["sandbox"]) == 0
        assert signal.getsignal(signal.SIGINT) is before


@POSIX
def test_the_sandbox_tells_programs_of_itself() -> None:
    with sandbox("--json") as child:
        assert child.stdout is not None
        told = msgspec.json.decode(child.stdout.readline())
        assert {*told} == {"HIGGSFIELD_PROXY_KEY", "HIGGSFIELD_PROXY_BASE_URL", "HF_KEY", "HIGGSFIELD_BASE_URL"}
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for(run: Run, shell: str) -> None:
    script = run("completion", shell).out
    assert "higgsfield-async" in script
    assert "recover" in script


@POSIX
@pytest.mark.once
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("rec", "recover "),
        ("tasks --unk", "tasks --unknown "),
        ("motions --service plat", "motions --service platform "),
    ],
)
def test_bash_completes(run: Run, tmp_path: Path, typed: str, completed: str) -> None:
    (tmp_path / "script").write_text(run("completion", "bash").out)
    environment = os.environ | {"PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null"}
    child = pexpect.spawn(
        BASH, ["--norc", "--noprofile"], env=environment, timeout=10, encoding="utf-8", dimensions=(24, 200)
    )
    child.sendline(f"source {tmp_path / 'script'}; bind 'set enable-bracketed-paste off'; echo be''gin")
    child.expect_exact("begin\r\n")
    child.send(f"higgsfield-async {typed}\t")
    child.expect_exact(f"higgsfield-async {completed}")
    child.sendintr()
    child.sendline("exit")
    child.expect(pexpect.EOF)
    child.close()


def test_without_its_packages_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("higgsfield_async.cli._")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    assert main(["--help"]) == 78
    assert "pip install 'higgsfield-async[cli]'" in capsys.readouterr().err
