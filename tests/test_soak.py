"""The soak, for a few seconds, and that it would tell."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "soak.py"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it counts what Linux tells in /proc"),
]


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["soak"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(90)
def test_a_few_seconds_of_everything(tmp_path: Path) -> None:
    result = tmp_path / "soak.json"
    command = [
        sys.executable,
        "-W",
        "error",
        str(PROGRAM),
        "--minutes",
        "0.15",
        "--seed",
        "a test",
        "--json",
        str(result),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=80)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    measured = json.loads(result.read_text())
    assert measured["wrong"] == []
    counts = measured["counts"]
    # It did what it is there for, and it went wrong now and then.
    assert counts["paid"] > 50
    assert {"mapped", "webhooks", "SubmissionUnknown", "GenerationFailed", "unknown, and found"} <= counts.keys()
    assert {sample["rows"] for sample in measured["samples"]} == {0}


def samples(soak: ModuleType, minutes: float, **growing: float) -> list[object]:
    usual = dict.fromkeys(soak.ALLOWED, 100)
    return [
        soak.Sample(
            seconds=minutes * 60 * number / 40, **usual | {name: 100 + each * number for name, each in growing.items()}
        )
        for number in range(1, 41)
    ]


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("rss_kib", 1000),
        ("objects", 400),
        ("tasks", 0.2),
        ("descriptors", 5),
        ("threads", 1),
        ("files", 1),
        ("rows", 1),
    ],
)
def test_what_grows_is_told(soak: ModuleType, name: str, each: float) -> None:
    assert soak.grown(samples(soak, 30)) == []
    [told] = soak.grown(samples(soak, 30, **{name: each}))
    assert told.startswith(f"{name} went from")


def test_what_may_grow_for_a_while_is_not_judged_in_a_short_one(soak: ModuleType) -> None:
    assert soak.grown(samples(soak, 5, rss_kib=1000, objects=400)) == []
    assert len(soak.grown(samples(soak, 5, rss_kib=1000, rows=1))) == 1
