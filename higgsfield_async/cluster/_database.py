"""The database that a cluster has in common: how it is reached, and what is written into it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import psycopg

from higgsfield_async._errors import ClientClosed, ConfigurationError, JournalError
from higgsfield_async._telemetry import fields
from higgsfield_async.cluster._journal import PostgresJournal

if TYPE_CHECKING:
    import dbos
    import sqlalchemy

T = TypeVar("T")

logger = logging.getLogger("higgsfield_async.cluster")

# The tables of DBOS are apart from ours, and from those of an application that uses it by itself.
ENGINE_SCHEMA = "higgsfield_engine"
# Names this application to DBOS. Its version is ours and not that of the code: a worker of any release takes up what
# one of another left.
APPLICATION = "higgsfield"
VERSION = "1"
WORKFLOW = "higgsfield.generation"

# The locks of workers have this for their first half: "hfwk".
LOCKS = 0x6866776B
# What makes the tables is held by one process at a time.
_MAKING = (0x6866776B, 0)

STATEMENTS = (
    """
    create schema if not exists higgsfield;
    create table if not exists higgsfield.queue (
        space text not null,
        key text not null,
        digest text not null,
        kind text not null,
        class text not null,
        request text not null,
        options text not null,
        attempt integer not null default 1,
        created_at timestamptz not null default now(),
        taken_by text,
        error text,
        canceled_at timestamptz,
        cancel_asked_at timestamptz,
        cancel_error text,
        primary key (space, key)
    );
    create index if not exists queue_created on higgsfield.queue (space, created_at);
    create index if not exists queue_cancel on higgsfield.queue (taken_by) where cancel_asked_at is not null;
    create table if not exists higgsfield.workers (
        number integer primary key,
        executor text not null,
        started_at timestamptz not null default now(),
        ended_at timestamptz
    );
    """,
)


def checked_dsn(dsn: object) -> str:
    """A database's address. The message never repeats it: it holds a password.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        parts = urlsplit(dsn if isinstance(dsn, str) else "")
        port = parts.port
    except ValueError:
        port, parts = 0, urlsplit("")
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not parts.path.strip("/") or port == 0:
        msg = "A Cluster needs the address of a Postgres database: postgresql://user:password@host:port/database."
        raise ConfigurationError(msg)
    return parts._replace(scheme="postgresql").geturl()


def origin_of(dsn: str) -> str:
    """A database's address as it may be shown."""
    parts = urlsplit(dsn)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"postgresql://{host}:{parts.port or 5432}{parts.path}"


