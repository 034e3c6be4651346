"""Commands as processes: told to end, on a terminal, and without a reader."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
import pytest
from commands import PROGRAM, Run

from higgsfield_async import TaskRef
from higgsfield_async.cli._running import run_until_told
from higgsfield_async.sandbox import Plan, Sandbox
from surfaces import IMAGE

Use = Callable[[str], None]
DOP = ("model", "higgsfield-ai/dop/turbo", "prompt=a cat", f"image_url={IMAGE}")
pytestmark = pytest.mark.once


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_leaves_what_is_paid_running(
    run: Run, use: Use, service: Sandbox, environment: Path, number: signal.Signals, code: int
) -> None:
    use("platform")
    service.plan(Plan(queued=2, running=40))
    with subprocess.Popen([*PROGRAM, *DOP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        ref = child.stdout.readline().strip()
        child.send_signal(number)
        said = child.stderr.read()
    assert child.returncode == code, said
    assert f"1 generation under way. To pick up: higgsfield-async wait {ref}" in said
    assert run("wait", ref).rows[0][0] in service.generations
    assert len(service.generations) == 1


def test_a_wait_that_is_left_says_how_to_go_on(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    service.plan(*[Plan(queued=10_000)] * 4)
    refs = [run(*DOP, "--detach").out.strip() for _ in range(4)]
    with subprocess.Popen([*PROGRAM, "wait", *refs], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert all("queued" in child.stderr.readline() for _ in refs)
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert "4 generations under way. To pick up: higgsfield-async recover" in said


def test_what_is_canceled_with_the_command_costs_nothing(use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    service.plan(Plan(queued=10_000))
    words = [*PROGRAM, *DOP, "--on-cancel", "cancel"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert "To pick up" not in said
    assert [generation.status for generation in service.generations.values()] == ["canceled"]


def test_the_second_signal_leaves_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    left: list[int] = []
    said: list[str] = []

    async def stubborn() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            os.kill(os.getpid(), signal.SIGTERM)
            raise
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert run_until_told(stubborn(), lambda: said.append("told"), left.append) == 130
    assert (left, said) == ([130], ["told"])
    assert "higgsfield-async recover" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_cancellation_of_its_own_is_no_signal() -> None:
    async def cancelled() -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_until_told(cancelled(), lambda: None)


def test_two_signals_end_a_process_that_waits_for_an_answer(use: Use, service: Sandbox, environment: Path) -> None:
    from higgsfield_async.sandbox import Fault

    use("platform")
    service.script("submit", Fault.delay(8))
    with subprocess.Popen([*PROGRAM, *DOP], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        while not service.generations:
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.5)  # an id that is under way is waited for
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130
    assert "Left at once" in said


def test_a_ref_that_nobody_reads_is_not_lost(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    out, into = os.pipe()
    os.close(out)
    ended = subprocess.run([*PROGRAM, *DOP, "--no-save"], stdout=into, stderr=subprocess.PIPE, text=True, check=False)
    os.close(into)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Nobody reads the output" in ended.stderr
    assert [thing["status"] for thing in run("tasks", "--json").things] == ["completed"]


def screen_of(child: pexpect.spawn[str], until: Callable[[str], bool]) -> str:
    """What stands on the terminal once something does."""
    screen = pyte.Screen(100, 12)
    stream = pyte.Stream(screen)
    while not until(shown := "\n".join(line.rstrip() for line in screen.display)):
        stream.feed(child.read_nonblocking(4096, timeout=10))
    return shown


def test_on_a_terminal_it_is_redrawn(use: Use, service: Sandbox, environment: Path, tmp_path: Path) -> None:
    use("platform")
    service.plan(*[Plan(queued=10_000)] * 14)
    rows = tmp_path / "rows"
    rows.write_text("".join(f'{{"type": "keyframes", "prompt": "{each}"}}\n' for each in range(14)))
    command = [*PROGRAM[1:], "batch", str(rows), "--no-save"]
    child = pexpect.spawn(
        PROGRAM[0], command, dimensions=(12, 100), encoding="utf-8", env={**os.environ, "TERM": "xterm"}
    )
    try:
        shown = screen_of(child, lambda text: "14 open" in text)
        assert re.search(r"^1: keyframes +queued +0:\d\d  [0-9a-f-]{36}$", shown, re.MULTILINE)
        assert "… and 5 more" in shown
        child.sendintr()
        child.expect("14 generations under way. The same command again")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 130
    finally:
        child.close(force=True)


def test_a_line_stands_above_what_is_redrawn(use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    service.plan(Plan(queued=10, running=40))
    child = pexpect.spawn(
        PROGRAM[0],
        [*PROGRAM[1:], *DOP, "--no-save"],
        dimensions=(12, 100),
        encoding="utf-8",
        env={**os.environ, "TERM": "xterm"},
    )
    try:
        shown = screen_of(child, lambda text: "1 open" in text)
        ref = "".join(line.strip() for line in shown.splitlines()[:2])  # longer than the terminal is wide
        told = TaskRef.from_short(ref, transport="platform", origin="", account="")
        assert told.id in service.generations
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)


def test_a_terminal_that_is_stopped_holds_up_nothing(
    use: Use, service: Sandbox, environment: Path, tmp_path: Path
) -> None:
    use("platform")
    service.plan(*[Plan(queued=40)] * 4)
    rows, results = tmp_path / "rows", tmp_path / "results"
    rows.write_text("".join(f'{{"type": "keyframes", "prompt": "{each}"}}\n' for each in range(4)))
    words = [*PROGRAM, "batch", str(rows), "--no-save"]
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", f"exec {' '.join(map(shlex.quote, words))} > {shlex.quote(str(results))}"],
        dimensions=(12, 100),
        encoding="utf-8",
        env={**os.environ, "TERM": "xterm", "PYTHONUNBUFFERED": "1"},
    )
    try:
        screen_of(child, lambda text: "4 open" in text)
        child.send("\x13")  # Ctrl-S
        until = time.monotonic() + 15
        while len(results.read_text().splitlines()) < 4:
            assert time.monotonic() < until, "the work waits for the terminal"
            time.sleep(0.02)
        child.send("\x11")
        child.expect_exact("4 of 4")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)


def test_nobody_who_reads_the_words_is_no_reason_to_say_nothing_else(use: Use, environment: Path) -> None:
    use("platform")
    read, write = os.pipe()
    with subprocess.Popen([*PROGRAM, *DOP, "--no-save"], stdout=subprocess.PIPE, stderr=write, text=True) as child:
        os.close(write)
        os.close(read)
        out, _ = child.communicate(timeout=25)
    assert child.returncode == 0
    told = TaskRef.from_short(out.splitlines()[0], transport="platform", origin="", account="")
    assert told.kind == "higgsfield-ai/dop/turbo"
