"""A cluster: the verbs of a client over a database, and a worker that has the key."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import pickle
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import dbos
import psycopg
import pytest
import sqlalchemy
from clusters import POLL, until
from workers import WorkerProcess

from higgsfield_async import (
    ClientClosed,
    ConfigurationError,
    DopVideo,
    FieldError,
    GenerationCanceled,
    Higgsfield,
    HiggsfieldError,
    InsufficientCredits,
    InvalidRequest,
    JobStatus,
    JournalError,
    Keyframes,
    Limits,
    NotCancelable,
    NotFound,
    Outcome,
    PollPolicy,
    RateLimited,
    RetryPolicy,
    SubmissionUnknown,
    TaskRef,
    Transport,
    Unsupported,
    UploadError,
    WaitTimeout,
)
from higgsfield_async.cluster import Cluster, PostgresJournal, _told as told
from higgsfield_async.cluster.__main__ import main
from higgsfield_async.cluster._database import Database, imported
from higgsfield_async.cluster._rows import workflow_of
from higgsfield_async.cluster._worker import Worker
from higgsfield_async.sandbox import Fault, Sandbox
from postgres import Postgres
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
        # There is nothing to cancel, and nobody who would.
        with pytest.raises(type(plain.value)):
            await task.cancel()
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
        with pytest.raises(SubmissionUnknown):
            await task.cancel()
        assert (await hf.counts()).failed == 1
        assert not [open_one async for open_one in hf.recover()]
        (paid,) = sandbox.generations
        found = await hf.resolve("lost", paid)
        assert (await found.wait()).status is JobStatus.COMPLETED
        assert (await task.wait()).id == "lost"
        assert not await hf.unknown()
        with pytest.raises(JournalError):
            await hf.resolve("lost", paid)
    assert posts(sandbox) == 1


async def test_an_answer_that_comes_after_all_is_looked_after(
    dsn: str, postgres: Postgres, sandbox: Sandbox, hf: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async.cluster._worker.ROUND", 0.2)
    name = dsn.rpartition("/")[2]
    sandbox.script("submit", *[Fault.reset(accept=True)] * 2)
    async with working(dsn, sandbox.platform()):
        for key in ("wanted again", "left alone"):
            with pytest.raises(SubmissionUnknown):
                await (await hf.submit(V1.request, key=key)).wait()
        await asyncio.to_thread(postgres.execute, name, "update higgsfield.queue set created_at = 'yesterday'")
        # As a worker does that was taken for dead, and was not.
        late = PostgresJournal(dsn, space="a")
        await late.open()
        for entry, paid in zip(await hf.unknown(), sandbox.generations, strict=True):
            await late.commit(entry.key, entry.intent.nonce, paid, datetime.now(UTC))
        await late.close()
        for task in [await hf.submit(V1.request, key="wanted again"), *[task async for task in hf.recover()]]:
            assert (await task.wait()).status is JobStatus.COMPLETED
        assert (await (await hf.submit(V1.request, key="left alone")).wait()).status is JobStatus.COMPLETED
    assert posts(sandbox) == 2
    assert (await hf.counts()).done == 2


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


async def test_what_is_forgotten_while_a_worker_is_at_it_is_not_paid_again(
    dsn: str, sandbox: Sandbox, hf: Cluster
) -> None:
    # More than a client tries by itself: the worker does so again, a moment later.
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5)
    async with working(dsn, sandbox.platform()):
        await hf.submit(V2.request, key="f")
        async with asyncio.timeout(10):
            while [entry.held for entry in await hf.unknown()] != [False]:
                await asyncio.sleep(0.02)
        assert (await hf.forget("f")).state == "unknown"
        await until(lambda: not [each for each in asyncio.all_tasks() if "Worker.generation" in repr(each.get_coro())])
    assert len(sandbox.generations) == 1


async def test_what_is_submitted_anew_is_not_told_the_end_of_the_old(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    async with working(dsn, sandbox.platform()), Cluster(dsn, account="a", poll=POLL) as other:
        old = await hf.submit(V1.request, key="k")
        first = await old.wait()
        same = await hf.submit(V1.request, key="k")
        assert await same.wait() is first
        await hf.forget("k")
        made = await (await other.submit(V1.request, key="k")).wait()
        anew = await hf.submit(V1.request, key="k")
        assert (await anew.wait()).outputs == made.outputs != first.outputs
        assert old.job_set is first
    assert posts(sandbox) == 2


async def test_what_is_forgotten_by_halves_is_not_taken_up_again(
    dsn: str, postgres: Postgres, sandbox: Sandbox, hf: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async.cluster._worker.ROUND", 0.2)
    name = dsn.rpartition("/")[2]
    async with working(dsn, sandbox.platform()):
        await (await hf.submit(V1.request, key="forgotten")).wait()
    # By a client that has the journal alone.
    journal = PostgresJournal(dsn, space="a")
    await journal.open()
    await journal.forget("forgotten")
    await journal.close()
    seen = await hf.submit(V1.request, key="seen")
    sql = """
        update higgsfield_engine.workflow_status set status = 'CANCELLED' where status = 'ENQUEUED';
        update higgsfield.queue set created_at = now() - interval '1 hour';
    """
    await asyncio.to_thread(postgres.execute, name, sql)
    async with working(dsn, sandbox.platform()):
        await seen.wait()
    assert posts(sandbox) == 2


async def test_what_a_worker_looks_after_cannot_be_forgotten(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    async with Sandbox(speed=1) as sandbox, working(dsn, sandbox.platform()):
        task = await hf.submit(V1.request, key="k")
        submitted = "select 1 from higgsfield.journal where state = 'submitted'"
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], submitted):
                await asyncio.sleep(0.02)
        with pytest.raises(JournalError, match="looked after"):
            await hf.forget("k")
        assert (await task.refresh()).id == "k"


@pytest.mark.once
async def test_a_forget_whose_answer_is_lost_is_done_all_the_same(
    dsn: str, postgres: Postgres, sandbox: Sandbox, hf: Cluster
) -> None:
    name = dsn.rpartition("/")[2]
    async with working(dsn, sandbox.platform()):
        await (await hf.submit(V1.request, key="k")).wait()
    slow = """
        create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(1); return null; end';
        create constraint trigger slow after delete on higgsfield.queue deferrable initially deferred
        for each row execute function slow();
    """
    await asyncio.to_thread(postgres.execute, name, slow)
    forget = asyncio.create_task(hf.forget("k"))
    committing = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(postgres.execute, name, committing):
            await asyncio.sleep(0.02)
    assert (await forget).state == "ended"
    with pytest.raises(JournalError, match="nothing under"):
        await hf.forget("k")


async def test_an_id_is_one_generations(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with working(dsn, sandbox.platform()):
        with pytest.raises(SubmissionUnknown):
            await (await hf.submit(V1.request, key="lost")).wait()
        await (await hf.submit(V1.request, key="other")).wait()
        _, another = sandbox.generations
        with pytest.raises(JournalError, match="is that of 'other' already"):
            await hf.resolve("lost", another)
        assert [entry.key for entry in await hf.unknown()] == ["lost"]


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
        assert again.key == "never"
        assert (await again.wait()).status is JobStatus.COMPLETED
        assert task.status is JobStatus.CANCELED
        assert len(sandbox.generations) == 2
    with pytest.raises(NotFound):
        await hf.task(TaskRef.from_json(task.ref.to_json().replace("never", "nothing"))).cancel()


async def test_a_worker_cancels_what_was_submitted(dsn: str, hf: Cluster) -> None:
    async with Sandbox(speed=6) as sandbox, working(dsn, sandbox.platform()):
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


@pytest.mark.once
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
    assert len(sandbox.generations) == 2


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
        hf.agents.create,
        hf.usage,
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


class Statements:
    """Counts what the clusters of this process ask the database."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.count += 1


