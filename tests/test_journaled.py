"""A client with a journal: what is written when, whose work is whose, and what the same key is."""

from __future__ import annotations

import asyncio
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings, strategies
from msgspec.structs import replace
from test_webhooks import SECRET, flat, signed

from higgsfield_async import (
    ArgumentWarning,
    Budget,
    ConfigurationError,
    ConnectionFailed,
    GenerationFailed,
    GenerationRequest,
    Higgsfield,
    HiggsfieldError,
    InvalidRequest,
    JobSet,
    JobStatus,
    JournalError,
    Limits,
    ModelRequest,
    NotFound,
    PollPolicy,
    ProxyTransport,
    RetryPolicy,
    SubmissionUnknown,
    Webhook,
)
from higgsfield_async._frozen import frozen, replay_of, replayed
from higgsfield_async._ledger import may_be_sent_again
from higgsfield_async._requests import SubmitOptions
from higgsfield_async.journal import Entry, Intent, SQLiteJournal
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from higgsfield_async.webhooks import unwrap
from surfaces import PROMPT, PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "generations.db"


NEVER = Plan(queued=1e9)
# For each try of one submit with an idempotency key.
LOST = [Fault.reset(accept=True)] * RetryPolicy().attempts


class Shaky(SQLiteJournal):
    """A journal whose disk fails it, so many times for each method that is named."""

    def __init__(self, path: Path, **failures: int) -> None:
        super().__init__(path)
        self.failures = Counter(failures)

    def fail(self, name: str) -> None:
        if self.failures[name] > 0:
            self.failures[name] -= 1
            msg = f"{name}: the disk is full"
            raise JournalError(msg)

    async def begin(self, intent: Intent) -> Entry:
        self.fail("begin")
        return await super().begin(intent)

    async def commit(self, key: str, nonce: str, identifier: str, at: datetime) -> None:
        self.fail("commit")
        await super().commit(key, nonce, identifier, at)

    async def finish(self, key: str, job_set: JobSet) -> None:
        self.fail("finish")
        await super().finish(key, job_set)

    async def claim(self, key: str) -> Entry | None:
        self.fail("claim")
        return await super().claim(key)


def polls(sandbox: Sandbox) -> int:
    return sum(received.operation == "poll" for received in sandbox.received)


def posts(sandbox: Sandbox) -> int:
    return sum(received.operation == "submit" for received in sandbox.received)


async def kept(path: Path) -> list[Entry]:
    journal = SQLiteJournal(path)
    await journal.open()
    try:
        return await journal.entries()
    finally:
        await journal.close()


def submitted(sandbox: Sandbox) -> int:
    return len(sandbox.generations)


async def test_the_same_key_is_the_same_generation(
    sandbox: Sandbox, client: Client, surface: Surface, path: Path
) -> None:
    async with client(surface, journal=path) as hf:
        task = await hf.submit(surface.request, key="order-17")
        again = await hf.submit(surface.request, key="order-17")
        assert task.id == again.id
        assert task.key == again.key == "order-17"
        job_set = await task.wait()
        assert await hf.run(surface.request, key="order-17") == job_set
    # After a restart, from the journal alone.
    async with client(surface, journal=path) as hf:
        found = await hf.submit(surface.request, key="order-17")
        assert (found.id, found.status) == (task.id, JobStatus.COMPLETED)
        assert found.job_set == job_set
        assert found.ref == task.ref
    assert submitted(sandbox) == 1


async def test_many_callers_with_one_key(sandbox: Sandbox, client: Client, surface: Surface, path: Path) -> None:
    async with client(surface, journal=path) as hf:
        tasks = await asyncio.gather(*(hf.submit(surface.request, key="one") for _ in range(20)))
        assert len({task.id for task in tasks}) == 1
    assert submitted(sandbox) == 1