def imported(name: str) -> Any:
    """A module of the extra.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = "A Cluster needs more packages: pip install 'higgsfield-async[cluster]'."
        raise ConfigurationError(msg) from error


class Database:
    """One process's way to the database. What blocks goes to threads, and is finished whatever becomes of its caller.

    Args:
        dsn: Its address.
        connections: How many connections it may take.
    """

    def __init__(self, dsn: str, *, connections: int = 4) -> None:
        self.dsn = dsn
        self._connections = connections
        self._lock = asyncio.Lock()
        self._engine: sqlalchemy.Engine | None = None
        self._client: dbos.DBOSClient | None = None
        self._threads: anyio.CapacityLimiter | None = None
        self._closed = False

    @property
    def client(self) -> dbos.DBOSClient:
        """DBOS, as far as it needs no worker; once it is open."""
        assert self._client is not None  # noqa: S101  # it is open
        return self._client

    async def open(self) -> None:
        """Connects, and makes what is not there, once.

        Raises:
            JournalError: It cannot be reached.
            ClientClosed: It was closed.
        """
        async with self._lock:
            if self._closed:
                msg = "The way to the cluster's database is closed."
                raise ClientClosed(msg)
            if self._client is not None:
                return
            # It makes the tables that ours stand beside.
            journal = PostgresJournal(self.dsn)
            await journal.open()
            await journal.close()
            self._threads = self._threads or anyio.CapacityLimiter(self._connections)
            self._engine, self._client = await self._blocking(self._open)

    def _open(self) -> tuple[sqlalchemy.Engine, dbos.DBOSClient]:
        sa, engine_of = imported("sqlalchemy"), imported("dbos")
        silence()
        engine: sqlalchemy.Engine = sa.create_engine(
            sa.make_url(self.dsn).set(drivername="postgresql+psycopg"),
            pool_size=self._connections,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"application_name": "higgsfield_async", **KEEPALIVE},
        )
        # What a thread still uses when all is let go of, and gives back afterwards, is nobody's.
        sa.event.listen(engine, "checkin", self._given_back)
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql("select pg_advisory_xact_lock(%s, %s)", _MAKING)
                for statement in STATEMENTS:
                    connection.exec_driver_sql(statement)
            # Under a lock of its own, and with no transaction open: it waits for all there are.
            engine_of.DBOS.migrate(self.dsn, schema=ENGINE_SCHEMA)
            client = engine_of.DBOSClient(
                system_database_engine=engine,
                dbos_system_schema=ENGINE_SCHEMA,
                serializer=engine_of.DBOSPortableJSONSerializer(),
                application_name=APPLICATION,
                retry_connection_errors=False,
            )
        except BaseException:
            engine.dispose()
            raise
        return engine, client

    async def run(self, work: Callable[[sqlalchemy.Connection], T]) -> T:
        """Does some work in one transaction.

        Raises:
            JournalError: The database cannot be reached, or has not what is asked of it. Its `charged` is "unknown"
                where it may have been done all the same.
        """
        await self.open()

        committing = False

        def transact() -> T:
            nonlocal committing
            assert self._engine is not None  # noqa: S101  # it is open
            with self._engine.connect() as connection, connection.begin():
                done = work(connection)
                committing = True
            return done

        try:
            return await self._blocking(transact)
        except JournalError as error:
            if committing:
                error.charged = "unknown"
            raise

    async def call(self, work: Callable[[], T]) -> T:
        """Does what DBOS does, in a thread.

        Raises:
            JournalError: As for `run`.
        """
        await self.open()
        return await self._blocking(work)

    async def _blocking(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        except Exception as error:
            if (failed := trouble(error)) is None:
                raise
            raise failed from error

    async def patiently(self, work: Callable[[sqlalchemy.Connection], T], seconds: float = math.inf) -> T:
        """As `run`, and again for so long while the database is away. The work must bear to be done twice."""
        until, pause, doubtful = time.monotonic() + seconds, 0.1, False
        while True:
            try:
                return await self.run(work)
            except JournalError as error:
                doubtful = doubtful or error.charged == "unknown"
                error.charged = "unknown" if doubtful else "no"
                if not error.transient or time.monotonic() + pause >= until:
                    raise
                logger.info("The database is away, and will be asked again: %s", error, extra=fields(error=error))
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    def _given_back(self, _connection: object, record: sqlalchemy.pool.ConnectionPoolEntry) -> None:
        if self._closed:
            record.invalidate()

    async def close(self) -> None:
        """Lets go of every connection. What a thread still does is finished; it cannot be opened again."""
        self._closed = True
        async with self._lock:
            client, engine = self._client, self._engine
            self._client = self._engine = None
            if client is not None and engine is not None:
                await anyio.to_thread.run_sync(_close, client, engine)


def _close(client: dbos.DBOSClient, engine: sqlalchemy.Engine) -> None:
    client.destroy()
    engine.dispose()


# A machine that is gone without a word is noticed within about 10 seconds.
KEEPALIVE: Mapping[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def trouble(error: BaseException) -> JournalError | None:
    """What went wrong with the database, without what may be secret; None where it is nothing of the kind."""
    exceptions = imported("sqlalchemy").exc
    if not isinstance(error, (exceptions.SQLAlchemyError, psycopg.Error)):
        return None
    away = isinstance(
        error,
        (
            exceptions.OperationalError,
            exceptions.InterfaceError,
            exceptions.TimeoutError,
            psycopg.OperationalError,
            psycopg.InterfaceError,
        ),
    )
    # The driver's words may hold the address, SQLAlchemy's the values of a statement: neither is repeated.
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlstate", None)
    what = f"{type(origin).__name__}{f' {code}' if code else ''}"
    msg = (
        f"The database of the cluster cannot be reached ({what})."
        if away
        else f"The database of the cluster refused something ({what})."
    )
    return JournalError(msg, transient=away)


def silence() -> None:
    """Has DBOS log as a library does: through the program's own handlers, and no more than it is asked for."""
    theirs = logging.getLogger("dbos")
    if not theirs.handlers:
        # It adds a handler of its own, and stops handing on, where there is none.
        theirs.addHandler(logging.NullHandler())
    if theirs.level == logging.NOTSET:
        # What is worth a line is in ours.
        theirs.setLevel(logging.ERROR)
