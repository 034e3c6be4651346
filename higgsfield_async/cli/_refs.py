"""The commands that pick up what was submitted: by its ref."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec.structs import replace

from higgsfield_async._client import Higgsfield
from higgsfield_async._domain import JobSet
from higgsfield_async._errors import ConfigurationError, HiggsfieldError
from higgsfield_async._task import GenerationTask, failure
from higgsfield_async.cli._exits import Exit, exit_of, gravest
from higgsfield_async.cli._making import Event, event_of, goes_on, in_words, tell
from higgsfield_async.cli._options import Options, client, database_url
from higgsfield_async.cli._output import Output
from higgsfield_async.cli._progress import Progress

_Refs = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
_Timeout = Annotated[float | None, Parameter(validator=Number(gte=0))]
_Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], show_default=False)]


async def wait(
    first: str,
    /,
    *others: str,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    timeout: _Timeout = None,
    quiet: _Quiet = False,
    options: Options = Options(),
) -> int:
    """Wait for generations, by the refs that were printed when they were submitted.

    Parameters
    ----------
    first
        A ref, or an id as `higgsfield-async tasks` shows it.
    others
        More of them.
    output
        The folder to save their files in; without it, nothing is saved.
    timeout
        So many seconds, at most; 20 minutes without it. They go on after that.
    quiet
        Show no progress.
    """
    return await _follow((first, *others), output, timeout, quiet=quiet, options=options)


async def save(
    first: str,
    /,
    *others: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path(),
    timeout: _Timeout = None,
    quiet: _Quiet = False,
    options: Options = Options(),
) -> int:
    """Save the files of generations, by their refs; one that has not ended is waited for.

    Parameters
    ----------
    first
        A ref, or an id as `higgsfield-async tasks` shows it.
    others
        More of them.
    output
        The folder to save them in.
    timeout
        So many seconds to wait, at most; 20 minutes without it.
    quiet
        Show no progress.
    """
    return await _follow((first, *others), output, timeout, quiet=quiet, options=options)


async def cancel(first: str, /, *others: str, options: Options = Options()) -> int:
    """Cancel generations, by their refs: on the platform, and only while they are queued. They cost nothing then.

    Parameters
    ----------
    first
        A ref, or an id as `higgsfield-async tasks` shows it.
    others
        More of them.
    """
    out = Output(json=options.json)
    codes: set[Exit] = set()
    async with client(options) as hf:
        for task in await _tasks(hf, options, (first, *others)):
            error: HiggsfieldError | None = None
            try:
                await task.cancel()
            except HiggsfieldError as met:
                error = met
                out.error(str(error))
                codes.add(exit_of(error))
            tell(out, event_of(task.ref, task.job_set, error, key=task.key), *([] if error else [task.id]))
    return gravest(codes)


async def _tasks(hf: Higgsfield, options: Options, refs: tuple[str, ...]) -> list[GenerationTask]:
    # All of them first: of one that is none, nothing was done yet to the others. One that is named twice is one.
    found = [await _task(hf, options, ref) for ref in refs]
    return list({task.ref.short: task for task in found}.values())


async def _task(hf: Higgsfield, options: Options, text: str) -> GenerationTask:
    try:
        return hf.task(text)
    except ConfigurationError:
        if hf.journal is None or database_url(options) is not None:
            raise
        # `tasks` shows ids, which are shorter.
        entry = await hf.journal.find_id(text)
        if entry is None or entry.ref is None:
            raise
        return hf.task(entry.ref)


async def _follow(
    refs: tuple[str, ...], folder: Path | None, seconds: float | None, *, quiet: bool, options: Options
) -> int:
    out = Output(json=options.json)
    codes: set[Exit] = set()
    hf = client(options)
    progress = Progress(out, quiet=quiet, total=None, spent=hf.spent)
    try:
        async with hf:
            tasks = await _tasks(hf, options, refs)
            progress.total = len(tasks)
            followers = [asyncio.create_task(_end(task, folder, seconds, progress)) for task in tasks]
            try:
                async with progress.shown():
                    for follower in asyncio.as_completed(followers):
                        event, error = await follower
                        tell(out, event, *map(str, event.files or [event.id]))
                        if error is not None:
                            codes.add(exit_of(error))
            finally:
                for each in followers:
                    each.cancel()
                await asyncio.wait(followers)
    except asyncio.CancelledError:
        goes_on(out, hf)
        raise
    return gravest(codes)


async def _end(
    task: GenerationTask, folder: Path | None, seconds: float | None, progress: Progress
) -> tuple[Event, HiggsfieldError | None]:
    name = f"{task.ref.kind} {task.id}"
    job_set: JobSet | None = None
    error: HiggsfieldError | None = None
    files: list[Path] = []
    try:
        async for job_set in task.updates(seconds):
            if not job_set.status.terminal:
                progress.goes_on(name, task.id, job_set.status)
        assert job_set is not None  # noqa: S101  # its end is the last that is seen
        error = failure(job_set, task.ref)
        if folder is not None and error is None:
            files = await task.save(folder)
    except HiggsfieldError as met:
        error = met
    event = replace(event_of(task.ref, job_set, error, key=task.key), files=tuple(files))
    progress.over(name, ok=error is None, words=in_words(event))
    return event, error
