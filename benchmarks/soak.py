"""Half an hour of everything at once, under faults: does anything grow, get lost, or get paid for twice?

    python3 noxfile.py -s soak -- --minutes 30

The sandbox is a process of its own, so that this one holds nothing but clients. Three live as long as the soak: one of
the proxy and one of the platform, each with a journal, and one of the platform without. In each round they do all there
is to do, with short-lived clients beside them, while a fifth of the exchanges goes wrong. Then comes a quiet moment:
everything is waited for, the books are compared with the sandbox's, and what this process holds is counted.

The first half is for warming up: what webhooks tell of is kept for ten minutes. The exit code is 1 where a figure of
the last quarter is above that of the third by more than `ALLOWED`, where the books do not agree, or where something is
left when all is closed. A soak of less than 20 minutes judges only what may not grow at all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import logging
import math
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from aiohttp import web

from higgsfield_async import (
    ClientClosed,
    GenerationError,
    GenerationRequest,
    GenerationTask,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    Limits,
    ModelRequest,
    NotCancelable,
    PlatformTransport,
    PollPolicy,
    ProxyTransport,
    RetryPolicy,
    SubmissionUnknown,
    TaskRef,
    WaitTimeout,
    Webhook,
    WebhookError,
    webhooks,
)
from higgsfield_async.journal import Journal
from higgsfield_async.sandbox import Fault, Hook, Plan, Sandbox

PROMPT = "a white cat turns its head, very slowly"
IMAGE = "https://images.example.com/cat.jpg"
MOTION = "d2389a9a-91c2-4276-bc9c-c9e35e8fb85a"
SECRET = "whsec_c29hay1zb2FrLXNvYWstc29haw=="  # noqa: S105  # guards nothing
V1_SECRET = "soaked"  # noqa: S105  # as above

# By how much the last quarter of a soak may be above the third, by the medians of the quiet moments.
# Connections may be kept open or not: as many as the pools of the three clients hold.
ALLOWED = {"rss_kib": 8 * 1024, "objects": 3000, "tasks": 0, "descriptors": 36, "threads": 4, "files": 0, "rows": 0}

LONG_ENOUGH = 20  # minutes

MAPPED, CALLERS = 24, 8
PATIENCE = 60.0

FAULTS = [
    Fault.answer(500),
    Fault.html(502),
    Fault.answer(503, headers={"Retry-After": "0.02"}),
    Fault.answer(429, headers={"Retry-After": "0.02"}),
    Fault.ok_html(),
    Fault.reset(),
    Fault.truncate(),
    Fault.delay(0.05),
    Fault.delay(0.05, accept=False),
]
ACCEPTED = [Fault.reset(accept=True), Fault.answer(500, accept=True), Fault.html(502, accept=True)]
STORAGE = [Fault.answer(500), Fault.html(502), Fault.reset(), Fault.truncate(), Fault.delay(0.05)]
FAULTS_OF = {
    "submit": [*FAULTS, *ACCEPTED, Fault.html(200, accept=True)],
    "poll": [*FAULTS, Fault.answer(200, b'{"id":"x"}'), Fault.html(404), Fault.answer(204)],
    "cancel": [Fault.answer(500), Fault.reset(), Fault.delay(0.05)],
    "catalogue": FAULTS,
    "estimate": FAULTS,
    "upload": STORAGE,
    "download": STORAGE,
}
HOOKS: list[tuple[Hook, ...]] = [
    (Hook(),),
    (Hook(), Hook(after=5)),
    (Hook(after=20),),
    (Hook(signature="none"), Hook(after=5)),
    (Hook(signature="wrong"), Hook()),
    (Hook(status="in_progress", after=3), Hook()),
    (Hook(form="flat"),),
]


# --- The sandbox's process. It is told what to do by lines on its input, and answers each with a line.


class Asked(msgspec.Struct):
    """What the sandbox says when it is asked for its books.

    Attributes:
        accepted: The numbers of the requests, by the ids of the generations accepted since it was last asked.
        twice: The numbers of the requests that were ever paid for more than once.
        exchanges: How many requests it received since it was last asked.
        rss_kib: How much memory it has.
    """

    accepted: dict[str, int]
    twice: list[int]
    exchanges: int
    rss_kib: int


def number_in(request: object) -> int:
    """Of a request as the sandbox received it: each has a number of its own at the end of its prompt."""
    found = json.dumps(request).partition(f"{PROMPT} ")[2]
    return int("".join(itertools.takewhile(str.isdigit, found)))


async def serve(seed: str) -> None:
    chance = random.Random(seed)
    paid = Counter[int]()
    seen, dropped = 0, 0
    async with Sandbox(speed=100, webhook_secrets=(SECRET,), points=10**9, credits=10**9) as sandbox:
        scripted = dict.fromkeys(FAULTS_OF, 0)
        planned, exchanges = 0, 0

        def take() -> None:
            """Forget what was received, and have enough faults and plans ready for what comes."""
            nonlocal planned, exchanges
            received = sandbox.received[:]
            del sandbox.received[: len(received)]
            exchanges += len(received)
            for each in received:
                if each.operation in scripted:
                    scripted[each.operation] = max(0, scripted[each.operation] - 1)
            for operation, faults in FAULTS_OF.items():
                missing = 2000 - scripted[operation]
                sandbox.script(
                    operation, *(chance.choice(faults) if chance.random() < 0.2 else Fault() for _ in range(missing))
                )
                scripted[operation] += missing
            missing = 500 - (planned - dropped - len(sandbox.generations))
            sandbox.plan(*(a_plan(chance) for _ in range(missing)))
            planned += missing

        async def keep_up() -> None:
            while True:
                take()
                await asyncio.sleep(0.2)

        keeping_up = asyncio.create_task(keep_up())
        print(
            sandbox.proxy_url, sandbox.platform_url, sandbox.proxy_key, sandbox.key_id, sandbox.key_secret, flush=True
        )
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if line != "books":
                sandbox.webhook_origin = line
                continue
            take()
            del sandbox.deliveries[:]
            new = dict(itertools.islice(sandbox.generations.items(), seen, None))
            seen += len(new)
            # What is over is asked for no more: this process, too, is to last.
            for identifier in [*itertools.islice(sandbox.generations, max(0, seen - 2000))]:
                del sandbox.generations[identifier]
                seen -= 1
                dropped += 1
            accepted = {identifier: number_in(generation.request) for identifier, generation in new.items()}
            paid.update(accepted.values())
            twice = [number for number, count in paid.items() if count > 1]
            answer = Asked(accepted=accepted, twice=twice, exchanges=exchanges, rss_kib=rss_kib())
            exchanges = 0
            print(msgspec.json.encode(answer).decode(), flush=True)
        keeping_up.cancel()


def a_plan(chance: random.Random) -> Plan:
    [end] = chance.choices(["completed", "failed", "nsfw"], [92, 4, 4])
    return Plan(
        end=end,
        queued=10 * chance.random(),
        running=10 * chance.random(),
        linkless=int(end == "completed" and chance.random() < 0.02),
        webhooks=chance.choice(HOOKS),
    )


class Service:
    """The sandbox in its process, as this one sees it."""

    def __init__(self, process: asyncio.subprocess.Process, said: str) -> None:
        self._process = process
        self.proxy_url, self.platform_url, self.proxy_key, self.key_id, self.key_secret = said.split()

    def proxy(self) -> ProxyTransport:
        return ProxyTransport(api_key=self.proxy_key, base_url=self.proxy_url)

    def platform(self) -> PlatformTransport:
        return PlatformTransport(key_id=self.key_id, key_secret=self.key_secret, base_url=self.platform_url)

    async def deliver_to(self, origin: str) -> None:
        await self._say(origin)

    async def books(self) -> Asked:
        await self._say("books")
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            return msgspec.json.decode(await self._process.stdout.readline(), type=Asked)

    async def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()


@asynccontextmanager
async def service(seed: str) -> AsyncGenerator[Service]:
    command = (sys.executable, __file__, "--serve", seed)
    # One line has every generation of a round.
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=2**26)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Service(process, (await process.stdout.readline()).decode())
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


# --- What is counted


def rss_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # the one that this looks with


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What this process holds in one quiet moment."""

    seconds: float
    rss_kib: int
    objects: int
    tasks: int
    descriptors: int
    threads: int
    files: int
    rows: int


