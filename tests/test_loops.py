"""Other event loops than asyncio's own: uvloop, and asyncio's with tasks that begin at once."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from higgsfield_async import (
    Ad,
    Higgsfield,
    JobStatus,
    Keyframes,
    Limits,
    MediaSource,
    PollPolicy,
    RateLimited,
    Stats,
    WaitTimeout,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import Surface


def uvloops() -> asyncio.AbstractEventLoop:
    uvloop: Any = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def eager() -> asyncio.AbstractEventLoop:
    eagerly: Any = getattr(asyncio, "eager_task_factory", None)
    if eagerly is None:
        pytest.skip("eager tasks came with 3.12")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(eagerly)
    return loop


async def everything(sandbox: Sandbox, surface: Surface) -> None:
    transport = sandbox.proxy() if surface.service == "proxy" else sandbox.platform()
    limits = Limits(max_active=7, requests_per_second=500, burst=20, max_connections=8, patience=5)
    async with Higgsfield(transport, poll=PollPolicy.fixed(0.02, deadline=10), limits=limits) as hf:
        sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "0"}), Fault.html(502))
        sandbox.script("poll", Fault.answer(429, headers={"Retry-After": "0"}), Fault.reset(), Fault.truncate())
        found = await hf.gather([surface.request] * 30, return_exceptions=True)
        ended = [each for each in found if not isinstance(each, Exception)]
        # The page of a gateway in place of an answer: one submit may be lost, where there is no key to recover it by.
        assert len(ended) >= (30 if surface.keyed else 29)
        assert {each.status for each in ended} == {JobStatus.COMPLETED}
        assert hf.stats() == Stats(waiting=0, queued=0, running=0, done=len(ended), failed=0)

        sandbox.plan(*[Plan(queued=1e9)] * 7)
        tasks = [await hf.submit(surface.request) for _ in range(7)]
        with pytest.raises(WaitTimeout):
            await tasks[0].wait(timeout=0.05)
        with pytest.raises(RateLimited):
            await hf.run(surface.request, timeout=0.05)
        left = asyncio.create_task(tasks[1].wait())
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.wait([left])
        assert [task.ref for task in hf.open_tasks()] == [task.ref for task in tasks]
    assert len(sandbox.generations) == 37 if surface.keyed else 36 <= len(sandbox.generations) <= 37
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


@pytest.mark.parametrize("factory", [uvloops, eager])
def test_another_loop(factory: Callable[[], asyncio.AbstractEventLoop], surface: Surface) -> None:
    with Sandbox(speed=100) as sandbox, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(everything(sandbox, surface))


async def with_files(sandbox: Sandbox, folder: Path) -> None:
    large = b"\x89PNG\r\n\x1a\n" + os.urandom(4 * 2**20)
    path = folder / "large.png"
    await anyio.Path(path).write_bytes(large)
    uri = "data:image/png;base64," + base64.b64encode(large).decode()
    ways: list[MediaSource] = [path, large, io.BytesIO(large), uri, Image.new("RGB", (800, 800), "red")]
    poll = PollPolicy.fixed(0.02, deadline=10)
    async with Higgsfield(sandbox.platform(), poll=poll) as hf:
        await hf.gather([Keyframes(prompt="x", image_references=ways)] * 5)
    async with Higgsfield(sandbox.proxy(), poll=poll) as hf:
        await hf.gather([Ad(product_placement_sample_id="x", images=[way]) for way in ways])
    assert len([received for received in sandbox.received if received.method == "PUT"]) == 2
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloops, eager])
def test_files_do_not_block(factory: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path) -> None:
    with Sandbox(speed=100) as sandbox, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(with_files(sandbox, tmp_path))
