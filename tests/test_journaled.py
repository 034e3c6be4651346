"""A client with a journal: what is written when, whose work is whose, and what the same key is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from higgsfield_async import (
    Higgsfield,
    InvalidRequest,
    JobStatus,
)
from higgsfield_async.journal import Entry, SQLiteJournal
from higgsfield_async.sandbox import Sandbox
from surfaces import PROXY, Surface

Client = Callable[..., Higgsfield]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "generations.db"


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


if __name__ == "__main__":
    raise SystemExit