async def test_another_request_with_the_same_key(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(journal=path) as hf:
        await hf.submit(PROXY.request, key="order-17")
        with pytest.raises(InvalidRequest, match="'order-17' names another request") as caught:
            await hf.submit(replace(PROXY.request, prompt="another"), key="order-17")
        assert caught.value.errors[0].loc == ("key",)
    assert submitted(sandbox) == 1


async def test_what_is_written(client: Client, surface: Surface, path: Path) -> None:
    async with client(surface, journal=path) as hf:
        task = await hf.submit(surface.request)
        await task.wait()
        ref = task.ref
    [entry] = await kept(path)
    assert (entry.state, entry.ref, entry.held) == ("ended", ref, False)
    assert entry.job_set == task.job_set
    assert entry.intent.request is not None
    assert entry.intent.replay is None  # the id is known
    assert (entry.intent.idempotency_key is not None) == surface.keyed


async def test_what_is_refused_is_not_kept(sandbox: Sandbox, client: Client, surface: Surface, path: Path) -> None:
    sandbox.script("submit", Fault.answer(422, b'{"detail": "no"}'))
    async with client(surface, journal=path) as hf:
        with pytest.raises(InvalidRequest):
            await hf.submit(surface.request, key="order-17")
        assert await kept(path) == []
        await hf.run(surface.request, key="order-17")
    assert submitted(sandbox) == 1


async def test_what_is_held_back_is_not_kept_meanwhile(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", Fault.answer(429, headers={"Retry-After": "1"}))
    async with client(V2, journal=path) as hf:
        submitting = asyncio.create_task(hf.submit(V2.request, key="order-17"))
        while not sandbox.received:
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        # It may be killed for as long as it waits, and is not taken for lost then.
        assert await kept(path) == []
        assert (await submitting).key == "order-17"
    assert submitted(sandbox) == 1


@pytest.mark.parametrize("surface", [PROXY, V1], ids=str)
async def test_what_nobody_can_tell(sandbox: Sandbox, client: Client, surface: Surface, path: Path) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with client(surface, journal=path) as hf:
        with pytest.raises(SubmissionUnknown, match=r"hf\.resolve\('order-17', id\)") as caught:
            await hf.submit(surface.request, key="order-17")
        assert (caught.value.journal_key, caught.value.charged) == ("order-17", "unknown")
    async with client(surface, journal=path) as hf:
        # It is never sent again by itself.
        with pytest.raises(SubmissionUnknown, match="'order-17' .* was submitted on .* UTC") as caught:
            await hf.submit(surface.request, key="order-17")
        assert (caught.value.journal_key, caught.value.key) == ("order-17", None)
        assert caught.value.request == surface.request
        assert [task async for task in hf.recover()] == []
        assert [entry.key for entry in await hf.unknown()] == ["order-17"]
        [paid] = sandbox.generations
        with pytest.raises(NotFound):
            await hf.resolve("order-17", "11111111-2222-4333-8444-555555555555")
        with pytest.raises(JournalError, match="no 'order-18'"):
            await hf.resolve("order-18", paid)
        task = await hf.resolve("order-17", paid)
        assert await hf.unknown() == []
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert (await hf.submit(surface.request, key="order-17")).id == paid
    assert submitted(sandbox) == 1


async def test_only_forgetting_sends_again_what_may_have_been_paid_for(
    sandbox: Sandbox, client: Client, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    async with client(journal=path) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(PROXY.request, key="order-17")
        [entry] = await hf.unknown()
        assert repr(entry) == f"Entry('order-17', state='unknown', id=None, kind={entry.intent.kind!r})"
        assert repr(entry.intent).startswith(f"Intent('order-17', kind={entry.intent.kind!r}, created_at=20")
        other = await hf.submit(PROXY.request, key="order-18")
        assert (await hf.forget("order-17")).state == "unknown"
        task = await hf.submit(PROXY.request, key="order-17")
        assert submitted(sandbox) == 3
        await anyio.lowlevel.checkpoint()
        forgotten = await hf.forget("order-17")
        assert forgotten.ref == task.ref
        assert task.id in caplog.text
        with pytest.raises(JournalError):
            await hf.forget("order-17")
        # What becomes of the forgotten one is nothing of the next one's.
        another = await hf.submit(PROXY.request, key="order-17")
        await task.wait()
        assert (task.key, another.key, other.key) == (None, "order-17", "order-18")
        assert [entry.id for entry in await kept(path)] == [other.id, another.id]
        assert (await another.wait()).id == another.id


async def test_all_that_is_unknown_is_told_of_and_recovered(
    sandbox: Sandbox, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._ledger.PAGE", 2)
    sandbox.script("submit", *LOST * 5)
    keys = [f"order-{number}" for number in range(5)]
    async with client(V2, journal=path) as hf:
        for key in keys:
            with pytest.raises(SubmissionUnknown):
                await hf.submit(V2.request, key=key)
    async with client(V2, journal=path) as hf:
        assert [entry.key for entry in await hf.unknown()] == keys
        assert [task.key async for task in hf.recover()] == keys
    assert len(sandbox.generations) == 5


async def test_a_lost_answer_is_recovered_by_its_idempotency_key(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST, *LOST)
    async with client(V2, journal=path) as hf:
        with pytest.raises(SubmissionUnknown, match="with key='order-17'"):
            await hf.submit(V2.request, key="order-17")
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request)
    sent = posts(sandbox)
    async with client(V2, journal=path) as hf:
        assert len(await hf.unknown()) == 2
        tasks = [task async for task in hf.recover()]
        assert {task.id for task in tasks} == set(sandbox.generations)
        assert tasks[0].key == "order-17"
        assert await hf.unknown() == []
        assert (await hf.submit(V2.request, key="order-17")).id == tasks[0].id
        for task in tasks:
            await task.wait()
    assert submitted(sandbox) == 2
    assert posts(sandbox) == sent + 2
    bodies = {received.body for received in sandbox.received if received.operation == "submit"}
    assert len(bodies) == 1


async def test_the_same_submit_recovers_a_lost_answer(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST)
    async with client(V2, journal=path) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key="order-17")
        task = await hf.submit(V2.request, key="order-17")
        assert [task.id] == [*sandbox.generations]
        assert (await task.wait()).status is JobStatus.COMPLETED


async def altered(path: Path, **fields: Any) -> None:
    """Puts another intent in the place of the one that there is."""
    journal = SQLiteJournal(path)
    await journal.open()
    [entry] = await journal.entries()
    await journal.forget(entry.key)
    intent = replace(entry.intent, **fields)
    await journal.begin(intent)
    await journal.unknown(intent.key, intent.nonce)
    await journal.close()


@pytest.mark.parametrize("moved", [timedelta(hours=-2), timedelta(minutes=5)], ids=["old", "of the future"])
async def test_a_key_that_the_service_may_have_forgotten(
    sandbox: Sandbox, client: Client, path: Path, moved: timedelta
) -> None:
    sandbox.script("submit", *LOST)
    async with client(V2, journal=path) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key="order-17")
    await altered(path, created_at=datetime.now(UTC) + moved)
    sent = posts(sandbox)
    async with client(V2, journal=path) as hf:
        assert [task async for task in hf.recover()] == []
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(V2.request, key="order-17")
        assert caught.value.key is not None
        assert not caught.value.transient
        assert [entry.held for entry in await hf.unknown()] == [False]
    assert posts(sandbox) == sent


async def test_a_recovery_that_is_refused(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST, Fault.answer(401))
    async with client(V2, journal=path) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key="order-17")
        assert [task async for task in hf.recover()] == []
        # What a refusal of the second try says of the first is nothing.
        [entry] = await hf.unknown()
        assert (entry.key, entry.held) == ("order-17", False)
        assert [task.id async for task in hf.recover()] == [*sandbox.generations]


