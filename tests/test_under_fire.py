"""Two thousand generations while all goes wrong at once: one outcome each, and nothing paid for without a ref."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import anyio
import msgspec
import pytest

from higgsfield_async import (
    ContentRejected,
    GenerationFailed,
    GenerationRequest,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    Limits,
    ModelRequest,
    Outcome,
    PollPolicy,
    RateLimited,
    RetryPolicy,
    SubmissionUnknown,
    TaskRef,
)
from higgsfield_async.sandbox import Fault, Generation, Plan, Sandbox
from surfaces import IMAGE, PROMPT, SURFACES, Surface

SEED = int(os.environ.get("FIRE_SEED", "20261122"))
MAPPED = 2000
# Beside that map: so many callers, one call after the other, and so many maps whose consumer is cancelled.
CALLERS, CALLS, LEFT = 10, 30, 4
SPEED = 100
# The service refuses what is beyond its own limit: on v1, generations whose answers were lost fill what is between.
MOST_OPEN, MOST_CONCURRENT = 40, 42
RATE, BURST, CONNECTIONS = 700, 10, 4
LIMITS = Limits(
    max_active=MOST_OPEN, requests_per_second=RATE, burst=BURST, max_connections=CONNECTIONS, patience=math.inf
)

SOON = {"Retry-After": "0.02"}
FULL = b'{"code":"account_queue_full","limit":%d,"detail":"full"}' % MOST_CONCURRENT
CONCURRENCY = b'{"detail":"Maximum number of concurrent requests (%d) has been reached"}' % MOST_CONCURRENT
FAULTS = [
    Fault.answer(500),
    Fault.html(502),
    Fault.answer(503, headers=SOON),
    Fault.ok_html(),
    Fault.reset(),
    Fault.truncate(),
    Fault.delay(0.05),
    Fault.delay(0.05, accept=False),
]
SUBMITS = [
    *FAULTS,
    Fault.reset(accept=True),
    Fault.answer(500, accept=True),
    Fault.html(502, accept=True),
    Fault.html(200, accept=True),
]
POLLS = [*FAULTS, Fault.answer(200, b'{"id":"x"}'), Fault.html(404), Fault.answer(204)]
# Each of them holds everything of its kind back, for a tenth of a second at the least: so they are fewer.
TOO_MUCH = [Fault.answer(429), Fault.answer(429, headers=SOON)]
TOO_MANY = [*TOO_MUCH, Fault.answer(429, FULL, SOON), Fault.answer(400, CONCURRENCY)]
ENDS = {"completed": type(None), "failed": GenerationFailed, "nsfw": ContentRejected}


def disturbed(chance: random.Random, faults: list[Fault], refusals: list[Fault]) -> Iterator[Fault]:
    while True:
        kinds = chance.choices([[Fault()], faults, refusals], [80, 19, 1])[0]
        yield chance.choice(kinds)


def plans(chance: random.Random) -> Iterator[Plan]:
    while True:
        [end] = chance.choices([*ENDS], [94, 3, 3])
        linkless = int(end == "completed" and chance.random() < 0.02)
        yield Plan(end=end, queued=10 * chance.random(), running=10 * chance.random(), linkless=linkless)


def numbered(surface: Surface, number: int) -> GenerationRequest:
    """A request that is like no other."""
    prompt = f"{PROMPT} {number}"
    if isinstance(surface.request, ModelRequest):
        return ModelRequest(surface.request.model_id, {"prompt": prompt, "image_url": IMAGE})
    return msgspec.structs.replace(surface.request, prompt=prompt)


def endless(surface: Surface, numbers: Iterator[int]) -> Iterator[GenerationRequest]:
    for number in numbers:
        yield numbered(surface, number)


def number_of(request: Any) -> int:
    """Of a request as it was made, or as it was received."""
    if isinstance(request, ModelRequest):
        prompt = request.arguments["prompt"]
    elif isinstance(request, ImageToVideo | Keyframes):
        prompt = request.prompt
    else:
        prompt = request.get("params", request)["prompt"]
    return int(prompt.rpartition(" ")[2])


class Fire:
    """One client, and everybody who uses it.

    Attributes:
        outcomes: Of the map that is heard out.
        told: The ids that a caller was given, or could have asked for, or that the log has.
        unknown: The numbers of the requests of which somebody was told that they may have been accepted.
    """

    def __init__(self, hf: Higgsfield, surface: Surface, chance: random.Random) -> None:
        self.hf = hf
        self.surface = surface
        self.chance = chance
        self.numbers = itertools.count(MAPPED)
        self.outcomes: list[Outcome] = []
        self.told: set[str] = set()
        self.unknown: set[int] = set()

    async def everything(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.map_all())
            for _ in range(CALLERS):
                group.create_task(self.call_and_cancel())
            for _ in range(LEFT):
                group.create_task(self.map_and_leave())

    async def map_all(self) -> None:
        requests = [numbered(self.surface, number) for number in range(MAPPED)]
        async for outcome in self.hf.map(requests, max_active=100):
            assert outcome.request is requests[outcome.index]
            self.outcomes.append(outcome)
            self.tell(outcome.ref, outcome.error)

    async def call_and_cancel(self) -> None:
        for _ in range(CALLS):
            patience = self.chance.choice([0.01, 0.1, 0.5, 60]) * self.chance.random()
            calling = asyncio.create_task(self.call())
            await asyncio.wait([calling], timeout=patience)
            calling.cancel()
            await asyncio.wait([calling])
            if not calling.cancelled():
                calling.result()

    async def call(self) -> None:
        request = numbered(self.surface, next(self.numbers))
        try:
            if self.chance.random() < 0.5:
                self.told.add((await self.hf.run(request, check=False)).id)
            else:
                task = await self.hf.submit(request)
                self.tell(task.ref)
                if self.chance.random() < 0.7:
                    await task.wait(check=False)
        except SubmissionUnknown as error:
            self.tell(error=error)

    async def map_and_leave(self) -> None:
        async def consume() -> None:
            async for outcome in self.hf.map(endless(self.surface, self.numbers), max_active=20):
                self.tell(outcome.ref, outcome.error)
                # Too slow, so that some outcomes are not taken yet when it is cancelled.
                await anyio.sleep(0.02)

        consuming = asyncio.create_task(consume())
        await asyncio.wait([consuming], timeout=0.5 + self.chance.random())
        self.tell_open()
        consuming.cancel()
        await asyncio.wait([consuming])
        assert consuming.cancelled()
        self.tell_open()

    def tell(self, ref: TaskRef | None = None, error: HiggsfieldError | None = None) -> None:
        if ref is not None:
            self.told.add(ref.id)
        if isinstance(error, SubmissionUnknown):
            self.unknown.add(number_of(error.request))

    def tell_open(self) -> None:
        for task in self.hf.open_tasks():
            self.tell(task.ref)

    def read(self, records: list[logging.LogRecord]) -> None:
        for record in records:
            assert record.name.startswith("higgsfield_async")
            assert isinstance(record.args, tuple)
            [said] = record.args
            if isinstance(said, str):
                self.tell(TaskRef.from_json(said))
            else:
                # A caller who has gone is not waited for when limits refuse a submit: nothing was paid.
                assert isinstance(said, SubmissionUnknown | RateLimited)
                self.tell(error=said)


def timers() -> list[asyncio.TimerHandle]:
    """Those that are set in this loop."""
    # Nothing public tells of them.
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


def most_open(generations: Iterable[Generation]) -> int:
    """By the sandbox's own clock: when each was accepted, and when it ended."""
    changes: list[tuple[float, int]] = []
    for each in generations:
        assert each.plan.queued is not None
        assert each.plan.running is not None
        changes += [(each.ends - each.plan.queued - each.plan.running, 1), (each.ends, -1)]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


