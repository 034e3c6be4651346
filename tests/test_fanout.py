"""Many generations from one loop: one outcome each, and never more of anything than there may be."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import pytest

from cancelling import cancelled_once
from higgsfield_async import (
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    GenerationFailed,
    GenerationRequest,
    Higgsfield,
    InsufficientCredits,
    InvalidRequest,
    JobSet,
    JobStatus,
    Limits,
    ModelRequest,
    NotFound,
    Outcome,
    PlatformTransport,
    PollPolicy,
    RateLimited,
    RetryPolicy,
    Stats,
    SubmissionUnknown,
    WaitTimeout,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import IMAGE, PROMPT, PROXY, V1, V2, WRONG, Surface

Client = Callable[..., Higgsfield]
NEVER = Plan(queued=1e9)


def numbered(count: int) -> Iterator[ModelRequest]:
    for number in range(count):
        yield ModelRequest("higgsfield-ai/dop/turbo", {"prompt": f"{PROMPT} {number}", "image_url": IMAGE})


def endless(surface: Surface, drawn: list[int]) -> Iterator[GenerationRequest]:
    while True:
        drawn.append(len(drawn))
        yield surface.request


async def taken(outcomes: AsyncIterator[Outcome], found: list[Outcome]) -> None:
    async for outcome in outcomes:
        found.append(outcome)  # noqa: PERF401  # those before an error count too


async def test_one_outcome_for_each(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    updates: list[Outcome] = []
    async with client(surface) as hf:
        outcomes = [outcome async for outcome in hf.map([surface.request] * 20, max_active=7, on_update=updates.append)]
        assert hf.stats() == Stats(waiting=0, queued=0, running=0, done=20, failed=0)
        assert hf.open_tasks() == []
    assert sorted(outcome.index for outcome in outcomes) == list(range(20))
    assert {outcome.ref.id for outcome in outcomes if outcome.ref} == set(sandbox.generations)
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.request is surface.request
        assert outcome.job_set is not None
        assert outcome.job_set.status is JobStatus.COMPLETED
    assert {update.index for update in updates} == set(range(20))
    assert len([update for update in updates if update in outcomes]) == 20


async def test_errors_stay_with_their_item(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(end="failed", reason="why"), Plan(), Plan())
    sandbox.script("submit", Fault.answer(200), Fault.answer(200))  # nothing to do with the third and later ones
    requests = [PROXY.request, PROXY.request, V1.request, PROXY.request, PROXY.request, PROXY.request]
    async with client(PROXY, limits=Limits(max_connections=1)) as hf:
        found = {outcome.index: outcome async for outcome in hf.map(requests)}
    assert len(found) == 6
    kinds = [type(found[index].error) for index in range(6)]
    assert kinds[:2] == [SubmissionUnknown, SubmissionUnknown]
    assert kinds[2].__name__ == "Unsupported"
    assert sorted(kind.__name__ for kind in kinds[3:]) == ["GenerationFailed", "NoneType", "NoneType"]
    failed = next(each for each in found.values() if isinstance(each.error, GenerationFailed))
    assert failed.ref is not None
    assert failed.job_set is not None


async def test_a_look_that_will_not_pass_is_an_outcome(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        sandbox.script("poll", Fault.answer(404, b'{"detail":"Not found"}'))
        [outcome] = [outcome async for outcome in hf.map([V2.request])]
    assert isinstance(outcome.error, NotFound)
    assert outcome.ref is not None


async def test_each_has_its_deadline(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, Plan())
    async with client(V2, limits=Limits(max_connections=1)) as hf:
        outcomes = [outcome async for outcome in hf.map([V2.request] * 2, timeout=0.5)]
        assert isinstance(outcomes[-1].error, WaitTimeout)
        assert outcomes[-1].ref == outcomes[-1].error.ref
        assert outcomes[0].error is None
        assert [task.ref for task in hf.open_tasks()] == [outcomes[-1].ref]
        [later] = [outcome async for outcome in hf.map([V2.request], timeout=math.inf)]
        assert later.error is None


async def test_endless_requests_are_drawn_as_room_appears(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    drawn: list[int] = []
    async with client(surface) as hf:
        taken = 0
        async for _ in hf.map(endless(surface, drawn), max_active=5):
            taken += 1
            assert len(drawn) <= taken + 5
            if taken == 12:
                break
        gc.collect()
        await anyio.sleep(0.05)
        count = len(drawn)
        assert count <= 17
        await anyio.sleep(0.1)
        assert len(drawn) == count


async def test_a_slow_consumer_holds_the_drawing_back(sandbox: Sandbox, client: Client) -> None:
    drawn: list[int] = []
    async with client(V1) as hf, hf.map(endless(V1, drawn), max_active=3) as outcomes:
        await anext(outcomes)
        await anyio.sleep(0.3)
        assert len(drawn) <= 4


async def test_leaving_keeps_what_was_submitted_at_hand(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0), *[NEVER] * 10)
    async with client(V2, limits=Limits(max_connections=1)) as hf:
        async with hf.map(numbered(100), max_active=4) as outcomes:
            await anext(outcomes)
        opened = {task.id for task in hf.open_tasks()}
        assert opened <= set(sandbox.generations)
        assert len(opened) >= 2
        before = len(sandbox.received)
        await anyio.sleep(0.1)
        assert len(sandbox.received) <= before + 1
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


async def test_leaving_cancels_where_that_was_asked_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0), *[NEVER] * 10)
    async with (
        client(V2, limits=Limits(max_connections=1)) as hf,
        hf.map(numbered(100), max_active=4, on_leave="cancel") as outcomes,
    ):
        await anext(outcomes)
        while len(sandbox.generations) < 4:
            await anyio.sleep(0.01)
        await anyio.sleep(0.05)
    ends = [generation.status for generation in sandbox.generations.values()]
    assert ends.count("canceled") >= 3


@pytest.mark.parametrize("more", [True, False])
async def test_that_no_more_are_drawn_is_said_where_there_are_more(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture, *, more: bool
) -> None:
    sandbox.script("submit", Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    async with client(V2) as hf:
        with pytest.raises(AuthenticationFailed):
            await taken(hf.map(endless(V2, []) if more else [V2.request]), [])
    assert ("No more requests are drawn: " in caplog.text) == more


async def test_what_dooms_all_ends_the_drawing(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    drawn: list[int] = []
    sandbox.script("submit", Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    async with client(surface, limits=Limits(max_connections=1)) as hf:
        found: list[Outcome] = []
        with pytest.raises(AuthenticationFailed):
            await taken(hf.map(endless(surface, drawn), max_active=50), found)
    assert isinstance(found[0].error, AuthenticationFailed)
    assert len(drawn) == 1


async def test_no_credit_ends_the_drawing_and_what_was_paid_is_finished() -> None:
    async with Sandbox(speed=100) as sandbox:
        async with Higgsfield(sandbox.platform(), poll=PollPolicy.fixed(0.02)) as hf:
            await hf.run(V2.request)
        [paid] = sandbox.generations.values()
    async with Sandbox(speed=100, credits=5 * paid.charged) as sandbox:
        async with Higgsfield(sandbox.platform(), poll=PollPolicy.fixed(0.02)) as hf:
            found: list[Outcome] = []
            with pytest.raises(InsufficientCredits):
                await taken(hf.map([V2.request] * 50, max_active=4), found)
        completed = [outcome for outcome in found if outcome.error is None]
        assert {outcome.ref.id for outcome in completed if outcome.ref} == set(sandbox.generations)
        assert len(completed) == 5
        assert {type(outcome.error) for outcome in found} == {type(None), InsufficientCredits}
        assert len(found) <= 9


async def test_an_iterable_that_breaks(sandbox: Sandbox, client: Client) -> None:
    async def broken() -> AsyncIterator[GenerationRequest]:
        yield V1.request
        raise ZeroDivisionError

    async with client(V1) as hf:
        found: list[Outcome] = []
        with pytest.raises(ZeroDivisionError):
            await taken(hf.map(broken()), found)
    assert len(found) == len(sandbox.generations) == 1


async def test_nothing_to_do(client: Client) -> None:
    async with client() as hf:
        assert [outcome async for outcome in hf.map([])] == []
        assert await hf.gather([]) == []
        await hf.map([]).aclose()
        with pytest.raises(ConfigurationError):
            hf.map([], max_active=0)


async def test_closing_the_client_ends_a_map(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[NEVER] * 9)
    hf = client(V2)
    outcomes = hf.map(numbered(3))
    first = asyncio.create_task(anext(outcomes))
    while len(sandbox.generations) < 3:
        await anyio.sleep(0.01)
    await anyio.sleep(0.05)
    await hf.close()
    outcome = await first
    assert isinstance(outcome.error, ClientClosed)
    assert outcome.ref is not None
    assert outcome.ref.id in sandbox.generations
    assert len([rest async for rest in outcomes]) == 2


async def test_gather_gives_the_ends_in_order(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[Plan(queued=0, running=20 - number) for number in range(10)])
    async with client(V2) as hf:
        found = await hf.gather(numbered(10), max_active=10)
    requests = {identifier: each.request["prompt"] for identifier, each in sandbox.generations.items()}
    assert [requests[job_set.id] for job_set in found] == [f"{PROMPT} {number}" for number in range(10)]


async def test_gather_raises_the_first_error_or_returns_them(sandbox: Sandbox, client: Client) -> None:
    requests = [V2.request, WRONG, V2.request]
    async with client(V2) as hf:
        with pytest.raises(InvalidRequest):
            await hf.gather(requests)
        first, second, third = await hf.gather(requests, return_exceptions=True)
        assert isinstance(first, JobSet)
        assert isinstance(second, InvalidRequest)
        assert isinstance(third, JobSet)
        sandbox.script("submit", *[Fault.answer(401, b'{"detail":"Invalid credentials"}')] * 9)
        found = await hf.gather([V2.request] * 5, return_exceptions=True, max_active=1)
        assert [type(each) for each in found] == [AuthenticationFailed] * 5
        with pytest.raises(AuthenticationFailed):
            await hf.gather([V2.request] * 5, max_active=1)


async def most_open(sandbox: Sandbox, stop: anyio.Event) -> int:
    most = 0
    while not stop.is_set():
        most = max(most, sum(not each.finished for each in sandbox.generations.values()))
        await anyio.sleep(0.002)
    return most


async def test_max_active_holds_over_everything_the_client_does(sandbox: Sandbox, client: Client) -> None:
    stop = anyio.Event()
    counting = asyncio.create_task(most_open(sandbox, stop))
    async with client(V2, limits=Limits(max_active=3)) as hf:

        async def mapped() -> None:
            assert [outcome.error async for outcome in hf.map(numbered(6))] == [None] * 6

        async with anyio.create_task_group() as group:
            group.start_soon(mapped)
            group.start_soon(mapped)
            for _ in range(4):
                group.start_soon(hf.run, V1.request)
            await anyio.sleep(0.1)
            assert hf.stats().waiting > 0
        # Submitted, and waited for by nobody: an end still makes room.
        for _ in range(5):
            await hf.submit(V2.request)
    stop.set()
    assert await counting == 3
    assert len(sandbox.generations) == 21


async def test_the_accounts_limit_is_learned(client: Client) -> None:
    async with Sandbox(speed=100, max_concurrent=2) as sandbox:
        settings = {"poll": PollPolicy.fixed(0.02)}
        async with Higgsfield(sandbox.platform(), **settings) as hf:  # type: ignore[arg-type]  # one setting
            found = await hf.gather(numbered(6))
            refused = sum(received.status == 400 for received in sandbox.received)
            assert [job_set.status for job_set in found] == [JobStatus.COMPLETED] * 6
            await hf.gather(numbered(6))
            # What was learned is kept to: nothing is refused any more.
            assert sum(received.status == 400 for received in sandbox.received) == refused
        assert len(sandbox.generations) == 12


async def test_a_place_is_waited_for_with_patience(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, limits=Limits(max_active=1, patience=0.1)) as hf:
        await hf.submit(V2.request)
        with pytest.raises(RateLimited, match="Not sent: no place") as caught:
            await hf.submit(V2.request)
        assert caught.value.charged == "no"
        # A cancelled one leaves the queue, and one that was just let in gives its place back.
        await cancelled_once(lambda: hf._opened().tracker._places.line, hf.submit(V2.request))
    assert len(sandbox.generations) == 1


async def test_a_failed_submit_gives_its_place_back(sandbox: Sandbox, client: Client) -> None:
    async with client(V2, limits=Limits(max_active=1)) as hf:
        for _ in range(3):
            with pytest.raises(InvalidRequest):
                await hf.submit(WRONG)
        assert (await hf.run(V2.request)).status is JobStatus.COMPLETED


async def test_closing_while_a_place_is_waited_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    hf = client(V2, limits=Limits(max_active=1))
    await hf.submit(V2.request)
    waiting = asyncio.create_task(hf.submit(V2.request))
    await anyio.sleep(0.05)
    await hf.close()
    with pytest.raises(ClientClosed) as caught:
        await waiting
    assert caught.value.charged == "no"


async def test_a_refusal_holds_back_every_submit_and_no_poll(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "1"}))
        began = asyncio.get_running_loop().time()
        submitting = [asyncio.create_task(hf.submit(V2.request)) for _ in range(3)]
        assert (await task.wait(timeout=0.9)).status is JobStatus.COMPLETED
        await asyncio.gather(*submitting)
        assert asyncio.get_running_loop().time() - began >= 1
    late = [received for received in sandbox.received if received.operation == "submit"]
    assert sum(received.status == 429 for received in late) == 1


async def test_a_limited_poll_holds_back_every_poll_and_no_submit(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[Plan(queued=0, running=0)] * 9)
    sandbox.script("poll", Fault.answer(429, headers={"Retry-After": "0.5"}))
    async with client(V2) as hf:
        tasks = [await hf.submit(V2.request) for _ in range(4)]
        began = asyncio.get_running_loop().time()
        waiting = [asyncio.create_task(task.wait()) for task in tasks]
        await anyio.sleep(0.1)
        seen = sum(received.operation == "poll" for received in sandbox.received)
        await hf.submit(V2.request)
        assert asyncio.get_running_loop().time() - began < 0.4
        await asyncio.gather(*waiting)
        assert asyncio.get_running_loop().time() - began >= 0.4
    assert seen <= 4


async def test_requests_per_second_are_kept_to(sandbox: Sandbox, client: Client) -> None:
    async with client(V2, limits=Limits(requests_per_second=50, burst=5), poll=PollPolicy.fixed(0.01)) as hf:
        found = await hf.gather(numbered(12))
    assert len(found) == 12
    times = sorted(received.at for received in sandbox.received)
    for first, sixth in zip(times, times[15:], strict=False):
        # Never more than the burst and what the rate adds to it.
        assert 5 + 50 * (sixth - first) + 1.5 >= 15
    submits = [received.at for received in sandbox.received if received.operation == "submit"]
    polls = [received.at for received in sandbox.received if received.operation == "poll"]
    assert min(polls) < max(submits)  # neither waited for the other to be done


async def test_what_was_paid_for_and_not_taken_is_in_the_log(
    sandbox: Sandbox, client: Client, surface: Surface, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(*[Plan(queued=0, running=0)] * 3)
    refused = Fault.answer(422, b'{"detail":"no"}')
    sandbox.script("submit", refused, refused, Fault(), Fault.reset(accept=True), Fault())
    async with client(surface, limits=Limits(max_connections=1), retry=RetryPolicy(attempts=1)) as hf:
        async with hf.map([surface.request] * 5, max_active=5) as outcomes:
            assert isinstance((await anext(outcomes)).error, InvalidRequest)
            while hf.stats().done < 2:
                await anyio.sleep(0.01)
        assert hf.open_tasks() == []
        await outcomes.aclose()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert sum("the answer is lost" in line for line in lines) == 1
    assert sum(f'"id":"{identifier}"' in line for identifier in sandbox.generations for line in lines) == 2


async def test_a_submit_in_doubt_keeps_its_place(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, NEVER)
    # Accepted, but that is heard of only at the third try.
    sandbox.script("submit", Fault.reset(accept=True), Fault.answer(429))
    async with client(V2, limits=Limits(max_active=1)) as hf:
        first, second = (asyncio.create_task(hf.submit(V2.request)) for _ in range(2))
        with anyio.fail_after(5):
            assert (await first).id in sandbox.generations
        await anyio.sleep(0.05)
        assert len(sandbox.generations) == 1
        second.cancel()


async def test_what_is_sent_again_is_counted(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", Fault.reset())
    async with client(V2, limits=Limits(requests_per_second=10, burst=1)) as hf:
        await (await hf.submit(V2.request)).refresh()
    _, first, second = (received.at for received in sandbox.received)
    # Each took a moment to arrive.
    assert second - first > 0.05


async def test_an_on_update_that_breaks_ends_the_drawing(sandbox: Sandbox, client: Client) -> None:
    def broken(update: Outcome) -> None:
        if update.job_set is not None and update.job_set.status is JobStatus.COMPLETED:
            raise ZeroDivisionError

    found: list[Outcome] = []
    async with client(V2) as hf:
        with pytest.raises(ZeroDivisionError):
            await taken(hf.map(numbered(1000), max_active=3, on_update=broken), found)
        assert hf.open_tasks() == []
    # What was under way was finished all the same.
    assert {outcome.ref.id for outcome in found if outcome.ref} == set(sandbox.generations)
    assert len(found) == 3
    assert not any(outcome.error for outcome in found)


def test_outcomes_that_outlive_their_loop() -> None:
    async def main() -> AsyncIterator[Outcome]:
        async with Sandbox(speed=100) as sandbox, Higgsfield(sandbox.platform(), poll=PollPolicy.fixed(0.02)) as hf:
            outcomes = hf.map(numbered(3))
            await anext(outcomes)
            return outcomes

    outcomes = asyncio.run(main())
    del outcomes
    gc.collect()


@pytest.mark.parametrize("closed", [False, True])
async def test_a_resumed_submit_that_finds_no_place_says_nothing_of_the_first(
    sandbox: Sandbox,
    client: Client,
    *,
    closed: bool,
) -> None:
    sandbox.plan(*[NEVER] * 3)
    sandbox.script("submit", Fault(), Fault.reset(accept=True))
    patience = 60 if closed else 0.1
    async with client(V2, limits=Limits(max_active=2, patience=patience), retry=RetryPolicy(attempts=1)) as hf:
        await hf.submit(V2.request)
        with pytest.raises(SubmissionUnknown) as first:
            await hf.submit(V2.request)
        await hf.submit(V2.request)
        resuming = asyncio.create_task(hf.submit(V2.request, idempotency_key=first.value.key))
        await anyio.sleep(0.05)
        if closed:
            await hf.close()
        with pytest.raises(SubmissionUnknown) as second:
            await resuming
    assert second.value.key == first.value.key
    assert isinstance(second.value.cause, ClientClosed if closed else RateLimited)


async def test_closing_while_an_outcome_is_waited_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V1) as hf:
        outcomes = hf.map([V1.request])
        waiting = asyncio.create_task(anext(outcomes))
        while not hf.open_tasks():
            await anyio.sleep(0.01)
        await outcomes.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_requests_whose_drawing_is_cancelled(sandbox: Sandbox, client: Client) -> None:
    async def cancelled() -> AsyncIterator[GenerationRequest]:
        yield V1.request
        raise asyncio.CancelledError

    found: list[Outcome] = []
    async with client(V1) as hf:
        with pytest.raises(RuntimeError, match="was cancelled"):
            await taken(hf.map(cancelled()), found)
    assert len(found) == len(sandbox.generations) == 1


async def test_a_fault_of_our_own_ends_a_map(sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PlatformTransport, "submit", broken)
    async with client(V2) as hf:
        with pytest.raises(ZeroDivisionError):
            await taken(hf.map(numbered(1000), max_active=2), [])
    assert not sandbox.received


async def test_what_ends_with_its_submit(sandbox: Sandbox, client: Client) -> None:
    body = b'{"request_id":"x","status":"completed","video":{"url":"https://a.b/c.mp4"}}'
    sandbox.script("submit", Fault.answer(200, body, accept=True))
    async with client(V2, limits=Limits(max_active=1)) as hf:
        [outcome] = [outcome async for outcome in hf.map([V2.request])]
        assert outcome.error is None
        assert hf.open_tasks() == []
        assert hf.stats() == Stats(waiting=0, queued=0, running=0, done=1, failed=0)


async def test_what_was_not_found_and_then_was_gives_its_place_back_once(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0), NEVER, NEVER)
    sandbox.script("poll", Fault.answer(404, b'{"detail":"Not found"}'))
    async with client(V2, limits=Limits(max_active=1, patience=0.1)) as hf:
        task = await hf.submit(V2.request)
        with pytest.raises(NotFound):
            await task.wait()
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert hf.open_tasks() == []
        await hf.submit(V2.request)
        with pytest.raises(RateLimited):
            await hf.submit(V2.request)
    assert len(sandbox.generations) == 2


async def test_requests_that_come_from_a_queue_end_with_the_client(sandbox: Sandbox, client: Client) -> None:
    queue: asyncio.Queue[GenerationRequest] = asyncio.Queue()
    queue.put_nowait(V2.request)

    async def feed() -> AsyncIterator[GenerationRequest]:
        while True:
            yield await queue.get()

    hf = client(V2)
    found: list[Outcome] = []

    consuming = asyncio.create_task(taken(hf.map(feed()), found))
    while not found:
        await anyio.sleep(0.01)
    await hf.close()
    with pytest.raises(ClientClosed):
        await consuming
    assert [outcome.error for outcome in found] == [None]


async def test_nothing_is_drawn_once_all_is_doomed(sandbox: Sandbox, client: Client) -> None:
    queue: asyncio.Queue[GenerationRequest] = asyncio.Queue()
    queue.put_nowait(V2.request)
    sandbox.script("submit", Fault.answer(401, b'{"detail":"Invalid credentials"}'))

    async def feed() -> AsyncIterator[GenerationRequest]:
        while True:
            yield await queue.get()

    async with client(V2) as hf:
        outcomes = hf.map(feed())
        assert isinstance((await anext(outcomes)).error, AuthenticationFailed)
        with pytest.raises(AuthenticationFailed):
            await anext(outcomes)
        queue.put_nowait(V2.request)
        await anyio.sleep(0.05)
    assert not sandbox.generations


async def test_an_iterable_that_is_cancelled(sandbox: Sandbox, client: Client) -> None:
    async def feed() -> AsyncIterator[GenerationRequest]:
        yield V2.request
        raise asyncio.CancelledError

    async with client(V2) as hf:
        outcomes = hf.map(feed())
        assert (await anext(outcomes)).error is None
        with pytest.raises(RuntimeError, match="drawing of requests was cancelled"):
            await anext(outcomes)


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError()], ids=["error", "cancel"])
async def test_a_callback_that_raises_ends_its_map_alone(
    sandbox: Sandbox, client: Client, error: BaseException
) -> None:
    calls = 0

    def show(_: Outcome) -> None:
        nonlocal calls
        calls += 1
        raise error

    sandbox.plan(Plan(queued=0, running=5))
    async with client(V2) as hf:
        other = asyncio.create_task(hf.run(V2.request))
        found: list[Outcome] = []
        with pytest.raises(type(error)):
            await taken(hf.map(endless(V2, []), max_active=3, on_update=show), found)
        assert calls == 1
        assert [outcome.error for outcome in found] == [None] * len(found)
        assert (await other).status is JobStatus.COMPLETED
        assert (await hf.run(V2.request)).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == len(found) + 2


async def test_two_may_iterate_over_one_map(sandbox: Sandbox, client: Client) -> None:
    async def take(outcomes: AsyncIterator[Outcome]) -> int:
        return len([outcome async for outcome in outcomes])

    async with client(V2) as hf:
        outcomes = hf.map(numbered(7))
        assert sum(await asyncio.gather(take(outcomes), take(outcomes))) == 7


async def test_gather_takes_an_async_iterable(sandbox: Sandbox, client: Client) -> None:
    async def feed() -> AsyncIterator[GenerationRequest]:
        for request in numbered(3):
            yield request

    async with client(V2) as hf:
        assert len(await hf.gather(feed())) == 3


async def test_the_log_has_what_gather_hands_to_nobody(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(*[Plan(queued=0, running=0)] * 3, Plan(queued=0, running=30, end="failed"))
    async with client(V2, limits=Limits(max_connections=2)) as hf:
        with pytest.raises(GenerationFailed) as caught:
            await hf.gather(numbered(4))
    assert caught.value.ref is not None
    for identifier in sandbox.generations:
        assert identifier == caught.value.ref.id or identifier in caplog.text


async def test_stats_of_a_client_that_was_never_opened(client: Client) -> None:
    hf = client(V2)
    assert hf.stats() == Stats(waiting=0, queued=0, running=0, done=0, failed=0)
    assert hf.open_tasks() == []
    await hf.close()


async def test_a_place_that_is_lost_to_a_limit_is_waited_for_again(client: Client) -> None:
    async with Sandbox(speed=100, max_concurrent=1) as sandbox:
        sandbox.plan(NEVER)
        async with Higgsfield(sandbox.platform(), limits=Limits(patience=0.3), retry=RetryPolicy(first=0)) as hf:
            await hf.submit(V2.request)
            with pytest.raises(RateLimited) as caught:
                await hf.submit(V2.request)
    assert caught.value.limit == 1
    assert caught.value.charged == "no"


async def test_what_a_service_does_not_show_any_more_holds_no_place(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, limits=Limits(max_active=1)) as hf:
        task = await hf.submit(V2.request)
        sandbox.script("poll", Fault.answer(404, b'{"detail":"Not found"}'))
        with pytest.raises(NotFound):
            await task.wait()
        assert hf.stats().queued == 0
        # It was paid for: its id stays at hand.
        assert [each.ref for each in hf.open_tasks()] == [task.ref]
        await hf.run(V2.request)
        # It was there after all.
        await task.refresh()
        assert hf.stats().queued == 1
        await task.cancel()
        assert (await task.wait(check=False)).status is JobStatus.CANCELED
        assert hf.open_tasks() == []


async def test_a_fault_of_our_own_in_a_submit_ends_the_map(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with client(V2) as hf:
        monkeypatch.setattr(PlatformTransport, "submit", broken)
        with pytest.raises(ZeroDivisionError):
            await anext(hf.map(numbered(3)))
    assert not sandbox.generations
