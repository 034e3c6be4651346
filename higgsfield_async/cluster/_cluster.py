"""The client of a cluster: the verbs of `Higgsfield`, over a database that any number of workers share."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import anyio

from higgsfield_async._client import Higgsfield
from higgsfield_async._errors import ConfigurationError, HiggsfieldError, JournalError
from higgsfield_async._fanout import Stats
from higgsfield_async._journal import Entry
from higgsfield_async._limits import Limits
from higgsfield_async._polling import PollPolicy
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._sources import Sources
from higgsfield_async._task import GenerationTask, Parts
from higgsfield_async._telemetry import fields
from higgsfield_async._transports import Transport, transport_from
from higgsfield_async.cluster._calls import Enqueues, RowCalls
from higgsfield_async.cluster._database import Database, checked_dsn, origin_of
from higgsfield_async.cluster._journal import PostgresJournal
from higgsfield_async.cluster._rows import Rows
from higgsfield_async.cluster._transport import QueueTransport
from higgsfield_async.cluster._watch import Watch
from higgsfield_async.cluster._worker import Worker

if TYPE_CHECKING:
    import aiohttp

    from higgsfield_async._engine import HttpEngine

logger = logging.getLogger("higgsfield_async.cluster")

# So many are read at once.
PAGE = 500


class Cluster(Higgsfield):
    """Many machines that make generations for one account, and any number of programs that want some.

    It has the verbs of `Higgsfield`, and no key: what is submitted is written into a Postgres, and a worker
    (`run_worker`), which has the key, submits it to the service. What was submitted survives the end of whoever wanted
    it, of any worker, and of the database's own process.

    A generation's `ref` has the `transport` "cluster", and its key for its `id`: any `Cluster` on the same database and
    account picks it up. What the service called it stands in `JobSet.raw`.

    What needs a key is `Unsupported`: catalogues, uploads, characters, agents, usage, and the platform's prices. Local
    files go into the database with their request, 10 MiB at most.

    Args:
        dsn: The address of the database: `postgresql://user:password@host:port/database`. Its tables are made where
            there are none, in the schemas `higgsfield` and `higgsfield_engine`.
        account: A name for the account whose key the workers have; the one of its queue.
        max_active: How many generations of the account may be open at once, over all workers. It is written into the
            database by a worker that starts; None leaves what is there.
        submits_per_second: How many generations of the account may be begun in a second, the same way. It is counted
            over a fifth of a second, so that a fifth more may fall into one second.
        poll: How a process that waits reads the database: every `first` seconds, with one query for all it waits for.
            On a worker, `worker_poll` of `run_worker` says when the service is asked.
        limits: Connections and time limits of downloads.
        session: A session of your own for downloads, as for `Higgsfield`.
        allow_private: Whether addresses inside private networks may stand in requests, and be downloaded from.

    Raises:
        ConfigurationError: A setting is out of range, or the address is none.
    """

    def __init__(
        self,
        dsn: str,
        *,
        account: str = "default",
        max_active: int | None = None,
        submits_per_second: float | None = None,
        poll: PollPolicy = PollPolicy.fixed(0.5),
        limits: Limits = Limits(),
        session: aiohttp.ClientSession | None = None,
        allow_private: bool = False,
    ) -> None:
        self._dsn = checked_dsn(dsn)
        self._account = checked_account(account)
        check_limits(max_active, submits_per_second)
        self._most = max_active
        self._rate = submits_per_second
        self._database = Database(self._dsn)
        self._rows = Rows(self._database, self._account)
        self._entries = PostgresJournal(self._dsn, space=self._account)
        self._entries_open = False
        self._entries_lock = anyio.Lock()
        self._queue = QueueTransport(origin_of(self._dsn), self._account)
        super().__init__(
            self._queue,
            poll=poll,
            limits=limits,
            session=session,
            # The database's own address says nothing of the service's.
            allow_private=allow_private,
            journal=self._entries,
        )
        self._submits = Enqueues(self._queue, limits, self._rows)

    def __repr__(self) -> str:
        return f"Cluster({self._queue.origin!r}, account={self._account!r})"

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._database.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Closes the client. What was submitted goes on, on the workers."""
        try:
            await super().close()
        finally:
            with anyio.CancelScope(shield=True):
                async with self._entries_lock:
                    if self._entries_open:
                        self._entries_open = False
                        await self._entries.close()
                await self._database.close()

    def _make_parts(self, engine: HttpEngine) -> Parts:
        calls = RowCalls(self._rows, self._poll.first)
        tracker = Watch(
            calls.changed,
            lambda tracked: calls.poll(tracked.ref),
            pace=engine.pace,
            poll=self._poll,
            retry=self._retry,
            limits=self._limits,
        )
        return Parts(
            transport=self._queue,
            engine=engine,
            calls=calls,
            tracker=tracker,
            poll=self._poll,
            sources=Sources(self._queue, engine, allow_private=self._allow_private),
        )

    # What is done by whoever runs it.

    async def run_worker(
        self,
        transports: Transport | Mapping[str, Transport] | None = None,
        *,
        poll: PollPolicy = PollPolicy(),
        retry: RetryPolicy = RetryPolicy(),
        limits: Limits = Limits(),
    ) -> None:
        """Works, until it is told to end: submits what is queued, and looks after it until it ends.

        Start as many as there are machines, and add and remove them at any time. What a worker that died was looking
        after is taken over by the others within seconds. One process runs one worker: DBOS, which hands the work out,
        exists once in a process.

        SIGTERM and SIGINT end it in order: it takes nothing new, waits for the answers to the submits that are under
        way, and hands over what is open. Cancelling it does the same.

        Args:
            transports: The service with its key; or several, by the names of their accounts, of which this one is then
                not special. None for the one that the environment has the key of.
            poll: When to look at a generation again.
            retry: How often to try an exchange again.
            limits: Connections and time limits.

        Raises:
            ConfigurationError: There is no key; or a worker, or an application of DBOS, runs in this process already.
            JournalError: The database cannot be reached when it begins; or it was cut off from it, and its work was
                taken over meanwhile: start it again.
        """
        if transports is None:
            transports = transport_from(os.environ)
        given = dict(transports) if isinstance(transports, Mapping) else {self._account: transports}
        for name in given:
            checked_account(name)
        if not given:
            msg = "A worker needs the transport of at least one account."
            raise ConfigurationError(msg)
        worker = Worker(self._dsn, given, poll=poll, retry=retry, limits=limits)
        await worker.run(self._account, self._most, self._rate)

    async def set_limits(self, *, max_active: int | None = None, submits_per_second: float | None = None) -> None:
        """Changes the limits of the account, for all workers. None leaves what is there.

        What a worker takes in the next moment, of work that waits already, may still be counted by the old ones.

        Args:
            max_active: How many generations may be open at once.
            submits_per_second: How many may be begun in a second.

        Raises:
            ConfigurationError: A limit is out of range, or no worker has run for this account yet.
            JournalError: The database is away.
        """
        check_limits(max_active, submits_per_second)
        self._opened()
        await self._rows.set_limits(max_active, submits_per_second)

    # What is done by whoever looks after it.

    async def counts(self) -> Stats:
        """How many generations of the account there are in each state, over all machines; `stats()` counts this one's.

        Raises:
            JournalError: The database is away.
        """
        self._opened()
        return await self._rows.counts()

    async def recover(self) -> AsyncGenerator[GenerationTask]:
        """Every generation of the account that has not ended, in the order of their keys.

        A worker looks after each, or will: every half a minute they look for what nobody looks after.

        Raises:
            JournalError: The database is away.
        """
        parts, after = self._opened(), ""
        while page := await self._rows.open(after, PAGE):
            after = page[-1].key
            for found in page:
                try:
                    yield self._enqueues.standing(parts, found)
                except HiggsfieldError as error:
                    logger.info("Not recovered: %s", error, extra=fields(error=error))

    @property
    def _enqueues(self) -> Enqueues:
        assert isinstance(self._submits, Enqueues)  # noqa: S101  # so it was made
        return self._submits

    async def unknown(self) -> list[Entry]:
        """The submits of which nobody can tell whether they were accepted, and paid for; the oldest first.

        Raises:
            JournalError: The database is away.
        """
        journal = await self._opened_entries()
        found: list[Entry] = []
        while page := await journal.entries("unknown", after=found[-1].seq if found else 0, limit=PAGE):
            found += page
        return found

    async def resolve(self, key: str, identifier: str) -> GenerationTask:
        """Attaches the id of a generation, found elsewhere, to a submit whose answer was lost; a worker looks after it.

        Args:
            key: Of the unit of work, from `unknown()`.
            identifier: The service's id of the generation, from the account's history.

        Raises:
            JournalError: There is no such key, or it is not unknown; or the id is that of another key.
        """
        parts, journal = self._opened(), await self._opened_entries()
        if (other := await journal.find_id(identifier)) is not None and other.key != key:
            msg = f"Generation {identifier} is that of {other.key!r} already, and no other one's."
            raise JournalError(msg)
        await journal.resolve(key, identifier, datetime.now(UTC))
        # Held by its finder else.
        await journal.release(key)
        found = await self._rows.again(key)
        if found is None:
            msg = f"{key!r} was not submitted through this cluster: a client with this journal looks after it."
            raise JournalError(msg)
        return self._enqueues.standing(parts, found)

    async def forget(self, key: str) -> Entry:
        """Takes a generation out of the database, so that the same key is submitted anew, and paid for anew.

        Returns:
            What was known of it.

        Raises:
            JournalError: There is no such key, or a worker looks after it.
        """
        self._opened()
        journal = await self._opened_entries()
        entry = await journal.find(key)
        if entry is None:
            msg = f"The journal has nothing under {key!r}."
            raise JournalError(msg)
        await self._rows.forget(key, entry.intent.nonce)
        if entry.ref is not None and entry.state != "ended":
            msg = "Forgotten, and not seen to end: %s"
            logger.warning(msg, entry.ref.to_json(), extra=fields(entry.ref, paid=True))
        return entry

    async def prune(self, before: datetime) -> int:
        """Takes what ended before a moment out of the database, and says how many there were.

        Args:
            before: A moment with its time zone.

        Raises:
            ConfigurationError: It has no time zone.
            JournalError: The database is away.
        """
        if before.tzinfo is None:
            msg = "prune needs a moment with a time zone, such as datetime.now(UTC) - timedelta(days=30)."
            raise ConfigurationError(msg)
        self._opened()
        journal = await self._opened_entries()
        # First what refers to it: its end is told by the other.
        count = await self._rows.prune(before)
        await journal.prune(before)
        return count

    async def _opened_entries(self) -> PostgresJournal:
        self._opened()
        async with self._entries_lock:
            if self._entries_open:
                return self._entries
            await self._entries.open()
            self._entries_open = True
            return self._entries


def checked_account(name: object) -> str:
    """The name of an account.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
        msg = "An account's name is a text of 1 to 100 printable characters."
        raise ConfigurationError(msg)
    return name


def check_limits(max_active: object, submits_per_second: object) -> None:
    """Refuses limits that are none.

    Raises:
        ConfigurationError: One is out of range.
    """
    if max_active is not None and not (isinstance(max_active, int) and max_active >= 1):
        msg = "max_active must be a whole number, 1 or more; None leaves what is there."
        raise ConfigurationError(msg)
    if submits_per_second is not None and not (
        isinstance(submits_per_second, (int, float)) and 0.001 <= submits_per_second <= 10_000
    ):
        msg = "submits_per_second must be a number from 0.001 to 10000; None leaves what is there."
        raise ConfigurationError(msg)
