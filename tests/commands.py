"""What the tests of the command line have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEYS = {"proxy": ("HIGGSFIELD_PROXY_KEY", "HIGGSFIELD_PROXY_BASE_URL"), "platform": ("HF_KEY", "HIGGSFIELD_BASE_URL")}
PROGRAM = [sys.executable, "-m", "higgsfield_async.cli"]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """Its lines, in cells."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def things(self) -> list[dict[str, Any]]:
        """Its lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]
