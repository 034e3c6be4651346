"""A cluster: the verbs of a client over a database, and a worker that has the key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clusters import POLL, until
from workers import WorkerProcess

from higgsfield_async import (
    ConfigurationError,
    DopVideo,
    GenerationCanceled,
    Higgsfield,
    HiggsfieldError,
    InvalidRequest,
    JobStatus,
    JournalError,
    Keyframes,
    NotCancelable,
    NotFound,
    Outcome,
    PollPolicy,
    RetryPolicy,
    SubmissionUnknown,
    TaskRef,
    Transport,
    Unsupported,
)
from higgsfield_async.cluster import Cluster
from higgsfield_async.sandbox import Fault, Sandbox
from surfaces import IMAGE, PROXY, V1, V2, Surface

PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000") + bytes(64)


@pytest.fixture
def dsn(cluster_dsn: str) -> str:
    return cluster_dsn


@pytest.fixture
async def hf(dsn: str) -> AsyncGenerator[Cluster]:
    """What a web process has."""
    async with Cluster(dsn, account="a", poll=POLL, allow_private=True) as opened:
        yield opened


@contextlib.asynccontextmanager
async def working(
    dsn: str, transports: Transport | dict[str, Transport], *, ends: type[BaseException] | None = None, **settings: Any
) -> AsyncGenerator[asyncio.Task[None]]:
    """A worker in this process, ended in order."""
    worker = asyncio.create_task(
        Cluster(dsn, account="a", **settings).run_worker(
            transports, poll=PollPolicy.fixed(0.03), retry=RetryPolicy(first=0.01, longest=0.05)
        )
    )
    try:
        yield worker
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError, *(() if ends is None else (ends,))):
            await worker


def posts(sandbox: Sandbox) -> int:
    """How many submits there were, accepted or not."""
    return sum(each.operation == "submit" for each in sandbox.received)


async def test_what_is_submitted_here_is_made_there(dsn: str, sandbox: Sandbox, hf: Cluster, surface: Surface) -> None:
    transport = sandbox.proxy() if surface.service == "proxy" else sandbox.platform()
    async with working(dsn, transport), Cluster(dsn, account="a", poll=POLL) as other:
        task = await hf.submit(surface.request, key="order-17")
        assert (task.key, task.id, task.ref.transport, task.ref.account) == ("order-17", "order-17", "cluster", "a")
        assert task.ref.origin.endswith(dsn.rpartition("@")[2])
        elsewhere = other.task(task.ref.to_json())
        states = [state.status async for state in elsewhere.updates(15)]
        made = await task.wait()
    assert states[-1] is made.status is JobStatus.COMPLETED
    assert states == sorted(set(states), key=states.index)
    (paid,) = sandbox.generations
    assert made.id == "order-17"
    assert paid in made.body.decode()
    assert hf.task(task.ref.short).id == task.id


async def test_a_cluster_is_a_client(dsn: str, sandbox: Sandbox, hf: Cluster, tmp_path: Path) -> None:
    assert isinstance(hf, Higgsfield)
    requests = [Keyframes(prompt=f"number {number}") for number in range(5)]
    told: list[Outcome] = []
    async with working(dsn, sandbox.platform(), max_active=3, submits_per_second=50):
        outcomes = [each async for each in hf.map(requests, save=tmp_path, on_update=told.append)]
        assert {each.error for each in outcomes} == {None}
        assert all(media.path is not None for each in outcomes if each.job_set for media in each.job_set.outputs[:1])
        # The same batch again is the same generations.
        again = await hf.gather(requests)
        assert [each.status for each in again] == [JobStatus.COMPLETED] * 5
        assert len(sandbox.generations) == posts(sandbox) == 5
        made = await hf.run(V1.request, timeout=10)
        assert await hf.task((await hf.submit(V1.request)).ref).save(tmp_path / "one")
    assert made.status is JobStatus.COMPLETED
    counts = await hf.counts()
    assert (counts.waiting, counts.queued, counts.running, counts.done, counts.failed) == (0, 0, 0, 7, 0)
    assert not hf.open_tasks()


async def test_a_key_is_one_generation(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    async with Cluster(dsn, account="a", poll=POLL) as other:
        tasks = await asyncio.gather(*(each.submit(V1.request, key="one") for each in [hf, other] * 5))
        with pytest.raises(InvalidRequest, match="stands for another request"):
            await other.submit(Keyframes(prompt="another"), key="one")
        assert len({task.ref for task in tasks}) == 1
        assert [task.id async for task in other.recover()] == ["one"]
        async with working(dsn, sandbox.platform()):
            await asyncio.gather(*(task.wait() for task in tasks))
            assert (await hf.submit(V1.request, key="one")).status is JobStatus.COMPLETED
    assert posts(sandbox) == 1
    assert [task.id async for task in hf.recover()] == []


async def test_a_refusal_is_told_in_the_same_words_and_tried_anew(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    refusal = Fault.answer(403, b'{"detail": "not_enough_credits"}', {"Content-Type": "application/json"})
    sandbox.script("submit", refusal, refusal)
    async with Higgsfield(sandbox.platform()) as direct:
        with pytest.raises(HiggsfieldError) as plain:
            await direct.submit(V1.request)
    async with working(dsn, sandbox.platform()):
        task = await hf.submit(V1.request, key="poor")
        with pytest.raises(HiggsfieldError) as refused:
            await task.wait()
        assert type(refused.value) is type(plain.value)
        assert str(refused.value) == str(plain.value)
        assert refused.value.charged == plain.value.charged == "no"
        assert refused.value.ref == task.ref
        with pytest.raises(type(plain.value)):
            await task.refresh()
        with pytest.raises(type(plain.value)):
            async for _ in task.updates():
                pass
        # What was refused is nobody's: the same key tries again.
        assert (await (await hf.submit(V1.request, key="poor")).wait()).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == 1
    assert (await hf.counts()).done == 1


async def test_what_is_lost_is_told_and_never_sent_again(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with working(dsn, sandbox.platform()):
        task = await hf.submit(V1.request, key="lost")
        with pytest.raises(SubmissionUnknown) as lost:
            await task.wait()
        assert (lost.value.charged, lost.value.journal_key) == ("unknown", "lost")
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V1.request, key="lost")
        (entry,) = await hf.unknown()
        assert entry.key == "lost"
        assert (await hf.counts()).failed == 1
        (paid,) = sandbox.generations
        found = await hf.resolve("lost", paid)
        assert (await found.wait()).status is JobStatus.COMPLETED
        assert (await task.wait()).id == "lost"
        assert not await hf.unknown()
        with pytest.raises(JournalError):
            await hf.resolve("lost", paid)
    assert posts(sandbox) == 1


async def test_what_is_forgotten_may_be_paid_again(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with working(dsn, sandbox.platform()):
        with pytest.raises(SubmissionUnknown):
            await (await hf.submit(V1.request, key="lost")).wait()
        assert (await hf.forget("lost")).state == "unknown"
        with pytest.raises(NotFound):
            await hf.task((await hf.submit(V1.request, key="other")).ref.to_json().replace("other", "lost")).wait()
        await (await hf.submit(V1.request, key="lost")).wait()
        with pytest.raises(JournalError):
            await hf.forget("never")
    assert posts(sandbox) == 3


async def test_an_idempotency_key_heals_what_was_lost(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    # More than a client tries by itself.
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5)
    async with working(dsn, sandbox.platform()):
        assert (await (await hf.submit(V2.request, key="kept")).wait()).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == 1


async def test_what_no_worker_took_is_canceled_and_costs_nothing(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    task = await hf.submit(V1.request, key="never")
    await task.cancel()
    with pytest.raises(GenerationCanceled) as canceled:
        await task.wait()
    assert canceled.value.charged == "no"
    await hf.task(task.ref.to_json()).cancel()
    async with working(dsn, sandbox.platform()):
        await (await hf.submit(V1.request, key="other")).wait()
        assert len(sandbox.generations) == 1
        # Canceled is not refused for ever: it may be wanted after all.
        again = await hf.submit(V1.request, key="never")
        await until(lambda: len(sandbox.generations) == 2)
        assert again.key == "never"
    with pytest.raises(NotFound):
        await hf.task(TaskRef.from_json(task.ref.to_json().replace("never", "nothing"))).cancel()


async def test_a_worker_cancels_what_was_submitted(dsn: str, hf: Cluster) -> None:
    async with Sandbox(speed=2) as sandbox, working(dsn, sandbox.platform()):
        task = await hf.submit(V2.request, key="stop")
        await until(lambda: bool(sandbox.generations))
        await task.cancel()
        with pytest.raises(GenerationCanceled):
            await task.wait()
        made = await hf.submit(Keyframes(prompt="too late"))
        await made.wait()
        with pytest.raises(NotCancelable):
            await made.cancel()


async def test_what_cannot_be_canceled_is_told_in_the_services_words(dsn: str, hf: Cluster) -> None:
    async with Sandbox(speed=0.5) as sandbox, working(dsn, sandbox.proxy()):
        task = await hf.submit(PROXY.request, key="on")
        await until(lambda: bool(sandbox.generations))
        with pytest.raises(Unsupported, match="proxy"):
            await task.cancel()
        with pytest.raises(Unsupported, match="no key"):
            await task.delete()


async def test_limits_hold_for_all_workers(dsn: str, hf: Cluster) -> None:
    # A submit beyond its limit is refused by the service, and seen.
    async with Sandbox(speed=40, max_concurrent=3) as sandbox:
        async with (
            WorkerProcess(dsn, sandbox, max_active=3, submits_per_second=40) as first,
            WorkerProcess(dsn, sandbox) as second,
        ):
            await asyncio.gather(first.ready(), second.ready())
            await hf.gather([Keyframes(prompt=str(number)) for number in range(20)])
        assert posts(sandbox) == len(sandbox.generations) == 20
        assert (await hf.counts()).done == 20


async def test_limits_can_be_changed_while_workers_run(dsn: str, hf: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="No worker has run"):
        await hf.set_limits(max_active=1)
    async with Sandbox(speed=20) as sandbox, working(dsn, sandbox.platform(), max_active=1):
        first = await hf.submit(Keyframes(prompt="0"))
        others = [await hf.submit(Keyframes(prompt=str(number))) for number in range(1, 6)]
        async for state in first.updates():
            if state.status is JobStatus.IN_PROGRESS:
                assert len(sandbox.generations) == 1
        await hf.set_limits(max_active=10, submits_per_second=100)
        await asyncio.gather(*(task.wait() for task in others))
        await hf.set_limits()


async def test_each_account_has_its_key_and_its_queue(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    async with (
        Cluster(dsn, account="b", poll=POLL) as other,
        working(dsn, {"a": sandbox.platform(), "b": sandbox.proxy()}, max_active=2),
    ):
        one, two = await hf.submit(V1.request, key="k"), await other.submit(PROXY.request, key="k")
        made = await asyncio.gather(one.wait(), two.wait())
        assert [each.kind for each in made] != [None, None]
        with pytest.raises(ConfigurationError, match="another account"):
            hf.task(two.ref)
        with pytest.raises(Unsupported):
            await (await other.submit(V1.request)).wait()
    assert {each.surface for each in sandbox.generations.values()} >= set() and len(sandbox.generations) == 2


async def test_files_go_with_their_request(dsn: str, sandbox: Sandbox, hf: Cluster, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(PNG)
    video = DopVideo(model="dop-lite", prompt="a cat", images=[picture, IMAGE])
    async with working(dsn, {"a": sandbox.platform()}):
        task = await hf.submit(video, key="files")
        picture.unlink()
        assert (await task.wait()).status is JobStatus.COMPLETED
    picture.write_bytes(PNG + bytes(11 * 2**20))
    with pytest.raises(InvalidRequest, match="go through the database"):
        await hf.submit(video)
    with pytest.raises(InvalidRequest):
        await hf.submit(DopVideo(model="dop-lite", prompt="a cat", images=[b"no picture at all"]))


async def test_what_no_service_takes_is_refused_at_once(dsn: str, hf: Cluster) -> None:
    with pytest.raises(Unsupported):
        await hf.submit(PROXY.request, expires_after=4000)
    with pytest.raises(Unsupported):
        await hf.submit(V1.request, expires_after=4000)
    with pytest.raises(InvalidRequest):
        await hf.submit("no request")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        await hf.submit(V1.request, key="")
    assert (await hf.counts()).waiting == 0


async def test_what_needs_a_key_says_so(hf: Cluster) -> None:
    assert (await hf.estimate(PROXY.request)).points == 7
    calls: list[Callable[[], Any]] = [
        lambda: hf.estimate(V2.request),
        lambda: hf.upload(PNG),
        lambda: anext(hf.motions()),
        lambda: anext(hf.soul_styles()),
        lambda: anext(hf.characters.list()),
        lambda: hf.agents.create(),
        lambda: hf.usage(),
    ]
    for call in calls:
        with pytest.raises(Unsupported, match="A Cluster .*Use a Higgsfield client"):
            await call()
    transport = hf._transport  # the seam: nothing in the client asks these of it
    ref = TaskRef(transport="cluster", origin="", account="", id="x", kind="x", created_at=datetime.now(UTC))
    for describe in (transport.poll, transport.cancel, transport.delete):
        with pytest.raises(Unsupported):
            describe(ref)
    with pytest.raises(Unsupported):
        transport.submit(V1.request, V1.request)  # type: ignore[arg-type]
    assert transport.price(PROXY.request) is None
    assert repr(transport).startswith("QueueTransport('postgresql://127.0.0.1:")
