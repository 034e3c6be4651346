"""Generations as server-sent events: what is told, once, and to how many."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from higgsfield_async import ConfigurationError, Higgsfield, JobStatus, PollPolicy, TaskRef, sse
from higgsfield_async._events import HEARTBEAT, Events
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]
ENDLESS = PollPolicy.fixed(3600)


def read(chunk: bytes) -> tuple[str, str, Any]:
    """The id, the name and the data of an event, as a browser reads it."""
    assert chunk.endswith(b"\n\n")
    fields = dict(line.split(": ", 1) for line in chunk.decode()[:-2].split("\n"))
    return fields["id"], fields.get("event", "message"), json.loads(fields["data"])


async def told(stream: AsyncIterator[bytes]) -> list[tuple[str, str, Any]]:
    return [read(chunk) async for chunk in stream if chunk != HEARTBEAT]


def polls(sandbox: Sandbox) -> int:
    return sum(received.operation == "poll" for received in sandbox.received)


async def test_each_change_is_told_once_and_the_end_last(sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.plan(Plan(queued=10, running=10))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        events = await told(sse.events(task))
        assert [(mark, name, data["status"]) for mark, name, data in events] == [
            ("q", "message", "queued"),
            ("i", "message", "in_progress"),
            ("c", "message", "completed"),
        ]
        last = events[-1][2]
        assert last["ref"] == task.ref.short
        assert (last["id"], last["kind"], last["ended"]) == (task.id, task.ref.kind, True)
        assert last["outputs"][0]["url"].startswith(sandbox.media_url)
        assert last["charged"] == "yes"
        assert [job["status"] for job in last["jobs"]] == ["completed"]


async def test_the_headers_go_out_before_there_is_anything_to_tell(client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        assert await anext(sse.events(task)) == HEARTBEAT


async def test_what_was_told_before_is_not_told_again(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=20, running=100))
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        assert [mark for mark, _, _ in await told(sse.events(task, last_event_id="q"))] == ["i", "c"]
        assert await told(sse.events(task, last_event_id="c")) == []
        # Of another stream, or of no stream of ours: all is told.
        assert [mark for mark, _, _ in await told(sse.events(task, last_event_id="q.q"))] == ["c"]
        assert [mark for mark, _, _ in await told(sse.events(task, last_event_id="\x00?"))] == ["c"]


@pytest.mark.parametrize(
    ("last", "over"),
    [
        ("", False),
        ("q", False),
        ("c", True),
        ("c.i", False),
        ("c.n.!", True),
        ("ccq", False),
        ("cf", True),
        ("-", False),
    ],
)
def test_when_a_stream_is_over(last: str, *, over: bool) -> None:
    assert sse.is_over(last, last.count(".") + 1) is over
    assert not sse.is_over(last, last.count(".") + 2)


@given(st.text(alphabet="qicfnxu-!.é"))
def test_any_last_event_id_is_read(last: str) -> None:
    assert isinstance(sse.is_over(last), bool)


async def test_jobs_that_end_one_by_one(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0, ends=("completed", "failed"), outputs=2))
    async with client(V1) as hf:
        task = await hf.submit(V1.request)
        events = await told(sse.events(task))
        assert events[-1][0] == "cf"
        assert [job["status"] for job in events[-1][2]["jobs"]] == ["completed", "failed"]
        assert sse.is_over("cf")


async def test_several_in_one_stream(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=10, running=10), Plan(queued=0, running=0, end="nsfw"))
    async with client(V2) as hf:
        tasks = [await hf.submit(V2.request) for _ in range(2)]
        events = await told(sse.events(*tasks))
        for task, ends in zip(tasks, ("completed", "nsfw"), strict=True):
            own = [data["status"] for _, _, data in events if data["ref"] == task.ref.short]
            assert own == sorted(set(own), key=["queued", "in_progress", ends].index)
            assert own[-1] == ends
        assert events[-1][0] == "c.n"
        # A browser that comes again is told only of the one that has changed.
        assert [data["ref"] for _, _, data in await told(sse.events(*tasks, last_event_id="q.n"))] == [
            tasks[0].ref.short
        ]


async def test_one_that_cannot_be_looked_at_is_a_problem_and_ends_alone(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        known = await hf.submit(V2.request)
        unknown = hf.task(TaskRef.from_json(known.ref.to_json().replace(known.id, "no-such-id")))
        events = await told(sse.events(known, unknown))
        ((mark, _, document),) = [event for event in events if event[1] == "problem"]
        assert mark.endswith(".!")
        assert (document["status"], document["error"], document["ref"]) == (404, "NotFound", unknown.ref.short)
        assert events[-1][0] == "c.!"
        assert sse.is_over("c.!", 2)
        # What cannot be looked at is not looked at again for this stream, nor is that told to a new one.
        asked = sum(unknown.id in received.path for received in sandbox.received)
        assert asked == 1
        stream = sse.events(unknown, heartbeat=0.01)
        assert [chunk for chunk in [await anext(stream), await anext(stream)] if b"problem" not in chunk]


async def test_a_poll_that_fails_for_a_moment_is_not_told(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", Fault.html(502), Fault.reset())
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        assert {name for _, name, _ in await told(sse.events(task))} == {"message"}


async def test_one_picked_up_is_told_when_it_was_looked_at(client: Client) -> None:
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        await task.wait()
    async with client(V2) as again:
        (event,) = await told(sse.events(again.task(task.ref.short)))
        assert event[2]["status"] == "completed"
        assert event[2]["created_at"][:19] == task.ref.created_at.isoformat()[:19]


async def test_heartbeats(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=1e9))
    async with client(poll=ENDLESS) as hf:
        task = await hf.submit(PROXY.request)
        stream = sse.events(task, heartbeat=0.01)
        chunks = [await anext(stream) for _ in range(4)]
        assert read(chunks[1])[0] == "q"
        assert [chunks[0], *chunks[2:]] == [HEARTBEAT] * 3
        assert polls(sandbox) == 0


async def test_it_ends_with_the_client(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=1e9))
    async with client(poll=ENDLESS) as hf:
        task = await hf.submit(PROXY.request)
        waiting, later = sse.events(task), sse.events(task)
        watching = asyncio.create_task(told(waiting))
        await asyncio.sleep(0.01)
    assert [data["status"] for _, _, data in await watching] == ["queued"]
    assert [data["status"] for _, _, data in await told(later)] == ["queued"]
    assert [data["status"] for _, _, data in await told(sse.events(task))] == ["queued"]


async def test_a_thousand_watchers_cost_one_poller(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=50, running=100))
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        everyone = await asyncio.gather(*(told(sse.events(task)) for _ in range(1000)))
        assert {tuple(mark for mark, _, _ in events) for events in everyone} == {("q", "i", "c")}
        assert polls(sandbox) < 100


async def test_a_slow_watcher_holds_up_nobody_and_sees_the_end(client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        slow = sse.events(task)
        assert await anext(slow) == HEARTBEAT
        assert read(await anext(slow))[0] == "q"
        await told(sse.events(task))
        assert [mark for mark, _, _ in await told(slow)] == ["c"]


async def test_leaving_it_leaves_nothing_behind(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=1e9))
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        stream = sse.events(task)
        await anext(stream)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        assert task._tracked.listeners
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not task._tracked.listeners
        del stream, waiting
        gc.collect()
        asked = polls(sandbox)
        await asyncio.sleep(0.1)
        assert polls(sandbox) <= asked + 1


async def test_it_may_be_stopped(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=1e9))
    async with client() as hf:
        stream = Events((await hf.submit(PROXY.request),), "", 15)
        watching = asyncio.create_task(told(stream))
        await asyncio.sleep(0.01)
        stream.stop()
        stream.stop()
        assert [mark for mark, _, _ in await watching] == ["q"]


async def test_settings_that_cannot_be(client: Client) -> None:
    async with client() as hf:
        task = await hf.submit(PROXY.request)
        with pytest.raises(ConfigurationError):
            sse.events()
        with pytest.raises(ConfigurationError):
            sse.events(task, heartbeat=0)
        async with client() as other:
            with pytest.raises(ConfigurationError, match="all of one client"):
                sse.events(task, other.task(task.ref))


async def test_a_state_before_the_first_look(client: Client) -> None:
    async with client(V2) as hf:
        made = await hf.submit(V2.request)
    async with client(V2) as again:
        state = sse.state_of(again.task(made.ref))
        assert (state.status, state.ended, state.charged, state.jobs) == (JobStatus.UNKNOWN, False, "unknown", ())


async def test_of_what_has_no_jobs_nothing_is_said_to_be_charged(client: Client) -> None:
    async with client(PROXY) as hf:
        task = await hf.submit(PROXY.request)
        assert task.job_set is not None
        assert not task.job_set.jobs
        assert sse.state_of(task).charged == "unknown"
        assert sse.state_of(task).status is JobStatus.QUEUED
