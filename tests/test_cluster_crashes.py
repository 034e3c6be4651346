"""What becomes of the generations of a cluster when its workers are killed, frozen, cut off, and told to end."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import psycopg
import pytest
from clusters import POLL, until
from workers import WorkerProcess

from higgsfield_async import HiggsfieldError, JobStatus, Keyframes, SubmissionUnknown
from higgsfield_async.cluster import Cluster
from higgsfield_async.sandbox import Fault, Sandbox
from postgres import Postgres
from surfaces import PROXY, V1, V2, Surface

pytestmark = pytest.mark.once


@pytest.fixture
def dsn(cluster_dsn: str) -> str:
    return cluster_dsn


@pytest.fixture
async def hf(dsn: str) -> AsyncGenerator[Cluster]:
    async with Cluster(dsn, account="a", poll=POLL) as opened:
        yield opened


def name_of(dsn: str) -> str:
    return dsn.rpartition("/")[2]


async def state_of(postgres: Postgres, dsn: str, key: str = "k") -> str | None:
    """How far the journal has a generation."""
    query = "select state from higgsfield.journal where key = %s"
    rows = await asyncio.to_thread(postgres.execute, name_of(dsn), query, key)
    return rows[0][0] if rows else None


@pytest.mark.parametrize("surface", [PROXY, V1, V2], ids=str)
@pytest.mark.parametrize("point", ["not accepted", "accepted", "not written", "written"])
async def test_a_kill_at_each_point_pays_once_at_most_and_is_told(
    dsn: str, postgres: Postgres, hf: Cluster, surface: Surface, point: str
) -> None:
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(speed=4))
        first, other = [
            await stack.enter_async_context(WorkerProcess(dsn, sandbox, {"a": surface.service})) for _ in range(2)
        ]
        await asyncio.gather(first.ready(), other.ready())
        # The first takes it, since the other is frozen.
        other.send(signal.SIGSTOP)
        if point == "not accepted":
            sandbox.script("submit", Fault.delay(25, accept=False))
        elif point == "accepted":
            sandbox.script("submit", Fault.delay(25))
        elif point == "not written":
            sandbox.script("submit", Fault.delay(0.5))
        task = await hf.submit(surface.request, key="k")
        if point == "not accepted":
            await until(lambda: any(each.operation == "submit" for each in sandbox.received))
        else:
            await until(lambda: bool(sandbox.generations))
        if point == "not written":
            # What is answered cannot be written down: its row is another's.
            connection = await psycopg.AsyncConnection.connect(dsn)
            await connection.execute("select from higgsfield.journal where key = 'k' for update")
            await asyncio.sleep(1)
            assert await state_of(postgres, dsn) == "intent"
            await first.kill()
            # What the server was told before is not done any more.
            told = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'"
            await asyncio.to_thread(postgres.execute, name_of(dsn), told)
            await connection.close()
        elif point == "written":
            async with asyncio.timeout(10):
                while await state_of(postgres, dsn) != "submitted":
                    await asyncio.sleep(0.02)
            await first.kill()
        else:
            assert await state_of(postgres, dsn) == "intent"
            await first.kill()
        other.send(signal.SIGCONT)
        await other.says("is dead: 1 of its generations", 10)
        if point == "written" or surface.keyed:
            # A key that the service honours brings the same generation back.
            assert (await task.wait()).status is JobStatus.COMPLETED
            assert len(sandbox.generations) == 1
        else:
            with pytest.raises(SubmissionUnknown):
                await task.wait()
            (entry,) = await hf.unknown()
            assert entry.key == "k"
            assert len(sandbox.generations) == (point != "not accepted")


async def test_what_is_queued_outlives_every_worker(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    async with WorkerProcess(dsn, sandbox) as first:
        await first.ready()
        await first.kill()
    task = await hf.submit(V1.request)
    async with WorkerProcess(dsn, sandbox):
        assert (await task.wait()).status is JobStatus.COMPLETED


async def test_a_worker_that_was_taken_for_dead_ends(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    async with (
        Sandbox(speed=1) as sandbox,
        WorkerProcess(dsn, sandbox) as frozen,
        WorkerProcess(dsn, sandbox) as other,
    ):
        await asyncio.gather(frozen.ready(), other.ready())
        # The one that is to be frozen takes it.
        other.send(signal.SIGSTOP)
        task = await hf.submit(V1.request, key="k")
        async with asyncio.timeout(10):
            while await state_of(postgres, dsn) != "submitted":
                await asyncio.sleep(0.02)
        frozen.send(signal.SIGSTOP)
        other.send(signal.SIGCONT)
        cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'higgsfield%'"
        # All of its connections, and those of the others, which have theirs back at once.
        await asyncio.to_thread(postgres.execute, name_of(dsn), f"{cut} and pid <> pg_backend_pid()")
        await other.says("is dead: 1 of its generations", 15)
        frozen.send(signal.SIGCONT)
        assert await frozen.ended() == 75
        assert any("others took over its work" in line for line in frozen.lines)
        assert (await task.wait()).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == 1


async def test_a_worker_that_is_cut_off_for_a_moment_goes_on(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    async with Sandbox(speed=5) as sandbox, WorkerProcess(dsn, sandbox) as worker:
        await worker.ready()
        task = await hf.submit(V1.request)
        await until(lambda: bool(sandbox.generations))
        cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'higgsfield-%'"
        await asyncio.to_thread(postgres.execute, name_of(dsn), cut)
        await worker.says("has the database back")
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert worker.process.returncode is None
    assert len(sandbox.generations) == 1


async def test_a_database_that_is_away_for_a_while_loses_nothing(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    async with Sandbox(speed=4) as sandbox, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(WorkerProcess(dsn, sandbox, max_active=10)) for _ in range(2)]
        await asyncio.gather(*(worker.ready() for worker in workers))
        tasks = [await hf.submit(Keyframes(prompt=str(number)), key=str(number)) for number in range(20)]
        waits = asyncio.gather(*(task.wait(25) for task in tasks), return_exceptions=True)
        await until(lambda: len(sandbox.generations) >= 4)
        await asyncio.to_thread(postgres.stop)
        late = asyncio.create_task(hf.submit(Keyframes(prompt="late"), key="late"))
        await asyncio.sleep(1)
        await asyncio.to_thread(postgres.start)
        assert (await (await late).wait(20)).status is JobStatus.COMPLETED
        ends = await waits
        unknown = [each for each in ends if isinstance(each, SubmissionUnknown)]
        made = [each for each in ends if not isinstance(each, BaseException)]
        assert {each.status for each in made} == {JobStatus.COMPLETED}
        assert len(made) + len(unknown) == 20
        assert len(unknown) == len(await hf.unknown())
        assert all(worker.process.returncode is None for worker in workers)
    # Each was paid once; of what is unknown, nobody knows.
    assert 21 - len(unknown) <= len(sandbox.generations) <= 21


async def test_a_worker_that_is_told_to_end_hands_over(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    async with Sandbox(speed=3) as sandbox, WorkerProcess(dsn, sandbox) as first:
        await first.ready()
        opened = await hf.submit(V1.request, key="open")
        await until(lambda: bool(sandbox.generations))
        # The answer to this one is under way.
        sandbox.script("submit", Fault.delay(1.5))
        asked = await hf.submit(V1.request, key="asked")
        await until(lambda: len(sandbox.generations) == 2)
        first.send(signal.SIGTERM)
        assert await first.ended() == 0
        assert await state_of(postgres, dsn, "open") in ("submitted", "ended")
        assert await state_of(postgres, dsn, "asked") == "submitted"
        later = await hf.submit(V1.request, key="later")
        async with WorkerProcess(dsn, sandbox):
            made = [await task.wait() for task in (opened, asked, later)]
        assert {each.status for each in made} == {JobStatus.COMPLETED}
    assert len(sandbox.generations) == 3


@pytest.mark.timeout(150)
async def test_two_hundred_generations_and_six_kills(dsn: str, hf: Cluster) -> None:
    chance = random.Random(20261122)
    async with Sandbox(speed=6, max_concurrent=30) as sandbox, AsyncExitStack() as stack:
        sandbox.script("submit", *[Fault.delay(chance.uniform(0.02, 0.15)) for _ in range(250)])
        workers = [
            await stack.enter_async_context(WorkerProcess(dsn, sandbox, max_active=30, submits_per_second=8))
            for _ in range(2)
        ]
        await asyncio.gather(*(worker.ready() for worker in workers))
        outcomes: dict[str, str] = {}

        async def one(number: int) -> None:
            # Their prompts tell them apart at the service.
            task = await hf.submit(Keyframes(prompt=f"number {number}"), key=str(number))
            try:
                outcomes[task.id] = (await task.wait(120)).status.value
            except HiggsfieldError as error:
                outcomes[task.id] = type(error).__name__

        soak = asyncio.gather(*(one(number) for number in range(200)))
        for _ in range(6):
            await asyncio.sleep(chance.uniform(2, 4))
            await workers.pop(chance.randrange(len(workers))).kill()
            workers.append(await stack.enter_async_context(WorkerProcess(dsn, sandbox)))
            await workers[-1].ready()
        await soak
        ends = list(outcomes.values())
        unknown = [key for key, each in outcomes.items() if each == "SubmissionUnknown"]
        assert ends.count("completed") + len(unknown) == 200
        assert sorted(entry.key for entry in await hf.unknown()) == sorted(unknown)
        prompts = [each.request["params"]["prompt"] for each in sandbox.generations.values()]
        assert len(prompts) == len(set(prompts)), "paid twice"
        assert len(prompts) >= ends.count("completed")
