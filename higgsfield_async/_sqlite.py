"""A journal in one file on this machine: SQLite, in a thread of its own.

The event loop hands operations over and waits for their results; the thread takes everything that waits into one
transaction, so that one sync of the disk serves all of it.

Who is alive is asked of the kernel, and of no clock: each opened journal is an owner with an id of its own, and holds a
lock on a file beside the database for as long as it lives. What dies lets go of it, however it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import queue
import re
import secrets
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, TypeVarTuple, Unpack
from urllib.parse import quote

import anyio
import msgspec

from higgsfield_async._domain import JobSet
from higgsfield_async._errors import ConfigurationError, JournalError
from higgsfield_async._journal import Entry, Intent, State, read, written

if TYPE_CHECKING:
    import sqlite3

if sys.platform == "win32":  # pragma: no cover - the tests run where there is fcntl
    import msvcrt

    def _lock(file: int, *, probing: bool) -> None:  # noqa: ARG001  # there is one kind
        """Takes the lock, or raises OSError."""
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int, *, probing: bool) -> None:
        """Takes the lock, or raises OSError. Two that are probing do not take each other for the owner."""
        fcntl.flock(file, (fcntl.LOCK_SH if probing else fcntl.LOCK_EX) | fcntl.LOCK_NB)


# The files of every lock held in this process.
_locks: set[int] = set()


def _let_go() -> None:
    """In a process that was forked off: it would keep the lock of its parent, were that killed."""
    for file in _locks:
        os.close(file)
    _locks.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - there is no fork on Windows
    os.register_at_fork(after_in_child=_let_go)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Row: TypeAlias = tuple[Any, ...]

# "HFSJ": tells our databases from those of other applications.
APPLICATION_ID = 0x4846534A
# Version N of the schema is what the first N of these make. One that was released is never changed.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE work (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            key TEXT NOT NULL UNIQUE,
            nonce TEXT NOT NULL,
            transport TEXT NOT NULL,
            origin TEXT NOT NULL,
            account TEXT NOT NULL,
            kind TEXT NOT NULL,
            digest TEXT NOT NULL,
            created_at TEXT NOT NULL,
            request BLOB,
            replay BLOB,
            idempotency_key TEXT,
            state TEXT NOT NULL,
            owner TEXT,
            id TEXT,
            submitted_at TEXT,
            job_set BLOB,
            ended_at TEXT
        )""",
        "CREATE INDEX work_id ON work (id)",
        "CREATE INDEX work_state ON work (state, seq)",
        "CREATE INDEX work_owner ON work (owner) WHERE owner IS NOT NULL",
    ),
)
# Seconds to wait for another process that writes.
BUSY = 5.0
# So many operations at most in one transaction: the first of them waits for the last.
MOST = 500
# An intent's columns are called as its fields are.
INTENT = ", ".join(Intent.__struct_fields__)
COLUMNS = f"{INTENT}, state, owner, seq, id, submitted_at, job_set"
_MARKS = ", ".join("?" * len(Intent.__struct_fields__))
INSERT = f"INSERT INTO work ({INTENT}, owner, state) VALUES ({_MARKS}, ?, 'intent')"
# So many rows are pruned at once.
PRUNED = 5_000
PRUNE = """
    DELETE FROM work WHERE seq IN (SELECT seq FROM work WHERE state = 'ended' AND ended_at < ? ORDER BY seq LIMIT ?)
"""
# What is in a state as it is shown.
STATES: dict[State, str] = {
    "intent": "state = 'intent' AND alive(owner)",
    "unknown": "state = 'unknown' OR state = 'intent' AND NOT alive(owner)",
    "submitted": "state = 'submitted'",
    "ended": "state = 'ended'",
}


