"""Each program in examples/ runs, as a process of its own, and does what it says."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from higgsfield_async import TaskRef
from higgsfield_async.sandbox import Fault, Plan, Sandbox

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SERVERS = {
    "fastapi_app.py": ("uvicorn", "--port={port}", "--app-dir={folder}", "fastapi_app:app"),
    "starlette_app.py": ("uvicorn", "--port={port}", "--app-dir={folder}", "starlette_app:app"),
    "aiohttp_app.py": ("aiohttp.web", "-H127.0.0.1", "-P{port}", "aiohttp_app:application"),
}
SMALL = {
    "batch_again.py",
    "character.py",
    "errors.py",
    "local_pictures.py",
    "many.py",
    "pick_up_later.py",
    "platform_v1_v2.py",
    "proxy.py",
    "saving.py",
    *SERVERS,
}
NAMES = ["video lite", "video standard", "video turbo", "speech", "ad", "keyframes (v1)", "dop/turbo (v2)"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="a terminal's ways")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(speed=100) as running:
        yield running


@pytest.fixture
def _interruptible() -> Iterator[None]:
    # An ignored SIGINT is inherited, and pytest may itself be a job in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def environment(sandbox: Sandbox | None = None, *, platform: bool = True) -> dict[str, str]:
    """This process's environment with the sandbox's keys and addresses, or with none at all."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIGGSFIELD_"))}
    found.pop("NO_COLOR", None)
    if sandbox is not None:
        found |= {"HIGGSFIELD_PROXY_KEY": sandbox.proxy_key, "HIGGSFIELD_PROXY_BASE_URL": sandbox.proxy_url}
        if platform:
            key = f"{sandbox.key_id}:{sandbox.key_secret}"
            found |= {"HF_KEY": key, "HIGGSFIELD_BASE_URL": sandbox.platform_url}
    return found


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]


def run(
    name: str, *arguments: str, env: Mapping[str, str], cwd: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        command(name, *arguments),
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=25,
        check=False,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended


def test_all_are_tested_and_small() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SMALL, "demo.py"}
    for name in SMALL:
        assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 40


def test_many(sandbox: Sandbox, tmp_path: Path) -> None:
    lines = run("many.py", env=environment(sandbox), cwd=tmp_path).stdout.splitlines()
    assert lines[-1] == "30 done, 0 failed"
    assert {line.split()[1] for line in lines[:-1]} == set(sandbox.generations)