def beyond_the_rate(times: Iterable[float]) -> list[float]:
    """The arrivals that no sending within the limits explains.

    What arrives in some stretch of time was sent in it, or was under way when it began: by so many there may be more
    than the burst and the rate allow, however the machine stalls. There is no need of a tolerance besides.
    """
    interval = 1 / RATE
    most_early = interval * (BURST + CONNECTIONS - 1)
    full_at, beyond = 0.0, list[float]()
    for at in sorted(times):
        if full_at - at > most_early:
            beyond.append(at)
        full_at = max(full_at, at) + interval
    return beyond


@pytest.mark.parametrize(
    # One is enough for what a version of Python may change.
    "surface",
    [pytest.param(each, marks=[] if each.keyed else pytest.mark.once) for each in SURFACES],
    ids=str,
)
@pytest.mark.timeout(120)
async def test_two_thousand_generations_under_fire(surface: Surface, caplog: pytest.LogCaptureFixture) -> None:
    print(f"seed {SEED}")  # noqa: T201  # shown when it fails
    caplog.set_level(logging.WARNING)
    chance = random.Random(f"{SEED} {surface}")
    tasks_before, timers_before = asyncio.all_tasks(), timers()
    async with Sandbox(speed=SPEED, max_concurrent=MOST_CONCURRENT) as sandbox:
        sandbox.script("submit", *itertools.islice(disturbed(chance, SUBMITS, TOO_MANY), 3 * MAPPED))
        sandbox.script("poll", *itertools.islice(disturbed(chance, POLLS, TOO_MUCH), 20 * MAPPED))
        sandbox.plan(*itertools.islice(plans(chance), 2 * MAPPED))
        async with Higgsfield(
            sandbox.proxy() if surface.service == "proxy" else sandbox.platform(),
            poll=PollPolicy.fixed(0.05),
            # A key brings back what was lost for as long as tries are left: more than ever fail in a row.
            retry=RetryPolicy(attempts=12, first=0.005, longest=0.02),
            limits=LIMITS,
        ) as hf:
            fire = Fire(hf, surface, chance)
            await fire.everything()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("higgsfield_async")]
        # The server hears of a closed connection a moment later.
        with anyio.fail_after(5):
            while sandbox.connections:
                await anyio.sleep(0.001)
    assert asyncio.all_tasks() == tasks_before
    assert timers() == timers_before
    fire.tell_open()
    fire.read(caplog.records)
    check_books(fire, sandbox)
    check_limits(fire, sandbox)


