"""What is Postgres' own about the journal that lies in it; what every journal does is in test_journal.py."""

from __future__ import annotations

import asyncio
import pwd
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from test_journal import AT, END, elsewhere, found, intent, lost, seen, submitted

from higgsfield_async import ConfigurationError, JournalError
from higgsfield_async.cluster import _journal
from higgsfield_async.cluster._journal import PostgresJournal
from higgsfield_async.journal import Entry
from postgres import PASSWORD, USER, Postgres

Open = Callable[..., Awaitable[PostgresJournal]]


@pytest.fixture
async def opened(dsn: str, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more journal in the database of the test."""
    async with AsyncExitStack() as stack:

        async def journal(given: str = dsn, **settings: Any) -> PostgresJournal:
            made = PostgresJournal(given, **{"spill": tmp_path / "spill", **settings})
            await made.open()
            stack.push_async_callback(made.close)
            return made

        yield journal


@pytest.fixture
async def journal(opened: Open) -> PostgresJournal:
    return await opened()


@pytest.fixture
async def other(opened: Open) -> PostgresJournal:
    return await opened()


@pytest.fixture
def run(postgres: Postgres, dsn: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Runs one statement in the database of the test."""

    def run(query: str, *values: object) -> list[tuple[Any, ...]]:
        return postgres.execute(dsn.rpartition("/")[2], query, *values)

    return run


Run = Callable[..., list[tuple[Any, ...]]]


def cut(run: Run, journal: PostgresJournal) -> None:
    """Ends the connection that holds a journal's lock."""
    query = "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and objid::bigint = %s"
    assert journal.owner is not None
    assert run(query, journal.owner & 0xFFFFFFFF) == [(True,)]


async def renewed(journal: PostgresJournal, before: int | None) -> None:
    """Waits until a journal has another number than before."""
    while journal.owner in {None, before}:
        await asyncio.sleep(0.01)


class Relay:
    """Stands between a journal and its server.

    Attributes:
        withholds: Whether what the server answers is kept back.
    """

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.withholds = False
        self.port = 0

    def cut(self) -> None:
        """Ends every connection, in both directions and without a word."""
        self.withholds = False
        for writer in self._writers:
            writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
        both = {writer, back}
        self._writers |= both
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer, answers=True))
        self._writers -= both

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        try:
            while data := await reader.read(65536):
                if not (answers and self.withholds):
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def relay(postgres: Postgres) -> AsyncIterator[Relay]:
    relay = Relay(postgres)
    server = await asyncio.start_server(relay.talk, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    yield relay
    server.close()
    relay.cut()


def through(relay: Relay, dsn: str, server: Postgres) -> str:
    return dsn.replace(str(server.port), str(relay.port))


class TestServerAway:
    async def test_it_is_stopped_in_the_middle(self, postgres: Postgres, opened: Open) -> None:
        journals = [await opened() for _ in range(3)]
        sent: list[tuple[str, str]] = []
        committed = 0

        async def submit(journal: PostgresJournal, key: str) -> None:
            nonlocal committed
            made = intent(key)
            entry = await journal.begin(made)
            if entry.intent.nonce != made.nonce:
                return
            sent.append((key, made.nonce))
            while True:  # as the ledger does
                try:
                    await journal.commit(key, made.nonce, f"id of {made.nonce}", AT)
                except JournalError as error:
                    assert error.transient
                else:
                    committed += 1
                    return

        async def restart() -> None:
            while committed < 20:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(postgres.stop)
            assert committed < len(keys)
            await asyncio.to_thread(postgres.start)

        keys = [f"key-{number}" for number in range(400)]
        async with asyncio.TaskGroup() as group:
            group.create_task(restart())
            for key in keys:
                for journal in journals:
                    group.create_task(submit(journal, key))
        assert sorted(key for key, _ in sent) == sorted(keys)
        entries = await journals[0].entries()
        assert {(entry.key, entry.id) for entry in entries} == {(key, f"id of {nonce}") for key, nonce in sent}
        assert {entry.state for entry in entries} == {"submitted"}

    async def test_what_stays_away_is_said(self, postgres: Postgres, opened: Open) -> None:
        journal = await opened(patience=0.3)
        await lost(journal, "unknown")
        postgres.stop()
        with pytest.raises(JournalError, match="cannot be used") as caught:
            await journal.find("boat")
        assert caught.value.transient
        with pytest.raises(JournalError, match="Nothing was submitted") as caught:
            await journal.begin(intent())
        assert (caught.value.transient, caught.value.refused, caught.value.charged) == (True, True, "no")
        with pytest.raises(JournalError) as caught:
            await journal.commit("boat", "none", "id-1", AT)
        assert caught.value.charged == "unknown"
        assert PASSWORD not in str(caught.value)
        assert USER not in str(caught.value)
        await journal.close()
        with pytest.raises(JournalError, match="cannot be used"):
            await journal.open()
        postgres.start()
        await journal.open()
        assert [entry.key for entry in await journal.entries()] == ["unknown"]

    async def test_it_is_closed_while_it_has_no_lock(self, postgres: Postgres, opened: Open) -> None:
        journal = await opened(patience=0.3)
        await journal.begin(intent())
        postgres.stop()
        await journal.lost()
        await journal.close()
        postgres.start()
        assert (await found(await opened())).state == "unknown"

    async def test_what_was_not_begun_for_sure_is_taken_back(
        self, postgres: Postgres, dsn: str, opened: Open, relay: Relay, run: Run
    ) -> None:
        journal = await opened(through(relay, dsn, postgres), patience=0.5)
        relay.withholds = True
        with pytest.raises(JournalError, match="Nothing was submitted"):
            await journal.begin(intent())
        assert run("select state from higgsfield.journal") == [("intent",)]
        relay.cut()
        while run("select state from higgsfield.journal"):
            await asyncio.sleep(0.01)


class TestAnswerLost:
    """The server did what it was told, and the connection was lost before its answer."""

    @pytest.fixture
    async def journal(self, postgres: Postgres, dsn: str, opened: Open, relay: Relay) -> PostgresJournal:
        return await opened(through(relay, dsn, postgres))

    @asynccontextmanager
    async def unheard(self, relay: Relay, run: Run, done: str) -> AsyncGenerator[None]:
        relay.withholds = True
        yield
        while run(f"select count(*) from higgsfield.journal where {done}") == [(0,)]:
            await asyncio.sleep(0.01)

    async def test_an_intent_is_known_again(self, journal: PostgresJournal, relay: Relay, run: Run) -> None:
        before = journal.owner
        async with self.unheard(relay, run, "state = 'intent'"):
            beginning = asyncio.create_task(journal.begin(made := intent()))
        relay.cut()
        entry = await beginning
        assert (entry.intent, entry.state, entry.mine) == (made, "intent", True)
        assert journal.owner != before
        await journal.commit(made.key, made.nonce, "id-1", AT)

    async def test_and_though_others_wrote_it_off(
        self, journal: PostgresJournal, other: PostgresJournal, relay: Relay, run: Run
    ) -> None:
        async with self.unheard(relay, run, "state = 'intent'"):
            beginning = asyncio.create_task(journal.begin(made := intent()))
        cut(run, journal)
        assert [entry.key for entry in await other.entries("unknown")] == [made.key]
        relay.cut()
        entry = await beginning
        assert (entry.intent, entry.state, entry.mine) == (made, "intent", True)
        assert (await found(other)).held

    async def test_but_not_once_somebody_took_it_over(
        self, journal: PostgresJournal, other: PostgresJournal, relay: Relay, run: Run
    ) -> None:
        async with self.unheard(relay, run, "state = 'intent'"):
            beginning = asyncio.create_task(journal.begin(made := intent()))
        cut(run, journal)
        claimed = await other.claim(made.key)
        assert claimed is not None
        assert claimed.mine
        relay.cut()
        with pytest.raises(JournalError, match="taken over.*Nothing was submitted"):
            await beginning
        assert await other.find(made.key) == claimed

    async def test_an_id_is_written_down_once(self, journal: PostgresJournal, relay: Relay, run: Run) -> None:
        made = intent()
        await journal.begin(made)
        async with self.unheard(relay, run, "state = 'submitted'"):
            committing = asyncio.create_task(journal.commit(made.key, made.nonce, "id-1", AT))
        relay.cut()
        await committing
        assert (await found(journal)).id == "id-1"

    async def test_an_id_is_attached_once(self, journal: PostgresJournal, relay: Relay, run: Run) -> None:
        await lost(journal)
        async with self.unheard(relay, run, "state = 'submitted'"):
            resolving = asyncio.create_task(journal.resolve("boat", "id-1", AT))
        relay.cut()
        assert (await resolving).id == "id-1"

    async def test_what_is_forgotten_is_given_all_the_same(
        self, journal: PostgresJournal, relay: Relay, run: Run
    ) -> None:
        made = await lost(journal)
        # No answer to what is looked up either: the server is told again, all of it.
        real = journal._connections.one
        async with self.unheard(relay, run, "true"):
            forgetting = asyncio.create_task(journal.forget("boat"))
        relay.cut()
        assert (await forgetting).intent == made
        assert real == journal._connections.one