@POSIX
def test_batch_again(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox)
    with subprocess.Popen(command("batch_again.py"), env=env, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(8):
            assert process.stdout.readline()
        process.kill()
    assert 8 <= len(sandbox.generations) < 24
    for _ in range(2):
        lines = run("batch_again.py", env=env, cwd=tmp_path).stdout.splitlines()
        assert lines[-1] == "24 of 24 done; 0 that nobody can tell of"
        assert {line.split()[1] for line in lines[:-1]} == set(sandbox.generations)
    assert len(sandbox.generations) == 24
    assert {path.stem for path in (tmp_path / "results").glob("[!.]*")} == set(sandbox.generations)


def test_saving(sandbox: Sandbox, tmp_path: Path) -> None:
    lines = run("saving.py", env=environment(sandbox), cwd=tmp_path).stdout.splitlines()
    saved = {Path(line.removeprefix("saved ")) for line in lines[:-1]}
    assert saved == {path.relative_to(tmp_path) for path in (tmp_path / "results").iterdir()}
    assert len(saved) == 10
    assert re.fullmatch(r"put store://[0-9a-f-]{36}\.png", lines[-1])


def test_proxy(sandbox: Sandbox, tmp_path: Path) -> None:
    lines = run("proxy.py", env=environment(sandbox), cwd=tmp_path).stdout.splitlines()
    (generation,) = sandbox.generations.values()
    assert (generation.surface, generation.request["prompt"]) == ("proxy", "正在吃饭")
    assert lines[0] == f"{generation.id} queued"
    assert lines[-2] == f"{generation.id} completed"
    (saved,) = (tmp_path / "results").iterdir()
    assert lines[-1] == f"saved {Path('results', saved.name)}"
    assert saved.read_bytes()[4:8] == b"ftyp"


def test_character(sandbox: Sandbox, tmp_path: Path) -> None:
    lines = run("character.py", env=environment(sandbox), cwd=tmp_path).stdout.splitlines()
    training, portrait = sandbox.generations.values()
    assert (training.kind, portrait.kind) == ("character", "image")
    assert portrait.request["params"]["custom_reference_id"] == training.id
    assert lines[0] == "a training costs 40 credits"
    assert f"{training.id} completed" in lines
    assert [line.split()[0] for line in lines if "http" in line] == ["raw", "min"]
    assert lines[-1] == "Ann completed"


def test_platform(sandbox: Sandbox, tmp_path: Path) -> None:
    output = run("platform_v1_v2.py", env=environment(sandbox), cwd=tmp_path).stdout
    keyframes, video = sorted(sandbox.generations.values(), key=lambda generation: generation.surface)
    assert (keyframes.surface, video.surface) == ("v1", "v2")
    assert f"{keyframes.id} completed" in output
    assert f"{video.id} completed" in output
    assert re.findall(r"^    (\w+) http", output, re.MULTILINE) == ["image", "image", "video"]


def test_local_pictures(sandbox: Sandbox, tmp_path: Path) -> None:
    lines = run("local_pictures.py", env=environment(sandbox), cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["proxy:", "costs", "platform:", "uploaded:"]
    proxy, platform = sandbox.generations.values()
    assert [picture[:22] for picture in proxy.request["image"]] == ["data:image/png;base64,"] * 2
    assert len({platform.request["image_url"], platform.request["end_image_url"]}) == 2
    night, day = (received.body for received in sandbox.received if received.method == "PUT")
    assert (tmp_path / "night.png").read_bytes() in (night, day)


def test_pick_up_later(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox)
    first = run("pick_up_later.py", env=env, cwd=tmp_path)
    (generation,) = sandbox.generations.values()
    assert f"submitted {generation.id}" in first.stdout
    assert sandbox.received[-1].method == "POST"  # it did not wait

    second = run("pick_up_later.py", env=env, cwd=tmp_path)
    assert second.stdout == f"saved {Path('results', f'{generation.id}.png')}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert len(sandbox.generations) == 1


def test_errors(sandbox: Sandbox, tmp_path: Path) -> None:
    refused, goes_on, end = run("errors.py", env=environment(sandbox), cwd=tmp_path).stdout.splitlines()
    (generation,) = sandbox.generations
    wrong = "arguments.promt: is not documented (did you mean prompt?)"
    assert refused == f"refused: {wrong} arguments.prompt: is required"
    assert TaskRef.from_json(goes_on.removeprefix("goes on: ")).id == generation
    assert end == "completed"


def test_errors_when_the_generation_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.plan(Plan(end="failed", reason="No luck"))
    output = run("errors.py", env=environment(sandbox), cwd=tmp_path).stdout
    assert output.endswith("failed: No luck; charged: no\n")


def test_errors_when_the_answer_is_lost(sandbox: Sandbox, tmp_path: Path) -> None:
    # Five are all that the SDK tries by itself.
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5)
    output = run("errors.py", env=environment(sandbox), cwd=tmp_path).stdout
    (generation,) = sandbox.generations
    assert f"recovered {generation}\n" in output
    assert output.endswith("completed\n")


@pytest.fixture
def server(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a running example, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [word.format(port=port, folder=EXAMPLES) for word in SERVERS[request.param]]
    command = [sys.executable, "-W", "error", "-m", *words]
    with subprocess.Popen(
        command, env=environment(sandbox), cwd=EXAMPLES, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until = time.monotonic() + 15
            while process.poll() is None and time.monotonic() < until:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=8)
            finally:
                process.kill()
    assert "Traceback" not in said
    assert "ERROR" not in said


@POSIX
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_servers(server: tuple[str, subprocess.Popen[str]], sandbox: Sandbox, request: pytest.FixtureRequest) -> None:
    url, process = server
    sandbox.plan(Plan(), Plan(queued=1e9))
    name = request.node.callspec.params["server"]
    paths: list[str] = []
    with httpx.Client(base_url=url, timeout=10) as client:
        for _ in range(2):
            where = "/generations/keyframes" if name == "fastapi_app.py" else "/"
            answer = client.post(where, json={"prompt": "A paper boat"})
            assert answer.status_code == 202
            paths.append(answer.json().get("events") or answer.headers["Location"] + "/events")
        events = client.get(paths[0])
        assert events.headers["Content-Type"].startswith("text/event-stream")
        ids = re.findall("^id: (.*)$", events.text, re.MULTILINE)
        assert (ids[0], ids[-1]) == ("q", "c")
        assert client.get(paths[0], headers={"Last-Event-ID": "c"}).status_code == 204
    # A stream that is open when the server is stopped does not hold it up; uvicorn has to be told so for Starlette's.
    if name != "starlette_app.py":
        with httpx.stream("GET", url + paths[1], timeout=10) as stream:
            lines = stream.iter_lines()
            assert next(lines) == ":"
            process.send_signal(signal.SIGINT)
            assert "id: c" not in list(lines)
            process.wait(timeout=8)


def test_demo(tmp_path: Path) -> None:
    began = time.monotonic()
    output = run("demo.py", "--output", "results", env=environment(), cwd=tmp_path).stdout
    assert time.monotonic() - began < 15
    for name in NAMES:
        states = re.findall(rf"s  \w+ +{re.escape(name)} +(\w+)$", output, re.MULTILINE)
        assert states == ["queued", "in_progress", "completed"]
    listed = re.findall(r"^  .+  (\S+) +(image|video) +(\d+)$", output, re.MULTILINE)
    files = {path.name: path.stat().st_size for path in (tmp_path / "results").iterdir()}
    assert {name: int(size) for name, _, size in listed} == files
    assert [kind for _, kind, _ in listed].count("image") == 2
    assert len(files) == len(NAMES) + 1
    assert re.search(r"7 of 7 made in .* s\. The sandbox charged 85 points and 1\.6\d* credits\.$", output)


def test_demo_live(sandbox: Sandbox, tmp_path: Path) -> None:
    points = sandbox.points
    ended = run("demo.py", "--live", "--yes", "--output", "results", env=environment(sandbox), cwd=tmp_path)
    assert "7 of 7 made" in ended.stdout
    assert "It costs 85 points and what the platform charges your account." in ended.stdout
    assert [one.surface for one in sandbox.generations.values()].count("proxy") == 5
    assert len(sandbox.generations) == 7
    assert points - sandbox.points == 85
    assert len(list((tmp_path / "results").iterdir())) == 8


def test_demo_live_with_one_service(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox, platform=False)
    ended = run("demo.py", "--live", "--yes", "--output", "results", env=env, cwd=tmp_path)
    assert ended.stderr.startswith("Without the platform: ")
    assert "5 of 5 made" in ended.stdout
    assert {one.surface for one in sandbox.generations.values()} == {"proxy"}


def test_demo_live_without_a_key(tmp_path: Path) -> None:
    ended = run("demo.py", "--live", "--yes", env=environment(), cwd=tmp_path, code=2)
    for variable in ("HIGGSFIELD_PROXY_KEY", "HF_KEY", "HF_API_KEY", "HF_API_SECRET"):
        assert variable in ended.stderr
    assert not ended.stdout


def test_demo_live_asks_before_it_spends(sandbox: Sandbox, tmp_path: Path) -> None:
    ended = run("demo.py", "--live", env=environment(sandbox), cwd=tmp_path, code=2)
    assert "50 points" in ended.stdout
    assert "--yes" in ended.stderr
    assert not sandbox.received


def test_demo_says_what_went_wrong(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    sandbox.plan(*[Plan(end="failed", reason="No\nluck")] * 7)
    env = environment(sandbox, platform=False)
    ended = run("demo.py", "--live", "--yes", "--output", "results", env=env, cwd=tmp_path, code=1)
    assert ended.stdout.count(": SubmissionUnknown: ") == 1
    assert len(re.findall(r"^.+: GenerationFailed: .* failed: No luck\. .*$", ended.stdout, re.MULTILINE)) == 4
    assert "0 of 5 made" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


@POSIX
@pytest.mark.usefixtures("_interruptible")
def test_demo_interrupted(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.plan(*[Plan(queued=60_000)] * 7)
    with subprocess.Popen(
        command("demo.py", "--live", "--yes", "--output", "results"),
        env=environment(sandbox),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        try:
            for name in NAMES:
                assert any("queued" in line for line in process.stdout), f"{name} was not submitted"
            process.send_signal(signal.SIGINT)
            _, _, refs = process.stdout.read().partition("Submitted, and not saved yet:\n")
            assert process.wait() == 130
        finally:
            process.kill()
    assert {TaskRef.from_json(line).id for line in refs.splitlines()} == set(sandbox.generations)
    assert len(sandbox.generations) == 7


@POSIX
@pytest.mark.parametrize("no_color", ["", "1"])
def test_demo_on_a_terminal(sandbox: Sandbox, tmp_path: Path, no_color: str) -> None:
    env = environment(sandbox) | {"NO_COLOR": no_color, "TERM": "xterm"}
    code, shown = on_terminal(b"y\n", env, tmp_path)
    assert code == 0
    assert "Spend 85 points and what the platform charges your account? [y/N]" in shown
    assert "\x1b[7F" in shown
    assert ("\x1b[32mcompleted" in shown) == (not no_color)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert len(sandbox.generations) == 7


@POSIX
def test_demo_takes_no_for_an_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    code, _ = on_terminal(b"\n", environment(sandbox), tmp_path)
    assert code == 2
    assert not sandbox.received


def on_terminal(typed: bytes, env: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """Run the demo with --live on a terminal of its own. Return its exit code and what was shown."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("demo.py", "--live", "--output", "results"),
        env=env,
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            os.write(ours, typed)
            shown = b"".join(iter(lambda: read(ours), b""))
            return process.wait(), shown.decode()
        finally:
            process.kill()
            os.close(ours)


def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once its program has ended, which Linux reports as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""