class SQLiteJournal:
    """A `Journal` in a file, for any number of processes on one machine.

    The client that it is given to opens and closes it. Any number may be open on one file, in one process or in
    several; one that is open is not opened a second time, and after it was closed it may be opened again.

    The file, what SQLite keeps beside it (`-wal`, `-shm`) and one small `.lock` for each journal that is open on it
    must be on a local disk: not on a network's file system, and not mounted into a container without their folder.

    Args:
        path: The file. Where there is none it is made, for its owner's eyes alone.
        prompts: Whether requests and prompts may be written down. Without them a lost submit cannot be repeated, and
            the service's answers are kept without their bodies.
        spill: How the files begin for ids that the journal could not take, best on another disk; the path and `.spill`
            by default.

    Raises:
        ConfigurationError: The path is none of a file.
    """

    def __init__(self, path: str | os.PathLike[str], *, prompts: bool = True, spill: Path | None = None) -> None:
        name = os.fspath(path)
        if type(name) is not str or not name or name == ":memory:" or "\0" in name:
            msg = "The path of a journal must be that of a file: what is in memory is lost with the process."
            raise ConfigurationError(msg)
        self._path = Path(name)
        self._prompts = prompts
        self._spill = Path(f"{name}.spill") if spill is None else spill
        self._worker: _Worker | None = None

    def __repr__(self) -> str:
        return f"SQLiteJournal({str(self._path)!r}, {'closed' if self._worker is None else 'open'})"

    @property
    def prompts(self) -> bool:
        """Whether requests and prompts may be written down."""
        return self._prompts

    @property
    def spill(self) -> Path:
        """How the files on this machine begin in which ids are put that the journal could not take."""
        return self._spill

    async def open(self) -> None:
        """Opens it, and brings what an earlier version wrote up to date.

        Raises:
            JournalError: It is none, is damaged, cannot be written, or is of a newer version; or it is open already.
        """
        if self._worker is not None:
            msg = f"The journal {self._path} is open already: each client takes a SQLiteJournal of its own."
            raise JournalError(msg)
        self._worker = worker = _Worker(_Database(self._path, self._spill, prompts=self._prompts))
        # One that is dropped without being closed leaves no thread behind.
        weakref.finalize(self, worker.stop)
        try:
            await worker.open()
        except BaseException:
            self._worker = None
            raise
        # A process that changes its folder later means the same files.
        self._path, self._spill = worker.database.path, worker.database.spill

    async def close(self) -> None:
        """Writes what is to be written, and lets go of everything that is held."""
        if self._worker is not None:
            worker = self._opened()
            self._worker = None
            await worker.close()

    async def begin(self, intent: Intent) -> Entry:
        """Writes an intent down, durably, unless its key is there already: see `Journal.begin`."""
        try:
            return await self._do(_Database.begin, intent, durable=True)
        except JournalError as error:
            msg = f"{error} Nothing was submitted."
            raise JournalError(msg, refused=True, transient=error.transient) from error.__cause__

    async def commit(self, key: str, nonce: str, identifier: str, at: datetime) -> None:
        """Writes the id of what was accepted down, durably: see `Journal.commit`."""
        try:
            await self._do(_Database.commit, key, nonce, identifier, at, durable=True)
        except JournalError as error:
            error.charged = "unknown"
            raise

    async def abandon(self, key: str, nonce: str) -> None:
        """Takes an attempt back that was certainly not accepted: see `Journal.abandon`."""
        await self._do(_Database.abandon, key, nonce)

    async def unknown(self, key: str, nonce: str) -> None:
        """Writes down that nobody can tell whether an attempt was accepted: see `Journal.unknown`."""
        await self._do(_Database.unknown, key, nonce)

    async def saw(self, key: str, job_set: JobSet) -> None:
        """Writes down what was seen of a generation that goes on: see `Journal.saw`."""
        await self._do(_Database.saw, key, job_set)

    async def finish(self, key: str, job_set: JobSet) -> None:
        """Writes an end down, or where its files were saved: see `Journal.finish`."""
        await self._do(_Database.finish, key, job_set)

    async def find(self, key: str) -> Entry | None:
        """What stands under a key."""
        return await self._do(_Database.find, key, writes=False)

    async def find_id(self, identifier: str) -> Entry | None:
        """What has this id of the service's; the latest where there are several."""
        return await self._do(_Database.find_id, identifier, writes=False)

    async def entries(self, *states: State, after: int = 0, limit: int = 1000) -> list[Entry]:
        """What is in one of these states, or in any, in the order in which it was begun: see `Journal.entries`."""
        return await self._do(_Database.entries, states, after, limit, writes=False)

    async def claim(self, key: str) -> Entry | None:
        """Holds what nobody alive holds: see `Journal.claim`."""
        return await self._do(_Database.claim, key)

    async def release(self, key: str) -> None:
        """Lets go of what is held here, but not of an intent: see `Journal.release`."""
        await self._do(_Database.release, key)

    async def resolve(self, key: str, identifier: str, at: datetime) -> Entry:
        """Attaches an id to what is unknown: see `Journal.resolve`."""
        return await self._do(_Database.resolve, key, identifier, at, durable=True)

    async def forget(self, key: str) -> Entry:
        """Takes a unit of work out, so that the same key is submitted anew: see `Journal.forget`."""
        return await self._do(_Database.forget, key)

    async def prune(self, before: datetime) -> int:
        """Takes out what ended before then, by the clock of the machine that wrote the end."""
        count = 0
        # Piece by piece: others write as well, and wait for so long and no longer.
        while taken := await self._do(_Database.prune, before):
            count += taken
        return count

    async def _do(
        self,
        work: Callable[[_Database, Unpack[Ts]], T],
        *args: *Ts,
        writes: bool = True,
        durable: bool = False,
    ) -> T:
        worker = self._opened()
        return await worker.call(partial(work, worker.database, *args), writes=writes, durable=durable)

    def _opened(self) -> _Worker:
        worker = self._worker
        if worker is None:
            msg = f"The journal {self._path} is not open."
            raise JournalError(msg)
        if worker.loop is not asyncio.get_running_loop():
            msg = f"The journal {self._path} was opened in another event loop."
            raise JournalError(msg)
        return worker


