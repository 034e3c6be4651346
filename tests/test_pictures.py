"""The documentation's pictures are of what there is now: redrawn, or drawn from the data that lie beside them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
from test_layers import BESIDE, LEVELS

import higgsfield_async

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parent.parent / "docs"
PACKAGE = Path(higgsfield_async.__file__).parent
AGAIN = "draw it again: python3 noxfile.py -s plots"


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_architecture_is_the_one_in_the_source() -> None:
    drawn = (DOCS / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert script(DOCS / "plots" / "architecture.py").draw(PACKAGE) == drawn, AGAIN
    texts = {element.text for element in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")}  # noqa: S314 (ours)
    entries = [entry for entries in (*LEVELS.values(), BESIDE) for entry in entries]
    assert {entry.removeprefix("_") or "higgsfield_async" for entry in entries} <= texts


def test_the_plot_is_of_the_recorded_data() -> None:
    data = (DOCS / "plots" / "polling.json").read_bytes()
    drawn = (DOCS / "images" / "polling.svg").read_text(encoding="utf-8")
    assert hashlib.sha256(data).hexdigest() in drawn, AGAIN
    recorded = json.loads(data)
    assert [way["median"] for way in recorded["ways"]] == [8.0, 30.0, 120.0]
    assert not any(row["missed"] for row in recorded["rows"])


def test_the_recorded_data_are_what_the_benchmark_finds() -> None:
    # The part of it that takes no time: the policy before it has seen anything, beside the published schedule.
    found = asdict(script(DOCS.parent / "benchmarks" / "polling.py").before_learning(8.0))
    recorded = json.loads((DOCS / "plots" / "polling.json").read_bytes())["rows"]
    (row,) = [row for row in recorded if (row["table"], row["case"]) == (found["table"], found["case"])]
    for name in ("polls", "delay", "other_polls", "other_delay"):
        assert found[name] == pytest.approx(row[name], rel=1e-9)


def test_what_is_said_of_the_plot_is_so() -> None:
    for way in json.loads((DOCS / "plots" / "polling.json").read_bytes())["ways"]:
        polls, delay = way["learned"]
        # Below the published schedule in both directions, and within a tenth of the best there is.
        assert polls < way["published"][0]
        assert delay < way["published"][1]
        fewest = min(best for best, later in way["best"] if later <= delay)
        assert polls <= 1.1 * fewest
        assert delay < min(later for each, later in way["fixed"] if each <= polls)
        assert way["vendor"][0] / polls < 25


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_picture_is_there_and_described(page: Path) -> None:
    for words, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / path).is_file()
        assert len(words) > 20
