"""What a client holds in its journal, and lets go of, however it goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from test_webhooks import SECRET, flat, signed

from higgsfield_async import (
    Budget,
    Higgsfield,
    HiggsfieldError,
    JobStatus,
    JournalError,
    ModelRequest,
    PollPolicy,
    RetryPolicy,
    SubmissionUnknown,
)
from higgsfield_async._frozen import frozen
from higgsfield_async.journal import Entry, SQLiteJournal
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from higgsfield_async.webhooks import unwrap
from surfaces import PROXY, V1, V2

Client = Callable[..., Higgsfield]

NEVER = Plan(queued=1e9)
# For each try of one submit with an idempotency key.
LOST = [Fault.reset(accept=True)] * RetryPolicy().attempts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "generations.db"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("higgsfield_async._ledger.HELD_ON", 0.05)


async def kept(path: Path) -> list[Entry]:
    journal = SQLiteJournal(path)
    await journal.open()
    try:
        return await journal.entries()
    finally:
        await journal.close()


async def let_go(path: Path) -> Entry:
    """The one entry, once nobody holds it."""
    while True:
        [entry] = await kept(path)
        if not entry.held:
            return entry
        await anyio.sleep(0.01)


class Shaky(SQLiteJournal):
    """A journal that fails, so many times for each method that is named."""

    def __init__(self, path: Path, **failures: int) -> None:
        super().__init__(path)
        self.failures = Counter(failures)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("abandon", "finish", "release", "saw", "unknown"):
            return found

        async def attempt(*args: Any) -> Any:
            if self.failures[name] > 0:
                self.failures[name] -= 1
                msg = f"{name}: the disk is full"
                raise JournalError(msg)
            return await found(*args)

        return attempt


async def lost(sandbox: Sandbox, hf: Higgsfield) -> None:
    sandbox.script("submit", *LOST)
    with pytest.raises(SubmissionUnknown):
        await hf.submit(V2.request, key="order-17")


async def test_a_recovery_that_the_budget_refuses(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(V2, journal=path) as hf:
        await lost(sandbox, hf)
    async with client(V2, journal=path, budget=Budget(credits=0)) as hf:
        for _ in range(2):
            # It may have been paid for: no refusal of today says that it was not.
            with pytest.raises(SubmissionUnknown) as caught:
                await asyncio.wait_for(hf.submit(V2.request, key="order-17"), 5)
            assert (caught.value.charged, caught.value.journal_key) == ("unknown", "order-17")
        await let_go(path)


class Slow(SQLiteJournal):
    """A journal that answers late what it has done in time."""

    begun: asyncio.Event

    async def claim(self, key: str) -> Entry | None:
        entry = await super().claim(key)
        self.begun.set()
        await anyio.sleep(0.2)
        return entry


async def cancelled(work: Coroutine[Any, Any, object], when: asyncio.Event) -> None:
    task = asyncio.create_task(work)
    await when.wait()
    task.cancel()
    await asyncio.wait([task])


async def recovered(hf: Higgsfield) -> None:
    async for _ in hf.recover():
        pass


@pytest.mark.parametrize("how", ["submit", "recover"])
async def test_a_recovery_that_is_cancelled(sandbox: Sandbox, client: Client, path: Path, how: str) -> None:
    journal = Slow(path)
    journal.begun = asyncio.Event()
    async with client(V2, journal=journal) as hf:
        await lost(sandbox, hf)
        await cancelled(hf.submit(V2.request, key="order-17") if how == "submit" else recovered(hf), journal.begun)
        task = await asyncio.wait_for(hf.submit(V2.request, key="order-17"), 5)
    assert [task.id] == [*sandbox.generations]


@pytest.mark.parametrize("how", ["submit", "recover"])
async def test_a_recovery_that_is_cancelled_before_it_is_sent(
    sandbox: Sandbox, client: Client, path: Path, how: str
) -> None:
    async with client(V2, journal=path) as hf:
        await lost(sandbox, hf)
    sandbox.script("estimate", Fault.delay(10))
    async with client(V2, journal=path, budget=Budget(credits=1000)) as hf:
        asked = asyncio.Event()

        async def ask() -> None:
            while sandbox.received[-1].operation != "estimate":
                await anyio.sleep(0.01)
            asked.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            await cancelled(hf.submit(V2.request, key="order-17") if how == "submit" else recovered(hf), asked)
        task = await asyncio.wait_for(hf.submit(V2.request, key="order-17"), 5)
    assert [task.id] == [*sandbox.generations]


async def test_recover_and_the_same_key_at_once(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(V2, journal=path) as hf:
        await lost(sandbox, hf)
        sent = len(sandbox.received)
        sandbox.script("submit", Fault.delay(0.2))
        task, _, _ = await asyncio.gather(hf.submit(V2.request, key="order-17"), recovered(hf), recovered(hf))
        assert [task.id] == [*sandbox.generations]
        assert len(sandbox.received) == sent + 1


@pytest.mark.parametrize("how", ["refresh", "recover"])
async def test_a_claim_whose_caller_is_cancelled(sandbox: Sandbox, client: Client, path: Path, how: str) -> None:
    sandbox.plan(NEVER)
    async with client(journal=path) as hf:
        ref = (await hf.submit(PROXY.request)).ref
    journal = Slow(path)
    journal.begun = asyncio.Event()
    async with client(journal=journal) as hf:
        claiming = asyncio.ensure_future(hf.task(ref).refresh() if how == "refresh" else anext(hf.recover()))
        await journal.begun.wait()
        claiming.cancel()
        await asyncio.wait([claiming])
        await asyncio.wait_for(let_go(path), 3)


async def test_a_refresh_that_fails(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.plan(NEVER)
    async with client(journal=path) as hf:
        ref = (await hf.submit(PROXY.request)).ref
    async with client(journal=path) as hf:
        sandbox.script("poll", *[Fault.reset()] * 10)
        with pytest.raises(HiggsfieldError):
            await hf.task(ref).refresh()
        await asyncio.wait_for(let_go(path), 3)


async def test_another_generation_under_the_same_key(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(journal=path) as first, client(journal=path) as second:
        sandbox.plan(Plan(), NEVER)
        task = await first.submit(PROXY.request, key="order-17")
        await let_go(path)
        await second.forget("order-17")
        another = await second.submit(PROXY.request, key="order-17")
        waiting = asyncio.create_task(another.wait())
        await anyio.sleep(0.1)
        assert (await task.wait(5)).id == task.id
        assert task.key is None
        waiting.cancel()
        await asyncio.wait([waiting])
        [entry] = await kept(path)
        assert (entry.id, entry.state) == (another.id, "submitted")


async def test_forgotten_and_submitted_anew(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.plan(NEVER)
    async with client(journal=path) as hf:
        tasks = [await hf.submit(PROXY.request, key="order-17")]
        await hf.forget("order-17")
        tasks.append(await hf.submit(PROXY.request, key="order-17"))
        assert (await asyncio.wait_for(let_go(path), 3)).id == tasks[1].id


async def test_nothing_is_owed_of_what_is_forgotten(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.plan(Plan(), NEVER)
    async with client(journal=Shaky(path, finish=9)) as hf:
        task = await hf.submit(PROXY.request, key="order-17")
        await task.wait()
        await hf.forget("order-17")
        # Its end, which could not be written, is neither waited for nor that of the next one.
        another = await hf.submit(PROXY.request, key="order-17")
        assert another.id != task.id
    [entry] = await kept(path)
    assert (entry.id, entry.state) == (another.id, "submitted")


async def test_what_is_written_is_owed_no_longer(client: Client, path: Path) -> None:
    journal = Shaky(path)
    async with client(journal=journal) as hf:
        job_set = await hf.run(PROXY.request, key="order-17")
        assert await hf.run(PROXY.request, key="order-17") == job_set
        journal.failures["finish"] = 9
        assert await hf.run(PROXY.request, key="order-17") == job_set
        assert journal.failures["finish"] == 9


async def test_an_end_that_is_reported_and_nobody_waits_for(client: Client, path: Path) -> None:
    async with client(V2, journal=path, poll=PollPolicy.fixed(60)) as hf:
        task = await hf.submit(V2.request, key="order-17")
        await let_go(path)
        report = flat(task.id)
        assert hf.deliver(unwrap(report, signed(report), secrets=SECRET))
    assert [entry.state for entry in await kept(path)] == ["ended"]


async def test_what_had_ended_when_it_was_found(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with client(V1, journal=path) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V1.request, key="order-17")
        [paid] = sandbox.generations
        while not sandbox.generations[paid].finished:
            await anyio.sleep(0.01)
        assert (await hf.resolve("order-17", paid)).status is JobStatus.COMPLETED
    assert [entry.state for entry in await kept(path)] == ["ended"]


@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("name", ["finish", "release"])
async def test_what_cannot_be_written_is_written_later(
    sandbox: Sandbox, client: Client, path: Path, name: str, failures: int
) -> None:
    sandbox.plan(Plan() if name == "finish" else NEVER)
    async with client(journal=Shaky(path, **{name: failures})) as hf:
        task = await hf.submit(PROXY.request, key="order-17")
        if name == "finish":
            await task.wait()
        entry = await asyncio.wait_for(let_go(path), 5)
        assert entry.state == ("ended" if name == "finish" else "submitted")


@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("name", ["abandon", "unknown"])
async def test_an_outcome_that_cannot_be_written(
    sandbox: Sandbox, client: Client, path: Path, name: str, failures: int
) -> None:
    if name == "abandon":
        sandbox.script("submit", Fault.answer(422, b'{"detail": "no"}'))
    else:
        sandbox.script("submit", *LOST)
    async with client(V2, journal=Shaky(path, **{name: failures})) as hf:
        with pytest.raises(HiggsfieldError):
            await hf.submit(V2.request, key="order-17")
        while True:
            # It waits for nothing that nobody does.
            try:
                task = await asyncio.wait_for(hf.submit(V2.request, key="order-17"), 8)
            except JournalError as error:
                assert error.charged == "no"
                assert name in str(error)
            else:
                break
    assert [task.id] == [*sandbox.generations]


@pytest.mark.parametrize("key", [None, "order-17"])
@pytest.mark.parametrize("failures", [0, 1])
@pytest.mark.parametrize("after", ["0", "1"])
async def test_held_back_and_sent_again(
    sandbox: Sandbox, client: Client, path: Path, failures: int, key: str | None, after: str
) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": after}))
    async with client(V2, journal=Shaky(path, abandon=failures)) as hf:
        task = await asyncio.wait_for(hf.submit(V2.request, key=key), 8)
        assert [task.id] == [*sandbox.generations]
        [entry] = await kept(path)
        assert entry.id == task.id


class Broken(SQLiteJournal):
    """A journal with a fault of its own."""

    async def commit(self, *_: object) -> None:
        raise RuntimeError


async def test_an_id_and_a_journal_with_a_fault(
    sandbox: Sandbox, client: Client, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(journal=Broken(path)) as hf:
        task = await asyncio.wait_for(hf.submit(PROXY.request, key="order-17"), 5)
    assert [task.id] == [*sandbox.generations]
    assert task.id in caplog.text


async def test_a_refusal_that_cannot_be_written(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "0"}))
    async with client(V2, journal=Shaky(path, abandon=20)) as hf:
        with pytest.raises(JournalError, match="abandon: the disk is full") as caught:
            await asyncio.wait_for(hf.submit(V2.request), 8)
        assert caught.value.charged == "no"
    assert not sandbox.generations


async def test_a_change_that_cannot_be_written(client: Client, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with client(journal=Shaky(path, saw=1)) as hf:
        assert (await hf.run(PROXY.request)).status is JobStatus.COMPLETED
    assert "saw: the disk is full" in caplog.text
    assert [entry.state for entry in await kept(path)] == ["ended"]


async def test_a_report_of_what_was_forgotten_by_somebody_else(client: Client, path: Path) -> None:
    async with client(V2, journal=path, poll=PollPolicy.fixed(60)) as first, client(V2, journal=path) as second:
        task = await first.submit(V2.request, key="order-17")
        await let_go(path)
        await second.forget("order-17")
        another = await second.submit(V2.request, key="order-17")
        report = flat(task.id)
        assert first.deliver(unwrap(report, signed(report), secrets=SECRET))
    [entry] = await kept(path)
    assert (entry.id, entry.state) == (another.id, "submitted")


class Renewed(SQLiteJournal):
    """A journal in which a lost submit is forgotten, and another one of its key lost, before it is held here."""

    async def claim(self, key: str) -> Entry | None:
        entry = await self.forget(key)
        intent = replace(entry.intent, nonce="another", idempotency_key="another")
        await self.begin(intent)
        await self.unknown(key, intent.nonce)
        return await super().claim(key)


async def test_what_is_lost_anew_in_the_moment_of_its_recovery(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(V2, journal=Renewed(path)) as hf:
        await lost(sandbox, hf)
        sent = len(sandbox.received)
        await recovered(hf)
        assert len(sandbox.received) == sent
    assert (await kept(path))[0].intent.idempotency_key == "another"


async def test_an_address_in_capitals() -> None:
    form = await frozen(ModelRequest("a/b", {"image_url": "HTTPS://images.example.com/cat.jpg?signature=abc-secret"}))
    assert b"abc-secret" not in form.told


async def test_clients_that_recover_what_was_submitted_at_once(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.plan(NEVER)
    async with client(journal=path) as hf:
        for _ in range(20):
            await hf.submit(PROXY.request)

    async def found(hf: Higgsfield) -> list[str]:
        return [task.id async for task in hf.recover()]

    async with client(journal=path) as first, client(journal=path) as second:
        ids = await asyncio.gather(found(first), found(second))
    # Each is looked after by one of them.
    assert sorted([*ids[0], *ids[1]]) == sorted(sandbox.generations)
