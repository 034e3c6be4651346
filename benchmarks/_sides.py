"""What `load.py` runs in fresh processes: one client, one piece of work, measured from within.

    python benchmarks/_sides.py '{"side": "ours", "work": "poll", "address": "http://127.0.0.1:...", "count": 32}'

CPU is that of the whole process, between two moments; what was imported before the first costs nothing.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import aiohttp
import higgsfield_client
import msgspec
from msgspec import Struct

from higgsfield_async import (
    Higgsfield,
    Limits,
    ModelRequest,
    PlatformTransport,
    PollPolicy,
    ProxyTransport,
    TaskRef,
)
from higgsfield_async._http import HttpResponse

KEY_ID, KEY_SECRET = "load-key", "load-secret"
MODEL = "higgsfield-ai/dop/turbo"
ARGUMENTS = {"prompt": "A boat", "image_url": "https://example.com/boat.png"}
CONNECTIONS = 64


class Settings(Struct, frozen=True):
    """What to do.

    Attributes:
        side: Which client.
        work: Which of the functions below.
        address: The stand-in's.
        count: How many generations.
        gap: The seconds between two looks at one; 0 for the client's own way.
        seconds: How long it goes on, where it does not end by itself.
        loop: Which event loop.
    """

    side: Literal["ours", "floor", "vendors", "bare"]
    work: Literal["poll", "finish", "memory", "lag", "decode"]
    address: str = ""
    count: int = 1
    gap: float = 0.0
    seconds: float = 0.0
    loop: Literal["asyncio", "uvloop"] = "asyncio"


class Meter:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self.cpu = time.process_time()
        self.wall = time.monotonic()

    def read(self) -> dict[str, float]:
        return {"cpu": time.process_time() - self.cpu, "wall": time.monotonic() - self.wall}


def resident() -> int:
    """The bytes of this process that are in memory."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    msg = "/proc/self/status tells no VmRSS."
    raise OSError(msg)


# Each client, as little as it takes: `open_*` gives two functions, one that submits and one that waits. What is loaded
# once for a client, such as the certificates, is there by then.
Submit = Callable[[], Awaitable[Any]]
Wait = Callable[[Any], Coroutine[Any, Any, Any]]


@dataclass
class Opened:
    submit: Submit
    wait: Wait
    close: Callable[[], Awaitable[object]]
    held: list[Any] = field(default_factory=list[Any])
    client: Any = None

    async def run(self, *_: object) -> None:
        await self.wait(await self.submit())


async def open_ours(settings: Settings) -> Opened:
    policy = PollPolicy.fixed(settings.gap) if settings.gap else PollPolicy()
    transport = PlatformTransport(KEY_ID, KEY_SECRET, settings.address)
    hf = await Higgsfield(transport, poll=policy, limits=Limits(max_connections=CONNECTIONS)).__aenter__()
    return Opened(
        lambda: hf.submit(ModelRequest(MODEL, ARGUMENTS)),
        lambda task: task.wait(math.inf),
        hf.close,
        client=hf,
    )


class Status(Struct):
    status: str
    request_id: str


async def open_floor(settings: Settings) -> Opened:
    """No features at all: no errors, no retries, no time limits of its own, one look after the other."""
    decoder = msgspec.json.Decoder(Status)
    encoder = msgspec.json.Encoder()
    gap = settings.gap or 0.5
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        headers={"Authorization": f"Key {KEY_ID}:{KEY_SECRET}", "Accept": "application/json"},
    )

    async def submit() -> str:
        url = f"{settings.address}/{MODEL}"
        headers = {"Content-Type": "application/json"}
        async with session.post(url, data=encoder.encode(ARGUMENTS), headers=headers) as response:
            return decoder.decode(await response.read()).request_id

    async def wait(identifier: str) -> None:
        url = f"{settings.address}/requests/{identifier}/status"
        while True:
            await asyncio.sleep(gap)
            async with session.get(url) as response:
                found = decoder.decode(await response.read())
            if found.status == "completed":
                return

    return Opened(submit, wait, session.close)


async def open_vendors(settings: Settings) -> Opened:
    client = higgsfield_client.AsyncClient(base_url=settings.address, api_key=f"{KEY_ID}:{KEY_SECRET}")

    async def submit() -> None:
        return None

    async def subscribe(_: None) -> None:
        await client.subscribe(MODEL, ARGUMENTS)

    # It has no close of its own.
    # It has no way to close what it opened but this.
    return Opened(submit, subscribe, client._client.aclose)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


OPEN: dict[str, Callable[[Settings], Coroutine[Any, Any, Opened]]] = {
    "ours": open_ours,
    "floor": open_floor,
    "vendors": open_vendors,
}


async def poll(settings: Settings) -> dict[str, Any]:
    """The waits by themselves: the submits, and with them the connections, are made before."""
    opened = await OPEN[settings.side](settings)
    meter = Meter()
    opened.held = await asyncio.gather(*(opened.submit() for _ in range(settings.count)))
    submits = meter.read()
    meter = Meter()
    await asyncio.gather(*map(opened.wait, opened.held))
    measured = meter.read()
    await opened.close()
    return {**measured, "submit_cpu": submits["cpu"]}


