"""The visitors of `service.py`, in a process of their own: streams and requests, and what became of each.

    python benchmarks/_visitors.py '{"service": "http://...", "pid": 1, "platform": "http://...", "tasks": 200, ...}'

First the generations are submitted and all streams on them opened, while the stand-in holds everything in its queue.
Then it lets go, and requests come at their times, whether those before them have been answered or not: how long one
took is counted from when it was due. It is over when every stream has ended and every request is answered, or when
patience ends. CPU and memory of the service are read from `/proc`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

SUBMITS = "/generations/model-request"
ASKED = {"model_id": "higgsfield-ai/dop/turbo", "arguments": {"prompt": "A boat"}}
WORDS = ("queued", "in_progress", "completed")
WARM_UP = 20
FOREVER = aiohttp.ClientTimeout()
TICKS = os.sysconf("SC_CLK_TCK")


class Settings(Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        service: The address of the application.
        pid: Its process.
        platform: The address of the stand-in.
        tasks: So many generations are watched.
        watchers: By so many streams each.
        rate: So many requests come in each second.
        submits: Of so many of them, one is a submit. The others ask for the state of a generation that is watched.
        seconds: For so long.
        patience: So many seconds more are given to what is not over by then.
    """

    service: str
    pid: int
    platform: str
    tasks: int
    watchers: int
    rate: float
    submits: int
    seconds: float
    patience: float


class Usage:
    """What a process has used by now: CPU in seconds, memory in bytes, and how long it waited for a core."""

    def __init__(self, pid: int) -> None:
        self.at = time.monotonic()
        # What stands before the parenthesis may hold anything; after it are numbers.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu = (int(fields[11]) + int(fields[12])) / TICKS
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.resident, self.most = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        self.waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