@pytest.mark.once
async def test_a_thousand_who_wait_are_one_query_and_nobody_is_none(dsn: str, postgres: Postgres) -> None:
    async with Cluster(dsn, account="a", poll=PollPolicy.fixed(0.2, deadline=20)) as hf:
        first = await hf.submit(V1.request, key="0")
        # As a thousand submits do it.
        name = dsn.rpartition("/")[2]
        copied = """
            insert into higgsfield.queue (space, key, digest, kind, class, request, options)
            select space, number::text, digest, kind, class, request, options
            from higgsfield.queue, generate_series(1, 999) as number
        """
        await asyncio.to_thread(postgres.execute, name, copied)
        text = first.ref.to_json()
        tasks = [hf.task(text.replace('"id":"0"', f'"id":"{number}"')) for number in range(1000)]
        with Statements() as statements:
            waits = [asyncio.create_task(task.wait()) for task in tasks]
            await until(lambda: statements.count >= 5)
            before = time.monotonic(), statements.count
            await until(lambda: statements.count >= before[1] + 3)
            # Were there one for each, there would be thousands by now.
            assert statements.count <= before[1] + 1 + (time.monotonic() - before[0]) / 0.2
            # What is canceled in the database is an end that all of them see.
            await asyncio.to_thread(postgres.execute, name, "update higgsfield.queue set canceled_at = now()")
            ends = await asyncio.gather(*waits, return_exceptions=True)
            assert {type(end) for end in ends} == {GenerationCanceled}
            quiet = statements.count
            await asyncio.sleep(0.5)
            assert statements.count == quiet
        assert await hf.prune(datetime.now(UTC) + timedelta(hours=1)) == 1000