def check_books(fire: Fire, sandbox: Sandbox) -> None:
    paid: defaultdict[int, list[Generation]] = defaultdict(list)
    for generation in sandbox.generations.values():
        paid[number_of(generation.request)].append(generation)
    # No request was paid for twice.
    assert {len(found) for found in paid.values()} == {1}

    assert sorted(outcome.index for outcome in fire.outcomes) == list(range(MAPPED))
    for outcome in fire.outcomes:
        if not isinstance(outcome.error, SubmissionUnknown):
            [generation] = paid[outcome.index]
            assert outcome.ref is not None
            assert outcome.ref.id == generation.id
            assert outcome.job_set is not None
            assert outcome.job_set.status.value == generation.status
            assert type(outcome.error) is ENDS[generation.status]

    # What nobody has a ref of, somebody was told of.
    lost = {number for number, [generation] in paid.items() if generation.id not in fire.told}
    assert lost <= fire.unknown
    if fire.surface.keyed:
        assert not fire.unknown
        assert len(paid.keys() & range(MAPPED)) == MAPPED
    else:
        assert lost


def check_limits(fire: Fire, sandbox: Sandbox) -> None:
    """By the server's own count."""
    # A generation whose answer was lost for good is one that no client can count.
    assert most_open(each for each in sandbox.generations.values() if each.id in fire.told) <= MOST_OPEN
    assert sandbox.most_at_once <= CONNECTIONS
    assert not beyond_the_rate(received.at for received in sandbox.received)