class _Operation(Generic[T]):
    """What the thread is to do, and who waits for it.

    Attributes:
        work: What is done with the database, within a transaction. It writes at most once, and last.
        writes: Whether it writes.
        durable: Whether it is on the disk when it is answered.
        answer: Who waits.
    """

    __slots__ = ("answer", "durable", "error", "result", "work", "writes")

    def __init__(self, work: Callable[[], T], answer: asyncio.Future[T], *, writes: bool, durable: bool) -> None:
        self.work = work
        self.writes = writes
        self.durable = durable
        self.answer = answer
        self.result: T | None = None
        self.error: Exception | None = None


class _Worker:
    """The thread that has the database, and the queue before it.

    What is in the queue is carried out, in its order, whatever becomes of who waits for it.
    """

    def __init__(self, database: _Database) -> None:
        self.database = database
        self.loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Operation[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="higgsfield_async.journal", daemon=True)

    async def call(self, work: Callable[[], T], *, writes: bool = True, durable: bool = False) -> T:
        answer: asyncio.Future[T] = self.loop.create_future()
        self._queue.put(_Operation(work, answer, writes=writes, durable=durable))
        return await answer

    async def open(self) -> None:
        try:
            await self._behind(self._open)
        except BaseException:
            # Cancelled from outside of anyio, it may be opened yet: then it is closed at once.
            self.stop()
            raise

    def _open(self) -> None:
        self.database.open()
        self._thread.start()

    def stop(self) -> None:
        """Has the thread end after what is in the queue."""
        self._queue.put(None)

    async def close(self) -> None:
        self.stop()
        await self._behind(self._thread.join)

    async def _behind(self, work: Callable[[], None]) -> None:
        """Has another thread do what blocks, and waits for its end; a native cancel leaves it to go on by itself."""
        done = self.loop.run_in_executor(None, work)
        with anyio.CancelScope(shield=True):
            await asyncio.shield(done)

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._batch()
            if batch:
                self.database.perform(batch)
            try:
                self.loop.call_soon_threadsafe(_answer, batch)
            except RuntimeError:
                # The event loop was closed and the journal was not: nobody is there any more.
                going = False
        self.database.close()

    def _batch(self) -> tuple[list[_Operation[Any]], bool]:
        """Everything that waits, and whether more may come."""
        batch: list[_Operation[Any]] = []
        with contextlib.suppress(queue.Empty):
            while len(batch) < MOST:
                operation = self._queue.get(block=not batch)
                if operation is None:
                    return batch, False
                batch.append(operation)
        return batch, True


