"""Many generations, from a file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import PROGRAM, Run

from higgsfield_async.sandbox import Plan, Sandbox
from surfaces import IMAGE

Use = Callable[[str], None]
pytestmark = pytest.mark.once


def write(path: Path, *rows: dict[str, Any] | str) -> str:
    """Writes a file of JSON lines."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def prompts(number: int) -> list[dict[str, Any]]:
    return [{"type": "keyframes", "prompt": f"number {each}"} for each in range(number)]


def test_each_row_is_a_line_and_is_paid_once(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    file = write(tmp_path / "rows.jsonl", *prompts(5), prompts(1)[0])
    folder = tmp_path / "results"
    ran = run("batch", file, "--output", str(folder))
    assert sorted(thing["line"] for thing in ran.things) == [1, 2, 3, 4, 5, 6]
    assert {thing["event"] for thing in ran.things} == {"ended"}
    assert len(service.generations) == 6
    assert len(list(folder.iterdir())) == 6
    assert re.search(r"^6 of 6 · [\d.]+ a minute · spent 6 without a known price$", ran.err, re.MULTILINE)
    again = run("batch", file, "--output", str(folder), "--quiet")
    assert {thing["ref"] for thing in again.things} == {thing["ref"] for thing in ran.things}
    assert again.err == ""
    assert "6 had ended before" in run("batch", file, "--no-save").err
    write(tmp_path / "rows.jsonl", {"prompt": "number 9", "type": "keyframes"}, *reversed(prompts(5)))
    run("batch", file, "--no-save")
    assert len(service.generations) == 7
    run("batch", file, "--no-save", "--name", "anew")
    assert len(service.generations) == 13


def test_what_is_wrong_is_one_row_alone(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    service.plan(Plan(end="failed", reason="too dark"))
    rows: list[dict[str, Any] | str] = [
        *prompts(1),
        "nonsense",
        {"prompt": "of no type"},
        {"type": "keyframes"},
        {"type": "keyframes", "prompt": "x", "key": "a\u0007"},
        {"type": "generate", "width": 3},
        {"type": "keyframes", "prompt": "y", "image_references": [str(tmp_path / "none.png")]},
    ]
    ran = run("batch", write(tmp_path / "rows.jsonl", *rows), "--no-save", "--at-once", "1", code=1)
    told = {thing["line"]: (thing["event"], thing["error"]) for thing in ran.things}
    assert told == {
        1: ("ended", "GenerationFailed"),
        2: ("refused", "InvalidRequest"),
        3: ("refused", "InvalidRequest"),
        4: ("refused", "InvalidRequest"),
        5: ("refused", "InvalidRequest"),
        6: ("refused", "Unsupported"),
        7: ("refused", "InvalidRequest"),
    }
    assert "It was not charged" in ran.err
    assert "7 of 7 · 7 failed" in ran.err
    assert len(service.generations) == 1


def test_what_failed_is_made_again_where_that_is_asked_for(
    run: Run, use: Use, service: Sandbox, tmp_path: Path
) -> None:
    use("platform")
    file = write(tmp_path / "rows.jsonl", *prompts(2))
    service.plan(Plan(end="failed"))
    ran = run("batch", file, "--no-save", "--again", code=1)
    assert run("batch", file, "--no-save", code=1).out.count("GenerationFailed") == 1
    assert len(service.generations) == 2
    again = run("batch", file, "--no-save", "--again")
    assert len(service.generations) == 3
    done = {thing["ref"] for thing in ran.things if thing["error"] is None}
    assert done < {thing["ref"] for thing in again.things}


def test_rows_have_keys_of_their_own(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    row = {"type": "keyframes", "prompt": "x", "key": "order-17"}
    file = write(tmp_path / "rows.jsonl", row, row)
    assert [thing["key"] for thing in run("batch", file, "--no-save").things] == ["order-17"] * 2
    run("keyframes", "x", "--key", "order-17", "--no-save")
    assert len(service.generations) == 1
    (one, _) = run("batch", file, "--no-save", "--name", "anew").things
    assert one["key"] == "batch:anew:order-17"
    assert len(service.generations) == 2


def test_a_table_is_a_batch_too(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    (tmp_path / "rows.CSV").write_text("key,prompt,count\na,17,2\nb,a cat,\nc,x,many\n", encoding="utf-8")
    ran = run("batch", str(tmp_path / "rows.CSV"), "--as", "keyframes", "--no-save", code=1)
    assert {thing["line"]: thing["error"] for thing in ran.things} == {2: None, 3: None, 4: "InvalidRequest"}
    sent = [each.json()["params"] for each in service.received if each.method == "POST"]
    assert sorted(sent, key=str) == sorted([{"prompt": "17", "count": 2}, {"prompt": "a cat"}], key=str)
    (tmp_path / "models").write_text(f"model_id,prompt,image_url\nhiggsfield-ai/dop/turbo,p,{IMAGE}\n")
    (thing,) = run("batch", str(tmp_path / "models"), "--as", "model", "--format", "csv", "--json", "--no-save").things[
        1:
    ]
    assert thing["kind"] == "higgsfield-ai/dop/turbo"


def test_json_tells_of_each_submit_too(run: Run, use: Use, tmp_path: Path) -> None:
    use("platform")
    things = run("batch", write(tmp_path / "rows", *prompts(2)), "--json", "--no-save").things
    assert sorted((thing["event"], thing["line"]) for thing in things) == [
        ("ended", 1),
        ("ended", 2),
        ("submitted", 1),
        ("submitted", 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.jsonl"], 2, "No such file"),
        (["."], 2, "Is a directory"),
        (["--nothing"], 2, "no option --nothing"),
        (["rows", "--as", "film"], 2, "no such type"),
        (["rows", "--detach"], 2, "leave --detach out"),
    ],
)
def test_what_is_no_batch_is_said(
    run: Run, use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    use("platform")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows", *prompts(1))
    assert words in run("batch", *arguments, code=code).err.replace("\n", "")


def test_what_dooms_the_rest_ends_it(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("proxy")
    rows = [{"type": "ad", "product_placement_sample_id": f"box-{n}", "images": [IMAGE]} for n in range(5)]
    ran = run("batch", write(tmp_path / "rows", *rows), "--no-save", "--budget", "30points", code=77)
    assert len(service.generations) == 2
    assert "BudgetExceeded" in ran.out
    assert "spent 26 points" in ran.err


def test_a_cluster_makes_a_batch(run: Run, cluster_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", cluster_dsn)
    file = write(tmp_path / "rows", *prompts(2), {"type": "generate", "prompt": "p"})
    ran = run("batch", file, "--no-save", "--timeout", "1", code=1)
    assert sorted(thing["event"] for thing in ran.things) == ["open", "open", "refused"]
    again = run("batch", file, "--no-save", "--timeout", "1", code=1)
    assert {thing["ref"] for thing in again.things} == {thing["ref"] for thing in ran.things}
    assert "forget" in run("batch", file, "--again", code=2).err


def environment_of(journal: Path) -> dict[str, str]:
    return {**os.environ, "HIGGSFIELD_JOURNAL": str(journal), "PYTHONUNBUFFERED": "1"}


def test_a_batch_that_is_killed_is_not_paid_twice(
    use: Use, service: Sandbox, environment: Path, tmp_path: Path
) -> None:
    use("platform")
    number = 60
    words = [*PROGRAM, "batch", write(tmp_path / "rows", *prompts(number)), "--output", str(tmp_path / "results"), "-q"]
    for kill_at in (1, 25, 45):
        with subprocess.Popen(words, env=environment_of(environment), stdout=subprocess.DEVNULL) as child:
            until = time.monotonic() + 20
            while len(service.generations) < kill_at and child.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.005)
            child.kill()
    ended = subprocess.run(
        words, env=environment_of(environment), capture_output=True, text=True, check=False, timeout=25
    )
    things = [json.loads(line) for line in ended.stdout.splitlines()]
    lost = [thing for thing in things if thing["error"] is not None]
    assert len(things) == number
    # An answer that was under way to who was killed: v1 knows no key that would ask for it again.
    assert {thing["error"] for thing in lost} <= {"SubmissionUnknown"}
    sent = [generation.request["params"]["prompt"] for generation in service.generations.values()]
    assert len({*sent}) == len(sent)
    assert len(sent) <= number
    assert {thing["id"] for thing in things if thing["id"]} <= {*service.generations}
    assert ended.returncode == (1 if lost else 0), ended.stderr


def test_a_reader_that_goes_loses_nothing(use: Use, service: Sandbox, environment: Path, tmp_path: Path) -> None:
    use("platform")
    file = write(tmp_path / "rows", *prompts(40))
    words = [*PROGRAM, "batch", file, "--no-save", "--at-once", "2"]
    with subprocess.Popen(
        words, env=environment_of(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["event"] == "ended"
        child.stdout.close()
        said = child.stderr.read()
    assert child.returncode == 4, said
    assert "Traceback" not in said
    assert "Nobody reads the output" in said
    assert len(service.generations) < 40


def test_a_batch_comes_through_a_pipe(use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    words = [*PROGRAM, "batch", "-", "--no-save"]
    with subprocess.Popen(
        words, env=environment_of(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for row in prompts(2):
            child.stdin.write(json.dumps(row) + "\n")
            child.stdin.flush()
            # Before the next one is written.
            assert json.loads(child.stdout.readline())["event"] == "ended"
        child.stdin.close()
        assert child.wait(timeout=10) == 0
    assert len(service.generations) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_in_a_batch_says_how_to_go_on(use: Use, service: Sandbox, environment: Path, tmp_path: Path) -> None:
    use("platform")
    service.plan(*[Plan(queued=10_000)] * 3)
    words = [*PROGRAM, "batch", write(tmp_path / "rows", *prompts(3)), "--no-save"]
    with subprocess.Popen(words, env=environment_of(environment), stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        seen = [child.stderr.readline() for _ in range(3)]
        assert all("queued" in line for line in seen)
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert "3 generations under way. The same command again goes on where this one was left." in said


def test_ctrl_c_may_cancel_a_batch(use: Use, service: Sandbox, environment: Path, tmp_path: Path) -> None:
    use("platform")
    service.plan(*[Plan(queued=10_000)] * 2)
    row = {"type": "model", "model_id": "higgsfield-ai/dop/turbo", "arguments": {"prompt": "p", "image_url": IMAGE}}
    words = [*PROGRAM, "batch", write(tmp_path / "rows", row, row), "--no-save", "--on-cancel", "cancel"]
    with subprocess.Popen(words, env=environment_of(environment), stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert all("queued" in child.stderr.readline() for _ in range(2))
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert "The same command again" not in said
    assert [each.status for each in service.generations.values()] == ["canceled"] * 2
