"""A journal in Postgres: for any number of machines.

Who is alive is asked of the server, and of no clock: each opened journal is an owner with a number of its own, and
holds an advisory lock of that number, with a connection of its own, for as long as both live. A lock that can be had
shows that its owner is dead, and stays so: no number is given twice. Whoever sees that first writes it down for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString, TypeAlias, TypeVar

import anyio
import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from higgsfield_async._domain import JobSet
from higgsfield_async._errors import ConfigurationError, JournalError
from higgsfield_async._journal import Entry, Intent, State, read, written

logger = logging.getLogger("higgsfield_async.journal")

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Connection: TypeAlias = "psycopg.AsyncConnection[Row]"
# What is done on the journal. It may be done again, when it is not known whether the server did it.
Operation: TypeAlias = Callable[[Connection], Awaitable[T]]

# Version N of the schema is what the first N of these make. One that was released is never changed.
MIGRATIONS: tuple[LiteralString, ...] = (
    # The numbers of the owners are those of their locks, which other applications draw from the same well: they begin
    # where nobody else's are likely to be.
    """
    create sequence higgsfield.owner_ids as bigint minvalue 7523108584469561344;
    create table higgsfield.owners (
        id bigint primary key default nextval('higgsfield.owner_ids'),
        machine text not null,
        process integer not null,
        opened_at timestamptz not null default now()
    );
    create table higgsfield.journal (
        space text not null,
        key text not null,
        nonce text not null,
        transport text not null,
        origin text not null,
        account text not null,
        kind text not null,
        digest text not null,
        created_at timestamptz not null,
        request bytea,
        replay bytea,
        idempotency_key text,
        state text not null check (state in ('intent', 'unknown', 'submitted', 'ended')),
        holder bigint,
        seq bigint not null generated always as identity,
        id text,
        submitted_at timestamptz,
        job_set bytea,
        ended_at timestamptz,
        -- Whose intent it was, where it is unknown because they died: if they live after all, they know better.
        left_by bigint,
        -- The transaction that wrote it last: who remembers it sees that the row has changed since.
        tx xid8 not null default pg_current_xact_id(),
        primary key (space, key)
    );
    create index on higgsfield.journal (space, seq);
    create index on higgsfield.journal (space, state, seq);
    create index on higgsfield.journal (space, id) where id is not null;
    create index on higgsfield.journal (space, holder) where holder is not null;
    """,
)
MIGRATING = 7523108584469561343
OLDEST_SERVER = 130000

COLUMNS: LiteralString = """
    key, nonce, transport, origin, account, kind, digest, created_at at time zone 'UTC', request, replay,
    idempotency_key, state, holder, seq, id, submitted_at at time zone 'UTC', job_set
"""
# Only with a lock that the server knows of is anything held: who lost it, and does not know yet, writes nothing here.
ALIVE: LiteralString = "not pg_try_advisory_xact_lock_shared(%(me)s)"
BEGIN: LiteralString = f"""
    insert into higgsfield.journal (space, key, nonce, transport, origin, account, kind, digest, created_at, request,
        replay, idempotency_key, state, holder)
    select %(space)s, %(key)s, %(nonce)s, %(transport)s, %(origin)s, %(account)s, %(kind)s, %(digest)s,
        %(created_at)s::timestamptz, %(request)s::bytea, %(replay)s::bytea, %(idempotency_key)s::text, 'intent', %(me)s
    where {ALIVE}
    on conflict (space, key) do nothing
    returning {COLUMNS}
"""
# What is an intent of this journal, though its lock may have been lost meanwhile.
OURS: LiteralString = """
    space = %(space)s and key = %(key)s and nonce = %(nonce)s and (state = 'intent' and holder = any(%(mine)s)
        or state = 'unknown' and holder is null and left_by = any(%(mine)s))