class Stream:
    """One watcher, and what it was told."""

    def __init__(self, identifier: str, url: str) -> None:
        self.identifier = identifier
        self.url = url
        self.words: list[str] = []
        self.opened = asyncio.Event()
        self.ended_at = 0.0
        self.closed = False
        self.wrong: str | None = None

    async def watch(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(self.url, timeout=FOREVER) as response:
                if response.status != 200:
                    self.wrong = f"answered with {response.status}"
                async for line in response.content:
                    if line.startswith(b"data:"):
                        self.tell(json.loads(line[5:]))
            self.closed = True
        except (aiohttp.ClientError, TimeoutError) as error:
            self.wrong = self.wrong or type(error).__name__
        finally:
            self.opened.set()

    def tell(self, state: dict[str, Any]) -> None:
        if state["id"] != self.identifier or (state["ended"] and self.identifier not in json.dumps(state["outputs"])):
            self.wrong = "told of another generation, or without its output"
        self.words.append(state["status"])
        if state["ended"]:
            self.ended_at = time.monotonic()
        self.opened.set()

    def verdict(self) -> str:
        if self.wrong is not None:
            return self.wrong
        if self.words != [word for word in WORDS if word in self.words]:
            return "states out of order"
        if WORDS[-1] not in self.words:
            return "cut before the end" if self.closed else "no end"
        return "good" if self.closed else "not closed after the end"


async def at_most(count: int, works: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Does all of it, so many at once."""
    remaining = iter(works)

    async def some() -> None:
        for work in remaining:
            await work()

    await asyncio.gather(*(some() for _ in range(count)))


class Visitors:
    """What one run shares."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, control: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.session = session
        self.control = control
        self.refs: list[tuple[str, str]] = []
        self.streams: list[Stream] = []
        self.watching: list[asyncio.Task[None]] = []
        self.latencies: dict[str, list[float]] = {"state": [], "submit": []}
        self.starts: list[float] = []
        self.errors: Counter[str] = Counter()

    async def tell(self, path: str) -> dict[str, Any]:
        async with self.control.get(self.settings.platform + path) as response:
            found: dict[str, Any] = json.loads(await response.read())
            return found

    async def submit(self) -> tuple[str, str]:
        async with self.session.post(self.settings.service + SUBMITS, json=ASKED) as response:
            response.raise_for_status()
            state = json.loads(await response.read())
            return state["id"], state["ref"]

    async def submit_and_keep(self) -> None:
        self.refs.append(await self.submit())

    async def look(self, ref: str) -> None:
        async with self.session.get(f"{self.settings.service}/generations/{ref}") as response:
            response.raise_for_status()
            await response.read()

    def watch(self, identifier: str, ref: str) -> Stream:
        stream = Stream(identifier, f"{self.settings.service}/generations/{ref}/events")
        self.watching.append(asyncio.create_task(stream.watch(self.session)))
        return stream

    async def warm_up(self) -> None:
        """Whatever is imported, connected and cached with the first of each kind."""
        refs = [await self.submit() for _ in range(WARM_UP)]
        streams = [self.watch(*each) for each in refs]
        for (_, ref), stream in zip(refs, streams, strict=True):
            await stream.opened.wait()
            await self.look(ref)
        await self.leave()
        await asyncio.sleep(0.5)

    async def leave(self) -> None:
        for each in self.watching:
            each.cancel()
        await asyncio.gather(*self.watching, return_exceptions=True)
        self.watching.clear()

    async def open(self) -> None:
        await at_most(16, itertools.repeat(self.submit_and_keep, self.settings.tasks))

        several = [each for each in self.refs for _ in range(self.settings.watchers)]
        try:
            async with asyncio.timeout(self.settings.patience):
                await at_most(50, (partial(self.first_event, *each) for each in several))
        except TimeoutError:
            self.errors["streams without a first event in time"] += len(several) - self.open_now()

    async def first_event(self, identifier: str, ref: str) -> None:
        self.streams.append(stream := self.watch(identifier, ref))
        await stream.opened.wait()

    def open_now(self) -> int:
        return sum(bool(stream.words) and not stream.closed for stream in self.streams)

    async def visit(self, due: float, kind: str, ref: str) -> None:
        self.starts.append(time.monotonic() - due)
        try:
            await (self.submit() if kind == "submit" else self.look(ref))
        except aiohttp.ClientResponseError as error:
            self.errors[f"{kind}: {error.status}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.errors[f"{kind}: {type(error).__name__}"] += 1
        else:
            self.latencies[kind].append(time.monotonic() - due)

    async def visits(self) -> None:
        """Requests at their times, and the wait for the last answer."""
        chance = random.Random(1)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(round(self.settings.rate * self.settings.seconds)):
                due = began + number / self.settings.rate
                await asyncio.sleep(due - time.monotonic())
                kind = "state" if number % self.settings.submits else "submit"
                group.create_task(self.visit(due, kind, chance.choice(self.refs)[1]))

    async def run(self) -> dict[str, Any]:
        await self.tell("/_stats")
        await self.warm_up()
        pid = self.settings.pid
        before, own_before, seen_before = Usage(pid), Usage(os.getpid()), await self.tell("/_stats")
        await self.open()
        opening = Usage(pid)
        await asyncio.sleep(1)
        # Only what is still open counts, and what was allocated on the way is returned by now, where it is.
        opened, open_now = Usage(pid), self.open_now()
        await self.tell("/_go")
        until = time.monotonic() + self.settings.seconds + self.settings.patience
        await self.visits()
        await asyncio.wait(self.watching, timeout=max(0.0, until - time.monotonic()))
        after, own_after, seen_after = Usage(pid), Usage(os.getpid()), await self.tell("/_stats")
        await self.leave()
        ends = await self.tell("/_ends")
        submits = seen_after["generations"] - seen_before["generations"]
        return {
            "opened": open_now,
            "memory": {"before": before.resident, "opened": opened.resident, "most": after.most},
            "opening": {"cpu": opening.cpu - before.cpu, "wall": opening.at - before.at},
            "running": {"cpu": after.cpu - opening.cpu, "wall": after.at - opening.at},
            "cpu": after.cpu - before.cpu,
            "polls": seen_after["requests"] - seen_before["requests"] - submits,
            "connections": seen_after["most_connections"],
            "stand_in": (seen_after["cpu"] - seen_before["cpu"]) / (seen_after["at"] - seen_before["at"]),
            "visitors": (own_after.cpu - own_before.cpu) / (own_after.at - own_before.at),
            "waited": {"service": after.waited - before.waited, "visitors": own_after.waited - own_before.waited},
            "streams": Counter(stream.verdict() for stream in self.streams),
            "told_after": summary([each.ended_at - ends[each.identifier] for each in self.streams if each.ended_at]),
            "latencies": {kind: summary(found) for kind, found in self.latencies.items()},
            "started_late": summary(self.starts),
            "errors": self.errors,
        }


def summary(found: Sequence[float]) -> dict[str, float]:
    """Seconds."""
    if not found:
        return {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}
    ordered = sorted(found)
    at = {f"p{part}": ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 99)}
    return {"count": len(ordered), **at, "max": ordered[-1]}


@asynccontextmanager
async def sessions(patience: float) -> AsyncGenerator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """For the service, and for what the stand-in tells."""
    # uvicorn closes a connection that is idle for 5 seconds; the one to the stand-in stays.
    connector, lasting = (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
        aiohttp.TCPConnector(keepalive_timeout=3600),
    )
    timeout = aiohttp.ClientTimeout(patience)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        aiohttp.ClientSession(connector=lasting, timeout=timeout) as control,
    ):
        yield session, control


async def measure(settings: Settings) -> dict[str, Any]:
    async with sessions(settings.patience) as (session, control):
        gc.freeze()
        return await Visitors(settings, session, control).run()


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(asyncio.run(measure(settings))))


if __name__ == "__main__":
    main()
