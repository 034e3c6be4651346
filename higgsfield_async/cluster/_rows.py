"""What stands in the database of each generation of a cluster, and how it gets on."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from higgsfield_async._domain import Job, JobSet, JobStatus
from higgsfield_async._errors import (
    ConfigurationError,
    HiggsfieldError,
    InvalidRequest,
    JournalError,
    NotFound,
    SubmissionUnknown,
)
from higgsfield_async._fanout import Stats
from higgsfield_async._journal import State, read as read_job_set
from higgsfield_async._requests import (
    Ad,
    CharacterTraining,
    DopVideo,
    GenerationRequest,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    Soul,
    Speech,
    SubmitOptions,
    TalkingHead,
    read_request,
)
from higgsfield_async.cluster._database import APPLICATION, VERSION, WORKFLOW, Database
from higgsfield_async.cluster._told import read as read_error, written as written_error

if TYPE_CHECKING:
    import sqlalchemy
    from dbos import EnqueueOptions

_CLASSES: Mapping[str, type[GenerationRequest]] = {
    kind.__name__: kind
    for kind in (
        Ad,
        CharacterTraining,
        DopVideo,
        ImageToVideo,
        Keyframes,
        ModelRequest,
        Soul,
        Speech,
        TalkingHead,
    )
}
logger = logging.getLogger("higgsfield_async.cluster")

# Limits of a rate are counted over so many seconds, or over the time of one.
BURST = 0.2
# How often a worker looks for more work, in seconds.
POLLED = 0.2
# How the error begins of what was lost.
_LOST = '{"kind":"SubmissionUnknown"'


class Work(Struct, frozen=True, kw_only=True):
    """What is put into the queue.

    Attributes:
        key: Names the unit of work.
        kind: What is asked for, as it stands in a `TaskRef`.
        digest: Of the request: the same key with another one is refused.
        request: What to make; no local files stand in it.
        options: What goes beside it.
    """

    key: str
    kind: str
    digest: str
    request: GenerationRequest
    options: SubmitOptions


class Standing(Struct, frozen=True, kw_only=True):
    """How a generation stands.

    Attributes:
        key: Names it.
        kind: What was asked for.
        created_at: When it was put into the queue (UTC).
        attempt: How often it was put there: again after a refusal.
        state: How far the journal has it; None where nothing was sent yet.
        job_set: What was last seen of it, with the key for its id.
        error: Why there is nothing more to be seen of it.
        canceled: Whether it was canceled before anything was sent.
        cancel_asked: Whether a worker is asked to cancel it.
        cancel_error: Why the last one that was asked did not.
        mark: Changes with each change of all this.
    """

    key: str
    kind: str
    created_at: datetime
    attempt: int
    state: State | None
    job_set: JobSet
    error: HiggsfieldError | None
    canceled: bool
    cancel_asked: bool
    cancel_error: HiggsfieldError | None
    mark: str

    def seen(self) -> JobSet | HiggsfieldError:
        """What a look finds: a state, or why there is none to be had."""
        if self.error is not None and (self.state != "ended" or isinstance(self.error, JournalError)):
            return self.error
        return self.job_set


# One row of these is a `Standing`: a mark is of the transactions that wrote either row last.
_COLUMNS = """
    select q.kind, q.created_at, q.attempt, q.error, q.canceled_at is not null, q.cancel_asked_at is not null,
        q.cancel_error, j.state, j.job_set, q.xmin::text || coalesce(':' || j.tx::text, ''), q.key
"""
_STANDING = f"""
    {_COLUMNS} from higgsfield.queue q left join higgsfield.journal j on j.space = q.space and j.key = q.key
"""
_CHANGED = f"""
    {_COLUMNS}, w.key from unnest(%s::text[], %s::text[]) as w (key, mark)
    left join higgsfield.queue q on q.space = %s and q.key = w.key
    left join higgsfield.journal j on j.space = q.space and j.key = q.key
    where q.key is null or q.xmin::text || coalesce(':' || j.tx::text, '') <> w.mark
"""


def queue_of(space: str) -> str:
    """The name of an account's queue."""
    return f"higgsfield:{space}"


