"""What the tests of the command line have in common."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgsfield_async import Higgsfield, PollPolicy, RetryPolicy, SubmissionUnknown, TaskRef
from higgsfield_async.sandbox import Fault, Sandbox
from surfaces import PROXY, Surface

KEYS = {"proxy": ("HIGGSFIELD_PROXY_KEY", "HIGGSFIELD_PROXY_BASE_URL"), "platform": ("HF_KEY", "HIGGSFIELD_BASE_URL")}
POLL = PollPolicy.fixed(0.02)
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


def submit(service: Sandbox, journal: Path, surface: Surface, *keys: str, wait: bool = False) -> list[TaskRef]:
    """Submits, as a program does that shares the journal, and ends."""

    async def submitted() -> list[TaskRef]:
        transport = service.proxy() if surface.service == "proxy" else service.platform()
        refs: list[TaskRef] = []
        async with Higgsfield(transport, journal=journal, retry=RetryPolicy(attempts=1), poll=POLL) as hf:
            for key in keys:
                task = await hf.submit(surface.request, key=key)
                refs.append(task.ref)
                if wait:
                    await task.wait(check=False)
        return refs

    return asyncio.run(submitted())


def lose(service: Sandbox, journal: Path, key: str, *, accept: bool = True) -> None:
    """Submits to the proxy, and hears no answer."""
    service.script("submit", Fault.reset(accept=accept))
    with contextlib.suppress(SubmissionUnknown):
        submit(service, journal, PROXY, key)
