"""Waiting on generations: who is told what, when it ends, and what never ends it."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
import pytest

from cancelling import cancelled_once
from higgsfield_async import (
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    ContentRejected,
    GenerationCanceled,
    GenerationError,
    GenerationFailed,
    GenerationTask,
    Higgsfield,
    InsufficientCredits,
    Job,
    JobSet,
    JobStatus,
    Limits,
    Media,
    NotCancelable,
    NotFound,
    Outcome,
    PermissionDenied,
    PlatformTransport,
    PollPolicy,
    ProxyTransport,
    RateLimited,
    RetryPolicy,
    ServiceUnavailable,
    TaskRef,
    Unsupported,
    WaitTimeout,
)
from higgsfield_async._pace import Pace
from higgsfield_async._tracker import Tracked, Tracker
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]
NEVER = Plan(queued=1e9)


async def taken(outcomes: AsyncIterator[Outcome], found: list[Outcome]) -> None:
    async for outcome in outcomes:
        found.append(outcome)  # noqa: PERF401  # those before an error count too


def polls(sandbox: Sandbox) -> int:
    return sum(received.operation == "poll" for received in sandbox.received)


async def test_updates_give_every_status_once_and_the_end_last(
    sandbox: Sandbox, client: Client, surface: Surface
) -> None:
    sandbox.plan(Plan(queued=10, running=10))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        statuses = [job_set.status async for job_set in task.updates()]
        assert statuses == [JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.COMPLETED]
        done = await task.wait()
        assert done.outputs
        assert [job_set async for job_set in task.updates()] == [done]


async def test_a_wait_on_what_has_ended_asks_nothing(sandbox: Sandbox, client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        first = await task.wait()
        asked = polls(sandbox)
        assert await task.wait(timeout=0) is first
        assert polls(sandbox) == asked


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ("failed", GenerationFailed, "failed: no face was found"),
        ("nsfw", ContentRejected, "moderation"),
        ("canceled", GenerationCanceled, "was canceled"),
    ],
)
async def test_other_ends_are_raised_with_reason_and_ref(
    sandbox: Sandbox, client: Client, surface: Surface, end: str, kind: type[GenerationError], words: str
) -> None:
    sandbox.plan(Plan(end=end, reason="no face was found." if end == "failed" else None))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        with pytest.raises(kind) as caught:
            await task.wait()
        assert caught.value.ref == task.ref
        assert caught.value.job_set.status.value == end
        assert caught.value.charged == ("unknown" if surface.service == "proxy" else "no")
        if surface is not V1:  # its job sets have no place for a reason
            assert words in str(caught.value)
            assert caught.value.reason == ("no face was found." if end == "failed" else None)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.ref, again.job_set, str(again)) == (task.ref, caught.value.job_set, str(caught.value))
        assert (await task.wait(check=False)).status.value == end


async def test_many_waiters_ask_once(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.plan(Plan(queued=10, running=10))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        handles = [task] + [hf.task(task.ref) for _ in range(9)]

        async def last(handle: GenerationTask) -> JobSet:
            return [job_set async for job_set in handle.updates()][-1]

        ends = await asyncio.gather(*(handle.wait() for handle in handles), *(last(handle) for handle in handles))
    assert len(set(map(id, ends))) == 1
    # 0.2 seconds at one look every 0.02: a look of each waiter's own would be twenty times as many.
    assert polls(sandbox) <= 15


async def test_nobody_waiting_means_no_polls(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        async for _ in task.updates():
            break
        await cancelled_once(lambda: polls(sandbox), task.wait())
        await anyio.sleep(0.05)
        asked = polls(sandbox)
        await anyio.sleep(0.1)
        assert polls(sandbox) == asked > 0


async def test_a_cancelled_waiter_leaves_the_others_and_the_generation_alone(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=10, running=10))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        other = asyncio.create_task(task.wait())
        await cancelled_once(lambda: polls(sandbox), task.wait())
        assert (await other).status is JobStatus.COMPLETED


async def test_on_cancel_cancels_the_generation(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        waiting = asyncio.create_task(task.wait(on_cancel="cancel"))
        await anyio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert sandbox.generations[task.id].status == "canceled"


async def test_on_cancel_says_when_it_could_not(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(NEVER)
    async with client(PROXY) as hf:
        task = await hf.submit(PROXY.request)
        await cancelled_once(lambda: polls(sandbox), task.wait(on_cancel="cancel"))
    assert "cannot cancel" in caplog.text


async def test_on_cancel_is_bounded(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._task.CANCEL_GRACE", 0.1)
    sandbox.plan(NEVER)
    sandbox.script("cancel", Fault.delay(20, accept=False))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        with anyio.fail_after(10):
            await cancelled_once(lambda: polls(sandbox), task.wait(on_cancel="cancel"))
    assert "was not canceled within 0.1 seconds" in caplog.text


BAD = {
    "500": Fault.answer(500),
    "502 html": Fault.html(502),
    "reset": Fault.reset(),
    "429": Fault.answer(429),
    "html 200": Fault.ok_html(),
    "truncated": Fault.truncate(),
    "no jobs": Fault.answer(200, b'{"id":"x"}'),
    "403 page": Fault.html(403),
    "428 gateway": Fault.answer(428, b'{"error":{"message":"gate way error...","code":"gate_check_way_error"}}'),
    "402": Fault.answer(402),
    "404 page": Fault.html(404),
    "400 page": Fault.html(400),
    "401 page": Fault.html(401),
    "portal": Fault.answer(302, headers={"Location": "http://portal.example.com/login"}),
    "409": Fault.answer(409),
    "204": Fault.answer(204),
}


@pytest.mark.parametrize("name", BAD)
async def test_failed_looks_do_not_end_a_wait(sandbox: Sandbox, client: Client, surface: Surface, name: str) -> None:
    if name.startswith("428") and surface.service != "proxy":
        pytest.skip("428 is the proxy's")
    sandbox.script("poll", *[BAD[name]] * 8)
    async with client(surface) as hf:
        assert (await hf.run(surface.request)).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == 1


async def test_an_empty_balance_does_not_end_a_wait(sandbox: Sandbox, client: Client) -> None:
    points = b'{"error":{"message":"Insufficient points, please recharge \xe7\xa7\xaf\xe5\x88\x86"}}'
    sandbox.script("poll", *[Fault.answer(428, points)] * 3)
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        assert (await task.wait()).status is JobStatus.COMPLETED
        sandbox.script("poll", Fault.answer(428, points))
        with pytest.raises(InsufficientCredits) as caught:
            await task.refresh()
    assert caught.value.ref == task.ref


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.answer(404, b'{"detail":"Not found"}'), NotFound),
        (Fault.answer(401, b'{"detail":"Invalid credentials"}'), AuthenticationFailed),
        (Fault.answer(403, b'{"code":"api_key_disabled","detail":"disabled"}'), PermissionDenied),
    ],
    ids=["404", "401", "403"],
)
async def test_what_will_not_pass_ends_every_wait_and_not_the_next(
    sandbox: Sandbox, client: Client, surface: Surface, fault: Fault, kind: type[AuthenticationFailed]
) -> None:
    sandbox.plan(Plan(queued=50, running=1))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        updates = task.updates()
        assert (await anext(updates)).status is JobStatus.QUEUED
        sandbox.script("poll", fault)
        found = await asyncio.gather(task.wait(), task.wait(), anext(updates), return_exceptions=True)
        assert [type(error) for error in found] == [kind] * 3
        assert len(set(map(id, found))) == 3
        for error in found:
            assert isinstance(error, kind)
            assert error.ref == task.ref
            assert error.charged == "unknown"
        assert (await task.wait()).status is JobStatus.COMPLETED


async def test_a_deadline_raises_with_the_ref_and_the_generation_goes_on(
    sandbox: Sandbox, client: Client, surface: Surface
) -> None:
    sandbox.plan(NEVER)
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        with pytest.raises(WaitTimeout, match="did not end within 0.1 seconds; it was queued") as caught:
            await task.wait(timeout=0.1)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.ref == task.ref
        assert caught.value.job_set is not None
        with pytest.raises(WaitTimeout):
            async for _ in task.updates(timeout=0.1):
                pass
        with pytest.raises(WaitTimeout):
            await hf.run(surface.request, timeout=0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, WaitTimeout)
    assert again.ref == task.ref


async def test_a_deadline_tells_of_the_last_failed_look(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", *[Fault.answer(503)] * 1000)
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        with pytest.raises(WaitTimeout, match="The last poll of it failed: .*503") as caught:
            await task.wait(timeout=0.2)
        assert isinstance(caught.value.__cause__, ServiceUnavailable)


async def test_the_policy_has_the_default_deadline(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(poll=PollPolicy.fixed(0.02, deadline=0.1)) as hf:
        task = await hf.submit(PROXY.request)
        with pytest.raises(WaitTimeout, match=r"within 0\.1 seconds"):
            await task.wait()
        with anyio.move_on_after(0.3) as scope:
            await task.wait(timeout=math.inf)
        assert scope.cancelled_caught
        with pytest.raises(ConfigurationError):
            await task.wait(timeout=math.nan)


async def test_a_task_that_was_picked_up(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    async with client(surface) as hf:
        text = (await hf.submit(surface.request)).ref.to_json()
    async with client(surface, poll=PollPolicy(first=30, longest=30)) as hf:
        task = hf.task(text)
        assert task.status is JobStatus.UNKNOWN
        assert task.job_set is None
        assert task.ref.to_json() == text
        # It is looked at once, without the policy's first gap.
        assert (await anext(task.updates(timeout=5))).id == task.id
    assert len(sandbox.generations) == 1


async def test_a_picked_up_task_that_was_never_seen(client: Client, sandbox: Sandbox) -> None:
    async with client() as hf:
        ref = (await hf.submit(PROXY.request)).ref
    sandbox.script("poll", *[Fault.answer(500)] * 1000)
    async with client() as hf:
        with pytest.raises(WaitTimeout, match="not seen yet"):
            await anext(hf.task(ref).updates(timeout=0.1))


async def test_unknown_words_are_no_end(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.plan(Plan(queued=5, running=10, word="ip_detected"))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        seen = [(job_set.status, job_set.jobs[0].raw_status) async for job_set in task.updates() if job_set.jobs]
    assert (JobStatus.UNKNOWN, "ip_detected") in seen
    assert seen[-1][0] is JobStatus.COMPLETED


async def test_jobs_with_different_ends(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(ends=("nsfw", "completed", "failed"), outputs=3))
    async with client(V1) as hf:
        done = await hf.run(V1.request)
    assert [job.status for job in done.jobs] == [JobStatus.NSFW, JobStatus.COMPLETED, JobStatus.FAILED]
    assert done.status is JobStatus.COMPLETED
    assert done.charged == "unknown"
    assert done.jobs[0].media is None


async def test_a_completed_generation_gets_time_for_its_address(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(linkless=3))
    async with client() as hf:
        done = await hf.run(PROXY.request)
    assert done.jobs[0].media is not None


async def test_but_not_for_ever(sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("higgsfield_async._tracker.LINK_GRACE", 0.1)
    sandbox.plan(Plan(linkless=1000))
    async with client() as hf:
        done = await hf.run(PROXY.request)
    assert done.status is JobStatus.COMPLETED
    assert done.jobs[0].media is None


async def test_cancel(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=PollPolicy.fixed(60)) as hf:
        task = await hf.submit(V2.request)
        waiting = asyncio.create_task(task.wait())
        await anyio.lowlevel.checkpoint()
        await task.cancel()
        # The waiter hears of it at once, not after the minute.
        with pytest.raises(GenerationCanceled), anyio.fail_after(5):
            await waiting
        # Again, it is canceled already: nothing to complain of.
        await task.cancel()


async def test_a_cancel_whose_answer_was_lost(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    sandbox.script("cancel", Fault.reset(accept=True))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        await task.cancel()
        assert sandbox.generations[task.id].status == "canceled"


async def test_a_look_that_was_brought_forward_is_not_made_twice(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, NEVER)
    async with client(V2, poll=PollPolicy.fixed(0.2)) as hf:
        task, other = await hf.submit(V2.request), await hf.submit(V2.request)
        waiting = [asyncio.create_task(each.wait(timeout=0.5)) for each in (task, other)]
        await anyio.sleep(0.05)
        await task.cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [GenerationCanceled, WaitTimeout]
    assert sum(task.id in received.path for received in sandbox.received if received.operation == "poll") == 1


async def test_cancel_too_late(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=1e9))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        with pytest.raises(NotCancelable, match="only while all of it is still queued") as caught:
            await task.cancel()
        assert caught.value.status == 400
        assert caught.value.ref == task.ref
        sandbox.script("cancel", Fault.answer(404, b'{"detail":"Not found"}'))
        with pytest.raises(NotFound):
            await task.cancel()


@pytest.mark.parametrize("surface", [PROXY, V1], ids=str)
async def test_cancel_and_delete_where_there_is_none(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        asked = len(sandbox.received)
        for operation in (task.cancel, task.delete):
            with pytest.raises(Unsupported, match="cannot") as caught:
                await operation()
            assert caught.value.ref == task.ref
        assert len(sandbox.received) == asked


async def test_delete(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        await task.wait()
        await task.delete()
        await task.delete()
        assert sandbox.generations[task.id].deleted
        sandbox.script("delete", Fault.answer(404, b'{"detail":"Not found"}'))
        with pytest.raises(NotFound) as caught:
            await task.delete()
    assert caught.value.ref == task.ref


async def test_closing_in_the_middle_tells_whoever_waits(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.plan(NEVER)
    hf = client(surface)
    task = await hf.submit(surface.request)
    updates = task.updates()
    await anext(updates)
    waiting = [asyncio.create_task(task.wait()), asyncio.ensure_future(anext(updates))]
    await anyio.sleep(0.1)
    await hf.close()
    for found in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(found, ClientClosed)
        assert found.ref == task.ref
        assert TaskRef.from_json(found.ref.to_json()) == task.ref
    with pytest.raises(ClientClosed):
        await task.wait()


async def test_closing_in_the_middle_of_a_look(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", Fault.delay(5))
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        waiting = asyncio.create_task(task.wait())
        await anyio.sleep(0.1)
    with pytest.raises(ClientClosed):
        await waiting


async def test_a_fault_of_our_own_ends_waits_too(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        # No wait may hang because the schedule has died of something unforeseen.
        monkeypatch.setattr(ProxyTransport, "poll", broken)
        with pytest.raises(ClientClosed) as caught:
            await task.wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(ClientClosed):
            await task.wait()


async def test_a_slow_watcher_sees_the_end_and_holds_nobody_up(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=5, running=5))
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        updates = task.updates()
        assert (await anext(updates)).status is JobStatus.QUEUED
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert [job_set.status async for job_set in updates] == [JobStatus.COMPLETED]


async def test_refresh_tells_whoever_waits(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0))
    async with client(poll=PollPolicy.fixed(60)) as hf:
        task = await hf.submit(PROXY.request)
        waiting = asyncio.create_task(task.wait())
        await anyio.lowlevel.checkpoint()
        assert (await task.refresh()).status is JobStatus.COMPLETED
        assert await waiting is task.job_set
        sandbox.script("poll", *[Fault.answer(429)] * 9)
        with pytest.raises(RateLimited):
            await task.refresh()


async def test_a_late_answer_does_not_undo_an_end(sandbox: Sandbox, client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        done = await task.wait()
        sandbox.script("poll", Fault.answer(200, b'{"id":"x","jobs":[{"id":"y","status":"queued"}]}'))
        assert (await task.refresh()).status is JobStatus.QUEUED
        assert task.job_set is done


async def test_hurry_and_many_short_waits_keep_one_plan(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=PollPolicy.fixed(60)) as hf:
        task = await hf.submit(V2.request)
        for _ in range(50):
            with pytest.raises(WaitTimeout):
                await task.wait(timeout=0)
        await anyio.sleep(0.05)
        assert polls(sandbox) == 0, "nobody waits: nothing is looked at"
        await task.cancel()
        while not task.status.terminal:
            await anyio.sleep(0.01)
        assert polls(sandbox) == 1, "its end settles what it costs"
        with pytest.raises(GenerationCanceled):
            await task.wait()
        assert polls(sandbox) == 1


async def test_repr(sandbox: Sandbox, client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        assert repr(task) == f"GenerationTask({task.id!r}, status='queued', kind='image-to-video/turbo')"


async def test_a_fault_of_our_own_ends_paying(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.plan(*[NEVER] * 3)
    async with client(V2, limits=Limits(max_active=2, max_connections=2)) as hf:
        task = await hf.submit(V2.request)
        sandbox.script("submit", Fault.delay(0.2))

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(PlatformTransport, "poll", broken)
        outcomes = hf.map([V2.request] * 5)
        first = asyncio.create_task(anext(outcomes))
        with pytest.raises(ClientClosed):
            await task.wait()
        # It was under way when the polling stopped, and is not lost; the next one found no place.
        found = [await first]
        with pytest.raises(ClientClosed):
            await taken(outcomes, found)
        refs = [outcome.ref.id for outcome in found if outcome.ref]
        assert {task.id, *refs} == set(sandbox.generations)
        assert len(refs) == 1
        for outcome in found:
            assert isinstance(outcome.error, ClientClosed)
        # A submit is not paid for by a client that cannot look at it.
        with pytest.raises(ClientClosed, match="polling") as caught:
            await hf.submit(V2.request)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.charged == "no"
    assert len(sandbox.generations) == 2


async def test_two_changes_at_once_are_told_as_one(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(poll=PollPolicy.fixed(60)) as hf:
        task = await hf.submit(PROXY.request)
        following = asyncio.create_task(task.wait(check=False))
        await anyio.sleep(0.01)
        for status in (JobStatus.IN_PROGRESS, JobStatus.FAILED):
            job = Job(id="x", status=status, raw_status=status.value)
            hf._opened().tracker.saw(task._tracked, JobSet(id=task.id, jobs=(job,)))
        assert (await following).status is JobStatus.FAILED


async def test_what_has_ended_when_it_is_picked_up(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.plan(Plan(queued=0, running=0))
    async with client(surface) as hf:
        ref = (await hf.submit(surface.request)).ref
    async with client(surface) as hf:
        assert (await hf.task(ref).wait()).status is JobStatus.COMPLETED
        assert hf.open_tasks() == []
        assert hf.stats().done == 1


async def test_what_nobody_asks_for_is_not_kept_for_ever(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._tracker.KEPT_AT_HAND", 0.05)
    sandbox.plan(*[NEVER] * 3)
    async with client(V1) as hf:
        first = await hf.submit(V1.request)
        waiting = asyncio.create_task(first.wait())
        await anyio.sleep(0.1)
        second = await hf.submit(V1.request)
        # Somebody waits for the first, so that it is seen again and again.
        assert [task.id for task in hf.open_tasks()] == [first.id, second.id]
        waiting.cancel()
        await anyio.sleep(0.1)
        third = await hf.submit(V1.request)
        assert [task.id for task in hf.open_tasks()] == [second.id, third.id]


async def test_a_look_that_ends_well_beside_one_that_breaks() -> None:
    limits = Limits(max_connections=2)
    looks: list[asyncio.Future[JobSet]] = []

    async def look(_: Tracked) -> JobSet:
        looks.append(asyncio.get_running_loop().create_future())
        return await looks[-1]

    pace = Pace(limits, RetryPolicy(), lambda: 0.0)
    tracker = Tracker(
        look,
        news=lambda _tracked, _job_set: None,
        idle=lambda _: None,
        pace=pace,
        poll=PollPolicy.fixed(0.01),
        retry=RetryPolicy(),
        limits=limits,
    )
    tracked = [
        tracker.track(
            TaskRef(
                transport="proxy",
                origin="o",
                account="a",
                id=name,
                kind="k",
                created_at=datetime(2026, 11, 22, tzinfo=UTC),
            )
        )
        for name in "ab"
    ]
    waiting = [asyncio.create_task(tracker.change(each, each.version)) for each in tracked]
    while len(looks) < 2:
        await anyio.sleep(0.001)
    job = Job(id="x", status=JobStatus.FAILED, raw_status="failed")
    looks[0].set_exception(ZeroDivisionError())
    looks[1].set_result(JobSet(id="b", jobs=(job,)))
    broken, ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(broken, ClientClosed)
    assert ended == 1
    await tracker.close()


def test_news_of_one_job_of_several() -> None:
    ref = TaskRef(transport="proxy", origin="https://a.b", account="0", id="1", kind="k", created_at=datetime.now(UTC))

    def seen(first: str, second: str, *urls: str) -> JobSet:
        outputs = tuple(Media(url, "image") for url in urls)
        jobs = [
            Job(id=identifier, status=JobStatus(word), raw_status=word, outputs=outputs if word == "completed" else ())
            for identifier, word in (("a", first), ("b", second))
        ]
        return JobSet(id="1", jobs=tuple(jobs))

    tracked = Tracked(ref, seen("queued", "in_progress"), 0.0)
    assert not tracked.see(seen("queued", "in_progress"), 1.0)
    assert tracked.see(seen("in_progress", "in_progress"), 2.0)
    assert tracked.see(seen("completed", "in_progress", "https://a.b/1"), 3.0)
    # Another address of the same file, signed anew, is no news.
    assert not tracked.see(seen("completed", "in_progress", "https://a.b/2"), 4.0)
    assert tracked.see(seen("completed", "completed", "https://a.b/3"), 5.0)
    assert tracked.ended
