"""What is sent, and what is made of every kind of answer, is what was written down and read: `recorded/wire.json`.

Where one of these fails, callers or services will see a change. If it is meant: `python tests/wire_record.py`, and read
what that changes.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from wire_record import CALLS, FOUND, RECORD, REPORTED, attempt, described, reported

WRITTEN: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))


def test_everything_is_written_down() -> None:
    assert {name: list(each) for name, each in WRITTEN.items()} == {
        "calls": list(CALLS),
        "values": list(FOUND),
        "reports": list(REPORTED),
    }


@pytest.mark.parametrize("name", CALLS)
def test_calls_and_answers(name: str) -> None:
    found = json.loads(json.dumps(described(name)))
    written = WRITTEN["calls"][name]
    answers = found.pop("answers")
    assert found == {key: each for key, each in written.items() if key != "answers"}
    for what, made in written["answers"].items():
        assert answers.pop(what) == made, what
    assert not answers


@pytest.mark.parametrize("name", FOUND)
def test_values_and_refusals(name: str) -> None:
    assert json.loads(json.dumps(attempt(FOUND[name]))) == WRITTEN["values"][name]


@pytest.mark.parametrize("name", REPORTED)
def test_reports(name: str) -> None:
    assert json.loads(json.dumps(reported(name))) == WRITTEN["reports"][name]