async def test_who_waits_for_nothing_is_told(dsn: str, hf: Cluster) -> None:
    task = await hf.submit(V1.request, key="here")
    ref = TaskRef.from_json(task.ref.to_json().replace("here", "nowhere"))
    for _ in range(2):
        with pytest.raises(NotFound, match="no generation 'nowhere'"):
            await hf.task(ref).wait()
    with pytest.raises(NotFound):
        await hf.task(ref).refresh()
    assert (await task.refresh()).status is JobStatus.QUEUED
    with pytest.raises(WaitTimeout):
        await task.wait(0.1)
    # Who comes while the last one leaves is looked after too.
    with pytest.raises(WaitTimeout):
        await task.wait(0.1)


async def test_a_database_that_is_away_is_waited_for_and_its_password_shown_nowhere(
    dsn: str, postgres: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Cluster(dsn, account="a", poll=POLL) as hf:
        task = await hf.submit(V1.request, key="k")
        waiting = asyncio.create_task(task.wait())
        await asyncio.sleep(0.1)
        await asyncio.to_thread(postgres.stop)
        with pytest.raises(JournalError) as away:
            await hf.counts()
        assert away.value.transient
        with pytest.raises(JournalError):
            await hf.run(V1.request, timeout=0.3)
        with pytest.raises(WaitTimeout):
            await task.wait(0.3)
        unopened = Cluster(dsn)
        with pytest.raises(JournalError):
            await unopened.run(V1.request, timeout=0.3)
        with pytest.raises(JournalError):
            async with unopened:
                pass
        await asyncio.to_thread(postgres.start)
        await task.cancel()
        with pytest.raises(GenerationCanceled):
            await waiting
    told = caplog.text + repr(hf) + "".join(f"{each.value}{each.value!r}" for each in (away,))
    assert postgres.dsn("x").split(":")[2].partition("@")[0] not in told
    assert "tester:" not in told


@pytest.mark.once
async def test_a_submit_that_may_be_queued_all_the_same_says_so(dsn: str, postgres: Postgres) -> None:
    name = dsn.rpartition("/")[2]
    slow = """
        create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(5); return null; end';
        create constraint trigger slow after insert on higgsfield.queue deferrable initially deferred
        for each row execute function slow();
    """
    await asyncio.to_thread(postgres.execute, name, slow)
    async with Cluster(dsn, account="a", poll=POLL) as hf:
        submit = asyncio.create_task(hf.run(V1.request, timeout=2, key="doubt"))
        committing = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(postgres.execute, name, committing):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(postgres.stop)
        with pytest.raises(JournalError, match="key='doubt'") as doubt:
            await submit
        assert (doubt.value.charged, doubt.value.transient) == ("unknown", True)
        await asyncio.to_thread(postgres.start)


async def test_what_a_database_refuses_is_no_reason_to_try_again(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    task = await hf.submit(V1.request, key="k")
    await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], "drop table higgsfield.queue")
    with pytest.raises(JournalError, match="refused something .UndefinedTable 42P01.") as refused:
        await task.refresh()
    assert not refused.value.transient
    with pytest.raises(JournalError):
        await hf.submit(V1.request)


