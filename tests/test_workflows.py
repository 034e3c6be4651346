"""The workflows of .github: what they use is pinned, and what they may do is little."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
USES = re.compile(r"^\s*(?:- )?uses:\s*(.*)$", re.MULTILINE)
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
MAY_WRITE = {("release.yml", "publish"): {"id-token"}, ("release.yml", "page"): {"contents"}}

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not WORKFLOWS, reason="there are no workflows beside these tests: an archive, or the wheel's"),
]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.yaml.decode(path.read_bytes())
    return found


def test_every_action_is_pinned_by_hash_and_named_by_version() -> None:
    used = {path.name: USES.findall(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
    assert used.keys() == {"docs.yml", "release.yml", "tests.yml", "types.yml"}
    assert all(used.values())
    assert not [line for lines in used.values() for line in lines if not PINNED.fullmatch(line)]
    # One version of each, everywhere.
    pins = {line for lines in used.values() for line in lines}
    assert len(pins) == len({line.partition("@")[0] for line in pins})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_they_may_do_nothing_that_a_job_does_not_ask_for(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        writes = {scope for scope, access in job["permissions"].items() if access != "read"}
        assert writes == MAY_WRITE.get((path.name, name), set())
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            given = step.get("with", {})
            if step.get("uses", "").startswith("actions/checkout@"):
                assert given["persist-credentials"] is False
            # What a cache holds, others may have written.
            assert "cache" not in given
            assert "actions/cache" not in step.get("uses", "")


def test_only_what_was_built_and_approved_is_published() -> None:
    jobs = read(next(path for path in WORKFLOWS if path.name == "release.yml"))["jobs"]
    publish = jobs["publish"]
    assert publish["environment"]["name"] == "pypi"
    assert publish["needs"] == "build"
    assert not [step for step in publish["steps"] if "run" in step]


def test_they_run_sessions_that_there_are() -> None:
    there = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE))
    versions = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    there |= {"min-deps", *(f"tests-{version}" for version in versions)}
    matrix = read(next(path for path in WORKFLOWS if path.name == "tests.yml"))["jobs"]["tests"]["strategy"]["matrix"]
    asked = {row["session"] for row in matrix["include"]}
    for path in WORKFLOWS:
        asked |= set(re.findall(r"noxfile\.py -s ([\w.-]+)", path.read_text(encoding="utf-8")))
    assert asked <= there
    assert {f"tests-{version}" for version in versions[1:]} | {"tests", "min-deps", "extras", "lint"} <= asked