async def test_without_prompts(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST)
    journal = SQLiteJournal(path, prompts=False)
    async with client(V2, journal=journal) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key="order-17")
        # There is nothing to send again by itself, but for whoever comes with the request.
        assert [task async for task in hf.recover()] == []
        task = await hf.submit(V2.request, key="order-17")
        await task.wait()
    assert submitted(sandbox) == 1
    written = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert PROMPT.encode() not in written
    assert task.id.encode() in written


async def test_no_secret_is_written(sandbox: Sandbox, client: Client, path: Path) -> None:
    request = replace(PROXY.request, images=["https://images.example.com/cat.jpg?signature=abc-secret"])
    sandbox.plan(NEVER)
    async with client(journal=path) as hf:
        await hf.submit(request, key="order-17")
        # Signed anew: the same picture.
        again = replace(request, images=["https://images.example.com/cat.jpg?signature=another"])
        await hf.submit(again, key="order-17")
    written = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert PROMPT.encode() in written
    assert b"abc-secret" not in written
    assert sandbox.proxy_key.encode() not in written
    assert submitted(sandbox) == 1


async def test_local_files_are_told_by_their_content(
    sandbox: Sandbox, client: Client, path: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(PNG)
    request = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": picture})
    async with client(V2, journal=path) as hf:
        task = await hf.submit(request, key="order-17")
    picture.rename(tmp_path / "moved.png")
    async with client(V2, journal=path) as hf:
        moved = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": tmp_path / "moved.png"})
        uploads = sum(received.operation == "upload" for received in sandbox.received)
        assert (await hf.submit(moved, key="order-17")).id == task.id
        assert sum(received.operation == "upload" for received in sandbox.received) == uploads
        other = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": PNG + b"more"})
        with pytest.raises(InvalidRequest, match="another request"):
            await hf.submit(other, key="order-17")


async def test_what_is_left_is_recovered(sandbox: Sandbox, client: Client, surface: Surface, path: Path) -> None:
    sandbox.plan(NEVER, Plan(), NEVER)
    async with client(surface, journal=path) as hf:
        tasks = [await hf.submit(surface.request) for _ in range(3)]
        await tasks[1].wait()
    sandbox.plan()
    async with client(surface, journal=path) as hf:
        found = [task async for task in hf.recover()]
        assert [task.ref for task in found] == [tasks[0].ref, tasks[2].ref]
        assert [task.key for task in found] == [tasks[0].key, tasks[2].key]
        # What is looked after is left alone.
        assert [task async for task in hf.recover()] == []
        assert polls(sandbox) > 0
        assert not (await found[0].refresh()).status.terminal


async def test_what_ended_meanwhile_is_fetched(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(journal=path) as hf:
        await hf.submit(PROXY.request)
    while not all(generation.finished for generation in sandbox.generations.values()):
        await anyio.sleep(0.01)
    async with client(journal=path) as hf:
        [job_set] = [await task.wait() async for task in hf.recover()]
        assert job_set.status is JobStatus.COMPLETED
    [entry] = await kept(path)
    assert entry.job_set == job_set


async def test_two_clients_do_not_look_at_the_same(
    sandbox: Sandbox, client: Client, surface: Surface, path: Path
) -> None:
    sandbox.plan(NEVER)
    async with client(surface, journal=path) as first, client(surface, journal=path) as second:
        mine = await first.submit(surface.request, key="order-17")
        waiting = asyncio.create_task(mine.wait())
        while not polls(sandbox):
            await anyio.sleep(0.01)
        assert [task async for task in second.recover()] == []
        theirs = await second.submit(surface.request, key="order-17")
        assert theirs.ref == mine.ref
        asking = asyncio.create_task(theirs.wait())
        picked_up = second.task(mine.ref.to_json())
        assert (await picked_up.refresh()).status is JobStatus.QUEUED
        assert picked_up.key == "order-17"
        # Each poll is the first one's: no two are under way at once, and those of the second would be twice as many.
        [told] = {received.connection for received in sandbox.received if received.operation == "poll"}
        waiting.cancel()
        # Nobody waits there any more: the second takes over.
        while len({received.connection for received in sandbox.received if received.operation == "poll"}) < 2:
            await anyio.sleep(0.01)
        last = sandbox.received[-1].connection
        assert last != told
        asking.cancel()
        await asyncio.wait([waiting, asking])
    assert submitted(sandbox) == 1


async def test_an_end_that_another_client_saw(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.plan(Plan(queued=20, running=20))
    async with client(journal=path) as first, client(journal=path) as second:
        task = await first.submit(PROXY.request, key="order-17")
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(task.wait()), group.create_task(second.task(task.ref).wait())]
        assert waits[0].result() == waits[1].result()
    assert len({received.connection for received in sandbox.received if received.operation == "poll"}) == 1


async def test_what_nobody_waits_for_is_let_go(
    sandbox: Sandbox, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._ledger.HELD_ON", 0.05)
    sandbox.plan(NEVER)
    async with client(journal=path) as first:
        task = await first.submit(PROXY.request, key="order-17")
        assert (await kept(path))[0].held
        # One who came back to it in time holds it on.
        waiting = asyncio.create_task(task.wait())
        await anyio.sleep(0.15)
        assert (await kept(path))[0].held
        waiting.cancel()
        while (await kept(path))[0].held:
            await anyio.sleep(0.01)
        async with client(journal=path) as second:
            [found] = [each async for each in second.recover()]
            assert found.id == task.id


async def test_a_batch_again(sandbox: Sandbox, client: Client, surface: Surface, path: Path) -> None:
    requests = [surface.request, _other(surface), surface.request]
    sandbox.plan(Plan(), Plan(end="failed"))
    async with client(surface, journal=path) as hf:
        first = [outcome async for outcome in hf.map(requests)]
    assert submitted(sandbox) == 3
    async with client(surface, journal=path) as hf:
        second = [outcome async for outcome in hf.map([_other(surface), *requests[:1], *requests])]
    assert submitted(sandbox) == 5  # of each one more than before
    assert {outcome.key for outcome in first} <= {outcome.key for outcome in second}
    again = {outcome.key: outcome for outcome in second}
    for outcome in first:
        assert outcome.key is not None
        assert again[outcome.key].ref == outcome.ref
        assert again[outcome.key].job_set == outcome.job_set
        assert type(again[outcome.key].error) is type(outcome.error)
    assert sum(isinstance(outcome.error, GenerationFailed) for outcome in second) == 1


def _other(surface: Surface) -> GenerationRequest:
    if isinstance(surface.request, ModelRequest):
        return ModelRequest(surface.request.model_id, {**surface.request.arguments, "prompt": "another"})
    return replace(surface.request, prompt="another")


async def test_a_batch_with_keys_of_its_own(sandbox: Sandbox, client: Client, path: Path) -> None:
    rows = ["a-17", "b-18"]
    async with client(V1, journal=path) as hf:
        await hf.gather([V1.request] * 2, key=lambda index, _: rows[index])
        rows.reverse()
        job_sets = await hf.gather([V1.request] * 2, key=lambda index, _: rows[index])
        assert [job_set.id for job_set in job_sets] == [*sandbox.generations][::-1]
        with pytest.raises(ConfigurationError, match="A key is a text"):
            await hf.gather([V1.request], key=lambda *_: "")
    assert submitted(sandbox) == 2


async def test_what_is_saved_is_not_fetched_again(
    sandbox: Sandbox, client: Client, surface: Surface, path: Path, tmp_path: Path
) -> None:
    def downloads() -> int:
        return sum(received.operation == "download" for received in sandbox.received)

    folder = tmp_path / "made"
    async with client(surface, journal=path) as hf:
        [outcome] = [outcome async for outcome in hf.map([surface.request], save=folder)]
        assert outcome.job_set is not None
        files = [media.path for media in outcome.job_set.outputs]
        before = downloads()
    async with client(surface, journal=path) as hf:
        [again] = [outcome async for outcome in hf.map([surface.request], save=folder)]
        assert again.job_set == outcome.job_set
        assert downloads() == before
        assert outcome.key is not None
        job_set = await hf.run(surface.request, key=outcome.key, save=str(folder))
        assert job_set == outcome.job_set
        assert downloads() == before
        # Elsewhere, or gone: then it is.
        await hf.run(surface.request, key=outcome.key, save=tmp_path / "elsewhere")
        fetched = downloads()
        assert fetched > before
        for file in (tmp_path / "elsewhere").iterdir():
            file.unlink()
        saved = await hf.run(surface.request, key=outcome.key, save=tmp_path / "elsewhere")
        assert [media.path for media in saved.outputs if media.path and media.path.is_file()]
        assert downloads() > fetched
        task = await hf.submit(surface.request, key=outcome.key)
        await task.save(tmp_path / "third")
    assert len(files) > 0
    [entry] = await kept(path)
    assert entry.job_set is not None
    assert any(media.path and media.path.parent == tmp_path / "third" for media in entry.job_set.outputs)


async def test_with_a_writer_nothing_is_taken_for_saved(client: Client, path: Path) -> None:
    names: list[str] = []

    async def write(name: str, pieces: AsyncIterator[bytes]) -> None:
        names.append(name)
        async for _ in pieces:
            pass

    async with client(V1, journal=path) as hf:
        for _ in range(2):
            await hf.run(V1.request, key="order-17", save=write)
    assert len(names) == 2


async def test_a_disk_that_takes_no_intent_stops_the_submit(
    sandbox: Sandbox, client: Client, surface: Surface, path: Path
) -> None:
    async with client(surface, journal=Shaky(path, begin=1)) as hf:
        with pytest.raises(JournalError, match="begin: the disk is full") as caught:
            await hf.submit(surface.request, key="order-17")
        assert caught.value.charged == "no"
        assert submitted(sandbox) == 0
        # Nothing is held back for that.
        await hf.run(surface.request, key="order-17")
    assert submitted(sandbox) == 1


@pytest.mark.parametrize("failures", [2, 4, 6])
async def test_a_paid_id_that_the_disk_does_not_take(
    sandbox: Sandbox, client: Client, path: Path, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(NEVER)
    async with client(journal=Shaky(path, commit=failures)) as hf:
        task = await hf.submit(PROXY.request, key="order-17")
        assert [task.id] == [*sandbox.generations]
        # Known here, wherever it is written.
        assert (await hf.submit(PROXY.request, key="order-17")).id == task.id
        spilled = [each for each in path.parent.iterdir() if ".spill-" in each.name]
        assert len(spilled) == (failures > 3)
        assert all(task.id.encode() in each.read_bytes() and each.stat().st_mode & 0o77 == 0 for each in spilled)
        assert (task.id in caplog.text) == (failures > 3)
        if failures == 4:  # it is offered again
            while not (await kept(path))[0].id:
                await anyio.sleep(0.05)
    async with client(journal=path) as hf:
        [found] = [each async for each in hf.recover()]
        assert found.ref.id == task.id
        assert not [each for each in path.parent.iterdir() if ".spill-" in each.name]
    assert submitted(sandbox) == 1


async def test_a_disk_that_takes_nothing_at_all(
    sandbox: Sandbox,
    client: Client,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Shaky(path, commit=9)
    async with client(journal=journal) as hf:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        monkeypatch.setattr(Shaky, "spill", tmp_path / "nor" / "here")
        task = await hf.submit(PROXY.request, key="order-17")
    assert f"this line is all there is: {task.ref.to_json()}" in caplog.text


async def test_a_disk_that_is_gone_with_its_spill_files(
    sandbox: Sandbox, client: Client, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    spill = tmp_path / "gone" / "spill"
    monkeypatch.setattr(Shaky, "spill", spill)
    async with client(journal=Shaky(path, commit=9)) as hf:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        task = await hf.submit(PROXY.request, key="order-17")
    [spilled] = (tmp_path / "tmp").iterdir()
    # Another journal's are as good as not there.
    async with client(journal=SQLiteJournal(path, spill=tmp_path / "elsewhere" / "spill")) as hf:
        assert [entry.key for entry in await hf.unknown()] == ["order-17"]
    async with client(journal=SQLiteJournal(path, spill=spill)) as hf:
        assert [each.id async for each in hf.recover()] == [task.id]
    assert not spilled.exists()


async def test_a_full_disk_ends_a_map(sandbox: Sandbox, client: Client, path: Path) -> None:
    def endless() -> Iterator[GenerationRequest]:
        while True:
            yield PROXY.request

    async with client(journal=Shaky(path, begin=1000)) as hf:
        outcomes = hf.map(endless(), max_active=2)
        assert isinstance((await anext(outcomes)).error, JournalError)
        with pytest.raises(JournalError, match="the disk is full"):
            [each async for each in outcomes]
    assert submitted(sandbox) == 0


@pytest.mark.parametrize(
    "damaged", [b"{", b'{"key":"\xff"}', b'{"more":' + b"[" * 100_000], ids=["cut", "text", "deep"]
)
async def test_a_spill_file_that_cannot_be_read_back(
    client: Client, path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    spill = path.with_name(f"{path.name}.spill-1")
    spill.write_bytes(damaged)
    async with client(journal=path) as hf:
        # It is looked for again, and told of once.
        assert await hf.unknown() == []
        assert caplog.text.count(f"A paid generation is in {spill}, and not in the journal: It cannot be read: ") == 1
    assert spill.exists()


async def test_what_was_seen_is_in_the_journal_while_it_goes_on(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.plan(Plan(queued=0, running=10_000))
    async with client(V2, journal=path) as hf:
        task = await hf.submit(V2.request, key="order-17")
        async for job_set in task.updates():
            if job_set.status is JobStatus.IN_PROGRESS:
                break
    async with client(V2, journal=path) as hf:
        assert hf.journal is not None
        entry = await hf.journal.find("order-17")
        assert entry is not None
        assert entry.job_set is not None
        assert entry.job_set.status is JobStatus.IN_PROGRESS


async def test_an_id_that_is_in_the_log_alone_is_its_last_word(
    sandbox: Sandbox, client: Client, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(V2, journal=Shaky(path, commit=10)) as hf:
        task = await hf.submit(V2.request)
    [record] = [each for each in caplog.records if each.levelname == "CRITICAL"]
    assert record.getMessage().startswith("A paid generation is not in the journal (")
    assert record.getMessage().endswith(task.ref.to_json())
    told = vars(record)
    assert (told["higgsfield.paid"], told["error.type"]) == (True, "JournalError")


@pytest.mark.parametrize(("seconds", "again"), [(-1, False), (0, True), (3600, True), (3601, False)])
def test_how_old_a_submit_may_be_that_is_sent_again(seconds: float, *, again: bool) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    intent = Intent(
        key="order-17",
        nonce="1",
        transport="platform",
        origin="https://platform.example",
        account="a",
        kind="v1",
        digest="d",
        created_at=now - timedelta(seconds=seconds),
        idempotency_key="i",
    )
    assert may_be_sent_again(intent, now) is again
    assert not may_be_sent_again(replace(intent, idempotency_key=None), now)


async def test_a_journal_that_cannot_be_read_costs_no_wait(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(journal=path) as hf:
        ref = (await hf.submit(PROXY.request)).ref
    async with client(journal=Shaky(path, claim=1, finish=1)) as hf:
        assert (await hf.task(ref).wait()).status is JobStatus.COMPLETED


async def test_a_caller_that_is_cancelled_in_time_leaves_nothing(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(journal=path, limits=Limits(max_active=1)) as hf:
        sandbox.plan(NEVER)
        await hf.submit(PROXY.request)
        submitting = asyncio.create_task(hf.submit(PROXY.request, key="order-17"))
        await anyio.sleep(0.1)
        submitting.cancel()
        await asyncio.wait([submitting])
        assert len(await kept(path)) == 1
    assert submitted(sandbox) == 1


async def test_a_caller_that_is_cancelled_too_late_loses_no_id(
    sandbox: Sandbox, client: Client, surface: Surface, path: Path
) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    async with client(surface, journal=path) as hf:
        submitting = asyncio.create_task(hf.submit(surface.request, key="order-17"))
        while not sandbox.generations:
            await anyio.sleep(0.01)
        submitting.cancel()
        await asyncio.wait([submitting])
        assert [entry.state for entry in await kept(path)] == ["intent"]
        # Whoever comes meanwhile waits for the same.
        task = await hf.submit(surface.request, key="order-17")
        assert [task.id] == [*sandbox.generations]


async def test_a_submit_that_takes_longer_than_another_caller_waits(
    sandbox: Sandbox, client: Client, path: Path
) -> None:
    sandbox.script("submit", Fault.delay(0.5))
    async with client(journal=path) as hf:
        submitting = asyncio.create_task(hf.submit(PROXY.request, key="order-17"))
        while not sandbox.generations:
            await anyio.sleep(0.01)
        with pytest.raises(ConnectionFailed, match="'order-17' is being submitted"):
            await hf.run(PROXY.request, key="order-17", timeout=0.05)
        submitting.cancel()
        await asyncio.wait([submitting])
        with pytest.raises(ConnectionFailed, match="'order-17' is being submitted"):
            await hf.run(PROXY.request, key="order-17", timeout=0.05)
    assert submitted(sandbox) == 1


async def test_closing_in_the_middle_leaves_it_unknown(
    sandbox: Sandbox, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._client.CLOSE_GRACE", 0.05)
    sandbox.script("submit", Fault.delay(5))
    async with client(journal=path) as hf:
        submitting = asyncio.create_task(hf.submit(PROXY.request, key="order-17"))
        while not sandbox.generations:
            await anyio.sleep(0.01)
    with pytest.raises(SubmissionUnknown) as caught:
        await submitting
    assert caught.value.journal_key == "order-17"
    assert [entry.state for entry in await kept(path)] == ["unknown"]


class Slow(SQLiteJournal):
    """A journal whose first commit takes longer than anybody waits."""

    waited = False

    async def commit(self, key: str, nonce: str, identifier: str, at: datetime) -> None:
        if not self.waited:
            self.waited = True
            await anyio.sleep(30)
        await super().commit(key, nonce, identifier, at)


async def test_closing_while_an_id_is_written_loses_it_not(
    sandbox: Sandbox, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._client.CLOSE_GRACE", 0.05)
    journal = Slow(path)
    async with client(journal=journal) as hf:
        submitting = asyncio.create_task(hf.submit(PROXY.request, key="order-17"))
        while not journal.waited:
            await anyio.sleep(0.01)
    with pytest.raises(HiggsfieldError):
        await submitting
    assert [(entry.state, entry.id) for entry in await kept(path)] == [("submitted", *sandbox.generations)]


async def test_another_account(sandbox: Sandbox, client: Client, path: Path) -> None:
    async with client(journal=path) as hf:
        sandbox.plan(Plan(), NEVER)
        await hf.run(PROXY.request, key="ended")
        await hf.submit(PROXY.request, key="open")
    sandbox.script("submit", Fault.reset(accept=True))
    async with client(journal=path) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(PROXY.request, key="unknown")
    other = ProxyTransport("hk-another-key", sandbox.proxy_url)
    async with Higgsfield(other, journal=path) as hf:
        assert (await hf.run(PROXY.request, key="ended")).status is JobStatus.COMPLETED
        with pytest.raises(ConfigurationError, match="'open' was submitted .* with another account") as caught:
            await hf.submit(PROXY.request, key="open")
        assert caught.value.ref is not None
        assert [task async for task in hf.recover()] == []
        with pytest.raises(ConfigurationError, match="another account"):
            await hf.resolve("unknown", "an-id")


async def test_what_a_journal_is_needed_for(sandbox: Sandbox, client: Client) -> None:
    async with client() as hf:
        assert hf.journal is None
        for wrong in (
            lambda: hf.submit(PROXY.request, key="order-17"),
            lambda: hf.run(PROXY.request, key="order-17"),
            lambda: hf.gather([PROXY.request], key=lambda *_: "order-17"),
            hf.unknown,
            lambda: hf.forget("order-17"),
            lambda: hf.resolve("order-17", "an-id"),
            lambda: anext(hf.recover()),
        ):
            with pytest.raises(ConfigurationError, match="no journal"):
                await wrong()
        assert (await hf.submit(PROXY.request)).key is None
    assert submitted(sandbox) == 1


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 301, 17])
async def test_what_is_no_key(client: Client, path: Path, key: Any) -> None:
    async with client(journal=path) as hf:
        with pytest.raises(ConfigurationError, match="A key is a text of 1 to 300 printable characters"):
            await hf.submit(PROXY.request, key=key)


async def test_pruning(client: Client, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(journal=path) as hf:
        assert isinstance(hf.journal, SQLiteJournal)
        await hf.run(PROXY.request, key="order-17")
        with pytest.raises(ConfigurationError, match="time zone"):
            await hf.prune(datetime.now())  # noqa: DTZ005  # what is refused
        assert await hf.prune(datetime.now(UTC) - timedelta(days=1)) == 0
        # Piece by piece.
        monkeypatch.setattr("higgsfield_async._sqlite.PRUNED", 2)
        await hf.gather([PROXY.request] * 4)
        assert await hf.prune(datetime.now(UTC) + timedelta(days=1)) == 5
    assert await kept(path) == []


async def test_a_journal_that_cannot_be_opened(client: Client, path: Path) -> None:
    path.write_bytes(b"this is no database, and was none before" * 100)
    with pytest.raises(JournalError, match=str(path)):
        async with client(journal=path):
            pass
    # Without `async with` it is said by the first that needs it, and again by the next.
    hf = client(journal=path)
    for _ in range(2):
        with pytest.raises(JournalError, match=str(path)):
            await hf.submit(PROXY.request)
    path.unlink()
    await hf.submit(PROXY.request)
    await hf.close()


async def test_an_end_that_a_webhook_brings(client: Client, path: Path) -> None:
    async with client(V2, journal=path, poll=PollPolicy.fixed(60)) as hf:
        task = await hf.submit(V2.request, key="order-17")
        waiting = asyncio.create_task(task.wait())
        report = flat(task.id)
        assert hf.deliver(unwrap(report, signed(report), secrets=SECRET))
        assert (await waiting).status is JobStatus.COMPLETED
    assert [entry.state for entry in await kept(path)] == ["ended"]


async def test_an_end_that_a_webhook_brings_before_the_answer(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    async with client(V2, journal=path) as hf:
        submitting = asyncio.create_task(hf.submit(V2.request, key="order-17"))
        while not sandbox.generations:
            await anyio.sleep(0.01)
        report = flat(*sandbox.generations)
        hf.deliver(unwrap(report, signed(report), secrets=SECRET))
        assert (await submitting).status is JobStatus.COMPLETED
    assert [entry.state for entry in await kept(path)] == ["ended"]


class Forgetful(SQLiteJournal):
    """A journal that somebody else takes something out of, in the wrong moment."""

    async def claim(self, key: str) -> Entry | None:
        await self.forget(key)
        return await super().claim(key)


async def test_what_is_forgotten_in_the_moment_of_its_recovery(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST)
    async with client(V2, journal=Forgetful(path)) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key="order-17")
        await hf.submit(V2.request, key="order-17")
    assert submitted(sandbox) == 2


class Twice(SQLiteJournal):
    """A journal in which a lost submit is recovered by somebody else, in the moment in which it is held here."""

    claimed = 0

    async def claim(self, key: str) -> Entry | None:
        self.claimed += 1
        found = await super().claim(key)
        return replace(found, state="submitted") if found is not None and self.claimed == 1 else found


async def test_what_is_recovered_by_somebody_else_in_this_moment(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST)
    async with client(V2, journal=Twice(path)) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key="order-17")
        assert [task async for task in hf.recover()] == []
        assert len([task async for task in hf.recover()]) == 1


async def test_a_budget_counts_nothing_twice(client: Client, path: Path) -> None:
    budget = Budget(points=1000)
    async with client(journal=path, budget=budget) as hf:
        await hf.run(PROXY.request, key="order-17")
        spent = budget.left
        assert spent < 1000
        await hf.run(PROXY.request, key="order-17")
        assert budget.left == spent


@settings(max_examples=40, deadline=None)
@given(
    strategies.dictionaries(
        strategies.text(),
        strategies.recursive(
            strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(),
            lambda each: strategies.lists(each) | strategies.dictionaries(strategies.text(), each),
        ),
    )
)
async def test_the_form_of_a_request(arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings(action="ignore", category=ArgumentWarning):
        request = ModelRequest("higgsfield-ai/dop/turbo", arguments)
        turned = ModelRequest("higgsfield-ai/dop/turbo", dict(reversed(arguments.items())))
        other = ModelRequest("higgsfield-ai/dop/turbo", {**arguments, "prompt": "something that is not drawn"})
    form = await frozen(request)
    assert form == await frozen(request) == await frozen(turned)
    assert {form.digest, form.content}.isdisjoint({(await frozen(other)).digest, (await frozen(other)).content})
    replay = replay_of(request, SubmitOptions(expires_after=7200, webhook=Webhook("https://example.com/hook")))
    assert replay is not None
    again, options = replayed(replay, "a-key")
    assert again == request
    assert (options.idempotency_key, options.expires_after, options.resumes) == ("a-key", 7200, True)
    assert options.webhook == Webhook("https://example.com/hook")


async def test_numbers_for_names_in_the_form_of_a_request() -> None:
    forms = [
        await frozen(ModelRequest("some/model", {"places": {number: "here", "b": "there"}})) for number in (1, 1, 2)
    ]
    assert forms[0] == forms[1] != forms[2]


async def test_addresses_in_the_form_of_a_request() -> None:
    def of(address: str) -> GenerationRequest:
        return replace(PROXY.request, images=[address])

    one, two, three = [await frozen(of(f"https://images.example.com/{end}")) for end in ("a?x=1", "a?x=2", "b?x=1")]
    assert one.digest == two.digest != three.digest
    assert len({one.content, two.content, three.content}) == 3
    assert b"x=1" not in one.told


async def test_a_large_request_is_told_by_its_hash() -> None:
    data = "data:image/png;base64," + "A" * 400_000
    form = await frozen(replace(PROXY.request, images=[data]))
    assert len(form.told) < 2000
    assert form != await frozen(replace(PROXY.request, images=[data[:-4] + "BBBB"]))


async def test_clients_that_begin_with_one_key_at_once(
    sandbox: Sandbox, client: Client, surface: Surface, path: Path
) -> None:
    sandbox.script("submit", Fault.delay(0.3))
    async with client(surface, journal=path) as first, client(surface, journal=path) as second:
        tasks = await asyncio.gather(*(hf.submit(surface.request, key="order-17") for hf in (first, second) * 5))
        assert {task.id for task in tasks} == {*sandbox.generations}
    assert submitted(sandbox) == posts(sandbox) == 1


async def test_clients_that_recover_at_once(sandbox: Sandbox, client: Client, path: Path) -> None:
    sandbox.script("submit", *LOST * 4)
    async with client(V2, journal=path) as hf:
        for _ in range(4):
            with pytest.raises(SubmissionUnknown):
                await hf.submit(V2.request)
    sent = posts(sandbox)

    async def recovered(hf: Higgsfield) -> list[str]:
        return [task.id async for task in hf.recover()]

    async with client(V2, journal=path) as first, client(V2, journal=path) as second:
        found = await asyncio.gather(recovered(first), recovered(second))
        assert sorted([*found[0], *found[1]]) == sorted(sandbox.generations)
    assert posts(sandbox) == sent + 4