async def test_what_is_over_can_be_taken_out(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    sandbox.script("submit", Fault.answer(403, b'{"detail": "not_enough_credits"}'))
    async with working(dsn, sandbox.platform()):
        with pytest.raises(HiggsfieldError):
            await (await hf.submit(V1.request, key="refused")).wait()
        await (await hf.submit(V1.request, key="made")).wait()
    queued = await hf.submit(V1.request, key="queued")
    assert await hf.prune(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await hf.prune(datetime.now(UTC) + timedelta(hours=1)) == 2
    assert [task.id async for task in hf.recover()] == [queued.id]
    with pytest.raises(ConfigurationError, match="time zone"):
        await hf.prune(datetime(2026, 1, 1))  # noqa: DTZ001  # that is what is refused


async def test_a_journals_own_work_is_nobodys_here(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with Higgsfield(sandbox.platform(), journal=PostgresJournal(dsn, space="a")) as direct:
        with pytest.raises(SubmissionUnknown):
            await direct.submit(V1.request, key="direct")
    (paid,) = sandbox.generations
    with pytest.raises(JournalError, match="not submitted through this cluster"):
        await hf.resolve("direct", paid)
    # By now it is known, and nobody looks after it.
    assert (await hf.forget("direct")).id == paid


def everything_that_is_told() -> list[HiggsfieldError]:
    cause = RateLimited("busy", status=429, code="x", limit=4, retry_after=2.0, transient=True)
    return [
        cause,
        SubmissionUnknown("lost", request=None, key="i", journal_key="k", cause=cause),
        InvalidRequest("no", errors=(FieldError(("a", 0), "b", "c"),), status=422, detail={"x": [1]}),
        InsufficientCredits("no", status=403, detail=object(), correlation_id="c"),
        Unsupported("no", refused=True),
        UploadError("no", status=500),
        ConfigurationError("no"),
    ]


@pytest.mark.parametrize("error", everything_that_is_told(), ids=lambda error: type(error).__name__)
def test_an_error_comes_out_as_it_went_in(error: HiggsfieldError) -> None:
    found = told.read(told.written(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    for name, value in vars(error).items():
        if name == "cause":
            assert vars(found.cause) == vars(value)  # type: ignore[attr-defined]
        elif name != "detail" or isinstance(value, dict):
            assert getattr(found, name) == value
    pickle.loads(pickle.dumps(found))


def test_what_is_not_told_by_its_name_is_a_failed_connection() -> None:
    found = told.read(told.written(JournalError("away", transient=True)))
    assert (type(found).__name__, str(found), found.transient) == ("ConnectionFailed", "away", True)
    assert type(told.read('{"kind": "Nonsense", "message": "x"}')).__name__ == "ConnectionFailed"
    assert str(told.read('{"kind": "SubmissionUnknown", "message": "x"}').cause) == "x"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cluster("host=here dbname=x"),
        lambda: Cluster("mysql://user@host/name"),
        lambda: Cluster("postgresql://host"),
        lambda: Cluster("postgresql://host:nonsense/x"),
        lambda: Cluster("postgresql://host:0/x"),
        lambda: Cluster(None),  # type: ignore[arg-type]
        lambda: Cluster("postgresql://host/x", account=""),
        lambda: Cluster("postgresql://host/x", account="a\n"),
        lambda: Cluster("postgresql://host/x", max_active=0),
        lambda: Cluster("postgresql://host/x", max_active=1.5),  # type: ignore[arg-type]
        lambda: Cluster("postgresql://host/x", submits_per_second=0),
        lambda: Cluster("postgresql://host/x", submits_per_second=float("nan")),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(make: Callable[[], Cluster]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert "nonsense" not in str(refused.value)


def test_an_address_is_shown_without_its_secrets() -> None:
    assert repr(Cluster("postgres://me:secret@[::1]/x?password=also")) == (
        "Cluster('postgresql://[::1]:5432/x', account='default')"
    )


async def test_what_a_dead_worker_left_is_taken_over(
    dsn: str, postgres: Postgres, sandbox: Sandbox, hf: Cluster
) -> None:
    task = await hf.submit(V1.request)
    # Those that were killed look so.
    dead = """
        insert into higgsfield.workers (number, executor) values (7, 'higgsfield-7'), (8, 'higgsfield-8');
        update higgsfield_engine.workflow_status set status = 'PENDING', executor_id = 'higgsfield-7'
    """
    await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], dead)
    async with working(dsn, sandbox.platform()):
        assert (await task.wait()).status is JobStatus.COMPLETED
    left = "select count(*) from higgsfield.workers where ended_at is null"
    assert await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], left) == [(0,)]


@pytest.mark.once
async def test_a_worker_that_was_replaced_ends(dsn: str, postgres: Postgres, sandbox: Sandbox, hf: Cluster) -> None:
    name = dsn.rpartition("/")[2]
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'higgsfield-%'"
    async with working(dsn, sandbox.platform(), ends=JournalError) as worker:
        await hf.run(V1.request)
        await asyncio.to_thread(postgres.execute, name, cut)
        await hf.run(V1.request)
        await asyncio.sleep(1)
        assert not worker.done()
        await asyncio.to_thread(postgres.execute, name, "update higgsfield.workers set ended_at = now()")
        await asyncio.to_thread(postgres.execute, name, cut)
        with pytest.raises(JournalError, match="others took over its work"):
            await worker


@pytest.mark.once
async def test_an_end_that_comes_while_the_database_is_away_is_written_down(
    dsn: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async.cluster._worker.PATIENCE", 0.2)
    monkeypatch.setattr("higgsfield_async.cluster._worker.ROUND", 0.2)
    async with (
        Cluster(dsn, account="a", poll=POLL) as hf,
        Sandbox(speed=10) as sandbox,
        working(dsn, sandbox.platform()),
    ):
        task = await hf.submit(V1.request, key="k")
        submitted = "select 1 from higgsfield.journal where state = 'submitted'"
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], submitted):
                await asyncio.sleep(0.01)
        await asyncio.to_thread(postgres.stop)
        (paid,) = sandbox.generations.values()
        await until(lambda: paid.status == "completed")
        await asyncio.sleep(1)
        await asyncio.to_thread(postgres.start)
        assert (await task.wait()).status is JobStatus.COMPLETED


@pytest.mark.once
async def test_a_busy_account_is_waited_for(dsn: str, hf: Cluster) -> None:
    # More at once than the service takes, and a client that does not wait for it by itself.
    async with Sandbox(speed=20, max_concurrent=1) as sandbox:
        worker = asyncio.create_task(
            Cluster(dsn, account="a").run_worker(
                sandbox.platform(), poll=PollPolicy.fixed(0.03), limits=Limits(patience=0.01)
            )
        )
        made = await hf.gather([Keyframes(prompt=str(number)) for number in range(3)])
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker
    assert {each.status for each in made} == {JobStatus.COMPLETED}
    assert len(sandbox.generations) == 3


@pytest.mark.once
async def test_what_is_not_understood_is_told(
    dsn: str, postgres: Postgres, sandbox: Sandbox, hf: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    newer, canceled = await hf.submit(V1.request, key="newer"), await hf.submit(V1.request, key="canceled")
    odd = """
        update higgsfield.queue set class = 'Hologram' where key = 'newer';
        update higgsfield.queue set canceled_at = now() where key = 'canceled';
    """
    await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], odd)
    async with working(dsn, sandbox.platform()):
        with pytest.raises(HiggsfieldError, match="unforeseen .KeyError."):
            await newer.wait()
        with pytest.raises(GenerationCanceled):
            await canceled.wait()
        made = await hf.submit(V1.request, key="made")
        await made.wait()
        # Asked a moment too late.
        asked = "update higgsfield.queue set cancel_asked_at = now() where key = 'made'"
        await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], asked)
        await asyncio.sleep(0.7)
    assert "something unforeseen in generation newer" in caplog.text
    assert len(sandbox.generations) == 1