"""
# Who lost its lock may still tell of a generation whose key is another's by now.
SAME: LiteralString = "(id = %(id)s or holder = %(me)s)"
# Shared, so that two who look at the same time do not take each other for the owner. In the order of the keys, so that
# two who write do not wait for each other. What changed since this statement began is looked at as it is now.
BURY: LiteralString = """
    with dead as materialized (
        select holder from (
            select distinct holder from higgsfield.journal where space = %(space)s and holder is not null
        ) as holders
        where holder <> %(me)s and pg_try_advisory_xact_lock_shared(holder)
    ), theirs as materialized (
        select key, holder from higgsfield.journal join dead using (holder)
        where space = %(space)s order by key for update of journal
    )
    update higgsfield.journal as j
    set state = case j.state when 'intent' then 'unknown' else j.state end,
        left_by = case j.state when 'intent' then j.holder else j.left_by end,
        holder = null,
        tx = pg_current_xact_id()
    from theirs where j.space = %(space)s and j.key = theirs.key and j.holder = theirs.holder
"""
HELD: LiteralString = """
    select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted
    and (classid::bigint << 32 | objid::bigint) = %s
"""

# Seconds between two looks at one's own lock, and that such a look may take: together less than the server waits before
# it gives up on who is silent, so that who lost its lock knows it first.
LOOK = 1.0
ANSWER = 5.0
# And for a task to end, until it is told once more.
ENDING = 1.0
# After so many looks it is seen whether others died: what is shown of theirs elsewhere is not older than that.
LOOKS = 5
# How connections are made, unless the DSN says otherwise.
CONNECTING = {
    "application_name": "higgsfield_async",
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "4",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
# What is on the disk when it is answered; one row is judged by what it is now.
DURABLE: LiteralString = """
    select set_config('synchronous_commit', 'on', false)
    where current_setting('synchronous_commit') in ('off', 'local');
    set session characteristics as transaction isolation level read committed
"""
# So that the server notices a machine that is gone without a word: by itself it would hold its lock for hours.
NOTICED: LiteralString = """
    set tcp_keepalives_idle = 4;
    set tcp_keepalives_interval = 2;
    set tcp_keepalives_count = 3;
    set tcp_user_timeout = 10000;
    set statement_timeout = '5s'
