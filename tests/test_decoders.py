"""Whatever others wrote is a value or one of our errors: the table of decoders.py, as the fuzzer has it too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from decoders import DECODERS, fed

pytestmark = pytest.mark.once

FUZZER = Path(__file__).resolve().parent / "fuzz" / "fuzz.py"
# What a text of one kind is often written as in another.
pieces = st.sampled_from(
    (
        *(b"\x00", b'{"', b'":', b"[", b"]", b"{", b"}", b'"', b",", b"\n", b"\xff", b"\xed\xa0\x80"),
        *(b"id", b"jobs", b"status", b"request_id", b"completed", b"1e999", b"-1", b"NaN", b"null"),
        *(b"bytes 5-9/10", b"v1,", b"data:image/png;base64,"),
    )
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
data = (
    st.binary(max_size=200)
    | st.lists(pieces, max_size=12).map(b"".join)
    | st.tuples(st.binary(max_size=1), values.map(lambda value: json.dumps(value).encode())).map(b"".join)
)
DEEP = [prefix + bracket * 200_000 for prefix in (b"", b"\x00") for bracket in (b"[", b'{"x":', b"(")]
LONG = [
    begin + each * 200_000 for begin, each in ((b"", b"9"), (b"\x00", b"9"), (b'"', b"a"), (b"", b" "), (b"", b"="))
]


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=30, deadline=None)
@given(data=data)
@example(data=b'{"key":"\xff"}')
def test_any_bytes_are_a_value_or_one_of_our_errors(name: str, data: bytes) -> None:
    fed(name, data)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("data", DEEP + LONG, ids=lambda data: f"{bytes(data[:6])!r}")
def test_what_is_deep_or_long_is_read_in_no_time_or_refused(name: str, data: bytes) -> None:
    fed(name, data)  # within the limit of every test


def test_the_fuzzer_runs_over_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer is not installed")
    command = [sys.executable, str(FUZZER), "--runs", "300", "--corpus", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{len(DECODERS)} decoders" in done.stdout
    assert re.search(r"Done \d+ runs", done.stderr)


def test_the_fuzzer_finds_what_is_neither(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer is not installed")
    program = f"""
import sys
sys.path[:0] = [{str(FUZZER.parent)!r}, {str(FUZZER.parent.parent)!r}]
import decoders
decoders.DECODERS["broken"] = lambda data: 1 / (len(data) - 3)
import fuzz
sys.argv = ["fuzz.py", "--runs", "20000", "--only", "broken", "--corpus", {str(tmp_path)!r}]
fuzz.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=25, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr


def test_every_recorded_answer_is_a_seed(tmp_path: Path) -> None:
    sys.path.append(str(FUZZER.parent))
    try:
        import fuzz_seeds
    finally:
        sys.path.remove(str(FUZZER.parent))
    written: dict[str, Any] = {name: [*(tmp_path / name).iterdir()] for name in fuzz_seeds.write(tmp_path)}
    assert written.keys() == {str(index) for index in range(len(DECODERS))}
    assert all(written.values())