def growth(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """The medians of the third quarter of some samples, and of the last, of all that is counted."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[-2 * quarter : -quarter] or samples, samples[-quarter:]
    return {
        name: (
            statistics.median(getattr(each, name) for each in early),
            statistics.median(getattr(each, name) for each in late),
        )
        for name in ALLOWED
    }


def grown(samples: Sequence[Sample]) -> list[str]:
    """What is above what is allowed, in words."""
    warm = bool(samples) and samples[-1].seconds >= 60 * LONG_ENOUGH
    return [
        f"{name} went from {before:,.0f} to {after:,.0f}; {ALLOWED[name]:,} more are allowed"
        for name, (before, after) in growth(samples).items()
        if (warm or not ALLOWED[name]) and after - before > ALLOWED[name]
    ]


# --- The clients' process


@dataclass
class Side:
    """One client, and a surface of its service."""

    name: str
    hf: Higgsfield
    make: Callable[[int], GenerationRequest]
    webhook: Webhook | None = None
    cancels: bool = True


@dataclass
class Soak:
    """All that is done, and what came of it.

    Attributes:
        told: The ids that a caller was given, or that the log has, in this round.
        wrong: What must not be, in words.
    """

    sides: list[Side]
    service: Service
    folder: Path
    chance: random.Random
    told: set[str] = field(default_factory=set[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def clients(self) -> list[Higgsfield]:
        return list({id(side.hf): side.hf for side in self.sides}.values())

    # What callers do. Each of it ends, whatever goes wrong.

    async def round(self) -> None:
        async with asyncio.TaskGroup() as group:
            for side in self.sides:
                group.create_task(self.map_all(side))
                group.create_task(self.map_and_leave(side))
                group.create_task(self.one_after_the_other(side))
            group.create_task(self.look_around())
            group.create_task(self.come_and_go())

    async def map_all(self, side: Side) -> None:
        requests = [side.make(next(self.numbers)) for _ in range(MAPPED)]
        seen = 0
        async for outcome in side.hf.map(requests, max_active=12, webhook=side.webhook):
            seen += 1
            self.counts["mapped"] += 1
            if outcome.ref is not None:
                self.told.add(outcome.ref.id)
            self.expect(outcome.error, SubmissionUnknown, GenerationError)
        if seen != MAPPED:
            self.wrong.append(f"{side.name}: {MAPPED} requests were mapped, and {seen} outcomes came")

    async def map_and_leave(self, side: Side) -> None:
        endless = (side.make(number) for number in self.numbers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2 + 0.5 * self.chance.random()):
                async for outcome in side.hf.map(endless, max_active=6, webhook=side.webhook):
                    if outcome.ref is not None:
                        self.told.add(outcome.ref.id)
                    self.expect(outcome.error, SubmissionUnknown, GenerationError)
                    await asyncio.sleep(0.02)
        self.tell_open()
        self.counts["maps left"] += 1

    async def one_after_the_other(self, side: Side) -> None:
        kinds = [self.watch, self.give_up_and_wait, self.save, self.abandon, self.run_twice]
        kinds += [self.cancel] if side.cancels else []
        for _ in range(CALLERS):
            kind = self.chance.choice(kinds)
            try:
                await kind(side)
            except (SubmissionUnknown, GenerationError) as error:
                self.counts[type(error).__name__] += 1
            except HiggsfieldError as error:
                self.wrong.append(f"{side.name}, {kind.__name__}: {type(error).__name__}: {error}")
            self.counts[kind.__name__] += 1

    async def submit(self, side: Side, key: str | None = None) -> GenerationTask:
        task = await side.hf.submit(side.make(next(self.numbers)), webhook=side.webhook, key=key)
        self.told.add(task.id)
        return task

    async def watch(self, side: Side) -> None:
        task = await self.submit(side)

        async def one() -> None:
            seen = [job_set.status.terminal async for job_set in task.updates(timeout=PATIENCE)]
            if seen.index(True) != len(seen) - 1:
                self.wrong.append(f"{side.name}: the updates of {task.id} have not one end, and that last: {seen}")

        await asyncio.gather(*(one() for _ in range(3)))

    async def give_up_and_wait(self, side: Side) -> None:
        task = await self.submit(side)
        try:
            await task.wait(timeout=0.05 * self.chance.random())
        except WaitTimeout as error:
            self.counts[type(error).__name__] += 1
            await side.hf.task(task.ref).wait(timeout=PATIENCE)

    async def save(self, side: Side) -> None:
        task = await self.submit(side)
        saved = await task.save(self.folder / "saved" / side.name)
        if not saved or any(not path.stat().st_size for path in saved):
            self.wrong.append(f"{side.name}: {task.id} was saved as {len(saved)} files, or one of them is empty")

    async def abandon(self, side: Side) -> None:
        running = asyncio.create_task(side.hf.run(side.make(next(self.numbers)), webhook=side.webhook, check=False))
        await asyncio.wait([running], timeout=0.3 * self.chance.random())
        running.cancel()
        await asyncio.wait([running])
        self.tell_open()
        if not running.cancelled():
            self.told.add(running.result().id)

    async def run_twice(self, side: Side) -> None:
        if side.hf.journal is None:
            await self.submit(side)
            return
        request = side.make(next(self.numbers))
        key = f"order-{next(self.numbers)}"
        both = await asyncio.gather(
            *(side.hf.run(request, key=key, webhook=side.webhook, check=False) for _ in range(2)),
            return_exceptions=True,
        )
        ids = {each.id for each in both if not isinstance(each, BaseException)}
        self.told |= ids
        if len(ids) > 1:
            self.wrong.append(f"{side.name}: one key was two generations: {ids}")
        for each in both:
            if isinstance(each, BaseException):
                raise each

    async def cancel(self, side: Side) -> None:
        task = await self.submit(side)
        try:
            await task.cancel()
        except NotCancelable:
            self.counts["too late to cancel"] += 1
        await task.wait(check=False, timeout=PATIENCE)

    async def look_around(self) -> None:
        for side in self.sides:
            if side.make is not keyframes:  # the platform has no price for these
                await side.hf.estimate(side.make(0))
            self.counts["motions"] += len([motion async for motion in side.hf.motions()])
            if side.name != "proxy":
                await side.hf.upload(b"\xff\xd8\xff" + self.chance.randbytes(2000), content_type="image/jpeg")
        self.counts["looked around"] += 1

    async def come_and_go(self) -> None:
        """A client for a moment: what it submits with a journal is recovered by the one that stays."""
        side = self.chance.choice(self.sides)
        journal = self.folder / f"{side.name}.db" if side.hf.journal else None
        try:
            async with client(self.transport(side), journal) as hf:
                task = await hf.submit(side.make(next(self.numbers)))
                self.told.add(task.id)
                waiting = asyncio.create_task(task.wait(check=False))
                await asyncio.wait([waiting], timeout=0.05)
            await asyncio.wait([waiting])
            self.expect(waiting.exception(), ClientClosed)
            await side.hf.task(task.ref).wait(check=False, timeout=PATIENCE)
        except SubmissionUnknown:
            self.counts["SubmissionUnknown"] += 1
        self.counts["clients that came and went"] += 1

    def transport(self, side: Side) -> ProxyTransport | PlatformTransport:
        return self.service.proxy() if side.name == "proxy" else self.service.platform()

    def expect(self, error: BaseException | None, *kinds: type[HiggsfieldError]) -> None:
        if isinstance(error, kinds):
            self.counts[type(error).__name__] += 1
        elif error is not None:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def tell_open(self) -> None:
        for hf in self.clients():
            self.told.update(task.id for task in hf.open_tasks())

    def read(self, record: logging.LogRecord) -> None:
        """A line of the log may be all that is left of what was paid for."""
        for said in record.args if isinstance(record.args, tuple) else ():
            if isinstance(said, str) and said.startswith("{"):
                self.told.add(TaskRef.from_json(said).id)
        self.counts[f"logged as {record.levelname.lower()}"] += 1

    # The quiet moment

    async def settle(self) -> None:
        """Wait for everything, and close the books of this round."""
        async with asyncio.timeout(5 * PATIENCE):
            for hf in self.clients():
                while hf.stats().waiting:  # noqa: ASYNC110  # there is nothing to be told by
                    await asyncio.sleep(0.01)
                self.tell_open()
                for task in hf.open_tasks():
                    await task.wait(check=False, timeout=PATIENCE)
            books = await self.service.books()
            by_number = {number: identifier for identifier, number in books.accepted.items()}
            for hf in self.clients():
                if hf.journal is not None:
                    await self.close_journal(hf, hf.journal, by_number)
        if books.twice:
            self.wrong.append(f"paid for twice: {books.twice}")
        if lost := books.accepted.keys() - self.told:
            self.wrong.append(f"{len(lost)} paid generations that nobody was told of: {sorted(lost)[:3]}")
        self.counts["paid"] += len(books.accepted)
        self.counts["exchanges"] += books.exchanges
        self.counts["the sandbox's memory in KiB"] = books.rss_kib
        self.told.clear()
        await asyncio.to_thread(shutil.rmtree, self.folder / "saved", ignore_errors=True)

    async def close_journal(self, hf: Higgsfield, journal: Journal, by_number: dict[int, str]) -> None:
        async for task in hf.recover():
            self.told.add(task.id)
            await task.wait(check=False, timeout=PATIENCE)
        for entry in await hf.unknown():
            assert entry.intent.request is not None
            identifier = by_number.get(number_in(msgspec.json.decode(entry.intent.request)))
            if identifier is None:
                await hf.forget(entry.key)
                self.counts["unknown, and not paid"] += 1
            else:
                task = await self.resolve(hf, entry.key, identifier)
                self.told.add(identifier)
                await task.wait(check=False, timeout=PATIENCE)
                self.counts["unknown, and found"] += 1
        # An end is written down a moment after those who wait for it are told.
        for _ in range(100):
            await hf.prune(datetime.now(UTC))
            if not await journal.entries():
                return
            await asyncio.sleep(0.02)

    async def resolve(self, hf: Higgsfield, key: str, identifier: str) -> GenerationTask:
        while True:
            try:
                return await hf.resolve(key, identifier)
            except HiggsfieldError as error:
                if not error.transient:
                    raise
                self.counts["asked again"] += 1

    async def sample(self, started: float) -> Sample:
        # Connections and their tasks end a moment after what they were for.
        for _ in range(20):
            tasks = len(asyncio.all_tasks())
            await asyncio.sleep(0.05)
            if tasks == len(asyncio.all_tasks()):
                break
        gc.collect()
        journals = [hf.journal for hf in self.clients() if hf.journal is not None]
        return Sample(
            seconds=round(time.monotonic() - started, 1),
            rss_kib=rss_kib(),
            objects=len(gc.get_objects()),
            tasks=len(asyncio.all_tasks()),
            descriptors=descriptors(),
            threads=threading.active_count(),
            files=sum(1 for path in self.folder.rglob("*") if path.is_file()),
            rows=sum([len(await journal.entries()) for journal in journals]),
        )


def client(transport: ProxyTransport | PlatformTransport, journal: Path | None = None) -> Higgsfield:
    return Higgsfield(
        transport,
        journal=journal,
        poll=PollPolicy.fixed(0.05, deadline=PATIENCE),
        # More tries than ever fail in a row.
        retry=RetryPolicy(attempts=12, first=0.005, longest=0.02),
        limits=Limits(max_connections=12, max_active=40, patience=math.inf),
    )


def video(number: int) -> GenerationRequest:
    return ImageToVideo(
        model="turbo", motion_id=MOTION, prompt=f"{PROMPT} {number}", images=[IMAGE], width=64, height=64
    )


def keyframes(number: int) -> GenerationRequest:
    return Keyframes(prompt=f"{PROMPT} {number}")


def model(number: int) -> GenerationRequest:
    return ModelRequest("higgsfield-ai/soul/standard", {"prompt": f"{PROMPT} {number}"})


@asynccontextmanager
async def receiver(clients: dict[str, Higgsfield], counts: Counter[str]) -> AsyncGenerator[str]:
    """Where the platform's webhooks come in: its address."""

    async def receive(request: web.Request) -> web.Response:
        try:
            event = webhooks.unwrap(await request.read(), request.headers, secrets=[SECRET, V1_SECRET])
        except WebhookError as error:
            counts["webhooks refused"] += 1
            return web.Response(status=error.status)
        counts["webhooks"] += 1
        clients[request.match_info["name"]].deliver(event)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{name}", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def soak(seconds: float, seed: str, samples: list[Sample], counts: Counter[str], wrong: list[str]) -> None:
    started = time.monotonic()
    tasks_before, descriptors_before = len(asyncio.all_tasks()), 0
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="higgsfield-async-soak-")))
        running = await stack.enter_async_context(service(seed))
        descriptors_before = descriptors()
        async with AsyncExitStack() as clients:
            enter = clients.enter_async_context
            proxy = await enter(client(running.proxy(), folder / "proxy.db"))
            platform_side = await enter(client(running.platform(), folder / "platform.db"))
            bare = await enter(client(running.platform()))
            named = {"platform": platform_side, "bare": bare}
            await running.deliver_to(await enter(receiver(named, counts)))
            hook = Webhook("https://hooks.example.com/platform")
            sides = [
                Side("proxy", proxy, video, cancels=False),
                Side(
                    "platform",
                    platform_side,
                    keyframes,
                    Webhook("https://hooks.example.com/platform", V1_SECRET),
                    cancels=False,
                ),
                Side("platform", platform_side, model, hook),
                Side("bare", bare, model, Webhook("https://hooks.example.com/bare")),
            ]
            work = Soak(sides, running, folder, random.Random(seed), counts=counts, wrong=wrong)
            handler = logging.Handler(logging.WARNING)
            handler.emit = work.read  # type: ignore[method-assign]
            logging.getLogger("higgsfield_async").addHandler(handler)
            clients.callback(logging.getLogger("higgsfield_async").removeHandler, handler)
            while time.monotonic() - started < seconds and len(wrong) < 10:
                await work.round()
                await work.settle()
                samples.append(await work.sample(started))
                if sys.stdout.isatty() or len(samples) % 10 == 1:
                    print(
                        " ".join(f"{each.name} {getattr(samples[-1], each.name):,}" for each in fields(Sample)),
                        flush=True,
                    )
        if (left := descriptors() - descriptors_before) > 0:
            wrong.append(f"{left} descriptors are left when all is closed")
        if (left := len(asyncio.all_tasks()) - tasks_before) > 0:
            wrong.append(f"{left} asyncio tasks are left when all is closed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", default="soak")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "soak.json")
    parser.add_argument("--serve", metavar="SEED", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
        return 0
    if not Path("/proc/self/statm").exists():
        parser.error("memory and descriptors are counted as Linux tells them, in /proc")

    samples, counts, wrong = list[Sample](), Counter[str](), list[str]()
    asyncio.run(soak(60 * given.minutes, given.seed, samples, counts, wrong))
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(10)  # they were told to end with the event loop, and are not waited for by it
    if threading.active_count() > 1:
        wrong.append(f"threads are left: {threading.enumerate()}")
    wrong += grown(samples)

    print(f"\n{len(samples)} rounds in {samples[-1].seconds:,.0f} s")
    print("\n".join(f"  {name}: {count:,}" for name, count in sorted(counts.items())))
    print("\n| What this process holds | third quarter | last quarter | may grow by |\n| --- | ---: | ---: | ---: |")
    for name, (before, after) in growth(samples).items():
        print(f"| {name} | {before:,.0f} | {after:,.0f} | {ALLOWED[name]:,} |")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("higgsfield-async", "aiohttp", "anyio", "msgspec")},
        "seed": given.seed,
        "counts": dict(counts),
        "samples": [asdict(each) for each in samples],
        "wrong": wrong,
    }
    given.json.write_text(json.dumps(measured, indent=2) + "\n")
    for each in wrong:
        print(f"Wrong: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