"""
# How many seconds the commit of an id waits for a server that is away, at most: then whoever has it puts it elsewhere.
COMMITTING = 1.0
# How many rows are taken out in one transaction.
PRUNED = 5_000


class PostgresJournal:
    """A `Journal` in a Postgres, for any number of processes on any number of machines.

    The client that it is given to opens and closes it. It makes its tables in the schema `higgsfield` of the database,
    which must be Postgres 13 or newer. Between it and the server there may be no pooler in transaction mode, such as
    pgbouncer's: a lock belongs to one connection.

    Whoever loses the connection that holds its lock is dead to the others, and to itself: what it held is held by
    nobody, and it goes on under a new number. The id of what it had sent is still written down: it belongs to its
    attempt.

    Args:
        dsn: The database, as libpq takes it: `postgresql://user:password@host:port/database`, or `host=… dbname=…`.
        space: Keeps the units of work of several accounts in one database apart.
        prompts: Whether requests and prompts may be written down. Without them a lost submit cannot be repeated, and
            the service's answers are kept without their bodies.
        spill: How the files begin for ids that the journal could not take, on a disk that outlives the process; by
            default in `$XDG_STATE_HOME/higgsfield_async`, or `~/.local/state/higgsfield_async`.
        patience: How many seconds an operation waits for a server that is away. The commit of an id waits a second at
            most: what is nowhere yet is better put into the spill file.
        connections: How many connections at most, besides the one that holds the lock.

    Raises:
        ConfigurationError: The DSN cannot be read, or a number is out of range.
    """

    def __init__(
        self,
        dsn: str,
        *,
        space: str = "",
        prompts: bool = True,
        spill: Path | None = None,
        patience: float = 30.0,
        connections: int = 5,
    ) -> None:
        if not 0 < patience < 3600 or connections < 1:
            msg = "patience must be between 0 and 3600 seconds, and connections at least 1."
            raise ConfigurationError(msg)
        parts = _parts(dsn)
        place = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
        self._shown = f"postgresql://{place}"
        self._dsn = make_conninfo("", **{**CONNECTING, **parts})
        self._space = space
        self._prompts = prompts
        self._spill = _spill(f"{place}\n{space}") if spill is None else spill.absolute()
        self._patience = patience
        self._most = connections
        self._connections = _Connections(self._connect, connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard: Connection | None = None
        self._watching: asyncio.Task[None] | None = None
        self._owner: int | None = None
        self._owners: list[int] = []
        self._lost = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()
        self._last: dict[str, asyncio.Task[Any]] = {}

    def __repr__(self) -> str:
        state = "closed" if self._loop is None else "open"
        return f"PostgresJournal({self._shown!r}, space={self._space!r}, {state})"

    @property
    def prompts(self) -> bool:
        """Whether requests and prompts may be written down."""
        return self._prompts

    @property
    def spill(self) -> Path:
        """How the files on this machine begin in which ids are put that the journal could not take."""
        return self._spill

    @property
    def owner(self) -> int | None:
        """The number under which it holds what it holds, or None while it has none."""
        return self._owner

    async def lost(self) -> None:
        """Waits until what it held is held by nobody any more, because it lost the server. It goes on nevertheless."""
        await self._lost.wait()

    async def open(self) -> None:
        """Opens it, makes its tables, and brings what an earlier version wrote up to date.

        Raises:
            JournalError: The server cannot be reached or used, or what is there is of a newer version; or it is open
                already.
        """
        if self._loop is not None:
            msg = f"The journal {self._shown} is open already: each client takes a PostgresJournal of its own."
            raise JournalError(msg)
        self._loop = asyncio.get_running_loop()
        self._connections, self._lost = _Connections(self._connect, self._most), asyncio.Event()
        try:
            await anyio.to_thread.run_sync(self._make_place)
            await self._migrate()
            guard, owner = await self._take()
        except BaseException as error:
            self._loop = None
            await self._connections.close()
            if isinstance(error, psycopg.Error | OSError):
                raise self._failed(error) from None
            raise
        self._guard, self._owner, self._owners = guard, owner, [owner]
        self._watching = asyncio.create_task(self._watch(guard, owner), name="higgsfield_async.journal")

    async def close(self) -> None:
        """Writes what is to be written, and lets go of everything that is held."""
        if self._watching is None:
            return
        self._check_loop()
        watching, self._watching = self._watching, None
        with anyio.CancelScope(shield=True):
            if self._running:
                await asyncio.wait(self._running, timeout=self._patience)
            await _end({watching, *self._running})
            if self._guard is not None:
                with contextlib.suppress(psycopg.Error), _within(self._guard, ANSWER):
                    await self._let_go(self._guard)
                await self._guard.close()
            await self._connections.close()
            self._loop = self._guard = self._owner = None

    async def begin(self, intent: Intent) -> Entry:
        """Writes an intent down, durably, unless its key is there already: see `Journal.begin`."""
        tried = False

        async def begin(connection: Connection) -> Entry:
            nonlocal tried
            again, tried = tried, True
            return await self._begin(connection, intent, again=again)

        try:
            return await self._do(intent.key, begin)
        except JournalError as error:
            if error.transient and self._watching is not None:
                # It may have been written all the same. Nobody has sent it, and nobody will.
                self._start(intent.key, lambda connection: self._abandon(connection, intent.key, intent.nonce))
            msg = f"{error} Nothing was submitted."
            raise JournalError(msg, refused=True, transient=error.transient) from None

    async def commit(self, key: str, nonce: str, identifier: str, at: datetime) -> None:
        """Writes the id of what was accepted down, durably: see `Journal.commit`."""

        async def commit(connection: Connection) -> None:
            done = await connection.execute(
                """
                update higgsfield.journal
                set state = 'submitted', id = %(id)s, submitted_at = %(at)s, replay = null, tx = pg_current_xact_id()
                where space = %(space)s and key = %(key)s and nonce = %(nonce)s and id is null
                """,
                {"space": self._space, "key": key, "nonce": nonce, "id": identifier, "at": at},
            )
            if done.rowcount:
                return
            found = await self._one(connection, key)
            if found is None or found.intent.nonce != nonce or found.id != identifier:
                msg = f"The journal has no such attempt at {key!r} any more, or another id for it."
                raise JournalError(msg)

        try:
            await self._do(key, commit, COMMITTING)
        except JournalError as error:
            error.charged = "unknown"
            raise

    async def abandon(self, key: str, nonce: str) -> None:
        """Takes an attempt back that was certainly not accepted: see `Journal.abandon`."""
        await self._do(key, lambda connection: self._abandon(connection, key, nonce))

    async def unknown(self, key: str, nonce: str) -> None:
        """Writes down that nobody can tell whether an attempt was accepted: see `Journal.unknown`."""
        await self._set(
            key,
            "state = 'unknown', holder = null, left_by = null",
            "nonce = %(nonce)s and (state = 'intent' or state = 'unknown' and coalesce(holder, %(me)s) = %(me)s)",
            nonce=nonce,
        )

    async def saw(self, key: str, job_set: JobSet) -> None:
        """Writes down what was seen of a generation that goes on: see `Journal.saw`."""
        await self._set(
            key,
            "job_set = %(job_set)s",
            f"state = 'submitted' and {SAME}",
            job_set=written(job_set, prompts=self._prompts),
            id=job_set.id,
        )

    async def finish(self, key: str, job_set: JobSet) -> None:
        """Writes an end down, or where its files were saved: see `Journal.finish`."""
        await self._set(
            key,
            "state = 'ended', job_set = %(job_set)s, holder = null, ended_at = coalesce(ended_at, now())",
            f"state in ('submitted', 'ended') and {SAME}",
            job_set=written(job_set, prompts=self._prompts),
            id=job_set.id,
        )

    async def find(self, key: str) -> Entry | None:
        """What stands under a key."""
        return await self._do(key, lambda connection: self._find(connection, key))

    async def find_id(self, identifier: str) -> Entry | None:
        """What has this id of the service's; the latest where there are several."""

        async def find(connection: Connection) -> Entry | None:
            await self._bury(connection)
            found = await self._entries(connection, "and id = %(id)s order by seq desc limit 1", id=identifier)
            return found[0] if found else None

        return await self._do(None, find)

    async def entries(self, *states: State, after: int = 0, limit: int = 1000) -> list[Entry]:
        """What is in one of these states, or in any, in the order in which it was begun: see `Journal.entries`."""

        async def entries(connection: Connection) -> list[Entry]:
            await self._bury(connection)
            return await self._entries(
                connection,
                "and seq > %(after)s and state = any(%(states)s) order by seq limit %(limit)s",
                after=after,
                states=list(states or ("intent", "unknown", "submitted", "ended")),
                limit=limit,
            )

        return await self._do(None, entries)

    async def claim(self, key: str) -> Entry | None:
        """Holds what nobody alive holds: see `Journal.claim`."""

        async def claim(connection: Connection) -> Entry | None:
            found = await self._find(connection, key)
            if found is None or found.held or found.state == "ended":
                return found
            done = await connection.execute(
                f"""
                update higgsfield.journal set holder = %(me)s, left_by = null, tx = pg_current_xact_id()
                where space = %(space)s and key = %(key)s and holder is null and state <> 'ended' and {ALIVE}
                """,
                {"space": self._space, "key": key, "me": self._me()},
            )
            found = await self._find(connection, key)
            if not done.rowcount and found is not None and not found.held and found.state != "ended":
                raise _LockLost
            return found

        return await self._do(key, claim)

    async def release(self, key: str) -> None:
        """Lets go of what is held here, but not of an intent: see `Journal.release`."""
        await self._set(key, "holder = null", "holder = %(me)s and state <> 'intent'")

    async def resolve(self, key: str, identifier: str, at: datetime) -> Entry:
        """Attaches an id to what is unknown: see `Journal.resolve`."""
        tried = False

        async def resolve(connection: Connection) -> Entry:
            nonlocal tried
            again, tried = tried, True
            await self._bury(connection)
            done = await connection.execute(
                """
                update higgsfield.journal
                set state = 'submitted', id = %(id)s, submitted_at = %(at)s, replay = null, tx = pg_current_xact_id()
                where space = %(space)s and key = %(key)s and state = 'unknown' and coalesce(holder, %(me)s) = %(me)s
                """,
                {"space": self._space, "key": key, "id": identifier, "at": at, "me": self._owner or 0},
            )
            found = await self._one(connection, key)
            if found is None:
                msg = f"The journal has nothing under {key!r}."
                raise JournalError(msg)
            if not done.rowcount and not (again and found.id == identifier):
                held = " and somebody holds it" if found.held and not found.mine else ""
                msg = f"{key!r} is not unknown, or not free: its state is {found.state!r}{held}."
                raise JournalError(msg)
            return found

        return await self._do(key, resolve)

    async def forget(self, key: str) -> Entry:
        """Takes a unit of work out, so that the same key is submitted anew: see `Journal.forget`."""
        seen: Entry | None = None

        async def forget(connection: Connection) -> Entry:
            nonlocal seen
            found = await self._find(connection, key)
            if seen is not None and (found is None or found.intent.nonce != seen.intent.nonce):
                # It was taken out by the attempt whose answer was lost.
                return seen
            if found is None:
                msg = f"The journal has nothing under {key!r}."
                raise JournalError(msg)
            if found.held and (found.state == "intent" or not found.mine):
                where = "here" if found.mine else "by another client that is alive"
                msg = f"{key!r} is under way, or looked after, {where}: the journal cannot forget it."
                raise JournalError(msg)
            seen = found
            done = await connection.execute(
                """
                delete from higgsfield.journal
                where space = %(space)s and key = %(key)s and nonce = %(nonce)s and coalesce(holder, %(me)s) = %(me)s
                """,
                {"space": self._space, "key": key, "nonce": found.intent.nonce, "me": self._owner or 0},
            )
            if not done.rowcount:
                msg = f"{key!r} was taken over by another client at this moment: the journal cannot forget it."
                raise JournalError(msg)
            return found

        return await self._do(key, forget)

    async def prune(self, before: datetime) -> int:
        """Takes out what ended before then, by the server's clock, and says how many there were."""
        pruned = 0

        async def prune(connection: Connection) -> int:
            nonlocal pruned
            while True:
                done = await connection.execute(
                    """
                    delete from higgsfield.journal where (space, key) in (
                        select space, key from higgsfield.journal
                        where space = %s and state = 'ended' and ended_at < %s order by key limit %s for update
                    )
                    """,
                    (self._space, before, PRUNED),
                )
                pruned += done.rowcount
                if done.rowcount < PRUNED:
                    return pruned

        return await self._do(None, prune)

    # What operations are made of

    async def _begin(self, connection: Connection, intent: Intent, *, again: bool) -> Entry:
        kept = intent if self._prompts else msgspec.structs.replace(intent, request=None, replay=None)
        values = {**msgspec.structs.asdict(kept), "space": self._space, "me": self._me(), "mine": self._owners}
        row = await (await connection.execute(BEGIN, values)).fetchone()
        if row is not None:
            return self._held(row)
        found = await self._find(connection, intent.key)
        if found is None:
            raise _LockLost
        if found.intent.nonce != intent.nonce or found.mine or not again:
            return found
        # Written by an earlier try whose answer was lost, and with it the lock: nothing was sent.
        query = f"""
            update higgsfield.journal
            set state = 'intent', holder = %(me)s, left_by = null, tx = pg_current_xact_id()
            where {OURS} and {ALIVE} returning {COLUMNS}
        """
        row = await (await connection.execute(query, values)).fetchone()
        if row is None:
            msg = f"{intent.key!r} was written down, and taken over by somebody else while the server was away."
            raise JournalError(msg)
        return self._held(row)

    def _held(self, row: Row) -> Entry:
        entry = self._entry(row)
        if not entry.mine:  # the lock was lost while the answer was on its way
            raise _LockLost
        return entry

    async def _abandon(self, connection: Connection, key: str, nonce: str) -> None:
        await self._bury(connection)
        values = {"space": self._space, "key": key, "nonce": nonce, "mine": self._owners}
        await connection.execute(
            f"""
            delete from higgsfield.journal where {OURS}
            or space = %(space)s and key = %(key)s and nonce = %(nonce)s and state = 'intent'
            """,
            values,
        )

    async def _set(self, key: str, change: LiteralString, where: LiteralString, **values: object) -> None:
        async def change_it(connection: Connection) -> None:
            await connection.execute(
                f"""
                update higgsfield.journal set {change}, tx = pg_current_xact_id()
                where space = %(space)s and key = %(key)s and {where}
                """,
                {"space": self._space, "key": key, "me": self._owner or 0, **values},
            )

        await self._do(key, change_it)

    async def _find(self, connection: Connection, key: str) -> Entry | None:
        found = await self._one(connection, key)
        if found is not None and found.held and not found.mine and await self._bury(connection):
            found = await self._one(connection, key)
        return found

    async def _one(self, connection: Connection, key: str) -> Entry | None:
        found = await self._entries(connection, "and key = %(key)s", key=key)
        return found[0] if found else None

    async def _entries(self, connection: Connection, which: LiteralString, **values: object) -> list[Entry]:
        query = f"select {COLUMNS} from higgsfield.journal where space = %(space)s {which}"
        found = await connection.execute(query, {"space": self._space, **values})
        return [self._entry(row) for row in await found.fetchall()]

    def _entry(self, row: Row) -> Entry:
        *intent, state, holder, seq, identifier, submitted_at, job_set = row
        (key, nonce, transport, origin, account, kind, digest, created_at, request, replay, idempotency_key) = intent
        return Entry(
            intent=Intent(
                key=key,
                nonce=nonce,
                transport=transport,
                origin=origin,
                account=account,
                kind=kind,
                digest=digest,
                created_at=created_at.replace(tzinfo=UTC),
                request=request,
                replay=replay,
                idempotency_key=idempotency_key,
            ),
            state=state,
            seq=seq,
            id=identifier,
            submitted_at=submitted_at and submitted_at.replace(tzinfo=UTC),
            job_set=None if job_set is None else read(job_set),
            mine=holder is not None and holder == self._owner,
            held=holder is not None,
        )

    async def _bury(self, connection: Connection) -> int:
        """Writes down who died, and says of how much."""
        done = await connection.execute(BURY, {"space": self._space, "me": self._owner or 0})
        return done.rowcount

    def _me(self) -> int:
        if self._owner is None:
            raise _LockLost
        return self._owner

    # How operations are carried out

    async def _do(self, key: str | None, operation: Operation[T], patience: float | None = None) -> T:
        """Carries an operation out, whatever becomes of its caller, after those of its key that were begun earlier."""
        task = self._start(key, operation, patience)
        await asyncio.wait({task})
        if task.cancelled():
            msg = f"The journal {self._shown} was closed before this was done."
            raise JournalError(msg, transient=True)
        return task.result()

    def _start(self, key: str | None, operation: Operation[T], patience: float | None = None) -> asyncio.Task[T]:
        if self._watching is None:
            msg = f"The journal {self._shown} is not open."
            raise JournalError(msg)
        self._check_loop()
        earlier = self._running if key is None else filter(None, [self._last.get(key)])
        patience = self._patience if patience is None else min(patience, self._patience)
        work = self._carry_out(list(earlier), operation, patience)
        task = asyncio.create_task(work, name="higgsfield_async.journal")
        self._running.add(task)
        if key is not None:
            self._last[key] = task

        def ended(_: object) -> None:
            self._running.discard(task)
            if key is not None and self._last.get(key) is task:
                del self._last[key]
            if not task.cancelled():
                # Whoever waited for it may be gone, and its error with it.
                task.exception()

        task.add_done_callback(ended)
        return task

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            msg = f"The journal {self._shown} was opened in another event loop."
            raise JournalError(msg)

    async def _carry_out(self, earlier: list[asyncio.Task[Any]], operation: Operation[T], patience: float) -> T:
        if earlier:
            await asyncio.wait(earlier)
        until, pause = time.monotonic() + patience, 0.05
        while True:
            try:
                async with self._connections.one(max(until - time.monotonic(), 0.1)) as connection:
                    return await operation(connection)
            except (psycopg.Error, OSError, UnicodeError, msgspec.MsgspecError, _LockLost) as error:
                if not _passes(error) or time.monotonic() > until:
                    raise self._failed(error) from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, 1.0)

    def _failed(self, error: BaseException) -> JournalError:
        # What Postgres adds to its message may hold values of the row, and with them a prompt.
        told = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        told = told or (str(error).splitlines() or ["it did not answer in time"])[0]
        msg = f"The journal {self._shown} cannot be used: {told.rstrip('.')}."
        return JournalError(msg, transient=_passes(error))

    # Who is alive

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        try:
            await connection.execute(DURABLE)
            # A statement ends before nobody waits for it any more.
            await connection.execute(
                "select set_config('statement_timeout', %s, false)", (f"{self._patience * 900:.0f}",)
            )
        except BaseException:
            await connection.close()
            raise
        return connection

    def _make_place(self) -> None:
        try:
            self._spill.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            msg = f"{self._spill.parent} cannot be made for the journal's spill file ({error.strerror}): give spill=."
            raise JournalError(msg) from error

    async def _migrate(self) -> None:
        async with self._connections.one(self._patience) as connection:
            if connection.info.server_version < OLDEST_SERVER:
                msg = f"The journal {self._shown} is in a Postgres that is too old: it takes 13 or newer."
                raise JournalError(msg)
            async with connection.transaction():
                await connection.execute("select pg_advisory_xact_lock(%s)", (MIGRATING,))
                if not await _value(connection, "select to_regclass('higgsfield.version') is not null"):
                    await connection.execute(
                        """
                        create schema if not exists higgsfield;
                        create table higgsfield.version (version integer not null);
                        insert into higgsfield.version values (0)
                        """
                    )
                version: int = await _value(connection, "select max(version) from higgsfield.version")
                if version > len(MIGRATIONS):
                    msg = (
                        f"The journal {self._shown} is of version {version}, and this higgsfield-async knows "
                        f"{len(MIGRATIONS)}: it was left as it is. Use a newer higgsfield-async."
                    )
                    raise JournalError(msg)
                for statements in MIGRATIONS[version:]:
                    await connection.execute(statements)
                if version < len(MIGRATIONS):
                    await connection.execute("update higgsfield.version set version = %s", (len(MIGRATIONS),))

    async def _take(self) -> tuple[Connection, int]:
        """A new number, and the connection that holds its lock."""
        connection = await self._connections.new()
        try:
            with _within(connection, ANSWER):
                await connection.execute(NOTICED)
                async with connection.transaction():
                    # Locked before anybody can see it.
                    owner: int = await _value(
                        connection,
                        """
                      insert into higgsfield.owners (machine, process) values (%s, %s)
                      returning id, pg_advisory_lock(id)::text
                      """,
                        socket.gethostname(),
                        os.getpid(),
                    )
            # In other transactions: a pooler that gives each one another connection shows here.
            async with self._connections.one(ANSWER) as other, other.transaction():
                await self._bury(other)
                await other.execute(
                    "delete from higgsfield.owners where id <> %s and pg_try_advisory_xact_lock_shared(id)", (owner,)
                )
                kept = await _holds(connection, owner)
        except BaseException:
            await connection.close()
            raise
        if not kept:
            await connection.close()
            msg = (
                f"The journal {self._shown} does not keep its lock. Is there a pooler in transaction mode in between? "
                "It takes connections of its own to Postgres."
            )
            raise JournalError(msg)
        return connection, owner

    async def _watch(self, guard: Connection, owner: int) -> None:
        while True:
            await self._until_lost(guard, owner)
            logger.warning("The journal %s lost its lock: what it held is held by nobody.", self._shown)
            self._owner = self._guard = None
            self._lost.set()
            await guard.close()
            for attempt in itertools.count():  # pragma: no branch
                try:
                    guard, owner = await self._take()
                    break
                except (psycopg.Error, OSError, JournalError):
                    await asyncio.sleep(min(0.05 * 2**attempt, 1.0) * random.uniform(0.5, 1.0))
            self._guard, self._owner = guard, owner
            self._owners.append(owner)

    async def _until_lost(self, guard: Connection, owner: int) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            for look in itertools.count():  # pragma: no branch
                if not await _holds(guard, owner):
                    return
                if look % LOOKS == 0:
                    with contextlib.suppress(psycopg.Error):
                        await self._bury(guard)
                # No notice comes; what ends the connection is seen at once.
                async for _ in guard.notifies(timeout=LOOK):
                    pass  # pragma: no cover - nobody sends one

    async def _let_go(self, guard: Connection) -> None:
        await guard.execute("select pg_advisory_unlock(%s)", (self._owner,))
        await guard.execute("delete from higgsfield.owners where id = %s", (self._owner,))
        self._owner = None
        await self._bury(guard)


