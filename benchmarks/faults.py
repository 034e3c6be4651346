"""What one call costs, and whether a wait survives, when the network misbehaves: ours beside the vendor's client.

Every cell is one call of one client against a sandbox of its own, over loopback. What was paid is counted at the
sandbox, never by the client. The cells run at the same time.

Not measured, and so made short: polls come every 0.5 seconds, which is the vendor's own pace; generations are done at
once; where the fault is an answer that comes late, both clients give up after 1 second. All else is as it comes.

Exits with 1 unless, with our client, every call paid once, a submit with a key always brought its generation back and
one without said what is in doubt, `Retry-After` was kept to, and every wait survived all but a 404.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import higgsfield_client

from higgsfield_async import (
    GenerationRequest,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    Limits,
    ModelRequest,
    PollPolicy,
    SubmissionUnknown,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox

USUAL_TIMEOUT = 90.0  # the default of both clients
SHORT_TIMEOUT = 1.0
RETRY_AFTER = 3
BAD_POLLS = 3

MODEL = "higgsfield-ai/dop/turbo"
ARGUMENTS = {"prompt": "A boat", "image_url": "https://example.com/boat.png"}


def answer(status: int, headers: Mapping[str, str] | None = None, *, accept: bool = False) -> Fault:
    """An error answer of the service itself, in JSON."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    return Fault.answer(status, b'{"detail":"Try later"}', headers, accept=accept)


GONE = "404"
LATE = "timeout after accept"
LIMITED = f"429, Retry-After {RETRY_AFTER}"
SUBMIT_FAULTS: Mapping[str, Fault] = {
    "500 after accept": answer(500, accept=True),
    "503 after accept": answer(503, accept=True),
    "drop after accept": Fault.reset(accept=True),
    LATE: Fault.delay(3 * SHORT_TIMEOUT),
    LIMITED: answer(429, {"Retry-After": str(RETRY_AFTER)}),
}
POLL_FAULTS: Mapping[str, list[Fault]] = {
    "500": [answer(500)] * BAD_POLLS,
    "502 HTML": [Fault.html(502)] * BAD_POLLS,
    # aiohttp sends a GET again, once and at once, when its connection breaks: it takes two to spoil one of our polls.
    "drop": [Fault.reset()] * BAD_POLLS * 2,
    "429": [answer(429)] * BAD_POLLS,
    GONE: [answer(404)] * BAD_POLLS,
    "200 HTML": [Fault.ok_html()] * BAD_POLLS,
}


class Client(Protocol):
    """One way to make one call; each returns the id of the generation."""

    @property
    def name(self) -> str: ...

    async def submit(self, sandbox: Sandbox, timeout: float) -> str: ...

    async def submit_and_wait(self, sandbox: Sandbox) -> str: ...


@dataclass(frozen=True)
class Ours:
    name: str
    request: GenerationRequest

    def _open(self, sandbox: Sandbox, limits: Limits) -> Higgsfield:
        transport = sandbox.proxy() if isinstance(self.request, ImageToVideo) else sandbox.platform()
        return Higgsfield(transport, poll=PollPolicy.fixed(0.5, deadline=30), limits=limits)

    async def submit(self, sandbox: Sandbox, timeout: float) -> str:
        async with self._open(sandbox, Limits(first_byte=timeout)) as hf:
            return (await hf.submit(self.request)).id

    async def submit_and_wait(self, sandbox: Sandbox) -> str:
        async with self._open(sandbox, Limits()) as hf:
            return (await hf.run(self.request)).id


@dataclass(frozen=True)
class Vendors:
    name: str

    def _open(self, sandbox: Sandbox, timeout: float) -> higgsfield_client.AsyncClient:
        key = f"{sandbox.key_id}:{sandbox.key_secret}"
        return higgsfield_client.AsyncClient(base_url=sandbox.platform_url, timeout=timeout, api_key=key)

    async def submit(self, sandbox: Sandbox, timeout: float) -> str:
        return str((await self._open(sandbox, timeout).submit(MODEL, ARGUMENTS)).request_id)

    async def submit_and_wait(self, sandbox: Sandbox) -> str:
        return str((await self._open(sandbox, USUAL_TIMEOUT).subscribe(MODEL, ARGUMENTS))["request_id"])