def workflow_of(space: str, key: str, attempt: int) -> str:
    """The id of what is run for an attempt: the same for the same, wherever it is asked for."""
    digest = hashlib.sha256(msgspec.json.encode((space, key))).hexdigest()
    return f"higgsfield-{digest[:40]}-{attempt}"


def in_bursts(rate: float) -> tuple[int, float]:
    """A rate as so many in so many seconds: few in a short time, since a whole burst may come at either end of it."""
    limit = max(1, math.floor(rate * BURST))
    return limit, limit / rate


class Rows:
    """The rows of one account.

    Args:
        database: Where they are.
        space: The account's name.
    """

    def __init__(self, database: Database, space: str) -> None:
        self._database = database
        self._space = space

    async def put(self, work: Work, seconds: float) -> Standing:
        """Puts work into the queue, unless it is there; what was refused or canceled is put there anew.

        Row and queue are written in one transaction, and its key makes it safe to do so again.

        Args:
            work: What is wanted.
            seconds: How long the database may be away.

        Raises:
            InvalidRequest: The key stands for another request.
            JournalError: The database is away.
        """

        def put(connection: sqlalchemy.Connection) -> Standing:
            inserted = connection.exec_driver_sql(
                """
                insert into higgsfield.queue (space, key, digest, kind, class, request, options)
                values (%s, %s, %s, %s, %s, %s, %s) on conflict (space, key) do nothing returning attempt
                """,
                (
                    self._space,
                    work.key,
                    work.digest,
                    work.kind,
                    type(work.request).__name__,
                    msgspec.json.encode(work.request).decode(),
                    msgspec.json.encode(work.options).decode(),
                ),
            ).all()
            if inserted:
                self._enqueue(connection, work.key, 1)
                return self._standing(connection, work.key)
            digest, failed = connection.exec_driver_sql(
                "select digest, error is not null from higgsfield.queue where space = %s and key = %s for update",
                (self._space, work.key),
            ).one()
            if digest != work.digest:
                msg = f"The key {work.key!r} stands for another request: give this one a key of its own."
                raise InvalidRequest(msg)
            found = self._standing(connection, work.key)
            # Of what was submitted and told of as failed, or as lost, no worker takes care any more.
            if (found.state is None and found.canceled) or (found.state in (None, "submitted") and failed):
                return self._again(connection, found)
            return found

        return await self._database.patiently(put, seconds)

    async def again(self, key: str) -> Standing | None:
        """Has a worker look after a generation that may have none; None where there is no such key."""

        def again(connection: sqlalchemy.Connection) -> Standing | None:
            locked = connection.exec_driver_sql(
                "select from higgsfield.queue where space = %s and key = %s for update", (self._space, key)
            ).all()
            return self._again(connection, self._standing(connection, key)) if locked else None

        return await self._database.patiently(again, 10)

    def _again(self, connection: sqlalchemy.Connection, found: Standing) -> Standing:
        connection.exec_driver_sql(
            """
            update higgsfield.queue set attempt = attempt + 1, error = null, canceled_at = null, taken_by = null,
                cancel_asked_at = null, cancel_error = null
            where space = %s and key = %s
            """,
            (self._space, found.key),
        )
        self._enqueue(connection, found.key, found.attempt + 1)
        return self._standing(connection, found.key)

    def _enqueue(self, connection: sqlalchemy.Connection, key: str, attempt: int) -> None:
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue_of(self._space),
            "workflow_id": workflow_of(self._space, key, attempt),
            "app_version": VERSION,
            "application_name": APPLICATION,
        }
        self._database.client.enqueue_in_transaction(connection, options, self._space, key, attempt)

    def _standing(self, connection: sqlalchemy.Connection, key: str) -> Standing:
        found = connection.exec_driver_sql(f"{_STANDING} where q.space = %s and q.key = %s", (self._space, key)).one()
        return _standing(found)

    async def find(self, key: str) -> Standing:
        """How a generation stands.

        Raises:
            NotFound: There is none.
            JournalError: The database is away.
        """
        found = (await self.changed({key: ""}))[key]
        if found is None:
            raise no_such(key)
        return found

    async def changed(self, marks: Mapping[str, str]) -> Mapping[str, Standing | None]:
        """How generations stand that changed since they were read, or None of one that is gone: one query for all."""

        def read(connection: sqlalchemy.Connection) -> Sequence[Any]:
            given = ([*marks], [*marks.values()], self._space)
            return connection.exec_driver_sql(_CHANGED, given).all()

        return {key: None if row[-1] is None else _standing(row) for *row, key in await self._database.run(read)}

    async def register(self, max_active: int | None, submits_per_second: float | None) -> None:
        """Makes the queue where there is none, and writes the limits that are given.

        Raises:
            JournalError: The database is away.
        """
        burst = None if submits_per_second is None else in_bursts(submits_per_second)

        def register() -> None:
            self._database.client.register_queue(
                queue_of(self._space),
                global_concurrency=max_active,
                limiter=None if burst is None else {"limit": burst[0], "period": burst[1]},
                polling_interval_sec=POLLED,
                on_conflict="never_update",
                application_name=APPLICATION,
            )

        await self._database.call(register)
        await self.set_limits(max_active, submits_per_second)

    async def set_limits(self, max_active: int | None, submits_per_second: float | None) -> None:
        """Changes the limits of the queue; None leaves what is there.

        Raises:
            ConfigurationError: There is no queue yet.
            JournalError: The database is away.
        """
        name = queue_of(self._space)

        def change() -> None:
            queue = self._database.client.retrieve_queue(name)
            if queue is None:
                msg = f"No worker has run for the account {self._space!r} yet: its queue is not there."
                raise ConfigurationError(msg)
            if max_active is not None:
                queue.set_global_concurrency(max_active)
            if submits_per_second is not None:
                limit, period = in_bursts(submits_per_second)
                queue.set_limiter({"limit": limit, "period": period})

        await self._database.call(change)

    # For workers.

    async def mend(self, after: str) -> str:
        """Puts back into the queue what nobody looks after, of those whose keys come next, and says where to go on."""

        def read(connection: sqlalchemy.Connection) -> Sequence[Any]:
            return connection.exec_driver_sql(
                """
                select q.key, q.attempt from higgsfield.queue q
                left join higgsfield.journal j on j.space = q.space and j.key = q.key
                where q.space = %s and q.key > %s and q.canceled_at is null and j.holder is null
                    and coalesce(j.state, '') <> 'ended' and q.created_at < now() - interval '30 s'
                    -- What a worker took and is in no journal was forgotten: nobody wants to pay for it again.
                    and (j.key is not null or q.taken_by is null)
                    -- What was told of as lost has its id after all where that came late.
                    and (q.error is null or j.state = 'submitted' and starts_with(q.error, %s))
                order by q.key limit 500
                """,
                (self._space, after, _LOST),
            ).all()

        found: dict[str, str] = {
            workflow_of(self._space, key, attempt): key for key, attempt in await self._database.run(read)
        }
        if not found:
            return ""

        def active() -> set[str]:
            workflows = self._database.client.list_workflows(
                workflow_ids=[*found],
                status=["ENQUEUED", "PENDING", "DELAYED"],
                load_input=False,
                load_output=False,
            )
            return {each.workflow_id for each in workflows}

        for identifier in found.keys() - await self._database.call(active):
            logger.warning("Nobody looks after generation %s: it is put back into the queue.", found[identifier])
            await self.again(found[identifier])
        return list(found.values())[-1]

    async def take(self, key: str, attempt: int, executor: str) -> tuple[GenerationRequest, SubmitOptions] | None:
        """Takes an attempt up; None where it was canceled, or is not the last one."""

        def take(connection: sqlalchemy.Connection) -> Any:
            return connection.exec_driver_sql(
                """
                update higgsfield.queue set taken_by = %s
                where space = %s and key = %s and attempt = %s and canceled_at is null
                returning class, request, options
                """,
                (executor, self._space, key, attempt),
            ).one_or_none()

        row = await self._database.patiently(take)
        if row is None:
            return None
        kind, request, options = row
        return (
            read_request(_CLASSES[kind], msgspec.json.decode(request)),
            msgspec.json.decode(options, type=SubmitOptions),
        )

    async def tell(self, key: str, attempt: int, error: HiggsfieldError) -> None:
        """Writes down why there is nothing more to be seen of an attempt."""

        def tell(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql(
                "update higgsfield.queue set error = %s where space = %s and key = %s and attempt = %s",
                (written_error(error), self._space, key, attempt),
            )

        await self._database.patiently(tell)

    async def cancels(self, executor: str) -> list[str]:
        """The keys whose cancel a worker is asked for."""

        def read(connection: sqlalchemy.Connection) -> list[str]:
            return [
                key
                for (key,) in connection.exec_driver_sql(
                    """
                    select key from higgsfield.queue
                    where space = %s and taken_by = %s and cancel_asked_at is not null
                    """,
                    (self._space, executor),
                )
            ]

        return await self._database.run(read)

    async def canceled(self, key: str, error: HiggsfieldError | None) -> None:
        """Answers who asked for a cancel."""

        def answer(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql(
                "update higgsfield.queue set cancel_asked_at = null, cancel_error = %s where space = %s and key = %s",
                (None if error is None else written_error(error), self._space, key),
            )

        await self._database.patiently(answer)

    # For cancels.

    async def cancel(self, key: str) -> Literal["canceled", "asked", "ended"]:
        """Cancels what no worker has taken; else asks the worker that looks after it.

        Raises:
            NotFound: There is none.
            HiggsfieldError: It was refused, or lost: what it was told to end with.
            JournalError: The database is away.
        """

        def cancel(connection: sqlalchemy.Connection) -> tuple[Any, Literal["canceled", "asked", "ended"]]:
            row = connection.exec_driver_sql(
                "select attempt, taken_by is null from higgsfield.queue where space = %s and key = %s for update",
                (self._space, key),
            ).one_or_none()
            if row is None:
                raise no_such(key)
            found = self._standing(connection, key)
            if found.state == "ended" or found.canceled:
                return row, "ended"
            if found.error is not None and found.state != "submitted":
                raise found.error  # no worker is at it
            if row[1] and found.state is None:
                connection.exec_driver_sql(
                    "update higgsfield.queue set canceled_at = now() where space = %s and key = %s", (self._space, key)
                )
                return row, "canceled"
            connection.exec_driver_sql(
                """
                update higgsfield.queue set cancel_asked_at = now(), cancel_error = null where space = %s and key = %s
                """,
                (self._space, key),
            )
            return row, "asked"

        (attempt, _), done = await self._database.patiently(cancel, 10)
        if done == "canceled":
            # It would be taken and left alone; so it takes no turn of another's.
            identifiers = [workflow_of(self._space, key, attempt)]
            await self._database.call(lambda: self._database.client.cancel_workflows(identifiers))
        return done

    # For those who look after all of it.

    async def forget(self, key: str, nonce: str) -> None:
        """Takes a generation out, from the journal as well: half of it would be taken up, and paid for, again.

        Raises:
            JournalError: A worker looks after it; or the database is away.
        """
        tried = False

        def forget(connection: sqlalchemy.Connection) -> Any:
            nonlocal tried
            again, tried = tried, True
            gone = connection.exec_driver_sql(
                """
                delete from higgsfield.journal
                where space = %s and key = %s and nonce = %s and holder is null and state <> 'intent'
                """,
                (self._space, key, nonce),
            )
            there = "select from higgsfield.journal where space = %s and key = %s and nonce = %s"
            if not gone.rowcount and (not again or connection.exec_driver_sql(there, (self._space, key, nonce)).all()):
                msg = f"{key!r} is under way, or looked after, by a worker that is alive: it cannot be forgotten."
                raise JournalError(msg)
            return connection.exec_driver_sql(
                "delete from higgsfield.queue where space = %s and key = %s returning attempt", (self._space, key)
            ).one_or_none()

        row = await self._database.patiently(forget, 10)
        if row is not None:
            await self._delete([workflow_of(self._space, key, attempt) for attempt in range(1, row[0] + 1)])

    async def prune(self, before: datetime) -> int:
        """Takes out what was over before then, a thousand at a time, and says how many there were."""
        count = 0
        while True:

            def prune(connection: sqlalchemy.Connection) -> Sequence[Any]:
                return connection.exec_driver_sql(
                    """
                    delete from higgsfield.queue q where q.space = %s and q.ctid = any (array(
                        select q.ctid from higgsfield.queue q
                        left join higgsfield.journal j on j.space = q.space and j.key = q.key
                        where q.space = %s and (
                            j.ended_at < %s
                            or j.key is null and q.created_at < %s
                                and (q.error is not null or q.canceled_at is not null)
                        ) limit 1000
                    )) returning q.key, q.attempt
                    """,
                    (self._space, self._space, before, before),
                ).all()

            rows = await self._database.patiently(prune, 10)
            await self._delete(
                [workflow_of(self._space, key, attempt) for key, last in rows for attempt in range(1, last + 1)]
            )
            count += len(rows)
            if len(rows) < 1000:
                return count

    async def _delete(self, identifiers: list[str]) -> None:
        if identifiers:
            await self._database.call(lambda: self._database.client.delete_workflows(identifiers))

    async def open(self, after: str, limit: int) -> list[Standing]:
        """What has not ended, in the order of the keys."""

        def read(connection: sqlalchemy.Connection) -> Sequence[Any]:
            return connection.exec_driver_sql(
                f"""
                {_STANDING} where q.space = %s and q.key > %s and q.canceled_at is null
                    and coalesce(j.state, '') <> 'ended' and (q.error is null or j.state is not null)
                order by q.key limit %s
                """,
                (self._space, after, limit),
            ).all()

        return [_standing(row) for row in await self._database.run(read)]

    async def counts(self) -> Stats:
        """How many there are of each, in the whole cluster."""

        def read(connection: sqlalchemy.Connection) -> Any:
            return connection.exec_driver_sql(
                """
                select
                    count(*) filter (where over is null and state is null),
                    count(*) filter (where over is null and state is not null and not begun),
                    count(*) filter (where over is null and begun),
                    count(*) filter (where over),
                    count(*) filter (where not over)
                from (
                    select
                        j.state,
                        j.state = 'submitted' and coalesce(words @> '["in_progress"]', false) as begun,
                        case
                            when j.state = 'ended' then coalesce(words @> '["completed"]', false)
                            when q.canceled_at is not null then false
                            when q.error is not null and coalesce(j.state, '') <> 'submitted' then false
                        end as over
                    from higgsfield.queue q
                    left join higgsfield.journal j on j.space = q.space and j.key = q.key
                    cross join lateral (
                        select jsonb_path_query_array(convert_from(j.job_set, 'UTF8')::jsonb, '$.jobs[*].status')
                        as words
                    ) as w
                    where q.space = %s
                ) as found
                """,
                (self._space,),
            ).one()

        waiting, queued, running, done, failed = await self._database.run(read)
        return Stats(waiting=waiting, queued=queued, running=running, done=done, failed=failed)


def _standing(row: Any) -> Standing:
    kind, created_at, attempt, error, canceled, asked, refused, state, seen, mark, key = row
    job_set, told, cancel_error = JobSet(id=key), None, None
    try:
        if seen is not None:
            job_set = msgspec.structs.replace(read_job_set(bytes(seen)), id=key)
        elif canceled:
            job = Job(id=key, status=JobStatus.CANCELED, raw_status="canceled", charged="no")
            job_set = JobSet(id=key, jobs=(job,), fileless=True)
        told = None if error is None else read_error(error)
        cancel_error = None if refused is None else read_error(refused)
    except msgspec.MsgspecError:
        # Those who wait for others of the same process are not to hear of it.
        msg = f"The database has something of generation {key!r} that this release of higgsfield-async cannot read."
        told = JournalError(msg, charged="unknown")
    if isinstance(told, SubmissionUnknown) and state in ("submitted", "ended"):
        told = None  # its id came to light after all
    return Standing(
        key=key,
        kind=kind,
        created_at=created_at,
        attempt=attempt,
        state=state,
        job_set=job_set,
        error=told,
        canceled=canceled,
        cancel_asked=asked,
        cancel_error=cancel_error,
        mark=mark,
    )


def no_such(key: str) -> NotFound:
    """Why nothing is known of a generation that never was."""
    msg = f"The cluster has no generation {key!r}: it was forgotten or pruned, or is another account's."
    return NotFound(msg, status=404, charged="unknown")