class _LockLost(Exception):
    """Nothing can be held until there is a new lock."""


class _Connections:
    """Connections that are used again.

    psycopg's own pool waits ever longer between its tries to reach a server that is away: this one tries when asked.
    """

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, Connection]], most: int) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(most)
        self._free: list[Connection] = []
        self._coming: set[asyncio.Task[Connection]] = set()

    @contextlib.asynccontextmanager
    async def one(self, seconds: float) -> AsyncGenerator[Connection]:
        """One of them, for so many seconds at most, with the time that it takes to get it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        async with asyncio.timeout_at(until):
            connection = await self._get()
        try:
            with _within(connection, max(until - loop.time(), 0.1)):
                yield connection
        except psycopg.OperationalError:
            # The others are to the same server.
            await self.drop()
            raise
        finally:
            self._places.release()
            if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                self._free.append(connection)
            else:
                await connection.close()

    async def _get(self) -> Connection:
        await self._places.acquire()
        try:
            return self._free.pop() if self._free else await self.new()
        except BaseException:
            self._places.release()
            raise

    async def new(self) -> Connection:
        """One more, which belongs to the caller.

        Whoever waits no more leaves it to the others. To break it off would leave half of it to the server, which a
        server that starts or stops waits for.
        """
        task = asyncio.create_task(self._connect(), name="higgsfield_async.journal")
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._left)
            raise

    def _left(self, task: asyncio.Task[Connection]) -> None:
        if task.exception() is None:
            self._free.append(task.result())

    async def drop(self) -> None:
        """Closes those that nobody uses."""
        while self._free:
            await self._free.pop().close()

    async def close(self) -> None:
        """Closes all of them, once nobody uses them any more."""
        if self._coming:
            await asyncio.wait(self._coming)
        await self.drop()


async def _value(connection: Connection, query: LiteralString, *values: object) -> Any:
    """The first thing that a query answers with."""
    return (await (await connection.execute(query, values)).fetchall())[0][0]


async def _holds(guard: Connection, owner: int) -> bool:
    with _within(guard, ANSWER):
        return bool(await _value(guard, HELD, owner))


@contextlib.contextmanager
def _within(connection: Connection, seconds: float) -> Generator[None]:
    """Hangs up after so many seconds: what waits for an answer fails at once, as if the server had gone.

    A query that is canceled has psycopg ask the server to break it off, and wait for that: where nobody answers, for
    ten seconds more.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    # Again where it was of no use: a cancellation was seen to be lost where a connection was lost in the same moment.
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=ENDING)


def _passes(error: BaseException) -> bool:
    """Whether the same may go well a little later, as when a server starts again."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate[:2] in {"08", "40", "57"} or error.sqlstate == "53300"
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | _LockLost)


def _parts(dsn: str) -> dict[str, Any]:
    """What a DSN says. Nothing that is raised repeats it: any of it may be a part of the password."""
    try:
        parts = conninfo_to_dict(dsn) if dsn.strip() else {}
    except (psycopg.Error, UnicodeError):
        parts = {}
    named = f"{parts.get('host', '')}{parts.get('dbname', '')}"
    ports = str(parts.get("port", "")).split(",")
    if not parts or "@" in named or not all(port.isdecimal() or not port for port in ports):
        msg = (
            "The DSN of the journal cannot be read: it goes postgresql://user:password@host:port/database, and what "
            "is special in a password is written as %40 for @, %2F for /, %3A for :."
        )
        raise ConfigurationError(msg)
    return {name: value for name, value in parts.items() if value is not None}


def _spill(place: str) -> Path:
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    except RuntimeError:
        msg = "There is no home folder for the journal's spill file: give spill=."
        raise ConfigurationError(msg) from None
    return Path(state, "higgsfield_async", f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.spill")