def _answer(batch: Sequence[_Operation[Any]]) -> None:
    for each in batch:
        # One that was cancelled waits no more.
        if not each.answer.done():
            if each.error is None:
                each.answer.set_result(each.result)
            else:
                each.answer.set_exception(each.error)


class _Database:
    """The file, and what is done with it: all of it blocks, in one thread at a time.

    Attributes:
        path: Where it is.
        spill: Where ids are put that it could not take.
    """

    _connection: sqlite3.Connection
    _file: tuple[int, int]

    def __init__(self, path: Path, spill: Path, *, prompts: bool) -> None:
        self.path = path
        self.spill = spill
        self._prompts = prompts
        self._full = True
        self._owner = secrets.token_hex(8)
        self._lock: int | None = None
        # An id is never used again: who is dead stays so. Who is alive is asked once in each transaction.
        self._dead: set[str] = set()
        self._alive: set[str] = set()

    def open(self) -> None:
        import sqlite3

        # SQLite follows links before it puts its own files beside the database, and so do the locks.
        self.path, self.spill = Path(os.path.realpath(self.path)), self.spill.absolute()
        try:
            self._connect()
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error

    def _connect(self) -> None:
        import sqlite3

        with contextlib.ExitStack() as stack:
            address = f"file:{quote(os.fsencode(self.path))}"
            if not self.path.exists():
                # What SQLite makes is as private as this. To make it here and close it again would do away with
                # SQLite's own locks in this process.
                private = stack.enter_context(tempfile.NamedTemporaryFile(dir=self.path.parent))
                address += f"?modeof={quote(os.fsencode(private.name))}"
            self._connection = sqlite3.connect(
                address, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False
            )

    def _prepare(self) -> None:
        found = self.path.stat()
        self._file = (found.st_dev, found.st_ino)
        self._connection.create_function("alive", 1, self._is_alive)
        # Within a transaction, so that it is seen as it was at one moment: another process may be making it.
        self._execute("BEGIN")
        self._check()
        self._execute("COMMIT")
        self._write_ahead()
        self._execute("PRAGMA fullfsync = ON")
        # What is taken out was a prompt, perhaps.
        self._execute("PRAGMA secure_delete = ON")
        # Whoever opens it is alone until the end of this: no lock is looked at between its making and its taking.
        self._execute("BEGIN IMMEDIATE")
        self._migrate()
        self._sweep()
        self._hold()
        self._execute("COMMIT")

    def _write_ahead(self) -> None:
        """Has SQLite keep a log, and what it holds can be read while it is written."""
        import sqlite3

        # Several that open a new one at once are in each other's way, and SQLite itself does not always wait here.
        until = time.monotonic() + 2 * BUSY
        while True:
            try:
                self._execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise
                time.sleep(0.005)
            else:
                return

    def _check(self) -> None:
        """Refuses what is no journal, before anything is done to it.

        Raises:
            JournalError: It is another application's, or of a newer version.
        """
        application = self._number("PRAGMA application_id")
        fresh = application == 0 and self._number("SELECT count(*) FROM sqlite_master") == 0
        if application != APPLICATION_ID and not fresh:
            msg = f"{self.path} is a database of another application: give the journal a file of its own."
            raise JournalError(msg)
        version = self._number("PRAGMA user_version")
        if version > len(MIGRATIONS):
            msg = (
                f"The journal {self.path} is of version {version}, and this higgsfield_async reads up to version "
                f"{len(MIGRATIONS)}: install a newer one. Nothing was changed."
            )
            raise JournalError(msg)

    def _migrate(self) -> None:
        """Makes what is missing, step by step, in the transaction that is open."""
        # Again: another process may have been first.
        self._check()
        version = self._number("PRAGMA user_version")
        for statement in itertools.chain(*MIGRATIONS[version:]):
            self._execute(statement)
        self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # Even where it is that already: to begin to write is no error in a file that is read-only, but to write is.
        self._execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _sweep(self) -> None:
        """Takes the locks of the dead away."""
        name = re.compile(re.escape(self.path.name) + r"\.([0-9a-f]{16})\.lock")
        for path in self.path.parent.iterdir():
            if found := name.fullmatch(path.name):
                self._is_alive(found[1])

    def _hold(self) -> None:
        """Takes the lock that tells everybody that this owner is alive.

        Raises:
            JournalError: There are no locks here.
        """
        path = self._lock_path(self._owner)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _locks.add(self._lock)
        try:
            _lock(self._lock, probing=False)
            locked = _is_locked(path)
        except OSError:
            locked = False
        if not locked:
            msg = (
                f"The file system of the journal {self.path} has no file locks, so that nobody could tell who is "
                "alive: put it on a local disk."
            )
            raise JournalError(msg)

    def _lock_path(self, owner: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{owner}.lock")

    def _is_alive(self, owner: str | None) -> bool:
        if owner is None or owner in self._dead:
            return False
        if owner == self._owner or owner in self._alive:
            return True
        path = self._lock_path(owner)
        if _is_locked(path):
            self._alive.add(owner)
            return True
        self._dead.add(owner)
        with contextlib.suppress(OSError):
            path.unlink()
        return False

    def close(self) -> None:
        import sqlite3

        if self._lock is not None:
            # What cannot be written is let go of all the same, with the lock.
            with contextlib.suppress(sqlite3.Error):
                self._execute(
                    "UPDATE work SET owner = NULL, state = CASE state WHEN 'intent' THEN 'unknown' ELSE state END "
                    "WHERE owner = ?",
                    self._owner,
                )
            with contextlib.suppress(sqlite3.Error):
                self._execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._connection.close()
        if self._lock is not None:
            _locks.discard(self._lock)
            os.close(self._lock)
            self._lock = None
            with contextlib.suppress(OSError):
                self._lock_path(self._owner).unlink()

    def perform(self, batch: Sequence[_Operation[Any]]) -> None:
        """Carries operations out in one transaction, in their order; each in one of its own where that fails."""
        try:
            self._transaction(batch)
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
            if len(batch) == 1:
                batch[0].error = self._translated(error)
                return
            for each in batch:
                # To wait for another process once is enough.
                if each.writes and _is_busy(error):
                    each.error = self._translated(error)
                else:
                    self.perform([each])

    def _transaction(self, batch: Sequence[_Operation[Any]]) -> None:
        self._alive.clear()
        self._check_file()
        writes, durable = any(each.writes for each in batch), any(each.durable for each in batch)
        if writes and durable != self._full:
            self._execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._full = durable
        self._execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            for each in batch:
                each.error = None
                try:
                    each.result = each.work()
                except (JournalError, ValueError, msgspec.MsgspecError) as error:
                    # Before it wrote anything.
                    each.error = self._translated(error)
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    def _check_file(self) -> None:
        """Raises OSError where what is written would be lost: SQLite writes on into a file that was deleted."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._file:
                return
        raise FileNotFoundError(errno.ENOENT, "it was moved or deleted while it was open")

    def begin(self, intent: Intent) -> Entry:
        if not self._prompts:
            intent = msgspec.structs.replace(intent, request=None, replay=None)
        row = self._row("key = ?", intent.key)
        if row is None:
            values = msgspec.structs.asdict(intent) | {"created_at": _text(intent.created_at), "owner": self._owner}
            made = self._execute(INSERT, *values.values())
            return Entry(intent=intent, state="intent", seq=made.lastrowid or 0, mine=True, held=True)
        entry = self._entry(row)
        if entry.state == "unknown" and not entry.held:
            self._execute("UPDATE work SET state = 'unknown', owner = NULL WHERE seq = ?", entry.seq)
        return entry

    def commit(self, key: str, nonce: str, identifier: str, at: datetime) -> None:
        entry = self.find(key)
        if entry is None or entry.intent.nonce != nonce:
            msg = f"The journal {self.path} has not this attempt at {key!r} any more."
            raise JournalError(msg)
        if entry.id is None:
            self._attach(entry, identifier, at)
        elif entry.id != identifier:
            msg = f"This attempt at {key!r} has another id in the journal {self.path}: {entry.id}."
            raise JournalError(msg)

    def _attach(self, entry: Entry, identifier: str, at: datetime) -> None:
        self._execute(
            "UPDATE work SET state = 'submitted', id = ?, submitted_at = ?, replay = NULL WHERE seq = ?",
            identifier,
            _text(at),
            entry.seq,
        )

    def abandon(self, key: str, nonce: str) -> None:
        # That of a dead holder is unknown, and stays.
        self._execute("DELETE FROM work WHERE key = ? AND nonce = ? AND state = 'intent' AND alive(owner)", key, nonce)

    def unknown(self, key: str, nonce: str) -> None:
        self._execute(
            "UPDATE work SET state = 'unknown', owner = NULL WHERE key = ? AND nonce = ? "
            "AND (state = 'intent' OR state = 'unknown' AND owner = ?)",
            key,
            nonce,
            self._owner,
        )

    def saw(self, key: str, job_set: JobSet) -> None:
        told = written(job_set, prompts=self._prompts)
        self._execute("UPDATE work SET job_set = ? WHERE key = ? AND state = 'submitted'", told, key)

    def finish(self, key: str, job_set: JobSet) -> None:
        self._execute(
            "UPDATE work SET state = 'ended', owner = NULL, job_set = ?, ended_at = coalesce(ended_at, ?) "
            "WHERE key = ? AND state IN ('submitted', 'ended')",
            written(job_set, prompts=self._prompts),
            _text(datetime.now(UTC)),
            key,
        )

    def find(self, key: str) -> Entry | None:
        row = self._row("key = ?", key)
        return self._entry(row) if row else None

    def find_id(self, identifier: str) -> Entry | None:
        row = self._row("id = ?", identifier)
        return self._entry(row) if row else None

    def entries(self, states: Sequence[State], after: int, limit: int) -> list[Entry]:
        found = " OR ".join(STATES[state] for state in states) or "1"
        query = f"SELECT {COLUMNS} FROM work WHERE seq > ? AND ({found}) ORDER BY seq LIMIT ?"
        return [self._entry(row) for row in self._execute(query, after, limit)]

    def claim(self, key: str) -> Entry | None:
        entry = self.find(key)
        if entry is None or entry.held or entry.state == "ended":
            return entry
        self._execute("UPDATE work SET owner = ?, state = ? WHERE seq = ?", self._owner, entry.state, entry.seq)
        return msgspec.structs.replace(entry, mine=True, held=True)

    def release(self, key: str) -> None:
        self._execute(
            "UPDATE work SET owner = NULL WHERE key = ? AND owner = ? AND state != 'intent'", key, self._owner
        )

    def resolve(self, key: str, identifier: str, at: datetime) -> Entry:
        entry = self._known(key)
        if entry.state != "unknown":
            msg = f"{key!r} is not unknown in the journal {self.path}, but {entry.state}."
            raise JournalError(msg)
        if entry.held and not entry.mine:
            raise JournalError(self._elsewhere(key))
        self._attach(entry, identifier, at)
        return self._known(key)

    def forget(self, key: str) -> Entry:
        entry = self._known(key)
        if entry.mine and entry.state == "intent":
            msg = f"{key!r} is being submitted here: wait for its answer before the journal {self.path} may forget it."
            raise JournalError(msg)
        if entry.held and not entry.mine:
            raise JournalError(self._elsewhere(key))
        self._execute("DELETE FROM work WHERE seq = ?", entry.seq)
        return entry

    def prune(self, before: datetime) -> int:
        return self._execute(PRUNE, _text(before), PRUNED).rowcount

    def _known(self, key: str) -> Entry:
        entry = self.find(key)
        if entry is None:
            msg = f"The journal {self.path} has nothing under {key!r}."
            raise JournalError(msg)
        return entry

    def _elsewhere(self, key: str) -> str:
        return f"Another client that is alive looks after {key!r} of the journal {self.path}."

    def _row(self, where: str, value: str) -> Row | None:
        query = f"SELECT {COLUMNS} FROM work WHERE {where} ORDER BY seq DESC LIMIT 1"
        row: Row | None = self._execute(query, value).fetchone()
        return row

    def _entry(self, row: Row) -> Entry:
        *intent, state, owner, seq, identifier, submitted_at, job_set = row
        fields: dict[str, Any] = dict(zip(Intent.__struct_fields__, intent, strict=True))
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        held = self._is_alive(owner)
        return Entry(
            intent=Intent(**fields),
            state="unknown" if state == "intent" and not held else state,
            seq=seq,
            id=identifier,
            submitted_at=submitted_at and datetime.fromisoformat(submitted_at),
            job_set=job_set and read(job_set),
            mine=owner == self._owner,
            held=held,
        )

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def _number(self, query: str) -> int:
        found: int = self._execute(query).fetchone()[0]
        return found

    def _translated(self, error: Exception) -> Exception:
        """The error as the caller gets it: a fault of this program stays what it is."""
        import sqlite3

        if not isinstance(error, (sqlite3.Error, OSError, ValueError, msgspec.MsgspecError)):
            return error
        translated = JournalError(self._explained(error), transient=_is_busy(error))
        translated.__cause__ = error
        return translated

    def _explained(self, error: Exception) -> str:
        if isinstance(error, OSError):
            return f"The journal {self.path} cannot be written: {_said(error)}. {_CHECK}"
        # Such as SQLITE_IOERR_WRITE.
        _, _, word = getattr(error, "sqlite_errorname", "").partition("_")
        told = _TOLD.get(word.partition("_")[0], "cannot be read or written: {error}.")
        return f"The journal {self.path} {told.format(error=error)}"


_CHECK = "Does its folder exist, and may this user write to both?"
_DAMAGED = (
    "is damaged, or no journal at all ({error}): put a copy in its place, or move it away with the files beside it "
    "whose names begin with its own."
)
# By the first word of SQLite's error code.
_TOLD = {
    "BUSY": f"was kept locked by another process for {BUSY:g} seconds. Try again.",
    "CANTOPEN": f"cannot be opened. {_CHECK}",
    "CORRUPT": _DAMAGED,
    "FULL": "cannot be written: its disk is full. Make room; what it holds can still be read.",
    "NOTADB": _DAMAGED,
    "PERM": f"cannot be opened. {_CHECK}",
    "READONLY": f"cannot be written: it is read-only. {_CHECK}",
}


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _is_busy(error: Exception) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def _is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of this file. What cannot be told is taken for held: nobody is robbed."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        _lock(file, probing=True)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(file)


def _text(moment: datetime) -> str:
    """In UTC, so that the order of texts is that of times."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
