"""One generation: made, waited for, saved, canceled."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run

from higgsfield_async import TaskRef
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import IMAGE, MOTION

Use = Callable[[str], None]
pytestmark = pytest.mark.once
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000") + bytes(64)
DOP = ("model", "higgsfield-ai/dop/turbo", "prompt=a cat", f"image_url={IMAGE}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "cat.png").write_bytes(PNG)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("which", "arguments", "kind"),
    [
        ("proxy", ("generate", "a cat", "-i", "cat.png", "--motion", MOTION), "image-to-video/turbo"),
        ("platform", ("generate", "a cat", "-i", "cat.png", "--model", "lite"), "v1/image2video/dop"),
        (
            "proxy",
            ("speak", "softly", "-i", IMAGE, "--text", "Hello", "--voice", "anna", "--preset", "selfie"),
            "speech",
        ),
        ("platform", ("speak", "softly", "-i", IMAGE, "--audio", "https://media.example.com/a.wav"), "v1/speak"),
        ("proxy", ("ad", "--template", "box", "--image", IMAGE), "ad"),
        ("platform", ("keyframes", "a cat", "--count", "2", "--image", IMAGE), "v1/text2image/keyframes"),
        ("platform", ("soul", "a cat", "--batch-size", "4"), "v1/text2image/soul"),
        ("platform", (*DOP[:3], "image_url=@cat.png"), "higgsfield-ai/dop/turbo"),
    ],
)
def test_the_ref_comes_first_and_then_the_files(
    run: Run, use: Use, service: Sandbox, folder: Path, which: str, arguments: tuple[str, ...], kind: str
) -> None:
    use(which)
    ran = run(*arguments)
    ref, *files = ran.out.splitlines()
    (generation,) = service.generations.values()
    told = TaskRef.from_short(ref, transport=which, origin="", account="")
    assert told.id == generation.id
    assert kind in told.kind
    assert files
    for file in files:
        assert file.startswith(generation.id)
        assert (folder / file).stat().st_size
    assert f"completed, {len(files)} file" in ran.err


def test_every_line_of_json_has_an_event(run: Run, use: Use, tmp_path: Path) -> None:
    use("platform")
    first, last = run(*DOP, "--json", "--output", str(tmp_path / "results"), "--key", "order-17").things
    assert (first["event"], last["event"]) == ("submitted", "ended")
    assert first.keys() == last.keys()
    assert {first["ref"]} == {last["ref"]}
    assert (last["key"], last["status"], last["charged"], last["error"]) == ("order-17", "completed", "yes", None)
    (file,) = last["files"]
    assert Path(file).parent == tmp_path / "results"
    assert last["urls"]


def test_a_key_is_paid_once(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    one, again, other = (run(*DOP, "--key", key).out for key in ("order-17", "order-17", "order-18"))
    assert one == again != other
    assert len(service.generations) == 2
    assert "Error: " in run("keyframes", "something else", "--key", "order-17", code=2).err


def test_without_a_key_each_is_another(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    assert run(*DOP).out != run(*DOP).out
    assert len(service.generations) == 2


def test_what_is_detached_is_waited_for_and_saved_later(run: Run, use: Use, folder: Path) -> None:
    use("proxy")
    ad = ("ad", "--template", "box", "--image", IMAGE, "--detach")
    one, other = (run(*ad).out.strip() for _ in range(2))
    assert [path.name for path in folder.iterdir()] == ["cat.png"]
    waited = run("wait", one, other, one)
    assert {row[0] for row in waited.rows} == {
        TaskRef.from_short(ref, transport="", origin="", account="").id for ref in (one, other)
    }
    assert "2 of 2" not in waited.out
    assert len(list(folder.iterdir())) == 1
    (file,) = run("save", one).out.splitlines()
    assert (folder / file).is_file()
    (thing,) = run("wait", other, "--output", "elsewhere", "--json", "--quiet").things
    assert (folder / thing["files"][0]).parent == folder / "elsewhere"
    assert {thing["state"] for thing in run("tasks", "--json").things} == {"ended"}


def test_what_fails_is_said_and_is_an_exit_code(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    service.plan(*[Plan(end="failed", reason="too dark")] * 3)
    ran = run(*DOP, code=1)
    assert "too dark" in ran.err
    assert "It was not charged" in ran.err.replace("\n", " ")
    _, last = run(*DOP, "--json", code=1).things
    assert (last["error"], last["charged"], last["files"]) == ("GenerationFailed", "no", [])
    ref = run(*DOP, "--detach").out.strip()
    (thing,) = run("wait", ref, "--json", code=1).things
    assert (thing["event"], thing["error"]) == ("ended", "GenerationFailed")


def test_what_is_not_waited_for_any_more_goes_on(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    service.plan(Plan(queued=10_000))
    ran = run(*DOP, "--timeout", "0.1", code=4)
    ref = ran.out.strip()
    assert f"higgsfield-async wait {ref}" in ran.err.replace("\n", "")
    (thing,) = run("wait", ref, "--timeout", "0.05", "--json", code=4).things
    assert (thing["event"], thing["error"], thing["charged"]) == ("open", "WaitTimeout", "unknown")


def test_what_is_refused_is_not_submitted(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    ran = run("keyframes", "a cat", "--count", "0", "--json", code=2)
    assert ran.out == ""
    (thing,) = run(*DOP, "--budget", "1credits", "--json", code=77).things
    assert (thing["event"], thing["error"], thing["charged"]) == ("refused", "BudgetExceeded", "no")
    assert not service.generations


def test_a_lost_answer_is_nobodys_guess(run: Run, use: Use, service: Sandbox) -> None:
    use("proxy")
    service.script("submit", Fault.reset(accept=True))
    (thing,) = run("ad", "--template", "box", "--image", IMAGE, "--json", "--key", "x", code=3).things
    assert (thing["event"], thing["error"], thing["key"]) == ("unknown", "SubmissionUnknown", "x")


def test_a_budget_is_kept_to(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    run(*DOP, "--budget", "1.5 Credits")
    assert run("keyframes", "a cat", "--budget", "3usd", code=77).out == ""
    assert run("keyframes", "a cat", "--budget", "3usd", "--unpriced", "1").out
    assert "40credits" in run(*DOP, "--budget", "forty", code=78).err
    assert len(service.generations) == 2


def test_a_dry_run_makes_nothing(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    assert run(*DOP, "--dry-run").rows[0][0] == "1.5 credits"
    assert run(*DOP, "--dry-run", "--json").things[0]["credits"] == "1.500"
    assert not service.generations
    assert not environment.exists()


def test_the_platform_is_told_where_to_report(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    run(*DOP, "--webhook", "https://hooks.example.com/x", "--detach")
    assert "hooks.example.com" in str([each.query for each in service.received])


def test_a_prompt_may_be_read(
    run: Run, use: Use, service: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("platform")
    (folder / "prompt.txt").write_text("from a file\n", encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"\xe4")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    run("keyframes", "@prompt.txt", "--detach")
    run("keyframes", "@-", "--detach")
    run("keyframes", "--detach", "@@home")
    run("keyframes", "--detach", "--", "-5 degrees")
    sent = [each.json()["params"]["prompt"] for each in service.received if each.method == "POST"]
    assert sent == ["from a file", "from a pipe", "@home", "-5 degrees"]
    assert "No such file" in run("keyframes", "@none.txt", code=2).err
    assert "no UTF-8" in run("keyframes", "@latin.txt", code=2).err


def test_only_what_is_queued_is_canceled(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    service.plan(Plan(queued=10_000), Plan(queued=0, running=10_000))
    queued, running = (run(*DOP, "--detach").out.strip() for _ in range(2))
    ran = run("cancel", running, queued, code=2)
    assert ran.rows == [[TaskRef.from_short(queued, transport="", origin="", account="").id]]
    (thing,) = run("wait", queued, "--json", code=1).things
    assert (thing["status"], thing["charged"]) == ("canceled", "no")
    assert [thing["error"] for thing in run("cancel", running, "--json", code=2).things] == ["NotCancelable"]


def test_a_ref_that_is_none_is_said_before_anything_is_done(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    ref = run(*DOP, "--detach").out.strip()
    received = len(service.received)
    assert "not a TaskRef" in run("wait", ref, "nonsense", code=78).err
    assert len(service.received) == received


def test_made_by_is_for_clusters(run: Run, use: Use) -> None:
    use("platform")
    assert "--made-by" in run("generate", "p", "-i", IMAGE, "--made-by", "proxy", code=78).err
    assert run("generate", "p", "-i", IMAGE, "--made-by", "platform", "--detach").out


def test_a_cluster_takes_the_same_commands(run: Run, cluster_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", cluster_dsn)
    assert "--made-by" in run("generate", "p", "-i", IMAGE, code=2).err
    ref = run("generate", "p", "-i", IMAGE, "--made-by", "platform", "--detach", "--key", "order-17").out.strip()
    assert run("keyframes", "p", "--timeout", "0", code=4).out
    assert run("wait", ref, "--timeout", "0", "--json", code=4).things[0]["id"] == "order-17"
    assert "no budget" in run("keyframes", "p", "--budget", "1usd", code=78).err


@pytest.mark.parametrize("command", [("keyframes", "p"), ("batch", "rows")])
def test_what_cannot_be_saved_is_not_paid_for(
    run: Run, use: Use, service: Sandbox, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    use("platform")
    Path("rows").write_text('{"type": "keyframes", "prompt": "p"}')
    Path("taken").touch()
    assert "Nothing was submitted" in run(*command, "-o", "taken/results", code=2).err
    monkeypatch.setattr(os, "access", lambda *_: False)  # to root, all may be written to
    assert "Permission denied" in run(*command, "-o", "results", code=2).err
    assert not service.generations