async def test_what_a_newer_release_wrote_keeps_nobody_else_waiting(dsn: str, postgres: Postgres, hf: Cluster) -> None:
    name = dsn.rpartition("/")[2]
    newer, refused, other = [await hf.submit(V1.request, key=key) for key in ("newer", "refused", "other")]
    waiting = asyncio.create_task(other.wait())
    odd = """
        update higgsfield.queue set error = '{}' where key = 'newer';
        update higgsfield.queue set cancel_error = '{}' where key = 'refused';
    """
    await asyncio.to_thread(postgres.execute, name, odd)
    for task in (newer, refused):
        with pytest.raises(JournalError, match="this release of higgsfield-async cannot read") as unread:
            await task.wait()
        assert unread.value.charged == "unknown"
        with pytest.raises(JournalError, match="cannot read"):
            await task.refresh()
    await other.cancel()
    with pytest.raises(GenerationCanceled):
        await waiting


async def test_a_cancel_that_nobody_answers_says_so(
    dsn: str, postgres: Postgres, hf: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async.cluster._calls.ANSWER", 0.2)
    task = await hf.submit(V1.request)
    # Its worker is gone.
    await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], "update higgsfield.queue set taken_by = 'gone'")
    with pytest.raises(HiggsfieldError, match="No worker answered"):
        await task.cancel()


