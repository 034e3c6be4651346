"""What commands would cost: said, and nothing is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run

from higgsfield_async.sandbox import Sandbox
from surfaces import IMAGE, MOTION

Use = Callable[[str], None]
VIDEO = ["generate", "a boat", "--image", IMAGE, "--motion", MOTION, "--width", "64", "--height", "64"]
MODEL = ["model", "higgsfield-ai/dop/turbo", "prompt=a boat", f"image_url={IMAGE}"]


def test_the_proxys_prices_are_known(run: Run, use: Use, service: Sandbox) -> None:
    use("proxy")
    assert run("estimate", *VIDEO).rows == [["7 points"]]
    assert run("estimate", *VIDEO, "--model", "standard", "--json").things[0]["points"] == "10"
    assert not service.received


def test_the_platform_is_asked(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    (row,) = run("estimate", *MODEL).rows
    assert row[0].endswith(" credits")
    assert {each.operation for each in service.received} == {"estimate"}
    assert not service.generations
    assert not environment.exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--dry-run=false"],
        ["--", "--dry-run=false"],
        ["--no-dry-run"],
        ["--dry-run", "false"],
        ["--detach"],
        ["--on-cancel", "cancel"],
        ["--key", "--dry-run"],
    ],
)
def test_nothing_that_is_typed_makes_it_pay(
    use: Use, service: Sandbox, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from higgsfield_async.cli import main

    use("proxy")
    for arguments in ([*VIDEO, *more], [VIDEO[0], *more, *VIDEO[1:]]):
        main(["estimate", *arguments])
        assert not service.generations
        assert not [each for each in service.received if each.operation == "submit"]
    assert capsys.readouterr()


def test_a_mistake_is_that_of_the_command(run: Run, use: Use) -> None:
    use("platform")
    assert "Error: " in run("estimate", "generate", code=2).err
    assert "Error: " in run("estimate", "nonsense", code=2).err
    assert "Error: " in run("estimate", "ad", "x", "--image", IMAGE, code=2).err


def batch(folder: Path, *rows: object) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(file)


SCENE = {"prompt": "a boat", "images": [IMAGE], "motion_id": MOTION, "width": 64, "height": 64}


def test_a_batch_is_priced_row_by_row(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("proxy")
    rows = [{**SCENE, "model": model, "key": model} for model in ("lite", "turbo", "standard")]
    file = batch(tmp_path, *rows)
    ran = run("estimate", "batch", file, "--as", "generate")
    assert ran.rows == [
        ["1", "5 points"],
        ["2", "7 points"],
        ["3", "10 points"],
        ["total", "22 points for 3, of which 0 have no price"],
    ]
    assert run("estimate", "batch", file, "--as", "generate", "--json").things[-1] == {
        "line": None,
        "points": "22",
        "credits": "0",
        "usd": "0",
        "text": None,
        "generations": 3,
        "unpriced": 0,
        "error": None,
    }
    assert not service.received


def test_a_row_without_a_price_says_why(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    model = {"type": "model", "model_id": "higgsfield-ai/dop/turbo", "arguments": {"prompt": "a", "image_url": IMAGE}}
    described = {**model, "model_id": "bytedance/seedance-2.5/text-to-video", "arguments": {"prompt": "a"}}
    file = batch(tmp_path, "nonsense", {"prompt": "no type"}, model, {"type": "keyframes", "prompt": "a"}, described)
    ran = run("estimate", "batch", file, code=2)
    told = {row[0]: row[1] for row in ran.rows}
    assert [*told] == ["1", "2", "3", "4", "5", "total"]
    assert "is no JSON" in told["1"]
    assert "has no type" in told["2"]
    assert told["3"].endswith("usd")
    assert not service.generations


def test_no_file_is_said(run: Run, use: Use, tmp_path: Path) -> None:
    use("proxy")
    assert "cannot be read" in run("estimate", "batch", str(tmp_path / "none.jsonl"), code=2).err
    assert "there is no such type" in run("estimate", "batch", batch(tmp_path), "--as", "nonsense", code=2).err
    assert run("estimate", "batch", batch(tmp_path)).rows == [["total", "nothing for 0, of which 0 have no price"]]
