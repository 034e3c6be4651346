"""What is Postgres' own about the journal that lies in it; what every journal does is in test_journal.py."""

from __future__ import annotations

import asyncio
import pwd
import signal
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


async def somebody_waits(run: Run) -> None:
    """Waits until somebody waits for a row that is locked."""
    query = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while not run(query):
        await asyncio.sleep(0.01)


class Relay:
    """Stands between a journal and its server.

    Attributes:
        withholds: Whether what the server answers is kept back.
        silent: Whether it is kept back that the server ended a connection.
    """

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._talks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.withholds = False
        self.silent = False
        self.port = 0

    def cut(self) -> None:
        """Ends every connection, in both directions and without a word."""
        self.withholds = False
        for writer in self._writers:
            writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(talk)
        await asyncio.wait({talk})
        self._talks.discard(talk)

    async def end(self) -> None:
        """Ends all of it, and what is just being connected."""
        for talk in self._talks:
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = {writer}
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
            both.add(back)
            self._writers |= both
            await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer, answers=True))
        finally:
            for each in both:
                each.transport.abort()
            self._writers -= both

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        try:
            while data := await reader.read(65536):
                if not (answers and self.withholds):
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            if not self.silent:
                writer.close()


@pytest.fixture
async def relay(postgres: Postgres) -> AsyncIterator[Relay]:
    relay = Relay(postgres)
    server = await asyncio.start_server(relay.talk, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    yield relay
    server.close()
    await relay.end()


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
        while not run(f"select key from higgsfield.journal where {done}"):  # noqa: S608 (words of this file)
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

    @asynccontextmanager
    async def stuck(self, relay: Relay, dsn: str, run: Run) -> AsyncGenerator[None]:
        """What is begun within waits for the row that it writes, and its answer is lost."""
        async with await psycopg.AsyncConnection.connect(dsn) as holding:
            await holding.execute("select from higgsfield.journal for update")
            relay.withholds = False
            yield
            await somebody_waits(run)
            relay.withholds = True

    async def test_an_id_is_attached_once(self, journal: PostgresJournal, dsn: str, relay: Relay, run: Run) -> None:
        await lost(journal)
        async with self.unheard(relay, run, "state = 'submitted'"), self.stuck(relay, dsn, run):
            resolving = asyncio.create_task(journal.resolve("boat", "id-1", AT))
        relay.cut()
        assert (await resolving).id == "id-1"

    async def test_what_is_forgotten_is_given_all_the_same(
        self, journal: PostgresJournal, dsn: str, relay: Relay, run: Run
    ) -> None:
        made = await lost(journal)
        await lost(journal, "bird")
        async with (
            self.unheard(relay, run, "key = 'bird' and not exists (select from higgsfield.journal where key = 'boat')"),
            self.stuck(relay, dsn, run),
        ):
            forgetting = asyncio.create_task(journal.forget("boat"))
        relay.cut()
        assert (await forgetting).intent == made


class TestLockLost:
    async def test_it_is_dead_to_others_and_to_itself(
        self, journal: PostgresJournal, other: PostgresJournal, run: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = intent()
        await journal.begin(made)
        await submitted(journal, "bird")
        before = journal.owner
        cut(run, journal)
        assert [(entry.key, entry.state, entry.held) for entry in await other.entries()] == [
            ("boat", "unknown", False),
            ("bird", "submitted", False),
        ]
        await journal.lost()
        assert "lost its lock" in caplog.text
        await renewed(journal, before)
        assert [(entry.key, entry.mine) for entry in await journal.entries()] == [("boat", False), ("bird", False)]
        claimed = await other.claim("bird")
        assert claimed is not None
        assert claimed.mine
        # Its answer was on the way all the time.
        await journal.commit(made.key, made.nonce, "id-1", AT)
        assert (await found(other)).id == "id-1"
        assert (await journal.begin(intent("fish"))).mine

    async def test_what_it_knows_was_refused_is_taken_back(
        self, journal: PostgresJournal, other: PostgresJournal, run: Run
    ) -> None:
        made = intent()
        await journal.begin(made)
        cut(run, journal)
        assert (await found(other)).state == "unknown"
        await journal.abandon(made.key, made.nonce)
        assert await other.find(made.key) is None

    async def test_but_not_once_somebody_took_it_over(
        self, journal: PostgresJournal, other: PostgresJournal, run: Run
    ) -> None:
        made = intent()
        await journal.begin(made)
        cut(run, journal)
        await other.claim(made.key)
        await journal.abandon(made.key, made.nonce)
        assert (await found(other)).mine

    async def test_nothing_is_held_until_there_is_another(
        self, postgres: Postgres, dsn: str, opened: Open, relay: Relay, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_journal, "ANSWER", 0.2)
        journal = await opened(through(relay, dsn, postgres))
        await lost(journal)
        before = journal.owner
        relay.silent = True
        cut(run, journal)
        # The journal has not heard of it yet: the server knows better.
        begun, claimed = await asyncio.gather(journal.begin(intent("bird")), journal.claim("boat"))
        assert begun.mine
        assert claimed is not None
        assert claimed.mine
        assert journal.owner != before

    async def test_a_lock_that_went_while_the_intent_was_written(
        self, journal: PostgresJournal, dsn: str, run: Run
    ) -> None:
        before = journal.owner
        async with await psycopg.AsyncConnection.connect(dsn) as holding:
            await holding.execute("""
                insert into higgsfield.journal
                    (space, key, nonce, transport, origin, account, kind, digest, created_at, state)
                values ('', 'boat', '', '', '', '', '', '', now(), 'ended')
                """)
            beginning = asyncio.create_task(journal.begin(intent()))
            await somebody_waits(run)
            cut(run, journal)
            await journal.lost()
            await holding.rollback()
        entry = await beginning
        assert entry.mine
        assert journal.owner != before

    async def test_a_lock_without_its_connection(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_journal, "LOOK", 0.02)
        journal = await opened()
        assert journal._guard is not None
        await journal._guard.execute("select pg_advisory_unlock_all()")
        await journal.lost()

    async def test_what_another_takes_at_this_moment_is_not_forgotten(
        self, journal: PostgresJournal, other: PostgresJournal, dsn: str, run: Run
    ) -> None:
        await lost(journal)
        async with await psycopg.AsyncConnection.connect(dsn) as holding:
            await holding.execute("update higgsfield.journal set holder = %s", (other.owner,))
            forgetting = asyncio.create_task(journal.forget("boat"))
            await somebody_waits(run)
        with pytest.raises(JournalError, match="taken over"):
            await forgetting
        assert (await found(other)).mine

    async def test_what_is_late_does_not_end_another_attempt(
        self, journal: PostgresJournal, other: PostgresJournal, run: Run
    ) -> None:
        await submitted(journal, "boat", "id-1")
        cut(run, journal)
        await other.forget("boat")
        await submitted(other, "boat", "id-2")
        await journal.saw("boat", seen("id-1"))
        await journal.finish("boat", END)
        entry = await found(other)
        assert (entry.id, entry.state, entry.job_set) == ("id-2", "submitted", None)

    async def test_who_died_is_written_down_by_whoever_lives(
        self, journal: PostgresJournal, opened: Open, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_journal, "LOOK", 0.05)
        await journal.begin(intent())
        await opened()
        cut(run, journal)
        while run("select state from higgsfield.journal") != [("unknown",)]:
            await asyncio.sleep(0.01)


class TestSchema:
    async def test_several_make_it_at_once(self, dsn: str, tmp_path: Path, run: Run) -> None:
        journals = [PostgresJournal(dsn, spill=tmp_path / "spill") for _ in range(5)]
        await asyncio.gather(*(journal.open() for journal in journals))
        assert run("select count(*) from higgsfield.owners") == [(5,)]
        await asyncio.gather(*(journal.close() for journal in journals))
        assert run("select version from higgsfield.version") == [(len(_journal.MIGRATIONS),)]
        assert run("select count(*) from higgsfield.owners") == [(0,)]

    async def test_it_is_brought_up_to_date_and_a_newer_one_refused(
        self, opened: Open, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = await opened()
        await journal.begin(intent())
        with monkeypatch.context() as newer:
            more = "alter table higgsfield.journal add column more integer"
            newer.setattr(_journal, "MIGRATIONS", (*_journal.MIGRATIONS, more))
            assert (await found(await opened())).held
        with pytest.raises(JournalError, match=r"is of version 2, and this higgsfield-async knows 1.*newer"):
            await opened()
        assert run("select version from higgsfield.version") == [(2,)]

    async def test_a_server_that_is_too_old(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_journal, "OLDEST_SERVER", 990000)
        with pytest.raises(JournalError, match="too old"):
            await opened()

    async def test_a_lock_that_is_not_kept(self, journal: PostgresJournal, opened: Open, run: Run) -> None:
        # As a pooler does that gives each transaction another connection.
        run("""
            create function unlock() returns trigger language plpgsql as
            $$ begin perform pg_advisory_unlock_all(); return null; end $$;
            """)
        run("create trigger unlock after insert on higgsfield.owners for each row execute function unlock()")
        with pytest.raises(JournalError, match="pooler in transaction mode"):
            await opened()

    async def test_spaces_know_nothing_of_each_other(self, opened: Open) -> None:
        one, two = await opened(space="one"), await opened(space="two")
        made = await submitted(one)
        assert await two.find("boat") is None
        assert await two.find_id("id-1") is None
        assert await two.entries() == []
        assert (await two.begin(intent())).mine
        assert (await found(one)).intent.nonce == made.nonce
        await one.finish("boat", END)
        assert await two.prune(datetime.now(UTC) + timedelta(days=1)) == 0
        assert await one.prune(datetime.now(UTC) + timedelta(days=1)) == 1

    async def test_much_is_pruned_bit_by_bit(self, journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_journal, "PRUNED", 2)
        for number in range(5):
            await submitted(journal, f"key-{number}")
            await journal.finish(f"key-{number}", END)
        assert await journal.prune(datetime.now(UTC) + timedelta(days=1)) == 5

    async def test_it_is_opened_once(self, journal: PostgresJournal) -> None:
        with pytest.raises(JournalError, match="open already"):
            await journal.open()

    async def test_what_does_not_end_is_broken_off_at_the_end(
        self, dsn: str, opened: Open, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_journal, "ANSWER", 0.2)
        journal = await opened(patience=0.5)
        await submitted(journal)
        async with await psycopg.AsyncConnection.connect(dsn) as holding:
            await holding.execute("select from higgsfield.journal for update")
            telling = [asyncio.create_task(journal.saw("boat", seen())) for _ in range(5)]
            await somebody_waits(run)
            await journal.close()
            assert {type(error) for error in await asyncio.gather(*telling, return_exceptions=True)} == {JournalError}

    async def test_a_database_that_does_not_do_as_it_should(self, dsn: str, opened: Open, run: Run) -> None:
        run("""
            create schema odd;
            create function odd.set_config(text, text, boolean) returns text language plpgsql as
            $$ begin raise exception 'never'; end $$;
            """)
        run("alter database " + dsn.rpartition("/")[2] + " set search_path = odd, pg_catalog")
        run("alter database " + dsn.rpartition("/")[2] + " set synchronous_commit = off")
        with pytest.raises(JournalError, match="cannot be used: never") as caught:
            await opened()
        assert not caught.value.transient

    async def test_what_it_cannot_write_is_said(self, journal: PostgresJournal) -> None:
        for key in ("with\0nothing", "half a \ud800"):
            with pytest.raises(JournalError, match="Nothing was submitted") as caught:
                await journal.begin(intent(key, request=b"a prompt"))
            assert not caught.value.transient
            assert "prompt" not in str(caught.value)

    async def test_another_machine_that_dies(self, journal: PostgresJournal, postgres: Postgres, dsn: str) -> None:
        program = f"""
import asyncio, sys
from test_journal import intent
from higgsfield_async.cluster._journal import PostgresJournal
async def main():
    journal = PostgresJournal({dsn + "?application_name=dying"!r})
    await journal.open()
    entries = await asyncio.gather(*(journal.begin(intent(f"key-{{n}}")) for n in range(100)))
    print(*(entry.key for entry in entries if entry.intent.nonce.startswith("there")), flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
""".replace('intent(f"key-{n}")', 'intent(f"key-{n}", f"there-{n}")')
        with elsewhere(program) as running:
            here = await asyncio.gather(*(journal.begin(intent(f"key-{n}", f"here-{n}")) for n in range(0, 100, 2)))
            assert running.stdout is not None
            theirs = set((await asyncio.to_thread(running.stdout.readline)).split())
            mine = {entry.key for entry in here if entry.mine}
            assert not mine & theirs
            assert len(mine | theirs) == 100
            running.send_signal(signal.SIGKILL)
            await asyncio.to_thread(running.wait)
            await asyncio.to_thread(postgres.wait_until_gone, "dying")
            assert {entry.key for entry in await journal.entries("unknown")} == theirs


class TestSettings:
    @pytest.mark.parametrize(
        "dsn",
        [
            "",
            " ",
            "not a dsn: s3cret",
            "postgresql://user:s3cret@word@host/db",
            "postgresql://user:1/s3cret@host/db",
            "postgresql://user:s3cret/word@host/db",
            "host=db password=the s3cret",
            "postgresql://user:%00s3cret@host/db",
            "postgresql://user:pass@host:s3cret/db",
        ],
    )
    def test_a_dsn_that_cannot_be_read_is_not_repeated(self, dsn: str) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read") as caught:
            PostgresJournal(dsn)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("settings", [{"patience": 0}, {"patience": 1e9}, {"connections": 0}])
    def test_numbers_out_of_range(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match="patience"):
            PostgresJournal("postgresql://host/db", **settings)

    async def test_the_password_is_shown_nowhere(
        self, opened: Open, postgres: Postgres, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = await opened()
        assert repr(journal).startswith(f"PostgresJournal('postgresql://127.0.0.1:{postgres.port}/test")
        wrong = postgres.dsn("nowhere").replace(PASSWORD, f"{PASSWORD}-no-more")
        with pytest.raises(JournalError) as caught:
            await opened(wrong)
        for text in (repr(journal), repr(caught.value), caplog.text):
            assert PASSWORD not in text

    async def test_the_spill_is_in_the_state_folder(
        self, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        journal, other = PostgresJournal(dsn), PostgresJournal(dsn, space="other")
        assert journal.spill.parent == tmp_path / "higgsfield_async"
        assert journal.spill != other.spill
        await journal.open()
        assert journal.spill.parent.is_dir()
        await journal.close()
        (tmp_path / "file").touch()
        with pytest.raises(JournalError, match="give spill="):
            await PostgresJournal(dsn, spill=tmp_path / "file" / "spill").open()
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert PostgresJournal(dsn).spill.parent == tmp_path / ".local/state/higgsfield_async"

    def test_without_a_home(self, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(_: int) -> None:
            raise KeyError

        for name in ("XDG_STATE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", nobody)
        with pytest.raises(ConfigurationError, match="give spill="):
            PostgresJournal(dsn)

    def test_without_the_driver(self) -> None:
        program = """
import sys
sys.modules["psycopg"] = None
from higgsfield_async import ConfigurationError
try:
    from higgsfield_async.cluster import _journal
except ConfigurationError as error:
    assert "higgsfield-async[cluster]" in str(error), error
    print("refused")
"""
        with elsewhere(program) as running:
            assert running.communicate(timeout=20)[0] == "refused\n"


async def test_what_does_not_heed_its_end_is_told_again() -> None:
    told = 0

    async def deaf() -> None:
        nonlocal told
        for _ in range(2):
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                told += 1
        await asyncio.sleep(20)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_journal, "ENDING", 0.01)
        await _journal._end({task})
    assert task.cancelled()
    assert told == 2
