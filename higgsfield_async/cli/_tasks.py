"""The journal: what was paid for, what has not ended, and what nobody can tell of."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from cyclopts import Group, Parameter
from cyclopts.validators import Number, mutually_exclusive
from msgspec import Struct

from higgsfield_async._domain import JobSet, JobStatus, TaskRef
from higgsfield_async._errors import HiggsfieldError
from higgsfield_async._journal import Entry, Journal, State
from higgsfield_async._sqlite import SQLiteJournal
from higgsfield_async._task import GenerationTask, failure
from higgsfield_async.cli._exits import Exit, exit_of, gravest, hint_of
from higgsfield_async.cli._options import Options, client, database_url, journal_path
from higgsfield_async.cli._output import Output, plain

# So many entries are read at once.
PAGE = 500

_OPEN: tuple[State, ...] = ("intent", "submitted")
_BEGUN: tuple[State, ...] = ("intent", "unknown", "submitted")

_which = Group("Which", validator=mutually_exclusive)
_Which = Annotated[bool, Parameter(group=_which, show_default=False)]


class Work(Struct, frozen=True, kw_only=True):
    """One unit of work as it is printed.

    Attributes:
        state: `waiting` (in the queue of a cluster), `intent`, `unknown`, `submitted` or `ended`.
        key: Names it in the journal.
        ref: What `higgsfield-async wait` takes; None where no id is known.
        id: The service's id, where it is known.
        kind: What is made.
        begun: When it was written down.
        status: What was last seen of it.
        charged: What became of its money, as far as that was seen.
        reason: Why it failed, where the service says so.
        files: Where its files were saved.
    """

    state: State | Literal["waiting"]
    key: str
    ref: str | None
    id: str | None
    kind: str
    begun: datetime
    status: str | None = None
    charged: str = "unknown"
    reason: str | None = None
    files: tuple[Path, ...] = ()


async def tasks(
    *,
    open: _Which = False,  # noqa: A002  # the option's name
    unknown: _Which = False,
    ended: _Which = False,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 100,
    options: Options = Options(),
) -> None:
    """List what the journal has of generations, the newest first. It asks no service, and needs no key.

    Parameters
    ----------
    open
        Only what has not ended.
    unknown
        Only submits of which nobody can tell whether they were accepted, and paid for.
    ended
        Only what has ended.
    limit
        So many at most.
    """
    states: tuple[State, ...] = ()
    if open:
        states = _OPEN
    elif unknown:
        states = ("unknown",)
    elif ended:
        states = ("ended",)
    output = Output(json=options.json)
    found = await (_of_file if database_url(options) is None else _of_cluster)(options, states, limit)
    if found is None:
        output.say(f"There is no journal yet: {journal_path(options)}")
        return
    with output.table("ID", "STATE", "STATUS", "KIND", "BEGUN (UTC)", "KEY") as table:
        for each in sorted(found, key=lambda work: work.begun, reverse=True)[:limit]:
            began = f"{each.begun:%Y-%m-%d %H:%M:%S}"
            table.add(each, each.id or "-", each.state, each.status or "-", each.kind, began, each.key)


async def _of_file(options: Options, states: tuple[State, ...], limit: int) -> list[Work] | None:
    path = journal_path(options)
    if not await anyio.Path(path).exists():
        return None  # and none is made by looking
    async with _opened(SQLiteJournal(path)) as journal:
        return [_work(entry, entry.ref) for entry in await _newest(journal, states, limit)]


async def _of_cluster(options: Options, states: tuple[State, ...], limit: int) -> list[Work]:
    from higgsfield_async.cluster import PostgresJournal

    database = database_url(options)
    assert database is not None  # noqa: S101  # or it is no cluster
    async with client(options) as hf, _opened(PostgresJournal(database, space=options.account)) as journal:
        queued = [task async for task in hf.recover()] if states in ((), _OPEN) else []
        # A worker writes it into the journal as it begins with it: what is not there waits for one.
        begun = {entry.key for entry in await _newest(journal, _BEGUN, None)} if queued else set[str]()
        found = [_work(entry, _cluster_ref(entry)) for entry in await _newest(journal, states, limit)]
    waiting = [
        Work(state="waiting", key=task.id, id=None, ref=task.ref.short, kind=task.ref.kind, begun=task.ref.created_at)
        for task in queued
        if task.id not in begun
    ]
    return found + waiting


@contextlib.asynccontextmanager
async def _opened(journal: Journal) -> AsyncGenerator[Journal]:
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


async def _newest(journal: Journal, states: tuple[State, ...], limit: int | None) -> Iterable[Entry]:
    newest: deque[Entry] = deque(maxlen=limit)
    after = 0
    while page := await journal.entries(*states, after=after, limit=PAGE):
        after = page[-1].seq
        newest.extend(page)
    return newest


def _cluster_ref(entry: Entry) -> TaskRef:
    """What a cluster picks a generation up by: of it, the short form is of use alone."""
    intent = entry.intent
    return TaskRef(
        transport="cluster", origin="", account="", id=entry.key, kind=intent.kind, created_at=intent.created_at
    )


def _work(entry: Entry, ref: TaskRef | None) -> Work:
    job_set = entry.job_set
    return Work(
        state=entry.state,
        key=entry.key,
        ref=None if ref is None else ref.short,
        id=entry.id,
        kind=entry.intent.kind,
        begun=entry.intent.created_at,
        status=None if job_set is None else job_set.status.value,
        charged="unknown" if job_set is None else job_set.charged,
        reason=None if job_set is None else job_set.reason,
        files=() if job_set is None else tuple(each.path for each in job_set.outputs if each.path is not None),
    )


async def recover(
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    options: Options = Options(),
) -> int:
    """Pick up everything that was paid for and has not ended, wait for it, and save it.

    A submit whose answer was lost is sent again where that cannot pay twice. What is left is of the kind that nobody
    can tell of: it is listed, with what to do about it.

    Parameters
    ----------
    output
        The folder to save the files in; without it, nothing is saved.
    timeout
        So many seconds for each, at most; 20 minutes without it.
    """
    out = Output(json=options.json)
    codes = {Exit.DONE}
    async with client(options) as hf:
        found = [task async for task in hf.recover()]
        out.say(f"{len(found)} that had not ended." if found else "Nothing is open.")
        async with _ends(found, output, timeout) as ends:
            for end in ends:
                task, job_set, files, error = await end
                codes.add(_tell(out, task, job_set, files, error))
        for entry in await hf.unknown():
            codes.add(Exit.UNKNOWN)
            _tell_unknown(out, entry)
    return gravest(codes)


_End = tuple[GenerationTask, JobSet | None, list[Path], HiggsfieldError | None]


@contextlib.asynccontextmanager
async def _ends(
    found: list[GenerationTask], folder: Path | None, timeout: float | None
) -> AsyncGenerator[Iterable[Awaitable[_End]]]:
    """The ends of generations, as they come; none is waited for any more after it."""

    async def end(task: GenerationTask) -> _End:
        job_set: JobSet | None = None
        files: list[Path] = []
        try:
            job_set = await task.wait(timeout, check=False)
            if folder is not None and job_set.status is JobStatus.COMPLETED:
                files = await task.save(folder)
        except HiggsfieldError as error:
            return task, job_set, files, error
        return task, job_set, files, failure(job_set, task.ref)

    waits = [asyncio.create_task(end(task)) for task in found]
    try:
        yield asyncio.as_completed(waits)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _tell(
    out: Output, task: GenerationTask, job_set: JobSet | None, files: list[Path], error: HiggsfieldError | None
) -> Exit:
    out.thing(_seen(task, job_set, files), task.id, task.status.value, *map(str, files))
    if error is None:
        return Exit.DONE
    out.error(str(error), hint_of(error))
    return exit_of(error)


def _seen(task: GenerationTask, job_set: JobSet | None, files: Iterable[Path] = ()) -> Work:
    return Work(
        state="ended" if task.status.terminal else "submitted",
        key=task.key or "",
        ref=task.ref.short,
        id=task.id,
        kind=task.ref.kind,
        begun=task.ref.created_at,
        status=task.status.value,
        charged="unknown" if job_set is None else job_set.charged,
        reason=None if job_set is None else job_set.reason,
        files=tuple(files),
    )


def _tell_unknown(out: Output, entry: Entry) -> None:
    out.thing(_work(entry, None), "-", "unknown", entry.key)
    key = shlex.quote(entry.key)
    out.say(
        f"Whether {entry.key} ({entry.intent.kind}) was accepted, nobody can tell. Look at the account's history at "
        f"{entry.intent.created_at:%Y-%m-%d %H:%M} UTC. If it is there: higgsfield-async resolve {key} ID. If it is "
        f"not: higgsfield-async forget {key}."
    )


async def resolve(key: str, id: str, /, *, options: Options = Options()) -> None:  # noqa: A002  # its name in the help
    """Say which generation a submit became whose answer was lost: it is a generation like any other then.

    The service is asked for it first: an id that it does not know is refused.

    Parameters
    ----------
    key
        The key in the journal, as `higgsfield-async tasks --unknown` shows it.
    id
        The service's id of the generation, from the account's history.
    """
    out = Output(json=options.json)
    async with client(options) as hf:
        task = await hf.resolve(key, id)
        out.thing(_seen(task, task.job_set), task.ref.short)


def forget(
    key: str,
    /,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], show_default=False)] = False,
    options: Options = Options(),
) -> int | Coroutine[Any, Any, int]:
    """Take a unit of work out of the journal: the same key is submitted anew then, and paid for anew.

    Parameters
    ----------
    key
        The key in the journal, as `higgsfield-async tasks` shows it.
    yes
        Do not ask.
    """
    # Before there is a loop: Ctrl-C ends the question.
    if not yes:
        if not sys.stdin.isatty():
            Output(json=options.json).error("Nobody is there to be asked.", "--yes forgets it without asking.")
            return Exit.WRONG
        sys.stderr.write(f"Forget {plain(key)}? If it was accepted, the same key is paid for once more. [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            Output(json=options.json).say("Nothing was changed.")
            return Exit.FAILED
    return _forget(key, options)


async def _forget(key: str, options: Options) -> int:
    async with client(options) as hf:
        entry = await hf.forget(key)
    Output(json=options.json).thing(_work(entry, entry.ref), entry.key)
    return Exit.DONE
