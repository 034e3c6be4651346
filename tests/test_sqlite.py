"""What is SQLite's own of `SQLiteJournal`: its file, its locks, its thread, and disks that are full or gone."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from test_journal import AT, END, elsewhere, found, intent, lost, seen, submitted

from higgsfield_async import ConfigurationError, Higgsfield, JournalError, _sqlite
from higgsfield_async.journal import SQLiteJournal
from higgsfield_async.sandbox import Sandbox
from surfaces import Surface

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "generations.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SQLiteJournal]:
    made = SQLiteJournal(path)
    await made.open()
    yield made
    await made.close()


@contextmanager
def plain(path: Path, **settings: Any) -> Iterator[sqlite3.Connection]:
    """The file, as any program has it."""
    connection = sqlite3.connect(path, isolation_level=None, **settings)
    try:
        yield connection
    finally:
        connection.close()


def inside(journal: SQLiteJournal) -> sqlite3.Connection:
    """The journal's own connection. Its thread is idle while a test looks."""
    assert journal._worker is not None
    return journal._worker.database._connection


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def locks(path: Path) -> list[str]:
    return [name for name in names(path) if name.endswith(".lock")]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "higgsfield_async.journal"]


async def opens(path: Path) -> str:
    """What opening it says, having left nothing behind."""
    before = names(path)
    with pytest.raises(JournalError) as caught:
        await SQLiteJournal(path).open()
    assert names(path) == before
    assert not threads()
    assert str(path) in str(caught.value)
    return str(caught.value)


