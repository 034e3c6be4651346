"""One worker of a cluster: DBOS hands the work out, a `Higgsfield` with a journal does it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.to_thread
import psycopg
from psycopg.conninfo import make_conninfo

from higgsfield_async._client import Higgsfield
from higgsfield_async._errors import (
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    HiggsfieldError,
    InsufficientCredits,
    JournalError,
    PermissionDenied,
    RateLimited,
    SubmissionUnknown,
)
from higgsfield_async._limits import Limits
from higgsfield_async._polling import PollPolicy
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._task import GenerationTask
from higgsfield_async._telemetry import fields
from higgsfield_async._transports import Transport
from higgsfield_async.cluster._database import (
    APPLICATION,
    ENGINE_SCHEMA,
    KEEPALIVE,
    LOCKS,
    VERSION,
    WORKFLOW,
    Database,
    imported,
    silence,
    trouble,
)
from higgsfield_async.cluster._journal import NOTICED, PostgresJournal
from higgsfield_async.cluster._rows import Rows, queue_of

if TYPE_CHECKING:
    import sqlalchemy

logger = logging.getLogger("higgsfield_async.cluster")

# How often a worker looks whether it, and the others, are alive, in seconds. One that seems dead for longer than the
# grace is: every worker is away for a moment when the database was.
BEAT = 0.5
GRACE = 1.5
# How long the database may be silent before the connection counts as lost: less than the server waits for a machine.
SILENCE = 5.0
# How often it is looked for what nobody looks after, for whatever reason.
ROUND = 30.0
# How often an account that is refused is tried again, for what was submitted already.
LOCKED_OUT = 30.0
# How long the journal waits for a database that is away, in seconds; then whoever writes to it decides.
PATIENCE = 30.0
# How often a submit whose answer was lost is repeated with its idempotency key, where the service honours one.
REPEATS = 5


class Worker:
    """One worker.

    Args:
        dsn: The address of the database.
        transports: The services with their keys, by the names of the accounts.
        poll: When to look at a generation again.
        retry: How often to try an exchange again.
        limits: Connections and time limits.
    """

    # DBOS is one for a process, and finds what it runs by its name.
    running: ClassVar[Worker | None] = None
    registered: ClassVar[bool] = False

    def __init__(
        self,
        dsn: str,
        transports: Mapping[str, Transport],
        *,
        poll: PollPolicy,
        retry: RetryPolicy,
        limits: Limits,
    ) -> None:
        self._dsn = dsn
        # Two may be taken at a time by what takes over, and by a round; connections are what a Postgres has least of.
        self._database = Database(dsn, connections=3)
        self._rows = {name: Rows(self._database, name) for name in transports}
        self._journals = {
            name: PostgresJournal(dsn, space=name, connections=3, patience=PATIENCE) for name in transports
        }
        self._clients = {
            name: Higgsfield(transport, poll=poll, retry=retry, limits=limits, journal=self._journals[name])
            for name, transport in transports.items()
        }
        # Half of a lock's number, so that it tells the lock.
        self._number = secrets.randbelow(2**31 - 1) + 1
        self.executor = f"{APPLICATION}-{self._number}"
        self._tasks: dict[tuple[str, str], GenerationTask] = {}
        self._canceling: dict[asyncio.Task[None], GenerationTask] = {}
        self._ending = asyncio.Event()
        self._lock: psycopg.AsyncConnection[Any] | None = None
        self._suspects: dict[int, float] = {}
        self._launched = False
        self._failed: HiggsfieldError | None = None

    async def run(self, account: str, max_active: int | None, submits_per_second: float | None) -> None:
        """Works until it is told to end.

        Args:
            account: Whose limits are given.
            max_active: How many of its generations may be open at once; None for what is there.
            submits_per_second: How many of them may be begun in a second; the same way.

        Raises:
            ConfigurationError: There is a worker, or an application of DBOS, in this process.
            JournalError: The database cannot be reached, or this one's work was taken over.
        """
        if Worker.running is not None:
            msg = "A worker runs in this process already: DBOS exists once in a process. Start another process."
            raise ConfigurationError(msg)
        Worker.running = self
        self.loop = asyncio.get_running_loop()
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(self._database.close)
                await self._database.open()
                for name, rows in self._rows.items():
                    given = (max_active, submits_per_second) if name == account else (None, None)
                    await rows.register(*given)
                await stack.enter_async_context(self._present())
                for client in self._clients.values():
                    await stack.enter_async_context(client)
                await self._work()
        finally:
            Worker.running = None

    async def _work(self) -> None:
        try:
            await self._database.call(self._launch)
            logger.info("Worker %s works for %s.", self.executor, ", ".join(self._rows))
            with self._signals():
                await self._until_the_end()
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave()

    async def _leave(self) -> None:
        """Takes nothing new, waits for the answers to what was sent, and hands over what is open."""
        if self._launched:
            await anyio.to_thread.run_sync(_destroy)
        for client in self._clients.values():
            await client.close()
        await asyncio.gather(*self._canceling, return_exceptions=True)
        with contextlib.suppress(JournalError):  # it is taken over then, as if this one had died
            # What the others took over is theirs by now, and no more in this one's name.
            await self._database.call(lambda: self._hand_over([self.executor]))
            await self._database.run(lambda c: _end(c, self._number))

    # The engine.

    def _launch(self) -> None:
        dbos = imported("dbos")
        silence()
        dbos.DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": self._dsn,
                "dbos_system_schema": ENGINE_SCHEMA,
                "application_version": VERSION,
                "executor_id": self.executor,
                "serializer": dbos.DBOSPortableJSONSerializer(),
                "log_level": "ERROR",
                "enable_otlp": False,
                "sys_db_pool_size": 3,
                "scheduler_polling_interval_sec": 3600.0,
                "db_engine_kwargs": {"connect_args": {**KEEPALIVE}},
            }
        )
        if dbos.DBOS.executor_id != self.executor:
            msg = "This process runs an application of DBOS already, which exists once in a process: start another one."
            raise ConfigurationError(msg)
        self._launched = True
        if not Worker.registered:
            Worker.registered = True
            dbos.DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(generation)
        dbos.DBOS.listen_queues([queue_of(name) for name in self._rows])
        dbos.DBOS.launch()

    def _hand_over(self, executors: Sequence[str]) -> int:
        """Puts back into the queue what these had, and says how much that was."""
        client = self._database.client
        found = client.list_workflows(
            status="PENDING", executor_id=[*executors], name=WORKFLOW, load_input=False, load_output=False
        )
        for queue in {each.queue_name for each in found if each.queue_name is not None}:
            client.resume_workflows([each.workflow_id for each in found if each.queue_name == queue], queue_name=queue)
        return len(found)

    # Who is alive.

    @contextlib.asynccontextmanager
    async def _present(self) -> AsyncGenerator[None]:
        """Is alive for the others: as long as a lock is held by a connection of its own."""
        await self._database.run(lambda c: _begin(c, self._number, self.executor))
        await self._connect()
        try:
            yield
        finally:
            await _closed(self._lock)

    async def _connect(self) -> None:
        lock: psycopg.AsyncConnection[Any] | None = None
        try:
            async with asyncio.timeout(2 * SILENCE):
                address = make_conninfo(self._dsn, application_name=self.executor, **KEEPALIVE)
                lock = await psycopg.AsyncConnection.connect(address, autocommit=True)
                await lock.execute(NOTICED)
                # Whoever takes this one for dead holds it for a moment.
                await lock.execute("select pg_advisory_lock(%s, %s)", (LOCKS, self._number))
                found = await lock.execute("select ended_at from higgsfield.workers where number = %s", (self._number,))
                row = await found.fetchone()
        except (TimeoutError, psycopg.Error) as error:
            await _closed(lock)
            raise _told(error) from error
        if row is None or row[0] is not None:
            await _closed(lock)
            msg = (
                f"The worker {self.executor} was cut off from the database, and others took over its work. Nothing is "
                "lost or paid twice: start it again."
            )
            raise JournalError(msg, charged="unknown")
        self._lock = lock

    async def _until_the_end(self) -> None:
        ending = asyncio.create_task(self._ending.wait(), name="higgsfield_async.worker")
        beating = asyncio.create_task(self._beat(), name="higgsfield_async.worker")
        rounds = asyncio.create_task(self._rounds(), name="higgsfield_async.worker")
        mine = {ending, beating, rounds}
        try:
            done, _ = await asyncio.wait(mine, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            if self._failed is not None:
                raise self._failed
        finally:
            for each in mine:
                each.cancel()
            await asyncio.wait(mine)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                suspects = await self._look_around()
            except JournalError as error:
                await self._regain(error)
                continue
            now = time.monotonic()
            self._suspects = {number: self._suspects.get(number, now) for number in suspects}
            for number, since in list(self._suspects.items()):
                if now - since >= GRACE:
                    await self._take_over(number, suspects[number])
            await self._cancel_what_is_asked()

    async def _look_around(self) -> dict[int, str]:
        """Shows that this one is alive, and gives those that seem not to be."""
        assert self._lock is not None  # noqa: S101  # it is held
        try:
            async with asyncio.timeout(SILENCE):
                found = await self._lock.execute(_DEAD, (self._number, LOCKS))
                return dict(await found.fetchall())
        except (TimeoutError, psycopg.Error) as error:
            raise _told(error) from error

    async def _regain(self, error: JournalError) -> None:
        """Is alive again, as soon as the database is, unless the others took its work over meanwhile."""
        logger.warning(
            "The worker %s is cut off from the database, and goes on as soon as it can: %s", self.executor, error
        )
        self._suspects.clear()
        pause = 0.1
        while True:
            await _closed(self._lock)
            try:
                await self._connect()
            except JournalError as again:
                if not again.transient:
                    raise
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
            else:
                logger.warning("The worker %s has the database back.", self.executor)
                return

    async def _take_over(self, number: int, executor: str) -> None:
        def take_over(connection: sqlalchemy.Connection) -> None:
            # Held to the end of this transaction: one of the others at a time, and never while that worker lives.
            query = """
                select number from higgsfield.workers
                where number = %s and ended_at is null and pg_try_advisory_xact_lock(%s, number)
            """
            for _ in connection.exec_driver_sql(query, (number, LOCKS)).all():
                _end(connection, number)
                count = self._hand_over([executor])
                logger.warning("The worker %s is dead: %d of its generations were taken over.", executor, count)

        with contextlib.suppress(JournalError):  # the next beat tells what it is
            await self._database.run(take_over)
            del self._suspects[number]

    async def _rounds(self) -> None:
        """Looks for what nobody looks after, for whatever reason: a few hundred of each account at a time."""
        seen = dict.fromkeys(self._rows, "")
        while True:
            await asyncio.sleep(ROUND)
            try:
                await self._database.run(self._left_behind)
                for name, rows in self._rows.items():
                    seen[name] = await rows.mend(seen[name])
            except JournalError as error:
                logger.info("A round was left out: %s", error, extra=fields(error=error))

    def _left_behind(self, connection: sqlalchemy.Connection) -> int:
        """Takes over what came to a worker after it was taken for dead, before it knew."""
        pending = self._database.client.list_workflows(
            status="PENDING", name=WORKFLOW, load_input=False, load_output=False
        )
        known = connection.exec_driver_sql("select executor from higgsfield.workers where ended_at is null")
        gone = {each.executor_id for each in pending if each.executor_id is not None} - {row[0] for row in known}
        connection.exec_driver_sql("delete from higgsfield.workers where ended_at < now() - interval '1 day'")
        return self._hand_over(sorted(gone)) if gone else 0

    # The work.

    async def generation(self, space: str, key: str, attempt: int) -> str:
        """Makes one generation, from the row of its request to its end, and says how that was."""
        rows = self._rows[space]
        try:
            task = await self._submitted(space, key, attempt)
            if task is None:
                return "not wanted"
            self._tasks[space, key] = task
            try:
                await self._ended(space, key, attempt, task)
            finally:
                # There may be another attempt at it by now.
                self._tasks.pop((space, key), None)
        except ClientClosed as error:
            # This worker ends: what is handed over is not over. Where it was not told to, it cannot go on.
            self._failed = self._failed or error
            self._ending.set()
            await asyncio.Event().wait()
        except HiggsfieldError as error:
            logger.info("Generation %s: %s", key, error, extra=fields(error=error))
            await rows.tell(key, attempt, error)
            return type(error).__name__
        except Exception as error:
            logger.exception("A worker met with something unforeseen in generation %s", key)
            msg = f"A worker met with something unforeseen ({type(error).__name__}): its log tells more."
            await rows.tell(key, attempt, ConnectionFailed(msg, charged="unknown"))
            return "unforeseen"
        return "ended"

    async def _submitted(self, space: str, key: str, attempt: int) -> GenerationTask | None:
        repeats, pause = 0, 1.0
        # Each time: what was forgotten meanwhile would be another one, and paid for.
        while (taken := await self._rows[space].take(key, attempt, self.executor)) is not None:
            request, options = taken
            try:
                return await self._clients[space].submit(
                    request,
                    key=key,
                    webhook=options.webhook,
                    expires_after=options.expires_after,
                    idempotency_key=options.idempotency_key,
                    resumes=options.resumes,
                )
            except (JournalError, RateLimited) as error:
                # The database is away, or the account is busy: it stays in the queue, with its place.
                logger.info("Generation %s waits: %s", key, error, extra=fields(error=error))
                pause = error.retry_after or pause
            except SubmissionUnknown as error:
                repeats += 1
                if error.key is None or repeats > REPEATS:
                    raise
            await asyncio.sleep(pause)
            pause = min(30.0, pause * 2)
        return None

    async def _ended(self, space: str, key: str, attempt: int, task: GenerationTask) -> None:
        rows, journal = self._rows[space], self._journals[space]
        while True:
            try:
                job_set = await task.wait(float("inf"), check=False)
                break
            except (AuthenticationFailed, PermissionDenied, InsufficientCredits) as error:
                # It goes on at the service, and may be paid for: somebody will mend the account.
                msg = "Generation %s cannot be looked at, and will be again: %s"
                logger.warning(msg, key, error, extra=fields(task.ref, error))
                await rows.tell(key, attempt, error)
            await asyncio.sleep(LOCKED_OUT)
        while True:
            # Once more, and until it is done: the database may have been away when the end was seen, and nobody else
            # tells it to those who wait.
            try:
                return await journal.finish(key, job_set)
            except JournalError as error:
                msg = "The end of generation %s is not written down yet: %s"
                logger.info(msg, key, error, extra=fields(task.ref, error))
            await asyncio.sleep(0.2)

    async def _cancel_what_is_asked(self) -> None:
        for space, rows in self._rows.items():
            with contextlib.suppress(JournalError):  # the next beat tells what it is
                for key in await rows.cancels(self.executor):
                    task = self._tasks.get((space, key))
                    if task is not None and task not in self._canceling.values():
                        canceling = asyncio.create_task(_canceled(rows, key, task), name="higgsfield_async.cancel")
                        self._canceling[canceling] = task
                        canceling.add_done_callback(self._canceling.pop)

    # How it ends.

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Ends in order when the process is asked to, where that can be heard: in the main thread."""
        heard: list[signal.Signals] = []
        for each in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                self.loop.add_signal_handler(each, self._ending.set)
                heard.append(each)
        try:
            yield
        finally:
            for each in heard:
                self.loop.remove_signal_handler(each)