OURS: tuple[Client, ...] = (
    Ours(
        "higgsfield_async, proxy",
        ImageToVideo(
            model="turbo",
            motion_id="d2389a9a-91c2-4276-bc9c-c9e35e8fb85a",
            prompt="A boat",
            images=["https://example.com/boat.png"],
        ),
    ),
    Ours("higgsfield_async, platform v1", Keyframes(prompt="A boat")),
    Ours("higgsfield_async, platform v2", ModelRequest(MODEL, ARGUMENTS)),
)
CLIENTS = (*OURS, Vendors(f"higgsfield-client {version('higgsfield-client')}"))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one call came to.

    Attributes:
        operation: What was disturbed: "submit", or "poll" in a call that submits and waits.
        requests: How many submits, or polls, the sandbox received.
        paid: How many generations it accepted.
        keyed: Whether every submit carried an `Idempotency-Key`.
        waited: Seconds between the first submit and the second, if there was one.
        error: The class of the error that the caller got; None if it got the generation.
        message: What the error says.
        traceable: Whether the caller holds the id of all that was paid: as the result, or in the error.
        told: Whether the error says that it may have been paid for.
        seconds: How long the call took.
    """

    client: str
    operation: str
    fault: str
    requests: int
    paid: int
    keyed: bool
    waited: float | None
    error: str | None
    message: str
    traceable: bool
    told: bool
    seconds: float


async def measure(client: Client, operation: str, fault: str, faults: list[Fault]) -> Cell:
    async with Sandbox() as sandbox:
        sandbox.script(operation, *faults)
        sandbox.plan(Plan(queued=0, running=0))
        error: Exception | None = None
        held: set[str] = set()
        began = time.monotonic()
        try:
            if operation == "submit":
                held.add(await client.submit(sandbox, SHORT_TIMEOUT if fault == LATE else USUAL_TIMEOUT))
            else:
                held.add(await client.submit_and_wait(sandbox))
        except Exception as caught:  # noqa: BLE001 (whatever a caller would get)
            error = caught
        seconds = time.monotonic() - began
        submits = [each for each in sandbox.received if each.operation == "submit"]
        paid = set(sandbox.generations)
        if isinstance(error, HiggsfieldError) and error.ref is not None:
            held.add(error.ref.id)
        held.update(each for each in paid if each in str(error))
        return Cell(
            client=client.name,
            operation=operation,
            fault=fault,
            requests=sum(each.operation == operation for each in sandbox.received),
            paid=len(paid),
            keyed=all("Idempotency-Key" in each.headers for each in submits),
            waited=round(submits[1].at - submits[0].at, 2) if len(submits) > 1 else None,
            error=None if error is None else class_name(error),
            message="" if error is None else str(error),
            traceable=held == paid,
            told=isinstance(error, SubmissionUnknown),
            seconds=round(seconds, 2),
        )


def class_name(error: Exception) -> str:
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    plain = package in {"higgsfield_async", "higgsfield_client", "builtins"}
    return kind.__name__ if plain else f"{package}.{kind.__name__}"


def submit_cell(cell: Cell) -> str:
    """The number that was paid, and what the caller has in hand."""
    if cell.error:
        return f"{cell.paid}, {cell.error}"
    if cell.fault == LIMITED:
        return f"{cell.paid}, after {cell.waited:.1f} s"
    return f"{cell.paid}, recovered" if cell.traceable else f"**{cell.paid}**, {cell.paid - 1} of them lost"


def wait_cell(cell: Cell) -> str:
    if cell.error is None:
        return "survives"
    return f"dies on poll {cell.requests}: {cell.error}, {'with' if cell.traceable else 'without'} the id"


def table(cells: list[Cell], words: Callable[[Cell], str]) -> str:
    """A Markdown table: a row for each client, a column for each fault."""
    faults = list(dict.fromkeys(cell.fault for cell in cells))
    rows = [
        ["Client", *faults],
        ["---"] * (len(faults) + 1),
        *([client.name, *(words(cell) for cell in cells if cell.client == client.name)] for client in CLIENTS),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def broken_promises(cells: list[Cell]) -> list[str]:
    """What our client has to keep, and did not."""
    ours = {client.name for client in OURS}
    return [
        f"{cell.client}, {cell.fault}: paid {cell.paid}, got {cell.error or 'the generation'}"
        for cell in cells
        if cell.client in ours
        and (
            cell.paid != 1
            or not (cell.traceable or (cell.told and not cell.keyed))
            or (cell.fault == LIMITED and (cell.waited or 0) < RETRY_AFTER)
            or (cell.operation == "poll" and cell.error != ("NotFound" if cell.fault == GONE else None))
        )
    ]


async def run() -> list[Cell]:
    return await asyncio.gather(
        *(measure(client, "submit", name, [fault]) for client in CLIENTS for name, fault in SUBMIT_FAULTS.items()),
        *(measure(client, "poll", name, faults) for client in CLIENTS for name, faults in POLL_FAULTS.items()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="One call, one fault: what it costs and what the caller gets.")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    results: Path = parser.parse_args().json
    cells = asyncio.run(run())

    print("Generations that one call paid for, and what the caller got:\n")
    print(table([cell for cell in cells if cell.operation == "submit"], submit_cell))
    keyed = dict.fromkeys(cell.client for cell in cells if cell.keyed)
    print(f"\nWith an Idempotency-Key: {'; '.join(keyed)}. Without one: the others.")
    print(f"\nThe wait for one generation, {BAD_POLLS} bad polls in a row:\n")
    print(table([cell for cell in cells if cell.operation == "poll"], wait_cell))

    results.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("higgsfield-async", "higgsfield-client", "aiohttp", "httpx")},
        "cells": [asdict(cell) for cell in cells],
    }
    results.write_text(json.dumps(measured, indent=2) + "\n")

    broken = broken_promises(cells)
    for each in broken:
        print(f"Broken: {each}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