class TestPath:
    @pytest.mark.parametrize("wrong", ["", ":memory:", b"generations.db", "a\0b"])
    def test_it_must_be_that_of_a_file(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            SQLiteJournal(wrong)
        assert str(caught.value) == (
            "The path of a journal must be that of a file: what is in memory is lost with the process."
        )

    async def test_another_folder_later_is_no_other_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        journal = SQLiteJournal(path.name)
        assert journal.spill == Path("generations.db.spill")
        await journal.open()
        elsewhere = path.parent / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        await journal.begin(intent())
        assert journal.spill == path.with_name("generations.db.spill")
        await journal.close()
        await journal.open()
        assert await journal.find("boat")
        await journal.close()
        assert not list(elsewhere.iterdir())

    async def test_odd_names_are_names(self, tmp_path: Path) -> None:
        path = tmp_path / "a boat?mode=ro&x=%41#é.db"
        journal = SQLiteJournal(path)
        await journal.open()
        await journal.begin(intent())
        assert path.exists()
        await journal.close()
        assert names(path) == [path.name]

    async def test_a_link_is_what_it_leads_to(self, path: Path, journal: SQLiteJournal) -> None:
        folder = path.parent / "elsewhere"
        folder.mkdir()
        link = folder / "link.db"
        link.symlink_to(path)
        other = SQLiteJournal(link)
        await other.open()
        await journal.begin(intent())
        entry = await found(other)
        assert (entry.state, entry.held, entry.mine) == ("intent", True, False)
        await other.close()

    async def test_the_spill_may_be_elsewhere(self, path: Path, tmp_path: Path) -> None:
        assert SQLiteJournal(path, spill=tmp_path / "spill").spill == tmp_path / "spill"

    async def test_it_shows_where_it_is(self, path: Path, journal: SQLiteJournal) -> None:
        assert repr(journal) == f"SQLiteJournal({str(path)!r}, open)"
        assert repr(SQLiteJournal("boats.db")) == "SQLiteJournal('boats.db', closed)"

    def test_sqlite_is_imported_when_one_is_opened(self) -> None:
        program = "import sys, higgsfield_async.journal; sys.exit('sqlite3' in sys.modules)"
        # The measuring of coverage has a database of its own.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        assert subprocess.run([sys.executable, "-c", program], env=env, check=False).returncode == 0


class TestFile:
    async def test_nobody_else_may_read_it(self, path: Path, journal: SQLiteJournal) -> None:
        await journal.begin(intent())
        files = list(path.parent.iterdir())
        assert len(files) == 4
        assert {each.stat().st_mode & 0o777 for each in files} == {0o600}

    async def test_it_is_one_file_when_it_is_closed(self, path: Path) -> None:
        journal, other = SQLiteJournal(path), SQLiteJournal(path)
        await journal.open()
        await other.open()
        assert len(locks(path)) == 2
        await submitted(journal)
        await journal.close()
        assert len(locks(path)) == 1
        await other.close()
        assert names(path) == [path.name]

    async def test_what_is_paid_for_is_on_the_disk_when_it_is_said(self, journal: SQLiteJournal) -> None:
        connection = inside(journal)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

        def synchronous() -> int:
            level: int = connection.execute("PRAGMA synchronous").fetchone()[0]
            return level

        made = intent()
        await journal.begin(made)
        assert synchronous() == 2
        await journal.claim("boat")
        assert synchronous() == 1
        await journal.commit("boat", made.nonce, "id-1", AT)
        assert synchronous() == 2
        await journal.saw("boat", seen())
        assert synchronous() == 1
        await journal.finish("boat", END)
        assert synchronous() == 1
        await lost(journal, "bird")
        await journal.resolve("bird", "id-2", AT)
        assert synchronous() == 2

    async def test_one_sync_serves_all_that_wait(self, journal: SQLiteJournal) -> None:
        statements: list[str] = []
        inside(journal).set_trace_callback(statements.append)
        await asyncio.gather(*(journal.begin(intent(f"key-{number}")) for number in range(300)))
        inside(journal).set_trace_callback(None)
        assert statements.count("COMMIT") < 30
        assert sum(statement.startswith("INSERT") for statement in statements) == 300

    async def test_what_it_held_is_written_down_when_it_is_closed(self, path: Path) -> None:
        journal, other = SQLiteJournal(path), SQLiteJournal(path)
        for each in (journal, other):
            await each.open()
        await journal.begin(intent())
        await submitted(journal, "bird")
        await other.begin(intent("fish"))
        await journal.close()
        query = "SELECT key, state, owner IS NULL FROM work ORDER BY seq"
        with plain(path) as connection:
            written = connection.execute(query).fetchall()
        assert written == [("boat", "unknown", 1), ("bird", "submitted", 1), ("fish", "intent", 0)]
        assert len(_sqlite._locks) == 1
        await other.close()
        assert not _sqlite._locks

    async def test_how_it_is_synced_is_said_to_sqlite_when_it_changes(self, journal: SQLiteJournal) -> None:
        said: list[str] = []
        inside(journal).set_trace_callback(said.append)

        def told() -> list[str]:
            found = [statement for statement in said if statement.startswith("PRAGMA")]
            said.clear()
            return found

        for key in ("boat", "bird"):
            await submitted(journal, key)
            await journal.find(key)
        assert told() == []
        for _ in range(2):
            await journal.saw("boat", seen())
            await journal.find("boat")
        assert told() == ["PRAGMA synchronous = NORMAL"]
        await submitted(journal, "fish")
        assert told() == ["PRAGMA synchronous = FULL"]

    async def test_another_applications_is_left_alone(self, path: Path) -> None:
        for statement in ("CREATE TABLE boats (name TEXT)", "PRAGMA application_id = 7"):
            path.unlink(missing_ok=True)
            with plain(path) as connection:
                connection.execute(statement)
            before = path.read_bytes()
            assert "another application" in await opens(path)
            assert path.read_bytes() == before

    async def test_a_newer_one_is_left_alone(self, path: Path) -> None:
        journal = SQLiteJournal(path)
        await journal.open()
        await journal.close()
        with plain(path) as connection:
            connection.execute(f"PRAGMA user_version = {len(_sqlite.MIGRATIONS) + 1}")
        before = path.read_bytes()
        said = await opens(path)
        assert "version 2" in said
        assert "newer" in said
        assert path.read_bytes() == before

    @pytest.mark.parametrize("name", ["a text", "the first page", "nothing after its head"])
    async def test_what_is_damaged_is_said_to_be(self, path: Path, name: str) -> None:
        journal = SQLiteJournal(path)
        await journal.open()
        await submitted(journal)
        await journal.close()
        whole = path.read_bytes()
        damaged = {
            "a text": b"These are no generations. " * 100,
            "the first page": whole[:100] + b"\xff" * 3996 + whole[4096:],
            "nothing after its head": whole[:4096],
        }[name]
        path.write_bytes(damaged)
        assert "damaged" in await opens(path)
        assert path.read_bytes() == damaged

    async def test_damage_is_met_where_it_is(self, path: Path) -> None:
        journal = SQLiteJournal(path)
        await journal.open()
        for number in range(100):
            await submitted(journal, f"key-{number}")
            await journal.saw(f"key-{number}", seen())
        await journal.close()
        with path.open("r+b") as file:
            file.seek(5 * 4096)
            file.write(b"\xff" * (path.stat().st_size - 5 * 4096))
        await journal.open()
        with pytest.raises(JournalError, match="damaged"):
            await journal.entries()
        await journal.close()

    async def test_what_it_keeps_must_be_readable(self, path: Path, journal: SQLiteJournal) -> None:
        await submitted(journal)
        await submitted(journal, "bird")
        with plain(path) as connection:
            connection.execute("UPDATE work SET job_set = '{}' WHERE key = 'boat'")
        with pytest.raises(JournalError, match="cannot be read"):
            await journal.find("boat")
        assert (await found(journal, "bird")).id == "id-1"

    async def test_times_are_in_utc_wherever_it_is(
        self, path: Path, journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            await submitted(journal)
            await journal.finish("boat", END)
            with plain(path) as connection:
                times = connection.execute("SELECT created_at, submitted_at, ended_at FROM work").fetchone()
            assert times[:2] == 2 * ("2026-11-22T12:30:15.123456+00:00",)
            assert abs(datetime.now(UTC) - datetime.fromisoformat(times[2])) < timedelta(minutes=1)
            assert times[2].endswith("+00:00")
        finally:
            monkeypatch.undo()
            time.tzset()

    async def test_what_is_no_text_is_not_written(self, journal: SQLiteJournal) -> None:
        with pytest.raises(JournalError, match="Nothing was submitted"):
            await journal.begin(intent("\ud800"))
        assert await journal.entries() == []

    async def test_a_fault_of_the_caller_stays_what_it_is(self, journal: SQLiteJournal) -> None:
        with pytest.raises(KeyError):
            await journal.entries("sunk")  # type: ignore[arg-type]
        assert await journal.entries() == []


class TestVersions:
    NEWER = ("ALTER TABLE work ADD COLUMN note TEXT NOT NULL DEFAULT 'none'", "CREATE INDEX work_note ON work (note)")

    async def old(self, path: Path) -> None:
        journal = SQLiteJournal(path)
        await journal.open()
        await submitted(journal)
        await lost(journal, "bird")
        await journal.close()

    async def test_what_an_earlier_one_wrote_is_brought_up_to_date(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.old(path)
        newest = ("UPDATE work SET note = 'a ' || key",)
        monkeypatch.setattr(_sqlite, "MIGRATIONS", (*_sqlite.MIGRATIONS, self.NEWER, newest))
        journal = SQLiteJournal(path)
        await journal.open()
        assert [(entry.key, entry.state) for entry in await journal.entries()] == [
            ("boat", "submitted"),
            ("bird", "unknown"),
        ]
        await journal.begin(intent("fish"))
        await journal.close()
        with plain(path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (3,)
            notes = connection.execute("SELECT note FROM work ORDER BY seq").fetchall()
        assert notes == [("a boat",), ("a bird",), ("none",)]

    async def test_a_step_that_fails_takes_the_others_back(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.old(path)
        with monkeypatch.context() as patch:
            patch.setattr(_sqlite, "MIGRATIONS", (*_sqlite.MIGRATIONS, self.NEWER, ("UPDATE nothing SET x = 1",)))
            assert "nothing" in await opens(path)
        journal = SQLiteJournal(path)
        await journal.open()
        assert len(await journal.entries()) == 2
        await journal.close()

    async def test_many_may_open_a_new_one_at_once(self, path: Path) -> None:
        journals = [SQLiteJournal(path) for _ in range(12)]
        await asyncio.gather(*(journal.open() for journal in journals))
        assert len(locks(path)) == 12
        await asyncio.gather(*(journal.begin(intent(f"key-{n}")) for n, journal in enumerate(journals)))
        assert len(await journals[0].entries()) == 12
        await asyncio.gather(*(journal.close() for journal in journals))
        assert names(path) == [path.name]


class TestNoPlace:
    async def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "gone" / "generations.db"
        with pytest.raises(JournalError, match="folder"):
            await SQLiteJournal(path).open()

    async def test_a_folder_in_its_place(self, path: Path) -> None:
        path.mkdir()
        assert "folder" in await opens(path)

    @pytest.mark.parametrize("what", ["file", "folder"])
    async def test_what_may_not_be_written(self, what: str) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "generations.db"
            journal = SQLiteJournal(path)
            await journal.open()
            await submitted(journal)
            await journal.close()
            path.chmod(0o444 if what == "file" else 0o666)
            path.parent.chmod(0o777 if what == "file" else 0o555)
            program = f"""
import asyncio, os
import concurrent.futures.thread, sqlite3
from higgsfield_async import JournalError
from higgsfield_async.journal import SQLiteJournal
async def main():
    try:
        await SQLiteJournal({str(path)!r}).open()
    except JournalError as error:
        print(error, flush=True)
if os.geteuid() == 0:
    os.setuid({NOBODY})
asyncio.run(main())
os._exit(0)
"""
            with elsewhere(program) as running:
                said, _ = await asyncio.to_thread(running.communicate)
            path.parent.chmod(0o755)
        assert str(path) in said
        assert "may this user write" in said

    async def test_no_room(self, journal: SQLiteJournal) -> None:
        await submitted(journal, "bird")
        made = intent()
        await journal.begin(made)
        connection = inside(journal)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        large = b"x" * 100_000
        # They go into one transaction; only what finds no room fails.
        results = await asyncio.gather(
            journal.find("bird"),
            journal.begin(intent("fish", request=large)),
            journal.commit("boat", made.nonce, "id-2", AT),
            journal.find("boat"),
            return_exceptions=True,
        )
        first, refused, written, last = results
        assert isinstance(refused, JournalError)
        assert "full" in str(refused)
        assert "Nothing was submitted" in str(refused)
        assert refused.charged == "no"
        assert written is None
        assert [entry.id for entry in (first, last)] == ["id-1", "id-2"]  # type: ignore[union-attr]
        assert await journal.find("fish") is None
        connection.execute("PRAGMA max_page_count = 1000000")
        assert (await journal.begin(intent("fish", request=large))).mine

    async def test_no_room_for_real(self, path: Path) -> None:
        program = f"""
import asyncio, json, resource, signal
from higgsfield_async.sandbox import Sandbox
from surfaces import Surface
from test_journal import AT, intent
from higgsfield_async import JournalError
from higgsfield_async.journal import SQLiteJournal
async def main():
    journal = SQLiteJournal({str(path)!r})
    await journal.open()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    begun, refused = [], []
    for number in range(100):
        made = intent(f"key-{{number}}", request=b"x" * 5_000)
        try:
            await journal.begin(made)
        except JournalError as error:
            refused.append(str(error))
        else:
            begun.append(made.key)
    there = [entry.key for entry in await journal.entries()]
    await journal.close()
    print(json.dumps([begun, refused, there]), flush=True)
asyncio.run(main())
"""
        with elsewhere(program) as running:
            said, _ = await asyncio.to_thread(running.communicate)
        begun, refused, there = json.loads(said)
        assert begun
        assert refused
        assert there == begun
        assert all(str(path) in each and each.endswith("Nothing was submitted.") for each in refused)
        # Once there is room again, all of it is there, and nothing else.
        journal = SQLiteJournal(path)
        await journal.open()
        assert [entry.key for entry in await journal.entries("unknown")] == begun
        await journal.close()

    async def test_a_file_that_is_taken_away(self, path: Path, journal: SQLiteJournal) -> None:
        made = intent()
        await journal.begin(made)
        aside = path.with_name("aside.db")
        path.rename(aside)
        for stand_in in (False, True):
            if stand_in:
                path.touch()
            with pytest.raises(JournalError, match="moved or deleted"):
                await journal.begin(intent("bird"))
            with pytest.raises(JournalError) as caught:
                await journal.commit("boat", made.nonce, "id-1", AT)
            assert str(caught.value) == (
                f"The journal {path} cannot be written: it was moved or deleted while it was open. "
                "Does its folder exist, and may this user write to both?"
            )
            assert caught.value.charged == "unknown"
        aside.replace(path)
        await journal.commit("boat", made.nonce, "id-1", AT)
        assert (await found(journal)).id == "id-1"


class TestBusy:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_sqlite, "BUSY", 0.05)

    async def test_what_another_keeps_locked_can_be_read(self, path: Path, journal: SQLiteJournal) -> None:
        await submitted(journal)
        with plain(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            refused, entry, also = await asyncio.gather(
                journal.begin(intent("bird")), journal.find("boat"), journal.release("boat"), return_exceptions=True
            )
            for error in (refused, also):
                assert isinstance(error, JournalError)
                assert f"The journal {path} was kept locked by another process for 5 seconds. Try again." in str(error)
                assert error.transient
                assert isinstance(error.__cause__, sqlite3.OperationalError)
            # Each in a transaction of its own: another one's is not waited for.
            assert await journal.find_id("id-1") == entry
            assert await journal.entries() == [entry]
            assert entry == await journal.find("boat")
            assert entry is not None
            connection.execute("ROLLBACK")
        assert (await journal.begin(intent("bird"))).mine

    async def test_all_wait_at_once_for_another(self, path: Path, journal: SQLiteJournal) -> None:
        said: list[str] = []
        inside(journal).set_trace_callback(said.append)
        with plain(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            refused = await asyncio.gather(
                *(journal.begin(intent(f"key-{number}")) for number in range(9)), return_exceptions=True
            )
            connection.execute("ROLLBACK")
        assert all(isinstance(error, JournalError) and error.transient for error in refused)
        # The first may have been alone.
        assert said.count("BEGIN IMMEDIATE") <= 2

    async def test_a_submit_that_cannot_be_written_down_is_not_sent_on_a_later_try(
        self, path: Path, sandbox: Sandbox, client: Callable[..., Higgsfield], surface: Surface
    ) -> None:
        async with client(surface, journal=path) as hf:
            assert await hf.unknown() == []
            with plain(path) as connection:
                connection.execute("BEGIN IMMEDIATE")
                with pytest.raises(JournalError, match="Nothing was submitted") as caught:
                    await hf.submit(surface.request, key="order-17")
                connection.execute("ROLLBACK")
            assert caught.value.charged == "no"
            assert not sandbox.generations
            task = await hf.submit(surface.request, key="order-17")
            assert [*sandbox.generations] == [task.id]

    async def test_what_cannot_be_let_go_of_is_so_all_the_same(self, path: Path, journal: SQLiteJournal) -> None:
        leaving = SQLiteJournal(path)
        await leaving.open()
        await leaving.begin(intent())
        with plain(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            await leaving.close()
            connection.execute("ROLLBACK")
        entry = await found(journal)
        assert (entry.state, entry.held) == ("unknown", False)
        assert len(locks(path)) == 1

    async def test_opening_waits_no_longer_either(self, path: Path) -> None:
        with plain(path) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            assert "locked" in await opens(path)
            connection.execute("ROLLBACK")
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM sqlite_master").fetchall()
            assert "locked" in await opens(path)
            connection.execute("ROLLBACK")

    async def test_opening_waits_for_whoever_reads(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_sqlite, "BUSY", 0.4)
        with plain(path, check_same_thread=False) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM sqlite_master").fetchall()
            # Longer than SQLite waits by itself, and not as long as the journal does.
            ending = asyncio.get_running_loop().call_later(0.5, connection.execute, "ROLLBACK")
            journal = SQLiteJournal(path)
            await journal.open()
            await journal.close()
            ending.cancel()


class TestWords:
    """What is said, word for word: it is all that whoever paid has to go on."""

    async def says(self, work: Awaitable[object]) -> str:
        with pytest.raises(JournalError) as caught:
            await work
        return str(caught.value)

    async def test_of_an_attempt(self, path: Path, journal: SQLiteJournal) -> None:
        made = await submitted(journal)
        gone = f"The journal {path} has not this attempt at"
        assert await self.says(journal.commit("boat", "another", "id-1", AT)) == f"{gone} 'boat' any more."
        assert await self.says(journal.commit("gone", made.nonce, "id-1", AT)) == f"{gone} 'gone' any more."
        assert await self.says(journal.commit("boat", made.nonce, "id-2", AT)) == (
            f"This attempt at 'boat' has another id in the journal {path}: id-1."
        )

    async def test_of_what_is_not_there_or_not_unknown(self, path: Path, journal: SQLiteJournal) -> None:
        await submitted(journal)
        assert await self.says(journal.forget("gone")) == f"The journal {path} has nothing under 'gone'."
        assert await self.says(journal.resolve("gone", "id-1", AT)) == f"The journal {path} has nothing under 'gone'."
        assert await self.says(journal.resolve("boat", "id-2", AT)) == (
            f"'boat' is not unknown in the journal {path}, but submitted."
        )

    async def test_of_what_is_under_way(self, path: Path, journal: SQLiteJournal) -> None:
        await journal.begin(intent())
        other = SQLiteJournal(path)
        await other.open()
        assert await self.says(journal.forget("boat")) == (
            f"'boat' is being submitted here: wait for its answer before the journal {path} may forget it."
        )
        elsewhere = f"Another client that is alive looks after 'boat' of the journal {path}."
        assert await self.says(other.forget("boat")) == elsewhere
        await journal.unknown("boat", (await found(journal)).intent.nonce)
        await journal.claim("boat")
        assert await self.says(other.resolve("boat", "id-1", AT)) == elsewhere
        assert await self.says(other.forget("boat")) == elsewhere
        await other.close()

    def test_of_being_open_or_not(self, path: Path) -> None:
        journal = SQLiteJournal(path)
        with asyncio.Runner() as first, asyncio.Runner() as second:
            assert first.run(self.says(journal.find("boat"))) == f"The journal {path} is not open."
            first.run(journal.open())
            again = f"The journal {path} is open already: each client takes a SQLiteJournal of its own."
            assert first.run(self.says(journal.open())) == again
            assert (
                second.run(self.says(journal.find("boat"))) == f"The journal {path} was opened in another event loop."
            )
            first.run(journal.close())

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("SQLITE_BUSY_TIMEOUT", "was kept locked by another process for 5 seconds. Try again."),
            ("SQLITE_CANTOPEN", "cannot be opened. {check}"),
            ("SQLITE_CORRUPT_INDEX", "{damaged}"),
            ("SQLITE_FULL", "cannot be written: its disk is full. Make room; what it holds can still be read."),
            ("SQLITE_NOTADB", "{damaged}"),
            ("SQLITE_PERM", "cannot be opened. {check}"),
            ("SQLITE_READONLY_DBMOVED", "cannot be written: it is read-only. {check}"),
            ("SQLITE_IOERR_WRITE", "cannot be read or written: disk I/O error."),
            (None, "cannot be read or written: disk I/O error."),
        ],
    )
    def test_of_what_sqlite_says(self, path: Path, code: str | None, said: str) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        if code is not None:
            error.sqlite_errorname = code
        told = _sqlite._Database(path, path, prompts=True)._translated(error)
        assert isinstance(told, JournalError)
        check = "Does its folder exist, and may this user write to both?"
        damaged = (
            "is damaged, or no journal at all (disk I/O error): put a copy in its place, or move it away with the "
            "files beside it whose names begin with its own."
        )
        assert str(told) == f"The journal {path} {said.format(check=check, damaged=damaged)}"
        assert told.transient == (code == "SQLITE_BUSY_TIMEOUT")
        assert told.__cause__ is error

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
            (BlockingIOError(), "BlockingIOError"),
        ],
    )
    def test_of_what_the_system_says(self, path: Path, error: OSError, said: str) -> None:
        told = _sqlite._Database(path, path, prompts=True)._translated(error)
        assert str(told) == (
            f"The journal {path} cannot be written: {said}. Does its folder exist, and may this user write to both?"
        )


async def test_all_pieces_of_what_is_pruned_are_counted(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "PRUNED", 2)
    for number in range(5):
        await submitted(journal, f"key-{number}")
        await journal.finish(f"key-{number}", END)
    assert await journal.prune(datetime.now(UTC) + timedelta(seconds=1)) == 5
    assert await journal.entries() == []


class TestLocks:
    async def test_those_of_the_dead_are_taken_away(self, path: Path, journal: SQLiteJournal) -> None:
        (mine,) = locks(path)
        idle = path.with_name(f"{path.name}.0123456789abcdef.lock")
        assert len(mine) == len(idle.name)  # each one is known again by its form
        other = path.with_name(f"{path.name}.backup.lock")
        for each in (idle, other):
            each.touch()
        second = SQLiteJournal(path)
        await second.open()
        assert not idle.exists()
        assert other.exists()
        assert mine in locks(path)
        await second.close()

    @pytest.mark.parametrize("how", ["no locks", "locks that hold nobody off"])
    async def test_where_there_are_none_it_is_said(self, path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        def flock(_file: int, _operation: int) -> None:
            if how == "no locks":
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(JournalError) as caught:
            await SQLiteJournal(path).open()
        assert str(caught.value) == (
            f"The file system of the journal {path} has no file locks, so that nobody could tell who is alive: "
            "put it on a local disk."
        )
        assert not locks(path)
        assert not threads()

    async def test_whoever_looks_at_the_same_time_is_not_taken_for_the_owner(
        self, path: Path, journal: SQLiteJournal
    ) -> None:
        await submitted(journal)
        left = path.with_name(f"{path.name}.somebody.lock")
        with plain(path) as connection, left.open("xb") as file:
            connection.execute("UPDATE work SET owner = 'somebody'")
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            entry = await journal.claim("boat")
        assert entry is not None
        assert entry.mine
        assert not left.exists()

    async def test_who_is_alive_is_asked_once_for_all_that_it_holds(
        self, path: Path, journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = SQLiteJournal(path)
        await other.open()
        for number in range(3):
            await submitted(other, f"theirs-{number}")
            await submitted(journal, f"mine-{number}")
        asked: list[int] = []
        flock = fcntl.flock

        def counted(file: int, operation: int) -> None:
            asked.append(operation)
            flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", counted)
        assert [(entry.held, entry.mine) for entry in await journal.entries()] == 3 * [(True, False), (True, True)]
        assert asked == [fcntl.LOCK_SH | fcntl.LOCK_NB]
        # And again the next time: it may have died since.
        await journal.entries()
        assert len(asked) == 2
        await other.close()

    async def test_who_died_in_a_submit_is_written_down_by_whoever_meets_it(
        self, path: Path, journal: SQLiteJournal
    ) -> None:
        for key in ("boat", "bird"):
            await journal.begin(intent(key))
        query = "SELECT key, state, owner IS NULL FROM work ORDER BY seq"
        with plain(path) as connection:
            connection.execute("UPDATE work SET owner = 'somebody'")
            assert (await journal.begin(intent())).state == "unknown"
            assert connection.execute(query).fetchall() == [("boat", "unknown", 1), ("bird", "intent", 0)]

    async def test_who_cannot_be_asked_is_taken_for_alive(self, path: Path, journal: SQLiteJournal) -> None:
        await submitted(journal)
        path.with_name(f"{path.name}.somebody.lock").mkdir()
        with plain(path) as connection:
            connection.execute("UPDATE work SET owner = 'somebody'")
        entry = await journal.claim("boat")
        assert entry is not None
        assert (entry.held, entry.mine) == (True, False)

    async def test_a_child_keeps_nothing_of_what_its_parent_held(self, path: Path, journal: SQLiteJournal) -> None:
        program = f"""
import asyncio, os, sys
from higgsfield_async.sandbox import Sandbox
from surfaces import Surface
from test_journal import intent
from higgsfield_async.journal import SQLiteJournal
async def main():
    journal = SQLiteJournal({str(path)!r})
    await journal.open()
    await journal.begin(intent())
    ready, child = os.pipe()
    if os.fork() == 0:
        os.write(child, b"x")
        sys.stdin.read()
        return
    os.read(ready, 1)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
        with elsewhere(program) as running:
            assert running.stdout is not None
            assert running.stdin is not None
            assert await asyncio.to_thread(running.stdout.readline) == "ready\n"
            assert (await found(journal)).held
            running.send_signal(signal.SIGKILL)
            await asyncio.to_thread(running.wait)
            # Its child is still there.
            entry = await found(journal)
            assert (entry.state, entry.held) == ("unknown", False)
            running.stdin.close()
            assert await asyncio.to_thread(running.stdout.read) == ""

    async def test_what_is_held_by_a_program_it_starts_is_nothing(self, path: Path, journal: SQLiteJournal) -> None:
        program = f"""
import asyncio, subprocess, sys
from higgsfield_async.sandbox import Sandbox
from surfaces import Surface
from test_journal import intent
from higgsfield_async.journal import SQLiteJournal
async def main():
    journal = SQLiteJournal({str(path)!r})
    await journal.open()
    await journal.begin(intent())
    child = "print('ready', flush=True); import sys; sys.stdin.read()"
    subprocess.Popen([sys.executable, "-c", child], close_fds=False)
    await asyncio.Event().wait()
asyncio.run(main())
"""
        with elsewhere(program) as running:
            assert running.stdout is not None
            assert running.stdin is not None
            assert await asyncio.to_thread(running.stdout.readline) == "ready\n"
            running.send_signal(signal.SIGKILL)
            await asyncio.to_thread(running.wait)
            assert not (await found(journal)).held
            running.stdin.close()
            assert await asyncio.to_thread(running.stdout.read) == ""

    async def test_two_processes_begin_each_key_once(self, path: Path) -> None:
        program = f"""
import asyncio, json, random, sys
from higgsfield_async.sandbox import Sandbox
from surfaces import Surface
from test_journal import intent
from higgsfield_async.journal import SQLiteJournal
async def main():
    journal = SQLiteJournal({str(path)!r})
    await journal.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    gate = asyncio.Semaphore(8)
    async def begin(number):
        async with gate:
            made = intent(f"key-{{number}}", f"{{id(journal)}}-{{random.random()}}")
            entry = await journal.begin(made)
        assert entry.mine == (entry.intent.nonce == made.nonce)
        return number if entry.mine else None
    numbers = random.sample(range(200), 200)
    begun = [number for number in await asyncio.gather(*map(begin, numbers)) if number is not None]
    print(json.dumps(begun), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""
        with elsewhere(program) as one, elsewhere(program) as two:
            both = (one, two)
            for running in both:
                assert running.stdout is not None
                assert await asyncio.to_thread(running.stdout.readline) == "ready\n"
            for running in both:
                assert running.stdin is not None
                running.stdin.write("go\n")
                running.stdin.flush()
            begun: list[int] = []
            for running in both:
                assert running.stdout is not None
                begun += json.loads(await asyncio.to_thread(running.stdout.readline))
        assert sorted(begun) == list(range(200))


class TestThread:
    async def test_it_is_not_opened_twice(self, journal: SQLiteJournal) -> None:
        with pytest.raises(JournalError, match="of its own"):
            await journal.open()
        assert await journal.entries() == []

    def ended(self) -> None:
        for thread in threads():
            thread.join(10)
        assert not threads()

    @pytest.mark.parametrize("steps", range(6))
    async def test_an_opening_that_is_cancelled_leaves_nothing(self, path: Path, steps: int) -> None:
        journal = SQLiteJournal(path)
        opening = asyncio.ensure_future(journal.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert repr(journal).endswith("closed)")
        # The next one may come at once.
        await journal.open()
        await journal.close()
        # What was cancelled goes on by itself, until it is closed.
        while threads() or locks(path):
            await asyncio.sleep(0.01)

    async def test_one_that_is_dropped_leaves_no_thread(self, path: Path) -> None:
        journal = SQLiteJournal(path)
        await journal.open()
        [thread] = threads()
        assert thread.daemon  # a program that forgets to close it ends all the same
        del thread
        del journal
        gc.collect()
        await asyncio.to_thread(self.ended)
        assert names(path) == [path.name]

    def test_a_loop_that_is_closed_first_leaves_no_thread(self, path: Path) -> None:
        loop = asyncio.new_event_loop()
        journal = SQLiteJournal(path)
        loop.run_until_complete(journal.open())
        reached, going = threading.Event(), threading.Event()

        def held_up() -> None:
            reached.set()
            going.wait(10)

        assert journal._worker is not None
        worker = journal._worker
        calling = loop.create_task(worker.call(held_up))
        loop.run_until_complete(asyncio.sleep(0))
        assert reached.wait(10)
        calling.cancel()
        loop.run_until_complete(asyncio.wait([calling]))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        going.set()
        self.ended()
        assert names(path) == [path.name]