async def finish(settings: Settings) -> dict[str, Any]:
    """Everything, from the first submit to the last end."""
    opened = await OPEN[settings.side](settings)
    meter = Meter()
    await asyncio.gather(*map(opened.run, range(settings.count)))
    measured = meter.read()
    await opened.close()
    return measured


async def in_turns(submit: Submit, count: int, hold: Callable[[Any], None]) -> None:
    """Submits, as many at once as there are connections, so that what is left behind is what is held."""

    async def some(share: int) -> None:
        for _ in range(share):
            hold(await submit())

    shares = [count // CONNECTIONS + (each < count % CONNECTIONS) for each in range(CONNECTIONS)]
    await asyncio.gather(*map(some, shares))


async def memory(settings: Settings) -> dict[str, Any]:
    """Resident memory: before, with every handle held, with a wait on each, and after looks at all of them."""
    if settings.side == "bare":
        return await bare_waits(settings)
    opened = await OPEN[settings.side](settings)
    # The first ones import, connect and fill pools and caches.
    await in_turns(opened.submit, 4 * CONNECTIONS, lambda _: None)
    opened.held = list[Any](range(settings.count))
    opened.held.clear()
    before = resident()
    await in_turns(opened.submit, settings.count, opened.held.append)
    held = resident()
    waits = asyncio.gather(*map(opened.wait, opened.held))
    await asyncio.sleep(0.1)
    waited = resident()
    most, until = waited, time.monotonic() + settings.seconds
    while time.monotonic() < until:
        await asyncio.sleep(0.5)
        most = max(most, resident())
    answer = sum(sys.getsizeof(task.job_set.body) for task in opened.held) / len(opened.held)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    await opened.close()
    return {"before": before, "held": held, "waited": waited, "polled": most, "answer": answer}


async def bare_waits(settings: Settings) -> dict[str, Any]:
    """The caller's own part: as many asyncio tasks in one gather, each with one coroutine that waits for a future."""

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(settings.count)]
    before = resident()
    waits = asyncio.gather(*map(wait, futures))
    await asyncio.sleep(0.1)
    waited = resident()
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    return {"before": before, "waited": waited}


async def lag(settings: Settings) -> dict[str, Any]:
    """How late a task wakes that sleeps 5 ms at a time, while all is submitted, and then polled."""
    lates: list[float] = []

    async def sample() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            lates.append(loop.time() - due)

    opened = await OPEN[settings.side](settings)
    meter = Meter()
    sampler = asyncio.create_task(sample())
    await asyncio.sleep(0.1)
    lates.clear()
    if settings.side == "ours":
        # One loop of the caller's, as `map` is meant to be used.
        first = asyncio.ensure_future(anext(opened.client.map(requests(settings.count), max_active=settings.count)))
        while sum(msgspec.structs.astuple(opened.client.stats())[1:3]) < settings.count:  # noqa: ASYNC110  # nothing tells of counts
            await asyncio.sleep(0.5)
        submits = len(lates)
        waits: asyncio.Future[Any] = first
    else:
        opened.held = []
        await in_turns(opened.submit, settings.count, opened.held.append)
        submits = len(lates)
        waits = asyncio.gather(*map(opened.wait, opened.held), return_exceptions=True)
    await asyncio.sleep(settings.seconds)
    sampler.cancel()
    measured = meter.read()
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    await opened.close()
    phases = {"submitting": lates[:submits], "polling": lates[submits:], "all": lates}
    return {**measured, **{name: summary(phase) for name, phase in phases.items()}}


def requests(count: int) -> Iterator[ModelRequest]:
    for _ in range(count):
        yield ModelRequest(MODEL, ARGUMENTS)


def summary(lates: list[float]) -> dict[str, float]:
    """Seconds."""
    if not lates:
        return {"samples": 0, "p50": 0, "p99": 0, "max": 0}
    ordered = sorted(lates)
    at = {f"p{part}": ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 99)}
    return {"samples": len(ordered), **at, "max": ordered[-1]}


async def decode(settings: Settings) -> dict[str, Any]:
    """A feed of the proxy, as often as that; `floor` is the standard library's `json.loads`."""
    body = Path(__file__).with_name("feed.json").read_bytes()
    transport = ProxyTransport("load-key")
    ref = TaskRef(
        transport="proxy",
        origin=transport.origin,
        account=transport.account,
        id="aca6c73e-aa4c-47bb-aa62-a100a0f7dd22",
        kind="turbo",
        created_at=datetime.now(UTC),
    )
    response = HttpResponse(200, {"content-type": "application/json"}, body)
    ours = transport.poll(ref).decode
    read: Callable[[], object] = (lambda: ours(response)) if settings.side == "ours" else (lambda: json.loads(body))
    for _ in range(settings.count // 10):
        read()
    meter = Meter()
    for _ in range(settings.count):
        read()
    return meter.read()


WORK: dict[str, Callable[[Settings], Coroutine[Any, Any, dict[str, Any]]]] = {
    "poll": poll,
    "finish": finish,
    "memory": memory,
    "lag": lag,
    "decode": decode,
}


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    uvloop: Any = importlib.import_module("uvloop") if settings.loop == "uvloop" else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        print(json.dumps(runner.run(WORK[settings.work](settings))))


if __name__ == "__main__":
    main()