@pytest.mark.once
async def test_a_cancelled_submit_is_finished_and_logged(
    dsn: str, postgres: Postgres, hf: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = await psycopg.AsyncConnection.connect(dsn)
    await blocker.execute("lock table higgsfield.queue in share mode")
    submit = asyncio.create_task(hf.submit(V1.request, key="left"))
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(postgres.execute, dsn.rpartition("/")[2], waiting):
            await asyncio.sleep(0.02)
    submit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submit
    await blocker.close()
    await until(lambda: "whose caller was cancelled was accepted" in caplog.text)
    assert [task.id async for task in hf.recover()] == ["left"]


async def test_tables_that_are_not_dbos_own_are_left_alone(dsn: str, postgres: Postgres) -> None:
    name = dsn.rpartition("/")[2]
    odd = "drop table higgsfield_engine.dbos_migrations; create table higgsfield_engine.dbos_migrations (odd int)"
    await asyncio.to_thread(postgres.execute, name, odd)
    with pytest.raises(JournalError):
        async with Cluster(dsn):
            pass


def test_a_package_that_is_not_there_is_named_by_its_extra() -> None:
    with pytest.raises(ConfigurationError, match=r"higgsfield-async\[cluster\]"):
        imported("no_such_package")


@pytest.mark.once
async def test_too_few_connections_are_told_as_a_database_that_is_away(
    dsn: str, postgres: Postgres, sandbox: Sandbox
) -> None:
    host = dsn.partition("@")[2]
    await asyncio.to_thread(postgres.execute, "postgres", "create role few login password 'few' in role tester")
    try:
        for most in itertools.count(1):
            await asyncio.to_thread(postgres.execute, "postgres", f"alter role few connection limit {most}")
            async with WorkerProcess(f"postgresql://few:few@{host}", sandbox) as worker:
                try:
                    await worker.ready()
                except AssertionError:
                    assert await worker.ended() == 75, "\n".join(worker.lines)
                else:
                    break
            await asyncio.to_thread(postgres.wait_until_gone, dsn.rpartition("/")[2])
    finally:
        await asyncio.to_thread(postgres.execute, "postgres", "drop role few")
    assert most > 3


async def test_one_process_runs_one_worker(dsn: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_KEY", "HF_API_KEY", "HF_API_SECRET", "HF_CREDENTIALS", "HIGGSFIELD_PROXY_KEY"):
        monkeypatch.delenv(name, raising=False)
    cluster = Cluster(dsn, account="a")
    with pytest.raises(ConfigurationError, match="holds no key"):
        await cluster.run_worker()
    with pytest.raises(ConfigurationError, match="at least one account"):
        await cluster.run_worker({})
    with pytest.raises(ConfigurationError, match="account's name"):
        await cluster.run_worker({"": sandbox.proxy()})
    async with working(dsn, sandbox.proxy()):
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="already"):
            await cluster.run_worker(sandbox.proxy())


async def test_an_application_of_dbos_is_left_alone(dsn: str, sandbox: Sandbox) -> None:
    theirs = dbos.DBOS(config={"name": "theirs", "system_database_url": dsn, "log_level": "ERROR"})
    try:
        with pytest.raises(ConfigurationError, match="exists once in a process"):
            await Cluster(dsn).run_worker(sandbox.proxy())
        assert dbos.DBOS(config={"name": "theirs"}) is theirs
    finally:
        await asyncio.to_thread(dbos.DBOS.destroy)


@pytest.mark.once
async def test_a_worker_whose_client_fails_ends_and_hands_over(dsn: str, hf: Cluster) -> None:
    async with Sandbox(speed=5) as sandbox:
        async with working(dsn, sandbox.platform(), ends=HiggsfieldError) as worker:
            task = await hf.submit(V1.request)
            await until(lambda: bool(sandbox.generations))
            assert Worker.running is not None
            await Worker.running._clients["a"].close()
            with pytest.raises(HiggsfieldError, match="closed"):
                await worker
        async with working(dsn, sandbox.platform()):
            assert (await task.wait()).status is JobStatus.COMPLETED
        assert len(sandbox.generations) == 1


@pytest.mark.once
async def test_an_account_that_is_refused_later_is_asked_again(
    dsn: str, hf: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("higgsfield_async.cluster._worker.LOCKED_OUT", 0.2)
    async with Sandbox(speed=5) as sandbox, working(dsn, sandbox.platform()):
        denied = Fault.answer(401, b'{"detail": "Invalid credentials"}', {"Content-Type": "application/json"})
        sandbox.script("poll", denied)
        task = await hf.submit(V1.request)
        with pytest.raises(HiggsfieldError) as refused:
            await task.wait()
        assert refused.value.ref == task.ref
        # Wanted again, it is looked after again.
        await (await hf.submit(V1.request, key=task.key)).wait()
        await until(lambda: len([each for each in sandbox.received if each.operation == "poll"]) > 2)
        async with asyncio.timeout(10):
            while (await hf.counts()).done == 0:
                await asyncio.sleep(0.05)
        assert (await task.wait()).status is JobStatus.COMPLETED
    # Two were at it for a while.
    assert "unforeseen" not in caplog.text


async def test_what_nobody_looks_after_is_found(
    dsn: str, postgres: Postgres, hf: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async.cluster._worker.ROUND", 0.2)
    name = dsn.rpartition("/")[2]
    task, late = await hf.submit(V1.request, key="k"), await hf.submit(V1.request, key="late")
    # One whose place in the queue is gone, as after an error in it; and one that came to a worker after its end.
    sql = """
        update higgsfield.queue set created_at = now() - interval '1 hour';
        update higgsfield_engine.workflow_status set status = 'CANCELLED' where workflow_uuid = %s;
        update higgsfield_engine.workflow_status set status = 'PENDING', executor_id = 'higgsfield-5'
        where workflow_uuid = %s;
        insert into higgsfield.workers (number, executor, ended_at)
        values (5, 'higgsfield-5', now() - interval '2 days');
    """
    for statement, *key in zip(sql.split(";"), ("", "k", "late", ""), strict=False):
        values = [workflow_of("a", each, 1) for each in key if each]
        await asyncio.to_thread(postgres.execute, name, statement, *values)
    async with Sandbox(speed=50) as sandbox, working(dsn, sandbox.platform()):
        await asyncio.gather(task.wait(), late.wait())
        assert len(sandbox.generations) == 2
        left = await asyncio.to_thread(postgres.execute, name, "select number from higgsfield.workers where number = 5")
        assert not left


# What is used of DBOS, and with what: its versions have broken with each other.
USED: list[tuple[Callable[..., Any], set[str]]] = [
    (dbos.DBOS.migrate, {"system_database_url", "schema"}),
    (dbos.DBOS.__init__, {"config"}),
    (dbos.DBOS.launch, set()),
    (dbos.DBOS.destroy, set()),
    (dbos.DBOS.listen_queues, {"queues"}),
    (dbos.DBOS.workflow, {"name", "max_recovery_attempts"}),
    (
        dbos.DBOSClient.__init__,
        {
            "system_database_engine",
            "dbos_system_schema",
            "serializer",
            "application_name",
            "retry_connection_errors",
        },
    ),
    (dbos.DBOSClient.destroy, set()),
    (dbos.DBOSClient.enqueue_in_transaction, {"conn_or_session", "options", "args"}),
    (
        dbos.DBOSClient.register_queue,
        {"name", "global_concurrency", "limiter", "polling_interval_sec", "on_conflict", "application_name"},
    ),
    (dbos.DBOSClient.retrieve_queue, {"name"}),
    (dbos.DBOSClient.list_workflows, {"status", "executor_id", "name", "workflow_ids", "load_input", "load_output"}),
    (dbos.DBOSClient.resume_workflows, {"workflow_ids", "queue_name"}),
    (dbos.DBOSClient.cancel_workflows, {"workflow_ids"}),
    (dbos.DBOSClient.delete_workflows, {"workflow_ids"}),
    (dbos.Queue.set_global_concurrency, {"value"}),
    (dbos.Queue.set_limiter, {"value"}),
    (dbos.DBOSPortableJSONSerializer, set()),
]
CONFIGURED = {
    "name",
    "system_database_url",
    "dbos_system_schema",
    "application_version",
    "executor_id",
    "serializer",
    "log_level",
    "enable_otlp",
    "sys_db_pool_size",
    "scheduler_polling_interval_sec",
    "db_engine_kwargs",
}


@pytest.mark.parametrize(("call", "given"), USED, ids=lambda each: getattr(each, "__qualname__", ""))
def test_dbos_has_what_is_used_of_it(call: Callable[..., Any], given: set[str]) -> None:
    assert given <= set(inspect.signature(call).parameters)


def test_dbos_is_configured_as_it_can_be() -> None:
    assert set(dbos.DBOSConfig.__annotations__) >= CONFIGURED
    options = {"workflow_name", "queue_name", "workflow_id", "app_version", "application_name"}
    known = {name for each in dbos.EnqueueOptions.__mro__ for name in getattr(each, "__annotations__", {})}
    assert known | set(dbos.EnqueueOptions.__annotations__) >= options
    assert set(dbos.WorkflowStatus.__annotations__) >= {"workflow_id", "queue_name", "executor_id"}


async def test_a_worker_is_a_program(dsn: str, sandbox: Sandbox, hf: Cluster) -> None:
    environment = {
        "HIGGSFIELD_DATABASE_URL": dsn,
        "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
        "HIGGSFIELD_BASE_URL": sandbox.platform_url,
    }
    command = ["-m", "higgsfield_async.cluster", "worker", "--account", "a", "--service", "platform"]
    limits = ["--max-active", "5", "--submits-per-second", "10"]
    async with WorkerProcess(dsn, sandbox, command=command + limits, environment=environment) as worker:
        await worker.ready()
        assert (await hf.run(V1.request, timeout=15)).status is JobStatus.COMPLETED
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    assert not [line for line in worker.lines if sandbox.key_secret in line or dsn in line]


def test_a_program_that_is_set_up_wrongly_says_so(
    dsn: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HIGGSFIELD_DATABASE_URL", raising=False)
    monkeypatch.setenv("HIGGSFIELD_PROXY_KEY", "hk-key")
    assert main(["worker", "--service", "proxy"]) == 78
    assert "HIGGSFIELD_DATABASE_URL is not set" in caplog.text
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", "no address")
    assert main(["worker", "--service", "proxy"]) == 78
    assert "postgresql://user:password@host" in caplog.text
    # A database that is not there may be there later.
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", dsn + "_not_there")
    assert main(["worker", "--service", "proxy"]) == 75
    with pytest.raises(SystemExit):
        main([])


async def test_what_a_thread_gives_back_after_the_end_is_let_go_of(cluster_dsn: str, postgres: Postgres) -> None:
    database = Database(cluster_dsn)
    began, go_on = threading.Event(), threading.Event()

    def work(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("select 1")
        began.set()
        assert go_on.wait(10)

    running = asyncio.create_task(database.run(work))
    await asyncio.to_thread(began.wait, 10)
    running.cancel()  # the thread goes on
    with pytest.raises(asyncio.CancelledError):
        await running
    await database.close()
    go_on.set()
    await asyncio.to_thread(postgres.wait_until_gone, cluster_dsn.rpartition("/")[2])
    with pytest.raises(ClientClosed):
        await database.open()