async def generation(space: str, key: str, attempt: int) -> str:
    """What DBOS runs, in a loop of its own: hands it on to the worker's."""
    worker = Worker.running
    assert worker is not None  # noqa: S101  # it is launched by one, and destroyed before it ends
    return await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(worker.generation(space, key, attempt), worker.loop)
    )


async def _canceled(rows: Rows, key: str, task: GenerationTask) -> None:
    failed: HiggsfieldError | None = None
    try:
        await task.cancel()
    except HiggsfieldError as error:
        failed = error
    with contextlib.suppress(JournalError):
        await rows.canceled(key, failed)


# One that did not end in order, and whose lock nobody holds.
_DEAD = """
    select w.number, w.executor from higgsfield.workers w
    where w.ended_at is null and w.number <> %s and not exists (
        select from pg_locks l
        where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.classid = %s::bigint::oid
            and l.objid = w.number::bigint::oid
            and l.database = (select d.oid from pg_database d where d.datname = current_database())
    )
"""


def _begin(connection: sqlalchemy.Connection, number: int, executor: str) -> None:
    connection.exec_driver_sql("insert into higgsfield.workers (number, executor) values (%s, %s)", (number, executor))


def _end(connection: sqlalchemy.Connection, number: int) -> None:
    connection.exec_driver_sql(
        "update higgsfield.workers set ended_at = coalesce(ended_at, now()) where number = %s", (number,)
    )


async def _closed(connection: psycopg.AsyncConnection[Any] | None) -> None:
    if connection is not None:
        await connection.close()


def _told(error: BaseException) -> JournalError:
    failed = trouble(error)
    return JournalError("The database of the cluster is silent.", transient=True) if failed is None else failed


def _destroy() -> None:
    theirs = logging.getLogger("dbos")
    before = theirs.level
    # What it says of each workflow that it stops is no news.
    theirs.setLevel(logging.CRITICAL)
    try:
        imported("dbos").DBOS.destroy()
    finally:
        theirs.setLevel(before)
